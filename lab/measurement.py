"""Timing requests so that a difference between configurations is one, and not the machine's mood.

Owns the order in which configurations take turns, the two kinds of load, the warm-up, what disturbs
a block, and who may be called faster. Knows nothing of models, of what a request is, or of how
results are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.errors import ParameterError, message
from lab.stats import Interval, block_ratio, noise_floor
from lab.trials import Block

LEAST_BLOCKS = 10
_STALLED = 0.05  # share of a block in which somebody waited for a core
_STOLEN = 0.02  # share of the cores' time that the host gave to others
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


@dataclass(frozen=True)
class Load:
    """What came of some requests: a latency of each, in the order they were to be sent.

    Attributes:
        latencies_s: from the time a request was to be sent; infinite for one without an answer.
        seconds: from the first request to the last answer.
    """

    latencies_s: tuple[float, ...]
    seconds: float

    @property
    def throughput(self) -> float:
        """Requests that were answered, per second."""
        answered = sum(math.isfinite(one) for one in self.latencies_s)
        return answered / self.seconds if self.seconds > 0 else math.nan


def closed_loop(
    ask: Ask, requests: Sequence[Any], *, batch_size: int, clock: Clock = time.perf_counter
) -> Load:
    """Send each batch when the one before is answered: what the service can do at most.

    All requests of a batch wait for the whole batch.

    Args:
        ask: gives a batch to the service, and tells of each request whether it was answered.
        requests: at least one.
        batch_size: requests at a time; the last batch may be smaller.
        clock: in seconds.
    Raises: whatever ``ask`` raises.
    """
    _refuse_no(requests, batch_size)
    latencies: list[float] = []
    begun = clock()
    for first in range(0, len(requests), batch_size):
        some = requests[first : first + batch_size]
        sent = clock()
        answered = ask(some)
        took = clock() - sent
        latencies += [took if good else math.inf for good in answered]
    return Load(tuple(latencies), clock() - begun)


def open_loop(
    ask: Ask,
    requests: Sequence[Any],
    *,
    rate: float,
    batch_size: int,
    seed: int,
    deadline_s: float = math.inf,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Load:
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
        deadline_s: an answer that took longer did not come.
        clock: in seconds.
        sleep: waits for some seconds.
    Raises: whatever ``ask`` raises.
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
    return Load(tuple(latencies), clock() - float(due[0]))


def warm_up(
    call: Callable[[], object], *, most: int, clock: Clock = time.perf_counter
) -> tuple[float, ...]:
    """Call until three calls in a row took about the same, or often enough; return what each took.

    Args:
        call: what is to be warm.
        most: calls, at least 3.
        clock: in seconds.
    """
    if most < _IN_A_ROW:
        raise ParameterError(message(f"most must be at least {_IN_A_ROW}", got=most))
    took: list[float] = []
    while len(took) < most:
        begun = clock()
        call()
        took.append(clock() - begun)
        last = took[-_IN_A_ROW:]
        if len(last) == _IN_A_ROW and max(last) <= (1 + _STEADY) * min(last):
            break
    return tuple(took)


def _refuse_no(requests: Sequence[Any], batch_size: int) -> None:
    if not requests:
        raise ParameterError(message("there must be a request to time", got=len(requests)))
    if batch_size < 1:
        raise ParameterError(message("batch_size must be at least 1", got=batch_size))


# --- what disturbs --------------------------------------------------------------------------------


@dataclass
class Watch:
    """What went on while something was timed; filled when it is over.

    Attributes:
        stalled: share of the time in which somebody waited for a core; NaN if the system does not
            tell (Linux: ``/proc/pressure/cpu``).
        stolen: share of the cores' time that the host of a virtual machine gave to others; NaN if
            the system does not tell (Linux: ``/proc/stat``).
    """

    stalled: float = math.nan
    stolen: float = math.nan
    reason: str = field(default="")

    def judge(self) -> None:
        """Say in ``reason`` why the block cannot be trusted; empty if nothing speaks against it."""
        reasons = []
        if self.stalled > _STALLED:
            reasons.append(f"waited for a core {self.stalled:.0%} of the time")
        if self.stolen > _STOLEN:
            reasons.append(f"the host took {self.stolen:.0%} of the cores' time")
        self.reason = ", ".join(reasons)


@contextmanager
def watch(proc: Path = Path("/proc"), clock: Clock = time.perf_counter) -> Iterator[Watch]:
    """Look at the machine before and after, and give what went on between.

    Args:
        proc: where the system tells.
        clock: in seconds.
    """
    seen = Watch()
    begun, stalled, ticks = clock(), _stalled_s(proc), _ticks(proc)
    yield seen
    seconds = clock() - begun
    if stalled is not None and (after := _stalled_s(proc)) is not None and seconds > 0:
        seen.stalled = (after - stalled) / seconds
    if ticks is not None and (now := _ticks(proc)) is not None and now[1] > ticks[1]:
        seen.stolen = (now[0] - ticks[0]) / (now[1] - ticks[1])
    seen.judge()


def _stalled_s(proc: Path) -> float | None:
    """Return for how long, in all, some process waited for a core."""
    try:
        some = (proc / "pressure" / "cpu").read_text("ascii").splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _ticks(proc: Path) -> tuple[int, int] | None:
    """Return the cores' stolen time and all their time, in ticks."""
    try:
        words = (proc / "stat").read_text("ascii").splitlines()[0].split()
        # user nice system idle iowait irq softirq steal; what follows is part of user and nice.
        counted = [int(word) for word in words[1:9]]
        return (counted[7], sum(counted))
    except (OSError, ValueError, IndexError):
        return None


# --- who is faster --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """How a candidate's latency compares with the baseline's.

    Attributes:
        ratio: candidate over baseline; 0.8 takes a fifth less time.
        floor: least share by which two can be told apart, as `lab.stats.noise_floor` has it.
        blocks: that both were measured in undisturbed.
        verdict: faster or slower only if the interval leaves out 1 and the ratio is farther from it
            than the floor.
        needed: blocks that would do for an insufficient verdict; None if no number can be told.
    """

    ratio: Interval
    floor: float
    blocks: int
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
    both = sorted(before.keys() & after.keys())
    if not both:
        nothing = Interval(math.nan, 0.0, math.inf)
        return Comparison(nothing, floor, 0, "insufficient", LEAST_BLOCKS)
    first, second = ([one[number] for number in both] for one in (before, after))
    ratio = block_ratio(first, second, seed=seed)
    if len(both) < LEAST_BLOCKS:
        return Comparison(ratio, floor, len(both), "insufficient", LEAST_BLOCKS)
    if ratio.high < 1 and ratio.value < 1 / (1 + floor):
        return Comparison(ratio, floor, len(both), "faster")
    if ratio.low > 1 and ratio.value > 1 + floor:
        return Comparison(ratio, floor, len(both), "slower")
    return Comparison(ratio, floor, len(both), "insufficient", _needed(ratio, floor, len(both)))


def floor_of(first: Sequence[Block], again: Sequence[Block], *, seed: int) -> float:
    """Return the noise floor from one configuration that took part as if it were two."""
    before, after = _medians(first), _medians(again)
    both = sorted(before.keys() & after.keys())
    if not both:
        return math.inf
    return noise_floor([before[one] for one in both], [after[one] for one in both], seed=seed)


def _medians(blocks: Sequence[Block]) -> dict[int, float]:
    """Return the median latency of each undisturbed block by its number; not of those that fail."""
    found = {}
    for block in blocks:
        if block.disturbed or not block.latencies_s:
            continue
        median = float(np.quantile(block.latencies_s, 0.5, method="inverted_cdf"))
        if math.isfinite(median):
            found[block.number] = median
    return found


def _needed(ratio: Interval, floor: float, blocks: int) -> int | None:
    """Return the blocks after which the interval would leave out 1, if the ratio stays.

    None if the ratio is within the floor: then more blocks of the kind do not help.
    """
    gain = abs(math.log(ratio.value))
    if gain <= math.log1p(floor):
        return None
    half = (math.log(ratio.high) - math.log(ratio.low)) / 2
    return max(blocks + 1, math.ceil(blocks * (half / gain) ** 2))
