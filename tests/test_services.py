"""Tests of lab.services: the shipped vlm, as trials have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import ROOT

from lab import lessons, services
from lab.errors import ParameterError
from lab.queries import Generation, Query
from lab.trials import Runtime, Trial

FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}
TRIAL = Trial(tenant="medical", kind="text", suite="demo", items=4, seed=0)
QUERIES = [
    Query(text=lessons.question(at, part="train", language="en").text, language="en")
    for at in range(4)
]
SHORT = Generation(most=12)


def load(trial=TRIAL, aside=None, **more):
    folders = services.prepare(trial, FOLDERS, aside=aside, **more)
    return services.load(trial, folders)


def zeros(service):
    layers = [
        layer
        for name, layer in service.models["vlm"].engine.module.named_modules()
        if isinstance(layer, torch.nn.Linear) and "lm_head" not in name
    ]
    return sum(int((one.weight == 0).sum()) for one in layers) / sum(
        one.weight.numel() for one in layers
    )


def test_a_service_answers_in_the_order_asked():
    service = load()
    together = service.ask(QUERIES, batch_size=4, generation=SHORT)
    alone = [service.ask([one], batch_size=1, generation=SHORT)[0] for one in QUERIES]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in alone}) > 1


def test_it_takes_what_the_trial_says():
    small = load(replace(TRIAL, quantization="nf4", runtime=Runtime("bfloat16", "eager")))
    assert small.loaded_bytes < load().loaded_bytes / 3
    assert small.stored_bytes == load().stored_bytes
    assert small.models["vlm"].engine.module.config._attn_implementation == "eager"


@pytest.mark.parametrize("method", ["l1", "wanda"])
def test_pruned_weights_are_zero(method, tmp_path):
    trial = replace(TRIAL, pruning=method, sparsity=0.3)
    seen = [Query(text=QUERIES[0].text, image=lessons.picture(0, part="train").draw())]
    service = load(trial, tmp_path, calibration=[*QUERIES, *seen])
    assert zeros(service) == pytest.approx(0.3, abs=0.01)
    assert all(one.text for one in service.ask(QUERIES, batch_size=4, generation=SHORT))


def test_pruned_then_quantized_is_quantized_and_not_the_same_as_quantized_alone(tmp_path):
    runtime = Runtime("bfloat16")
    both = load(
        replace(TRIAL, pruning="l1", sparsity=0.6, quantization="nf4", runtime=runtime), tmp_path
    )
    alone = load(replace(TRIAL, quantization="nf4", runtime=runtime))
    assert both.loaded_bytes == alone.loaded_bytes
    answers = [one.ask(QUERIES, batch_size=4, generation=SHORT) for one in (both, alone)]
    assert [one.text for one in answers[0]] != [one.text for one in answers[1]]


@pytest.mark.parametrize("method", ["none", "nf4"])
def test_slimmed_weights_are_gone(method, tmp_path):
    runtime = Runtime("bfloat16")
    whole = load(replace(TRIAL, quantization=method, runtime=runtime))
    trial = replace(
        TRIAL, pruning="structured", sparsity=0.25, quantization=method, runtime=runtime
    )
    seen = [Query(text=QUERIES[0].text, image=lessons.picture(0, part="train").draw())]
    slim = load(trial, tmp_path, calibration=[*QUERIES, *seen])
    assert slim.stored_bytes < whole.stored_bytes
    assert slim.loaded_bytes < whole.loaded_bytes
    llama = slim.models["vlm"].engine.module.config.text_config
    assert llama.intermediate_size == 576  # of 768
    assert all(one.text for one in slim.ask(QUERIES, batch_size=4, generation=SHORT))


def test_heads_that_go_are_those_that_calibration_finds_idle(tmp_path):
    whole = load(TRIAL)
    slim = load(replace(TRIAL, pruning="heads", sparsity=0.5), tmp_path, calibration=QUERIES)
    assert slim.loaded_bytes < whole.loaded_bytes
    llama = slim.models["vlm"].engine.module.config.text_config
    assert (llama.num_attention_heads, llama.intermediate_size) == (2, 768)
    assert all(one.text for one in slim.ask(QUERIES, batch_size=4, generation=SHORT))


def test_what_was_heard_is_not_listened_to_again(tmp_path, monkeypatch):
    seen = [Query(text=QUERIES[0].text, image=lessons.picture(0, part="train").draw())]
    trial, heard = replace(TRIAL, pruning="wanda", sparsity=0.3), {}
    options = {"calibration": [*QUERIES, *seen], "heard": heard}
    first = services.prepare(trial, FOLDERS, aside=tmp_path / "1", **options)
    assert list(heard) == [TRIAL.runtime]
    monkeypatch.setattr(services.pruning, "input_norms", lambda *_: 1 / 0)
    again = services.prepare(trial, FOLDERS, aside=tmp_path / "2", **options)
    weights = [(one["vlm"] / "model.safetensors").read_bytes() for one in (first, again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["wanda", "structured"])
def test_a_part_that_no_calibration_reaches_is_told(method, tmp_path):
    with pytest.raises(ParameterError, match="norm"):
        load(replace(TRIAL, pruning=method, sparsity=0.3), tmp_path, calibration=QUERIES)


def test_a_role_that_is_missing_is_named():
    with pytest.raises(ParameterError, match="speech need a suite with asr, got 'no asr'"):
        load(replace(TRIAL, kind="speech"))


@pytest.mark.parametrize("name", ["compiled", "static_cache"])
def test_a_runtime_that_there_is_not_is_told(name):
    with pytest.raises(ParameterError, match=f"runtime.{name} must be false, got True; it is not"):
        load(replace(TRIAL, runtime=Runtime(**{name: True})))
