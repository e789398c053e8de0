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

from lab import slo
from lab.comparisons import Comparisons, Standing
from lab.errors import ParameterError, message
from lab.slo import Metric, Verdict
from lab.stats import Interval
from lab.trials import Status, TrialResult
from lab.workloads import Saved

ARTICLE = ("l1", (0.2, 0.3))  # the second when memory runs out with the first
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
        needed: items that would settle an open one if the change stays; None if more would not.
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


def points(study: Comparisons) -> tuple[Point, ...]:
    """Return the curve of every method, a point for each sparsity and language, in this order.

    Args:
        study: of which the dense model is the baseline.
    Raises: ParameterError if the baseline is pruned or failed, or another is not pruned.
    """
    dense = study.baseline.result
    if dense.trial.pruning != "none" or dense.status != "ok":
        rule = "the baseline of a curve must be a dense model that answered"
        got = f"{dense.trial.name}: {dense.problem or dense.status}"
        raise ParameterError(message(rule, got=got))
    languages = sorted({one.language for one in dense.quality})
    found = []
    for one in study.standings[1:]:
        trial = one.result.trial
        if trial.pruning == "none":
            rule = "what is compared on a curve must be pruned"
            raise ParameterError(message(rule, got=trial.name))
        changes = {
            str(metric.labels["language"]): metric
            for metric in one.metrics
            if metric.name == "quality_delta"
        }
        found += [_point(one.result, language, changes.get(language)) for language in languages]
    return tuple(sorted(found, key=attrgetter("method", "sparsity", "language")))


def _point(result: TrialResult, language: str, change: Metric | None) -> Point:
    place = (result.trial.pruning, result.trial.sparsity, language)
    if result.status != "ok" or change is None or change.verdict is None:
        nothing = Interval(math.nan, math.nan, math.nan)
        return Point(*place, nothing, 0, "fail", status=result.status)
    ends = change.ci or (math.nan, math.nan)
    return Point(*place, Interval(change.value, *ends), change.n, change.verdict, change.needed)


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


def gain(dense: TrialResult, standing: Standing, *, promised: Saved) -> Gain:
    """Return what a pruned configuration promised and what came of it.

    Args:
        dense: the baseline, with its bytes.
        standing: of the pruned one in the same study.
        promised: as lab.workloads has it.
    """
    pruned, speed = standing.result, standing.speed
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
        speed.ratio if speed else Interval(math.nan, 0.0, math.inf),
        speed.blocks if speed else 0,
        min(stored, loaded) < 1 - _SAME,
        _speeds_up(standing),
    )


def _speeds_up(standing: Standing) -> Flag:
    speed = standing.speed
    if standing.result.status != "ok":
        return "no"
    if speed is None:
        return "open"
    if speed.verdict != "insufficient":
        return "yes" if speed.verdict == "faster" else "no"
    # With blocks enough, what lies within the noise is no gain that anybody would see.
    enough = speed.needed is None and math.isfinite(speed.floor)
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


def article(study: Comparisons, curve: Sequence[Point]) -> Replay:
    """Replay the article's rule on what was measured.

    Args:
        study: as of `points`.
        curve: as `points` returns it.
    """
    method, (first, second) = ARTICLE
    results = [one.result for one in study.standings]
    l1 = {one.trial.sparsity: one for one in results if one.trial.pruning == method}
    if first not in l1:
        return Replay(None, None, f"l1 {first:g} first: it was not measured")
    ran_out = l1[first].status == "out_of_memory"
    sparsity = second if ran_out else first
    if sparsity not in l1:
        words = f"memory ran out with l1 {first:g}; l1 {second:g} was not measured"
        return Replay(None, None, words)
    verdict = slo.overall(
        one.verdict for one in curve if (one.method, one.sparsity) == (method, sparsity)
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
