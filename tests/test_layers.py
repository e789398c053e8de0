"""Tests of lab.layers: what compression is about, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from conftest import small_llama

from lab.errors import ModelError
from lab.layers import is_quantized, linear


def test_words_are_left_alone_inside_another_model_too():
    inside = torch.nn.ModuleDict({"llm": small_llama(), "eye": torch.nn.Linear(3, 3)})
    assert len(linear(inside)) == 2 * 7 + 1
    assert all("lm_head" not in name for name in linear(inside))
    tied = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match="must have linear layers"):
        linear(tied)


def test_attention_that_multiplies_by_itself_is_left_alone():
    module = torch.nn.Sequential(torch.nn.MultiheadAttention(4, 2), torch.nn.Linear(4, 4))
    assert list(linear(module)) == ["1"]


def test_a_quantized_model_is_refused():
    class Linear4bit(torch.nn.Linear):
        """As bitsandbytes': a linear layer of its own kind."""

    model = torch.nn.Sequential(Linear4bit(4, 4))
    with pytest.raises(ModelError, match="prune first, then quantize"):
        linear(model)
    assert is_quantized(model)


def test_packed_weights_are_quantized_too():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    assert not is_quantized(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    assert is_quantized(model)
    with pytest.raises(ModelError, match="got 'Linear of Int8Tensor'"):
        linear(model)


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ModelError, match="must have linear layers"):
        linear(torch.nn.Sequential(torch.nn.ReLU()))
