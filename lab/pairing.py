"""Which words go together across languages, and texts in which they do not.

Learns from many items described in several languages which words are each other's usual
counterparts, and finds the item whose texts break the habit. Needs no dictionary and no model;
knows nothing of images or tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from scipy import sparse

USUAL = 0.8  # of the other items with a word, the share that has its counterpart
CHANCE = 1e-4  # likelihood at most that all of them have it by luck
BROKEN = 0.5  # of its known words, by weight: a text that lacks more counterparts is off

_HAN = r"\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_KANA = r"\u3041-\u30ff"
_WORD = re.compile(rf"[{_HAN}]+|[\u30a1-\u30ff]+|[^\W\d_{_HAN}{_KANA}]{{2,}}")

Texts = Mapping[str, Sequence[str | None]]


def odd_ones(texts: Texts, classes: Texts) -> dict[str, np.ndarray]:
    """Mark the texts that do not say what the same item's texts in other languages say.

    A word is known if at least ``USUAL`` of the other items that have it share a word in the other
    language, its counterpart, which luck would not explain (``CHANCE``). Two texts disagree if
    more than ``BROKEN`` of the known words of one lack theirs in the other, or if its class lacks
    its own. Of three or more languages the one that disagrees with all others, while those agree,
    is the odd one; where that cannot be told, all that disagree are marked.

    Args:
        texts: language -> (n,) the items' texts, None where there is none.
        classes: language -> (n,) the items' classes, likewise; the same languages.
    Returns: language -> (n,) bool.
    """
    words = {name: _table(map(words_of, column)) for name, column in texts.items()}
    kinds = {
        name: _table({one: 1.0} if one else {} for one in column)
        for name, column in classes.items()
    }
    there = {
        name: np.array([text is not None for text in column], dtype=bool)
        for name, column in texts.items()
    }
    marked = {name: np.zeros(len(there[name]), dtype=bool) for name in texts}
    against = {name: np.zeros(len(there[name]), dtype=np.int64) for name in texts}
    compared = {name: np.zeros(len(there[name]), dtype=np.int64) for name in texts}
    disagree = {}
    for one, other in combinations(texts, 2):
        both = there[one] & there[other]
        disagree[one, other] = both & (
            _breaks(words[one], words[other])
            | _breaks(words[other], words[one])
            | _breaks(kinds[one], kinds[other])
            | _breaks(kinds[other], kinds[one])
        )
        for name in (one, other):
            against[name] += disagree[one, other]
            compared[name] += both
    alone = {name: (against[name] > 1) & (against[name] == compared[name]) for name in texts}
    told = sum((alone[name].astype(int) for name in texts), start=0) == 1
    for (one, other), broken in disagree.items():
        for name, partner in ((one, other), (other, one)):
            marked[name] |= broken & ~(told & alone[partner])
    return marked


def words_of(text: str | None) -> dict[str, float]:
    """Return what stands for words, and how much of the text each is.

    A run of letters or of katakana is a word of weight 1; a run of Han is cut into pairs of
    neighbours that share its weight. Hiragana is left out: mostly endings, which go with anything.
    """
    found: dict[str, float] = {}
    for run in _WORD.findall((text or "").lower()):
        if len(run) < 3 or not "\u3400" <= run[0] <= "\u9fff":
            found[run] = 1.0
            continue
        pairs = {run[at : at + 2] for at in range(len(run) - 1)}
        found |= dict.fromkeys(pairs, 1 / len(pairs))
    return found


def _table(items: Iterable[Mapping[str, float]]) -> sparse.csr_array:
    """Return the weights of (n items, words)."""
    numbers: dict[str, int] = {}
    columns: list[int] = []
    weights: list[float] = []
    ends = [0]
    for words in items:
        columns += [numbers.setdefault(word, len(numbers)) for word in words]
        weights += words.values()
        ends.append(len(columns))
    shape = (len(ends) - 1, max(1, len(numbers)))
    return sparse.csr_array((weights, columns, ends), shape=shape, dtype=np.float64)


def _breaks(one: sparse.csr_array, other: sparse.csr_array) -> np.ndarray:
    """Mark the items in which most known words of ``one`` lack their counterpart: (n,) bool.

    What an item itself says is not counted as evidence for it, hence "the others" throughout.
    """
    in_one, in_other = one.astype(bool).astype(np.int64), other.astype(bool).astype(np.int64)
    seen = in_one.sum(axis=0) - 1  # (words of one,) other items with the word
    together = (in_one.T @ in_other).tocoo()
    left, right = together.coords
    share = in_other.sum(axis=0)[right] / max(1, other.shape[0])
    telling = share ** seen[left] <= CHANCE

    def counterparts(count: np.ndarray) -> sparse.csr_array:
        usual = telling & (count >= USUAL * seen[left])
        values = np.ones(int(usual.sum()), dtype=np.int64)
        return sparse.csr_array((values, (left[usual], right[usual])), shape=together.shape)

    expected = counterparts(together.data)  # as seen by an item that lacks the counterpart
    borne_out = counterparts(together.data - 1)  # ... and by one that has it
    expects = one @ (expected.sum(axis=1) > 0).astype(np.float64)
    has = one.multiply((in_other @ expected.T) > 0).sum(axis=1)
    sure = one.multiply((in_other @ borne_out.T) > 0).sum(axis=1)
    lacking = expects - has
    # Weights are sums of fractions: a hair more than the share is not more.
    return lacking > BROKEN * (lacking + sure) + 1e-9
