"""How much a model needs each of its layers: one is pruned at a time, all others stay whole.

Owns that experiment. Knows nothing of tenants, of what pruning all layers together does, or of
how the requests were chosen: the right answers come with them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import layers, losses, pruning
from lab.errors import ParameterError, message
from lab.losses import Example
from lab.requests import Request
from lab.roles import Engine
from lab.stats import Interval, block_ratio

if TYPE_CHECKING:
    import torch

ROLES = ("vlm", "asr")  # whose examples have a loss each, without others beside them
RULE = (
    "Perplexity of the right answers, the geometric mean over items, with one layer pruned, "
    "over that of the whole model (layers pruned one at a time: Li et al. 2017, arXiv:1608.08710); "
    "95 % interval over groups of items"
)
_MOST_NATS = 700.0  # above, a perplexity could not be told from infinity
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sensitivity:
    """What became of a model's perplexity.

    Attributes:
        layer: the one that was pruned.
        weights: of it.
        perplexity: with the layer pruned over without; 1.05 is 5 % worse. Infinite if it is not a
            number any more.
        groups: of items, that it is the mean of.
    """

    layer: str
    weights: int
    perplexity: Interval
    groups: int


def of_layers(
    engine: Engine,
    asked: Sequence[Request],
    *,
    method: pruning.Method,
    sparsity: float,
    seed: int,
    progress: Progress,
) -> tuple[Sensitivity, ...]:
    """Prune each layer alone, and see what becomes of the perplexity of the right answers.

    The model comes out with the weights it came with, bit by bit, whatever happens.

    Args:
        engine: vlm or asr, not quantized.
        asked: with what should come back; a group counts as one. Wanda listens to them too.
        method: l1 or wanda.
        sparsity: of the layer, (0, 1).
        seed: of the bootstrap.
        progress: called with (stage, done, total).
    Returns: of every layer that the requests reach, in the model's order.
    Raises: ParameterError if there is no request, the role has no loss of one, or the method or
        the sparsity is not one; ModelError if the model is quantized.
    """
    import torch

    if engine.role not in ROLES:
        rule = f"a role whose layers are tried must be one of {', '.join(ROLES)}"
        raise ParameterError(message(rule, got=engine.role))
    if not asked:
        raise ParameterError(message("there must be a request to try layers on", got=0))
    if not 0 < sparsity < 1:
        raise ParameterError(message("sparsity must be in (0, 1)", got=sparsity))
    loss, before = losses.of(engine), []
    examples = defaultdict(list)
    for one in asked:
        examples[one.group].append(Example(one.query, one.wanted))
    groups = list(examples.values())

    def listen() -> None:
        before.extend(_perplexities(loss, groups))

    with torch.inference_mode():
        norms = pruning.input_norms(engine.module, listen)
        reached = {
            name: layer for name, layer in layers.linear(engine.module).items() if name in norms
        }
        found = []
        for at, (name, layer) in enumerate(reached.items()):
            progress(f"without a part of {name}", at, len(reached))
            whole = layer.weight.detach().clone()
            try:
                layer.weight.copy_(_pruned(whole, norms[name], method, sparsity))
                after = _perplexities(loss, groups)
            finally:
                layer.weight.copy_(whole)
            ratio = Interval(math.inf, math.inf, math.inf)
            if all(map(math.isfinite, after)):
                ratio = block_ratio(before, after, seed=seed)
            found.append(Sensitivity(name, whole.numel(), ratio, len(before)))
    progress("layers", len(reached), len(reached))
    return tuple(found)


def _pruned(
    weight: torch.Tensor, norm: torch.Tensor, method: pruning.Method, sparsity: float
) -> torch.Tensor:
    if method == "l1":
        return pruning.prune_l1(weight, sparsity=sparsity)
    if method == "wanda":
        return pruning.prune_wanda(weight, norm, sparsity=sparsity)
    raise ParameterError(message("method must be l1 or wanda", got=method))


def _perplexities(loss: losses.Loss, groups: Sequence[Sequence[Example]]) -> list[float]:
    """Return one for each group: of all its tokens."""
    sums = [loss(some) for some in groups]
    return [math.exp(min(float(total) / tokens, _MOST_NATS)) for total, tokens in sums]
