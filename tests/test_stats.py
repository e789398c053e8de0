import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, lognorm, mannwhitneyu
from sklearn.metrics import roc_auc_score

from lab.errors import ParameterError, ShapeError
from lab.stats import (
    block_ratio,
    noise_floor,
    proportion_interval,
    proportion_needed,
    quantile_interval,
    quantile_needed,
    rare_interval,
    rare_needed,
    ratio_intervals,
    share_below,
)


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 500), (3, 10), (499, 500), (50, 10**6)]
)
def test_the_interval_is_wilsons_as_scipy_computes_it(hits, n):
    expected = binomtest(hits, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert proportion_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_samples_give_no_interval():
    assert all(math.isnan(end) for end in proportion_interval(0, 0))


@pytest.mark.parametrize(("hits", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(hits, n):
    with pytest.raises(ParameterError, match="between 0 and n"):
        proportion_interval(hits, n)


@pytest.mark.parametrize(
    ("rate", "bound"), [(0.0, 0.02), (0.01, 0.02), (0.03, 0.02), (0.999, 0.95)]
)
def test_the_needed_number_is_where_the_interval_leaves_the_bound(rate, bound):
    needed = proportion_needed(rate, bound)

    def holds_bound(n):
        low, high = proportion_interval(round(rate * n), n)
        return low <= bound <= high

    assert holds_bound(max(1, int(needed * 0.9)))
    assert not holds_bound(math.ceil(needed * 1.15) + 1)


def test_no_number_settles_a_rate_on_its_bound():
    assert proportion_needed(0.02, 0.02) is None
    assert proportion_needed(math.nan, 0.02) is None


def test_looking_at_all_leaves_nothing_to_infer():
    assert proportion_interval(3, 100, population=100) == (0.03, 0.03)
    assert proportion_interval(0, 100, population=100) == (0.0, 0.0)


def test_a_large_population_is_as_good_as_endless():
    assert proportion_interval(3, 100, population=10**9) == pytest.approx(
        proportion_interval(3, 100), abs=1e-6
    )


def test_a_population_smaller_than_the_sample_is_refused():
    with pytest.raises(ParameterError, match="population must hold"):
        proportion_interval(1, 10, population=9)


@pytest.mark.parametrize(("share", "sample"), [(0.02, 150), (0.1, 60), (0.5, 20)])
def test_the_interval_holds_the_populations_rate_95_times_in_100(share, sample):
    rng = np.random.default_rng(1)
    population, repeats = 300, 2000
    marked = round(share * population)
    hits = rng.hypergeometric(marked, population - marked, sample, size=repeats)
    inside = 0
    for count in hits.tolist():
        low, high = proportion_interval(count, sample, population=population)
        inside += low - 1e-12 <= marked / population <= high + 1e-12
    assert inside / repeats >= 0.92


def test_what_is_needed_of_a_population_never_exceeds_it():
    assert proportion_needed(0.0, 0.001, population=500) <= 500
    assert proportion_needed(0.02, 0.02, population=500) == 500
    needed = proportion_needed(0.0, 0.02, population=400)
    assert proportion_interval(0, needed, population=400)[1] <= 0.02
    assert proportion_interval(0, needed - 2, population=400)[1] > 0.02


def test_the_interval_holds_its_value_and_stays_within_what_is_possible():
    rng = np.random.default_rng(0)
    for round_ in range(200):
        n = int(rng.integers(2, 30))
        lengths = rng.integers(1, rng.choice([2, 40, 1000]), n).astype(float)
        edits = np.round(rng.beta(0.3, 1, n) * lengths) * (rng.random(n) < rng.random())
        signs = rng.choice([-1, 1], n) if round_ % 2 else 1
        tops, bottoms = (edits * signs)[:, None], lengths[:, None]
        lowest = -1.0 if round_ % 2 else 0.0
        groups = [str(code) for code in range(n)]
        ((low, high),) = ratio_intervals(
            tops, bottoms, groups, lowest=lowest, seed=round_, resamples=200
        )
        value = tops.sum() / bottoms.sum()
        assert lowest - 1e-9 <= low <= value + 1e-9
        assert value - 1e-9 <= high <= 1 + 1e-9


def draw_scores(rng, n):
    """Half perfect, half anything: mean 0.8."""
    return np.where(rng.random(n) < 0.5, 1.0, rng.beta(3, 2, n)), np.ones(n)


def draw_edits(rng, n):
    """Recordings of which three in ten have errors, a fifth of the characters: rate 0.06."""
    lengths = np.full(n, 20.0)
    return np.where(rng.random(n) < 0.3, rng.binomial(20, 0.2, n), 0).astype(float), lengths


def draw_differences(rng, n):
    """Pairs that mostly agree: mean -0.04."""
    return rng.choice([-1.0, 0.0, 1.0], size=n, p=[0.12, 0.8, 0.08]), np.ones(n)


@pytest.mark.parametrize(
    ("draw", "true", "lowest"),
    [(draw_scores, 0.8, 0.0), (draw_edits, 0.06, 0.0), (draw_differences, -0.04, -1.0)],
)
@pytest.mark.parametrize("n", [80, 300])
def test_the_interval_covers_the_truth_95_times_in_100(draw, true, lowest, n):
    rng = np.random.default_rng(7)
    groups, repeats, inside = [str(code) for code in range(n)], 600, 0
    for seed in range(repeats):
        tops, bottoms = draw(rng, n)
        ((low, high),) = ratio_intervals(
            tops[:, None], bottoms[:, None], groups, lowest=lowest, seed=seed, resamples=400
        )
        inside += low <= true <= high
    assert 0.92 <= inside / repeats <= 0.975


@pytest.mark.parametrize("n", [2, 3, 5, 10, 20])
@pytest.mark.parametrize(("draw", "true"), [(draw_scores, 0.8), (draw_edits, 0.06)])
def test_few_groups_make_the_interval_wide_rather_than_wrong(draw, true, n):
    rng = np.random.default_rng(7)
    groups, inside = [str(code) for code in range(n)], 0
    for seed in range(300):
        tops, bottoms = draw(rng, n)
        ((low, high),) = ratio_intervals(
            tops[:, None], bottoms[:, None], groups, lowest=0.0, seed=seed, resamples=200
        )
        inside += low <= true <= high
    assert inside / 300 >= 0.92


# --- rare events ----------------------------------------------------------------------------------


def test_2995_requests_without_an_error_show_a_rate_below_a_thousandth():
    assert rare_needed(0.001) == 2995
    assert rare_interval(0, 2995).high < 0.001 < rare_interval(0, 2994).high


@pytest.mark.parametrize(("events", "n"), [(1, 10), (3, 1000), (10, 10), (499, 500)])
def test_the_interval_of_a_rare_event_is_the_exact_one_of_scipy(events, n):
    expected = binomtest(events, n).proportion_ci(confidence_level=0.95, method="exact")
    found = rare_interval(events, n)
    assert found == pytest.approx((events / n, expected.low, expected.high), abs=1e-12)


def test_nothing_tried_tells_nothing_of_a_rate():
    assert all(map(math.isnan, rare_interval(0, 0)))


@pytest.mark.parametrize(("events", "n"), [(-1, 5), (6, 5)])
def test_impossible_events_are_refused(events, n):
    with pytest.raises(ParameterError, match="between 0 and n"):
        rare_interval(events, n)


@pytest.mark.parametrize("bound", [0.0, 1.0, math.nan])
def test_a_bound_that_is_no_rate_is_refused(bound):
    with pytest.raises(ParameterError, match="between 0 and 1"):
        rare_needed(bound)


# --- quantiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "needed"), [(0.5, 5), (0.6, 6), (0.75, 11), (0.9, 29), (0.95, 59), (0.99, 299)]
)
def test_tails_need_samples(share, needed):
    assert quantile_needed(share) == needed
    values = np.arange(1.0, needed + 1)
    assert quantile_interval(values, share).high == needed
    assert quantile_interval(values[:-1], share).high == math.inf


def test_a_quantile_by_hand():
    # Of 6 values the median lies between the least and the greatest unless all fall on one side:
    # 2 / 64, so that 0.969 is held, and with one rank less only 0.875.
    assert quantile_interval([6, 3, 5, 1, 4, 2], 0.5) == (3, 1, 6)
    assert quantile_interval([7.0], 0.5) == (7, -math.inf, math.inf)
    # The other way round as for a large share: the lower end is what few values cannot bear.
    low, high = (quantile_interval(np.arange(1, 21), share)[1:] for share in (0.1, 0.9))
    assert low == (-math.inf, 21 - high[0])


@pytest.mark.parametrize(("share", "n"), [(0.5, 101), (0.9, 40), (0.95, 1000), (0.1, 80)])
def test_the_ends_hold_the_quantile_and_no_closer_pair_does(share, n):
    value, low, high = quantile_interval(np.arange(1, n + 1), share)
    assert value == np.quantile(np.arange(1, n + 1), share, method="inverted_cdf")

    def held(lower, upper):
        return binom.cdf(upper - 1, n, share) - binom.cdf(lower - 1, n, share)

    assert held(low, high) >= 0.95
    closer = int(high - low) - 1
    assert all(held(lower, lower + closer) < 0.95 for lower in range(1, n - closer + 1))


def test_requests_that_never_came_back_are_the_slowest():
    values = [0.1] * 95 + [math.inf] * 5
    assert quantile_interval(values, 0.5) == (0.1, 0.1, 0.1)
    assert quantile_interval(values, 0.99).value == math.inf
    assert quantile_interval(values, 0.95) == (0.1, 0.1, math.inf)


@pytest.mark.parametrize(("share", "n"), [(0.5, 12), (0.9, 40), (0.95, 100), (0.99, 400)])
def test_the_interval_of_a_quantile_covers_skewed_latencies(share, n):
    rng, true = np.random.default_rng(3), lognorm.ppf(share, 0.7)
    found = [quantile_interval(rng.lognormal(0, 0.7, n), share) for _ in range(600)]
    covered = np.mean([one.low <= true <= one.high for one in found])
    # Ranks are whole numbers: few values hold the quantile more often than they need to.
    assert 0.92 <= covered <= (0.975 if n > 12 else 0.99)


@pytest.mark.parametrize("values", [[], [1.0, math.nan]])
def test_no_value_and_nan_have_no_quantile(values):
    with pytest.raises(ParameterError, match="not NaN"):
        quantile_interval(values, 0.5)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, math.nan])
def test_a_share_that_is_no_quantile_is_refused(share):
    with pytest.raises(ParameterError, match="share must be"):
        quantile_interval([1.0, 2.0], share)
    with pytest.raises(ParameterError, match="share must be"):
        quantile_needed(share)


# --- blocks ---------------------------------------------------------------------------------------


def skewed_blocks(rng, blocks, gain=1.0):
    """Two configurations' median latencies, the machine being faster in some blocks than others."""
    machine = rng.lognormal(0, 0.3, blocks)
    noise = rng.lognormal(0, 0.05, (2, blocks)) * (1 + 0.1 * rng.exponential(1, (2, blocks)))
    return machine * noise[0], machine * noise[1] * gain


def test_a_ratio_by_hand():
    ratio = block_ratio([1.0, 1.0, 4.0], [2.0, 2.0, 8.0], seed=0)
    assert ratio == pytest.approx((2, 2, 2))
    assert block_ratio([1.0, 1.0], [1.0, 4.0], seed=0).value == pytest.approx(2)


def test_swapping_the_two_turns_the_ratio_around():
    first, second = skewed_blocks(np.random.default_rng(0), 10)
    there, back = block_ratio(first, second, seed=4), block_ratio(second, first, seed=4)
    assert there == pytest.approx((1 / back.value, 1 / back.high, 1 / back.low))


@pytest.mark.parametrize("blocks", [3, 10, 20])
def test_the_interval_of_a_ratio_covers_the_truth(blocks):
    rng = np.random.default_rng(11)
    inside = 0
    for seed in range(800):
        first, second = skewed_blocks(rng, blocks, gain=0.8)
        ratio = block_ratio(first, second, seed=seed, resamples=800)
        inside += ratio.low <= 0.8 <= ratio.high
    assert 0.92 <= inside / 800 <= 0.975


def test_a_single_block_tells_a_value_and_no_interval():
    assert block_ratio([2.0], [1.0], seed=0) == (0.5, 0.0, math.inf)
    assert noise_floor([2.0], [1.0], seed=0) == math.inf


def test_the_floor_is_the_farthest_that_equals_may_lie_apart():
    first, again = skewed_blocks(np.random.default_rng(2), 12)
    ratio = block_ratio(first, again, seed=5)
    floor = noise_floor(first, again, seed=5)
    assert floor == pytest.approx(max(ratio.high, 1 / ratio.low) - 1)
    assert floor == pytest.approx(noise_floor(again, first, seed=5))
    assert noise_floor(first, first, seed=5) == 0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_latency_is_refused(bad):
    with pytest.raises(ParameterError, match="finite and above 0"):
        block_ratio([1.0, bad], [1.0, 1.0], seed=0)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])])
def test_blocks_must_be_paired(first, second):
    with pytest.raises(ShapeError, match="a value for each block"):
        block_ratio(first, second, seed=0)


def test_shares_below_by_hand():
    assert share_below([0, 1, 2, 3], [1, 2]).tolist() == [0, 0.25, 0.75, 1]
    assert share_below([-math.inf, 5, math.inf], [5, math.inf]).tolist() == [0, 0.25, 0.75]
    assert share_below([], [1]).tolist() == []


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_share_below_is_that_of_mann_and_whitney(ties):
    rng = np.random.default_rng(1)
    close, apart = rng.normal(1, 1, 50), rng.normal(0, 1, 70)
    if ties:
        close, apart = close.round(), apart.round()
    found = share_below(close, apart).mean()
    statistic = mannwhitneyu(close, apart).statistic
    assert found == pytest.approx(statistic / (len(close) * len(apart)))
    assert found == pytest.approx(roc_auc_score([1] * 50 + [0] * 70, [*close, *apart]))
    assert found + share_below(apart, close).mean() == pytest.approx(1)


def test_others_stay_as_they_are():
    others = np.array([3.0, 1.0, 2.0])
    share_below([2.0], others)
    assert others.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("values", "others"), [([1], []), ([1], [math.nan, 0]), ([math.nan], [0]), ([], [])]
)
def test_shares_need_values_that_are_numbers(values, others):
    with pytest.raises(ParameterError, match="shares need values that are not NaN"):
        share_below(values, others)
