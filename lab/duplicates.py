"""Rows that say the same twice: exact copies, near copies, contradictions.

Owns what counts as a copy and a search whose work grows linearly with the rows. Arrays in, arrays
out; knows nothing of files, tenants or limits. Texts come in normalised (lab.normalisation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lab.errors import ParameterError, ShapeError, message

NEAR_RULE = (
    "the same normalised answer, and questions whose similarity, 1 - edits / characters of the "
    "longer, reaches the limit (an edit inserts, drops, changes or swaps characters; a lead-in or "
    "an ending no longer than the rest costs none)"
)
IMAGE_RULE = (
    "the same file, or difference hashes at most 3 of 64 bits apart and thumbnails of 32 x 32 "
    "cells none of which is more than 16 of 255 levels apart"
)
COMPARED_CHARS = 500  # of a question; bounds the work on huge texts

_ALL_PAIRS_UP_TO = 64  # questions with one answer; above, candidates come from hashing
_PAIRS_AT_ONCE = 100_000
_BANDS, _BAND_ROWS = 32, 3  # finds a pair of Jaccard 0.5 with 98.6 %, of 0.2 with 23 %
_NEIGHBOURS = 8  # compared with each row of a band's bucket, however full it is
_HASHED_AT_ONCE = 8192
_HASH_BITS, _HASH_QUARTERS = 3, 4  # three bits differ in at most three of the four quarters
_THUMBNAIL, _LEVELS = 32, 16

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Copies:
    """Copies and what they are copies of; all three are (m,).

    ``rows`` and ``originals`` are positions in the arrays that were searched, sorted by ``rows``,
    each of which stands once; ``similarity`` is in (0, 1].
    """

    rows: np.ndarray
    originals: np.ndarray
    similarity: np.ndarray


def exact_copies(questions: np.ndarray, answers: np.ndarray, *, preference: np.ndarray) -> Copies:
    """Find rows whose question and answer are both those of another row.

    Args:
        questions: (n,) digests of the normalised texts.
        answers: (n,) likewise.
        preference: (n,) distinct integers; of equal rows the one with the lowest is the original.
    """
    _same_length(questions, answers, preference)
    order = np.lexsort((preference, answers, questions))
    starts = _starts(questions[order], answers[order])
    run = np.cumsum(starts) - 1
    originals = order[starts][run]
    return _copies(order[~starts], originals[~starts], np.ones(int((~starts).sum())))


def contradicting(questions: np.ndarray, answers: np.ndarray, scope: np.ndarray) -> np.ndarray:
    """Mark every row whose question is answered differently elsewhere in its scope.

    Args:
        questions: (n,) digests of the normalised texts.
        answers: (n,) likewise.
        scope: (n,) integers within which a question must have one answer, such as the language.
    Returns: (n,) bool. All rows of such a question are marked: nothing tells which is right.
    """
    _same_length(questions, answers, scope)
    marked = np.zeros(len(questions), dtype=bool)
    if len(questions) == 0:
        return marked
    order = np.lexsort((answers, questions, scope))
    starts = _starts(scope[order], questions[order])
    other_answer = _starts(scope[order], questions[order], answers[order])
    run = np.cumsum(starts) - 1
    different = np.bincount(run, weights=other_answer)
    marked[order] = different[run] > 1
    return marked


def near_copies(
    texts: pa.Array,
    answers: np.ndarray,
    *,
    preference: np.ndarray,
    similarity: float,
    seed: int,
    progress: Progress | None = None,
) -> Copies:
    """Find rows that ask nearly the same as another row with the same answer (``NEAR_RULE``).

    Questions that share an answer are compared with one another, all of them where they are at
    most 64, else those that MinHash over their characters and pairs of characters brings
    together. Give every text once: exact copies belong to ``exact_copies``.

    Args:
        texts: (n,) normalised questions; the first 500 characters are compared.
        answers: (n,) digests of the normalised answers.
        preference: (n,) distinct integers; of two alike rows the one with the lower is kept.
        similarity: least similarity of a near copy, in (0, 1].
        seed: of the hashing.
        progress: called with (pairs of buckets done, in all).
    Raises: ParameterError if similarity is out of range, ShapeError if the lengths differ.
    """
    if not 0 < similarity <= 1:
        raise ParameterError(
            message(
                "near_duplicate must be in (0, 1]",
                got=similarity,
                remedy="0.8 finds one slip in five characters",
            )
        )
    _same_length(texts, answers, preference)
    search = _Search(texts, preference, similarity)
    order = np.lexsort((preference, answers))
    first = np.flatnonzero(_starts(answers[order])) if len(order) else np.array([], dtype=np.int64)
    sizes = np.diff(np.append(first, len(order)))
    few = (sizes > 1) & (sizes <= _ALL_PAIRS_UP_TO)
    many = sizes > _ALL_PAIRS_UP_TO
    total = int(few.sum()) + (_BANDS if many.any() else 0)
    done = 0
    for left, right, buckets in _all_pairs(order, first[few], sizes[few]):
        search.join(left, right)
        done += buckets
        if progress:
            progress(done, total)
    if many.any():
        bucket = np.repeat(np.arange(len(sizes)), sizes)
        chosen = many[bucket]
        for left, right in _hashed_pairs(texts, order[chosen], bucket[chosen], search, seed):
            search.join(left, right)
            done += 1
            if progress:
                progress(done, total)
    return search.found()


def image_copies(
    digests: np.ndarray,
    hashes: np.ndarray,
    files: Sequence[Path],
    *,
    progress: Progress | None = None,
) -> Copies:
    """Find images that show the same as an earlier one (``IMAGE_RULE``).

    A difference hash sees shapes only, so that two plain icons may share one: pixels decide, of
    the few images whose hashes are alike.

    Args:
        digests: (n,) of the files.
        hashes: (n,) uint64, 64-bit difference hashes.
        files: (n,) JPEG files, read only where needed.
        progress: called with (pairs compared, in all).
    Raises: MediaError if a file cannot be read.
    """
    _same_length(digests, hashes, files)
    pairs = _alike_hashes(hashes)
    thumbnails: dict[int, np.ndarray] = {}

    def thumbnail(at: int) -> np.ndarray:
        if at not in thumbnails:
            thumbnails[at] = _thumbnail(files[at])
        return thumbnails[at]

    original: dict[int, tuple[int, float]] = {}
    first: dict[object, int] = {}
    for at, digest in enumerate(digests.tolist()):
        if first.setdefault(digest, at) != at:
            original[at] = (first[digest], 1.0)
    for done, (one, other) in enumerate(pairs, start=1):
        if one not in original and other not in original:
            apart = int(np.abs(thumbnail(one) - thumbnail(other)).max())
            if apart <= _LEVELS:
                original[other] = (one, 1 - apart / 255)
        if progress:
            progress(done, len(pairs))
    rows = np.array(sorted(original), dtype=np.int64)
    return Copies(
        rows,
        np.array([original[at][0] for at in rows.tolist()], dtype=np.int64),
        np.array([original[at][1] for at in rows.tolist()], dtype=np.float64),
    )


def _alike_hashes(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Return sorted pairs of positions whose hashes differ in few bits, the earlier one first.

    Hashes that are alike agree in one of their quarters; of a quarter that very many share (blank
    images) each is compared with the next few only.
    """
    found: set[tuple[int, int]] = set()
    for quarter in range(_HASH_QUARTERS):
        keys = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, keys))
        for step in range(1, min(_ALL_PAIRS_UP_TO, len(order))):
            left, right = order[:-step], order[step:]
            same = keys[left] == keys[right]
            if not same.any():
                break
            near = np.bitwise_count(hashes[left] ^ hashes[right]) <= _HASH_BITS
            for one, other in zip(
                left[same & near].tolist(), right[same & near].tolist(), strict=True
            ):
                found.add((min(one, other), max(one, other)))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _thumbnail(file: Path) -> np.ndarray:
    """Return (32, 32, 3) int16 levels of a JPEG."""
    from PIL import Image

    from lab.media import open_regular

    with open_regular(file) as stream, Image.open(stream, formats=("JPEG",)) as image:
        image.draft("RGB", (4 * _THUMBNAIL, 4 * _THUMBNAIL))  # the decoder scales down, faster
        small = image.convert("RGB").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.int16)


def question_similarity(one: str, other: str) -> float:
    """Return how alike two normalised questions are, by ``NEAR_RULE``: [0, 1]."""
    from rapidfuzz.distance import OSA

    short, long = sorted((one, other), key=len)
    return 1.0 if _is_led_in(short, long) else OSA.normalized_similarity(one, other)


def _is_led_in(short: str, long: str) -> bool:
    return (
        len(short) > 0
        and len(long) <= 2 * len(short)
        and (long.startswith(short) or long.endswith(short))
    )


class _Search:
    """The rows found so far, and the comparison of pairs.

    Of a pair of alike rows the less preferred one is a copy, unless the other one is a copy
    itself: so a chain of small edits does not pull in rows that differ from all that is kept.
    """

    def __init__(self, texts: pa.Array, preference: np.ndarray, similarity: float) -> None:
        self.texts = pc.utf8_slice_codeunits(texts, 0, COMPARED_CHARS)
        self.lengths = pc.utf8_length(self.texts).to_numpy(zero_copy_only=False)
        self.preference = preference
        self.least = similarity - 1e-9  # 1 - 1 / 5 is a hair below 0.8
        self.original = np.full(len(texts), -1, dtype=np.int64)
        self.similarity = np.zeros(len(texts))

    def join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Compare pairs (m,), (m,) and note which rows are copies."""
        for start in range(0, len(left), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            self._join(left[part], right[part])

    def _join(self, left: np.ndarray, right: np.ndarray) -> None:
        swap = self.preference[left] > self.preference[right]
        kept, other = np.where(swap, right, left), np.where(swap, left, right)
        short = np.minimum(self.lengths[kept], self.lengths[other])
        long = np.maximum(self.lengths[kept], self.lengths[other])
        possible = short >= min(0.5, self.least) * long
        open_ = (self.original[kept] < 0) & (self.original[other] < 0) & possible
        kept, other = kept[open_], other[open_]
        alike = self._compare(kept, other)
        near = alike >= self.least
        kept, other, alike = kept[near], other[near], alike[near]
        # The nearest of equally preferred originals is not sought: the first one found stands.
        order = np.lexsort((self.preference[kept], self.preference[other]))
        for a, b, value in zip(
            kept[order].tolist(), other[order].tolist(), alike[order].tolist(), strict=True
        ):
            if self.original[a] < 0 and self.original[b] < 0:
                self.original[b], self.similarity[b] = a, value

    def found(self) -> Copies:
        """Return what was found."""
        rows = np.flatnonzero(self.original >= 0)
        return _copies(rows, self.original[rows], self.similarity[rows])

    def _compare(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import cpdist

        ones = self.texts.take(pa.array(left)).to_pylist()
        others = self.texts.take(pa.array(right)).to_pylist()
        alike = cpdist(
            ones,
            others,
            scorer=OSA.normalized_similarity,
            # Gives 0 below it, sooner; the library rounds, so leave it some room.
            score_cutoff=max(0.0, self.least - 1e-4),
            dtype=np.float64,
        )
        for at in np.flatnonzero(alike < self.least).tolist():
            short, long = sorted((ones[at], others[at]), key=len)
            if _is_led_in(short, long):
                alike[at] = 1.0
        return alike


def _all_pairs(
    order: np.ndarray, first: np.ndarray, sizes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield (left, right, buckets): all pairs inside the buckets, a bucket never split."""
    for size in np.unique(sizes).tolist():
        starts = first[sizes == size]
        left, right = np.triu_indices(size, k=1)
        step = max(1, _PAIRS_AT_ONCE // len(left))
        for at in range(0, len(starts), step):
            some = starts[at : at + step, None]  # (buckets, 1)
            yield order[some + left].ravel(), order[some + right].ravel(), len(some)


def _hashed_pairs(
    texts: pa.Array, rows: np.ndarray, bucket: np.ndarray, search: _Search, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield one set of candidate pairs a band: rows of one bucket that agree on the band's hashes.

    ``rows`` and ``bucket`` are (m,). A row that has been found a copy is not offered again.
    """
    bands = _band_hashes(search.texts, rows, seed)  # (m, _BANDS) uint32
    for band in range(_BANDS):
        alive = search.original[rows] < 0
        here, part, keys = rows[alive], bucket[alive], bands[alive, band]
        order = np.lexsort((search.preference[here], keys, part))
        here, part, keys = here[order], part[order], keys[order]
        lefts, rights = [], []
        for step in range(1, min(_NEIGHBOURS, len(here) - 1) + 1):
            same = (keys[step:] == keys[:-step]) & (part[step:] == part[:-step])
            lefts.append(here[:-step][same])
            rights.append(here[step:][same])
        if lefts:
            yield np.concatenate(lefts), np.concatenate(rights)


def _band_hashes(texts: pa.Array, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return (m, _BANDS) uint32: texts that are alike agree in at least one column."""
    from rensa import RMinHash

    bands = np.empty((len(rows), _BANDS), dtype=np.uint32)
    for start in range(0, len(rows), _HASHED_AT_ONCE):
        part = slice(start, start + _HASHED_AT_ONCE)
        features, offsets = _features(texts.take(pa.array(rows[part])).to_pylist())
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            features, offsets, num_perm=_BANDS * _BAND_ROWS, seed=seed
        )
        digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, _BANDS, _BAND_ROWS)
        mixed = digests[:, :, 0]
        for column in range(1, _BAND_ROWS):
            mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + digests[:, :, column]
        bands[part] = (mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return bands


def _features(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of the characters and character pairs of each text: flat uint64, offsets."""
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    codes = codes.astype(np.uint64)
    text = np.repeat(np.arange(len(texts)), sizes)
    before = np.zeros_like(codes)  # 0 stands for the start of the text
    before[1:] = np.where(text[1:] == text[:-1], codes[:-1], 0)
    pairs = (before << np.uint64(21)) | codes
    both = np.stack([codes | np.uint64(1 << 42), pairs], axis=1).ravel()
    offsets = np.concatenate([[0], np.cumsum(2 * sizes)]).astype(np.uint64)
    return both * np.uint64(0xD6E8FEB86659FD93), offsets


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Mark where a run of equal entries begins in columns sorted together: (n,) bool."""
    starts = np.ones(len(columns[0]), dtype=bool)
    if len(starts):
        starts[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return starts


def _copies(rows: np.ndarray, originals: np.ndarray, similarity: np.ndarray) -> Copies:
    order = np.argsort(rows, kind="stable")
    return Copies(rows[order], originals[order], similarity[order])


def _same_length(*columns: pa.Array | np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ShapeError(message("columns must have one length", got=lengths))
