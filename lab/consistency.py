"""Whether two accounts of one thing mean the same: similarities made into scores that tell.

Owns what the pairs of accounts are, the calibration of a similarity by pairs known to differ, the
intervals and verdicts, and how surely planted inconsistencies are seen. Array in, numbers out;
knows nothing of models, of texts, or of who gave an account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab import slo, stats
from lab.errors import ParameterError, ShapeError, message
from lab.slo import Limit, Verdict
from lab.stats import Interval

Pair = Literal[
    "speech_input",
    "speech_output",
    "image_input",
    "image_output",
    "joint",
    "languages",
    "batch",
    "baseline",
]
PAIRS: Mapping[Pair, str] = {
    "speech_input": "what is heard, and what was said",
    "speech_output": "the answer to what is heard, and to the same question in words",
    "image_input": "the image, and its description",
    "image_output": "the answer about the image, and with its description in its place",
    "joint": "the answer to words, image and speech together, and to two of them that suffice",
    "languages": "the answers to one question asked in two languages",
    "batch": "the answer in a batch, and alone",
    "baseline": "the answer of the compressed models, and of the models as they are",
}
RULE = (
    "The share of pairs known to differ that are less similar than this pair, ties counting half: "
    "the mean of that share among pairs about another subject, and among near misses, in which one "
    "word or trait is another. 1: closer than any of them; 0.75: as far apart as a near miss; "
    "0.25: as far apart as two things that have nothing to do with each other. Where accounts "
    "known to agree are hardly closer than near misses, details cannot be seen, and the score is "
    "about subjects alone; where they are hardly closer than other subjects, there is no verdict"
)
LEAST_POWER = 0.75  # probability with which accounts that agree must be closer than others
ALARMS = 0.05  # share of sound pairs that may be taken for inconsistent, when detection is told

_PLACES = 6  # of a similarity: vectors are float32, and equal texts must be equally alike


@dataclass(frozen=True, eq=False)
class Sample:
    """The similarities of one pair in one language.

    Attributes:
        pair: which.
        language: such as ``zh``, or ``zh-en`` of two.
        items: (n,) names.
        groups: (n,) of items that stand or fall together.
        matched: (n,) similarity of what should mean the same.
        other: (m,) of pairs about different subjects, in the same language.
        near: (k,) of near misses; none where there is no such thing.
        ideal: (l,) of accounts known to agree, which tell what the yardstick can see; none where
            the models that are tried are the yardstick themselves.
        other_of: (m, any) places of the items that each of these pairs is made of; none where that
            is not known: then they count as independent.
        near_of: (k, any) likewise.
    Raises: ShapeError if items, groups and matched differ in length, or a pool and its places;
        ParameterError if a similarity is not finite or there is nothing about other subjects.
    """

    pair: Pair
    language: str
    items: tuple[str, ...]
    groups: tuple[str, ...]
    matched: NDArray[np.float64]
    other: NDArray[np.float64]
    near: NDArray[np.float64]
    ideal: NDArray[np.float64]
    other_of: NDArray[np.intp] = field(default_factory=lambda: np.empty((0, 0), np.intp))
    near_of: NDArray[np.intp] = field(default_factory=lambda: np.empty((0, 0), np.intp))

    def __post_init__(self) -> None:
        for name in ("matched", "other", "near", "ideal"):
            values = np.asarray(getattr(self, name), dtype=float).ravel()
            object.__setattr__(self, name, np.round(values, _PLACES))
        if not len(self.items) == len(self.groups) == len(self.matched):
            got = f"{len(self.items)} items, {len(self.groups)}, {len(self.matched)}"
            raise ShapeError(message("each item must have a group and a similarity", got=got))
        for values, places in ((self.other, self.other_of), (self.near, self.near_of)):
            if places.size and (places.ndim != 2 or len(places) != len(values)):
                got = f"{len(values)}, and places of shape {places.shape}"
                raise ShapeError(message("each pair of a pool must have its places", got=got))
        place = f"{self.pair} {self.language}"
        every = (self.matched, self.other, self.near, self.ideal)
        if not all(np.isfinite(one).all() for one in every):
            raise ParameterError(message("a similarity must be finite", got="NaN", place=place))
        if not len(self.other):
            rule = "there must be pairs about other subjects to compare with"
            raise ParameterError(message(rule, got=0, place=place))

    @property
    def sees_subjects(self) -> bool:
        """Whether the yardstick tells accounts that agree from those about other subjects."""
        return self._power(self.other) >= LEAST_POWER

    @property
    def sees_details(self) -> bool:
        """Whether there are near misses, and the yardstick tells accounts that agree from them."""
        return len(self.near) > 0 and self._power(self.near) >= LEAST_POWER

    def _power(self, others: NDArray[np.float64]) -> float:
        return float(stats.share_below(self.ideal, others).mean()) if len(self.ideal) else 1.0


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far the two accounts of a sample agree.

    Attributes:
        sample: what was compared.
        scores: (n,) of each item, [0, 1], by ``RULE``.
        pseudovalues: (n,) scores, each moved by what its group has moved all scores as a part of
            the pairs that are known to differ; their mean is the same.
        score: their mean.
        cosine: the plain mean similarity, which says little by itself.
        subject: probability that a pair is closer than one about another subject (AUC).
        detail: that it is closer than a near miss; NaN without any.
        separation: of the pair from other subjects, in standard deviations (Cohen's d).
        verdict: against the limit; insufficient also where the yardstick does not see subjects.
        needed: items that would settle an insufficient verdict, where that can be told.
    """

    sample: Sample
    scores: NDArray[np.float64]
    pseudovalues: NDArray[np.float64]
    score: Interval
    cosine: Interval
    subject: float
    detail: float
    separation: float
    verdict: Verdict
    needed: int | None


def agree(sample: Sample, *, limit: Limit, seed: int) -> Agreement:
    """Return how far the accounts of a sample agree, held against a limit.

    Intervals are over groups (see lab.stats.ratio_intervals), of pseudovalues: what is compared
    with is a sample too, made of the same few items, and taken as known it would leave the truth
    outside in up to a quarter of studies (variance as of DeLong et al. 1988, by groups).

    Raises: ParameterError for an empty sample.
    """
    if not sample.items:
        raise ParameterError(message("agreement must be about an item", got=0, place=sample.pair))
    subject = stats.share_below(sample.matched, sample.other)
    detail = stats.share_below(sample.matched, sample.near) if len(sample.near) else None
    scores = (subject + detail) / 2 if sample.sees_details else subject
    pools = [(sample.other, sample.other_of)]
    pools += [(sample.near, sample.near_of)] if sample.sees_details else []
    pseudovalues = _pseudovalues(sample, scores, pools)
    score = _share(scores, pseudovalues, sample.groups, seed=seed)
    verdict, needed = slo.judge(limit, value=score.value, ci=score[1:]), None
    if not sample.sees_subjects:
        verdict = "insufficient"  # more items would not help
    elif verdict == "insufficient":
        needed = _needed(score, limit, len(scores))
    return Agreement(
        sample=sample,
        scores=scores,
        pseudovalues=pseudovalues,
        score=score,
        cosine=mean(sample.matched, sample.groups, lowest=-1.0, seed=seed),
        subject=float(subject.mean()),
        detail=math.nan if detail is None else float(detail.mean()),
        separation=separation(sample.matched, sample.other),
        verdict=verdict,
        needed=needed,
    )


def change(
    before: Agreement, after: Agreement, *, limit: Limit, seed: int
) -> tuple[Interval, Verdict]:
    """Return how much higher the second scores than the first, paired item by item, and a verdict.

    Where details are seen in one of the two only, their scores are of two scales: no pass then.

    Raises: ShapeError if the two are not about the same items.
    """
    if before.sample.items != after.sample.items:
        got = f"{len(before.sample.items)} and {len(after.sample.items)} items"
        raise ShapeError(message("agreements that are compared must be about the same", got=got))
    gained = after.pseudovalues - before.pseudovalues
    found = mean(gained, after.sample.groups, lowest=-1.0, seed=seed)
    verdict = slo.judge(limit, value=found.value, ci=found[1:])
    if verdict == "pass" and before.sample.sees_details != after.sample.sees_details:
        verdict = "insufficient"
    return found, verdict


def separation(matched: ArrayLike, other: ArrayLike) -> float:
    """Return the difference of the means over the pooled standard deviation (Cohen 1988).

    Infinite if neither spreads and the means differ, 0 if they do not.
    """
    close, apart = np.asarray(matched, dtype=float), np.asarray(other, dtype=float)
    spread = math.sqrt((close.var() + apart.var()) / 2)
    gap = float(close.mean() - apart.mean())
    return gap / spread if spread else math.copysign(math.inf, gap) if gap else 0.0


# --- planted inconsistencies ----------------------------------------------------------------------


@dataclass(frozen=True)
class Detection:
    """How surely one kind of planted inconsistency is seen.

    Attributes:
        pair: that it was planted into.
        language: likewise.
        planted: kind.
        auc: probability that a pair as it came is closer than one with the plant.
        caught: share of plants below the similarity that 5 % of the pairs as they came fall below.
        n: plants.
    """

    pair: Pair
    language: str
    planted: str
    auc: Interval
    caught: float
    n: int


def detect(
    sample: Sample, planted: Mapping[str, float], *, kind: str, seed: int
) -> Detection | None:
    """Return how surely plants are told from the pairs as they came, errors of the models included.

    Args:
        sample: as it came.
        planted: item -> similarity with the plant; items where none could be planted are left out.
        kind: of the plant.
        seed: of the draws of groups.
    Returns: None without a plant.
    Raises: ParameterError if a plant is about an unknown item or not finite.
    """
    if not planted:
        return None
    places = {name: at for at, name in enumerate(sample.items)}
    if lost := [name for name in planted if name not in places]:
        raise ParameterError(message("a plant must be about an item of the sample", got=lost[0]))
    found = np.full(len(sample.items), np.nan)
    found[[places[name] for name in planted]] = np.round(list(planted.values()), _PLACES)
    have = ~np.isnan(found)
    if have.sum() < len(planted) or not np.isfinite(found[have]).all():
        raise ParameterError(message("a similarity must be finite", got=kind, place=sample.pair))
    scores = stats.share_below(sample.matched, found[have])
    pool = (found[have], np.flatnonzero(have)[:, None])
    auc = _share(scores, _pseudovalues(sample, scores, [pool]), sample.groups, seed=seed)
    bar = float(np.quantile(sample.matched, ALARMS, method="lower"))
    return Detection(
        pair=sample.pair,
        language=sample.language,
        planted=kind,
        auc=auc,
        caught=float((found[have] < bar).mean()),
        n=int(have.sum()),
    )


# --- shared ---------------------------------------------------------------------------------------


def _pseudovalues(
    sample: Sample,
    scores: NDArray[np.float64],
    pools: Sequence[tuple[NDArray[np.float64], NDArray[np.intp]]],
) -> NDArray[np.float64]:
    """Return scores, each moved by what its group has moved all of them as a part of the pools."""
    member = _members(sample.groups)
    moved = np.zeros(member.shape[1])
    for values, places in pools:
        closer = 1 - stats.share_below(values, sample.matched)  # share of items, of each pair
        by_chance = (closer - closer.mean()) / (len(values) * len(pools))
        in_turn = np.arange(len(values))[:, None] % len(scores)
        for of in (places if places.size else in_turn).T:
            moved += np.bincount(of, by_chance, minlength=len(scores)) @ member
    return scores + member @ (moved * len(scores) / member.sum(axis=0))


def _share(
    scores: NDArray[np.float64],
    pseudovalues: NDArray[np.float64],
    groups: Sequence[str],
    *,
    seed: int,
) -> Interval:
    """Return a mean of shares with the interval of its pseudovalues, as far as shares can go."""
    wide = mean(pseudovalues, groups, lowest=0.0, seed=seed)
    ends = (max(0.0, wide.low), min(1.0, wide.high)) if math.isfinite(wide.low) else wide[1:]
    return Interval(float(scores.mean()), *ends)


def _members(groups: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 where an item is of a group, else 0: (items, groups)."""
    codes = {name: code for code, name in enumerate(dict.fromkeys(groups))}
    return np.eye(len(codes))[[codes[name] for name in groups]]


def mean(
    values: NDArray[np.float64], groups: Sequence[str], *, lowest: float, seed: int
) -> Interval:
    """Return a mean with its 95 % interval over groups; infinite ends with fewer than two.

    Args:
        values: (n,).
        groups: (n,) of values that stand or fall together.
        lowest: least that a value can be.
        seed: of the bootstrap.
    """
    ones = np.ones((len(values), 1))
    (ends,) = stats.ratio_intervals(values[:, None], ones, groups, lowest=lowest, seed=seed)
    return Interval(float(values.mean()), *(ends or (-math.inf, math.inf)))


def _needed(score: Interval, limit: Limit, n: int) -> int | None:
    """Return how many items would do, if the mean stays and the interval shrinks as 1/sqrt(n)."""
    room = abs(score.value - limit.bound)
    half = score.value - score.low if score.value > limit.bound else score.high - score.value
    if not room or not math.isfinite(half):
        return None
    return max(n + 1, math.ceil(n * (half / room) ** 2))
