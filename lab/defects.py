"""Realistic faults for demo corpora, and the list of what was planted.

Owns what each kind of fault looks like. Pure: rows and samples in, spoiled copies out. Knows
nothing of how an analysis looks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Row = dict[str, str]

_PREFIXES = {
    "zh": ("请问，", "你好，", "想问一下，"),
    "en": ("Hi, ", "Hello, ", "Excuse me, "),
    "ja": ("すみません、", "お尋ねしますが、", "あの、"),
}
_FULL_TO_HALF = str.maketrans("，。？！：；", ",.?!:;")


@dataclass(frozen=True)
class Defect:
    """One planted fault: the file and 1-based row that bear it, its kind, and what was done."""

    file: str
    row: int
    kind: str
    detail: str


def near_duplicate(row: Row, rng: np.random.Generator) -> tuple[Row, str]:
    """Return a copy of a FAQ row as it comes of pasting twice: the question slightly edited.

    The answer, language and annotation stay; the copy belongs to no group.
    """
    edits: Sequence[tuple[str, Callable[[str, str, np.random.Generator], str]]] = (
        ("punctuation", _repunctuate),
        ("polite prefix", _prefix),
        ("dropped character", _drop),
        ("doubled character", _double),
        ("swapped characters", _swap),
    )
    name, edit = edits[rng.integers(len(edits))]
    question = edit(row["question"], row["language"], rng)
    if question == row["question"]:
        name, question = "polite prefix", _prefix(row["question"], row["language"], rng)
    copy = {key: value for key, value in row.items() if key != "group"}
    return {**copy, "question": question}, name


def wrong_language(row: Row, languages: Sequence[str], rng: np.random.Generator) -> tuple[Row, str]:
    """Return a row whose language tag is one of the others; its text stays."""
    others = [language for language in languages if language != row["language"]]
    tag = others[rng.integers(len(others))]
    return {**row, "language": tag}, f"{row['language']} tagged {tag}"


def clipped(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a recording made with far too much gain: a tenth of its samples at full scale."""
    level = np.quantile(np.abs(samples), 1 - rng.uniform(0.08, 0.2))
    return np.clip(samples / max(float(level), 1e-6), -1, 1).astype(np.float32)


def silent(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a recording with a dead microphone: as long as it was, with only faint hiss."""
    return (rng.standard_normal(len(samples)) * 10 ** (-75 / 20)).astype(np.float32)


def _repunctuate(text: str, language: str, rng: np.random.Generator) -> str:
    if language == "en":
        return text.removesuffix("?").removesuffix(".") + ("??" if rng.random() < 0.5 else " ")
    return text.translate(_FULL_TO_HALF)


def _prefix(text: str, language: str, rng: np.random.Generator) -> str:
    prefix = _PREFIXES[language][rng.integers(len(_PREFIXES[language]))]
    if language == "en":
        text = text[0].lower() + text[1:]
    return prefix + text


def _place(text: str, rng: np.random.Generator) -> int:
    """Choose a letter that is neither the first nor near the end, where a slip is readable."""
    return int(rng.integers(1, max(2, len(text) - 3)))


def _drop(text: str, language: str, rng: np.random.Generator) -> str:
    at = _place(text, rng)
    return text[:at] + text[at + 1 :]


def _double(text: str, language: str, rng: np.random.Generator) -> str:
    at = _place(text, rng)
    return text[:at] + text[at] + text[at:]


def _swap(text: str, language: str, rng: np.random.Generator) -> str:
    at = _place(text, rng)
    return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]
