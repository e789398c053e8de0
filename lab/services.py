"""A tenant's service as a trial has it: models loaded, pruned and quantized, ready to be asked.

Owns which roles a kind of query needs, and the way from a trial to models that answer. Knows
nothing of time, of what is asked, or of how good an answer is.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from lab import assistants, matching, models, pruning, roles, slimming
from lab.errors import ParameterError, message
from lab.models import Model
from lab.quantization import NONE
from lab.queries import Answer, Generation, Query
from lab.roles import Role
from lab.trials import Kind, Runtime, Trial

ROLES: Mapping[Kind, tuple[Role, ...]] = {
    "text": ("vlm",),
    "image_text": ("vlm",),
    "speech": ("asr",),
    "joint": ("asr", "vlm"),
    "match": ("clip",),
}
Norms = Mapping[Role, Mapping]  # as of lab.pruning.input_norms
CALIBRATED = ("wanda", "structured", "heads")  # pruning methods that listen to queries first


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
    def load_s(self) -> float:
        """From nothing to ready to answer."""
        return sum(one.loaded.seconds for one in self.models.values())

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
        """Answer queries, in their order; of speech, write down what is said.

        A match is answered by its two vectors, see lab.matching; nothing is written.
        Where the number of tokens is fixed, it is that of a transcript on the way as well.
        """
        if self.kind == "speech":
            return self.models["asr"].ask(queries, batch_size=batch_size, generation=generation)
        if self.kind == "match":
            return matching.ask(self.models["clip"], queries, batch_size=batch_size)
        replies = assistants.reply(
            queries,
            vlm=self.models["vlm"],
            asr=self.models.get("asr"),
            batch_size=batch_size,
            generation=generation,
            transcript=generation if generation.least == generation.most else None,
        )
        return [one.answer for one in replies]


def ask_once(
    service: Service, queries: Sequence[Query], *, batch_size: int, generation: Generation
) -> list[Answer]:
    """Answer as `Service.ask` does, and look whether the models still compute numbers.

    A model that does not answers all the same: what it says is no answer, and never will be.

    Raises: NumberError, as of lab.roles.finite; what `Service.ask` raises.
    """
    with ExitStack() as stack:
        for model in service.models.values():
            stack.enter_context(roles.finite(model.engine))
        answers = service.ask(queries, batch_size=batch_size, generation=generation)
    for model in service.models.values():
        roles.finite_vectors(model.engine, queries, answers)
    return answers


def prepare(
    trial: Trial,
    folders: Mapping[Role, Path],
    *,
    aside: Path,
    calibration: Sequence[Query] = (),
    heard: MutableMapping[Runtime, Norms] | None = None,
    device: str = "cpu",
) -> Mapping[Role, Path]:
    """Return checkpoints that are pruned as a trial says; as they are if it says nothing.

    Every role that the kind needs is pruned alike, on its dense weights; what is left is what a
    deployment would be given.

    Args:
        trial: which kind, and which pruning.
        folders: checkpoint by role.
        aside: folder into which pruned ones are written.
        calibration: queries of the kind, for the methods in CALIBRATED.
        heard: what was heard of the same models and calibration before; what is heard now is put
            there, so that not every configuration listens to it all again.
        device: cpu, cuda or cuda:N.
    Raises: ParameterError if a role is missing, or a layer is not reached by the calibration;
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
    if trial.pruning == "none":
        return folders
    plain = replace(trial.runtime, compiled=False, static_cache=False)
    trial = replace(trial, runtime=plain)  # whoever is run otherwise is pruned alike
    dense = load(
        replace(trial, pruning="none", sparsity=0.0, quantization=NONE), folders, device=device
    )
    _prune(dense, trial, calibration, {} if heard is None else heard)
    for role, model in dense.models.items():
        models.save(model.engine, aside / role)
    return {role: aside / role for role in dense.models}


def load(
    trial: Trial, folders: Mapping[Role, Path], *, device: str = "cpu", cache: Path | None = None
) -> Service:
    """Load the models of a trial, quantized as it says.

    Args:
        trial: which kind, quantization and runtime.
        folders: checkpoint by role, as `prepare` returns them.
        device: cpu, cuda or cuda:N.
        cache: as of lab.models.load.
    Raises: as lab.models.load does; ParameterError also for a static cache of a role that does not
        write.
    """
    loaded = {
        role: models.load(
            role,
            folders[role],
            dtype=trial.runtime.dtype,
            quantization=trial.quantization,
            attention=trial.runtime.attention,
            compiled=trial.runtime.compiled,
            static_cache=trial.runtime.static_cache,
            device=device,
            cache=cache,
        )
        for role in ROLES[trial.kind]
    }
    return Service(trial.kind, loaded)


def _prune(
    service: Service,
    trial: Trial,
    calibration: Sequence[Query],
    known: MutableMapping[Runtime, Norms],
) -> None:
    """Prune every model of a service in place, as the trial says."""
    if trial.pruning in CALIBRATED and trial.runtime not in known:
        known[trial.runtime] = _norms(service, calibration)
    norms = known[trial.runtime] if trial.pruning in CALIBRATED else {}
    for role, model in service.models.items():
        module, heard = model.engine.module, norms.get(role)
        if trial.pruning == "structured":
            slimming.slim(module, neurons=trial.sparsity, norms=heard)
        elif trial.pruning == "heads":
            slimming.slim(module, heads=trial.sparsity, norms=heard)
        else:
            pruning.prune(module, method=trial.pruning, sparsity=trial.sparsity, norms=heard)


def _norms(service: Service, calibration: Sequence[Query]) -> Norms:
    """Return the norms of each model's inputs while the service answers, one query at a time."""
    import torch

    def answer() -> None:
        for query in calibration:
            service.ask([query], batch_size=1, generation=Generation())

    together = {role: model.engine.module for role, model in service.models.items()}
    norms = pruning.input_norms(torch.nn.ModuleDict(together), answer)
    return {
        role: {
            name.removeprefix(f"{role}."): norm
            for name, norm in norms.items()
            if name.startswith(f"{role}.")
        }
        for role in together
    }
