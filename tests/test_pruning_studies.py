"""Tests of lab.pruning_studies: the shipped vlm looked at, results made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT, trial_result

from lab import designs, params, pruning_studies, sensitivity, services
from lab.errors import ParameterError
from lab.queries import Query
from lab.requests import Drawn, Request
from lab.trials import Runtime, Trial

BASE = Trial(tenant="medical", kind="text", suite="demo", items=6, seed=3, turns=2)
FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}
ITEMS = 100  # of each language
LANGUAGES = ("en", "ja", "zh")
WHOLE = 12_063_496  # bytes of the shipped vlm
BYTES = {"none": WHOLE, "l1": WHOLE, "structured": 10_000_000, "heads": 11_000_000}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Of the layers that are tried alone every ninth is enough."""

    def some(*words, real=sensitivity.pruning.input_norms):
        return dict([*real(*words).items()][::9])

    monkeypatch.setattr(sensitivity.pruning, "input_norms", some)


def resolved():
    return params.load("medical", root=ROOT, overrides=["slo.quality_delta='>= -0.05'"])


def asked():
    prompt = resolved().settings.system_prompt
    return tuple(
        Request(str(at), str(at), "en", Query(text=text, language="en", system=prompt), "Yes.")
        for at, text in enumerate(["Do you have masks?", "Is it open?"])
    )


@pytest.fixture
def run(monkeypatch):
    """Return what runs a study whose configurations score as told: what came, and the studies."""

    def ran(score, methods=("l1", "structured"), sparsities=(0, 0.2, 0.3, 0.5), combined="nf4"):
        measured = []

        def measure(design, *_, **__):
            (study,) = design.studies
            measured.append(study)
            return [
                [
                    trial_result(
                        one,
                        {language: [score(one, language)] * ITEMS for language in LANGUAGES},
                        stored_bytes=BYTES[one.pruning],
                        loaded_bytes=BYTES[one.pruning],
                    )
                    for one in study.trials
                ]
            ]

        monkeypatch.setattr(pruning_studies.sweeps, "run_design", measure)
        monkeypatch.setattr(pruning_studies.requests, "draw", lambda *_, **__: Drawn((), asked()))
        found = pruning_studies.run(
            design(methods, sparsities),
            resolved(),
            corpus=None,
            combined=combined,
            layer_items=2,
            progress=lambda *words: None,
        )
        return found, measured

    return ran


def design(methods, sparsities):
    return designs.of_pruning(
        resolved(),
        methods=methods,
        sparsities=sparsities,
        query="text",
        batch_size=1,
        items=6,
        turns=2,
        seed=3,
    )


def test_what_takes_nothing_or_the_same_away_is_not_measured():
    vlm = services.load(BASE, FOLDERS).models["vlm"]  # of four heads
    (study,) = design(["l1", "heads"], [0.2, 0.3, 0.5]).studies
    found = pruning_studies.idle(vlm.engine.module, study.trials)
    assert {(one.pruning, one.sparsity): why for one, why in found.items()} == {
        ("heads", 0.2): "takes no heads from this model",
        ("heads", 0.5): "takes as many heads as 0.3",
    }


def test_the_best_within_tolerance_goes_on_with_quantization_on_other_items(run):
    good = {"l1": 0.3, "structured": 0.2}
    found, (first, second) = run(
        lambda one, _: 1.0 if one.sparsity <= good.get(one.pruning, 0) else 0.5
    )
    assert len(first.trials) == 7
    assert {one.method: one.sparsity for one in found.reaches} == good
    assert (found.choice.method, found.choice.sparsity, found.choice.settled) == (
        "structured",
        0.2,
        True,
    )
    dense, pruned, quantized, both = second.trials
    assert dense == replace(BASE, seed=4)
    assert pruned == replace(dense, pruning="structured", sparsity=0.2)
    assert (quantized.quantization, quantized.runtime) == ("nf4", Runtime("bfloat16"))
    assert both == replace(quantized, pruning="structured", sparsity=0.2)
    assert [one.result.trial for one in found.again.standings] == [*second.trials]


def test_promises_stand_beside_what_was_measured(run):
    found, _ = run(lambda *_: 1.0)
    gains = {(one.method, one.sparsity): one for one in found.gains}
    # 16 bits become one and 70 % of 16.
    assert gains["l1", 0.3].promised_bytes < 0.9
    assert gains["l1", 0.3].promised_time < gains["l1", 0.2].promised_time < 1
    assert not gains["l1", 0.3].shrinks
    assert gains["structured", 0.3].shrinks
    assert {one.speeds_up for one in found.gains} == {"open"}


def test_the_conclusion_is_computed(run):
    bad = "zh"
    found, _ = run(
        lambda one, language: (
            0.5 if language == bad and (one.pruning, one.sparsity) == ("l1", 0.3) else 1.0
        ),
        methods=["l1", "heads"],
        sparsities=[0.2, 0.3, 0.5],
    )
    words = found.conclusion()
    assert any(
        one.startswith("l1: within 0.05 F1 of the dense model in every language up to a sparsity")
        and "of 0.2; at 0.3 Chinese is worse. That 0.5 passes does not count." in one
        for one in words
    )
    assert any("heads: within" in one and "the largest that was tried" in one for one in words)
    assert any(
        one.startswith(
            "The article's rule, l1 0.2, memory did not run out: it ends with l1 0.2, within"
        )
        for one in words
    )
    assert any(one.startswith("With quantization, on items drawn anew: ") for one in words)
    assert any("heads 0.5 takes as many heads as 0.3: it was not measured" in one for one in words)
    assert any("shrinks nothing and is not shown to be faster" in one for one in words)
    assert any("alone" in one for one in words)


def test_what_is_open_says_what_would_tell(run, monkeypatch):
    # Three items of a language are too few to tell anything.
    monkeypatch.setitem(globals(), "ITEMS", 3)
    found, _ = run(lambda one, language: 1.0, methods=["l1"])
    (words, *_) = found.conclusion()
    assert words.startswith("l1: from 0.2 on it is open in English, Japanese and Chinese: about ")
    assert words.endswith("items of a language would tell.")
    assert not found.choice.settled
    assert any("for want of one that is shown to do no harm" in one for one in found.conclusion())


def test_if_everything_does_harm_nothing_goes_on(run):
    found, measured = run(lambda one, _: 0.2 if one.sparsity else 1.0)
    assert len(measured) == 1
    assert (found.choice, found.again) == (None, None)
    words = found.conclusion()
    assert any("l1: no sparsity is within" in one for one in words)
    assert "Everything that was tried does harm: nothing goes on to be quantized." in words


def test_if_nothing_can_be_taken_it_is_said(run):
    found, (first,) = run(lambda *_: 1.0, methods=["heads"], sparsities=[0.2])
    assert len(first.trials) == 1
    assert any("nothing was pruned" in one for one in found.conclusion())
    assert found.frames["curve"].empty


def test_frames_and_metrics_hold_it_all(run):
    found, _ = run(lambda *_: 1.0)
    frames = found.frames
    assert len(frames["curve"]) == 6 * 3
    assert {"change", "low", "high"} <= set(frames["curve"])
    assert len(frames["gains"]) == 6
    assert {"time", "low", "high", "says", "blocks"} <= set(frames["gains"])
    assert len(frames["layers"]) == len(found.sensitivities) > 1
    figures = [one for one in found.metrics if one.name == "largest_sparsity"]
    assert {one.labels["pruning"]: (one.value, one.n) for one in figures} == {
        "l1": (0.5, 900),
        "structured": (0.5, 900),
    }
    # The two studies' figures can be told apart.
    kept = [(one.name, tuple(sorted(one.labels.items()))) for one in found.metrics]
    assert len(set(kept)) == len(kept)


def test_a_quantization_that_there_is_not_is_told_before_anything_is_measured(run):
    with pytest.raises(ParameterError, match="method must be one of"):
        run(None, combined="magic")
