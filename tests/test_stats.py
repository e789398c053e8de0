import math

import numpy as np
import pytest
from scipy.stats import binomtest

from lab.errors import ParameterError
from lab.stats import proportion_interval, proportion_needed, ratio_intervals


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
