"""Checkpoints by role, loaded and asked: one interface for all of them.

Owns loading in the dtype and quantization asked for, what it took, saving, and batches: queries of
similar length together, answers in the queries' order. Knows nothing of suites, tenants, clocks
around requests, or of how good an answer is.

Roles: ``vlm`` (image and text, or text alone, to text), ``asr`` (speech to text), ``clip`` (image
or text to a vector), ``encoder`` (text to a vector).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab import checkpoints, roles
from lab.errors import ParameterError, message
from lab.quantization import NONE, on_loading, once_loaded
from lab.queries import Answer, Generation, Query
from lab.roles import ROLES, Engine, Role

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Loaded:
    """What loading took.

    Attributes:
        stored_bytes: of the checkpoint's weights on disk.
        loaded_bytes: of all parameters and buffers in memory, quantization constants included.
        seconds: from the call to a model that is ready, processor included.
    """

    stored_bytes: int
    loaded_bytes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded checkpoint and what loading it took."""

    engine: Engine
    loaded: Loaded

    @property
    def role(self) -> Role:
        """What it does in its suite."""
        return self.engine.role

    @property
    def digest(self) -> str:
        """Of weights and configuration, ``sha256:...``."""
        return self.engine.checkpoint.digest

    def ask(
        self,
        queries: Sequence[Query],
        *,
        batch_size: int | None = None,
        generation: Generation | None = None,
    ) -> list[Answer]:
        """Answer queries, in their order.

        Args:
            queries: any mix that the role can take; others come back with an ``error``.
            batch_size: at most so many at a time, those of similar length together; None: all.
            generation: of vlm and asr.
        Raises: ParameterError for a batch size below 1. Running out of memory is not caught.
        """
        import torch

        if batch_size is not None and batch_size < 1:
            raise ParameterError(message("batch_size must be at least 1", got=batch_size))
        answers: list[Answer | None] = [None] * len(queries)
        able = []
        for at, query in enumerate(queries):
            problem = roles.problem(self.engine, query)
            if problem:
                answers[at] = Answer(error=problem)
            else:
                able.append(at)
        step = batch_size or max(1, len(able))
        able.sort(key=lambda at: queries[at].image is not None)
        if 1 < step < len(able):  # else there is nothing to choose, and nothing to count
            sizes = roles.sizes(self.engine, [queries[at] for at in able])
            able = [at for _, at in sorted(zip(sizes, able, strict=True))]
        with torch.inference_mode():
            for first in range(0, len(able), step):
                places = able[first : first + step]
                given = roles.ask(
                    self.engine, [queries[at] for at in places], generation or Generation()
                )
                for at, answer in zip(places, given, strict=True):
                    answers[at] = answer
        return [answer for answer in answers if answer is not None]


def load(
    role: Role,
    folder: Path,
    *,
    dtype: DType = "float32",
    quantization: str = NONE,
    attention: str | None = None,
    compiled: bool = False,
    static_cache: bool = False,
    device: str = "cpu",
    cache: Path | None = None,
) -> Model:
    """Load a checkpoint for a role.

    Weights are mapped from safetensors and converted tensor by tensor, so that memory holds one
    copy. Nothing from the checkpoint can run code, and nothing is fetched.

    Args:
        role: one of ROLES.
        folder: as ``save_pretrained`` of transformers or sentence-transformers writes it.
        dtype: of the weights that are not quantized, and of the computation.
        quantization: of lab.quantization.QUANTIZED, or ``none``.
        attention: transformers' name of an implementation, such as sdpa or eager; None: its choice.
        compiled: by torch.compile, see lab.roles.compile_steps; it is at work when first asked.
        static_cache: see lab.roles.fix_cache.
        device: cpu, cuda or cuda:N.
        cache: where digests of large checkpoints are remembered.
    Raises: MissingError, ModelError (see lab.checkpoints.inspect; also weights that are missing,
        or of another shape than the model needs), ParameterError.
    """
    if role not in ROLES:
        raise ParameterError(message(f"role must be one of {', '.join(ROLES)}", got=role))
    if dtype not in DTYPES:
        raise ParameterError(message(f"dtype must be one of {', '.join(DTYPES)}", got=dtype))
    checkpoint = checkpoints.inspect(folder, role=role, cache=cache)
    started = time.perf_counter()
    options = {"dtype": dtype, "device_map": device}
    config = on_loading(quantization, dtype=dtype, device=device)
    if config is not None:
        options["quantization_config"] = config
    if attention is not None:
        options["attn_implementation"] = attention
    engine = roles.load(role, checkpoint, options)
    once_loaded(engine.module, quantization)
    if static_cache:
        roles.fix_cache(engine)
    if compiled:
        roles.compile_steps(engine)
    seconds = time.perf_counter() - started
    return Model(engine, Loaded(checkpoint.stored_bytes, memory_bytes(engine.module), seconds))


def token_counts(folder: Path, queries: Sequence[Query], *, cache: Path | None = None) -> list[int]:
    """Return how many tokens a vlm is given for each query; its weights are not loaded.

    Args:
        folder: as of `load`.
        queries: with or without an image.
        cache: as of `load`.
    Raises: MissingError, ModelError.
    """
    return roles.token_counts(checkpoints.inspect(folder, role="vlm", cache=cache), queries)


def sizes(
    folder: Path, queries: Sequence[Query], *, cache: Path | None = None
) -> list[tuple[bool, float]]:
    """Return what a vlm's queries are sorted by before batches are filled; no weights are loaded.

    Args:
        folder: as of `load`.
        queries: with or without an image.
        cache: as of `load`.
    Raises: MissingError, ModelError.
    """
    checkpoint = checkpoints.inspect(folder, role="vlm", cache=cache)
    return roles.sizes(roles.reader(checkpoint), queries)


def save(engine: Engine, folder: Path) -> None:
    """Write a checkpoint in the dtype of the one it came from, whole or not at all."""
    import torch

    stored = engine.checkpoint.dtypes[0]
    dtype = getattr(torch, stored) if stored in DTYPES else engine.module.dtype
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with in_dtype(engine.module, dtype):
        if engine.role == "encoder":
            engine.module.save_pretrained(str(aside), create_model_card=False)
        else:
            engine.module.save_pretrained(aside)
            engine.processor.save_pretrained(aside)
    aside.replace(folder)


@contextmanager
def in_dtype(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Hold a module's weights in another dtype; buffers stay, for some are finer on purpose."""
    were = [(value, value.dtype) for value in module.parameters() if value.is_floating_point()]
    for value, _ in were:
        value.data = value.data.to(dtype)
    try:
        yield
    finally:
        for value, before in were:
            value.grad = None
            value.data = value.data.to(before)


def memory_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers, each storage once.

    bitsandbytes keeps the constants of 4-bit weights outside the buffers, torchao several tensors
    behind one that has no memory itself; all are counted.
    """
    storages = {}
    for tensor in _tensors(module):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        yield from _stored(tensor)
        state = getattr(tensor, "quant_state", None)
        for one in (state, getattr(state, "state2", None)):
            for name in ("absmax", "code", "offset"):
                value = getattr(one, name, None)
                if hasattr(value, "untyped_storage"):
                    yield value
        for name in ("CB", "SCB"):  # of 8-bit weights
            value = getattr(tensor, name, None)
            if hasattr(value, "untyped_storage"):
                yield value


def _stored(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the tensors that hold what a tensor shows: itself, or torchao's packed parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _stored(getattr(tensor, name))
