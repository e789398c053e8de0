"""Accounts put side by side: which two should mean the same, and which are known not to.

Owns the way from what models said to samples of similarities, and the inconsistencies planted into
them. Knows nothing of how models were asked, or of what a similarity is worth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lab import inconsistencies
from lab.accounts import Accounts, Form
from lab.consistency import Detection, Pair, Sample, detect
from lab.forms import Item
from lab.trials import Kind
from lab.yardsticks import Yardstick

KINDS: Mapping[Pair, Kind | None] = {
    "speech_input": "speech",
    "speech_output": "speech",
    "image_input": "image_text",
    "image_output": "image_text",
    "joint": "joint",
    "languages": "text",
    "batch": None,  # of all kinds
    "baseline": None,
}
PLANTS: Mapping[str, str] = {
    "swapped": "another item's, about another subject",
    "one word": "one word or trait is another",
    "contrary": "a verb is denied, or no longer",
    "elsewhere": "from a service of another kind",
    "language": "the same in another language",
}
_NEAR_MISSES = 3  # of each item
_LEAST = 2  # items of a language; one alone has nothing to be compared with


@dataclass(frozen=True)
class Two:
    """Two accounts of one item, in words.

    Attributes:
        name: of the item, and of the form where an item is compared in several.
        item: which.
        left: the account that is tried.
        right: what it should mean.
        language: of the right one; the left one's is the item's.
        foreign: the right account in another language of the group, if there is one.
        ideal: two accounts known to agree: the right one twice, unless there are better ones.
    """

    name: str
    item: Item
    left: str
    right: str
    language: str
    foreign: str = ""
    ideal: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        if not all(self.ideal):
            object.__setattr__(self, "ideal", (self.right, self.right))


@dataclass(frozen=True, eq=False)
class Paired:
    """A sample, with what went into it.

    Attributes:
        sample: of similarities.
        twos: what was compared, in the sample's order; none for images and their descriptions.
        items: in the sample's order.
        detections: of what was planted; none unless it was asked for.
    """

    sample: Sample
    twos: tuple[Two, ...]
    items: tuple[Item, ...]
    detections: tuple[Detection, ...] = ()


def pair(
    which: Pair,
    items: Sequence[Item],
    told: Accounts,
    *,
    against: Accounts | None = None,
    yardstick: Yardstick,
    seed: int,
    plants: bool = False,
) -> list[Paired]:
    """Put accounts of one pair side by side, language by language.

    Args:
        which: pair.
        items: that were asked, of all tables.
        told: what the configuration said of them.
        against: what the other one said, of baseline and batch.
        yardstick: measures texts.
        seed: of the near misses and the plants.
        plants: whether inconsistencies are planted too, and how surely they are seen.
    Returns: one for each language that has at least two items and two subjects.
    """
    if which == "image_input":
        return list(_images(items, told, seed=seed, plants=plants))
    by_language: dict[str, list[Two]] = defaultdict(list)
    for label, two in _twos(which, items, told, against):
        by_language[label].append(two)
    words = {
        language: inconsistencies.words(
            [
                two.right
                for some in by_language.values()
                for two in some
                if two.language == language
            ],
            language=language,
        )
        for language in inconsistencies.ELSEWHERE
    }
    found = []
    for label, twos in sorted(by_language.items()):
        made = _texts(which, label, twos, words, yardstick, seed=seed, plants=plants)
        if made is not None:
            found.append(made)
    return found


# --- which two ------------------------------------------------------------------------------------


def _twos(
    which: Pair, items: Sequence[Item], told: Accounts, against: Accounts | None
) -> Iterator[tuple[str, Two]]:
    """Yield language and accounts."""
    if which == "languages":
        yield from _across_languages(items, told)
        return
    mates = _mates(items)
    for item in items:
        for form, left, right, of_mate in _of_item(which, item, told, against):
            name = f"{item.id} {form}".strip()
            foreign = next(filter(None, map(of_mate, mates[item.id])), "")
            yield item.language, Two(name, item, left, right, item.language, foreign)


def _of_item(
    which: Pair, item: Item, told: Accounts, against: Accounts | None
) -> Iterator[tuple[str, str, str, Callable[[Item], str]]]:
    """Yield form, the two accounts, and how to find the right one of a mate in another language."""

    def answer(form: Form, source: Accounts = told) -> Callable[[Item], str]:
        return lambda one: source.answers.get(form, {}).get(one.id, "")

    def has(form: Form, source: Accounts = told) -> bool:
        return item.id in source.answers.get(form, {})

    if which == "speech_input":
        if item.said and item.id in told.heard and not item.image:
            yield "", told.heard[item.id], item.said, lambda one: one.said
    elif which == "speech_output":
        if has("speech") and has("text"):
            yield "", answer("speech")(item), answer("text")(item), answer("text")
    elif which == "image_output":
        if has("text+image") and has("description"):
            yield "", answer("description")(item), answer("text+image")(item), answer("text+image")
    elif which == "joint":
        for form in ("text+image", "speech+image"):
            if has("joint") and has(form):
                yield form, answer("joint")(item), answer(form)(item), answer(form)
    elif against is not None:
        for form in told.answers:
            if has(form) and has(form, against):
                yield form, answer(form)(item), answer(form, against)(item), answer(form, against)


def _across_languages(items: Sequence[Item], told: Accounts) -> Iterator[tuple[str, Two]]:
    """Yield the answers to one question in each two languages of its group."""
    answers = told.answers.get("text", {})
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.text and not item.image and item.id in answers:
            groups[item.group].append(item)
    for some in groups.values():
        in_order = sorted(some, key=lambda one: one.language)
        for one, other in combinations(in_order, 2):
            if one.language != other.language:
                two = Two(
                    name=one.id,
                    item=one,
                    left=answers[one.id],
                    right=answers[other.id],
                    language=other.language,
                    ideal=(one.wanted, other.wanted),
                )
                yield f"{one.language}-{other.language}", two


def _mates(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Return of each item the versions in other languages."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    return {
        item.id: [one for one in groups[item.group] if one.language != item.language]
        for item in items
    }


# --- texts ----------------------------------------------------------------------------------------


def _texts(
    which: Pair,
    label: str,
    twos: Sequence[Two],
    words: Mapping[str, Sequence[str]],
    yardstick: Yardstick,
    *,
    seed: int,
    plants: bool,
) -> Paired | None:
    subjects = np.array([two.item.subject for two in twos])
    apart = subjects[:, None] != subjects[None, :]
    if len(twos) < _LEAST or not apart.any():
        return None
    language = twos[0].language
    rights = [two.right for two in twos]
    left = yardstick.vectors([two.left for two in twos], [two.item.language for two in twos])
    right = yardstick.vectors(rights, [language] * len(twos))
    rng = np.random.default_rng([seed, 1])
    spoken = [two.item.language for two in twos]
    first = yardstick.vectors([two.ideal[0] for two in twos], spoken)
    ideals = [two.ideal[1] for two in twos]
    second = yardstick.vectors(ideals, [language] * len(twos))
    # A near miss differs from what is known to agree, so that no error of a model is in it.
    near = [
        one
        for _ in range(_NEAR_MISSES)
        for one in _changed(
            first,
            ideals,
            language,
            yardstick,
            lambda text, _: _one_word(text, language, words, rng),
        ).items()
    ]
    sample = Sample(
        pair=which,
        language=label,
        items=tuple(two.name for two in twos),
        groups=tuple(two.item.group for two in twos),
        matched=(left * right).sum(axis=1),
        other=(left @ right.T)[apart],
        near=np.array([value for _, value in near]),
        ideal=(first * second).sum(axis=1),
        other_of=np.argwhere(apart),
        near_of=np.array([at for at, _ in near], dtype=np.intp).reshape(-1, 1),
    )
    made = Paired(sample, tuple(twos), tuple(two.item for two in twos))
    if not plants:
        return made
    detections = []
    for kind, change in _plantings(twos, apart, language, words, seed):
        values = _changed(left, rights, language, yardstick, change)
        planted = {twos[at].name: value for at, value in values.items()}
        detections.append(detect(sample, planted, kind=kind, seed=seed))
    return Paired(sample, made.twos, made.items, tuple(filter(None, detections)))


def _plantings(
    twos: Sequence[Two],
    apart: NDArray[np.bool_],
    language: str,
    words: Mapping[str, Sequence[str]],
    seed: int,
) -> Iterator[tuple[str, Callable[[str, int], str | None]]]:
    """Yield each kind of plant, and what it makes of the right account at a place."""
    rng = np.random.default_rng([seed, 2])
    elsewhere = inconsistencies.ELSEWHERE[language]

    def swapped(_: str, at: int) -> str | None:
        others = np.flatnonzero(apart[at])
        return twos[rng.choice(others)].right if len(others) else None

    yield "swapped", swapped
    yield "one word", lambda text, _: _one_word(text, language, words, rng)
    yield "contrary", lambda text, _: inconsistencies.contrary(text, language=language)
    yield "elsewhere", lambda *_: elsewhere[rng.integers(len(elsewhere))]
    yield "language", lambda _, at: twos[at].foreign or None


def _one_word(
    text: str, language: str, words: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> str | None:
    return inconsistencies.one_word_changed(text, language=language, words=words[language], rng=rng)


def _changed(
    vectors: NDArray[np.float64],
    texts: Sequence[str],
    language: str,
    yardstick: Yardstick,
    change: Callable[[str, int], str | None],
) -> dict[int, float]:
    """Return place -> similarity of its vector with its text after a change, where there is one."""
    made = {}
    for at, text in enumerate(texts):
        new = change(text, at)
        if new is not None and new != text:
            made[at] = new
    places = list(made)
    if not places:
        return {}
    others = yardstick.vectors(list(made.values()), [language] * len(made))
    return dict(zip(places, (vectors[places] * others).sum(axis=1).tolist(), strict=True))


# --- images ---------------------------------------------------------------------------------------


def _images(items: Sequence[Item], told: Accounts, *, seed: int, plants: bool) -> Iterator[Paired]:
    """Yield images beside their descriptions: near misses are of the same annotation."""
    by_language: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.id in told.seen and item.id in told.read and not item.audio:
            by_language[item.language].append(item)
    for language, some in sorted(by_language.items()):
        subjects = np.array([one.subject for one in some])
        words = np.array([one.description for one in some])
        other = subjects[:, None] != subjects[None, :]
        near = ~other & (words[:, None] != words[None, :])
        if len(some) < _LEAST or not other.any():
            continue
        images = np.array([told.seen[one.id] for one in some], dtype=np.float64)
        texts = np.array([told.read[one.id] for one in some], dtype=np.float64)
        close = images @ texts.T
        sample = Sample(
            pair="image_input",
            language=language,
            items=tuple(one.id for one in some),
            groups=tuple(one.group for one in some),
            matched=np.diag(close),
            other=close[other],
            near=close[near],
            ideal=np.array([]),
            other_of=np.argwhere(other),
            near_of=np.argwhere(near),
        )
        rng = np.random.default_rng([seed, 3])
        detections = []
        for kind, candidates in (("swapped", other), ("one word", near)) if plants else ():
            planted = {
                one.id: float(close[at, rng.choice(np.flatnonzero(candidates[at]))])
                for at, one in enumerate(some)
                if candidates[at].any()
            }
            detections.append(detect(sample, planted, kind=kind, seed=seed))
        yield Paired(sample, (), tuple(some), tuple(filter(None, detections)))
