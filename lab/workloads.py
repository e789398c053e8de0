"""What a model has to multiply and to hold: the most that pruning it can save.

Owns the count of weights and multiplications by layer while a model runs, and what would be left of
both if every zero were skipped and not stored. Knows nothing of which weights are zero, or of what
really becomes faster or smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import layers
from lab.errors import ParameterError, message

if TYPE_CHECKING:
    import torch

FORMAT = (
    "a bit for each weight that tells whether it is zero, and then the weights that are not, in "
    "the dtype of the checkpoint (a bitmap): 1 + (1 - sparsity) * bits of a weight, so that "
    "16 bits become fewer from a sparsity of 1/16 on"
)


@dataclass(frozen=True)
class Workload:
    """What a model holds and did.

    Attributes:
        weights: by layer that can be pruned.
        multiplications: by such a layer, while the model ran; 0 for one that was not reached.
        others: multiplications of what cannot be pruned: the layer that names words, convolutions.
            Those within attention, of words with words, are not counted.
        stored_bytes: of the checkpoint.
        bits: of a weight in it.
    """

    weights: Mapping[str, int]
    multiplications: Mapping[str, int]
    others: int
    stored_bytes: int
    bits: int

    def with_zeros(self, left: Mapping[str, float]) -> Saved:
        """Return what is left if zeros are neither stored nor multiplied with.

        Args:
            left: share of its weights that are not zero, by layer.
        """
        self._check(left)
        bitmaps = sum(-(-count // 8) for count in self.weights.values())
        return Saved(self._bytes(left) + bitmaps, self._share(left))

    def with_fewer(self, left: Mapping[str, float]) -> Saved:
        """Return what is left if weights are gone: what stays needs no list of places.

        Args:
            left: share of its weights that stay, by layer.
        """
        self._check(left)
        return Saved(self._bytes(left), self._share(left))

    def _check(self, left: Mapping[str, float]) -> None:
        if missing := [name for name in self.weights if name not in left]:
            raise ParameterError(
                message(
                    "what is left must be told for every layer",
                    got=f"none for {missing[0]} and {len(missing) - 1} more",
                )
            )

    def _bytes(self, left: Mapping[str, float]) -> int:
        gone = sum(count - round(left[name] * count) for name, count in self.weights.items())
        return self.stored_bytes - gone * self.bits // 8

    def _share(self, left: Mapping[str, float]) -> float:
        whole = self.others + sum(self.multiplications.values())
        done = self.others + sum(left[name] * n for name, n in self.multiplications.items())
        return done / whole if whole else 1.0


@dataclass(frozen=True)
class Saved:
    """What is left in theory: bytes of the checkpoint, and share of the multiplications."""

    stored_bytes: int
    multiplications: float


def count(
    module: torch.nn.Module, run: Callable[[], object], *, stored_bytes: int, bits: int
) -> Workload:
    """Return what a model holds, and what it multiplies while ``run`` asks it.

    Args:
        module: as lab.layers.linear takes it.
        run: asks the model.
        stored_bytes: of its checkpoint.
        bits: of a weight in it.
    """
    import torch

    known = layers.linear(module)
    names = {layer: name for name, layer in known.items()}
    done = dict.fromkeys(known, 0)
    others = 0

    def linear(layer: torch.nn.Linear, _: object, out: Any) -> None:
        nonlocal others
        products = out.numel() * layer.in_features
        if layer in names:
            done[names[layer]] += products
        else:
            others += products

    def convolution(layer: Any, _: object, out: Any) -> None:
        nonlocal others
        others += out.numel() * layer.weight[0].numel()

    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    with ExitStack() as stack:
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                stack.callback(layer.register_forward_hook(linear).remove)
            elif isinstance(layer, convolutions):
                stack.callback(layer.register_forward_hook(convolution).remove)
        run()
    weights = {name: layer.weight.numel() for name, layer in known.items()}
    return Workload(weights, done, others, stored_bytes, bits)
