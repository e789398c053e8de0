"""Model cards of the demo suite: what each model is, what it learnt from, how good it is.

Owns the wording, and the place in a card where measured figures are written. Knows nothing of how
they are measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import MissingError, ModelError, message
from lab.files import write_whole
from lab.slo import Metric

CARD = "README.md"
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_NONE_YET = "Not measured yet: `lab models evaluate demo --write` does it."


@dataclass(frozen=True)
class Card:
    """What stands in a card beside the figures.

    Attributes:
        title: of the card.
        task: pipeline tag of the Hugging Face Hub.
        licence: SPDX id of the weights.
        summary: what it is and what it is for.
        data: what it learnt from.
        recipe: how.
        limits: what it cannot do.
        sources: whose work is in it, with licences.
    """

    title: str
    task: str
    licence: str
    summary: str
    data: str
    recipe: str
    limits: str
    sources: str = "Trained from nothing; no weights of others are in it."


def write(card: Card, folder: Path) -> None:
    """Write a card; its figures are those of an older one, or none yet."""
    file = folder / CARD
    figures = _figures_of(file.read_text("utf-8")) if file.exists() else None
    languages = "\n".join(f"- {language}" for language in ("zh", "en", "ja"))
    text = f"""---
license: {card.licence}
language:
{languages}
pipeline_tag: {card.task}
library_name: {"sentence-transformers" if "similarity" in card.task else "transformers"}
---

# {card.title}

{card.summary}

## What it learnt from

{card.data}

## Recipe

{card.recipe}

## Measured

{_BEGIN}
{figures or _NONE_YET}
{_END}

## Limits

{card.limits}

## Whose work is in it

{card.sources}
"""
    write_whole(file, text)


def write_figures(figures: Sequence[Metric], folder: Path, *, machine: str) -> None:
    """Put measured figures into a card that is there.

    Args:
        figures: with the labels what and language.
        folder: the checkpoint's.
        machine: on what they were measured, one line.
    Raises: MissingError without a card; ModelError if it has no place for figures.
    """
    file = folder / CARD
    if not file.exists():
        raise MissingError(
            message("figures are written into a model card", got="none", place=str(file))
        )
    text = file.read_text("utf-8")
    if _figures_of(text) is None:
        raise ModelError(
            message(f"a model card must hold {_BEGIN} and {_END}", got="neither", place=str(file))
        )
    before, after = text[: text.index(_BEGIN)], text[text.index(_END) :]
    rows = "\n".join(row(figure) for figure in figures)
    table = f"{_HEADER}\n{rows}\n\nOn items never trained on, in float32, on {machine}."
    write_whole(file, f"{before}{_BEGIN}\n{table}\n{after}")


_HEADER = (
    "| what | language | value | 95 % interval | n | target | verdict |\n"
    "|---|---|---|---|---|---|---|"
)


def row(figure: Metric) -> str:
    """Return a figure as a row of the table."""
    return f"| {' | '.join(cells(figure))} |"


def cells(figure: Metric) -> list[str]:
    """Return what, language, value with unit, interval, n, target and verdict of a figure."""
    unit = f" {figure.unit}" if figure.unit not in ("", "share") else ""
    known = figure.ci is not None and all(map(math.isfinite, figure.ci))
    return [
        str(figure.labels["what"]),
        str(figure.labels["language"]),
        f"{figure.value:.4g}{unit}",
        f"{figure.ci[0]:.4g} to {figure.ci[1]:.4g}" if known else "none",
        str(figure.n),
        figure.limit or "",
        figure.verdict or "",
    ]


def _figures_of(text: str) -> str | None:
    begin, end = text.find(_BEGIN), text.find(_END)
    return text[begin + len(_BEGIN) : end].strip() if 0 <= begin < end else None
