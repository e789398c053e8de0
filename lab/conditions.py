"""Conditions of a workflow's rules: ``text_input.present && !(image_input.present || ...)``.

Owns their grammar, and what they come to once it is known which facts hold. Nothing of a condition
is ever run as code. Knows nothing of which nodes there are or what happens to them.

    either = both {"||" both}
    both = one {"&&" one}
    one = "!" one | "(" either ")" | name "." ("present" | "completed")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from lab.errors import ParameterError, message

State = Literal["present", "completed"]

MAX_CHARS = 1000
_MAX_DEPTH = 20
NAME = re.compile(r"[^\W\d][\w-]*")  # of a node, in any script
_TOKEN = re.compile(rf"\s*(?:(\|\||&&|[!().])|({NAME.pattern})|(\S)|$)")
_WORDS = {"and": "&&", "or": "||", "not": "!"}
_SIGNS = {"&": "&&", "|": "||", "=": "", "~": "!"}


@dataclass(frozen=True)
class Fact:
    """That a node is present, or has completed."""

    node: str
    state: State


@dataclass(frozen=True)
class Not:
    """The contrary of a condition."""

    of: Condition


@dataclass(frozen=True)
class Both:
    """All of several conditions."""

    of: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    """At least one of several conditions."""

    of: tuple[Condition, ...]


Condition = Fact | Not | Both | Either


def parse(text: str) -> Condition:
    """Read a condition.

    Raises: ParameterError that names the character where it stops being one, counted from 1.
    """
    if len(text) > MAX_CHARS:
        rule = f"a condition must be at most {MAX_CHARS} characters long"
        raise ParameterError(message(rule, got=f"{len(text)} characters"))
    return _Parser(text).whole()


def holds(condition: Condition, is_so: Callable[[Fact], bool]) -> bool:
    """Tell whether a condition is met, given which facts are."""
    match condition:
        case Fact():
            return is_so(condition)
        case Not(of):
            return not holds(of, is_so)
        case Both(of):
            return all(holds(one, is_so) for one in of)
        case Either(of):
            return any(holds(one, is_so) for one in of)


def facts(condition: Condition) -> Iterator[Fact]:
    """Yield the facts that a condition mentions, in their order, again if it does."""
    match condition:
        case Fact():
            yield condition
        case Not(of):
            yield from facts(of)
        case Both(of) | Either(of):
            for one in of:
                yield from facts(one)


class _Parser:
    """One pass over a text, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._advance()

    def whole(self) -> Condition:
        found = self._either(0)
        if self._word:
            remedy = "close it where it is opened" if self._word == ")" else "write && or ||"
            raise self._error("a condition must end or go on with && or ||", remedy)
        return found

    def _either(self, depth: int) -> Condition:
        return self._several("||", Either, self._both, depth)

    def _both(self, depth: int) -> Condition:
        return self._several("&&", Both, self._one, depth)

    def _several(
        self,
        sign: str,
        kind: type[Both] | type[Either],
        part: Callable[[int], Condition],
        depth: int,
    ) -> Condition:
        parts = [part(depth)]
        while self._word == sign:
            self._advance()
            parts.append(part(depth))
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _one(self, depth: int) -> Condition:
        if depth > _MAX_DEPTH:
            raise self._error(f"a condition must nest at most {_MAX_DEPTH} deep", "simplify it")
        if self._word == "!":
            self._advance()
            return Not(self._one(depth + 1))
        if self._word == "(":
            self._advance()
            found = self._either(depth + 1)
            if self._word != ")":
                raise self._error("a parenthesis must be closed", "write ) here")
            self._advance()
            return found
        return self._fact()

    def _fact(self) -> Fact:
        node = self._word
        if not self._is_name:
            known = "write a node's name, then .present or .completed"
            raise self._error("a condition must have a fact here", known)
        if node in _WORDS:
            raise self._error("a condition must use && || !", f"write {_WORDS[node]}")
        self._advance()
        if self._word != ".":
            known = f"write {node}.present or {node}.completed"
            raise self._error("a node's name must be followed by .present or .completed", known)
        self._advance()
        if self._word not in get_args(State):
            rule = f"a fact must be one of {', '.join(get_args(State))}"
            raise self._error(rule, "a node is present if the corpus has it, else completed")
        state: State = self._word  # type: ignore[assignment]
        self._advance()
        return Fact(node, state)

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        sign, name, other = found.groups()
        self._began = found.start(found.lastindex) if found.lastindex else len(self._text)
        self._word, self._is_name = sign or name or other or "", name is not None
        self._at = found.end()

    def _error(self, rule: str, remedy: str) -> ParameterError:
        if self._word in _WORDS or self._word in _SIGNS:
            meant = {**_WORDS, **_SIGNS}[self._word]
            remedy = f"write {meant}" if meant else remedy
        got = self._word or "the end"
        return ParameterError(
            message(rule, got=got, place=f"character {self._began + 1}", remedy=remedy)
        )
