"""Designs: which trials answer a notebook's question, and which cannot be had here.

Owns the way from a notebook's parameters to studies. Knows nothing of how a study is measured or
what comes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from lab import checkpoints, quantization, services, suites
from lab.errors import ParameterError, message
from lab.params import Resolved
from lab.roles import Role
from lab.studies import Study
from lab.trials import Kind, Pruning, Runtime, Trial


@dataclass(frozen=True)
class Design:
    """What is measured, and what is not.

    Attributes:
        studies: each with a baseline of its own.
        left_out: a sentence for whatever was asked for and cannot be had.
        folders: checkpoint by role of the suite.
        digests: of those checkpoints.
    """

    studies: tuple[Study, ...]
    left_out: tuple[str, ...]
    folders: Mapping[Role, Path]
    digests: Mapping[Role, str]


def of_quantization(
    resolved: Resolved,
    *,
    methods: Sequence[str],
    queries: Sequence[str],
    batch_sizes: Sequence[int],
    items: int,
    turns: int,
    seed: int,
    device: str = "cpu",
) -> Design:
    """Compare ways to store weights: a study for each kind of query and batch size.

    Args:
        resolved: the tenant's settings.
        methods: of lab.quantization.METHODS, at least one; the first is the baseline.
        queries: kinds.
        batch_sizes: queries answered at a time.
        items: different queries that are asked, of each kind.
        turns: in which each is timed, an even number; with fewer than 10 nobody is faster.
        seed: of which items they are, and of the turns.
        device: cpu, cuda or cuda:N.
    Raises: ParameterError that lists what is wrong with methods, queries or batch sizes, or if the
        device cannot run the baseline; UsageError, MissingError and ModelError of the suite.
    """
    check(methods, "methods", quantization.METHODS)
    obstacles = {name: quantization.obstacle(name, device=device) for name in methods}
    if obstacles[methods[0]]:
        rule = f"the first of methods is the baseline and must run on {device}"
        raise ParameterError(message(rule, got=methods[0], remedy=obstacles[methods[0]]))
    sizes = _batch_sizes(batch_sizes)
    folders, digests = located(resolved)
    kinds, silent = _kinds(queries, folders, str(resolved.settings.suite))
    studies = []
    for kind, size in product(kinds, sizes):
        plain = _trial(resolved, kind, items=items, turns=turns, seed=seed, batch_size=size)
        able = [stored(plain, name) for name in methods if not obstacles[name]]
        studies.append(Study(tuple(able)))
    told = [f"{name} is not measured: {why}." for name, why in obstacles.items() if why]
    return Design(tuple(studies), (*told, *silent), folders, digests)


def of_pruning(
    resolved: Resolved,
    *,
    methods: Sequence[str],
    sparsities: Sequence[float],
    query: str,
    batch_size: int,
    items: int,
    turns: int,
    seed: int,
) -> Design:
    """Compare ways to prune, each at several sparsities, with the dense model.

    Args:
        resolved: the tenant's settings.
        methods: of lab.trials.Pruning but none, at least one.
        sparsities: 0 is the dense model, which is measured anyway; at least one above it.
        query: kind of the queries, one that is answered in words.
        batch_size: queries answered at a time.
        items: different queries that are asked.
        turns: as of `of_quantization`.
        seed: as of `of_quantization`.
    Returns: one study.
    Raises: as `of_quantization`; ParameterError also for a sparsity that is not one.
    """
    check(methods, "methods", [one for one in get_args(Pruning) if one != "none"])
    shares = sorted(set(sparsities) - {0})
    if not shares:
        rule = "sparsities must hold one above 0"
        raise ParameterError(message(rule, got=list(sparsities)))
    (size,) = _batch_sizes([batch_size])
    folders, digests = located(resolved)
    kinds, _ = _kinds([query], folders, str(resolved.settings.suite))
    if "clip" in services.ROLES[kinds[0]]:
        raise ParameterError(
            message(
                "query must be of a kind that is answered in words: each layer alone is judged by "
                "how well the right words are expected",
                got=query,
                remedy="take text, image_text, speech or joint",
            )
        )
    dense = _trial(resolved, kinds[0], items=items, turns=turns, seed=seed, batch_size=size)
    pruned = [
        replace(dense, pruning=method, sparsity=share) for method, share in product(methods, shares)
    ]
    return Design((Study((dense, *pruned)),), (), folders, digests)


def of_batch_sizes(
    resolved: Resolved,
    *,
    queries: Sequence[str],
    batch_sizes: Sequence[int],
    items: int,
    turns: int,
    seed: int,
) -> Design:
    """Compare batch sizes of the models as they are: a study for each kind of query.

    Args:
        resolved: the tenant's settings.
        queries: kinds.
        batch_sizes: queries answered at a time; 1 is always among them, as the baseline.
        items: as of `of_quantization`.
        turns: likewise.
        seed: likewise.
    Raises: ParameterError that lists what is wrong with queries or batch sizes; UsageError,
        MissingError and ModelError of the suite.
    """
    sizes = [one for one in _batch_sizes(batch_sizes) if one > 1]
    folders, digests = located(resolved)
    kinds, silent = _kinds(queries, folders, str(resolved.settings.suite))
    studies = []
    for kind in kinds:
        base = _trial(resolved, kind, items=items, turns=turns, seed=seed)
        studies.append(Study((base, *(replace(base, batch_size=size) for size in sizes))))
    return Design(tuple(studies), tuple(silent), folders, digests)


def stored(trial: Trial, method: str) -> Trial:
    """Return a trial with its weights stored by a method, computed in the dtype that suits it."""
    chosen = quantization.method(method)
    return replace(
        trial,
        quantization=method if chosen.library else quantization.NONE,
        runtime=replace(trial.runtime, dtype=chosen.dtype),
    )


def located(resolved: Resolved) -> tuple[dict[Role, Path], dict[Role, str]]:
    """Return the checkpoints of a tenant's suite by role, and their digests.

    Raises: ParameterError if the tenant has no suite; UsageError, MissingError and ModelError.
    """
    root, name = resolved.tenant.root, resolved.settings.suite
    if name is None:
        raise ParameterError(
            message(
                "suite must name the models that are measured",
                got=None,
                place=resolved.origins.get("suite", "params"),
                remedy="set it to a file in params/models",
            )
        )
    sources = suites.load(name, root=root).sources
    folders = {role: suites.locate(source, root=root) for role, source in sources.items()}
    cache = suites.digest_cache(root)
    digests = {role: checkpoints.digest(folder, cache=cache) for role, folder in folders.items()}
    return folders, digests


def _trial(resolved: Resolved, kind: Kind, **more: Any) -> Trial:
    return Trial(
        tenant=resolved.tenant.slug,
        kind=kind,
        suite=str(resolved.settings.suite),
        runtime=Runtime(),
        **more,
    )


def _kinds(
    queries: Sequence[str], folders: Mapping[Role, Path], suite: str
) -> tuple[list[Kind], list[str]]:
    """Return the kinds that a suite can answer, and a sentence for each that it cannot."""
    check(queries, "queries", get_args(Kind))
    lacking = {
        kind: [role for role in services.ROLES[kind] if role not in folders] for kind in queries
    }
    able = [kind for kind in queries if not lacking[kind]]
    told = [
        f"Queries of kind {kind} are not measured: the suite {suite} has no {' and no '.join(no)}."
        for kind, no in lacking.items()
        if no
    ]
    if not able:
        raise ParameterError(" ".join(told))
    return able, told


def _batch_sizes(sizes: Sequence[int]) -> list[int]:
    """Return batch sizes in ascending order, so that the smaller are known first."""
    wrong = [one for one in sizes if isinstance(one, bool) or not isinstance(one, int) or one < 1]
    if wrong or not sizes or len(set(sizes)) < len(sizes):
        rule = "batch_sizes must be different whole numbers of at least 1"
        raise ParameterError(message(rule, got=list(sizes)))
    return sorted(sizes)


def check(given: Sequence[str], name: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuse what is unknown, there twice, or not there at all; told together."""

    def problems() -> Iterator[str]:
        choice = ", ".join(known)
        if isinstance(given, str) or not given:
            yield message(f"{name} must be a list with at least one of {choice}", got=given)
            return
        for one in dict.fromkeys(given):
            if one not in known:
                yield message(f"{name} must be among {choice}", got=one)
            elif list(given).count(one) > 1:
                yield message(f"{name} must differ", got=f"{one} twice")

    if found := list(problems()):
        raise ParameterError("\n".join(found))
