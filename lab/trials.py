"""A trial is one configuration, measured once; its result keeps what was seen, not a summary of it.

Owns what makes two trials the same, and the record of a result. Knows nothing of how a trial is
measured, scheduled or stored.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lab.errors import ParameterError, message

Kind = Literal["text", "image_text", "speech", "joint"]
Pruning = Literal["none", "l1", "wanda", "structured"]
Status = Literal["ok", "out_of_memory", "timeout", "invalid", "error"]

_RECORD = 1  # form of a result's record


@dataclass(frozen=True)
class Runtime:
    """How the weights are run.

    Attributes:
        dtype: of weights and activations, as torch names it.
        attention: implementation, as transformers names it.
        compiled: by torch.compile.
        static_cache: keys and values of a fixed length instead of a growing one.
    """

    dtype: str = "float32"
    attention: str = "sdpa"
    compiled: bool = False
    static_cache: bool = False


@dataclass(frozen=True)
class Trial:
    """One configuration of one tenant's service, and how much of it is measured.

    Attributes:
        tenant: its slug.
        kind: of the queries.
        suite: of the models.
        quantization: method, such as ``nf4``; ``none`` leaves the weights in the runtime's dtype.
        pruning: method.
        sparsity: share of the weights that are zero, [0, 1); above 0 exactly with a method.
        batch_size: queries answered at a time.
        runtime: see there.
        items: different queries that are asked.
        seed: of which they are, and in what order.
        rate: queries that arrive per second, on average (open loop); None if each batch is sent
            when the one before is answered (closed loop).
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

    def __post_init__(self) -> None:
        pruned = self.pruning != "none"
        rules = (
            (
                self.kind in get_args(Kind),
                f"kind must be one of {', '.join(get_args(Kind))}",
                "kind",
            ),
            (
                self.pruning in get_args(Pruning),
                f"pruning must be one of {', '.join(get_args(Pruning))}",
                "pruning",
            ),
            (0 <= self.sparsity < 1, "sparsity must be in [0, 1)", "sparsity"),
            (
                pruned == (self.sparsity > 0),
                "sparsity must be above 0 with a pruning method, and 0 without one",
                "sparsity",
            ),
            (self.batch_size >= 1, "batch_size must be at least 1", "batch_size"),
            (self.items >= 1, "items must be at least 1", "items"),
            (self.seed >= 0, "seed must be at least 0", "seed"),
            (
                self.rate is None or 0 < self.rate < math.inf,
                "rate must be above 0 and finite, or None",
                "rate",
            ),
        )
        broken = [message(rule, got=getattr(self, name)) for met, rule, name in rules if not met]
        if broken:
            raise ParameterError("\n".join(broken))


@dataclass(frozen=True)
class Setting:
    """What decides a trial's outcome and is not in it.

    Attributes:
        data: fingerprint of the tenant's corpus.
        models: digest of each role that takes part.
        code: digest of the lab's own code that measures.
        hardware: class of the machine; figures of two classes are never pooled.
    """

    data: str
    models: Mapping[str, str]
    code: str
    hardware: str


def key(trial: Trial, setting: Setting) -> str:
    """Return ``sha256:...``: the same for the same trial in the same setting, in every process."""
    parts = {"trial": asdict(trial), "setting": asdict(setting)}
    return f"sha256:{hashlib.sha256(_canonical(parts).encode()).hexdigest()}"


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


@dataclass(frozen=True)
class Quality:
    """What one answer scored: metric -> (numerator, denominator), as lab.quality counts."""

    item: str
    group: str
    language: str
    scores: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Attributes:
        key: of the trial in its setting.
        trial: what was measured.
        setting: in what.
        status: a failure is a result as well.
        problem: what went wrong, for people to read; empty if ok.
        blocks: as far as it came.
        load_s: from nothing to ready to answer.
        first_request_s: of the first answer after loading.
        stored_bytes: of the checkpoint's weights.
        loaded_bytes: of the weights once loaded.
        peak_bytes: most memory the process held, or the device where that has its own.
        quality: of each item, in no order.
        answers: digest of all answers, to tell whether two configurations said the same.
        environment: versions, threads, and what else was going on.
        finished: UTC, ISO 8601.
    """

    key: str
    trial: Trial
    setting: Setting
    status: Status
    finished: str
    problem: str = ""
    blocks: tuple[Block, ...] = ()
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

    def pack(self) -> bytes:
        """Return the whole result as few bytes; floats come back exactly as they were."""
        return zlib.compress(_canonical({"form": _RECORD, **asdict(self)}).encode(), 6)

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
        if form != _RECORD:
            raise ParameterError(
                message(
                    f"a result must be of form {_RECORD}",
                    got=form,
                    remedy="use the lab that wrote it, or a newer one",
                )
            )
        record["trial"]["runtime"] = Runtime(**record["trial"]["runtime"])
        record["trial"] = Trial(**record["trial"])
        record["setting"] = Setting(**record["setting"])
        record["blocks"] = tuple(_blocks(record["blocks"]))
        record["quality"] = tuple(_quality(record["quality"]))
        return cls(**record)


def _blocks(records: list[dict[str, Any]]) -> Iterator[Block]:
    for record in records:
        yield Block(**record | {"latencies_s": tuple(record["latencies_s"])})


def _quality(records: list[dict[str, Any]]) -> Iterator[Quality]:
    for record in records:
        scores = {name: tuple(pair) for name, pair in record["scores"].items()}
        yield Quality(**record | {"scores": scores})


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
