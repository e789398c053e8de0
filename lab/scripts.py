"""What a text is written in, and what that says of its language.

Owns the classes of characters, the counts of a text in each, and the rule that reads zh, en or ja
from them. Knows nothing of tables or tenants. Latin letters are read as English: French is not
told from it.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np

TOKENISATION = "each CJK character, and each run of other letters or digits, is one token"

# Classes of characters; the columns of `count_scripts`, which adds WORDS.
OTHER, DIGIT, MARK, LATIN, FOREIGN, KANA, HAN, HAN_ZH, HAN_JA, HAN_FUNCTION = range(10)
WORDS: Final = 10  # runs of LATIN, FOREIGN, DIGIT and MARK that hold a letter or digit
LATIN_WORDS: Final = 11  # those that start with a Latin letter
COLUMNS: Final = 12

VERDICTS = ("undecided", "zh", "en", "ja", "other")  # `detect` gives indices into this

_MIN_TOKENS = 4  # below, a text says too little of its language
_EN_MOST_CJK = 0.1  # an English text may name a thing in Chinese or Japanese
_CJK_LEAST = 0.5  # a Chinese or Japanese one may name several in English
_JA_LEAST_KANA = 0.15  # of the CJK characters; Japanese prose has about half
_ZH_MOST_KANA = 0.1  # a brand such as 优の良品
_ZH_LEAST_HAN = 16  # Han characters without one kana: longer than Japanese gets
# Chinese words of grammar that Japanese, written without any kana, would not hold.
_FUNCTION_CHARS = "的了我你是在和也都就不有这那个们吗呢吧么怎哪把被给请這個嗎麼給請"

_HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFD))
_KANA_RANGES = (
    (0x3041, 0x3096),
    (0x309D, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9F),
)
_LATIN_RANGES = (
    (0x41, 0x5A),
    (0x61, 0x7A),
    (0xC0, 0xD6),
    (0xD8, 0xF6),
    (0xF8, 0x24F),
    (0x1E00, 0x1EFF),
    (0xFF21, 0xFF3A),
    (0xFF41, 0xFF5A),
)


@cache
def _classes() -> np.ndarray:
    """Return the class of every code point: (0x110000,) uint8.

    Which Han character belongs to one language only is read from the national character sets:
    GB 2312 and Big5 for Chinese, JIS X 0208 with Microsoft's additions for Japanese.
    """
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        if category[0] == "L":
            table[code] = FOREIGN
        elif category[0] in "NM":
            table[code] = DIGIT if category[0] == "N" else MARK
    for kind, ranges in ((LATIN, _LATIN_RANGES), (KANA, _KANA_RANGES), (HAN, _HAN_RANGES)):
        for low, high in ranges:
            table[low : high + 1] = kind
    for code in range(0x4E00, 0xA000):
        char = chr(code)
        chinese = _encodes(char, "gb2312") or _encodes(char, "big5")
        japanese = _encodes(char, "cp932")
        if chinese != japanese:
            table[code] = HAN_ZH if chinese else HAN_JA
    table[ord("々")] = HAN_JA
    for char in _FUNCTION_CHARS:
        if table[ord(char)] == HAN:
            table[ord(char)] = HAN_FUNCTION
    return table


def _encodes(char: str, charset: str) -> bool:
    try:
        char.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def count_scripts(texts: Sequence[str]) -> np.ndarray:
    """Count the characters of each text by class.

    Args:
        texts: n texts.
    Returns: (n, COLUMNS) int64; the last two columns count runs, the others characters.
    """
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    if sizes.sum() == 0:
        return np.zeros((len(texts), COLUMNS), dtype=np.int64)
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    classes = _classes()[codes]
    rows = np.repeat(np.arange(len(texts), dtype=np.int64), sizes)
    in_word = (classes >= DIGIT) & (classes <= FOREIGN)
    starts = in_word.copy()
    # A run goes on if the character before it, in the same text, is in one too.
    starts[1:] &= ~(in_word[:-1] & (rows[1:] == rows[:-1]))
    starts &= classes != MARK
    flat = np.concatenate(
        [
            rows * COLUMNS + classes,
            rows[starts] * COLUMNS + WORDS,
            rows[starts & (classes == LATIN)] * COLUMNS + LATIN_WORDS,
        ]
    )
    return np.bincount(flat, minlength=len(texts) * COLUMNS).reshape(len(texts), COLUMNS)


def tokens(counts: np.ndarray) -> np.ndarray:
    """Return the tokens of each text by ``TOKENISATION``: (n,), of counts (n, COLUMNS)."""
    return counts[:, KANA : HAN_FUNCTION + 1].sum(axis=1) + counts[:, WORDS]


def detect(counts: np.ndarray) -> np.ndarray:
    """Read the language of each text from its characters.

    Kana beside Han, and Han used in Japan only, is Japanese; Han used in China only is Chinese, and
    so are Chinese words of grammar and long Han text without kana; Latin letters are English.
    Text that is short, mixed, or Han that both languages write alike, is undecided: a wrong alarm
    costs more than a missed one.

    Args:
        counts: (n, COLUMNS), from ``count_scripts``.
    Returns: (n,) uint8, indices into ``VERDICTS``.
    """
    kana, zh, ja = counts[:, KANA], counts[:, HAN_ZH], counts[:, HAN_JA]
    han = counts[:, HAN : HAN_FUNCTION + 1].sum(axis=1)
    function = zh + counts[:, HAN_FUNCTION]
    cjk, latin, foreign = kana + han, counts[:, LATIN_WORDS], counts[:, FOREIGN]
    said = cjk + latin
    spoken = np.maximum(said, 1)
    kana_share = kana / np.maximum(cjk, 1)

    verdict = np.zeros(len(counts), dtype=np.uint8)
    enough = said >= _MIN_TOKENS
    verdict[enough & (cjk / spoken < _EN_MOST_CJK)] = VERDICTS.index("en")
    is_cjk = enough & (cjk / spoken >= _CJK_LEAST)
    only_han = is_cjk & (kana == 0)
    verdict[
        (only_han & (ja == 0) & ((function > 0) | (han >= _ZH_LEAST_HAN)))
        | (is_cjk & (kana > 0) & (kana_share < _ZH_MOST_KANA) & (function > 2 * ja) & (zh > 0))
    ] = VERDICTS.index("zh")
    verdict[
        (only_han & (ja > 0) & (zh == 0) & (function == 0))
        | (is_cjk & (zh == 0) & (kana_share >= _JA_LEAST_KANA))
    ] = VERDICTS.index("ja")
    verdict[(foreign >= _MIN_TOKENS) & (foreign > 2 * said)] = VERDICTS.index("other")
    return verdict
