"""What a workflow is made of, and what it means for a tenant.

Owns which node is reached once it is known what is present and completed, which notebooks a node
leads to and with which settings, and what of a tenant's settings an input contradicts. Knows
nothing of files (``lab.workflow``), of what a corpus holds, or of how notebooks are run.

    input       what the corpus must be like
    tuning      a candidate: 02_quantization, 03_pruning, 04_batch_size_sweep, for what it sets
    monitoring  the figures to watch; with consistency_score 05_consistency
"""

from __future__ import annotations

import graphlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lab import conditions, requests
from lab.conditions import Condition, Fact
from lab.errors import ParameterError
from lab.params import Language, Resolved, Settings
from lab.trials import Kind

Modality = Literal["text", "image", "audio"]

# What is watched, to the lab's names of what it measures; empty: it does not.
METRICS: Mapping[str, tuple[str, ...]] = {
    "latency": ("latency_p50", "latency_p95", "latency_p99"),
    "throughput": ("throughput",),
    "consistency_score": ("consistency",),
    "error_rate": ("error_rate",),
    "cpu_usage": (),
    "gpu_usage": (),
    "memory_usage": (),
}
TABLES: Mapping[Modality, tuple[str, ...]] = {  # of a corpus that hold a modality
    "text": ("faq", "joint"),
    "image": ("images", "joint"),
    "audio": ("speech", "joint"),
}
_QUANTIZATION, _PRUNED = "02_quantization", "03_pruning"
_BATCHES, _CONSISTENCY = "04_batch_size_sweep", "05_consistency"


@dataclass(frozen=True)
class Input:
    """What a corpus must be like in one modality; None: whatever the tenant's settings say."""

    name: str
    modality: Modality
    languages: tuple[Language, ...] | None = None
    format: str | None = None
    resolution: tuple[int, int] | None = None  # width, height
    sampling_rate: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A configuration to try, by name; None: as the tenant's settings have it.

    Attributes:
        name: of its node.
        method: of lab.quantization.METHODS.
        batch_size: queries answered at a time.
        pruning: method.
        sparsity: share that goes, [0, 1).
        ray_mode: as of the setting ray.mode.
        cache: of answers; the lab has none yet.
    """

    name: str
    method: str | None = None
    batch_size: int | None = None
    pruning: str | None = None
    sparsity: float | None = None
    ray_mode: str | None = None
    cache: str | None = None


@dataclass(frozen=True)
class Monitor:
    """What is watched: keys of METRICS, and where a Prometheus would be."""

    name: str
    watched: tuple[str, ...]
    endpoint: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The lab's names of the figures that are watched and measured."""
        return tuple(name for one in self.watched for name in METRICS[one])


@dataclass(frozen=True)
class Rule:
    """When a node is reached."""

    condition: Condition
    next_node: str
    text: str = field(compare=False)  # of the condition, as it was written


@dataclass(frozen=True)
class Override:
    """A setting that the file decides, and the place that does."""

    key: str
    value: Any
    place: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.key}={json.dumps(self.value)}"


@dataclass(frozen=True)
class Workflow:
    """A whole file.

    Attributes:
        name: of the workflow.
        inputs: in the file's order, at most one of each modality.
        candidate: None without a tuning node.
        monitor: None without a monitoring node.
        rules: in the file's order.
        notes: what of the file the lab does not use, each with its place.
        places: ``node.key`` or ``node`` -> ``file:line``.
    """

    name: str
    inputs: tuple[Input, ...]
    candidate: Candidate | None
    monitor: Monitor | None
    rules: tuple[Rule, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def steps(self) -> tuple[str, ...]:
        """The nodes that rules lead to, each after those that its rules wait for."""
        return order(self.rules)

    @property
    def modalities(self) -> dict[str, Modality]:
        """Node -> modality, of each input."""
        return {one.name: one.modality for one in self.inputs}

    def reached(
        self, step: str, *, present: Collection[Modality], completed: Collection[str]
    ) -> list[Rule]:
        """Return the rules that lead to a node now; it is reached if there is one.

        Args:
            step: a node.
            present: modalities that the corpus has.
            completed: nodes whose notebooks have all ended well.
        """
        is_so = _facts(self.modalities, present, completed)
        return [
            rule
            for rule in self.rules
            if rule.next_node == step and conditions.holds(rule.condition, is_so)
        ]

    def kinds(self, tables: Collection[str]) -> list[Kind]:
        """Return the kinds of query that have inputs here and, of a corpus, the table.

        The question that is asked about an image needs no text input of its own.
        """
        mine = set(self.modalities.values())
        sources = {kind: requests.source(kind) for kind in get_args(Kind)}
        return [
            kind
            for kind, (table, needed) in sources.items()
            if table in tables and mine >= (set(needed) - {"text"} or {"text"})
        ]

    def obstacle(self, step: str, *, kinds: Sequence[Kind]) -> str:
        """Return why a node that is reached cannot be gone through, or nothing."""
        if self.candidate and step == self.candidate.name and not kinds:
            tables = dict.fromkeys(requests.source(kind)[0] for kind in get_args(Kind))
            return f"nothing can be asked: queries come from {', '.join(tables)}"
        return ""

    def notebooks(
        self, step: str, settings: Settings, *, kinds: Sequence[Kind]
    ) -> dict[str, tuple[Override, ...]]:
        """Return the notebooks that a node leads to, each with the settings it is run with.

        A setting that the tenant has already is left out, so that a report that is there is good.

        Args:
            step: a node that rules lead to.
            settings: the tenant's.
            kinds: of query that can be asked, see `kinds`.
        Raises: ParameterError if there is an `obstacle`.
        """
        if problem := self.obstacle(step, kinds=kinds):
            raise ParameterError(f"{step}: {problem}")
        if self.candidate and step == self.candidate.name:
            return self._tuning(self.candidate, settings, kinds)
        if self.monitor and step == self.monitor.name and "consistency" in self.monitor.metrics:
            return {_CONSISTENCY: self._consistency(settings)}
        return {}

    def problems(self, resolved: Resolved) -> list[str]:
        """Return where a tenant's settings are not what the inputs say, each with both places."""
        return [
            f"{self.places.get(f'{node.name}.{key}', node.name)}: {node.name}.{key}: must be "
            f"{wanted}, the {setting} of {resolved.tenant.slug} "
            f"({resolved.origins.get(origin, 'params')}), got {got}; change one of them"
            for node in self.inputs
            for key, wanted, setting, got, origin in _contradictions(node, resolved.settings)
        ]

    def _tuning(
        self, candidate: Candidate, settings: Settings, kinds: Sequence[Kind]
    ) -> dict[str, tuple[Override, ...]]:
        size, ratio = candidate.batch_size, candidate.sparsity
        written = [one for one in kinds if one != "match"]  # of what is pruned, words are judged
        asked: dict[str, dict[str, tuple[Any, str]]] = {}
        if candidate.method is not None:
            methods = _with_baseline(settings, _QUANTIZATION, candidate.method)
            asked[_QUANTIZATION] = {"methods": (methods, "quantization")}
            if size:
                asked[_QUANTIZATION]["batch_sizes"] = ([size], "batch_size")
        if ratio and written:
            methods = [candidate.pruning or "l1"]
            asked[_PRUNED] = {
                "methods": (methods, "pruning_method"),
                "sparsities": ([0.0, ratio], "pruning_ratio"),
            }
            if candidate.method is not None:
                asked[_PRUNED]["combined"] = (candidate.method, "quantization")
            if size:
                asked[_PRUNED]["batch_size"] = (size, "batch_size")
        if size:
            known = _listed(settings, _BATCHES, "batch_sizes", int) or [1]
            asked[_BATCHES] = {"batch_sizes": (sorted({*known, size}), "batch_size")}
        for notebook, given in asked.items():
            own = _own(settings, notebook)
            if notebook == _PRUNED:
                query = own.get("query", "text")
                given["query"] = (query if query in written else written[0], "")
            else:
                default = ["text"] if notebook == _QUANTIZATION else ["text", "image_text"]
                queries = _listed(settings, notebook, "queries", str) or default
                queries = [one for one in queries if one in kinds]
                given["queries"] = (queries or [kinds[0]], "")
            items = own.get("items")
            if size and isinstance(items, int) and items < size:
                given["items"] = (size, "batch_size")  # a batch must be able to be full
        return {
            notebook: self._overrides(candidate.name, notebook, given, settings)
            for notebook, given in asked.items()
        }

    def _consistency(self, settings: Settings) -> tuple[Override, ...]:
        given: dict[str, tuple[Any, str]] = {}
        one = self.candidate
        if one is None:
            return ()
        if one.method is not None:
            methods = _with_baseline(settings, _CONSISTENCY, one.method)
            given["methods"] = (methods, "quantization")
        if one.batch_size is not None:
            given["batch_size"] = (one.batch_size, "batch_size")
        return self._overrides(one.name, _CONSISTENCY, given, settings)

    def _overrides(
        self,
        node: str,
        notebook: str,
        given: Mapping[str, tuple[Any, str]],
        settings: Settings,
    ) -> tuple[Override, ...]:
        own = _own(settings, notebook)

        def place(key: str) -> str:
            return self.places.get(f"{node}.{key}") or self.places.get(node, "")

        found = [
            Override(f"notebooks.{notebook}.{name}", value, place(key))
            for name, (value, key) in given.items()
            if own.get(name) != value
        ]
        mode = self.candidate.ray_mode if self.candidate else None
        if mode is not None and mode != settings.ray.mode:
            found.append(Override("ray.mode", mode, place("distributed")))
        return tuple(found)


# --- what holds -----------------------------------------------------------------------------------


def _facts(
    modalities: Mapping[str, Modality], present: Collection[Modality], completed: Collection[str]
) -> Callable[[Fact], bool]:
    def is_so(fact: Fact) -> bool:
        if fact.state == "present":
            return modalities.get(fact.node) in present
        return fact.node in completed

    return is_so


def order(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the nodes that rules lead to, each after those that its rules wait for.

    Raises: graphlib.CycleError if there is no such order.
    """
    graph: dict[str, set[str]] = {}
    for rule in rules:
        waits = graph.setdefault(rule.next_node, set())
        waits |= {fact.node for fact in conditions.facts(rule.condition) if fact.state != "present"}
    steps = tuple(graphlib.TopologicalSorter(graph).static_order())
    return tuple(step for step in steps if step in graph)


def firing(rules: Sequence[Rule], modalities: Mapping[str, Modality]) -> set[int]:
    """Return the numbers of the rules that fire for some corpus, whichever node then fails."""
    steps, found = order(rules), set()
    for world in itertools.product([False, True], repeat=len(get_args(Modality)) + len(steps)):
        flags = iter(world)
        present = {one for one in get_args(Modality) if next(flags)}
        well = {step for step in steps if next(flags)}
        completed: set[str] = set()
        is_so = _facts(modalities, present, completed)
        for step in steps:
            fired = {
                number
                for number, rule in enumerate(rules)
                if rule.next_node == step and conditions.holds(rule.condition, is_so)
            }
            found |= fired
            if fired and step in well:
                completed.add(step)
    return found


# --- a tenant's settings --------------------------------------------------------------------------


def _own(settings: Settings, notebook: str) -> Mapping[str, Any]:
    return settings.notebooks.get(notebook, {})


def _with_baseline(settings: Settings, notebook: str, method: str) -> list[str]:
    """Return the baseline, the first of a notebook's methods, and then the candidate's."""
    first = (_listed(settings, notebook, "methods", str) or ["fp32"])[0]
    return list(dict.fromkeys([first, method]))


def _listed(settings: Settings, notebook: str, name: str, kind: type) -> list[Any]:
    """Return a notebook's list, or nothing if it is none of that kind, as the notebook will say."""
    given = _own(settings, notebook).get(name)
    if isinstance(given, list) and all(isinstance(one, kind) for one in given):
        return given
    return []


def _contradictions(node: Input, settings: Settings) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield key of the node, what it must be, the setting in words, what it is, and its path."""
    data = settings.data
    if node.languages is not None and not set(node.languages) >= set(settings.languages):
        wanted = f"at least {' '.join(settings.languages)}"
        yield "language", wanted, "languages", " ".join(node.languages), "languages"
    wanted_size = (data.image_width, data.image_height)
    if node.resolution is not None and node.resolution != wanted_size:
        wanted, got = size_text(wanted_size), size_text(node.resolution)
        words = "data.image_width x data.image_height"
        yield "resolution", wanted, words, got, "data.image_width"
    if node.sampling_rate is not None and node.sampling_rate != data.sampling_rate:
        wanted, got = str(data.sampling_rate), str(node.sampling_rate)
        yield "sampling_rate", wanted, "data.sampling_rate", got, "data.sampling_rate"


def size_text(of: tuple[int, int]) -> str:
    """Return width and height as a file has them: ``512x512``."""
    return f"{of[0]}x{of[1]}"
