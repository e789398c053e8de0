"""A workflow file, such as ``params/tune_workflow.yaml``: read, and written back.

Owns the file's form and everything that can be wrong with it, told all at once with its lines.
Knows nothing of tenants, or of what its nodes lead to (``lab.nodes``).
"""

from __future__ import annotations

import difflib
import graphlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from lab import conditions, params, quantization
from lab.conditions import Condition, Fact
from lab.errors import ParameterError, message, printable, shown
from lab.nodes import (
    METRICS,
    Candidate,
    Input,
    Modality,
    Monitor,
    Rule,
    Workflow,
    firing,
    size_text,
)
from lab.params import Language
from lab.trials import Pruning

MAX_FILE_BYTES = 50_000
_MAX_NODES = 100
_MAX_RULES = 100
_MAX_NAME_CHARS = 64

_TYPES = ("input", "tuning", "monitoring")
_KEYS: Mapping[str, tuple[str, ...]] = {  # of config, by the node's type or its input's
    "text": ("type", "language"),
    "image": ("type", "format", "resolution"),
    "audio": ("type", "format", "sampling_rate"),
    "tuning": (
        "quantization",
        "batch_size",
        "distributed",
        "pruning_ratio",
        "pruning_method",
        "cache",
    ),
    "monitoring": ("metrics", "prometheus_endpoint"),
}
_FORMATS: Mapping[str, tuple[str, ...]] = {"image": ("jpeg", "jpg"), "audio": ("wav",)}
_BITS = {"4bit": "nf4", "8bit": "int8"}
_METHODS = (*_BITS, *quantization.METHODS)
_PRUNING = tuple(one for one in get_args(Pruning) if one != "none")
_DISTRIBUTED = {"ray": "ray", "none": "inline"}  # to ray.mode
_CACHES = ("redis", "none")
_RESOLUTION = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")

# --- reading --------------------------------------------------------------------------------------


def load(path: Path, *, shown_as: str) -> Workflow:
    """Read a workflow file.

    Raises: MissingError; ParameterError that lists every problem, a line each, as
        ``file:line: node.key: rule, got value; remedy``.
    """
    values, places = params.read_plain(path, shown_as=shown_as, max_bytes=MAX_FILE_BYTES)
    return _Reader(values, places, shown_as).workflow()


def parse(text: str, *, shown_as: str = "workflow") -> Workflow:
    """Do as `load` with what stands in a file, or is to."""
    return _Reader(*params.parse_plain(text, shown_as=shown_as), shown_as).workflow()


@dataclass(frozen=True)
class _Head:
    """What is known of a node before its config is read."""

    name: str
    type: str  # empty if it is none
    path: str


class _Reader:
    """One file: what it says, and all that is wrong with it."""

    def __init__(self, values: dict[str, Any], places: Mapping[str, str], file: str) -> None:
        self._values, self._places, self._file = values, places, file
        self._problems: list[tuple[int, str]] = []
        self.notes: list[str] = []
        self._told: dict[str, str] = {}  # node or node.key -> place

    def workflow(self) -> Workflow:
        self._unknown(self._values, "", "", ("workflow",))
        body = self._values.get("workflow")
        if not isinstance(body, dict):
            self.say("workflow", "workflow", "must hold name, nodes and rules", body)
            raise self._error()
        self._unknown(body, "workflow", "workflow", ("name", "nodes", "rules"))
        name = body.get("name")
        if not isinstance(name, str) or not name.strip() or len(name) > _MAX_NAME_CHARS:
            rule = f"must be a text of at most {_MAX_NAME_CHARS} characters"
            self.say("workflow.name", "workflow.name", rule, name)
        nodes = self._list(body, "nodes", _MAX_NODES)
        heads = [head for at, node in enumerate(nodes) if (head := self._head(at, node))]
        self._alone(heads)
        settled = not self._problems
        found = [self._node(head, nodes) for head in heads]
        inputs = self._apart([one for one in found if isinstance(one, Input)])
        candidate = next((one for one in found if isinstance(one, Candidate)), None)
        monitor = next((one for one in found if isinstance(one, Monitor)), None)
        before = len(self._problems)
        rules = self._rules(self._list(body, "rules", _MAX_RULES), heads)
        # Only what is sound so far can be said to fire, or not.
        if settled and None not in found and before == len(self._problems):
            self._judge(rules, heads, {one.name: one.modality for one in inputs})
        if self._problems:
            raise self._error()
        self._tell_apart(candidate, monitor)
        return Workflow(
            name=name,
            inputs=inputs,
            candidate=candidate,
            monitor=monitor,
            rules=tuple(rules),
            notes=tuple(sorted(self.notes, key=lambda note: _line(note.partition(": ")[0]))),
            places=self._told,
        )

    # Nodes

    def _head(self, at: int, node: Any) -> _Head | None:
        path = f"workflow.nodes.{at}"
        if not isinstance(node, dict):
            self.say(path, "workflow.nodes", "a node must hold name, type and config", node)
            return None
        keys = [key for key in ("name", "id") if key in node]
        name = node.get(keys[0]) if keys else None
        if len(keys) > 1:
            self.say(path, shown(name), "a node must have one name", "name and id", "delete id")
        if not _is_name(name):
            rule = "must begin with a letter, then hold letters, digits, _ and -, "
            rule += f"{_MAX_NAME_CHARS} at most"
            self.say(f"{path}.{keys[0]}" if keys else path, "name of a node", rule, name)
            return None
        self._told[name] = self.place(path)
        self._unknown(node, path, name, ("name", "id", "type", "config"))
        kind = node.get("type")
        if kind not in _TYPES:
            near = _near(kind, _TYPES)
            remedy = near and f"did you mean {near}?"
            rule = f"must be one of {', '.join(_TYPES)}"
            self.say(f"{path}.type", f"{name}.type", rule, kind, remedy)
            kind = ""
        return _Head(name, kind, path)

    def _alone(self, heads: Sequence[_Head]) -> None:
        """Refuse what there may be one of: a name, a tuning node, a monitoring node."""
        names: dict[str, _Head] = {}
        kinds: dict[str, _Head] = {}
        for head in heads:
            if (first := names.setdefault(head.name, head)) is not head:
                place = self.place(first.path)
                rule = "a name must be given to one node"
                self.say(head.path, head.name, rule, head.name, f"it is that of {place} too")
            elif head.type in ("tuning", "monitoring"):
                first = kinds.setdefault(head.type, head)
                if first is not head:
                    rule = f"there must be at most one node of type {head.type}"
                    got = f"a second beside {first.name}"
                    remedy = "put it into a workflow of its own"
                    self.say(head.path, head.name, rule, got, remedy)

    def _node(self, head: _Head, nodes: Sequence[Any]) -> Input | Candidate | Monitor | None:
        if not head.type:
            return None
        config = nodes[int(head.path.rpartition(".")[2])].get("config")
        path = f"{head.path}.config"
        if not isinstance(config, dict):
            self.say(path, f"{head.name}.config", "must hold keys and values", config)
            return None
        kind = head.type
        if kind == "input":
            kind = self._choice(
                _Value(self, head, config, "type"), get_args(Modality), required=True
            )
            if kind is None:
                return None
        self._unknown(config, path, head.name, _KEYS[kind])
        self._told |= {f"{head.name}.{key}": self.place(f"{path}.{key}") for key in config}

        def value(key: str) -> _Value:
            return _Value(self, head, config, key)

        if kind == "tuning":
            return self._candidate(head.name, value)
        if kind == "monitoring":
            return self._monitor(head.name, value)
        return self._input(head.name, kind, value)

    def _input(self, name: str, modality: Modality, value: Callable[[str], _Value]) -> Input:
        languages = resolution = rate = form = None
        if modality == "text":
            languages = self._several(value("language"), get_args(Language))
        else:
            form = self._choice(value("format"), _FORMATS[modality])
        given = value("resolution")
        if modality == "image" and given.there:
            fits = isinstance(given.given, str) and _RESOLUTION.fullmatch(given.given)
            if fits:
                resolution = (int(fits[1]), int(fits[2]))
            else:
                given.refuse("must be width x height in pixels", "write it as 512x512")
        if modality == "audio":
            rate = self._whole(value("sampling_rate"), "of at least 1, in Hz")
        return Input(name, modality, languages, form, resolution, rate)

    def _apart(self, inputs: Sequence[Input]) -> tuple[Input, ...]:
        """Refuse a second input of a modality: which of them would a corpus be held against?"""
        for at, one in enumerate(inputs):
            first = next(other for other in inputs if other.modality == one.modality)
            if first is not inputs[at]:
                place = self._told[f"{one.name}.type"]
                rule = f"there must be at most one input of type {one.modality}"
                got = f"a second beside {first.name}"
                self._put(place, f"{one.name}.type", message(rule, got=got, remedy="delete one"))
        return tuple(inputs)

    def _tell_apart(self, candidate: Candidate | None, monitor: Monitor | None) -> None:
        """Note what of a candidate no notebook measures together."""
        if candidate is None:
            return
        parts = [candidate.method, candidate.batch_size, candidate.sparsity]
        if sum(bool(one) for one in parts) > 1:
            self.notes.append(
                f"{self._told[candidate.name]}: {candidate.name}: what it sets is measured one by "
                "one, quantization and pruning together only if 03_pruning finds the pruning "
                "worth it, batch sizes of the models as they are"
            )
        if candidate.sparsity and monitor and "consistency" in monitor.metrics:
            self.notes.append(
                f"{self._told[f'{candidate.name}.pruning_ratio']}: {candidate.name}.pruning_ratio: "
                "is not part of 05_consistency, which compares ways to store weights"
            )

    def _candidate(self, name: str, value: Callable[[str], _Value]) -> Candidate:
        method = self._choice(value("quantization"), _METHODS)
        size = self._whole(value("batch_size"), "of at least 1")
        mode = self._choice(value("distributed"), tuple(_DISTRIBUTED))
        cache = self._choice(value("cache"), _CACHES)
        pruning = self._choice(value("pruning_method"), _PRUNING)
        ratio, share = value("pruning_ratio"), None
        if ratio.there:
            number = ratio.given
            if isinstance(number, bool) or not isinstance(number, int | float):
                ratio.refuse("must be a number in [0, 1)")
            elif not 0 <= number < 1:
                ratio.refuse("must be in [0, 1)", "it is the share of the weights that goes")
            else:
                share = float(number)
        if pruning and not share and (share is not None or not ratio.there):
            rule = "there must be a pruning_ratio above 0 with a method"
            value("pruning_method").refuse(rule)
        if cache == "redis":
            value("cache").note("is kept, but the lab has no cache yet: every query is answered")
        if share:
            pruning = pruning or "l1"
        return Candidate(
            name=name,
            method=_BITS.get(method, method),
            batch_size=size,
            pruning=pruning,
            sparsity=share,
            ray_mode=_DISTRIBUTED.get(mode),
            cache=cache,
        )

    def _monitor(self, name: str, value: Callable[[str], _Value]) -> Monitor:
        watched = self._several(value("metrics"), tuple(METRICS), required=True) or ()
        for one in watched:
            if not METRICS[one]:
                value("metrics").note(f"{one} is kept, but the lab does not measure it")
        endpoint = value("prometheus_endpoint")
        if endpoint.there:
            if not isinstance(endpoint.given, str) or not endpoint.given.strip():
                endpoint.refuse("must be an address")
            elif "@" in endpoint.given:
                # Not repeated: it may hold a password.
                rule = "must not name a user or hold a password"
                endpoint.refuse(rule, "write host:port alone", got="one that does")
            else:
                endpoint.note("is kept, but the lab sends nothing to Prometheus")
        return Monitor(name, watched, endpoint.given)

    # Rules

    def _rules(self, given: Sequence[Any], heads: Sequence[_Head]) -> list[Rule]:
        types = {head.name: head.type for head in heads}
        found = []
        for at, rule in enumerate(given):
            path, name = f"workflow.rules.{at}", f"rule {at + 1}"
            if not isinstance(rule, dict):
                self.say(path, name, "a rule must hold condition and next_node", rule)
                continue
            self._unknown(rule, path, name, ("condition", "next_node"))
            condition = self._condition(rule.get("condition"), path, name, types)
            target = rule.get("next_node")
            targets = [one for one in types if types[one] != "input"]
            if target not in targets:
                wanted = f"must be a tuning or monitoring node: {', '.join(targets) or 'none here'}"
                near = _near(target, targets)
                if isinstance(target, str) and target in types:
                    remedy = "an input is there or not, nothing leads to it"
                else:
                    remedy = near and f"did you mean {near}?"
                self.say(f"{path}.next_node", f"{name}.next_node", wanted, target, remedy)
            elif condition is not None:
                found.append(Rule(condition, target, rule["condition"]))
                self._told[name] = self.place(path)
        return found

    def _condition(
        self, text: Any, path: str, name: str, types: Mapping[str, str]
    ) -> Condition | None:
        path, name = f"{path}.condition", f"{name}.condition"
        if not isinstance(text, str):
            self.say(path, name, "must be a text", text, "for example text_input.present")
            return None
        try:
            found = conditions.parse(text)
        except ParameterError as error:
            self._add(path, name, str(error))
            return None
        good = True
        for fact in dict.fromkeys(conditions.facts(found)):
            kind = types.get(fact.node)
            if kind is None:
                near = _near(fact.node, list(types))
                remedy = f"did you mean {near}?" if near else ""
                wanted = f"must name nodes of this file: {', '.join(types) or 'none here'}"
                self.say(path, name, wanted, fact.node, remedy)
            elif kind == "input" and fact.state == "completed":
                self.say(path, name, "an input is present, or not", _said(fact), "write .present")
            elif kind in ("tuning", "monitoring") and fact.state == "present":
                rule = f"a {kind} node has completed, or not"
                self.say(path, name, rule, _said(fact), "write .completed")
            else:
                continue
            good = False
        return found if good else None

    def _judge(
        self, rules: Sequence[Rule], heads: Sequence[_Head], modalities: Mapping[str, Modality]
    ) -> None:
        """Look at rules that are sound each for itself: do they fire, do they end?"""
        targets = {rule.next_node for rule in rules}
        for head in heads:
            if head.type != "input" and head.name not in targets:
                rule = "a rule must lead to it"
                self.say(head.path, head.name, rule, "none", f"add next_node: {head.name}")
        try:
            able = firing(rules, modalities)
        except graphlib.CycleError as error:
            circle = error.args[1]
            at = next(at for at, rule in enumerate(rules) if rule.next_node in circle)
            rule = "rules must not lead in a circle"
            remedy = "no node of it could be the first to complete"
            path = f"workflow.rules.{at}"
            self.say(path, f"rule {at + 1}", rule, " -> ".join(circle), remedy)
            return
        for at in sorted(set(range(len(rules))) - able):
            waits = [
                fact.node
                for fact in conditions.facts(rules[at].condition)
                if fact.state == "completed" and fact.node not in targets
            ]
            remedy = "its condition is never met, whatever a corpus has"
            if waits:
                remedy = f"no rule leads to {waits[0]}, which therefore never completes"
            rule = "must be able to fire"
            self.say(f"workflow.rules.{at}", f"rule {at + 1}", rule, rules[at].text, remedy)

    # Values

    def _list(self, body: Mapping[str, Any], key: str, most: int) -> list[Any]:
        given = body.get(key)
        if not isinstance(given, list) or not 1 <= len(given) <= most:
            got = f"a list of {len(given)}" if isinstance(given, list) else given
            rule = f"must be a list of 1 to {most}"
            self.say(f"workflow.{key}", f"workflow.{key}", rule, got)
            return []
        return given

    def _choice(self, value: _Value, known: Sequence[str], *, required: bool = False) -> str | None:
        if not value.there and not required:
            return None
        if isinstance(value.given, str) and value.given in known:
            return value.given
        near = _near(value.given, known, cutoff=0.8)  # 3bit is as much like 8bit as like 4bit
        value.refuse(f"must be one of {', '.join(known)}", near and f"did you mean {near}?")
        return None

    def _several(
        self, value: _Value, known: Sequence[str], *, required: bool = False
    ) -> tuple[str, ...] | None:
        if not value.there and not required:
            return None
        given = [value.given] if isinstance(value.given, str) else value.given
        if not isinstance(given, list) or not given:
            value.refuse(f"must be a list with at least one of {', '.join(known)}")
            return None
        for at, one in enumerate(given):
            if one not in known:
                near = _near(one, known)
                remedy = near and f"did you mean {near}?"
                value.refuse(f"must be among {', '.join(known)}", remedy, got=one, at=at)
            elif one in given[:at]:
                value.refuse("must not repeat a value", f"delete one {one}", got=one, at=at)
        return tuple(dict.fromkeys(one for one in given if one in known))

    def _whole(self, value: _Value, rule: str) -> int | None:
        if not value.there:
            return None
        number = value.given
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            value.refuse(f"must be a whole number {rule}")
            return None
        return number

    def _unknown(
        self, given: Mapping[str, Any], path: str, name: str, known: Sequence[str]
    ) -> None:
        for key in given:
            if key not in known:
                near = _near(key, known)
                remedy = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
                dotted = f"{path}.{key}" if path else key
                self._add(dotted, f"{name}.{key}" if name else key, f"unknown key; {remedy}")

    # Problems

    def place(self, path: str) -> str:
        while path and path not in self._places:
            path = path.rpartition(".")[0]
        return self._places.get(path, f"{self._file}:1")

    def say(self, path: str, name: str, rule: str, got: object, remedy: str = "") -> None:
        self._add(path, name, message(rule, got=got, remedy=remedy))

    def _add(self, path: str, name: str, text: str) -> None:
        self._put(self.place(path), name, text)

    def _put(self, place: str, name: str, text: str) -> None:
        self._problems.append(
            (_line(place), f"{place}: {printable(name[: 2 * _MAX_NAME_CHARS])}: {text}")
        )

    def _error(self) -> ParameterError:
        told = dict.fromkeys(text for _, text in sorted(self._problems, key=lambda one: one[0]))
        return ParameterError("\n".join(told))


@dataclass(frozen=True)
class _Value:
    """One key of a node's config."""

    reader: _Reader
    head: _Head
    config: Mapping[str, Any]
    key: str

    @property
    def there(self) -> bool:
        return self.key in self.config

    @property
    def given(self) -> Any:
        return self.config.get(self.key)

    def refuse(
        self, rule: str, remedy: str = "", *, got: object = None, at: int | None = None
    ) -> None:
        """Note a problem, of an item if ``at`` says which."""
        path = f"{self.head.path}.config.{self.key}" + ("" if at is None else f".{at}")
        got = self.given if got is None else got
        self.reader.say(path, f"{self.head.name}.{self.key}", rule, got, remedy)

    def note(self, text: str) -> None:
        """Tell of something that is not used."""
        place = self.reader.place(f"{self.head.path}.config.{self.key}")
        self.reader.notes.append(f"{place}: {self.head.name}.{self.key}: {text}")


def _line(place: str) -> int:
    return int(place.rpartition(":")[2])


def _is_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and len(name) <= _MAX_NAME_CHARS
        and conditions.NAME.fullmatch(name) is not None
    )


def _near(given: Any, known: Sequence[str], *, cutoff: float = 0.6) -> str:
    """Return which of the known a person may have meant, or nothing."""
    if not isinstance(given, str):
        return ""
    near = difflib.get_close_matches(given[:_MAX_NAME_CHARS].lower(), known, n=1, cutoff=cutoff)
    return near[0] if near else ""


def _said(fact: Fact) -> str:
    return f"{fact.node}.{fact.state}"


# --- writing --------------------------------------------------------------------------------------


def dump(workflow: Workflow) -> str:
    """Return a workflow as the text of a file, without comments; reading it gives the same again.

    To write another candidate into a workflow: ``dataclasses.replace(workflow, candidate=...)``.

    Raises: ParameterError, as of `parse`, if what is in it cannot stand in a file.
    """
    nodes = [_node(one.name, "input", _input_config(one)) for one in workflow.inputs]
    if workflow.candidate:
        nodes.append(_node(workflow.candidate.name, "tuning", _tuning_config(workflow.candidate)))
    if workflow.monitor:
        watched = _in_a_line(workflow.monitor.watched)
        config = {"metrics": watched, "prometheus_endpoint": workflow.monitor.endpoint}
        nodes.append(_node(workflow.monitor.name, "monitoring", config))
    rules = [{"condition": one.text, "next_node": one.next_node} for one in workflow.rules]
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 2 * conditions.MAX_CHARS
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    yaml.dump({"workflow": {"name": workflow.name, "nodes": nodes, "rules": rules}}, text)
    if parse(text.getvalue()) != workflow:
        raise ParameterError(
            message("a workflow must be one that a file can hold", got=workflow.name)
        )
    return text.getvalue()


def _node(name: str, kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    there = {key: value for key, value in config.items() if value is not None}
    return {"name": name, "type": kind, "config": there}


def _input_config(one: Input) -> dict[str, Any]:
    return {
        "type": one.modality,
        "language": None if one.languages is None else _in_a_line(one.languages),
        "format": one.format,
        "resolution": None if one.resolution is None else size_text(one.resolution),
        "sampling_rate": one.sampling_rate,
    }


def _tuning_config(one: Candidate) -> dict[str, Any]:
    bits = {method: name for name, method in _BITS.items()}
    modes = {mode: name for name, mode in _DISTRIBUTED.items()}
    return {
        "quantization": bits.get(one.method, one.method),
        "batch_size": one.batch_size,
        "distributed": modes.get(one.ray_mode, one.ray_mode),
        "pruning_ratio": one.sparsity,
        "pruning_method": None if one.pruning == "l1" else one.pruning,
        "cache": one.cache,
    }


def _in_a_line(values: Sequence[str]) -> CommentedSeq:
    listed = CommentedSeq(values)
    listed.fa.set_flow_style()
    return listed
