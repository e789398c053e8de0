"""One spelling of a text for comparison, and short digests of it.

Owns the rule by which two texts count as the same wording. Knows nothing of questions, answers,
languages or tables.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

RULE = (
    "NFKC, case folded, white space, control characters and punctuation removed "
    "(# % & @ * and punctuation between two digits stay)"
)

_NOT_WORD = re.compile(r"[\W_]+")
_MEANT = frozenset("#%&@*")  # "C" and "C#", "10" and "10%" differ in meaning


def normalise(text: str) -> str:
    """Return ``text`` as it is compared, by ``RULE``.

    Symbols such as ``+`` and emoji stay too. A text of punctuation alone keeps it, so that the
    result is empty only for a blank one. Idempotent.
    """
    folded = unicodedata.normalize("NFKC", text)
    if folded.isascii():
        folded = folded.lower()
    else:
        # Case folding can leave a form that is no longer NFKC.
        folded = unicodedata.normalize("NFKC", folded.casefold())
    packed = "".join(folded.split())
    # What is dropped may have stood between a letter and its accent: compose once more.
    return unicodedata.normalize("NFKC", _NOT_WORD.sub(_kept, packed)) or packed


def digest(text: str) -> int:
    """Return 64 bits of BLAKE2b of ``text``: equal texts, equal digests, in every process."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _kept(match: re.Match[str]) -> str:
    """Return what stays of a run of characters that are neither letters nor digits."""
    run, text = match[0], match.string
    before, after = match.start() - 1, match.end()
    if before >= 0 and after < len(text) and text[before].isdigit() and text[after].isdigit():
        return _without(run, "CZ")  # "1.5" and "15", "2-3" and "23" are different texts
    return _without(run, "CZP")


@lru_cache(maxsize=4096)
def _without(run: str, categories: str) -> str:
    return "".join(
        char for char in run if char in _MEANT or unicodedata.category(char)[0] not in categories
    )
