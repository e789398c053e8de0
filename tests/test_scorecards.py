"""Tests of lab.scorecards: by hand, and once for real with the shipped vlm."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import ROOT
from test_candidates import BASE, EIGHT, ENOUGH, NF4
from test_comparisons import blocks, judged, result

from lab import corpus, params, plots, scorecards
from lab.candidates import Candidate
from lab.isolation import Leak, Probed

LIMITS = params.load("medical", root=ROOT).settings.slo
APART = Probed(100, 3, ())
SIXTEEN = replace(BASE, batch_size=16)


def card(*results, across=(), probed=APART):
    chosen = [Candidate(("untuned",), results[0].trial, "as it is")]
    chosen += [Candidate(("single",), one.trial, "it gains") for one in results[1:]]
    return scorecards.card_of("text", (), chosen, results, probed, across, LIMITS, 0)


def timed(trial, seconds, quality=ENOUGH, **more):
    facts = {"blocks": blocks(seconds, count=60, batch=trial.batch_size), "quality": quality}
    return result(trial, **facts | {"baseline": blocks(0.1, count=60)} | more)


def whole(*cards, probed=APART, left_out=()):
    return scorecards.Scorecard(tuple(cards), probed, tuple(left_out), {}, LIMITS)


def test_most_throughput_in_time_is_recommended():
    one = card(timed(BASE, 0.1), timed(EIGHT, 0.2), timed(SIXTEEN, 0.5))
    assert one.recommended == 1  # sixteen have more, and take too long
    assert one.best.result.trial == EIGHT
    figures = one.figures[1]
    assert figures["latency_p95"].verdict == "pass"
    assert figures["throughput"].verdict == "fail"  # 40 of 100
    assert one.verdict == "fail"
    said = whole(one).conclusion()
    assert "fp32, batch 8 (single) is recommended: 3" in said[0]
    assert said[1] == "text: it misses the limit of throughput."


def test_worse_answers_are_not_recommended():
    worse = timed(EIGHT, 0.2, quality=judged(*[0.5] * 600))
    assert card(timed(BASE, 0.1), worse).recommended == 0


def test_what_failed_is_not_recommended():
    broken = result(EIGHT, status="error", problem="it broke", blocks=(), baseline=(), quality=())
    assert card(timed(BASE, 0.1), broken).recommended == 0


def test_where_nobody_is_in_time_the_fastest_is_recommended():
    one = card(timed(BASE, 0.6), timed(NF4, 0.5), timed(EIGHT, 0.9))
    assert one.best.result.trial == NF4
    assert "it misses the limit of response (p95), throughput" in whole(one).conclusion()[1]


def test_without_a_sound_block_nothing_is_recommended():
    busy = {"blocks": blocks(0.1, disturbed="busy"), "baseline": blocks(0.1, disturbed="busy")}
    one = card(result(BASE, **busy), result(EIGHT, **busy))
    assert not one.is_timed
    (said, *rest) = whole(one).conclusion()
    assert "nothing is recommended" in said
    assert not any(" nan " in line for line in (said, *rest))
    assert not whole(one).table["candidate"].str.contains(r"\*").any()


def record(value, ends, *, method="fp32", query="text", language="zh"):
    labels = {"pair": "languages", "language": language, "query": query, "quantization": method}
    return {
        "name": "consistency",
        "value": value,
        "ci": ends,
        "n": 60,
        "unit": "share",
        "labels": labels,
    }


def test_consistency_is_the_worst_pair_of_the_kind_and_the_weights():
    across = [
        record(0.97, [0.95, 0.99]),
        record(0.93, [0.91, 0.95], language="en"),
        record(0.2, [0.1, 0.3], query="speech"),
        record(0.5, [0.4, 0.6], method="nf4"),
    ]
    one = card(timed(BASE, 0.1), timed(NF4, 0.09), timed(EIGHT, 0.2), across=across)
    found = [figures["consistency"] for figures in one.figures]
    assert [metric.value for metric in found] == [0.93, 0.5, 0.93]
    assert [metric.verdict for metric in found] == ["pass", "fail", "pass"]
    open_end = card(timed(BASE, 0.1), across=[record(0.97, [None, 0.99])])
    assert open_end.figures[0]["consistency"].verdict == "insufficient"


def test_what_was_not_measured_is_told_as_such():
    one = card(timed(BASE, 0.1), probed=Probed(100, 0, ()))
    assert "consistency" not in one.figures[0]
    assert "isolation" not in one.figures[0]
    table = whole(one).table
    assert set(table["verdict"][table["figure"] == "consistency"]) == {"not measured"}
    assert any("not settled, or not measured" in line for line in whole(one).conclusion())


def test_a_leak_fails_every_candidate():
    leaked = Probed(100, 3, (Leak("medical", "education", "reports/education/x.html", "…"),))
    one = card(timed(BASE, 0.1), probed=leaked)
    assert one.figures[0]["isolation"].verdict == "fail"
    assert "reports/education/x.html" in whole(one, probed=leaked).conclusion()[-1]
    assert whole(one, probed=leaked).metrics[0].verdict == "fail"


def test_it_can_be_drawn_and_put_into_tables():
    found = whole(card(timed(BASE, 0.1), timed(EIGHT, 0.2)), left_out=["Something is missing."])
    assert found.conclusion()[-1] == "Something is missing."
    assert len(found.table) == 2 * len(scorecards.FIGURES)
    assert len(plots.scorecard(found.table).axes) == 1
    assert list(found.reasons["candidate"]) == ["untuned", "single"]
    assert found.techniques.empty
    labels = {metric.labels.get("candidate") for metric in found.metrics[1:]}
    assert labels == {"untuned", "single"}


def test_kinds_with_too_few_rows_are_told_and_left_out(sound_project):
    resolved = params.load("medical", root=sound_project)
    data = corpus.load(resolved)
    kept, told = scorecards._with_rows(["text", "joint"], data, resolved.settings, 10)
    assert kept == ["text"]
    assert told == ["Queries of kind joint are not measured: there are 9 of 10 rows."]
    assert scorecards._with_rows(["joint"], data, resolved.settings, 10) == (["joint"], [])
    assert scorecards._with_rows(["prayer"], data, resolved.settings, 10) == (["prayer"], [])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_an_empty_ledger_to_a_card(sound_project, tmp_path):
    overrides = [f"ledger=sqlite:///{tmp_path}/ledger.db", "ray.mode=inline"]
    resolved = params.load("medical", root=sound_project, overrides=overrides)
    found = scorecards.run(
        resolved,
        queries=["image_text", "speech"],
        items=9,
        turns=2,
        seed=0,
        corpus=corpus.load(resolved),
        progress=lambda *_: None,
    )
    one = found.cards[0]
    assert [card.kind for card in found.cards] == ["image_text", "speech"]
    assert [candidate.names for candidate in one.candidates] == [("untuned",), ("article",)]
    assert [standing.result.status for standing in one.study.standings] == ["ok", "ok"]
    assert one.study.standings[1].result.trial.name == "nf4, l1 0.2"
    assert one.study.standings[0].result.trial.seed == 1  # items of its own
    assert json.dumps([metric.record() for metric in found.metrics])
    assert any("the ledger knows no technique" in line for line in found.conclusion()) or (
        not one.is_timed
    )
