"""Intervals for what the lab measures.

Owns estimators and their 95 % intervals, array in, numbers out. Knows nothing of trials, tenants
or limits.
"""

from __future__ import annotations

import math

from lab.errors import ParameterError, message

Z95 = 1.959963984540054  # the 97.5 % point of the standard normal


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
