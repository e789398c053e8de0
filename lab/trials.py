"""A trial is one configuration, measured once; its result keeps what was seen, not a summary of it.

Owns what makes two trials the same, and the record of a result. Knows nothing of how a trial is
measured, scheduled or stored.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
import statistics
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from lab.errors import ParameterError, message

Kind = Literal["text", "image_text", "speech", "joint", "match"]
Pruning = Literal["none", "l1", "wanda", "structured", "heads"]
Status = Literal["ok", "out_of_memory", "timeout", "invalid", "error"]

_FORM = 1  # of a result's record
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True)
class Runtime:
    """How the weights are run.

    Attributes:
        dtype: of weights and activations, as torch names it.
        attention: implementation, as transformers names it.
        compiled: by torch.compile; of a model that writes the step that writes a token.
        static_cache: keys and values of a fixed length instead of a growing one.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    compiled: bool = False
    static_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("compiled", "static_cache"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(
                    message(f"{name} must be true or false", got=getattr(self, name))
                )


@dataclass(frozen=True)
class Trial:
    """One configuration of one tenant's service, and how much of it is measured.

    A field that is added must have a default that means what was done before it: fields at their
    default are not part of the key, so that what was measured stays known.

    Attributes:
        tenant: its slug.
        kind: of the queries; match is an image and its description, each to find the other.
        suite: of the models.
        items: different queries that are asked.
        seed: of which they are, and in what order.
        batch_size: queries answered at a time.
        quantization: method, such as ``nf4``; ``none`` leaves the weights in the runtime's dtype.
        pruning: method.
        sparsity: share of the weights that are zero, or with ``structured`` of the MLP neurons and
            with ``heads`` of the attention heads that are gone, as nearly as the model admits,
            [0, 1); above 0 exactly with a method.
        runtime: see there.
        rate: queries that arrive per second, on average (open loop); None if each batch is sent
            when the one before is answered (closed loop).
        turns: in which it is timed, an even number.
    Raises: ParameterError that lists every rule that is broken.
    """

    tenant: str
    kind: Kind
    suite: str
    items: int
    seed: int
    batch_size: int = 1
    quantization: str = "none"
    pruning: Pruning = "none"
    sparsity: float = 0.0
    runtime: Runtime = field(default_factory=Runtime)
    rate: float | None = None
    turns: int = 10

    def __post_init__(self) -> None:
        # Equal trials must have one key, whether a whole number came from YAML, numpy or a sampler.
        for name, plain in (
            *((name, _whole) for name in ("items", "seed", "batch_size", "turns")),
            *((name, _number) for name in ("sparsity", "rate")),
        ):
            object.__setattr__(self, name, plain(getattr(self, name), name))
        kinds, methods = ", ".join(get_args(Kind)), ", ".join(get_args(Pruning))
        rules = {
            f"kind must be one of {kinds}": (self.kind, self.kind in get_args(Kind)),
            f"pruning must be one of {methods}": (self.pruning, self.pruning in get_args(Pruning)),
            "sparsity must be in [0, 1)": (self.sparsity, 0 <= self.sparsity < 1),
            "sparsity must be above 0 with a pruning method, and 0 without one": (
                self.sparsity,
                (self.pruning != "none") == (self.sparsity > 0),
            ),
            "batch_size must be at least 1": (self.batch_size, self.batch_size >= 1),
            "items must be at least 1": (self.items, self.items >= 1),
            "turns must be an even number of at least 2": (
                self.turns,
                self.turns >= 2 and self.turns % 2 == 0,
            ),
            "seed must be at least 0": (self.seed, self.seed >= 0),
            "rate must be above 0 and finite, or None": (
                self.rate,
                self.rate is None or 0 < self.rate < math.inf,
            ),
        }
        broken = [message(rule, got=value) for rule, (value, met) in rules.items() if not met]
        if broken:
            raise ParameterError("\n".join(broken))

    @property
    def method(self) -> str:
        """How the weights are stored: the quantization, or without one the dtype: ``fp32``."""
        dtype = self.runtime.dtype
        return _SHORT.get(dtype, dtype) if self.quantization == "none" else self.quantization

    @property
    def name(self) -> str:
        """What was done to the weights and how they are run, for people: ``nf4, wanda 0.3``."""
        pruned = "" if self.pruning == "none" else f", {self.pruning} {self.sparsity:g}"
        flags = {"compiled": self.runtime.compiled, "static cache": self.runtime.static_cache}
        run = "".join(f", {name}" for name, is_set in flags.items() if is_set)
        return f"{self.method}{pruned}{run}"

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch_size}"


@dataclass(frozen=True)
class Setting:
    """What decides a trial's outcome and is not in it.

    Attributes:
        data: fingerprint of the tenant's corpus.
        models: digest of each role that takes part.
        code: digest of the lab's own code that measures.
        hardware: class of the machine, device and threads; figures of two classes are never pooled.
        software: versions of the libraries.
        settings: digest of those of the tenant that shape what is asked.
        partner: digest of the trial that this one is timed beside, see `TrialResult.baseline`.
    """

    data: str
    models: Mapping[str, str]
    code: str
    hardware: str
    software: str = ""
    settings: str = ""
    partner: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", dict(self.models))


def digest(trial: Trial) -> str:
    """Return ``sha256:...`` of what is asked for alone, wherever it is measured."""
    return _hashed(_chosen(trial))


def key(trial: Trial, setting: Setting) -> str:
    """Return ``sha256:...``: the same for the same trial in the same setting, in every process."""
    return _hashed({"trial": _chosen(trial), "setting": _chosen(setting)})


@dataclass(frozen=True)
class Block:
    """One of the turns in which configurations that are compared are measured.

    Attributes:
        number: which turn; the same number was measured at about the same time in each.
        latencies_s: of every request, in the order they were sent, from the time it was to be sent;
            infinite for one that failed or never came back.
        seconds: from the first request to the last answer.
        tokens_out: written in all.
        disturbed: why the block cannot be trusted, such as another process on the cores; empty if
            nothing was seen. Such a block is measured again and kept beside its repetition.
    """

    number: int
    latencies_s: tuple[float, ...]
    seconds: float
    tokens_out: int = 0
    disturbed: str = ""

    def __post_init__(self) -> None:
        latencies = tuple(map(float, self.latencies_s))
        if any(math.isnan(one) or one < 0 for one in latencies):
            raise ParameterError(
                message(
                    "a latency must be at least 0, and infinite without an answer",
                    got=[one for one in latencies if not one >= 0][:3],
                    place=f"block {self.number}",
                )
            )
        object.__setattr__(self, "latencies_s", latencies)

    @property
    def errors(self) -> int:
        """Requests without an answer."""
        return sum(math.isinf(one) for one in self.latencies_s)

    @property
    def median_s(self) -> float:
        """The median latency, the lower of two; infinite if most requests have no answer.

        Raises: statistics.StatisticsError if there was no request.
        """
        return statistics.median_low(self.latencies_s)

    @property
    def throughput(self) -> float:
        """Requests that were answered, per second; NaN if no time passed."""
        answered = len(self.latencies_s) - self.errors
        return answered / self.seconds if self.seconds > 0 else math.nan


@dataclass(frozen=True)
class Quality:
    """What one answer scored.

    Attributes:
        item: what was asked.
        group: of the item.
        language: of the item.
        scores: metric -> (numerator, denominator), as lab.quality counts.
        agreement: token F1 of the answer and the one that the study's baseline gave, [0, 1]; of a
            match whether both chose the same; None if the baseline gave none.
    """

    item: str
    group: str
    language: str
    scores: Mapping[str, tuple[float, float]]
    agreement: float | None = None

    def __post_init__(self) -> None:
        scores = {name: (float(top), float(bottom)) for name, (top, bottom) in self.scores.items()}
        object.__setattr__(self, "scores", scores)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        key: of the trial in its setting.
        trial: what was measured.
        setting: in what.
        status: a failure is a result as well.
        finished: UTC, such as ``2026-11-25T03:00:00Z``.
        problem: what went wrong, for people to read; empty if ok.
        blocks: as far as it came.
        baseline: blocks of the study's baseline in the same turns; of the baseline itself a second
            series, as if it were another configuration (A/A).
        load_s: from nothing to ready to answer.
        first_request_s: of the first answer after loading, torch.compile's work included.
        stored_bytes: of the checkpoint's weights.
        loaded_bytes: of the weights once loaded.
        peak_bytes: most memory the process held, or the device where that has its own.
        quality: of each item, in no order.
        answers: digest of all answers, to tell whether two configurations said the same.
        environment: versions, threads, and what else was going on; whatever JSON can hold.
    Raises: ParameterError if anything in it could not be kept.
    """

    key: str
    trial: Trial
    setting: Setting
    status: Status
    finished: str
    problem: str = ""
    blocks: tuple[Block, ...] = ()
    baseline: tuple[Block, ...] = ()
    load_s: float | None = None
    first_request_s: float | None = None
    stored_bytes: int | None = None
    loaded_bytes: int | None = None
    peak_bytes: int | None = None
    quality: tuple[Quality, ...] = ()
    answers: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.key != key(self.trial, self.setting):
            raise ParameterError(message("a result must bear the key of its trial", got=self.key))
        if self.status not in get_args(Status):
            rule = f"status must be one of {', '.join(get_args(Status))}"
            raise ParameterError(message(rule, got=self.status))
        if (self.status == "ok") == bool(self.problem):
            raise ParameterError(
                message(
                    "a result must tell its problem, unless it is ok",
                    got=self.problem,
                    place=f"status {self.status}",
                )
            )
        if not _TIME.fullmatch(self.finished):
            raise ParameterError(
                message("finished must be like 2026-11-25T03:00:00Z", got=self.finished)
            )
        # As it will come back; and what cannot be kept is told now, not when it is to be.
        object.__setattr__(self, "environment", json.loads(_canonical(self.environment)))

    def pack(self) -> bytes:
        """Return the whole result as few bytes; floats come back exactly as they were."""
        return zlib.compress(_canonical({"form": _FORM, **asdict(self)}).encode(), 6)

    @classmethod
    def unpack(cls, packed: bytes) -> TrialResult:
        """Return what was packed.

        Raises: ParameterError if it is anything else, or was packed by a newer lab.
        """
        try:
            record = json.loads(zlib.decompress(packed))
            form = record.pop("form")
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise ParameterError(
                message("a result must be one that was packed", got=f"{len(packed)} bytes")
            ) from error
        if form != _FORM:
            raise ParameterError(
                message(
                    f"a result must be of form {_FORM}",
                    got=form,
                    remedy="use the lab that wrote it, or a newer one",
                )
            )
        record["trial"]["runtime"] = Runtime(**record["trial"]["runtime"])
        record["trial"] = Trial(**record["trial"])
        record["setting"] = Setting(**record["setting"])
        for name in ("blocks", "baseline"):
            record[name] = tuple(Block(**block) for block in record.get(name, ()))
        record["quality"] = tuple(Quality(**quality) for quality in record["quality"])
        return cls(**record)


def _chosen(record: object) -> dict[str, object]:
    """Return those fields of a dataclass that are not at their default."""
    found = {}
    for one in fields(record):
        value = getattr(record, one.name)
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default is MISSING or value != default:
            found[one.name] = _chosen(value) if is_dataclass(value) else value
    return found


def _whole(value: object, name: str) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ParameterError(message(f"{name} must be a whole number", got=value))


def _number(value: object, name: str) -> float | None:
    try:
        if not isinstance(value, bool):
            return None if value is None and name == "rate" else float(value)
    except (TypeError, ValueError):
        pass
    raise ParameterError(message(f"{name} must be a number", got=value))


def _hashed(value: object) -> str:
    return f"sha256:{hashlib.sha256(_canonical(value).encode()).hexdigest()}"


def _canonical(value: object) -> str:
    """Return JSON that is the same for the same value; numpy's numbers as Python's.

    Raises: ParameterError if JSON cannot hold it.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise ParameterError(message("a result must hold what JSON can hold", got=error)) from error


def _plain(value: object) -> object:
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"not {type(value).__name__}")
    return item()
