from __future__ import annotations

import pytest
import torch
from conftest import small_llama

from lab import layers, slimming, workloads
from lab.errors import ParameterError
from lab.workloads import Workload

# Two layers of 16 bits, 100 bytes beside them; the second does most of the work.
HAND = Workload({"a": 80, "b": 160}, {"a": 80, "b": 1600}, 320, 580, 16)


def test_zeros_that_are_not_stored_leave_a_bit_each():
    saved = HAND.with_zeros({"a": 0.5, "b": 0.75})
    # 100 beside; a: 10 + 40 * 2; b: 20 + 120 * 2.
    assert saved.stored_bytes == 100 + 90 + 260
    assert saved.multiplications == pytest.approx((320 + 40 + 1200) / 2000)


def test_weights_that_are_gone_leave_nothing():
    saved = HAND.with_fewer({"a": 0.5, "b": 0.75})
    assert saved.stored_bytes == 100 + 80 + 240
    assert saved.multiplications == pytest.approx(0.78)


def test_a_dense_model_loses_nothing_but_a_bitmap_costs():
    whole = {"a": 1.0, "b": 1.0}
    assert HAND.with_fewer(whole) == workloads.Saved(580, 1.0)
    assert HAND.with_zeros(whole) == workloads.Saved(580 + 30, 1.0)
    # From 1 / 16 on a bitmap pays for itself.
    assert HAND.with_zeros(dict.fromkeys(whole, 15 / 16)).stored_bytes == 580


def test_a_model_that_did_nothing_has_nothing_to_lose():
    idle = Workload({"a": 8}, {"a": 0}, 0, 16, 16)
    assert idle.with_zeros({"a": 0.5}).multiplications == 1.0


def test_every_layer_must_be_told():
    with pytest.raises(ParameterError, match="every layer, got 'none for b and 0 more'"):
        HAND.with_zeros({"a": 0.5})


def test_multiplications_of_a_real_model():
    model = small_llama()
    ids = torch.arange(7)[None]
    with torch.inference_mode():
        found = workloads.count(model, lambda: model(ids), stored_bytes=999, bits=32)
    known = layers.linear(model)
    assert found.weights == {name: layer.weight.numel() for name, layer in known.items()}
    # Seven words go through every layer; the head, tied to the words, is not one of them.
    assert found.multiplications == {name: 7 * n for name, n in found.weights.items()}
    assert found.others == 7 * 16 * 50
    assert not any(layer._forward_hooks for layer in model.modules())


def test_convolutions_count():
    model = torch.nn.Sequential(
        torch.nn.Conv1d(2, 3, kernel_size=4), torch.nn.Linear(5, 6, bias=False)
    )
    found = workloads.count(model, lambda: model(torch.ones(1, 2, 8)), stored_bytes=9, bits=32)
    assert found.others == 3 * 5 * 2 * 4
    assert found.multiplications == {"1": 3 * 6 * 5}


def test_slimming_keeps_what_it_promised():
    model = small_llama()
    before = {name: layer.weight.numel() for name, layer in layers.linear(model).items()}
    shares = slimming.shares_left(model, neurons=0.4, heads=0.5)
    assert {name: layer.weight.numel() for name, layer in layers.linear(model).items()} == before
    slimming.slim(model, neurons=0.4, heads=0.5)
    after = {name: layer.weight.numel() for name, layer in layers.linear(model).items()}
    assert after == {name: round(shares[name] * count) for name, count in before.items()}
    assert set(shares.values()) == {0.5, 2 / 3}
