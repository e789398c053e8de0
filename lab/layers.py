"""Which layers of a model compression is about.

Owns that choice, so that pruning and quantization mean the same layers. Knows of neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lab.errors import ModelError, message

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def linear(module: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Return the linear layers of floating-point weights, by name.

    Not those that name words, which share their weight with an embedding in many models: its
    rows are words, and to be looked up they must be there. Nor the projection that torch's own
    attention multiplies with by itself: nothing shows what goes into it, and other weights than
    torch's would not be used.

    Raises: ModelError if a layer is quantized already, or there is none.
    """
    words = _words(module)
    found = {}
    for name, layer in _linear(module):
        if any(layer.weight is one for one in words):
            continue
        if _is_quantized(layer):
            raise ModelError(
                message(
                    "only a model that is not quantized can be compressed",
                    got=f"{type(layer).__name__} of {type(layer.weight).__name__}",
                    place=name,
                    remedy="prune first, then quantize",
                )
            )
        found[name] = layer
    if not found:
        raise ModelError(
            message("a model to be compressed must have linear layers", got=type(module).__name__)
        )
    return found


def is_quantized(module: torch.nn.Module) -> bool:
    """Tell whether a linear layer of a model is quantized, by whichever library."""
    return any(_is_quantized(layer) for _, layer in _linear(module))


def _linear(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Yield name and layer of all that others can multiply with."""
    import torch

    unseen = torch.nn.modules.linear.NonDynamicallyQuantizableLinear
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and not isinstance(layer, unseen):
            yield name, layer


def _is_quantized(layer: torch.nn.Linear) -> bool:
    """Libraries put in a layer of their own kind, or a weight with packed parts behind it."""
    import torch

    weight = layer.weight
    return (
        type(layer) is not torch.nn.Linear
        or not weight.is_floating_point()
        or hasattr(weight, "__tensor_flatten__")
    )


def _words(module: torch.nn.Module) -> list[Tensor]:
    """Return the weights that stand for words, going in or coming out."""
    import torch

    found = []
    for part in module.modules():
        if isinstance(part, torch.nn.Embedding):
            found.append(part.weight)
        try:
            head = part.get_output_embeddings()
        except (AttributeError, NotImplementedError):
            continue
        if head is not None:
            found.append(head.weight)
    return found
