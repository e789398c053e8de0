"""Fine-tuning of any checkpoint that lab.models loads, on examples of what it should answer.

Owns what is refused, low-rank adapters, which examples a step takes, the loss on held out examples
after each epoch, and the checkpoint that comes of it. Knows nothing of suites, tenants, corpora and
searches; the loop is lab.training's, what a role's loss is lab.losses'.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lab import layers, losses, models, roles
from lab.errors import LabError, ModelError, ParameterError, PathError, message
from lab.losses import Example
from lab.models import Model
from lab.roles import Engine
from lab.training import Progress, Schedule, fit

if TYPE_CHECKING:
    import torch
    from peft import LoraModel

# While all weights learn, each takes 16 bytes: itself, its gradient and AdamW's two means, in
# float32. From this many on that is 8 GB, half of a machine or a GPU of 16 GB.
LARGE_PARAMETERS = 500_000_000
# On all linear layers, where a higher rank was seen to add little (Dettmers et al. 2023,
# arXiv:2305.14314).
LORA_RANK = 16
HELD_OUT_BATCH = 32  # of pairs, whatever batch learns: only losses against as many compare
_MOST_SHOWN = 5

Report = Callable[[int, float], "bool | None"]


@dataclass(frozen=True)
class FineTuning:
    """How to learn; what a search varies.

    Attributes:
        learning_rate: the highest, in (0, 1]; it rises and falls as lab.training.Schedule says.
        batch_size: examples per step; of clip and encoder also what a pair is told apart from.
        epochs: how often each example is seen.
        lora_rank: of adapters on all linear layers but the one that writes words, scaled by 2
            (alpha is twice the rank) and merged in the end; None: all weights learn, in float32.
            See `proposed_rank`.
        warmup: share of the steps in which the rate rises, [0, 1).
        weight_decay: of matrices, [0, 1].
        seed: of the order, of dropout and of the adapters.
        bf16: compute in bfloat16 where that is safe.
    """

    learning_rate: float
    batch_size: int
    epochs: int
    lora_rank: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = True

    def __post_init__(self) -> None:
        def whole(value: object, least: int) -> bool:
            return type(value) is int and value >= least

        for name, rule, kept in (
            ("learning_rate", "above 0 and at most 1", 0 < self.learning_rate <= 1),
            ("batch_size", "a whole number from 1", whole(self.batch_size, 1)),
            ("epochs", "a whole number from 1", whole(self.epochs, 1)),
            (
                "lora_rank",
                "a whole number from 1, or None",
                self.lora_rank is None or whole(self.lora_rank, 1),
            ),
            ("warmup", "in [0, 1)", 0 <= self.warmup < 1),
            ("weight_decay", "in [0, 1]", 0 <= self.weight_decay <= 1),
            ("seed", "a whole number from 0", whole(self.seed, 0)),
        ):
            if not kept:
                raise ParameterError(message(f"{name} must be {rule}", got=getattr(self, name)))


@dataclass(frozen=True)
class FineTuned:
    """What came of it.

    Attributes:
        folder: the checkpoint.
        losses: of each step, on what it learnt from.
        held_out: loss after each epoch on the examples held out; empty if there were none.
        seconds: of the work; what a kill made it do twice counts twice.
        stopped: whether `report` ended it before its last step.
    """

    folder: Path
    losses: tuple[float, ...]
    held_out: tuple[float, ...]
    seconds: float
    stopped: bool

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.losses)


def proposed_rank(model: Model) -> int | None:
    """Return LORA_RANK for LARGE_PARAMETERS or more; else None, for all weights may learn."""
    return LORA_RANK if model.engine.checkpoint.parameters >= LARGE_PARAMETERS else None


def fine_tune(
    model: Model,
    examples: Sequence[Example],
    settings: FineTuning,
    *,
    held_out: Sequence[Example] = (),
    folder: Path,
    work: Path,
    progress: Progress | None = None,
    report: Report | None = None,
    save_every_s: float = 60.0,
) -> FineTuned:
    """Fine-tune a model, and write what it has become as a checkpoint for lab.models.load.

    Called again with the same arguments after a kill, it goes on where it was and comes to the same
    end. All batches are full: they are cut from one shuffled epoch after the other, and one in
    which an epoch ends begins the next.

    Args:
        model: unquantized. It learns in place and answers as the new checkpoint then, in the dtype
            it was loaded in; its files are not touched. If anything fails, its adapters are taken
            off and it is as before; without adapters it keeps what it had learnt.
        examples: at least ``settings.batch_size``.
        settings: see there.
        held_out: not learnt from. Of clip and encoder compared in batches of HELD_OUT_BATCH, so
            that losses of different settings can be held against each other.
        folder: of the new checkpoint, written whole or not at all, in the dtype of the old one.
        work: where what a kill must not lose is kept; the caller's to delete.
        progress: called with (stage, done, total) about once a second.
        report: called with each epoch, from 1, and its held-out loss; after a kill with those
            before too. True ends the training there, and what was learnt until then is written;
            if it raises, nothing is.
        save_every_s: seconds between what a kill does not lose.
    Raises: ParameterError (examples that the role cannot take, the first few of them named; too few
        of them; a loss that is not finite), ModelError (a model that cannot learn), PathError (a
        folder that is not empty).
    """
    import torch

    engine = model.engine
    _refuse(engine, examples, held_out, settings, folder, report)
    recipe = _recipe(model, examples, held_out, settings)
    work.mkdir(parents=True, exist_ok=True)
    course = _Course(engine, examples, held_out, settings, work / f"{recipe[:16]}.jsonl", report)
    schedule = Schedule(
        steps=course.steps,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        bf16=settings.bf16,
    )
    torch.manual_seed(settings.seed)
    with _learning(engine, settings.lora_rank) as (modules, tuner):
        try:
            fit(
                modules,
                course.loss_of,
                schedule,
                work,
                recipe=recipe,
                progress=progress,
                save_every_s=save_every_s,
            )
            course.end_epochs(course.steps)
        except _Enough:
            pass
        engine.module.eval()
        if tuner is not None:
            tuner.merge_and_unload()
        models.save(engine, folder)
    return course.outcome(folder)


# --- what is refused ------------------------------------------------------------------------------


def _refuse(
    engine: Engine,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: FineTuning,
    folder: Path,
    report: Report | None,
) -> None:
    size, count = settings.batch_size, len(examples)
    paired = engine.role in ("clip", "encoder")
    decodes = not getattr(engine.module.config, "is_encoder_decoder", False)
    rules: list[tuple[type[LabError], bool, str, object, str]] = [
        (
            PathError,
            not folder.exists() or (folder.is_dir() and not any(folder.iterdir())),
            "the folder of the new checkpoint must be empty or not there",
            str(folder),
            "choose another, or delete it",
        ),
        (
            ModelError,
            not layers.is_quantized(engine.module),
            "a model must be loaded unquantized to be fine-tuned",
            f"a quantized {engine.checkpoint.architecture}",
            f"load it in bfloat16 with a lora_rank such as {LORA_RANK}; quantize what comes of it",
        ),
        (
            ModelError,
            engine.role != "vlm" or decodes,
            "a vlm must go on writing where its prompt ends to be fine-tuned",
            engine.checkpoint.architecture,
            "take a model that is a decoder only",
        ),
        (
            ParameterError,
            count >= size,
            "there must be at least as many examples as a batch has",
            f"{count} for a batch_size of {size}",
            "give more examples or take a smaller batch",
        ),
        (
            ParameterError,
            not paired or (size > 1 and len(held_out) != 1),
            "a batch, and what is held out, must have at least 2 pairs to tell apart",
            f"batch_size {size}, {len(held_out)} held out",
            "",
        ),
        (
            ParameterError,
            report is None or bool(held_out),
            "a report needs examples that are held out",
            "none",
            "",
        ),
    ]
    for error, kept, rule, got, remedy in rules:
        if not kept:
            raise error(message(rule, got=got, remedy=remedy))
    problems = [
        f"{name}[{at}]: {problem}"
        for name, some in (("examples", examples), ("held_out", held_out))
        for at, example in enumerate(some)
        if (problem := _problem(engine, example))
    ]
    if problems:
        more = len(problems) - _MOST_SHOWN
        told = [*problems[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise ParameterError("\n".join(told))


def _problem(engine: Engine, example: Example) -> str:
    """Return why an example cannot be learnt from, or nothing."""
    if problem := roles.problem(engine, example.query):
        return problem
    if not example.target.strip():
        return message("a target must hold words", got=example.target)
    if engine.role == "clip" and example.query.image is None:
        return message("an example must hold an image", got="none")
    if engine.role == "asr":
        config, language = engine.module.generation_config, example.query.language
        if losses.is_multilingual(config) and f"<|{language}|>" not in config.lang_to_id:
            return message("an example must name a language that the model knows", got=language)
        given, said = losses.dictation(engine, example)
        room, count = engine.module.config.max_target_positions, len(given) + len(said) - 1
        if count > room:
            return message(f"what is said must fit {room} tokens", got=count, remedy="cut it")
    return ""


# --- the course of a training ---------------------------------------------------------------------


class _Enough(Exception):  # noqa: N818 - nothing is wrong
    """Raised by `_Course.loss_of` to leave the loop before its end."""


class _Course:
    """The way through the epochs: what a step takes, what was lost, whether it is enough.

    Kept in a journal, lines of [kind, number, value, seconds], for `fit` tells no losses before its
    end and knows of none that are held out.
    """

    def __init__(
        self,
        engine: Engine,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        settings: FineTuning,
        journal: Path,
        report: Report | None,
    ) -> None:
        self._engine, self._settings = engine, settings
        self._examples, self._held_out = examples, held_out
        self._journal, self._report = journal, report
        self._losses_of = losses.of(engine)
        self._known: dict[str, dict[int, float]] = {"learnt": {}, "held out": {}}
        self._epochs = 0  # that have come to their end
        self._under_way = False
        before = 0.0
        if journal.exists():
            for line in journal.read_text("ascii").splitlines():
                kind, number, value, before = json.loads(line)
                self._known[kind][number] = value
        self._started = time.monotonic() - before

    @property
    def steps(self) -> int:
        """How many steps all epochs take."""
        return self._end_of(self._settings.epochs)

    def loss_of(self, step: int) -> torch.Tensor:
        """Return the loss of a step's examples; what `fit` asks for."""
        if not self._under_way:
            self._under_way = True
            self._forget_from(step)
        self.end_epochs(step)
        self._engine.module.train()
        first = step * self._settings.batch_size
        places = range(first, first + self._settings.batch_size)
        total, count = self._losses_of([self._examples[self._at(place)] for place in places])
        self._note("learnt", step, float(total.detach()) / count)
        return total / count

    def end_epochs(self, done: int) -> None:
        """Compute and report the held-out loss of each epoch that ends with so many steps done.

        Raises: _Enough if the report wants no more and steps are left.
        """
        while self._epochs < self._settings.epochs and self._end_of(self._epochs + 1) <= done:
            self._epochs += 1
            if self._held_out:
                if self._epochs not in self._known["held out"]:
                    self._note("held out", self._epochs, self._held_out_loss())
                loss = self._known["held out"][self._epochs]
                if self._report and self._report(self._epochs, loss) and done < self.steps:
                    raise _Enough

    def outcome(self, folder: Path) -> FineTuned:
        """Return what came of it."""
        losses, held_out = (
            tuple(value for _, value in sorted(known.items())) for known in self._known.values()
        )
        seconds = time.monotonic() - self._started
        return FineTuned(folder, losses, held_out, seconds, stopped=len(losses) < self.steps)

    def _forget_from(self, step: int) -> None:
        """Leave out what came after the state that `fit` goes on with."""
        learnt, held_out = self._known.values()
        self._known = {
            "learnt": {at: loss for at, loss in learnt.items() if at < step},
            "held out": {at: loss for at, loss in held_out.items() if self._end_of(at) <= step},
        }

    def _end_of(self, epoch: int) -> int:
        return math.ceil(epoch * len(self._examples) / self._settings.batch_size)

    def _at(self, place: int) -> int:
        """Return which example stands at a place of the endless row of shuffled epochs."""
        epoch, at = divmod(place, len(self._examples))
        return int(_order(self._settings.seed, epoch, len(self._examples))[at])

    def _held_out_loss(self) -> float:
        import torch

        self._engine.module.eval()
        paired = self._engine.role in ("clip", "encoder")
        size = HELD_OUT_BATCH if paired else self._settings.batch_size
        count = len(self._held_out)
        sums = []
        with torch.no_grad():
            for part in np.array_split(range(count), math.ceil(count / size)):
                total, number = self._losses_of([self._held_out[at] for at in part])
                sums.append((float(total), number))
        loss = sum(total for total, _ in sums) / sum(number for _, number in sums)
        if not math.isfinite(loss):
            raise ParameterError(
                message(
                    "the held-out loss must stay finite",
                    got=loss,
                    place=f"epoch {self._epochs}",
                    remedy="lower the learning rate",
                )
            )
        return loss

    def _note(self, kind: str, number: int, value: float) -> None:
        self._known[kind][number] = value
        line = json.dumps([kind, number, value, time.monotonic() - self._started])
        with self._journal.open("a", encoding="ascii") as stream:
            stream.write(f"{line}\n")


@lru_cache(maxsize=2)  # a batch reaches into two epochs at most
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _recipe(
    model: Model, examples: Sequence[Example], held_out: Sequence[Example], settings: FineTuning
) -> str:
    """Return a digest of all that decides the outcome."""
    fields = [model.digest, str(model.engine.module.dtype), asdict(settings), len(examples)]
    for one in (*examples, *held_out):
        query = one.query
        sound = b"" if query.audio is None else query.audio.tobytes()
        fields += [query.text, query.language, query.system, one.target, losses.looks(query)]
        fields += [hashlib.sha256(sound).hexdigest()]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


# --- what learns, and what is written -------------------------------------------------------------


@contextmanager
def _learning(
    engine: Engine, rank: int | None
) -> Iterator[tuple[list[torch.nn.Module], LoraModel | None]]:
    """Give the modules that are to learn, and what merges them if they are adapters."""
    import torch

    module = engine.module
    learners = [value for value in module.parameters() if value.requires_grad]
    try:
        if rank is None:
            with models.in_dtype(module, torch.float32):
                yield [module], None
        else:
            module.requires_grad_(False)
            tuner, adapters = _adapt(engine, rank)
            try:
                yield adapters, tuner
            finally:
                tuner.unload()
    finally:
        module.eval()
        for value in learners:
            value.requires_grad_(True)
            value.grad = None


def _adapt(engine: Engine, rank: int) -> tuple[LoraModel, list[torch.nn.Module]]:
    """Put adapters, in float32, on the linear layers but for the one that writes words.

    Its weights are often the embedding's too, which a merge would change with it.
    """
    import torch
    from peft import LoraConfig, LoraModel
    from peft.tuners.lora import LoraLayer
    from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
    from transformers.pytorch_utils import Conv1D

    body = engine.module.transformers_model if engine.role == "encoder" else engine.module
    layers = {
        name: layer
        for name, layer in body.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D)
        and layer is not body.get_output_embeddings()
        # Inside torch's own attention, which takes its weights and does not call it.
        and not isinstance(layer, NonDynamicallyQuantizableLinear)
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    tuner = LoraModel(body, {"default": config}, "default")
    adapters = [
        part.float()
        for layer in body.modules()
        if isinstance(layer, LoraLayer)
        for part in (layer.lora_A, layer.lora_B)
    ]
    return tuner, adapters
