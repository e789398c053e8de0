"""Setting weights to zero: which ones, by which rule, and how many there are then.

Owns the unstructured methods, as functions of a weight and over a whole model. Knows nothing of
tenants, of how a model is asked, or of what pruning does to speed and quality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab import layers
from lab.errors import ParameterError, ShapeError, message

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Method = Literal["l1", "wanda"]


@dataclass(frozen=True)
class Pruned:
    """What pruning left.

    Attributes:
        weights: that could have been pruned.
        zeros: of them that are zero now, those that were before included.
        layers: share of zeros by layer.
    """

    weights: int
    zeros: int
    layers: Mapping[str, float]

    @property
    def sparsity(self) -> float:
        """Share of zeros, [0, 1]."""
        return self.zeros / self.weights


# --- one weight -----------------------------------------------------------------------------------


def prune_l1(weight: Tensor, *, sparsity: float) -> Tensor:
    """Zero the smallest weights of a layer, wherever they are.

    Score: |weight| (Han et al. 2015, arXiv:1506.02626), as torch.nn.utils.prune.l1_unstructured.

    Args:
        weight: (out_features, in_features).
        sparsity: share that is zeroed, [0, 1); of n weights ``round(sparsity * n)``.
    Returns: a pruned copy, same shape.
    Raises: ParameterError if sparsity is out of range, ShapeError unless weight is a matrix.
    """
    _refuse(weight, sparsity)
    return _without_lowest(weight.reshape(1, -1), weight.abs().reshape(1, -1), sparsity).view_as(
        weight
    )


def prune_wanda(weight: Tensor, input_norm: Tensor, *, sparsity: float) -> Tensor:
    """Zero the lowest-scoring weights of each output row.

    Score: |weight| * input_norm (Sun et al. 2023, arXiv:2306.11695).

    Args:
        weight: (out_features, in_features).
        input_norm: (in_features,), L2 norm over the calibration tokens.
        sparsity: share of each row that is zeroed, [0, 1); of n weights ``round(sparsity * n)``.
    Returns: a pruned copy, same shape.
    Raises: ParameterError if sparsity is out of range; ShapeError if the shapes differ.
    """
    _refuse(weight, sparsity)
    if input_norm.shape != weight.shape[1:]:
        raise ShapeError(
            message(
                "input_norm must have a value for each input of the weight",
                got=f"{tuple(input_norm.shape)} for {tuple(weight.shape)}",
            )
        )
    # In float32: of bfloat16 products many would be equal.
    scores = weight.abs().float() * input_norm.float()
    return _without_lowest(weight, scores, sparsity)


def _without_lowest(weight: Tensor, scores: Tensor, sparsity: float) -> Tensor:
    """Return a copy in which the lowest scores of each row are zero; of equal ones the first."""
    count = round(sparsity * weight.shape[1])
    lowest = scores.argsort(dim=1, stable=True)[:, :count]
    return weight.scatter(1, lowest, 0.0)


def _refuse(weight: Tensor, sparsity: float) -> None:
    if not 0 <= sparsity < 1:
        raise ParameterError(message("sparsity must be in [0, 1)", got=sparsity))
    if weight.ndim != 2:
        raise ShapeError(message("a weight must be a matrix", got=tuple(weight.shape)))


# --- a model --------------------------------------------------------------------------------------


def input_norms(module: torch.nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """Return the L2 norm of each layer's inputs over whatever ``run`` asks of the model.

    Args:
        module: the model, as lab.layers.linear takes it.
        run: asks the model about the calibration items, one at a time: padding would count too.
    Returns: (in_features,) float32 by layer; layers that were not reached are left out.
    """
    squares: dict[str, Tensor] = {}

    def listen(name: str) -> Callable[..., None]:
        def hook(_: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            total = given[0].detach().float().pow(2).flatten(0, -2).sum(0)
            squares[name] = squares[name] + total if name in squares else total

        return hook

    with ExitStack() as stack:
        for name, layer in layers.linear(module).items():
            stack.callback(layer.register_forward_pre_hook(listen(name)).remove)
        run()
    return {name: total.sqrt() for name, total in squares.items()}


def prune(
    module: torch.nn.Module,
    *,
    method: Method,
    sparsity: float,
    norms: Mapping[str, Tensor] | None = None,
) -> Pruned:
    """Prune a model in place.

    Args:
        module: as lab.layers.linear takes it.
        method: ``l1`` needs nothing else, ``wanda`` the norms.
        sparsity: of each layer, [0, 1).
        norms: as of `input_norms`.
    Returns: what is zero now.
    Raises: ParameterError if the method is unknown, sparsity out of range or a layer without norm.
    """
    import torch

    if method not in ("l1", "wanda"):
        raise ParameterError(message("method must be l1 or wanda", got=method))
    known = layers.linear(module)
    if method == "wanda" and (unheard := [name for name in known if name not in (norms or {})]):
        raise ParameterError(
            message(
                "wanda needs the norm of every layer's inputs",
                got=f"none for {unheard[0]} and {len(unheard) - 1} more",
                remedy="calibrate with items of every kind that the model takes",
            )
        )
    shares, zeros, weights = {}, 0, 0
    with torch.no_grad():
        for name, layer in known.items():
            if method == "l1":
                pruned = prune_l1(layer.weight, sparsity=sparsity)
            else:
                pruned = prune_wanda(layer.weight, norms[name], sparsity=sparsity)
            layer.weight.copy_(pruned)
            nothing = int((pruned == 0).sum())
            shares[name] = nothing / pruned.numel()
            zeros, weights = zeros + nothing, weights + pruned.numel()
    return Pruned(weights, zeros, shares)
