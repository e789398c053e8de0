"""What is kept of the rows of a table while it is analysed: numbers, not texts.

Owns reading a table, or a sample of it, in batches, and what is measured of each row. A million
rows take some tens of megabytes. Knows nothing of checks and limits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lab import duplicates, normalisation, scripts

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from datasets import Dataset

TEXTS: Mapping[str, tuple[str, ...]] = {
    "faq": ("question", "answer"),
    "images": ("description",),
    "speech": ("text",),
}
ITEMS: Mapping[str, str] = {"faq": "group", "images": "image_path", "speech": "group"}
NO_ITEM: Final = np.uint64(0)

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class View:
    """What is kept of the n rows that are looked at: numbers, in the file's order.

    Attributes:
        row: (n,) number in the file. language: (n,) index into ``languages``.
        item: (n,) digest of the group (in images: of the path), 0 for none.
        characters, tokens: text field -> (n,).
        keys: text field -> (n,) digest of the normalised text; FAQ only, as the next two.
        written: text field -> (n,) index into scripts.VERDICTS, by that field alone.
        questions: (n,) normalised questions.
        spoken: (n,) index into scripts.VERDICTS, by all texts of the row.
        classes: (language, annotation) -> rows, without those of a wrong language.
    """

    table: str
    data: Dataset
    rows_there: int
    languages: tuple[str, ...]
    row: np.ndarray
    language: np.ndarray
    item: np.ndarray
    characters: Mapping[str, np.ndarray]
    tokens: Mapping[str, np.ndarray]
    keys: Mapping[str, np.ndarray]
    written: Mapping[str, np.ndarray]
    questions: pa.Array
    spoken: np.ndarray
    classes: Mapping[tuple[str, str], int]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def tag(self) -> np.ndarray:
        """(n,) the row's language as an index into scripts.VERDICTS."""
        return _verdict_of(self.languages)[self.language]

    @cached_property
    def mismatched(self) -> np.ndarray:
        """(n,) bool: the characters decide for another language than the tag."""
        return (self.spoken != 0) & (self.spoken != self.tag)

    def population(self, n: int) -> int:
        """Return how many there are in the whole table for ``n`` of those looked at."""
        return max(n, round(n * self.rows_there / len(self))) if len(self) else n

    def item_of(self, row: int) -> int:
        """Return the digest of the item that a row, by its number in the file, belongs to."""
        return int(self.item[np.searchsorted(self.row, row)])

    def column(self, name: str, positions: np.ndarray) -> list[Any]:
        """Return the values of one column at some positions."""
        if len(positions) == 0:
            return []
        data = self.data.select_columns([name]).with_format("arrow")
        return data[positions.tolist()].column(name).to_pylist()

    def facts(self, names: Sequence[str]) -> pd.DataFrame:
        """Return columns of all rows, for the tables that are small beside their media."""
        return self.data.select_columns(list(names)).with_format("arrow")[:].to_pandas()


def _verdict_of(languages: Sequence[str]) -> np.ndarray:
    return np.array([scripts.VERDICTS.index(name) for name in languages], dtype=np.uint8)


def read(
    data: Dataset,
    table: str,
    *,
    languages: Sequence[str],
    size: int | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> View:
    """Read a table, or a sample of about ``size`` rows of it.

    Args:
        data: a table of lab.corpus.
        table: ``faq``, ``images`` or ``speech``.
        languages: of the tenant; every row's is among them.
        size: rows of the sample; None for all.
        seed: of the sample, in which rows of one item stay together.
        progress: called with (rows done, in all).
    """
    rows_there = len(data)
    if size is not None and size < rows_there:
        items = [_digests(batch.column(ITEMS[table])) for batch in _batches(data, [ITEMS[table]])]
        data = data.select(_sample(np.concatenate(items), size, seed=seed))
    columns: dict[str, list[Any]] = defaultdict(list)
    classes: Counter[tuple[int, str]] = Counter()
    done = 0
    for batch in _batches(data, ["row", "language", "annotation", ITEMS[table], *TEXTS[table]]):
        for name, values in _measure(batch, table, tuple(languages), classes).items():
            columns[name].append(values)
        done += len(batch)
        progress(done, len(data))
    return _view(table, data, rows_there, tuple(languages), columns, classes)


def _measure(
    batch: pa.Table,
    table: str,
    languages: tuple[str, ...],
    classes: Counter[tuple[int, str]],
) -> dict[str, Any]:
    """Return a batch's numbers by column name, and add its rows to the counts of classes."""
    import pyarrow as pa

    tags = batch.column("language").to_pylist()
    annotations = batch.column("annotation").to_pylist()
    numbers = {name: index for index, name in enumerate(languages)}
    language = np.fromiter((numbers[tag] for tag in tags), dtype=np.int8, count=len(tags))
    found: dict[str, Any] = {
        "row": batch.column("row").to_numpy(),
        "language": language,
        "item": _digests(batch.column(ITEMS[table])),
    }
    together = np.zeros((len(tags), scripts.COLUMNS), dtype=np.int64)
    for name in TEXTS[table]:
        texts = batch.column(name).to_pylist()
        counts = scripts.count_scripts(texts)
        together += counts
        found[f"characters {name}"] = np.fromiter(map(len, texts), np.int32, len(texts))
        found[f"tokens {name}"] = scripts.tokens(counts).astype(np.int32)
        if table == "faq":
            normal = [normalisation.normalise(text) for text in texts]
            found[f"keys {name}"] = np.fromiter(
                map(normalisation.digest, normal), np.uint64, len(normal)
            )
            found[f"written {name}"] = scripts.detect(counts)
            if name == "question":
                cut = [text[: duplicates.COMPARED_CHARS] for text in normal]
                found["questions"] = pa.array(cut, type=pa.large_string())
    if table != "faq":  # one short text says little, and the annotation is in its language
        together += scripts.count_scripts(annotations)
    found["spoken"] = scripts.detect(together)
    tagged = _verdict_of(languages)[language]
    sound = (found["spoken"] == 0) | (found["spoken"] == tagged)
    pairs = zip(language.tolist(), annotations, strict=True)
    classes.update(pair for pair, is_sound in zip(pairs, sound.tolist(), strict=True) if is_sound)
    return found


def _view(
    table: str,
    data: Dataset,
    rows_there: int,
    languages: tuple[str, ...],
    columns: Mapping[str, list[Any]],
    classes: Counter[tuple[int, str]],
) -> View:
    import pyarrow as pa

    def whole(name: str) -> np.ndarray:
        parts = columns.get(name)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    fields = TEXTS[table]
    questions = columns.get("questions")
    return View(
        table=table,
        data=data,
        rows_there=rows_there,
        languages=languages,
        row=whole("row"),
        language=whole("language"),
        item=whole("item"),
        characters={name: whole(f"characters {name}") for name in fields},
        tokens={name: whole(f"tokens {name}") for name in fields},
        keys={name: whole(f"keys {name}") for name in fields},
        written={name: whole(f"written {name}") for name in fields},
        questions=pa.concat_arrays(questions) if questions else pa.array([], pa.large_string()),
        spoken=whole("spoken"),
        classes={(languages[index], name): count for (index, name), count in classes.items()},
    )


def _batches(data: Dataset, columns: list[str]) -> Iterator[pa.Table]:
    if len(data):
        yield from data.select_columns(columns).with_format("arrow").iter(batch_size=_BATCH_ROWS)


def _digests(names: pa.ChunkedArray) -> np.ndarray:
    """Return a digest of each name, 0 for None: (n,) uint64."""
    return np.fromiter(
        (0 if name is None else normalisation.digest(name) or 1 for name in names.to_pylist()),
        dtype=np.uint64,
        count=len(names),
    )


def _sample(items: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Choose about ``size`` rows so that rows of one item come together: sorted positions.

    Items are taken in random order for as long as they fit, at least one; a row without an item
    is one of its own.
    """
    alone = items == NO_ITEM
    _, unit = np.unique(items, return_inverse=True)
    unit[alone] = unit.max() + 1 + np.arange(int(alone.sum()))
    _, unit = np.unique(unit, return_inverse=True)
    order = np.random.default_rng(seed).permutation(unit.max() + 1)
    reach = np.cumsum(np.bincount(unit)[order])
    chosen = order[: max(1, int(np.searchsorted(reach, size, side="right")))]
    return np.flatnonzero(np.isin(unit, chosen))
