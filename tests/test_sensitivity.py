"""Tests of lab.sensitivity: the shipped vlm, and what a layer is worth to it."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import ROOT

from lab import lessons, losses, models, params, sensitivity
from lab.errors import ParameterError
from lab.queries import Query
from lab.requests import Request

FOLDER = ROOT / "params" / "models" / "demo" / "vlm"
PROMPT = params.load("medical", root=ROOT).settings.system_prompt


def asked(count=2):
    return [
        Request(str(at), f"g{at}", "en", Query(text=text, language="en", system=PROMPT), "Yes.")
        for at, text in enumerate(["Do you have masks?", "Is it open?", "Who?"][:count])
    ]


@pytest.fixture(scope="module")
def engine():
    return models.load("vlm", FOLDER).engine


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Every ninth layer is enough: it does not matter which."""
    linear = sensitivity.layers.linear
    monkeypatch.setattr(
        sensitivity.layers, "linear", lambda module: dict([*linear(module).items()][::9])
    )


def weights(engine):
    return {name: value.clone() for name, value in engine.module.state_dict().items()}


def run(engine, some, *, told=None, **options):
    more = {"method": "l1", "sparsity": 0.5, "seed": 0} | options
    told = [] if told is None else told
    return sensitivity.of_layers(engine, some, progress=lambda *words: told.append(words), **more)


@pytest.mark.parametrize("method", ["l1", "wanda"])
def test_layers_that_are_reached_are_tried_and_all_weights_come_back(engine, method):
    before, told = weights(engine), []
    found = run(engine, asked(), method=method, told=told)
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # Words alone: nothing of the eyes.
    assert not any("vision" in one.layer for one in found)
    assert {one.groups for one in found} == {2}
    assert all(one.perplexity.low <= one.perplexity.value <= one.perplexity.high for one in found)
    assert len({one.perplexity.value for one in found}) == len(found) > 1
    assert told[0][1:] == (0, len(found))
    assert told[-1] == ("layers", len(found), len(found))


def test_the_ratio_is_what_pruning_that_layer_gives(engine):
    some = asked()
    found = run(engine, some, sparsity=0.7)[1]
    loss = losses.of(engine)

    def mean():
        with torch.inference_mode():
            each = [loss([losses.Example(one.query, one.wanted)]) for one in some]
        return sum(float(total) / count for total, count in each) / len(each)

    before = mean()
    layer = engine.module.get_submodule(found.layer)
    whole = layer.weight.detach().clone()
    lowest = whole.abs().flatten().argsort(stable=True)[: round(0.7 * whole.numel())]
    with torch.no_grad():
        layer.weight.view(-1)[lowest] = 0
        ratio = math.exp(mean() - before)
        layer.weight.copy_(whole)
    assert found.perplexity.value == pytest.approx(ratio, rel=1e-4)
    assert found.weights == whole.numel()


def test_pictures_reach_the_eyes(engine):
    picture = lessons.picture(0, part="exam").draw()
    seen = Request("p", "p", "en", Query(text="What is it?", image=picture), "A mask.")
    found = run(engine, [seen])
    assert any("vision" in one.layer for one in found)
    assert {one.perplexity.high for one in found} == {math.inf}  # of one group nothing is known


def test_one_group_is_one_however_many_items(engine):
    first, second = asked()
    together = [first, Request("1", "g0", "en", second.query, second.wanted)]
    assert {one.groups for one in run(engine, together)} == {1}


def test_weights_come_back_when_something_breaks(engine, monkeypatch):
    before = weights(engine)
    real, calls = sensitivity._perplexities, []

    def fail(*words):
        calls.append(words)
        if len(calls) == 3:
            raise RuntimeError("no memory")
        return real(*words)

    monkeypatch.setattr(sensitivity, "_perplexities", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run(engine, asked())
    after = weights(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_no_number_is_infinitely_worse(engine, monkeypatch):
    real, calls = sensitivity._perplexities, []

    def broken(*words):
        calls.append(words)
        return real(*words) if len(calls) == 1 else [math.nan, 1.0]

    monkeypatch.setattr(sensitivity, "_perplexities", broken)
    assert {one.perplexity.value for one in run(engine, asked())} == {math.inf}


@pytest.mark.parametrize(
    ("some", "options", "rule"),
    [
        ([], {}, "there must be a request"),
        (asked(), {"sparsity": 0.0}, r"sparsity must be in \(0, 1\), got 0"),
        (asked(), {"sparsity": 1.0}, r"sparsity must be in \(0, 1\)"),
        (asked(), {"method": "structured"}, "method must be l1 or wanda, got 'structured'"),
    ],
)
def test_what_is_refused(engine, some, options, rule):
    with pytest.raises(ParameterError, match=rule):
        run(engine, some, **options)


def test_a_role_without_words_is_refused():
    encoder = models.load("encoder", FOLDER.parent / "encoder").engine
    with pytest.raises(ParameterError, match="must be one of vlm, asr, got 'encoder'"):
        run(encoder, asked())
