"""Intervals for what the lab measures.

Owns estimators and their 95 % intervals, array in, numbers out. Knows nothing of trials, tenants
or limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import ParameterError, ShapeError, message

Z95 = 1.959963984540054  # the 97.5 % point of the standard normal
RESAMPLES = 2000

_TAIL = 0.05  # what a 95 % interval leaves out
_ENDS = (0.025, 0.975)
_CHUNK = 200_000  # draws held at a time; more leave the processor's cache


class Interval(NamedTuple):
    """A figure between the ends of its 95 % interval; an end that n cannot bear is infinite."""

    value: float
    low: float
    high: float


# --- shares ---------------------------------------------------------------------------------------


def proportion_interval(hits: int, n: int, *, population: int | None = None) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of ``hits / n`` (Wilson 1927).

    Chosen over the normal interval because it keeps its coverage for rates near 0 and 1, where
    defect rates live.

    Args:
        hits: those that have the property, among n that were looked at.
        n: how many were looked at.
        population: how many there are, if the rate of just these is asked for. The interval then
            shrinks by the finite population correction (Cochran 1977, section 2.6), to the rate
            itself once all were looked at: then nothing is left to infer. None for no end.
    Returns: (low, high); ``(nan, nan)`` for n = 0.
    Raises: ParameterError unless 0 <= hits <= n <= population.
    """
    if not 0 <= hits <= n:
        raise ParameterError(message("hits must be between 0 and n", got=f"{hits} of {n}"))
    if population is not None and population < n:
        raise ParameterError(
            message("the population must hold what was looked at", got=f"{n} of {population}")
        )
    if n == 0:
        return (math.nan, math.nan)
    rate, z2 = hits / n, Z95**2
    if population is not None:
        z2 *= (population - n) / max(1, population - 1)
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return (low, high)


def proportion_needed(rate: float, bound: float, *, population: int | None = None) -> int | None:
    """Return the n at which a Wilson interval around ``rate`` no longer holds ``bound``.

    None if the two are equal and there is no end of what can be looked at: then no n settles it.
    Never more than the population.
    """
    if math.isnan(rate) or (math.isclose(rate, bound) and population is None):
        return None
    if math.isclose(rate, bound):
        return population
    # The Wilson interval excludes the bound exactly when the score test rejects it.
    endless = Z95**2 * bound * (1 - bound) / (rate - bound) ** 2
    if population is None:
        return max(1, math.ceil(endless))
    return max(1, math.ceil(endless * population / (endless + population - 1)))


def rare_interval(events: int, n: int) -> Interval:
    """Return a rate of events that should hardly happen, such as errors, with its interval.

    By Clopper and Pearson (1934). Without an event nothing can be too high, so that all 5 % lie at
    the upper end (the "rule of three", Hanley and Lippman-Hand 1983): 2,995 requests without an
    error show a rate below 0.1 %. Where none is about as likely as a few, 94 of 100 intervals hold
    the rate.

    Args:
        events: how many happened, 0 to n.
        n: how often one could have happened.
    Returns: NaN throughout for n = 0.
    Raises: ParameterError unless 0 <= events <= n.
    """
    from scipy.stats import beta

    if not 0 <= events <= n:
        raise ParameterError(message("events must be between 0 and n", got=f"{events} of {n}"))
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    if events == 0:
        return Interval(0.0, 0.0, 1 - _TAIL ** (1 / n))
    low = float(beta.ppf(_TAIL / 2, events, n - events + 1))
    high = float(beta.ppf(1 - _TAIL / 2, events + 1, n - events)) if events < n else 1.0
    return Interval(events / n, low, high)


def rare_needed(bound: float) -> int:
    """Return the n that, without an event, shows a rate below ``bound``, (0, 1)."""
    if not 0 < bound < 1:
        raise ParameterError(message("a rate's bound must be between 0 and 1", got=bound))
    return math.floor(math.log(_TAIL) / math.log1p(-bound)) + 1


def share_below(values: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Return for each value the share of others that it exceeds, ties counting half.

    The mean of these is the probability that a value exceeds one of the others: the area under the
    ROC curve (Mann and Whitney 1947).

    Args:
        values: (n,).
        others: (m,), at least one.
    Returns: (n,), [0, 1].
    Raises: ParameterError if there are no others, or one of either is NaN.
    """
    ours, ordered = np.asarray(values, dtype=float), np.sort(np.asarray(others, dtype=float))
    if not len(ordered) or np.isnan(ordered[-1]) or np.isnan(ours).any():
        raise ParameterError(message("shares need values that are not NaN", got=len(ordered)))
    below = np.searchsorted(ordered, ours, side="left")
    upto = np.searchsorted(ordered, ours, side="right")
    return (below + upto) / (2 * len(ordered))


# --- quantiles ------------------------------------------------------------------------------------


def quantile_interval(values: ArrayLike, share: float) -> Interval:
    """Return a quantile with an interval that holds for any distribution.

    Its ends are order statistics (David and Nagaraja 2003, section 7.1): of those pairs that hold
    the quantile with 95 % the two that are fewest ranks apart. Infinite values (a request that
    failed or never came back) count as the slowest.

    Args:
        values: (n,), in any order.
        share: which quantile, such as 0.95, (0, 1).
    Returns: the smallest value that at least this share does not exceed. The upper end is infinite
        for n below `quantile_needed`; the lower end is where n bears only one of them.
    Raises: ParameterError if there is no value, one is NaN or the share is out of range.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=float), axis=None)
    n = len(ordered)
    if not 0 < share < 1:
        raise ParameterError(message("a quantile's share must be between 0 and 1", got=share))
    if n == 0 or np.isnan(ordered[-1]):
        raise ParameterError(message("a quantile needs values that are not NaN", got=f"{n} values"))
    value = float(ordered[max(1, math.ceil(share * n - 1e-9)) - 1])
    # As many of the n lie below the quantile as in n throws of a coin; rank r is above it unless
    # at least r of them do. Rank 0 stands for minus infinity, rank n + 1 for infinity.
    at_most = binom.cdf(np.arange(n + 1), n, share)
    below = np.concatenate([[0.0], at_most[:-1]])  # P(fewer than r), r = 0 ... n
    # For each lower rank the first upper rank that is far enough; n + 1 if none is.
    upper = np.searchsorted(at_most, below + 1 - _TAIL - 1e-12, side="left") + 1
    lower = np.arange(n + 1)
    known = (lower >= 1) & (upper <= n)
    if known.any():
        width = np.where(known, upper - lower, n + 1)
        held = np.where(width == width.min(), at_most[np.minimum(upper, n + 1) - 1] - below, -1.0)
        best = int(held.argmax())
        return Interval(value, float(ordered[best - 1]), float(ordered[upper[best] - 1]))
    if upper[0] <= n:
        return Interval(value, -math.inf, float(ordered[upper[0] - 1]))
    best = int(np.flatnonzero(below <= _TAIL)[-1])
    return Interval(value, float(ordered[best - 1]) if best else -math.inf, math.inf)


def quantile_needed(share: float) -> int:
    """Return the least n for which a quantile's interval has an upper end: 299 for 0.99."""
    if not 0 < share < 1:
        raise ParameterError(message("a quantile's share must be between 0 and 1", got=share))
    return math.ceil(math.log(_TAIL) / math.log(share))


# --- ratios ---------------------------------------------------------------------------------------


def block_ratio(
    first: ArrayLike, second: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Return how much larger the second is than the first, both measured in the same blocks.

    The geometric mean of the blocks' ratios, so that swapping the two gives its inverse. Whole
    blocks are drawn again and again; the percentiles are moved outwards as far as a t interval is
    wider than a normal one, without which ten blocks would cover the truth in 90 of 100 studies
    only (Hesterberg 2015, arXiv:1411.5279, section 5.3). Never narrower than the t interval of the
    logarithms: draws from a few blocks do not reach beyond them.

    Args:
        first: (blocks,), such as each block's median latency; above 0.
        second: (blocks,), of the same blocks.
        seed: of the draws.
        resamples: how many.
    Returns: infinite ends for a single block.
    Raises: ShapeError unless both are (blocks,); ParameterError unless all are finite and above 0.
    """
    from scipy.stats import norm, t

    before, after = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if before.ndim != 1 or before.shape != after.shape or not len(before):
        got = f"{before.shape} and {after.shape}"
        raise ShapeError(message("both must have a value for each block", got=got))
    both = np.concatenate([before, after])
    if not (np.isfinite(both) & (both > 0)).all():
        bad = both[~(np.isfinite(both) & (both > 0))][:3].tolist()
        raise ParameterError(message("what a block measured must be finite and above 0", got=bad))
    logs, n = np.log(after / before), len(before)
    value = float(np.exp(logs.mean()))
    if n == 1:
        return Interval(value, 0.0, math.inf)
    draws = np.random.default_rng(seed).integers(n, size=(resamples, n))
    tail = norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(1 - _TAIL / 2, n - 1))
    low, high = np.quantile(logs[draws].mean(axis=1), [tail, 1 - tail])
    half = t.ppf(1 - _TAIL / 2, n - 1) * logs.std(ddof=1) / math.sqrt(n)
    low, high = min(low, logs.mean() - half), max(high, logs.mean() + half)
    return Interval(value, float(np.exp(low)), float(np.exp(high)))


def noise_floor(first: ArrayLike, again: ArrayLike, *, seed: int) -> float:
    """Return the least gain that can be told from noise, from one configuration measured as two.

    The farthest end of the interval of their ratio from 1, as a share: 0.03 says that a difference
    of less than 3 % is not claimed. Arguments and errors as of `block_ratio`.
    """
    ratio = block_ratio(first, again, seed=seed)
    return max(ratio.high, 1 / ratio.low) - 1 if ratio.low > 0 else math.inf


def ratio_intervals(
    tops: NDArray[np.float64],
    bottoms: NDArray[np.float64],
    groups: Sequence[str],
    *,
    lowest: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[tuple[float, float] | None]:
    """Return the 95 % interval of sum(tops) / sum(bottoms), drawing whole groups again and again.

    The wider of two: the percentile bootstrap (Efron 1979), which is too narrow where groups are
    few or only some of them err, and the studentised one (Efron and Tibshirani 1993, section 12.5)
    with the linearised standard error of a ratio. Resampling cannot show what the sample lacks, so
    Wilson's interval of the share of groups that deviate from the commonest rate, each as far as
    it goes, is the limit outwards, and what takes its place in a direction in which none deviates.
    Thirty groups without an error leave an upper end of 0.11, not of 0.

    Args:
        tops: (items, figures).
        bottoms: (items, figures), at least 0.
        groups: (items,), names.
        lowest: least that an item's ratio can be, or else the least there is; likewise the most, 1.
        seed: of the draws; figures share them.
        resamples: how many.
    Returns: (figures,); None where there are fewer than two groups or a resample has no bottom.
    """
    codes = {name: code for code, name in enumerate(dict.fromkeys(groups))}
    n, figures = len(codes), tops.shape[1]
    if n < 2:
        return [None] * figures
    sums = np.zeros((n, 2 * figures))
    np.add.at(sums, [codes[name] for name in groups], np.hstack([tops, bottoms]))
    top, bottom = np.hsplit(sums, 2)  # (groups, figures) each
    products = np.hstack([top, bottom, top * top, top * bottom, bottom * bottom])
    drawn = np.hsplit(_resampled(products, seed=seed, resamples=resamples), 5)
    return [
        _interval(top[:, at], bottom[:, at], [part[:, at] for part in drawn], lowest)
        for at in range(figures)
    ]


def _resampled(rows: NDArray[np.float64], *, seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the sums of the rows, drawn with replacement: (resamples, columns)."""
    rng, n = np.random.default_rng(seed), len(rows)
    sums = np.empty((resamples, rows.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draws = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = counts @ rows
    return sums


def _interval(
    top: NDArray[np.float64],
    bottom: NDArray[np.float64],
    drawn: Sequence[NDArray[np.float64]],
    lowest: float,
) -> tuple[float, float] | None:
    """Return one interval from the sums of groups, (groups,), and of resamples, five (resamples,).

    The five: top, bottom, and the products top², top·bottom, bottom².
    """
    tops, bottoms, tt, tb, bb = drawn
    if not bottoms.all():
        return None
    value = top.sum() / bottom.sum()
    weights = np.maximum(bottom, 1)  # without a reference: as if of length 1
    rates = np.round(top / weights, 9)
    known, counts = np.unique(rates, return_counts=True)
    usual, lowest, most = known[counts.argmax()], min(lowest, known[0]), max(1.0, known[-1])
    size = weights.sum() ** 2 / (weights**2).sum()  # groups of one length that tell as much (Kish)
    below, above = (weights[side].sum() / weights.sum() for side in (rates < usual, rates > usual))
    down = proportion_interval(below * size, size)[1] * (usual - lowest)
    up = proportion_interval(above * size, size)[1] * (most - usual)
    if not below and not above:
        return (float(usual - down), float(usual + up))
    ratios = tops / bottoms
    error = math.sqrt(((top - value * bottom) ** 2).sum()) / bottom.sum()
    errors = np.sqrt(np.maximum(tt - 2 * ratios * tb + ratios**2 * bb, 0)) / bottoms
    students = (ratios - value) / np.maximum(errors, 1e-9)
    low, high = np.quantile(ratios, _ENDS)
    least, greatest = np.quantile(students, _ENDS)
    low, high = min(low, value - greatest * error), max(high, value - least * error)
    low = low if below else min(low, value - down)
    high = high if above else max(high, value + up)
    return (float(max(low, usual - down)), float(min(high, usual + up)))
