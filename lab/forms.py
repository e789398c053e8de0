"""Items in all their forms: the same question in words and in speech, an image and its description.

Owns which rows of a corpus those are, whole groups at a time, and what else of the corpus belongs
to them. Knows nothing of models, or of what is compared with what.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lab import media
from lab.errors import CorpusError, message
from lab.queries import Query

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.params import Settings

Table = Literal["faq", "speech", "images", "joint"]
_COLUMNS: Mapping[Table, Mapping[str, str]] = {
    "faq": {"question": "text", "answer": "wanted", "annotation": "subject"},
    "speech": {"text": "said", "audio_path": "audio", "annotation": "subject"},
    "images": {"description": "description", "image_path": "image", "annotation": "subject"},
    "joint": {
        "text": "text",
        "answer": "wanted",
        "image_path": "image",
        "audio_path": "audio",
    },
}


@dataclass(frozen=True)
class Item:
    """A row of a corpus, with what other tables know of its image and recording.

    Attributes:
        id: table and row, such as ``faq:17``.
        group: that ties versions in several languages together; else the id.
        language: zh, en or ja.
        subject: what it is about: its annotation, or without one the right answer.
        text: the question in words.
        said: what the recording says.
        wanted: the right answer.
        description: of the image, in this language.
        image: path in the corpus.
        audio: likewise.
    """

    id: str
    group: str
    language: str
    subject: str = ""
    text: str = ""
    said: str = ""
    wanted: str = ""
    description: str = ""
    image: str = ""
    audio: str = ""

    def query(
        self,
        corpus: Corpus,
        settings: Settings,
        *,
        text: str = "",
        image: bool = False,
        audio: bool = False,
    ) -> Query:
        """Return a query about the item, with its image or recording read from the corpus.

        Raises: MediaError, PathError.
        """
        return Query(
            text=text,
            image=media.load_image(corpus.media_path(self.image), data=settings.data)
            if image
            else None,
            audio=media.load_audio(corpus.media_path(self.audio), data=settings.data)
            if audio
            else None,
            language=self.language,
            system=settings.system_prompt or "",
        )


def draw(
    corpus: Corpus, table: Table, *, items: int, settings: Settings, seed: int
) -> tuple[Item, ...]:
    """Draw items of a table, whole groups until each language has its share or there is no more.

    Args:
        corpus: the tenant's.
        table: which.
        items: about as many; the last groups may bring some more.
        settings: the tenant's languages.
        seed: of the drawing.
    Returns: in random order, none if the tenant has no such table.
    Raises: CorpusError if a table that is there holds none of the tenant's languages.
    """
    if table not in corpus.tables:
        return ()
    rows = corpus.tables[table]
    known = rows.select_columns(["language", "group", "row"])[:]
    groups: dict[str, list[int]] = defaultdict(list)
    for at, language in enumerate(known["language"]):
        if language in settings.languages:
            groups[known["group"][at] or f"{table}:{known['row'][at]}"].append(at)
    if not groups:
        raise CorpusError(
            message(
                f"the table {table} must hold one of {', '.join(settings.languages)}",
                got="none",
                place=str(corpus.folder),
            )
        )
    share = math.ceil(items / len(settings.languages))
    have: Counter[str] = Counter()
    names, chosen = list(groups), []
    for at in np.random.default_rng(seed).permutation(len(names)):
        spoken = Counter(known["language"][row] for row in groups[names[at]])
        if any(have[language] < share for language in spoken):
            chosen += [(names[at], row) for row in groups[names[at]]]
            have += spoken
    looked_up = _Lookup(corpus)
    return tuple(_item(table, rows[row], group, looked_up) for group, row in chosen)


@dataclass
class _Lookup:
    """What the tables of images and of speech say of a file."""

    corpus: Corpus

    def __post_init__(self) -> None:
        self._descriptions = self._column("images", "image_path", "description")
        self._said = self._column("speech", "audio_path", "text")

    def description(self, image: str, language: str) -> str:
        return self._descriptions.get((image, language), "")

    def said(self, audio: str, language: str) -> str:
        return self._said.get((audio, language), "")

    def _column(self, table: str, file: str, words: str) -> dict[tuple[str, str], str]:
        if table not in self.corpus.tables:
            return {}
        rows = self.corpus.tables[table].select_columns([file, "language", words])[:]
        return dict(zip(zip(rows[file], rows["language"], strict=True), rows[words], strict=True))


def _item(table: Table, row: Mapping[str, Any], group: str, look: _Lookup) -> Item:
    found = {ours: row[theirs] or "" for theirs, ours in _COLUMNS[table].items()}
    language = row["language"]
    if table == "joint":
        found["description"] = look.description(found["image"], language)
        found["said"] = look.said(found["audio"], language)
    found.setdefault("subject", found.get("wanted", ""))
    return Item(f"{table}:{row['row']}", group, language, **found)
