"""Timing requests so that a difference between configurations is one, and not the machine's mood.

Owns the order in which configurations take turns, the two kinds of load, the warm-up, what disturbs
a block, and who may be called faster. Knows nothing of models, of what a request is, or of how
results are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.errors import ParameterError, message
from lab.stats import Interval, block_ratio, noise_floor
from lab.trials import Block

LEAST_BLOCKS = 10
_STALLED = 0.05  # share of a block in which somebody waited for a core
_STOLEN = 0.02  # share of the cores' time that the host gave to others
_LEAST_TICKS = 100  # of all cores; of fewer a single one stolen would be too large a share
_STEADY = 0.1  # three calls in a row within this share of one another
_IN_A_ROW = 3

Ask = Callable[[Sequence[Any]], Sequence[bool]]  # requests -> which were answered
Clock = Callable[[], float]


# --- turns ----------------------------------------------------------------------------------------


def turns(names: Sequence[str], *, blocks: int, seed: int) -> list[list[str]]:
    """Return the order of each block: every configuration once, at random, then the other way.

    A B C, C B A: over two blocks each has the same mean place, so that a machine that slows down
    steadily slows all alike.

    Args:
        names: of the configurations, different ones.
        blocks: an even number, at least 2.
        seed: of the orders.
    """
    if len(set(names)) != len(names) or not names:
        raise ParameterError(message("configurations must have names of their own", got=names))
    if blocks < 2 or blocks % 2:
        raise ParameterError(message("blocks must be an even number of at least 2", got=blocks))
    rng = np.random.default_rng(seed)
    order = []
    for _ in range(blocks // 2):
        one = [names[at] for at in rng.permutation(len(names))]
        order += [one, one[::-1]]
    return order


# --- load -----------------------------------------------------------------------------------------


def closed_loop(
    ask: Ask,
    requests: Sequence[Any],
    *,
    batch_size: int,
    number: int = 0,
    clock: Clock = time.perf_counter,
) -> Block:
    """Send each batch when the one before is answered: what the service can do at most.

    All requests of a batch wait for the whole batch.

    Args:
        ask: gives a batch to the service, and tells of each request whether it was answered.
        requests: at least one.
        batch_size: requests at a time; the last batch may be smaller.
        number: of the block.
        clock: in seconds.
    Raises: whatever ``ask`` raises; ValueError if it does not tell of every request.
    """
    _refuse_no(requests, batch_size)
    latencies: list[float] = []
    begun = clock()
    for first in range(0, len(requests), batch_size):
        some = requests[first : first + batch_size]
        sent = clock()
        answered = ask(some)
        took = clock() - sent
        latencies += [took if good else math.inf for _, good in zip(some, answered, strict=True)]
    return Block(number, tuple(latencies), clock() - begun)


def open_loop(
    ask: Ask,
    requests: Sequence[Any],
    *,
    rate: float,
    batch_size: int,
    seed: int,
    number: int = 0,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Block:
    """Let requests arrive as they like, and answer those that wait: latency under load.

    Arrivals are a Poisson process; the service takes what waits, up to a batch, as soon as it is
    free. Latency counts from the time a request was to arrive, so that a service that cannot keep
    up is not excused ("coordinated omission", Tene 2013).

    Args:
        ask: as of `closed_loop`.
        requests: at least one, in the order in which they arrive.
        rate: arrivals per second, on average.
        batch_size: requests at a time, at most.
        seed: of the arrivals.
        number: of the block.
        deadline_s: an answer that took longer did not come.
        clock: in seconds.
        sleep: waits for some seconds.
    Raises: as `closed_loop`.
    """
    _refuse_no(requests, batch_size)
    if not 0 < rate < math.inf:
        raise ParameterError(message("rate must be above 0 and finite", got=rate))
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=len(requests))
    begun = clock()
    due = begun + np.cumsum(gaps)
    latencies: list[float] = []
    while len(latencies) < len(requests):
        first = len(latencies)
        if (wait := float(due[first]) - clock()) > 0:
            sleep(wait)
        arrived = int(np.searchsorted(due, clock(), side="right"))
        last = min(max(first + 1, arrived), first + batch_size)
        answered = ask(requests[first:last])
        done = clock()
        for at, good in zip(range(first, last), answered, strict=True):
            took = done - float(due[at])
            latencies.append(took if good and took <= deadline_s else math.inf)
    return Block(number, tuple(latencies), clock() - float(due[0]))


@dataclass(frozen=True)
class WarmUp:
    """What each call took, and whether the last three took about the same."""

    took_s: tuple[float, ...]
    steady: bool


def warm_up(call: Callable[[], object], *, most: int, clock: Clock = time.perf_counter) -> WarmUp:
    """Call until three calls in a row took about the same, or often enough.

    Args:
        call: what is to be warm.
        most: calls, at least 3.
        clock: in seconds.
    """
    if most < _IN_A_ROW:
        raise ParameterError(message(f"most must be at least {_IN_A_ROW}", got=most))
    took: list[float] = []
    steady = False
    while not steady and len(took) < most:
        begun = clock()
        call()
        took.append(clock() - begun)
        last = took[-_IN_A_ROW:]
        steady = len(last) == _IN_A_ROW and max(last) <= (1 + _STEADY) * min(last)
    return WarmUp(tuple(took), steady)


def _refuse_no(requests: Sequence[Any], batch_size: int) -> None:
    if not requests:
        raise ParameterError(message("there must be a request to time", got=len(requests)))
    if batch_size < 1:
        raise ParameterError(message("batch_size must be at least 1", got=batch_size))


# --- what disturbs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """What the machine had counted when it was looked at; None where the system does not tell.

    Attributes:
        at_s: on the clock.
        stalled_s: for how long some process had to wait for a core (``/proc/pressure/cpu``).
        stolen: ticks that the host of a virtual machine gave to others (``/proc/stat``).
        ticks: of all cores.
    """

    at_s: float
    stalled_s: float | None
    stolen: int | None
    ticks: int | None


def look(proc: Path = Path("/proc"), clock: Clock = time.perf_counter) -> Moment:
    """Look at the machine: before a block and after it.

    Args:
        proc: where the system tells.
        clock: in seconds.
    """
    stolen, ticks = _ticks(proc)
    return Moment(clock(), _stalled_s(proc), stolen, ticks)


def disturbance(before: Moment, after: Moment) -> str:
    """Say why what was timed between two moments cannot be trusted; empty if nothing was seen."""
    reasons = []
    seconds = after.at_s - before.at_s
    if None not in (before.stalled_s, after.stalled_s) and seconds > 0:
        stalled = (after.stalled_s - before.stalled_s) / seconds
        if stalled > _STALLED:
            reasons.append(f"waited for a core {stalled:.0%} of the time")
    if None not in (before.ticks, after.ticks) and after.ticks - before.ticks >= _LEAST_TICKS:
        stolen = (after.stolen - before.stolen) / (after.ticks - before.ticks)
        if stolen > _STOLEN:
            reasons.append(f"the host took {stolen:.0%} of the cores' time")
    return ", ".join(reasons)


def _stalled_s(proc: Path) -> float | None:
    """Return for how long, in all, some process waited for a core."""
    try:
        some = (proc / "pressure" / "cpu").read_text("ascii").splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _ticks(proc: Path) -> tuple[int, int] | tuple[None, None]:
    """Return the cores' stolen time and all their time, in ticks."""
    try:
        words = (proc / "stat").read_text("ascii").splitlines()[0].split()
        # user nice system idle iowait irq softirq steal; what follows is part of user and nice.
        counted = [int(word) for word in words[1:9]]
        return (counted[7], sum(counted))
    except (OSError, ValueError, IndexError):
        return (None, None)


# --- who is faster --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How a candidate's latency compares with the baseline's.

    Attributes:
        ratio: candidate over baseline; 0.8 takes a fifth less time.
        floor: least share by which two can be told apart, as `lab.stats.noise_floor` has it.
        blocks: that both were measured in undisturbed, with an answer to most requests.
        failed: of the baseline and of the candidate, undisturbed blocks in which most requests had
            no answer.
        verdict: faster or slower only if the interval leaves out 1 and the ratio is farther from it
            than the floor; who failed in a block is not faster.
        needed: blocks that would do for an insufficient verdict; None if more of them would not.
    """

    ratio: Interval
    floor: float
    blocks: int
    failed: tuple[int, int]
    verdict: Literal["faster", "slower", "insufficient"]
    needed: int | None = None


def compare(
    baseline: Sequence[Block], candidate: Sequence[Block], *, floor: float, seed: int
) -> Comparison:
    """Compare median latencies block by block.

    Args:
        baseline: its blocks; of a number that was measured again the undisturbed one counts.
        candidate: likewise.
        floor: of the same study.
        seed: of the bootstrap.
    Returns: insufficient with fewer than 10 blocks, whatever they say.
    """
    before, after = _medians(baseline), _medians(candidate)
    failed = (sum(map(math.isinf, before.values())), sum(map(math.isinf, after.values())))
    both = sorted(before.keys() & after.keys())
    sound = [one for one in both if math.isfinite(before[one]) and math.isfinite(after[one])]
    ratio = Interval(math.nan, 0.0, math.inf)
    if sound:
        ratio = block_ratio(
            [before[one] for one in sound], [after[one] for one in sound], seed=seed
        )
    verdict: Literal["faster", "slower", "insufficient"] = "insufficient"
    needed = None
    if len(both) < LEAST_BLOCKS:
        needed = LEAST_BLOCKS
    elif len(sound) >= LEAST_BLOCKS:
        if ratio.high < 1 and ratio.value < 1 / (1 + floor) and not failed[1]:
            verdict = "faster"
        elif ratio.low > 1 and ratio.value > 1 + floor and not failed[0]:
            verdict = "slower"
        elif not any(failed):
            needed = _needed(ratio, floor, len(sound))
    return Comparison(ratio, floor, len(sound), failed, verdict, needed)


def floor_of(first: Sequence[Block], again: Sequence[Block], *, seed: int) -> float:
    """Return the noise floor from one configuration that took part as if it were two.

    Infinite with fewer than 10 blocks, or if it failed in one: then nothing can be told apart.
    """
    before, after = _medians(first), _medians(again)
    both = sorted(before.keys() & after.keys())
    if len(both) < LEAST_BLOCKS or not all(map(math.isfinite, [*before.values(), *after.values()])):
        return math.inf
    return noise_floor([before[one] for one in both], [after[one] for one in both], seed=seed)


def _medians(blocks: Sequence[Block]) -> dict[int, float]:
    """Return the median latency of undisturbed blocks by number; infinite where most failed."""
    return {
        block.number: block.median_s
        for block in blocks
        if not block.disturbed and block.latencies_s
    }


def _needed(ratio: Interval, floor: float, blocks: int) -> int | None:
    """Return the blocks after which the interval would leave out 1, if the ratio stays: even.

    None if the ratio is within the floor: then more blocks of the kind do not help.
    """
    gain = abs(math.log(ratio.value))
    if gain <= math.log1p(floor):
        return None
    half = (math.log(ratio.high) - math.log(ratio.low)) / 2
    return 2 * math.ceil(max(blocks + 1, blocks * (half / gain) ** 2) / 2)
