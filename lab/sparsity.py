"""How far a model can be pruned: what each sparsity costs in quality, and what it brings.

Owns the curve of quality over sparsity, how far along it a method may go, what the zeros promise
beside what was measured, and what the article's rule would have done. Knows nothing of how results
came about, or of limits on time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal

from lab import quality, slo
from lab.errors import ParameterError, message
from lab.measurement import Comparison
from lab.slo import Limit, Verdict
from lab.stats import Interval
from lab.trials import Status, TrialResult
from lab.workloads import Saved

ARTICLE = (0.2, 0.3)  # l1; the second when memory runs out with the first
ARTICLE_METHOD = "l1"
ORDER_RULE = (
    "Each method is judged from its smallest sparsity upwards, and no further than the first that "
    "is not within tolerance in every language: so no correction for many tests is needed (fixed "
    "sequence, Maurer et al. 1995), and none is for many languages, of which each must pass "
    "(intersection-union, Berger 1982)"
)
_SAME = 0.005  # a share of bytes that says nothing: names, constants, padding


# --- quality --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """What a sparsity did to a language.

    Attributes:
        method: of pruning.
        sparsity: as the trial has it.
        language: of the items.
        change: against the dense model, more being better, with its 95 % interval; NaN without an
            answer to judge.
        n: items, each asked of both.
        verdict: of the change within the tolerance; fail for a configuration that did not answer.
        needed: items that would settle an insufficient verdict if the change stays; None if more
            would not.
        status: of the trial.
    """

    method: str
    sparsity: float
    language: str
    change: Interval
    n: int
    verdict: Verdict
    needed: int | None = None
    status: Status = "ok"


def points(
    results: Sequence[TrialResult], *, metric: str, tolerance: float, seed: int
) -> tuple[Point, ...]:
    """Return the curve of every method, a point for each sparsity and language, in this order.

    Args:
        results: the first is that of the dense model; others have asked the same items.
        metric: of lab.quality.
        tolerance: how much worse is still as good, in the metric's unit, above 0.
        seed: of the bootstrap.
    Raises: ParameterError if the tolerance is not above 0, the first is pruned or failed, or
        another is not pruned.
    """
    _check(results, tolerance)
    dense = _items(results[0], metric)
    languages = sorted({one.language for one in dense})
    found = []
    for result in results[1:]:
        place = (result.trial.pruning, result.trial.sparsity)
        if result.status != "ok":
            nothing = Interval(math.nan, math.nan, math.nan)
            found += [
                Point(*place, language, nothing, 0, "fail", status=result.status)
                for language in languages
            ]
            continue
        for one in quality.compare(dense, _items(result, metric), seed=seed):
            if one.language and one.query:
                found.append(_point(place, one, tolerance))
    return tuple(sorted(found, key=lambda one: (one.method, one.sparsity, one.language)))


def _check(results: Sequence[TrialResult], tolerance: float) -> None:
    if not tolerance > 0:
        raise ParameterError(message("tolerance must be above 0", got=tolerance))
    if not results or results[0].trial.pruning != "none" or results[0].status != "ok":
        got = f"{results[0].trial.pruning}, {results[0].status}" if results else "none"
        rule = "the first result must be that of a dense model that answered"
        raise ParameterError(message(rule, got=got))
    if any(one.trial.pruning == "none" for one in results[1:]):
        rule = "results beside the first must be of pruned models"
        raise ParameterError(message(rule, got="one that is dense"))


def _items(result: TrialResult, metric: str) -> list[quality.Item]:
    return [
        quality.Item(
            one.item,
            one.group,
            one.language,
            result.trial.kind,
            {metric: quality.Score(*one.scores[metric])},
        )
        for one in result.quality
        if metric in one.scores
    ]


def _point(place: tuple[str, float], one: quality.Difference, tolerance: float) -> Point:
    sign = 1 if one.higher_is_better else -1
    low, high = sorted(sign * end for end in one.ci)
    change = Interval(sign * one.value, low, high)
    verdict = slo.judge(Limit(">", -tolerance), value=change.value, ci=(low, high))
    needed = _needed(change, tolerance, one.n) if verdict == "insufficient" else None
    return Point(*place, str(one.language), change, one.n, verdict, needed)


def _needed(change: Interval, tolerance: float, n: int) -> int | None:
    """Return the items after which the interval would leave out the tolerance's end."""
    gap = abs(change.value + tolerance)
    half = change.value - change.low if change.value > -tolerance else change.high - change.value
    if not gap > 0 or not math.isfinite(half):
        return None
    return max(n + 1, math.ceil(n * (half / gap) ** 2))


# --- how far --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """How far a method can go, by ``ORDER_RULE``.

    Attributes:
        method: of pruning.
        sparsity: the largest within tolerance, below which all were too; 0 if there is none.
        verdict: pass if there is one; else that of the smallest sparsity.
        stopped: the first sparsity that was not within tolerance; None if all were.
        why: the verdict there; None if all were within.
        languages: that kept it from passing there.
        beyond: larger sparsities that passed, and do not count.
        needed: items of a language that would settle an open one; None if more would not.
    """

    method: str
    sparsity: float
    verdict: Verdict
    stopped: float | None = None
    why: Verdict | None = None
    languages: tuple[str, ...] = ()
    beyond: tuple[float, ...] = ()
    needed: int | None = None


def reaches(curve: Sequence[Point]) -> tuple[Reach, ...]:
    """Return how far each method of a curve can go, in the order of their names."""
    ordered = sorted(curve, key=attrgetter("method", "sparsity"))
    return tuple(
        _reach(method, [list(some) for _, some in groupby(part, attrgetter("sparsity"))])
        for method, part in groupby(ordered, attrgetter("method"))
    )


def _reach(method: str, steps: Sequence[Sequence[Point]]) -> Reach:
    """Return how far it goes from step to step, each with a point for every language."""
    verdicts = [slo.overall(one.verdict for one in step) for step in steps]
    passed = next((at for at, verdict in enumerate(verdicts) if verdict != "pass"), len(verdicts))
    reached = steps[passed - 1][0].sparsity if passed else 0.0
    if passed == len(steps):
        return Reach(method, reached, "pass")
    why, stop = verdicts[passed], steps[passed]
    hindering = [one for one in stop if one.verdict == why]
    needed = [one.needed for one in hindering]
    return Reach(
        method,
        reached,
        "pass" if passed else why,
        stopped=stop[0].sparsity,
        why=why,
        languages=tuple(one.language for one in hindering),
        beyond=tuple(
            step[0].sparsity
            for step, verdict in zip(steps[passed:], verdicts[passed:], strict=True)
            if verdict == "pass"
        ),
        needed=None if why == "fail" or None in needed else max(needed),
    )


# --- what it brings -------------------------------------------------------------------------------

Flag = Literal["yes", "no", "open"]


@dataclass(frozen=True)
class Gain:
    """What a configuration promises, beside what was measured; all as shares of the dense model.

    Attributes:
        method: of pruning.
        sparsity: as the trial has it.
        promised_bytes: of the checkpoint, if zeros were not stored.
        stored_bytes: of the checkpoint as it is; NaN if there is none.
        loaded_bytes: of the weights in memory; NaN if there are none.
        promised_time: multiplications that are left: the time, if nothing else took any.
        time: latency as it was measured, with its interval.
        blocks: in which it was measured.
        shrinks: whether it really takes fewer bytes, stored or loaded.
        speeds_up: whether it was shown to be faster; open without enough blocks to tell.
    """

    method: str
    sparsity: float
    promised_bytes: float
    stored_bytes: float
    loaded_bytes: float
    promised_time: float
    time: Interval
    blocks: int
    shrinks: bool
    speeds_up: Flag

    @property
    def says(self) -> str:
        """What came of the promise, in words."""
        faster = {
            "yes": "is faster here",
            "no": "speeds up nothing here",
            "open": "is not shown to be faster: too few undisturbed blocks",
        }
        smaller = "takes fewer bytes" if self.shrinks else "shrinks nothing"
        return f"{smaller} and {faster[self.speeds_up]}"


def gain(
    dense: TrialResult, pruned: TrialResult, *, promised: Saved, comparison: Comparison
) -> Gain:
    """Return what a pruned configuration promised and what came of it.

    Args:
        dense: the baseline, with its bytes.
        pruned: of the same study.
        promised: as lab.workloads has it.
        comparison: of the two latencies.
    """
    stored, loaded = (
        _share(getattr(pruned, name), getattr(dense, name))
        for name in ("stored_bytes", "loaded_bytes")
    )
    return Gain(
        pruned.trial.pruning,
        pruned.trial.sparsity,
        _share(promised.stored_bytes, dense.stored_bytes),
        stored,
        loaded,
        promised.multiplications,
        comparison.ratio,
        comparison.blocks,
        min(stored, loaded) < 1 - _SAME,
        _speeds_up(pruned, comparison),
    )


def _speeds_up(pruned: TrialResult, comparison: Comparison) -> Flag:
    if comparison.verdict != "insufficient" or pruned.status != "ok":
        return "yes" if comparison.verdict == "faster" else "no"
    # With blocks enough, what lies within the noise is no gain that anybody would see.
    enough = comparison.needed is None and math.isfinite(comparison.floor)
    return "no" if enough else "open"


def _share(part: float | None, whole: float | None) -> float:
    return part / whole if part is not None and whole else math.nan


# --- the article's rule ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What the article's rule would have done: l1 at 0.2, and at 0.3 when memory runs out.

    Attributes:
        sparsity: that it ends with; None if it was not measured.
        verdict: of its quality; None if it was not measured.
        says: what came of it, in words.
    """

    sparsity: float | None
    verdict: Verdict | None
    says: str


def article(results: Sequence[TrialResult], curve: Sequence[Point]) -> Replay:
    """Replay the article's rule on what was measured.

    Args:
        results: as of `points`.
        curve: as `points` returns it.
    """
    l1 = {one.trial.sparsity: one for one in results if one.trial.pruning == ARTICLE_METHOD}
    first, second = ARTICLE
    if first not in l1:
        return Replay(None, None, f"the article's rule begins with l1 {first:g}: not measured")
    ran_out = l1[first].status == "out_of_memory"
    sparsity = second if ran_out else first
    if sparsity not in l1:
        words = f"memory ran out with l1 {first:g}; l1 {second:g} was not measured"
        return Replay(None, None, words)
    verdict = slo.overall(
        one.verdict for one in curve if (one.method, one.sparsity) == (ARTICLE_METHOD, sparsity)
    )
    within = {
        "pass": "within tolerance in every language",
        "fail": "not within tolerance in every language",
        "insufficient": "not shown to be within tolerance in every language",
    }
    said = "memory ran out" if ran_out else "memory did not run out"
    words = f"l1 {first:g}, {said}: it ends with l1 {sparsity:g}, {within[verdict]}"
    return Replay(sparsity, verdict, words + _relieved(l1, first, second))


def _relieved(l1: Mapping[float, TrialResult], first: float, second: float) -> str:
    """Say what 0.3 does for memory, where both sparsities were loaded."""
    loaded = [l1[one].loaded_bytes for one in (first, second) if one in l1]
    if len(loaded) < 2 or None in loaded:
        return ""
    if loaded[1] < loaded[0] * (1 - _SAME):
        return f"; l1 {second:g} takes less memory than l1 {first:g}"
    return f"; l1 {second:g} takes as much memory as l1 {first:g}, so it could not have helped"


# --- which one ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The configuration to go on with.

    Attributes:
        method: of pruning.
        sparsity: of it.
        settled: whether it is within tolerance; else it is the least harmful that may be.
    """

    method: str
    sparsity: float
    settled: bool


def choose(curve: Sequence[Point], gains: Sequence[Gain], *, far: Sequence[Reach]) -> Choice | None:
    """Return the configuration to go on with; None if every one is shown to do harm.

    Of those within tolerance that with most to show for it: faster, then smaller, then sparser.
    If none is, but some may be, that whose worst language is the least worse off at worst.

    Args:
        curve: as of `points`.
        gains: of the same configurations.
        far: as of `reaches`.
    """
    able = {(one.method, one.sparsity) for one in far if one.sparsity}
    shown = [one for one in gains if (one.method, one.sparsity) in able]
    if shown:
        best = max(
            shown,
            key=lambda one: (
                -one.time.value if one.speeds_up == "yes" else -math.inf,
                -min(one.stored_bytes, one.loaded_bytes) if one.shrinks else -1.0,
                one.sparsity,
            ),
        )
        return Choice(best.method, best.sparsity, settled=True)
    worst: dict[tuple[str, float], float] = {}
    failed = {(one.method, one.sparsity) for one in curve if one.verdict == "fail"}
    for one in curve:
        place = (one.method, one.sparsity)
        if place not in failed:
            low = -math.inf if math.isnan(one.change.low) else one.change.low
            worst[place] = min(worst.get(place, math.inf), low)
    if not worst:
        return None
    # Of equal ones the sparsest, which has most to show.
    method, sparsity = max(worst, key=lambda place: (worst[place], place[1], place[0]))
    return Choice(method, sparsity, settled=False)
