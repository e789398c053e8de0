"""What a tenant's service is asked when it is measured, and what it should say.

Owns which rows of a corpus those are: the same for a seed, as many of each language as there can
be, the versions of one item in several languages never apart between what is measured and what a
method is calibrated with. Knows nothing of models or time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import media
from lab.errors import CorpusError, ParameterError, message
from lab.queries import SAMPLING_RATE_HZ, Query
from lab.trials import Kind

if TYPE_CHECKING:
    from datasets import Dataset

    from lab.corpus import Corpus
    from lab.params import Settings


@dataclass(frozen=True)
class _Source:
    """Where requests of a kind come from: table, and which field holds what.

    Of rows of a language that are equal in the field ``distinct`` one is asked.
    """

    table: str
    wanted: str
    text: str = ""
    image: str = ""
    audio: str = ""
    distinct: str = ""


# What is asked about an image, and in three ways at once, stands in the joint table only.
_SOURCES: Mapping[Kind, _Source] = {
    "text": _Source("faq", "answer", text="question"),
    "image_text": _Source("joint", "answer", text="text", image="image_path"),
    "speech": _Source("speech", "text", audio="audio_path"),
    "joint": _Source("joint", "answer", text="text", image="image_path", audio="audio_path"),
    # The same picture twice could not be told apart.
    "match": _Source(
        "images", "description", text="description", image="image_path", distinct="digest"
    ),
}


@dataclass(frozen=True, eq=False)
class Request:
    """A query, and what should come back.

    Attributes:
        id: table and row of the corpus, such as ``faq:17``.
        group: of the corpus, which ties versions in several languages together; else the id.
        language: of the query.
        query: what is asked.
        wanted: the right answer; of speech, what is said; of a match, the description.
    """

    id: str
    group: str
    language: str
    query: Query
    wanted: str


@dataclass(frozen=True)
class Drawn:
    """Requests to measure with, and others to calibrate with, of different groups."""

    measured: tuple[Request, ...]
    calibration: tuple[Request, ...]


def draw(
    corpus: Corpus, kind: Kind, *, items: int, settings: Settings, seed: int, calibration: int = 0
) -> Drawn:
    """Draw requests of one kind.

    Args:
        corpus: the tenant's.
        kind: of the queries.
        items: to measure with; languages take turns, so that each has as many as there can be.
        settings: the tenant's languages, system prompt, and what its media must be like.
        seed: of the drawing.
        calibration: further ones.
    Raises: CorpusError if the tenant has no such table or too few rows, MediaError, PathError,
        ParameterError if recordings have another rate than the speech models hear.
    """
    source = _SOURCES[kind]
    if source.table not in corpus.tables:
        raise CorpusError(
            message(
                f"queries of kind {kind} come from the table {source.table}",
                got="none",
                place=str(corpus.folder),
                remedy="add the file, or leave the kind out",
            )
        )
    if source.audio and settings.data.sampling_rate != SAMPLING_RATE_HZ:
        raise ParameterError(
            message(
                f"recordings must have the {SAMPLING_RATE_HZ} Hz that speech models hear",
                got=settings.data.sampling_rate,
                place="data.sampling_rate",
                remedy="convert them",
            )
        )
    rows = corpus.tables[source.table]
    known = _known(rows, source)
    order = _in_turns(known, settings.languages, seed=seed)
    chosen = order[:items]
    measured_groups = {_group(known, at, source.table) for at in chosen}
    rest = [at for at in order[items:] if _group(known, at, source.table) not in measured_groups]
    if len(chosen) < items or len(rest) < calibration:
        raise CorpusError(
            message(
                f"the table {source.table} must have {items} rows to measure with"
                + (f" and {calibration} of other groups to calibrate with" if calibration else ""),
                got=f"{len(order)} in {', '.join(settings.languages)}, {len(rest)} left",
                place=str(corpus.folder),
                remedy="ask for fewer items, or add rows",
            )
        )

    def read(at: int) -> Request:
        return _request(corpus, source, rows[at], _group(known, at, source.table), settings)

    return Drawn(tuple(map(read, chosen)), tuple(map(read, rest[:calibration])))


def source(kind: Kind) -> tuple[str, tuple[str, ...]]:
    """Return the table that requests of a kind come from, and what of text, image, audio it has."""
    found = _SOURCES[kind]
    return found.table, tuple(one for one in ("text", "image", "audio") if getattr(found, one))


def available(corpus: Corpus, kind: Kind, *, languages: Sequence[str]) -> int:
    """Return how many requests of a kind a corpus holds in these languages; 0 without its table."""
    source = _SOURCES[kind]
    table = corpus.tables.get(source.table)
    if table is None:
        return 0
    return len(_in_turns(_known(table, source), languages, seed=0))


def _known(rows: Dataset, source: _Source) -> Mapping[str, Sequence[Any]]:
    """Return what rows are chosen by; of those that are equal the first has a language."""
    known = rows.select_columns(
        ["language", "group", "row", *([source.distinct] if source.distinct else [])]
    )[:]
    if not source.distinct:
        return known
    seen: set[tuple[str, Any]] = set()
    languages = []
    for one in zip(known["language"], known[source.distinct], strict=True):
        languages.append("" if one in seen else one[0])
        seen.add(one)
    return {**known, "language": languages}


def _in_turns(
    known: Mapping[str, Sequence[Any]], languages: Sequence[str], *, seed: int
) -> list[int]:
    """Return row numbers in random order, the languages taking turns as long as they last."""
    rng = np.random.default_rng(seed)
    spoken = np.asarray(known["language"])
    by_language = [rng.permutation(np.flatnonzero(spoken == one)).tolist() for one in languages]
    return [at for turn in zip_longest(*by_language) for at in turn if at is not None]


def _group(known: Mapping[str, Sequence[Any]], at: int, table: str) -> str:
    return known["group"][at] or f"{table}:{known['row'][at]}"


def _request(
    corpus: Corpus, source: _Source, row: Mapping[str, Any], group: str, settings: Settings
) -> Request:
    image = audio = None
    if source.image:
        image = media.load_image(corpus.media_path(row[source.image]), data=settings.data)
    if source.audio:
        audio = media.load_audio(corpus.media_path(row[source.audio]), data=settings.data)
    query = Query(
        text=row[source.text] if source.text else "",
        image=image,
        audio=audio,
        language=row["language"],
        system=settings.system_prompt or "",
    )
    return Request(
        f"{source.table}:{row['row']}", group, row["language"], query, row[source.wanted]
    )
