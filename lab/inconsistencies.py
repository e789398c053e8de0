"""Inconsistencies made on purpose: a text that says nearly the same, or the contrary, or else.

Owns how a text is changed, in each language, so that whoever compares texts can be tried. Knows
nothing of comparing, of models, or of where texts come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

# Of an information desk for trains: no tenant's service says these.
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "zh": (
        "开往海边的列车十分钟后从三号站台发车。",
        "自行车可以放在最后一节车厢。",
        "餐车在第七节，晚上九点关门。",
        "换乘地铁请走北出口。",
        "因为下雪，山区线今天停运。",
        "卧铺票请提前两周购买。",
    ),
    "en": (
        "The train to the coast leaves from platform three in ten minutes.",
        "Bicycles travel in the last carriage.",
        "The dining car is number seven and closes at nine in the evening.",
        "For the underground, take the north exit.",
        "Because of snow the mountain line is not running today.",
        "Sleeper tickets go on sale two weeks ahead.",
    ),
    "ja": (
        "海岸行きの列車は十分後に三番線から発車します。",
        "自転車は最後尾の車両に載せられます。",
        "食堂車は七号車で、夜九時に閉まります。",
        "地下鉄への乗り換えは北口をご利用ください。",
        "雪のため、山岳線は本日運休しております。",
        "寝台券は二週間前から発売されます。",
    ),
}

_LATIN_WORD = re.compile(r"[A-Za-z][A-Za-z'-]{3,}")
# Two characters that carry meaning: Han or katakana, not the hiragana that bind them.
_CJK_WORD = re.compile(r"(?=([\u3400-\u4dbf\u4e00-\u9fff\u30a1-\u30fa\u30fc]{2}))")

_ORDERS = (  # verbs that begin a sentence
    *("Apply", "Ask", "Book", "Bring", "Call", "Check", "Choose", "Enter", "Find", "Go", "Open"),
    *("Order", "Pay", "Register", "Select", "Send", "Show", "Sign", "Take", "Tap", "Tick", "Visit"),
)

# What is looked for, and what then stands there; the first that is found counts. Each pair has the
# negated form before the plain one, so that a text that denies comes to affirm.
_CONTRARIES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "zh": (
        ("请勿", "请"),
        ("(?<!要)不要", ""),
        ("(?<!能)不能", "能"),
        ("(?<!可)不可以", "可以"),
        ("(?<!可)不可(?!能)", "可"),
        ("无需|(?<!需)(?<!需要)不需要?", "需要"),
        ("(?<!会)不会", "会"),
        ("(?<!是)不是", "是"),
        ("(?<!有)没有", "有"),
        ("无法", "可以"),
        ("(?<![申邀聘])请(?![假求问教客])", "请不要"),
        ("可以(?!不)", "不可以"),
        ("(?<![所必急])需要?(?![求不])", "不需要"),
        ("(?<![不功可智性职技只])能(?![力量源耗否不])", "不能"),
        ("(?<![不机社学都晚年协])会(?![计议员馆场诊话费所不])", "不会"),
        ("(?<![不还可于但总只或要])是(?![否不])", "不是"),
        ("无效", "有效"),
        ("有效", "无效"),
        ("(?<![没所还只具含拥持])有(?![机限时关些没])", "没有"),
        ("(?<![不许认即尽])可(?![能是靠乐爱不])", "不可"),
    ),
    "en": (
        (r"\b([Dd])o(?: not|n't|n’t)\b", r"\1o"),
        (r"\bcan(?:not|'t|’t)", "can"),
        (r"\bwon['’]t\b", "will"),
        (
            r"\b(can|will|is|are|may|must|should|does|was|were|have|has|had)(?: not|n't|n’t)\b",
            r"\1",
        ),
        (r"\bnever\b", "always"),
        (r"\bno longer\b", "still"),
        (r"\bno (?!one|more|less|later)(?=[a-z])", "some "),
        (r"\b(can|will|is|are|may|must|should|does|was|were)\b", r"\1 not"),
        (r"\b([Pp])lease ", r"\1lease do not "),
        (r"\b(have|has|had)\b(?= been| \w+ed\b)", r"\1 not"),
        (r"(?<!to )\bhave\b", "do not have"),
        (r"\bhas\b", "does not have"),
        (r"\bhad\b", "did not have"),
        *((rf"(?:\A|(?<=[.!?] )){verb}\b", f"Do not {verb.lower()}") for verb in _ORDERS),
    ),
    "ja": (
        ("しないでください", "してください"),
        ("ないでください", "なければなりません"),
        ("(?<=[てで])はいけません", "もかまいません"),
        ("な(?:ければ|くては)なりません", "なくてもかまいません"),
        ("ではありませんでした", "でした"),
        ("ではありません", "です"),
        ("(?<!すみ)(?<!しれ)(?<!申し訳あり)(?<!申し訳ござい)ませんでした", "ました"),
        ("(?<!すみ)(?<!しれ)(?<!申し訳あり)(?<!申し訳ござい)ません", "ます"),
        ("(?<=[てで])ください", "はいけません"),
        ("ください", "にならないでください"),
        ("(?<!ませんで)ました", "ませんでした"),
        ("ます(?!ます)", "ません"),
        ("(?<![しすり])でした", "ではありませんでした"),
        ("くないです", "いです"),
        ("(?<=[しきさよ良高安長短早遅近遠])いです", "くないです"),
        ("(?<!い)です", "ではありません"),
    ),
}


def words(texts: Sequence[str], *, language: str) -> tuple[str, ...]:
    """Return the words that texts hold, each once: of zh and ja, pairs of characters."""
    found = (
        _LATIN_WORD.findall(text) if language == "en" else _CJK_WORD.findall(text) for text in texts
    )
    return tuple(sorted({word for some in found for word in some}))


def one_word_changed(
    text: str, *, language: str, words: Sequence[str], rng: np.random.Generator
) -> str | None:
    """Return a text with one of its words replaced by another; None if there is none to replace.

    Args:
        text: which.
        language: of it.
        words: to choose from, see `words`.
        rng: chooses.
    """
    form, group = (_LATIN_WORD, 0) if language == "en" else (_CJK_WORD, 1)
    places = list(form.finditer(text))
    if not places:
        return None
    place = places[rng.integers(len(places))]
    others = [one for one in words if one.casefold() != place[group].casefold()]
    if not others:
        return None
    return text[: place.start(group)] + others[rng.integers(len(others))] + text[place.end(group) :]


def contrary(text: str, *, language: str) -> str | None:
    """Return a text that denies what it affirmed, or affirms what it denied; None if none is found.

    One verb is turned, by rules that know a few dozen words: enough to try whoever compares, not
    always good style.
    """
    for found, instead in _CONTRARIES.get(language, ()):
        changed = re.sub(found, instead, text, count=1)
        if changed != text:
            return changed
    return None
