"""The training loop: steps that a kill does not lose, the same for a seed, with progress.

Owns the schedule, the optimizer, checkpoints and the record of the loss. Knows nothing of what is
learnt: a recipe gives it a loss as a function of the step, so that going on after a kill is going
on with the same items.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import ParameterError, message

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
CHECKPOINT = "training.pt"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: optimizer steps.
        learning_rate: at its highest, after the warm-up; then it falls along a cosine to a
            hundredth.
        warmup: share of the steps in which it rises, [0, 1).
        weight_decay: of matrices only (Loshchilov and Hutter 2019, arXiv:1711.05101).
        seed: of dropout; the items have their own.
        bf16: compute in bfloat16 where that is safe, keep the weights in float32.
        clip_norm: largest norm of the gradient.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.05
    weight_decay: float = 0.05
    seed: int = 0
    bf16: bool = True
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, math.inf),
            ("learning_rate", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ParameterError(
                    message(f"{name} must be between {low:g} and {high:g}", got=value)
                )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, 0 <= step < steps."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        share = (step - rise) / max(1, self.steps - rise)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass(frozen=True)
class Trained:
    """What a training was: its losses (one per step), and how long it took, kills not counted."""

    losses: tuple[float, ...]
    seconds: float

    def mean_loss(self, share: float) -> float:
        """Return the mean loss of the first (share > 0) or last (share < 0) part of the steps."""
        count = max(1, round(abs(share) * len(self.losses)))
        part = self.losses[:count] if share > 0 else self.losses[-count:]
        return sum(part) / len(part)


def device() -> str:
    """Return what the recipes run on: ``cuda`` where this torch can use a GPU, else ``cpu``.

    Unlike lab.machine, which asks the driver: a torch built for the CPU cannot use what that finds.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(
    modules: Iterable[torch.nn.Module],
    loss_of: Callable[[int], torch.Tensor],
    schedule: Schedule,
    folder: Path,
    *,
    recipe: str = "",
    progress: Progress | None = None,
    save_every_s: float = 60.0,
) -> Trained:
    """Train modules in place; started again after a kill, go on from the last checkpoint.

    Args:
        modules: what learns, on one device; parameters that need no gradient are left alone.
        loss_of: step -> a scalar loss; must depend on the step and the modules only.
        schedule: see there.
        folder: where ``training.pt`` is kept while the training is under way, made if need be.
        recipe: what else decides the outcome; a checkpoint of another recipe is not gone on with.
        progress: called with (stage, done, total) about once a second.
        save_every_s: seconds between checkpoints.
    Returns: the losses; the modules are then in training mode still.
    Raises: ParameterError if the loss is not finite.
    """
    import torch

    _keep_memory()
    together = torch.nn.ModuleList(modules)
    together.train()
    optimizer = _optimizer(together, schedule)
    identity = hashlib.sha256(json.dumps([asdict(schedule), recipe]).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CHECKPOINT
    losses: list[float] = []
    spent = 0.0
    torch.manual_seed(schedule.seed)
    if (state := _load(file, identity)) is not None:
        together.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        torch.cuda.set_rng_state_all(state["cuda_rng"])
        losses, spent = state["losses"], state["seconds"]
    kind = next(together.parameters()).device.type
    started = saved = told = time.monotonic()
    for step in range(len(losses), schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.autocast(kind, torch.bfloat16, enabled=schedule.bf16):
            loss = loss_of(step)
        if not torch.isfinite(loss):
            raise ParameterError(
                message(
                    "the loss must stay finite",
                    got=float(loss.detach()),
                    place=f"step {step}",
                    remedy="lower the learning rate",
                )
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(together.parameters(), schedule.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        now = time.monotonic()
        if progress and (now - told > 1 or step + 1 == schedule.steps):
            told = now
            recent = losses[-50:]
            progress(f"loss {sum(recent) / len(recent):.3f}", step + 1, schedule.steps)
        if now - saved > save_every_s or step + 1 == schedule.steps:
            saved = now
            _save(
                file,
                {
                    "identity": identity,
                    "modules": together.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": torch.get_rng_state(),
                    "cuda_rng": torch.cuda.get_rng_state_all() if kind == "cuda" else [],
                    "losses": losses,
                    "seconds": spent + now - started,
                },
            )
    return Trained(tuple(losses), spent + time.monotonic() - started)


def _keep_memory() -> None:
    """Let the allocator keep what was freed: each step asks for the same large blocks again.

    Without it a fifth of the time went into pages that were handed back and faulted in again.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, 2**31 - 1)


def _optimizer(module: torch.nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    import torch

    learning = [value for value in module.parameters() if value.requires_grad]
    groups = [
        {"params": [value for value in learning if value.ndim >= 2]},
        {"params": [value for value in learning if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        betas=(0.9, 0.98),
        fused=True,
    )


def _load(file: Path, identity: str) -> dict | None:
    import torch

    if not file.exists():
        return None
    # weights_only: nothing in the file can run code.
    state = torch.load(file, weights_only=True, map_location="cpu")
    return state if state["identity"] == identity else None


def _save(file: Path, state: dict) -> None:
    import torch

    aside = file.with_suffix(".part")
    with aside.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
