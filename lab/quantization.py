"""Weights of fewer bits: the methods, which of them a device can run, and what then does the work.

Owns the methods' names, the settings their libraries are given, and a look at the
operators that multiply once a model runs. Knows nothing of tenants, of loading, or of what a method
does to quality.

bitsandbytes stores 4 bits as NF4 or FP4 (Dettmers et al. 2023, arXiv:2305.14314) and 8 bits with
outliers apart (LLM.int8, Dettmers et al. 2022, arXiv:2208.07339); torchao has its own int8, with
activations quantized on the fly, and int4.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab import layers
from lab.errors import ParameterError, message

if TYPE_CHECKING:
    import torch

GROUP_SIZE = 64  # weights that share a constant in torchao's 4 bits; as bitsandbytes'
_ROWS = 32  # that bitsandbytes' fused path of a CPU takes at a time


@dataclass(frozen=True)
class Method:
    """One way of storing weights.

    Attributes:
        dtype: that the computation is best done in, and that the other weights have.
        bits: of a weight, without the constants it shares with others.
        library: that quantizes; empty if the weights are only cast.
        settings: of that library.
    """

    dtype: str
    bits: int
    library: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def _four_bits(kind: str, *, double: bool = False) -> Method:
    # In bfloat16, because the fused path of a CPU takes nothing else.
    settings = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": double,
    }
    return Method("bfloat16", 4, "bitsandbytes", settings)


METHODS: Mapping[str, Method] = {
    "fp32": Method("float32", 32),
    "bf16": Method("bfloat16", 16),
    "fp16": Method("float16", 16),
    "int8": Method("bfloat16", 8, "bitsandbytes", {"load_in_8bit": True}),
    "nf4": _four_bits("nf4"),
    "nf4_double": _four_bits("nf4", double=True),
    "fp4": _four_bits("fp4"),
    "fp4_double": _four_bits("fp4", double=True),
    "torchao_int8": Method("bfloat16", 8, "torchao"),
    "torchao_int4": Method("bfloat16", 4, "torchao"),
}
NONE = "none"  # the weights have the dtype that is asked for, and no library quantizes
QUANTIZED = tuple(name for name, one in METHODS.items() if one.library)


def method(name: str) -> Method:
    """Return a method by its name.

    Raises: ParameterError if there is none.
    """
    if name not in METHODS:
        raise ParameterError(message(f"method must be one of {', '.join(METHODS)}", got=name))
    return METHODS[name]


def obstacle(name: str, *, device: str) -> str:
    """Return why a device cannot run a method, for people to read; empty if it can.

    Args:
        name: of METHODS.
        device: cpu, cuda or cuda:N, which is there.
    Raises: ParameterError if there is no such method.
    """
    chosen = method(name)
    if chosen.library and importlib.util.find_spec(chosen.library) is None:
        return f"{chosen.library} is not installed"
    on_gpu = device.startswith("cuda")
    if name == "fp16" and not on_gpu:
        return "a CPU gains nothing by float16; bf16 takes as little"
    if name == "torchao_int4" and not on_gpu:
        return "torchao has no int4 kernel for a CPU; nf4 takes as little"
    if name == "torchao_int4" and importlib.util.find_spec("mslk") is None:
        return "torchao's int4 kernels need the package mslk"
    return ""


def on_loading(name: str, *, dtype: str, device: str) -> Any:
    """Return the config by which transformers quantizes weights as they come, or None.

    Args:
        name: of QUANTIZED, or ``none``.
        dtype: of the computation, as torch names it.
        device: cpu, cuda or cuda:N, which is there.
    Raises: ParameterError if there is no such method, or the device cannot run it.
    """
    if name == NONE:
        return None
    if name not in QUANTIZED:
        rule = f"quantization must be {NONE} or one of {', '.join(QUANTIZED)}"
        raise ParameterError(message(rule, got=name))
    if problem := obstacle(name, device=device):
        rule = f"quantization must run on {device}"
        raise ParameterError(message(rule, got=name, remedy=problem))
    chosen = METHODS[name]
    if chosen.library != "bitsandbytes":
        return None
    from transformers import BitsAndBytesConfig

    settings = dict(chosen.settings)
    if chosen.bits == 4:
        settings["bnb_4bit_compute_dtype"] = dtype
    return BitsAndBytesConfig(**settings)


def once_loaded(module: torch.nn.Module, name: str) -> None:
    """Quantize in place what `on_loading` could not: torchao's methods; see that layers can run.

    transformers has a config for torchao too, but fails on models without one embedding of words,
    such as CLIP. Layers are those of lab.layers. The fused path that bitsandbytes 0.50 takes on
    CPUs with bfloat16 fails on 4-bit layers whose shape it does not divide: those unpack their
    weights and multiply as they do on other CPUs.

    Args:
        module: loaded, in the dtype of the computation.
        name: of QUANTIZED, or ``none``.
    Raises: ModelError if it is quantized already.
    """
    if name == NONE:
        return
    if METHODS[name].library == "bitsandbytes":
        for layer in module.modules():
            state = getattr(getattr(layer, "weight", None), "quant_state", None)
            if state is not None and (state.shape[0] % _ROWS or state.shape[1] % state.blocksize):
                layer.support_avx512bf16_for_cpu = False
        return
    from torchao.quantization import (
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    config = (
        Int4WeightOnlyConfig(group_size=GROUP_SIZE)
        if name == "torchao_int4"
        else Int8DynamicActivationInt8WeightConfig()
    )
    chosen = set(layers.linear(module).values())
    quantize_(module, config, filter_fn=lambda layer, _: layer in chosen)


def theoretical_bytes(name: str, *, parameters: int) -> int:
    """Return what a model would take if each parameter took its bits and nothing else did.

    It takes more: constants, and layers that stay as they are, such as embeddings and norms.

    Args:
        name: of METHODS.
        parameters: of the model.
    """
    return -(-parameters * method(name).bits // 8)


# --- what does the work ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Operator:
    """An operator of torch that ran: its name, how often, and its share of the time, [0, 1]."""

    name: str
    calls: int
    share: float


def operators(run: Callable[[], object], *, device: str = "cpu", most: int = 5) -> list[Operator]:
    """Return the operators that took most of the time while a model ran, most first.

    What a method says it does and what runs are two things: a library that lacks a kernel for a
    device or a shape unpacks the weights and multiplies as before.

    Args:
        run: asks the model; called once to get ready and once to be watched.
        device: where the model is; of a GPU the kernels are told, of a CPU torch's operators.
        most: operators returned.
    Returns: with the time each took by itself; the shares are of all, so they sum to at most 1.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    run()
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # acc_events: what torch 2.13 keeps of a finished profile is asked for by name, or it warns.
    with profile(activities=activities, acc_events=True) as watched:
        run()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    times = {
        one.key: (one.self_device_time_total if on_gpu else one.self_cpu_time_total, one.count)
        for one in watched.key_averages()
        if one.device_type == kind  # an operator's row tells its kernels' time once more
    }
    total = sum(spent for spent, _ in times.values())
    order = sorted(times, key=lambda name: -times[name][0])[:most]
    return [
        Operator(name, times[name][1], times[name][0] / total)
        for name in order
        if total and times[name][0]
    ]
