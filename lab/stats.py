"""Intervals for what the lab measures.

Owns estimators and their 95 % intervals, array in, numbers out. Knows nothing of trials, tenants
or limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lab.errors import ParameterError, message

Z95 = 1.959963984540054  # the 97.5 % point of the standard normal
RESAMPLES = 2000

_ENDS = (0.025, 0.975)
_CHUNK = 200_000  # draws held at a time; more leave the processor's cache


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
