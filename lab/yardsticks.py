"""How alike two texts are: the one encoder that all accounts are measured with.

Owns the vectors of texts, each made once, and what is alike to nothing: silence, and another
language than the one that was asked for. Knows nothing of where texts come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lab import scripts
from lab.models import Model
from lab.queries import Query

_BATCH = 64
_AT_A_TIME = 8 * _BATCH
Progress = Callable[[str, int, int], None]


class Yardstick:
    """An encoder of sentences, with the vectors it has made."""

    def __init__(self, encoder: Model, *, progress: Progress = lambda *_: None) -> None:
        """Begin with no vector.

        Args:
            encoder: of the suite, as it is: what is measured with must not change with what is.
            progress: called with (stage, done, total).
        """
        self._encoder, self._progress = encoder, progress
        self._vectors: dict[tuple[str, str], NDArray[np.float64] | None] = {}
        (any_text,) = encoder.ask([Query(text="1")])
        self._nothing = np.zeros(len(any_text.vector))

    def vectors(self, texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.float64]:
        """Return a unit vector of each text, (n, width); zeros for what is alike to nothing.

        Args:
            texts: what was said.
            languages: in which it should have been.
        """
        keys = list(zip(texts, languages, strict=True))
        self._make(dict.fromkeys(keys))
        found = [self._vectors[key] for key in keys]
        rows = [self._nothing if one is None else one for one in found]
        return np.array(rows).reshape(-1, len(self._nothing))

    def similarity(
        self, first: Sequence[str], second: Sequence[str], languages: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the cosine of each two texts of one language, (n,)."""
        return (self.vectors(first, languages) * self.vectors(second, languages)).sum(axis=1)

    def _make(self, keys: Iterable[tuple[str, str]]) -> None:
        new = [key for key in keys if key not in self._vectors]
        for first in range(0, len(new), _AT_A_TIME):
            self._progress("comparing", first, len(new))
            part = new[first : first + _AT_A_TIME]
            answers = self._encoder.ask([Query(text=text) for text, _ in part], batch_size=_BATCH)
            foreign = is_foreign([text for text, _ in part], [language for _, language in part])
            for key, answer, other in zip(part, answers, foreign, strict=True):
                is_nothing = other or answer.vector is None
                self._vectors[key] = None if is_nothing else answer.vector.astype(np.float64)


def is_foreign(texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each text is written in another language than it should; no where it cannot be told.

    Args:
        texts: what was said.
        languages: zh, en or ja.
    Returns: (n,).
    """
    verdicts = scripts.detect(scripts.count_scripts(texts))
    known = [scripts.VERDICTS[at] for at in verdicts]
    return np.array(
        [
            found not in ("undecided", wanted)
            for found, wanted in zip(known, languages, strict=True)
        ],
        dtype=bool,
    )
