"""Tests of lab.consistency: similarities made by hand, and intervals held against a population."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lab import consistency
from lab.consistency import Sample, agree, change, detect, separation
from lab.errors import ParameterError, ShapeError
from lab.slo import Limit

LIMIT = Limit.parse("> 0.9")
FALLS = Limit.parse(">= -0.02")


def sample(matched, other=(0.0, 0.2), near=(), ideal=(1.0,), *, size=1, **more):
    """A sample of groups of some size, in order."""
    n = len(matched)
    return Sample(
        pair="joint",
        language="en",
        items=tuple(f"joint:{at}" for at in range(n)),
        groups=tuple(f"g{at // size}" for at in range(n)),
        matched=matched,
        other=other,
        near=near,
        ideal=ideal,
        **more,
    )


# --- scores ---------------------------------------------------------------------------------------


def test_scores_are_the_shares_that_are_less_alike():
    found = agree(sample([0.9, 0.5, 0.1], [0.1, 0.3], [0.5, 0.8]), limit=LIMIT, seed=0)
    # Of other subjects below: 1, 1, 0.25 (a tie counts half); of near misses: 1, 0.25, 0.
    assert found.scores.tolist() == [1, 0.625, 0.125]
    assert found.score.value == pytest.approx(1.75 / 3)
    assert found.subject == pytest.approx(2.25 / 3)
    assert found.detail == pytest.approx(1.25 / 3)
    assert found.cosine.value == pytest.approx(0.5)
    assert found.pseudovalues.mean() == pytest.approx(found.score.value)


@pytest.mark.parametrize("decimals", [9, 1])
def test_subject_and_detail_are_areas_under_curves(decimals):
    rng = np.random.default_rng(0)
    m, o, k = (rng.normal(mean, 0.2, n).round(decimals) for mean, n in ((0.6, 40), (0, 99), (1, 9)))
    found = agree(sample(m, o, k), limit=LIMIT, seed=0)
    for value, others in ((found.subject, o), (found.detail, k)):
        labels = [1] * len(m) + [0] * len(others)
        assert value == pytest.approx(roc_auc_score(labels, [*m, *others]), abs=1e-5)


def test_scores_have_the_marks_of_the_rule():
    rng = np.random.default_rng(1)
    other, near = rng.normal(0.1, 0.05, 2000), rng.normal(0.7, 0.05, 2000)
    for matched, mark in ((np.full(9, 1.0), 1), (near[:1000], 0.75), (other[:1000], 0.25)):
        found = agree(sample(matched, other, near), limit=LIMIT, seed=0)
        assert found.score.value == pytest.approx(mark, abs=0.02)


def test_a_difference_beyond_what_vectors_can_hold_is_a_tie():
    ones = sample([1.0], [1 - 1e-9, 0.0])
    assert agree(ones, limit=LIMIT, seed=0).scores.tolist() == [0.75]


def test_no_near_misses_leave_the_score_to_subjects():
    found = agree(sample([0.5, 0.1], [0.2]), limit=LIMIT, seed=0)
    assert found.scores.tolist() == [1, 0]
    assert math.isnan(found.detail)
    assert not found.sample.sees_details


def test_a_yardstick_without_an_eye_for_details_scores_subjects_alone():
    blind = sample([0.9, 0.9], [0.0], [0.95, 0.97], ideal=[0.9, 0.96])
    assert (blind.sees_subjects, blind.sees_details) == (True, False)
    found = agree(blind, limit=LIMIT, seed=0)
    assert found.scores.tolist() == [1, 1]
    assert found.detail == 0  # told all the same


def test_a_yardstick_that_cannot_tell_gives_no_verdict():
    rng = np.random.default_rng(2)
    other, ideal = rng.normal(size=500), rng.normal(size=50)
    for matched in (np.full(60, 9.0), np.full(60, -9.0)):
        found = agree(sample(matched, other, ideal=ideal), limit=LIMIT, seed=0)
        assert not found.sample.sees_subjects
        assert (found.verdict, found.needed) == ("insufficient", None)


def test_where_nothing_is_known_to_agree_the_yardstick_is_trusted():
    assert sample([0.5], ideal=[]).sees_subjects
    assert sample([0.5], near=[0.1], ideal=[]).sees_details


# --- boundaries -----------------------------------------------------------------------------------


def test_one_item_has_no_interval_and_no_verdict():
    found = agree(sample([0.9]), limit=LIMIT, seed=0)
    assert found.score == (1.0, -math.inf, math.inf)
    assert (found.verdict, found.needed) == ("insufficient", None)


def test_one_group_neither():
    found = agree(sample([0.9, 0.8, 0.7], size=3), limit=LIMIT, seed=0)
    assert found.verdict == "insufficient"


def test_no_item_is_refused():
    with pytest.raises(ParameterError, match=r"about an item, got 0 \(joint\)"):
        agree(sample([]), limit=LIMIT, seed=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["matched", "other", "near", "ideal"])
def test_what_is_not_finite_is_refused(name, bad):
    given = {"matched": [0.5], "other": [0.1]} | {name: [bad]}
    with pytest.raises(ParameterError, match=r"similarity must be finite.*\(joint en\)"):
        sample(**given)


def test_something_must_be_compared_with():
    with pytest.raises(ParameterError, match="pairs about other subjects"):
        sample([0.5], other=[])


def test_each_item_has_a_group():
    with pytest.raises(ShapeError, match="got '2 items, 2, 3'"):
        replace(sample([0.5, 0.6]), matched=[1, 2, 3])


@pytest.mark.parametrize("places", [[[0], [0], [0]], [0, 0]])
def test_each_pair_of_a_pool_has_its_places(places):
    with pytest.raises(ShapeError, match="each pair of a pool must have its places, got '2, and"):
        sample([0.5], other_of=np.array(places))


# --- intervals ------------------------------------------------------------------------------------


def test_all_alike_is_no_certainty():
    found = agree(sample(np.ones(60)), limit=LIMIT, seed=0)
    assert found.score.value == found.score.high == 1
    assert 0.9 < found.score.low < 0.95
    assert found.verdict == "pass"
    few = agree(sample(np.ones(12)), limit=LIMIT, seed=0)
    assert (few.verdict, few.score.low < 0.9) == ("insufficient", True)
    assert 12 < few.needed < 100


def test_disagreement_fails_however_few_there_are():
    found = agree(sample(np.zeros(12), [0.5, 0.6]), limit=LIMIT, seed=0)
    assert (found.score.value, found.score.low) == (0, 0)
    assert found.verdict == "fail"


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(3)
    one = sample(rng.normal(0.8, 0.1, 30), rng.normal(0.6, 0.2, 99), size=3)
    assert agree(one, limit=LIMIT, seed=1).score == agree(one, limit=LIMIT, seed=1).score
    assert agree(one, limit=LIMIT, seed=1).score != agree(one, limit=LIMIT, seed=2).score


def test_the_interval_stays_within_the_possible_and_holds_its_value():
    rng = np.random.default_rng(4)
    for mean in (-1, 0.2, 0.5, 0.9, 2):
        one = sample(rng.normal(mean, 0.2, 9), rng.normal(0.5, 0.3, 40), rng.normal(0.7, 0.1, 9))
        value, low, high = agree(one, limit=LIMIT, seed=0).score
        assert 0 <= low <= value <= high <= 1


def test_groups_that_make_the_pools_move_the_pseudovalues():
    # The second group alone brought the pair of others that is closer than most items.
    others = {"other": [0.0, 0.9], "other_of": np.array([[0], [2]])}
    found = agree(sample([0.5, 0.6, 0.7, 1.0], size=2, **others), limit=LIMIT, seed=0)
    assert found.scores.tolist() == [0.5, 0.5, 0.5, 1]
    assert found.pseudovalues == pytest.approx([0.875, 0.875, 0.125, 0.625])


def population(rng, groups, size, mean):
    """Similarities of items that stand or fall together: half the variance is their group's."""
    together = np.repeat(rng.normal(0, 0.05, groups), size)
    return mean + together + rng.normal(0, 0.05, groups * size)


@pytest.mark.parametrize("mean", [0.6, 0.8, 0.97])
def test_intervals_hold_the_truth_in_95_of_100_studies(mean):
    """Everything is drawn anew in each study: items, other subjects and near misses."""
    every = population(np.random.default_rng(99), 300_000, 1, mean)
    truth = (norm.cdf((every - 0.2) / 0.15) + norm.cdf((every - 0.7) / 0.1)).mean() / 2
    held, studies = 0, 500
    for seed in range(studies):
        rng = np.random.default_rng([7, seed])
        matched = population(rng, 30, 3, mean)
        pools = (rng.normal(0.2, 0.15, 500), rng.normal(0.7, 0.1, 200))
        found = agree(sample(matched, *pools, size=3), limit=LIMIT, seed=seed)
        held += found.score.low <= truth <= found.score.high
    assert 0.92 <= held / studies <= 0.975


def texts(rng, groups):
    """Vectors of groups of 3: what is wanted, what is said, and near misses of the former."""
    of = np.repeat(np.arange(groups), 3)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def noise(*shape):
        return rng.normal(size=(*shape, 24))

    subject = 0.8 * noise(groups) + 2 * np.eye(24)[0]
    right = unit(subject[of] + 0.5 * noise(len(of)))
    errors = 0.06 * np.exp(0.5 * rng.normal(size=groups))[of]
    left = unit(right + errors[:, None] * noise(len(of)))
    changes = 0.1 * np.exp(0.6 * rng.normal(size=(len(of), 1)))
    return of, left, right, (unit(right + changes * noise(len(of))) * right).sum(1)


def test_pools_of_the_items_themselves_are_no_larger_than_the_sample():
    """As lab.pairings makes them: 30 groups give 7,830 pairs of others, but are 30 groups."""
    of, left, right, near = texts(np.random.default_rng(99), 2000)
    ordered, shift = np.sort((left * right).sum(1)), 3000
    pools = (left * np.roll(right, shift, axis=0)).sum(1), near
    truth = np.mean([1 - np.searchsorted(ordered, pool).mean() / len(of) for pool in pools])
    held, studies = 0, 400
    for seed in range(studies):
        of, left, right, near = texts(np.random.default_rng([8, seed]), 30)
        apart = of[:, None] != of
        found = agree(
            sample(
                (left * right).sum(1),
                (left @ right.T)[apart],
                near,
                size=3,
                other_of=np.argwhere(apart),
                near_of=np.arange(len(near))[:, None],
            ),
            limit=LIMIT,
            seed=seed,
        )
        held += found.score.low <= truth <= found.score.high
    assert 0.92 <= held / studies <= 0.985


# --- changes --------------------------------------------------------------------------------------


def test_a_change_is_paired_item_by_item():
    rng = np.random.default_rng(5)
    before = sample(rng.normal(0.8, 0.1, 60), rng.normal(0.6, 0.2, 300))
    same, verdict = change(*[agree(before, limit=LIMIT, seed=0)] * 2, limit=FALLS, seed=0)
    assert same.value == 0
    assert verdict == "insufficient"  # sixty that are equal do not exclude that a few would fall
    many = sample(np.ones(600))
    one = agree(many, limit=LIMIT, seed=0)
    assert change(one, one, limit=FALLS, seed=0)[1] == "pass"
    worse = replace(before, matched=before.matched - 0.3)
    fell, verdict = change(
        agree(before, limit=LIMIT, seed=0), agree(worse, limit=LIMIT, seed=0), limit=FALLS, seed=0
    )
    assert fell.low < fell.value < fell.high < -0.2
    assert verdict == "fail"


def test_a_gain_that_is_one_of_the_scale_is_none():
    pool = {"near": [0.7, 0.9] * 450}
    fine = agree(sample(np.full(900, 0.8), **pool), limit=LIMIT, seed=0)
    coarse = agree(sample(np.full(900, 0.8), **pool, ideal=[0.8]), limit=LIMIT, seed=0)
    assert (fine.sample.sees_details, coarse.sample.sees_details) == (True, False)
    gained, verdict = change(fine, coarse, limit=FALLS, seed=0)
    assert (gained.value, verdict) == (0.25, "insufficient")
    assert change(coarse, fine, limit=FALLS, seed=0)[1] == "fail"


def test_a_change_is_about_the_same_items():
    one, two = (agree(sample(np.ones(n)), limit=LIMIT, seed=0) for n in (2, 3))
    with pytest.raises(ShapeError, match="about the same, got '2 and 3 items'"):
        change(one, two, limit=FALLS, seed=0)


# --- separation -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "apart", "far"),
    [
        ([1, 3], [0, 0], 2 / math.sqrt(0.5)),
        ([0, 2], [2, 4], -2),
        ([1, 1], [1, 1], 0),
        ([1, 1], [0, 0], math.inf),
        ([0], [1], -math.inf),
    ],
)
def test_separation_by_hand(close, apart, far):
    assert separation(close, apart) == pytest.approx(far)


# --- plants ---------------------------------------------------------------------------------------


def test_detection_is_the_area_under_the_curve():
    rng = np.random.default_rng(6)
    one = sample(rng.normal(0.8, 0.1, 60), size=3)
    planted = dict(zip(one.items[::2], rng.normal(0.6, 0.1, 30).round(6), strict=True))
    found = detect(one, planted, kind="swapped", seed=0)
    labels = [1] * 60 + [0] * 30
    expected = roc_auc_score(labels, [*one.matched, *planted.values()])
    assert found.auc.value == pytest.approx(expected)
    assert found.auc.low < expected < found.auc.high
    assert (found.n, found.pair, found.language, found.planted) == (30, "joint", "en", "swapped")
    assert detect(one, planted, kind="swapped", seed=0) == found


def test_what_is_caught_lies_below_the_lowest_twentieth():
    one = sample(np.linspace(0.5, 0.99, 100))  # the bar is 0.52 or a little more
    planted = {"joint:0": 0.1, "joint:1": 0.51, "joint:2": 0.9, "joint:3": 0.95}
    assert detect(one, planted, kind="one word", seed=0).caught == 0.5


def test_plants_that_are_as_alike_are_guessed():
    one = sample(np.full(30, 0.9))
    found = detect(one, dict.fromkeys(one.items, 0.9), kind="contrary", seed=0)
    assert (found.auc.value, found.caught) == (0.5, 0)
    assert 0.4 < found.auc.low < 0.5 < found.auc.high < 0.6


def test_a_plant_that_differs_beyond_what_vectors_can_hold_is_a_tie():
    one = sample([0.9, 0.8])
    found = detect(one, {"joint:1": 0.8 - 1e-9}, kind="swapped", seed=0)
    assert found.auc.value == 0.75


def test_intervals_of_detection_hold_the_truth_in_95_of_100_studies():
    _, left, right, near = texts(np.random.default_rng(99), 2000)
    truth = np.searchsorted(np.sort(near), (left * right).sum(1)).mean() / len(near)
    held, studies = 0, 400
    for seed in range(studies):
        _, left, right, near = texts(np.random.default_rng([8, seed]), 30)
        one = sample((left * right).sum(1), size=3)
        planted = dict(zip(one.items, near, strict=True))
        found = detect(one, planted, kind="one word", seed=seed)
        held += found.auc.low <= truth <= found.auc.high
    assert 0.92 <= held / studies <= 0.985


def test_one_group_has_no_interval():
    found = detect(sample([0.9, 0.8], size=2), {"joint:1": 0.1}, kind="swapped", seed=0)
    assert found.auc == (1, -math.inf, math.inf)


def test_one_plant_that_is_seen_is_no_certainty():
    one = sample([0.9, 0.8, 0.7])
    found = detect(one, {"joint:1": 0.1}, kind="swapped", seed=0)
    assert (found.auc.value, found.auc.high, found.n) == (1, 1, 1)
    assert found.auc.low < 0.5


def test_nothing_planted_is_nothing_found():
    assert detect(sample([0.9]), {}, kind="swapped", seed=0) is None


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        ({"joint:9": 0.1}, "a plant must be about an item of the sample, got 'joint:9'"),
        ({"joint:0": math.nan}, "a similarity must be finite, got 'swapped'"),
        ({"joint:0": math.inf}, "a similarity must be finite"),
    ],
)
def test_plants_that_cannot_be_are_refused(planted, told):
    with pytest.raises(ParameterError, match=told):
        detect(sample([0.9, 0.8]), planted, kind="swapped", seed=0)


def test_every_pair_is_explained():
    assert all(text == text.strip() and text for text in consistency.PAIRS.values())
