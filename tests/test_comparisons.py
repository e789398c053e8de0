"""Tests of lab.comparisons: results made by hand, so that every verdict can be told beforehand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from conftest import ROOT

from lab import comparisons, params
from lab.errors import ParameterError
from lab.trials import Block, Quality, Runtime, Setting, Trial, TrialResult, digest, key

LIMITS = params.load("medical", root=ROOT).settings.slo
BASE = Trial(tenant="medical", kind="text", suite="demo", items=3, seed=0)
SMALL = replace(BASE, quantization="nf4", runtime=Runtime("bfloat16"))
SETTING = Setting("sha256:d", {"vlm": "sha256:m"}, "sha256:c", "a machine", partner=digest(BASE))


def blocks(seconds, *, count=12, batch=1, disturbed=""):
    """Blocks of one batch each, a thousandth longer than the one before."""
    each = [seconds * (1 + at / 1000) for at in range(count)]
    return tuple(
        Block(at, (took,) * batch, took, disturbed=disturbed) for at, took in enumerate(each)
    )


def judged(*f1s, agreement=1.0, languages=("zh", "en", "ja")):
    return tuple(
        Quality(
            f"faq:{at}", f"g{at}", languages[at % len(languages)], {"token_f1": (one, 1)}, agreement
        )
        for at, one in enumerate(f1s)
    )


def result(trial, **more):
    facts = {
        "status": "ok",
        "finished": "2026-11-25T12:00:00Z",
        "blocks": blocks(0.1),
        "baseline": blocks(0.1),
        "loaded_bytes": 24_000_000,
        "peak_bytes": 40_000_000,
        "load_s": 0.5,
        "first_request_s": 0.2,
        "quality": judged(*[1.0] * 3),
    } | more
    return TrialResult(key=key(trial, SETTING), trial=trial, setting=SETTING, **facts)


def compared(*results):
    return comparisons.compare(results, limits=LIMITS, seed=0)


def metric(standing, name, **labels):
    found = [
        one for one in standing.metrics if one.name == name and labels.items() <= one.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_the_overview_has_the_consistency_of_the_language_where_it_is_least():
    answers = judged(1, 1, 1, agreement=1.0)
    other = (answers[0], replace(answers[1], agreement=0.25), replace(answers[2], agreement=0.5))
    frame = comparisons.table(
        [compared(result(BASE, quality=answers), result(SMALL, quality=other))]
    )
    assert frame["consistency"].tolist() == [1.0, 0.25]
    broken = result(SMALL, status="error", problem="it broke", quality=(), blocks=(), baseline=())
    frame = comparisons.table([compared(result(BASE), broken)])
    assert math.isnan(frame["consistency"][1])


def test_figures_are_those_of_the_contract():
    base = compared(result(BASE)).baseline
    assert metric(base, "latency_p50").value == pytest.approx(0.1005)
    assert metric(base, "latency_p50").n == 12
    assert metric(base, "throughput").value == pytest.approx(10, rel=0.01)
    assert metric(base, "throughput").verdict == "fail"
    assert metric(base, "model_bytes").value == 24_000_000
    assert metric(base, "peak_memory").value == 40_000_000
    assert metric(base, "answer_f1", language="ja").n == 1
    assert metric(base, "latency_p50").labels == {
        "query": "text",
        "quantization": "fp32",
        "batch_size": 1,
    }


def test_a_match_is_judged_by_recall():
    match = replace(BASE, kind="match", suite="demo")
    small = replace(match, quantization="nf4")
    hits = [(1, 1), (0, 1), (0, 0)]
    results = [
        result(
            one,
            quality=tuple(
                Quality(f"images:{at} words", f"g{at}", "en", {"recall_at_1": (hit, 1)}, same)
                for at, (hit, same) in enumerate(pairs)
            ),
        )
        for one, pairs in ((match, [(1, 1)] * 3), (small, hits))
    ]
    study = compared(*results)
    base, other = study.standings
    assert metric(base, "recall", language="en", query="match").value == 1
    assert metric(other, "recall").value == pytest.approx(1 / 3)
    assert metric(other, "recall").unit == "share"
    assert metric(other, "consistency").value == pytest.approx(2 / 3)
    assert metric(other, "consistency").unit == "share"
    assert metric(other, "quality_delta").value == pytest.approx(-2 / 3)
    assert metric(other, "quality_delta").unit == "share"
    assert "quality" in comparisons.conclusion([study])[0]
    assert comparisons.changes([study])["change"].tolist() == pytest.approx([-2 / 3])


def test_labels_tell_how_it_is_run_where_that_differs():
    fast = replace(BASE, runtime=Runtime(compiled=True, static_cache=True))
    _, one = compared(result(BASE), result(fast)).standings
    labels = metric(one, "latency_p50").labels
    assert (labels["compiled"], labels["static_cache"]) == (True, True)


def test_few_requests_settle_no_tail_and_say_how_many_would():
    base = compared(result(BASE)).baseline
    tail, errors = metric(base, "latency_p95"), metric(base, "error_rate")
    assert (tail.verdict, tail.needed) == ("insufficient", 59)
    assert (errors.verdict, errors.needed) == ("insufficient", 2995)
    slow = compared(result(BASE, blocks=blocks(0.9))).baseline
    assert metric(slow, "latency_p95").verdict == "fail"  # a few are enough to see that


def test_requests_of_a_batch_are_one_observation_of_a_latency():
    trial = replace(BASE, batch_size=4)
    base = compared(result(trial, blocks=blocks(0.1, batch=4))).baseline
    assert metric(base, "latency_p50").n == 12
    assert metric(base, "error_rate").n == 48
    assert metric(base, "throughput").value == pytest.approx(40, rel=0.01)


def test_a_request_without_an_answer_is_an_error_and_the_slowest():
    failing = (*blocks(0.1), Block(12, (math.inf,), 0.3))
    base = compared(result(BASE, blocks=failing)).baseline
    assert metric(base, "error_rate").value == pytest.approx(1 / 13)
    assert metric(base, "error_rate").verdict == "fail"
    assert metric(base, "latency_p99").value == math.inf


def test_what_was_disturbed_does_not_count():
    shaky = (*blocks(0.1), Block(0, (9.0,), 9.0, disturbed="waited for a core 80 % of the time"))
    study = compared(result(BASE, blocks=shaky))
    assert metric(study.baseline, "latency_p99").value < 1
    assert (study.disturbed, study.measured) == (1, 25)
    nothing = compared(result(BASE, blocks=blocks(0.1, disturbed="stolen")))
    assert metric(nothing.baseline, "latency_p95").verdict == "insufficient"
    assert metric(nothing.baseline, "throughput").verdict == "insufficient"
    assert nothing.floor == math.inf


def test_faster_is_told_beyond_the_noise_only():
    base = result(BASE)
    for seconds, verdict in ((0.05, "faster"), (0.2, "slower"), (0.1, "insufficient")):
        study = compared(base, result(SMALL, blocks=blocks(seconds), loaded_bytes=5_000_000))
        assert study.floor < 0.01
        assert study.standings[1].speed.verdict == verdict
        assert metric(study.standings[1], "speedup").value == pytest.approx(0.1 / seconds)
        low, high = metric(study.standings[1], "speedup").ci
        assert low <= 0.1 / seconds <= high


@pytest.mark.parametrize(
    ("seconds", "size", "here"),
    [
        (0.05, 5_000_000, "smaller"),
        (0.2, 5_000_000, "smaller but slower"),
        (0.05, 24_000_000, "no smaller"),
    ],
)
def test_fewer_bytes_have_a_price_here(seconds, size, here):
    study = compared(result(BASE), result(SMALL, blocks=blocks(seconds), loaded_bytes=size))
    assert [one.here for one in study.standings] == ["", here]


def test_one_language_that_falls_makes_a_configuration_ineligible():
    many = result(BASE, quality=judged(*[1.0] * 900))
    fallen = judged(*[0.4 if at % 3 == 2 else 1.0 for at in range(900)])
    study = compared(many, result(SMALL, quality=fallen))
    assert [one.eligible for one in study.standings] == ["pass", "fail"]
    changed = metric(study.standings[1], "quality_delta", language="ja")
    assert (changed.value, changed.verdict) == (pytest.approx(-0.6), "fail")
    assert metric(study.standings[1], "quality_delta", language="zh").verdict == "pass"
    words = " ".join(comparisons.conclusion([study]))
    assert "not eligible, for quality falls too far: nf4 (ja -0.600)" in words


def test_few_items_leave_quality_open_and_say_how_many_would_tell():
    study = compared(result(BASE), result(SMALL))
    assert study.standings[1].eligible == "insufficient"
    assert metric(study.standings[1], "quality_delta", language="en").needed == 189
    enough = judged(*[1.0] * (3 * 189))
    settled = compared(result(BASE, quality=enough), result(SMALL, quality=enough))
    assert settled.standings[1].eligible == "pass"
    words = " ".join(comparisons.conclusion([study]))
    assert "is open: nf4 (about 189 items a language would tell)" in words
    near = compared(result(BASE), result(SMALL, quality=judged(0.98, 0.98, 0.98)))
    words = " ".join(comparisons.conclusion([near]))
    assert "nf4 (more than 10,000 items a language would tell)" in words


def test_errors_of_transcripts_count_against_a_configuration():
    spoken = replace(BASE, kind="speech")
    heard, misheard = (
        tuple(
            Quality(f"speech:{at}", f"g{at}", ("zh", "en", "ja")[at % 3], {"cer": (edits, 10)}, 1.0)
            for at in range(900)
        )
        for edits in (0, 3)
    )
    worse = replace(spoken, quantization="nf4", runtime=Runtime("bfloat16"))
    study = compared(result(spoken, quality=heard), result(worse, quality=misheard))
    changed = metric(study.standings[1], "quality_delta", language="zh")
    assert changed.value == pytest.approx(-0.3)
    assert changed.ci[0] <= -0.3 <= changed.ci[1]
    assert study.standings[1].eligible == "fail"
    assert metric(study.standings[1], "cer", language="zh").value == pytest.approx(0.3)


def test_answers_are_held_against_the_baselines():
    study = compared(result(BASE), result(SMALL, quality=judged(1.0, 1.0, 1.0, agreement=0.5)))
    found = metric(study.standings[1], "consistency", language="zh")
    assert (found.value, found.labels["with"]) == (0.5, "baseline")


def test_a_failure_is_a_standing():
    lost = result(
        SMALL,
        status="out_of_memory",
        problem="no room",
        blocks=(),
        quality=(),
        loaded_bytes=None,
        peak_bytes=None,
    )
    study = compared(result(BASE), lost)
    assert study.standings[1].eligible == "fail"
    assert "nf4 could not be measured: no room" in " ".join(comparisons.conclusion([study]))
    assert list(comparisons.table([study])["status"]) == ["ok", "out_of_memory"]
    broken = compared(replace(lost, key=key(BASE, SETTING), trial=BASE))
    assert "the baseline fp32 failed: no room" in comparisons.conclusion([broken])[0]


def test_the_conclusion_names_the_best_and_what_it_gains():
    many = judged(*[1.0] * 600)
    base = result(BASE, quality=many)
    half = replace(BASE, runtime=Runtime("bfloat16"))
    study = compared(
        base,
        result(half, quality=many, loaded_bytes=12_000_000, blocks=blocks(0.05)),
        result(SMALL, quality=many, loaded_bytes=5_000_000, blocks=blocks(0.2)),
    )
    words = " ".join(comparisons.conclusion([study]))
    assert "least memory at the same quality is nf4, 5 MB instead of 24 MB" in words
    assert "fastest at the same quality is bf16 (2.00 times as fast" in words
    assert "smaller but slower here: nf4 (0.50 times as fast" in words


def test_few_blocks_tell_nobody_faster():
    short = {"blocks": blocks(0.1, count=2), "baseline": blocks(0.1, count=2)}
    study = compared(result(BASE, **short), result(SMALL, **short))
    assert study.standings[1].speed.verdict == "insufficient"
    words = " ".join(comparisons.conclusion([study]))
    assert "it takes at least 10 undisturbed blocks, and there are 2" in words


def test_tables_have_a_row_for_each_configuration():
    study = compared(result(BASE), result(SMALL, loaded_bytes=5_000_000))
    assert list(comparisons.table([study])["configuration"]) == ["fp32", "nf4"]
    assert list(comparisons.changes([study])["language"]) == ["en", "ja", "zh"]
    gained = comparisons.bytes_gained([study]).set_index("configuration")
    assert gained.loc["nf4", "in theory (MB)"] == 3.0
    assert gained.loc["nf4", "times as small"] == pytest.approx(4.8)
    assert list(comparisons.effort([study])["study"]) == ["text, batch 1"]


def test_nothing_cannot_be_compared():
    with pytest.raises(ParameterError, match="must have results"):
        compared()
