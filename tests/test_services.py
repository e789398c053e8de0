"""Tests of lab.services: the shipped vlm, as trials have it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import ROOT

from lab import lessons, roles, services
from lab.errors import ModelError, ParameterError
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


def seen(service):
    """Return what a service says to words, alone and together, and to a picture."""
    picture = lessons.picture(0, part="train").draw()
    queries = [*QUERIES, Query(text=QUERIES[0].text, image=picture)]
    return [
        [one.text for one in service.ask(queries, batch_size=size, generation=SHORT)]
        for size in (1, 2, 1)
    ]


def test_a_static_cache_answers_as_a_growing_one():
    service = load(replace(TRIAL, runtime=Runtime(static_cache=True)))
    module = service.models["vlm"].engine.module
    caches = []
    module.register_forward_hook(lambda *words: caches.append(type(words[-1].past_key_values)))
    assert seen(service) == seen(load())
    assert {one.__name__ for one in caches} == {"StaticCache"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # in torch itself
@pytest.mark.parametrize("static", [True, False])
def test_what_torch_compiles_answers_as_eager(static):
    before = roles.compiling_s()
    service = load(replace(TRIAL, runtime=Runtime(compiled=True, static_cache=static)))
    assert roles.compiling_s() == before  # only when it is asked
    assert seen(service) == seen(load())
    compiled = roles.compiling_s()
    assert compiled > before
    service.ask(QUERIES, batch_size=2, generation=SHORT)
    assert roles.compiling_s() == compiled  # and then no more


def test_what_cannot_be_compiled_is_told(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    service = load(replace(TRIAL, runtime=Runtime(compiled=True)))
    with pytest.raises(
        ModelError, match=r"able to translate vlm, got .*No working.*; install a C\+\+"
    ):
        service.ask(QUERIES, batch_size=2, generation=SHORT)


def test_pruning_is_the_same_however_the_rest_is_run(tmp_path, monkeypatch):
    """What listens to the calibration and is thrown away need not be compiled."""
    monkeypatch.setattr(roles, "compile_steps", lambda _: 1 / 0)
    trial, heard = replace(TRIAL, pruning="wanda", sparsity=0.3), {}
    shown = [Query(text=QUERIES[0].text, image=lessons.picture(0, part="train").draw())]
    options = {"calibration": [*QUERIES, *shown], "heard": heard}
    for at, runtime in enumerate((Runtime(), Runtime(compiled=True, static_cache=True))):
        services.prepare(
            replace(trial, runtime=runtime), FOLDERS, aside=tmp_path / str(at), **options
        )
    assert list(heard) == [Runtime()]
