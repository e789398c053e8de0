"""Removing MLP neurons and attention heads: smaller matrices, which every kernel is faster with.

Owns which ones go, the cut through every matrix they run through, and the configuration that
describes what is left. The model's width and its words stay as they are. Knows nothing of tenants,
of how a model is asked, or of what slimming does to speed and quality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import layers
from lab.errors import ModelError, ParameterError, message

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_STEP = 8  # kernels like widths that are a multiple of it
# What goes into a block's units, and what comes out of them.
_MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),  # Llama and its kin
    (("fc1",), "fc2"),  # CLIP, SigLIP, Whisper
    (("lin1",), "lin2"),  # DistilBERT
    (("intermediate.dense",), "output.dense"),  # BERT
)
# Only this kind has a configuration that tells a head's width. With CLIP, Whisper and BERT it is
# the model's width by the number of heads, so that fewer heads could not be told.
_ATTENTIONS = ((("q_proj", "k_proj", "v_proj"), "o_proj"),)


@dataclass(frozen=True)
class Slimmed:
    """What slimming left.

    Attributes:
        before: parameters there were, shared ones once.
        parameters: that are left.
        neurons: that are left by MLP.
        heads: that are left by attention, where some can go.
    """

    before: int
    parameters: int
    neurons: Mapping[str, int]
    heads: Mapping[str, int]

    @property
    def removed(self) -> float:
        """Share of the parameters that is gone, [0, 1)."""
        return 1 - self.parameters / self.before


@dataclass(frozen=True, eq=False)
class _Block:
    """Units side by side, neurons or groups of heads that share a key and a value.

    Attributes:
        name: of the block in the model.
        into: layers that go into the units, each with equally many rows for each.
        out: the layer whose inputs the units are.
        out_name: its name in the model.
        units: how many there are.
        config: the nearest that counts them.
        fields: of the configuration, with how much one unit counts there.
    """

    name: str
    into: tuple[torch.nn.Linear, ...]
    out: torch.nn.Linear
    out_name: str
    units: int
    config: Any
    fields: Mapping[str, int]


def slim(
    module: torch.nn.Module,
    *,
    neurons: float = 0.0,
    heads: float = 0.0,
    norms: Mapping[str, Tensor] | None = None,
) -> Slimmed:
    """Remove the least important MLP neurons and attention heads of a model, in place.

    Importance: the L2 norm of all weights into and out of a unit (after Li et al. 2017,
    arXiv:1608.08710); with norms that of |weights out of it| * input_norm, the size of what it
    adds to the model's stream (after An et al. 2023, arXiv:2312.11983). Of equal ones the first go.

    Each layer keeps as many, so that a configuration can tell. Of n neurons the multiple of 8
    nearest to ``(1 - neurons) * n`` stays, at least 8; fewer than 16 are counted singly. Heads go
    in the groups that share a key and a value: of n groups the number nearest to
    ``(1 - heads) * n`` stays that the configuration admits, of two the larger one. Llama's admits
    those numbers of heads that divide the model's width. Heads of CLIP, Whisper and BERT stay:
    their configuration does not tell a head's width.

    Args:
        module: as lab.layers.linear takes it.
        neurons: share of each MLP that goes, [0, 1).
        heads: share of each attention that goes, [0, 1).
        norms: as of `lab.pruning.input_norms`.
    Returns: what is left.
    Raises: ParameterError if a share is out of range or a layer without norm; ModelError if the
        model is quantized, or there is nothing of a kind that shall go.
    """
    mlps, attentions = _mlps(module), _attentions(module)
    cuts = _cuts(module, mlps, attentions, neurons=neurons, heads=heads)
    kept = [(block, _most_important(block, left, norms)) for block, left in cuts]
    before = _parameters(module)
    for block, units in kept:
        _keep(block, units)
    configs = list(_configs(module))
    for block, left in cuts:
        same = [config for config in configs if type(config) is type(block.config)]
        for counting in (*same, module.get_submodule(block.name)):
            for field, count in block.fields.items():
                if hasattr(counting, field):
                    setattr(counting, field, count * left)
    return Slimmed(
        before,
        _parameters(module),
        {block.name: block.out.in_features for block in mlps},
        {block.name: block.out.in_features // block.config.head_dim for block in attentions},
    )


def shares_left(
    module: torch.nn.Module, *, neurons: float = 0.0, heads: float = 0.0
) -> dict[str, float]:
    """Return the share of its weights that each layer would keep; the model stays as it is.

    Arguments and errors as of `slim`.
    """
    names = {layer: name for name, layer in layers.linear(module).items()}
    shares = dict.fromkeys(names.values(), 1.0)
    cuts = _cuts(module, _mlps(module), _attentions(module), neurons=neurons, heads=heads)
    for block, stay in cuts:
        for layer in (*block.into, block.out):
            shares[names[layer]] = stay / block.units
    return shares


def _cuts(
    module: torch.nn.Module,
    mlps: list[_Block],
    attentions: list[_Block],
    *,
    neurons: float,
    heads: float,
) -> list[tuple[_Block, int]]:
    """Return how many units of each block stay, of the blocks that shall lose some."""
    for name, share in (("neurons", neurons), ("heads", heads)):
        if not 0 <= share < 1:
            raise ParameterError(message(f"sparsity of {name} must be in [0, 1)", got=share))
    for name, share, blocks in (("neurons", neurons, mlps), ("heads", heads, attentions)):
        if share and not blocks:
            raise ModelError(
                message(
                    f"a model to lose {name} must have a configuration that counts them",
                    got=type(module).__name__,
                    remedy=f"leave the sparsity of {name} at 0",
                )
            )
    cuts = [(block, _neurons_left(block, neurons)) for block in mlps if neurons]
    return cuts + [(block, _groups_left(block, heads)) for block in attentions if heads]


# --- what there is --------------------------------------------------------------------------------


def _mlps(module: torch.nn.Module) -> list[_Block]:
    found = []
    for name, into, out_name, out in _matching(module, _MLPS):
        side = "encoder" if ".encoder." in f".{name}." else "decoder"
        fields = ("intermediate_size", "hidden_dim", f"{side}_ffn_dim")
        for config in _configs_above(module, name):
            counting = [one for one in fields if getattr(config, one, None) == out.in_features]
            if counting:
                units = out.in_features
                found.append(_Block(name, into, out, out_name, units, config, {counting[0]: 1}))
                break
    return found


def _attentions(module: torch.nn.Module) -> list[_Block]:
    found = []
    for name, into, out_name, out in _matching(module, _ATTENTIONS):
        for config in _configs_above(module, name):
            width = getattr(config, "head_dim", None)
            groups = getattr(config, "num_key_value_heads", None)
            if width and groups and into[1].out_features == groups * width:
                each = out.in_features // width // groups
                fields = {"num_attention_heads": each, "num_key_value_heads": 1}
                found.append(_Block(name, into, out, out_name, groups, config, fields))
                break
    return found


def _matching(
    module: torch.nn.Module, patterns: tuple[tuple[tuple[str, ...], str], ...]
) -> Iterator[tuple[str, tuple[torch.nn.Linear, ...], str, torch.nn.Linear]]:
    """Yield name, layers going in, name of the layer going out, and that layer, of each block."""
    known = layers.linear(module)
    for first in known:
        for into, out in patterns:
            if f".{first}".endswith(f".{into[0]}"):
                prefix = first.removesuffix(into[0])
                if all(prefix + one in known for one in (*into, out)):
                    given = tuple(known[prefix + one] for one in into)
                    yield prefix.rstrip("."), given, prefix + out, known[prefix + out]


def _configs_above(module: torch.nn.Module, name: str) -> Iterator[Any]:
    """Yield the configurations of a module and of those around it, the nearest first."""
    parts = name.split(".")
    for end in range(len(parts), -1, -1):
        config = getattr(module.get_submodule(".".join(parts[:end])), "config", None)
        if config is not None:
            yield config


def _configs(module: torch.nn.Module) -> Iterator[Any]:
    """Yield every configuration in a model: parts may have copies of those inside the whole's."""
    for part in module.modules():
        config = getattr(part, "config", None)
        if config is not None:
            yield config
            for name in getattr(config, "sub_configs", ()):
                yield getattr(config, name)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- what goes ------------------------------------------------------------------------------------


def _neurons_left(block: _Block, share: float) -> int:
    step = _STEP if block.units >= 2 * _STEP else 1
    return min(block.units, step * max(1, round((1 - share) * block.units / step)))


def _groups_left(block: _Block, share: float) -> int:
    from huggingface_hub.errors import StrictDataclassError

    def admitted(left: int) -> bool:
        config = deepcopy(block.config)
        try:
            for field, count in block.fields.items():
                setattr(config, field, count * left)
            config.validate()
        except StrictDataclassError:
            return False
        return True

    able = [left for left in range(block.units, 0, -1) if left == block.units or admitted(left)]
    return min(able, key=lambda left: abs(left - (1 - share) * block.units))


def _most_important(block: _Block, left: int, norms: Mapping[str, Tensor] | None) -> Tensor:
    """Return the units that stay, in their order."""
    squares = block.out.weight.detach().float().pow(2).sum(0)
    if norms is None:
        scores = squares.view(block.units, -1).sum(1)
        for layer in block.into:
            rows = layer.weight.detach().float().pow(2).sum(1)
            scores = scores + rows.view(block.units, -1).sum(1)
    elif block.out_name in norms:
        scores = (squares * norms[block.out_name].pow(2)).view(block.units, -1).sum(1)
    else:
        raise ParameterError(
            message(
                "calibrated slimming needs the norm of every block's inputs",
                got=f"none for {block.out_name}",
                remedy="calibrate with items of every kind that the model takes",
            )
        )
    return scores.argsort(stable=True)[block.units - left :].sort().values


def _keep(block: _Block, units: Tensor) -> None:
    import torch

    def part(tensor: Tensor, dim: int) -> torch.nn.Parameter:
        places = torch.arange(tensor.shape[dim], device=tensor.device).view(block.units, -1)
        some = tensor.detach().index_select(dim, places[units].flatten())
        return torch.nn.Parameter(some, requires_grad=tensor.requires_grad)

    for layer in block.into:
        layer.weight = part(layer.weight, 0)
        if layer.bias is not None:
            layer.bias = part(layer.bias, 0)
        layer.out_features = len(layer.weight)
    block.out.weight = part(block.out.weight, 1)
    block.out.in_features = block.out.weight.shape[1]
