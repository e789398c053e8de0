"""Tests of lab.pruning_studies: the shipped vlm looked at, results made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT, trial_result

from lab import params, pruning_studies, sensitivity, services
from lab.errors import ParameterError
from lab.queries import Query
from lab.requests import Request
from lab.trials import Runtime, Trial

BASE = Trial(tenant="medical", kind="text", suite="demo", items=6, seed=3, turns=2)
FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}
LANGUAGES = ("en", "ja", "zh")
WHOLE = 12_063_496  # bytes of the shipped vlm
BYTES = {"none": WHOLE, "l1": WHOLE, "structured": 10_000_000, "heads": 11_000_000}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Of the layers that are tried alone every ninth is enough."""

    def some(*words, real=sensitivity.pruning.input_norms):
        return dict([*real(*words).items()][::9])

    monkeypatch.setattr(sensitivity.pruning, "input_norms", some)


@pytest.fixture(scope="module")
def service():
    return services.load(BASE, FOLDERS)


def asked():
    prompt = params.load("medical", root=ROOT).settings.system_prompt
    return [
        Request(str(at), str(at), "en", Query(text=text, language="en", system=prompt), "Yes.")
        for at, text in enumerate(["Do you have masks?", "Is it open?"])
    ]


def run(service, score, **options):
    """Run a study whose configurations score as told; returns it and the studies."""
    measured = []

    def measure(study):
        measured.append(study)
        return [
            trial_result(
                one,
                {language: [score(one, language)] * 400 for language in LANGUAGES},
                stored_bytes=BYTES[one.pruning],
                loaded_bytes=BYTES[one.pruning],
            )
            for one in study.trials
        ]

    more = {
        "methods": ["l1", "structured"],
        "sparsities": [0, 0.2, 0.3, 0.5],
        "quantized": "nf4",
        "metric": "token_f1",
        "tolerance": 0.05,
        "alone": 0.7,
        "progress": lambda *words: None,
    } | options
    found = pruning_studies.run(BASE, measure, lambda: service, asked(), **more)
    return found, measured


def test_every_method_is_measured_at_every_sparsity_beside_the_dense_model():
    trials = pruning_studies.grid(BASE, ["wanda", "l1"], [0.3, 0, 0.2, 0.3])
    assert [(one.pruning, one.sparsity) for one in trials] == [
        ("none", 0.0),
        ("wanda", 0.2),
        ("wanda", 0.3),
        ("l1", 0.2),
        ("l1", 0.3),
    ]


@pytest.mark.parametrize(
    ("methods", "sparsities", "rule"),
    [
        ([], [0.2], "a method and a sparsity above 0"),
        (["l1"], [0.0], "a method and a sparsity above 0"),
        (["magic"], [0.2], "pruning must be one of"),
        (["l1"], [1.2], r"sparsity must be in \[0, 1\), got 1.2"),
    ],
)
def test_what_is_no_grid_is_refused(methods, sparsities, rule):
    with pytest.raises(ParameterError, match=rule):
        pruning_studies.grid(BASE, methods, sparsities)


def test_what_takes_nothing_or_the_same_away_is_not_measured(service):
    module = service.models["vlm"].engine.module  # of four heads
    trials = pruning_studies.grid(BASE, ["l1", "heads"], [0.2, 0.3, 0.5])
    found = pruning_studies.idle(module, trials)
    assert {(one.pruning, one.sparsity): why for one, why in found.items()} == {
        ("heads", 0.2): "takes no heads from this model",
        ("heads", 0.5): "takes as many heads as 0.3",
    }


def test_the_best_within_tolerance_goes_on_with_quantization_on_other_items(service):
    good = {"l1": 0.3, "structured": 0.2}
    found, (first, second) = run(
        service, lambda one, _: 1.0 if one.sparsity <= good.get(one.pruning, 0) else 0.5
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
    assert [one.trial for one in found.again] == [*second.trials]


def test_promises_stand_beside_what_was_measured(service):
    found, _ = run(service, lambda *_: 1.0)
    gains = {(one.method, one.sparsity): one for one in found.gains}
    # 16 bits become one and 70 % of 16.
    assert gains["l1", 0.3].promised_bytes < 0.9
    assert gains["l1", 0.3].promised_time < gains["l1", 0.2].promised_time < 1
    assert not gains["l1", 0.3].shrinks
    assert gains["structured", 0.3].shrinks
    assert {one.speeds_up for one in found.gains} == {"open"}


def test_the_conclusion_is_computed(service):
    bad = "zh"
    found, _ = run(
        service,
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
    assert "The article's rule: l1 0.2, memory did not run out: it ends with l1 0.2, within" in (
        " ".join(words)
    )
    assert any("heads 0.5 takes as many heads as 0.3: it was not measured" in one for one in words)
    assert any("shrinks nothing and is not shown to be faster" in one for one in words)
    assert any("alone" in one for one in words)


def test_if_everything_does_harm_nothing_goes_on(service):
    found, measured = run(service, lambda one, _: 0.2 if one.sparsity else 1.0)
    assert len(measured) == 1
    assert (found.choice, found.again) == (None, ())
    words = found.conclusion()
    assert any("l1: no sparsity is within" in one for one in words)
    assert "Everything that was tried does harm: nothing goes on to be quantized." in words


def test_frames_and_metrics_hold_it_all(service):
    found, _ = run(service, lambda *_: 1.0)
    frames = found.frames
    assert len(frames["curve"]) == 6 * 3
    assert {"change", "low", "high"} <= set(frames["curve"])
    assert len(frames["gains"]) == 6
    assert {"time", "low", "high", "says", "blocks"} <= set(frames["gains"])
    assert len(frames["layers"]) == len(found.sensitivities) > 1
    figures = {one.labels["pruning"]: one for one in found.metrics}
    assert figures["l1"].value == 0.5
    assert figures["l1"].n == 400 * 9


def test_a_quantization_that_there_is_not_is_told_before_anything_is_measured(service):
    with pytest.raises(ParameterError, match="method must be one of"):
        run(None, None, quantized="magic")
