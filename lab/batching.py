"""How many queries to answer at a time: batch sizes of one service, held against each other.

Owns the curve of throughput against latency, the batch size that is best within the limits, the
knee, the memory's frontier, what a fixed rule would have chosen, and how much of a batch is
padding. Knows nothing of how a trial is measured, kept or drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lab import stats
from lab.comparisons import Comparisons, Standing
from lab.errors import ParameterError, ShapeError, message
from lab.slo import Limit, Metric, Verdict
from lab.stats import Interval
from lab.trials import Block, Status, TrialResult, digest

if TYPE_CHECKING:
    import pandas as pd

# In which batches are filled, see `padding_by_order`.
ORDERS = ("drawn", "characters", "sorted", "ideal")
UNKNOWN = Interval(math.nan, math.nan, math.nan)


# --- the curve ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """What one batch size did, in undisturbed blocks.

    Attributes:
        batch_size: queries answered at a time.
        status: of the trial; without blocks every figure is NaN.
        batches: that were timed. All requests of one wait for it, so that they are one observation
            of the latency, not many.
        latency_p50: s.
        latency_p95: s.
        throughput: answered requests per second, geometric mean over blocks.
        verdict: of latency_p95 against its limit; fail without a trial that is ok.
        needed: batches that an insufficient verdict needs.
        eligible: fail if quality is not that of batch 1, in any language.
        peak_bytes: most memory beyond what was held before, weights included; None if not known,
            also where fewer different queries were asked than a batch holds.
        same_answers: whether every answer is that of batch 1; None likewise.
        changed: share of items that score otherwise than in batch 1.
        items: that this share is of.
    """

    batch_size: int
    status: Status
    batches: int
    latency_p50: Interval
    latency_p95: Interval
    throughput: Interval
    verdict: Verdict
    needed: int | None
    eligible: Verdict
    peak_bytes: int | None
    same_answers: bool | None
    changed: Interval
    items: int


def points(study: Comparisons) -> list[Point]:
    """Return a point for each batch size, smallest first.

    Args:
        study: of trials that differ in their batch size alone; the baseline's is 1.
    Raises: ParameterError if it is not such.
    """
    sizes = [one.result.trial.batch_size for one in study.standings]
    if sizes[0] != 1 or len(set(sizes)) < len(sizes):
        rule = "a sweep must have batch size 1 as its baseline, and each other once"
        raise ParameterError(message(rule, got=sizes))
    alone = study.baseline.result
    found = [_point(one, alone) for one in study.standings]
    return sorted(found, key=lambda one: one.batch_size)


def curve(found: Sequence[Point]) -> pd.DataFrame:
    """Return points as a table; an interval takes two more columns, ``_low`` and ``_high``."""
    import pandas as pd

    rows = []
    for one in found:
        row = {
            "batch_size": one.batch_size,
            "status": one.status,
            "batches": one.batches,
        }
        for name in ("latency_p50", "latency_p95", "throughput"):
            interval = getattr(one, name)
            row |= {
                name: interval.value,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
            }
        rows.append(
            row
            | {
                "within the limit": one.verdict,
                "quality holds": one.eligible,
                "peak_bytes": math.nan if one.peak_bytes is None else one.peak_bytes,
                "same answers": {None: "not known", True: "yes", False: "no"}[one.same_answers],
                "changed": one.changed.value,
                "changed_high": one.changed.high,
                "items": one.items,
            }
        )
    return pd.DataFrame(rows)


def _point(standing: Standing, alone: TrialResult) -> Point:
    result = standing.result
    known = {one.name: one for one in standing.metrics}
    p95 = known["latency_p95"]
    failed = result.status != "ok"
    whole = result.trial.batch_size <= result.trial.items
    told = whole and result.answers and alone.answers
    changed, items = _changed(result, alone) if whole else (UNKNOWN, 0)
    return Point(
        batch_size=result.trial.batch_size,
        status=result.status,
        batches=p95.n,
        latency_p50=_interval(known["latency_p50"]),
        latency_p95=_interval(p95),
        throughput=_interval(known["throughput"]),
        verdict="fail" if failed else p95.verdict or "insufficient",
        needed=None if failed else p95.needed,
        eligible=standing.eligible,
        peak_bytes=result.peak_bytes if whole else None,
        same_answers=result.answers == alone.answers if told else None,
        changed=changed,
        items=items,
    )


def _interval(metric: Metric) -> Interval:
    return Interval(metric.value, *(metric.ci or (math.nan, math.nan)))


def _changed(result: TrialResult, alone: TrialResult) -> tuple[Interval, int]:
    before = {one.item: one.scores for one in alone.quality}
    both = [one for one in result.quality if one.item in before]
    changed = sum(one.scores != before[one.item] for one in both)
    return stats.rare_interval(changed, len(both)), len(both)


def _sound(blocks: Sequence[Block]) -> dict[int, Block]:
    """Return undisturbed blocks by number."""
    return {one.number: one for one in blocks if not one.disturbed and one.latencies_s}


# --- which is better ------------------------------------------------------------------------------


def gain(
    first: TrialResult,
    second: TrialResult,
    of: Callable[[Block], float],
    *,
    seed: int,
) -> Interval:
    """Return how many times as much the second has of something, block by block.

    Each is taken relative to the baseline that was timed in its own turns: of two studies the
    machine's mood cancels, within one the baseline does.

    Args:
        first: of a study.
        second: of the same one, or one with the same baseline.
        of: what a block is measured by, above 0; such as its throughput.
        seed: of the bootstrap.
    Returns: NaN, and no ends, without a block that both have undisturbed.
    """
    before, after = _relative(first, of), _relative(second, of)
    both = sorted(before.keys() & after.keys())
    if not both:
        return Interval(math.nan, 0.0, math.inf)
    return stats.block_ratio([before[n] for n in both], [after[n] for n in both], seed=seed)


def _relative(result: TrialResult, of: Callable[[Block], float]) -> dict[int, float]:
    own = _sound(result.blocks)
    is_baseline = result.setting.partner == digest(result.trial)
    base = own if is_baseline else _sound(result.baseline)
    found = {}
    for number in own.keys() & base.keys():
        one, other = of(own[number]), of(base[number])
        if 0 < one < math.inf and 0 < other < math.inf:
            found[number] = one / other
    return found


def throughput(block: Block) -> float:
    """Return a block's answered requests per second."""
    return block.throughput


def power(block: Block) -> float:
    """Return throughput over latency, which is largest at the knee (Kleinrock 1979).

    L. Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer
    communications", ICC 1979: below the knee a larger batch buys more throughput than it costs
    latency, in shares; above it less.
    """
    return block.throughput / block.median_s


@dataclass(frozen=True)
class Top:
    """The batch size that has most of something, and those that cannot be told from it.

    ``rivals`` are those for which 1 lies in the interval of the ratio; both are of measured sizes.
    """

    batch_size: int
    rivals: tuple[int, ...] = ()


def top(results: Sequence[TrialResult], of: Callable[[Block], float], *, seed: int) -> Top | None:
    """Return the batch size with most of something; None if no block can tell.

    Args:
        results: that are compared.
        of: as of `gain`.
        seed: of the bootstrap.
    """
    means = {}
    for one in results:
        values = [*_relative(one, of).values()]
        if one.status == "ok" and values:
            means[one.trial.batch_size] = float(np.log(values).mean())
    if not means:
        return None
    best = max(means, key=lambda size: means[size])
    by_size = {one.trial.batch_size: one for one in results}
    rivals = [
        size
        for size in sorted(means.keys() - {best})
        if gain(by_size[size], by_size[best], of, seed=seed).low <= 1
    ]
    return Top(best, tuple(rivals))


@dataclass(frozen=True)
class Choice:
    """The batch size with the best throughput within the latency limit.

    Attributes:
        verdict: pass if an eligible size is within the limit, fail if each is beyond it, else
            insufficient.
        best: of those that pass; if none does, of those whose 95th percentile itself is within the
            limit and whose interval is not.
        largest: that passes.
        undecided: sizes whose verdict is insufficient.
        needed: batches that those need at least, where they have fewer.
    """

    verdict: Verdict
    best: Top | None
    largest: int | None
    undecided: tuple[int, ...]
    needed: int | None


def choose(
    results: Sequence[TrialResult], found: Sequence[Point], *, latency: Limit, seed: int
) -> Choice:
    """Return the best batch size within the latency limit.

    Args:
        results: of the sweep.
        found: their points.
        latency: limit of the 95th percentile, s.
        seed: of the bootstrap.
    """
    able = [one for one in found if one.eligible != "fail"]
    passing = [one.batch_size for one in able if one.verdict == "pass"]
    undecided = [one.batch_size for one in able if one.verdict == "insufficient"]
    hopeful = [
        one.batch_size
        for one in found
        if one.batch_size in undecided and latency.holds(one.latency_p95.value)
    ]
    among = passing or hopeful
    verdict: Verdict = "pass" if passing else "insufficient" if undecided else "fail"
    return Choice(
        verdict,
        top([one for one in results if one.trial.batch_size in among], throughput, seed=seed),
        max(passing, default=None),
        tuple(undecided),
        max((one.needed for one in found if one.needed), default=None),
    )


def between(found: Sequence[Point], *, around: Sequence[int]) -> list[int]:
    """Return the batch sizes still worth measuring: halfway to the measured ones on either side.

    Args:
        found: what was measured; beyond a size that ran out of memory nothing is.
        around: sizes that matter, such as the knee and the largest within a limit.
    """
    known = sorted(one.batch_size for one in found)
    halves = {(low + high) // 2 for low, high in pairwise(known) if low in around or high in around}
    return sorted(halves - set(known))


# --- memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frontier:
    """Where memory ends.

    Attributes:
        largest: batch size that ran; None if none did.
        smallest_beyond: one that ran out of memory; None if none did: then the frontier was not
            reached.
        bytes_per_query: slope of the peak over the batch size, least squares, 95 % interval by
            Student's t; NaN from fewer than three sizes.
    """

    largest: int | None
    smallest_beyond: int | None
    bytes_per_query: Interval


def frontier(found: Sequence[Point]) -> Frontier:
    """Return where memory ends, from the points of a sweep."""
    ran = [one.batch_size for one in found if one.status == "ok"]
    beyond = [one.batch_size for one in found if one.status == "out_of_memory"]
    known = [one for one in found if one.status == "ok" and one.peak_bytes is not None]
    sizes = np.array([one.batch_size for one in known], dtype=float)
    peaks = np.array([one.peak_bytes for one in known], dtype=float)
    return Frontier(max(ran, default=None), min(beyond, default=None), _slope(sizes, peaks))


def _slope(across: NDArray[np.float64], up: NDArray[np.float64]) -> Interval:
    from scipy.stats import linregress, t

    if len(across) < 3:
        return UNKNOWN
    line = linregress(across, up)
    half = float(t.ppf(0.975, len(across) - 2) * line.stderr)
    return Interval(float(line.slope), float(line.slope) - half, float(line.slope) + half)


# --- the article's rule ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Begin with a batch size and add to it while throughput is too low: 8, 12, 16 by default."""

    start: int = 8
    step: int = 4
    most: int = 16

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that the rule may try."""
        return tuple(range(self.start, self.most + 1, self.step))


@dataclass(frozen=True)
class Replay:
    """What a rule would have done.

    Attributes:
        tried: batch sizes, in order.
        ends_with: the one it stays with; None if it needs one that was not measured, or if the
            first did not run.
        why: it stopped there.
        missing: sizes that must be measured before its end can be told.
    """

    tried: tuple[int, ...]
    ends_with: int | None
    why: str
    missing: tuple[int, ...] = ()


def replay(found: Sequence[Point], *, enough: Limit, rule: Rule | None = None) -> Replay:
    """Replay a rule on what was measured; it looks at values, as its author did, not at intervals.

    Args:
        found: points of a sweep.
        enough: throughput at which the rule is content, such as ``> 100``.
        rule: of the article by default.
    """
    rule = rule or Rule()
    by_size = {one.batch_size: one for one in found}
    beyond = frontier(found).smallest_beyond or math.inf
    tried: list[int] = []
    for size in rule.sizes:
        last = tried[-1] if tried else None
        point = by_size.get(size)
        if size >= beyond:
            return Replay(tuple(tried), last, f"memory runs out at {beyond}")
        if point is None:
            why = f"batch size {size} was not measured"
            left = tuple(one for one in rule.sizes if one not in by_size)
            return Replay(tuple(tried), None, why, left)
        if point.status != "ok" or math.isnan(point.throughput.value):
            reason = "no undisturbed block" if point.status == "ok" else point.status
            why = f"batch size {size} gave no throughput ({reason})"
            return Replay(tuple(tried), last, why)
        tried.append(size)
        if enough.holds(point.throughput.value):
            return Replay(tuple(tried), size, f"its throughput is {enough} requests/s")
    return Replay(tuple(tried), tried[-1], f"{rule.most} is the most it takes")


# --- padding --------------------------------------------------------------------------------------


def padding(lengths: Sequence[int], batch_size: int) -> float:
    """Return which share of a batch's positions is padding, over all batches, [0, 1).

    Args:
        lengths: of the queries in tokens, in the order in which batches are filled.
        batch_size: queries at a time; the last batch may be smaller.
    Raises: ParameterError if there is no length, one is below 1, or the batch size is.
    """
    if batch_size < 1:
        raise ParameterError(message("batch_size must be at least 1", got=batch_size))
    if not len(lengths) or min(lengths) < 1:
        raise ParameterError(
            message("padding needs lengths of at least 1 token", got=[*lengths][:3])
        )
    positions = 0
    for first in range(0, len(lengths), batch_size):
        some = lengths[first : first + batch_size]
        positions += max(some) * len(some)
    return 1 - sum(lengths) / positions


def padding_by_order(
    lengths: Sequence[int], sizes: Mapping[str, Sequence[Any]], batch_sizes: Sequence[int]
) -> pd.DataFrame:
    """Return the share of padding as queries come, sorted by what is told, and sorted by length.

    Args:
        lengths: of the queries in tokens, as they were drawn.
        sizes: by name, what they are sorted by, (queries,); ``sorted`` is what the lab does.
        batch_sizes: of each a row.
    Returns: batch_size, queries, drawn, a column for each of sizes, ideal; shares are exact for
        these queries.
    Raises: ShapeError if there are not as many sizes as lengths, and as `padding`.
    """
    import pandas as pd

    for name, by in sizes.items():
        if len(lengths) != len(by):
            got = f"{len(lengths)} and {len(by)}"
            rule = "each length must have what it is sorted by"
            raise ShapeError(message(rule, got=got, place=name))
    orders = {"drawn": list(lengths)}
    for name, by in sizes.items():
        orders[name] = [lengths[at] for at in sorted(range(len(lengths)), key=by.__getitem__)]
    orders["ideal"] = sorted(lengths)
    return pd.DataFrame(
        [
            {"batch_size": size, "queries": len(lengths)}
            | {name: padding(ordered, size) for name, ordered in orders.items()}
            for size in batch_sizes
        ]
    )
