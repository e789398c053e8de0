"""Images and their descriptions, matched by a model that turns both into vectors.

Owns how a pair is asked, and which description an image is most like among several, and the other
way. Knows nothing of which pairs there are, of time, or of limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lab import quality
from lab.models import Model
from lab.normalisation import normalise
from lab.queries import Answer, Query
from lab.requests import Request

SIDES = ("image", "words")  # of a pair, in the order of its vectors


@dataclass(frozen=True)
class Match:
    """What one side of a pair was matched with.

    Attributes:
        item: the pair's id and which side it is, such as ``images:17 words``.
        group: of the pair.
        language: of the pair.
        chosen: id of the pair whose other side is most similar, of equal descriptions the first;
            empty if there was no answer.
        right: whether it is its own, or one with an equal description.
    """

    item: str
    group: str
    language: str
    chosen: str
    right: bool


def ask(model: Model, queries: Sequence[Query], *, batch_size: int) -> list[Answer]:
    """Return the vectors of an image and of its description for each query, (2, width).

    Args:
        model: of clip.
        queries: with an image and words.
        batch_size: so many images at a time, and so many descriptions.
    """
    sides = (
        model.ask([replace(one, text="") for one in queries], batch_size=batch_size),
        model.ask([replace(one, image=None) for one in queries], batch_size=batch_size),
    )
    return [_pair(image, words) for image, words in zip(*sides, strict=True)]


def _pair(image: Answer, words: Answer) -> Answer:
    if error := image.error or words.error:
        return Answer(error=error)
    vector = np.stack([image.vector, words.vector])
    return Answer(vector=vector, tokens_in=words.tokens_in)


def matches(asked: Sequence[Request], answers: Sequence[Answer]) -> list[Match]:
    """Match each image with a description of the same language, and each description with an image.

    The worst case is taken, as of lab.quality.recall_at_k; a side without an answer is never found.

    Args:
        asked: pairs; the images differ, descriptions may be equal.
        answers: as of `ask`.
    Returns: of each pair the image's and then the description's, in the order of asked.
    """
    found: dict[int, list[Match]] = {}
    for language in dict.fromkeys(one.language for one in asked):
        places = [at for at, one in enumerate(asked) if one.language == language]
        pairs = [asked[at] for at in places]
        texts = np.array([normalise(one.wanted) for one in pairs])
        same = texts[:, None] == texts[None, :]
        first = same.argmax(axis=1)  # of each description the first that is equal
        similarity, there = _similarities([answers[at] for at in places])
        for side, close in zip(SIDES, (similarity, similarity.T), strict=True):
            hits = quality.recall_at_k(close, same, k=1) & there
            best = first[close.argmax(axis=1)]
            for at, one, choice, hit, came in zip(places, pairs, best, hits, there, strict=True):
                chosen = pairs[choice].id if came else ""
                match = Match(f"{one.id} {side}", one.group, language, chosen, bool(hit))
                found.setdefault(at, []).append(match)
    return [match for at in range(len(asked)) for match in found[at]]


def _similarities(answers: Sequence[Answer]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return how similar images and descriptions are, and which pairs have an answer.

    (images, descriptions); what did not come is farther than anything.
    """
    there = np.array([one.vector is not None for one in answers])
    close = np.full((len(answers), len(answers)), -np.inf, np.float32)
    if there.any():
        vectors = np.stack([one.vector for one in answers if one.vector is not None])
        close[np.ix_(there, there)] = vectors[:, 0] @ vectors[:, 1].T
    return close, there
