"""A tenant's service as a trial has it: models loaded, pruned and quantized, ready to be asked.

Owns which roles a kind of query needs, and the way from a trial to models that answer. Knows
nothing of time, of what is asked, or of how good an answer is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import assistants, models, pruning, slimming
from lab.errors import ParameterError, message
from lab.models import Model
from lab.quantization import NONE
from lab.queries import Answer, Generation, Query
from lab.roles import Role
from lab.trials import Kind, Trial

ROLES: Mapping[Kind, tuple[Role, ...]] = {
    "text": ("vlm",),
    "image_text": ("vlm",),
    "speech": ("asr",),
    "joint": ("asr", "vlm"),
}
CALIBRATED = ("wanda", "structured")  # pruning methods that listen to queries first


@dataclass(frozen=True, eq=False)
class Service:
    """What answers one kind of query.

    Attributes:
        kind: of the queries.
        models: of the roles that the kind needs.
    """

    kind: Kind
    models: Mapping[Role, Model]

    @property
    def stored_bytes(self) -> int:
        """Of the checkpoints' weights."""
        return sum(one.loaded.stored_bytes for one in self.models.values())

    @property
    def loaded_bytes(self) -> int:
        """Of the weights as they are now."""
        return sum(models.memory_bytes(one.engine.module) for one in self.models.values())

    def ask(
        self, queries: Sequence[Query], *, batch_size: int, generation: Generation
    ) -> list[Answer]:
        """Answer queries, in their order; of speech, write down what is said."""
        if self.kind == "speech":
            return self.models["asr"].ask(queries, batch_size=batch_size, generation=generation)
        replies = assistants.reply(
            queries,
            vlm=self.models["vlm"],
            asr=self.models.get("asr"),
            batch_size=batch_size,
            generation=generation,
        )
        return [one.answer for one in replies]


def load(
    trial: Trial,
    folders: Mapping[Role, Path],
    *,
    calibration: Sequence[Query] = (),
    device: str = "cpu",
    cache: Path | None = None,
) -> Service:
    """Load the models of a trial; every role that the kind needs is pruned and quantized alike.

    Pruning comes first, on dense weights; what is left is written aside and loaded quantized, as a
    deployment would.

    Args:
        trial: which kind, and what is done to the weights.
        folders: checkpoint by role.
        calibration: queries of the kind, for the methods in CALIBRATED.
        device: cpu, cuda or cuda:N.
        cache: as of lab.models.load.
    Raises: ParameterError if a role is missing, or the trial asks for what is not there;
        MissingError and ModelError as of lab.models.load.
    """
    needed = ROLES[trial.kind]
    if missing := [role for role in needed if role not in folders]:
        raise ParameterError(
            message(
                f"queries of kind {trial.kind} need a suite with {' and '.join(needed)}",
                got=f"no {missing[0]}",
                remedy=f"add {missing[0]} to the suite, or leave the kind out",
            )
        )
    unknown = {
        "runtime.compiled": trial.runtime.compiled,
        "runtime.static_cache": trial.runtime.static_cache,
    }
    if asked := [name for name, is_asked in unknown.items() if is_asked]:
        raise ParameterError(message(f"a service cannot be given {asked[0]} yet", got=trial))
    options = {
        "dtype": trial.runtime.dtype,
        "attention": trial.runtime.attention,
        "device": device,
        "cache": cache,
    }
    if trial.pruning == "none":
        return Service(
            trial.kind,
            {
                role: models.load(role, folders[role], quantization=trial.quantization, **options)
                for role in needed
            },
        )
    dense = Service(
        trial.kind, {role: models.load(role, folders[role], **options) for role in needed}
    )
    _prune(dense, trial, calibration)
    if trial.quantization == NONE:
        return dense
    with tempfile.TemporaryDirectory(prefix="lab-pruned-") as aside:
        loaded = {}
        for role, model in dense.models.items():
            models.save(model.engine, Path(aside) / role)
            loaded[role] = models.load(
                role, Path(aside) / role, quantization=trial.quantization, **options
            )
    return Service(trial.kind, loaded)


def _prune(service: Service, trial: Trial, calibration: Sequence[Query]) -> None:
    """Prune every model of a service in place, as the trial says."""
    norms = _norms(service, calibration) if trial.pruning in CALIBRATED else {}
    for role, model in service.models.items():
        module, heard = model.engine.module, norms.get(role)
        if trial.pruning == "structured":
            slimming.slim(module, neurons=trial.sparsity, norms=heard)
        else:
            pruning.prune(module, method=trial.pruning, sparsity=trial.sparsity, norms=heard)


def _norms(service: Service, calibration: Sequence[Query]) -> dict[Role, Mapping]:
    """Return the norms of each model's inputs while the service answers, one query at a time."""

    def answer() -> None:
        for query in calibration:
            service.ask([query], batch_size=1, generation=Generation())

    found: dict[Role, Mapping] = {}

    def nested(roles: Sequence[Role]) -> Callable[[], object]:
        if not roles:
            return answer
        first, *rest = roles

        def run() -> None:
            found[first] = pruning.input_norms(service.models[first].engine.module, nested(rest))

        return run

    nested(list(service.models))()
    return found
