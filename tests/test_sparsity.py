"""Tests of lab.sparsity: results made by hand, so that the verdicts can be told by hand."""

from __future__ import annotations

import math

import pytest
from conftest import ROOT, trial_result

from lab import comparisons, params, sparsity
from lab.comparisons import Standing
from lab.errors import ParameterError
from lab.measurement import Comparison
from lab.sparsity import Choice, Gain, Point, Reach
from lab.stats import Interval
from lab.trials import Trial
from lab.workloads import Saved


def result(method="none", share=0.0, scores=None, **facts):
    """A result whose items scored so much, by language."""
    trial = Trial(
        tenant="medical",
        kind="text",
        suite="demo",
        items=1,
        seed=0,
        pruning=method,
        sparsity=share,
    )
    return trial_result(trial, scores, **facts)


LIMITS = params.load("medical", root=ROOT, overrides=["slo.quality_delta='>= -0.05'"]).settings.slo
ALL_RIGHT = {"en": [1.0] * 100, "zh": [1.0] * 100}
DENSE = result(scores=ALL_RIGHT)


def study(*results):
    return comparisons.compare(results, limits=LIMITS, seed=0)


def curve(*results):
    return sparsity.points(study(*results))


# --- points ---------------------------------------------------------------------------------------


def test_a_language_that_fails_is_told_from_one_that_passes():
    en, zh = curve(DENSE, result("l1", 0.3, {"en": [1.0] * 100, "zh": [0.5] * 100}))
    assert (en.language, en.change.value, en.n, en.verdict) == ("en", 0.0, 100, "pass")
    assert (zh.language, zh.change.value, zh.verdict) == ("zh", -0.5, "fail")
    assert en.change.low > -0.05


def test_few_items_tell_nothing_and_the_number_needed_is_told():
    dense = result(scores={"en": [1.0] * 12})
    (point,) = curve(dense, result("l1", 0.3, {"en": [1.0] * 12}))
    assert point.verdict == "insufficient"
    assert point.needed > 12


def test_who_did_not_answer_fails_in_every_language():
    found = curve(DENSE, result("wanda", 0.5, status="out_of_memory"))
    assert [(one.language, one.verdict, one.n) for one in found] == [
        ("en", "fail", 0),
        ("zh", "fail", 0),
    ]
    assert {one.status for one in found} == {"out_of_memory"}
    assert all(math.isnan(one.change.value) for one in found)


@pytest.mark.parametrize(
    ("results", "rule"),
    [
        ((result("l1", 0.2),), "dense model that answered, got 'fp32, l1 0.2: ok'"),
        ((result(status="error"),), "dense model that answered, got 'fp32: it broke'"),
        ((DENSE, DENSE), "must be pruned, got 'fp32'"),
    ],
)
def test_what_is_no_curve_is_refused(results, rule):
    with pytest.raises(ParameterError, match=rule):
        curve(*results)


def test_a_dense_model_alone_is_a_curve_without_a_point():
    assert curve(DENSE) == ()
    assert sparsity.reaches(()) == ()


# --- how far --------------------------------------------------------------------------------------


def steps(*verdicts, method="l1", needed=None):
    """A curve of one method; each verdict is of a sparsity, or of en and zh there."""
    found = []
    for at, some in enumerate(verdicts, start=1):
        pair = (some, some) if isinstance(some, str) else some
        for language, verdict in zip(("en", "zh"), pair, strict=True):
            low = {"pass": -0.01, "fail": -0.9, "insufficient": -0.2}[verdict]
            change = Interval(low + 0.005, low, low + 0.01)
            more = needed if verdict == "insufficient" else None
            found.append(Point(method, at / 10, language, change, 9, verdict, more))
    return tuple(found)


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        (("pass", "pass"), Reach("l1", 0.2, "pass")),
        (
            ("pass", ("pass", "fail")),
            Reach("l1", 0.1, "pass", stopped=0.2, why="fail", languages=("zh",)),
        ),
        # One that passes beyond one that failed does not count.
        (
            ("pass", "fail", "pass"),
            Reach("l1", 0.1, "pass", 0.2, "fail", ("en", "zh"), beyond=(0.3,)),
        ),
        (
            ("insufficient", "pass"),
            Reach("l1", 0.0, "insufficient", 0.1, "insufficient", ("en", "zh"), (0.2,), 50),
        ),
        (("fail",), Reach("l1", 0.0, "fail", 0.1, "fail", ("en", "zh"))),
        # A language that fails outweighs one that is open.
        (
            (("insufficient", "fail"),),
            Reach("l1", 0.0, "fail", 0.1, "fail", ("zh",)),
        ),
    ],
)
def test_how_far_a_method_can_go(verdicts, wanted):
    assert sparsity.reaches(steps(*verdicts, needed=50)) == (wanted,)


def test_the_order_of_the_points_does_not_matter_and_methods_are_apart():
    both = steps("pass", "fail") + steps("fail", "pass", method="wanda")
    found = sparsity.reaches(both[::-1])
    assert [(one.method, one.sparsity) for one in found] == [("l1", 0.1), ("wanda", 0.0)]


def test_where_more_items_would_not_settle_it_none_are_asked_for():
    (found,) = sparsity.reaches(steps("insufficient", needed=None))
    assert found.needed is None


# --- gains ----------------------------------------------------------------------------------------


def compared(verdict, ratio=1.0, *, needed=None, floor=0.02):
    interval = Interval(ratio, ratio * 0.99, ratio * 1.01)
    return Comparison(interval, floor, 10, (0, 0), verdict, needed)


def gained(pruned, speed):
    dense = result(stored_bytes=1000, loaded_bytes=2000)
    standing = Standing(pruned, (), speed, "pass", "")
    return sparsity.gain(dense, standing, promised=Saved(700, 0.6))


def test_zeros_promise_and_keep_nothing():
    pruned = result("l1", 0.5, stored_bytes=1000, loaded_bytes=2000)
    found = gained(pruned, compared("insufficient", 0.999))
    assert (found.promised_bytes, found.promised_time) == (0.7, 0.6)
    assert (found.stored_bytes, found.loaded_bytes) == (1.0, 1.0)
    assert (found.shrinks, found.speeds_up) == (False, "no")
    assert found.says == "shrinks nothing and speeds up nothing here"


def test_fewer_neurons_keep_their_promise():
    pruned = result("structured", 0.5, stored_bytes=700, loaded_bytes=1400)
    found = gained(pruned, compared("faster", 0.8))
    assert (found.shrinks, found.speeds_up, found.time.value) == (True, "yes", 0.8)
    assert found.says == "takes fewer bytes and is faster here"


@pytest.mark.parametrize(
    ("speed", "flag"),
    [
        (compared("slower", 1.2), "no"),
        (compared("insufficient", 0.9, needed=10), "open"),
        # No noise floor: nothing can be told apart.
        (compared("insufficient", 0.9, floor=math.inf), "open"),
        (None, "open"),
    ],
)
def test_speed_is_claimed_only_where_it_was_shown(speed, flag):
    pruned = result("l1", 0.5, stored_bytes=1000, loaded_bytes=2000)
    assert gained(pruned, speed).speeds_up == flag


def test_who_was_never_loaded_gains_nothing():
    found = gained(result("l1", 0.5, status="out_of_memory"), None)
    assert math.isnan(found.stored_bytes)
    assert (found.shrinks, found.speeds_up) == (False, "no")


# --- the article's rule ---------------------------------------------------------------------------


def test_the_article_ends_with_a_fifth():
    some = [
        DENSE,
        result("l1", 0.2, ALL_RIGHT, loaded_bytes=9),
        result("l1", 0.3, ALL_RIGHT, loaded_bytes=9),
        result("wanda", 0.2, ALL_RIGHT, loaded_bytes=9),
    ]
    found = sparsity.article(study(*some), curve(*some))
    assert (found.sparsity, found.verdict) == (0.2, "pass")
    assert "memory did not run out: it ends with l1 0.2, within tolerance" in found.says
    assert "l1 0.3 takes as much memory as l1 0.2, so it could not have helped" in found.says


def test_the_article_prunes_more_when_memory_runs_out():
    some = [
        DENSE,
        result("l1", 0.2, status="out_of_memory"),
        result("l1", 0.3, {"en": [0.5] * 100, "zh": [1.0] * 100}, loaded_bytes=9),
    ]
    found = sparsity.article(study(*some), curve(*some))
    assert (found.sparsity, found.verdict) == (0.3, "fail")
    assert "memory ran out: it ends with l1 0.3, not within tolerance" in found.says


def test_the_article_cannot_be_replayed_on_what_was_not_measured():
    assert sparsity.article(study(DENSE), ()).sparsity is None
    alone = [DENSE, result("l1", 0.2, status="out_of_memory")]
    found = sparsity.article(study(*alone), curve(*alone))
    assert (found.sparsity, found.verdict) == (None, None)
    assert "l1 0.3 was not measured" in found.says


# --- which one ------------------------------------------------------------------------------------


def a_gain(method, share, *, speeds_up="no", time=1.0, stored=1.0):
    interval = Interval(time, time - 0.01, time + 0.01)
    return Gain(method, share, 0.8, stored, stored, 0.8, interval, 10, stored < 1, speeds_up)


def chosen(points, *gains):
    return sparsity.choose(points, gains, far=sparsity.reaches(points))


def test_of_those_within_tolerance_the_fastest_is_chosen():
    points = steps("pass", "pass") + steps("pass", "pass", method="structured")
    fast = a_gain("structured", 0.2, speeds_up="yes", time=0.9, stored=0.8)
    assert chosen(points, a_gain("l1", 0.2), fast) == Choice("structured", 0.2, True)


def test_then_the_smallest_then_the_sparsest():
    points = steps("pass", "pass") + steps("pass", "fail", method="structured")
    small = a_gain("structured", 0.1, stored=0.9)
    assert chosen(points, a_gain("l1", 0.2), small).method == "structured"
    assert chosen(points, a_gain("l1", 0.2), a_gain("structured", 0.1)).method == "l1"


def test_without_one_within_tolerance_the_least_harmful_goes_on_unsettled():
    points = steps("insufficient", "fail") + steps("fail", method="wanda")
    assert chosen(points, a_gain("l1", 0.1)) == Choice("l1", 0.1, False)


def test_what_is_all_harmful_leaves_no_choice():
    assert chosen(steps("fail", "fail"), a_gain("l1", 0.1)) is None
