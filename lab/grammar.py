"""The sentences of the demo corpora: a tenant's intents, phrasings and slots, in three languages.

Owns reading the grammars of the tenants, of questions about pictures and of what is off topic,
turning an intent with slot values into a question and its answer, and which fillings are held out
from training. Knows nothing of how many are wanted or where they go.
"""

from __future__ import annotations

import importlib.resources
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ruamel.yaml import YAML

from lab.errors import MissingError, ParameterError, message

LANGUAGES = ("zh", "en", "ja")
_NOT_TENANTS = ("objects", "offtopic", "visual")
_HELD_OUT_ONE_IN = 10  # of the fillings of an intent
_SLOT = re.compile(r"\{([a-z_0-9]+)\}")

ByLanguage = Mapping[str, str]


@dataclass(frozen=True)
class Intent:
    """One thing people ask: its phrasings (the last one is held out from training) and answer.

    ``questions[language][i]`` say the same in every language.
    """

    id: str
    annotation: ByLanguage
    slots: tuple[str, ...]
    questions: Mapping[str, tuple[str, ...]]
    answers: ByLanguage

    @property
    def phrasings(self) -> int:
        """How many ways there are to ask it, the same in every language."""
        return len(self.questions[LANGUAGES[0]])


@dataclass(frozen=True)
class Grammar:
    """All intents of a tenant, and the values of their slots by language."""

    tenant: str
    intents: tuple[Intent, ...]
    slots: Mapping[str, tuple[ByLanguage, ...]]

    def combinations(self, intent: Intent) -> int:
        """Return how many different fillings the intent's slots have."""
        return math.prod(len(self.slots[slot]) for slot in intent.slots)

    def filling(self, intent: Intent, number: int) -> dict[str, ByLanguage]:
        """Return the ``number``-th filling, 0 <= number < combinations(intent)."""
        chosen = {}
        for slot in intent.slots:
            number, index = divmod(number, len(self.slots[slot]))
            chosen[slot] = self.slots[slot][index]
        return chosen

    def held_out(self, intent: Intent, number: int) -> bool:
        """Say whether a filling is held out from training; about one in ten is, always the same."""
        return zlib.crc32(f"{self.tenant}/{intent.id}/{number}".encode()) % _HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class VisualKind:
    """One thing that is asked about pictures; ``questions`` as in an intent."""

    id: str
    questions: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class VisualQuestions:
    """The questions about pictures, and the annotation their recordings bear."""

    annotation: ByLanguage
    kinds: tuple[VisualKind, ...]


def tenants() -> list[str]:
    """Return the tenants that have a grammar, sorted."""
    folder = importlib.resources.files("lab") / "grammars"
    names = (entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return sorted({name.removesuffix(".yaml") for name in names} - set(_NOT_TENANTS))


@lru_cache(maxsize=8)
def load(tenant: str) -> Grammar:
    """Read a tenant's grammar.

    Raises: MissingError if it has none, ParameterError if a phrasing does not use its slots.
    """
    if tenant not in tenants():
        raise MissingError(
            message(
                f"demo corpora can be made for {', '.join(tenants())}",
                got=tenant,
                remedy="bring your own data for other tenants",
            )
        )
    document = _read(tenant)
    slots = {
        name: tuple({lang: value[lang] for lang in LANGUAGES} for value in values)
        for name, values in document["slots"].items()
    }
    intents = tuple(_intent(entry, tenant) for entry in document["intents"])
    return Grammar(tenant, intents, slots)


@lru_cache(maxsize=1)
def load_visual() -> VisualQuestions:
    """Read the questions about pictures."""
    document = _read("visual")
    kinds = tuple(
        VisualKind(entry["id"], {lang: tuple(entry[lang]) for lang in LANGUAGES})
        for entry in document["kinds"]
    )
    return VisualQuestions(document["annotation"], kinds)


@lru_cache(maxsize=2)
def load_off_topic(*, held_out: bool) -> Grammar:
    """Read the questions that no tenant answers: those to train on, or the subjects held out.

    Every answer is the refusal.
    """
    document = _read("offtopic")
    slots = {
        name: tuple({lang: value[lang] for lang in LANGUAGES} for value in values)
        for name, values in document["slots"].items()
    }
    intents = tuple(
        Intent(
            id=entry["id"],
            annotation=document["annotation"],
            slots=tuple(entry["slots"]),
            questions={lang: tuple(entry["questions"][lang]) for lang in LANGUAGES},
            answers=document["refusal"],
        )
        for entry in document["topics"]
        if entry["held_out"] == held_out
    )
    return Grammar("", intents, slots)


@lru_cache(maxsize=8)
def paraphrases(tenant: str) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return more ways to ask a tenant's intents, for training only: intent -> language -> texts.

    Of "visual", more ways to ask each kind of question about a picture. They were written without
    sight of the held-out phrasings.
    """
    document = _read(f"paraphrases/{tenant}")
    return {
        intent: {lang: tuple(entry[lang]) for lang in LANGUAGES}
        for intent, entry in document["paraphrases"].items()
    }


def fill(template: str, filling: Mapping[str, ByLanguage], language: str) -> str:
    """Return a sentence with its slots filled; English ones begin with a capital."""
    text = _SLOT.sub(lambda match: filling[match[1]][language], template)
    return text[0].upper() + text[1:] if language == "en" else text


def _intent(entry: Mapping[str, Any], tenant: str) -> Intent:
    intent = Intent(
        id=entry["id"],
        annotation={lang: entry["annotation"][lang] for lang in LANGUAGES},
        slots=tuple(entry["slots"]),
        questions={lang: tuple(entry["questions"][lang]) for lang in LANGUAGES},
        answers={lang: entry["answers"][lang] for lang in LANGUAGES},
    )
    wanted = sorted(intent.slots)
    for lang in LANGUAGES:
        if len(intent.questions[lang]) != intent.phrasings:
            raise ParameterError(
                message(
                    "an intent must have as many phrasings in every language",
                    got=f"{len(intent.questions[lang])} in {lang}",
                    place=f"{tenant}.yaml: {intent.id}",
                )
            )
        for sentence in (*intent.questions[lang], intent.answers[lang]):
            if sorted(_SLOT.findall(sentence)) != wanted:
                raise ParameterError(
                    message(
                        f"a sentence must use each of {', '.join(wanted)} once",
                        got=sentence,
                        place=f"{tenant}.yaml: {intent.id}",
                    )
                )
    return intent


def _read(name: str) -> Any:
    file = importlib.resources.files("lab") / "grammars" / f"{name}.yaml"
    return YAML(typ="safe", pure=True).load(file.read_text("utf-8"))
