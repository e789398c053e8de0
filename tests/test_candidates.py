"""Tests of lab.candidates: results made by hand, so that who gains what is known beforehand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from conftest import ROOT
from test_comparisons import BASE, blocks, judged, result

from lab import candidates, params
from lab.designs import stored
from lab.trials import Setting, TrialResult, digest, key

LIMITS = params.load("medical", root=ROOT).settings.slo
UNTUNED = replace(BASE, seed=7)
NF4 = stored(BASE, "nf4")
EIGHT = replace(BASE, batch_size=8)
PRUNED = replace(BASE, pruning="structured", sparsity=0.2)
BOTH = replace(NF4, batch_size=8)
ENOUGH = judged(*[1.0] * 600)  # items for a verdict about quality


def of_batch(seconds, size):
    """Blocks in which a batch of so many takes so long, beside a baseline of a tenth."""
    return {"blocks": blocks(seconds, batch=size), "quality": ENOUGH}


def known(*results):
    return candidates.steps([result(BASE, quality=ENOUGH), *results], limits=LIMITS, seed=0)


def test_a_technique_gains_what_its_blocks_say():
    (step,) = known(result(EIGHT, **of_batch(0.2, 8)))
    assert step.technique == "batch size"
    assert step.gain.value == pytest.approx(4)  # eight in twice the time
    assert step.latency_s == pytest.approx(0.2, rel=0.02)
    assert (step.eligible, step.in_time, step.may_be_taken) == ("pass", True, True)


def test_the_largest_gain_comes_first():
    steps = known(
        result(PRUNED, **of_batch(0.08, 1)),
        result(EIGHT, **of_batch(0.2, 8)),
        result(NF4, **of_batch(0.05, 1)),
    )
    assert [step.technique for step in steps] == ["batch size", "quantization", "pruning"]


def test_two_techniques_at_once_say_nothing_about_one():
    assert known(result(BOTH, **of_batch(0.1, 8))) == []


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"blocks": blocks(0.5, batch=8), "quality": ENOUGH}, "too slow"),
        ({"blocks": blocks(0.2, batch=8), "quality": judged(*[0.5] * 600)}, "worse"),
        ({"blocks": blocks(0.9, batch=8), "quality": ENOUGH}, "no gain"),
        ({"blocks": blocks(0.2, batch=8, disturbed="busy"), "quality": ENOUGH}, "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_costs_too_much_or_is_not_known_is_not_taken(facts, why):
    (step,) = known(result(EIGHT, **facts))
    assert not step.may_be_taken
    assert math.isnan(step.gain.value) == (why == "unknown")
    names = [one.names for one in candidates.choose([step], UNTUNED)]
    assert names == [("untuned",), ("article",)]


def test_what_failed_and_what_lacks_its_baseline_says_nothing():
    broken = result(EIGHT, status="error", problem="it broke", blocks=(), baseline=(), quality=())
    assert known(broken) == []
    elsewhere = Setting("sha256:other", {"vlm": "sha256:m"}, "sha256:c", "m", partner=digest(BASE))
    stranger = replace_setting(result(EIGHT, **of_batch(0.2, 8)), elsewhere)
    assert known(stranger) == []
    assert candidates.steps([], limits=LIMITS, seed=0) == []


def replace_setting(one: TrialResult, setting: Setting) -> TrialResult:
    return replace(one, setting=setting, key=key(one.trial, setting))


def test_the_four_of_the_article_s_table():
    steps = known(
        result(EIGHT, **of_batch(0.2, 8)),
        result(NF4, **of_batch(0.08, 1)),
        result(PRUNED, **of_batch(0.2, 1)),  # slower: not taken
    )
    untuned, article, single, combined = candidates.choose(steps, UNTUNED)
    assert untuned.trial == UNTUNED
    assert article.trial == replace(
        stored(UNTUNED, "nf4"), batch_size=8, pruning="l1", sparsity=0.2
    )
    assert single.trial == replace(UNTUNED, batch_size=8)
    assert combined.trial == replace(stored(UNTUNED, "nf4"), batch_size=8)
    assert "4.00 times" in single.why
    assert "nf4" in combined.why
    assert {one.trial.seed for one in (untuned, article, single, combined)} == {7}


def test_one_technique_alone_is_single_and_combined():
    steps = known(result(EIGHT, **of_batch(0.2, 8)))
    *_, last = candidates.choose(steps, UNTUNED)
    assert last.names == ("single", "combined")
