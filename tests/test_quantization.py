"""Tests of lab.quantization, on the shipped checkpoints: methods must do what they say."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from lab import lessons, models, quantization
from lab.errors import ParameterError
from lab.queries import Generation, Query

SHIPPED = ("vlm", "clip")
ON_A_CPU = tuple(
    name for name in quantization.METHODS if not quantization.obstacle(name, device="cpu")
)
QUESTIONS = [lessons.question(at, part="train", language="en").text for at in range(4)]


@pytest.fixture(scope="module")
def loaded():
    """Return each shipped role under each method that runs on a CPU."""
    return {
        (role, name): models.load(
            role,
            ROOT / "params" / "models" / "demo" / role,
            dtype=method.dtype,
            quantization=name if method.library else quantization.NONE,
        )
        for role in SHIPPED
        for name in ON_A_CPU
        for method in [quantization.METHODS[name]]
    }


def test_a_cpu_runs_these():
    assert set(quantization.METHODS) - set(ON_A_CPU) == {"fp16", "torchao_int4"}


@pytest.mark.parametrize(("name", "words"), [("fp16", "bf16"), ("torchao_int4", "nf4")])
def test_what_cannot_run_here_says_what_takes_as_little(name, words):
    assert f"{words} takes as little" in quantization.obstacle(name, device="cpu")


def test_a_quantization_that_cannot_run_here_is_refused():
    with pytest.raises(
        ParameterError, match=r"run on cpu, got 'torchao_int4'; torchao has no int4"
    ):
        quantization.on_loading("torchao_int4", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("name", ["bf16", "int3"])
def test_a_dtype_is_no_quantization(name):
    with pytest.raises(ParameterError, match=f"must be none or one of int8, nf4, .*got '{name}'"):
        models.load("clip", ROOT / "params/models/demo/clip", quantization=name)


def test_a_gpu_runs_half_precision():
    assert not quantization.obstacle("fp16", device="cuda:0")


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert quantization.obstacle("nf4", device="cuda") == "bitsandbytes is not installed"
    assert not quantization.obstacle("bf16", device="cpu")


def test_an_unknown_method_is_refused():
    with pytest.raises(ParameterError, match=r"method must be one of fp32, bf16, .*got 'int3'"):
        quantization.obstacle("int3", device="cpu")


@pytest.mark.parametrize(("name", "count"), [("fp32", 40), ("bf16", 20), ("int8", 10), ("nf4", 5)])
def test_theory_is_bits_times_parameters(name, count):
    assert quantization.theoretical_bytes(name, parameters=10) == count


def test_half_a_byte_is_a_byte():
    assert quantization.theoretical_bytes("fp4", parameters=3) == 2


@pytest.mark.parametrize("role", SHIPPED)
@pytest.mark.parametrize("name", ON_A_CPU)
def test_it_takes_more_than_in_theory_and_less_than_before(loaded, role, name):
    model = loaded[role, name]
    parameters = model.engine.checkpoint.parameters
    taken = model.loaded.loaded_bytes
    assert taken > quantization.theoretical_bytes(name, parameters=parameters)
    if name != "fp32":
        assert taken < loaded[role, "fp32"].loaded.loaded_bytes
    if quantization.METHODS[name].library:
        assert taken < loaded[role, "bf16"].loaded.loaded_bytes


@pytest.mark.parametrize("role", SHIPPED)
def test_constants_quantized_again_take_less(loaded, role):
    sizes = [loaded[role, name].loaded.loaded_bytes for name in ("nf4_double", "nf4", "int8")]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ON_A_CPU)
def test_it_says_nearly_the_same(loaded, name):
    """Rounding must not change what CLIP means; random weights would give a cosine near 0."""
    queries = [Query(text=text) for text in QUESTIONS]
    exact = np.stack([one.vector for one in loaded["clip", "fp32"].ask(queries)])
    rounded = np.stack([one.vector for one in loaded["clip", name].ask(queries)])
    cosines = (exact * rounded).sum(1)
    assert cosines.min() > 0.9
    assert (name == "fp32") == np.array_equal(exact, rounded)


@pytest.mark.parametrize("name", ON_A_CPU)
def test_it_answers_in_words_without_a_word_of_its_libraries(loaded, name, caplog):
    with caplog.at_level(logging.WARNING):
        answers = loaded["vlm", name].ask(
            [Query(text=text) for text in QUESTIONS], generation=Generation(most=8)
        )
    assert all(answer.text and not answer.error for answer in answers)
    assert not caplog.records


@pytest.mark.parametrize("name", [one for one in ON_A_CPU if quantization.METHODS[one].bits == 4])
def test_images_are_answered_in_4_bits(loaded, name):
    """Layers whose rows are no multiple of 32 fail on a fused path of some CPUs."""
    image = Image.new("RGB", (512, 512), "red")
    model = loaded["vlm", name]
    answers = model.ask(
        [Query(text=QUESTIONS[0], image=image), Query(text=QUESTIONS[1])],
        batch_size=1,
        generation=Generation(most=4),
    )
    assert all(answer.text and not answer.error for answer in answers)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((64, 128), True), ((160, 128), True), ((40, 128), False), ((64, 96), False)],
)
def test_layers_of_odd_shapes_take_no_fused_path_and_come_to_the_same(shape, fits):
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    rows, width = shape
    layer = bitsandbytes.nn.Linear4bit(width, rows, compute_dtype=torch.bfloat16, quant_type="nf4")
    exact = layer.weight.data.clone()
    module = torch.nn.Sequential(layer, torch.nn.LayerNorm(rows)).to("cpu")
    able = bool(layer.support_avx512bf16_for_cpu)  # of this CPU
    quantization.once_loaded(module, "nf4")
    assert bool(layer.support_avx512bf16_for_cpu) == (able and fits)
    given = torch.randn(3, width, dtype=torch.bfloat16)
    with torch.inference_mode():
        found = layer.eval()(given).float()
    wanted = given.float() @ exact.T + layer.bias.float()
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.98


# --- operators ------------------------------------------------------------------------------------


def _asked(model):
    return lambda: model.ask([Query(text=QUESTIONS[0])], generation=Generation(most=4))


def test_the_operators_of_a_method_are_those_that_ran(loaded):
    used = {
        name: [one.name for one in quantization.operators(_asked(loaded["vlm", name]), most=30)]
        for name in ("fp32", "int8", "torchao_int8")
    }
    assert "aten::addmm" in used["fp32"] or "aten::mm" in used["fp32"]
    assert any("int8" in name for name in used["int8"])
    assert any("_int_mm" in name for name in used["torchao_int8"])
    assert not any("int" in name for name in used["fp32"])


def test_shares_are_of_all_the_time(loaded):
    every = quantization.operators(_asked(loaded["vlm", "fp32"]), most=1_000)
    assert sum(one.share for one in every) == pytest.approx(1)
    assert [one.share for one in every] == sorted((one.share for one in every), reverse=True)
    assert quantization.operators(_asked(loaded["vlm", "fp32"]), most=2)[0].calls > 0


def test_nothing_that_ran_is_no_operator():
    assert quantization.operators(lambda: None) == []
