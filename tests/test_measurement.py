from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from lab.errors import ParameterError
from lab.measurement import (
    LEAST_BLOCKS,
    closed_loop,
    compare,
    disturbance,
    floor_of,
    look,
    open_loop,
    turns,
    warm_up,
)
from lab.trials import Block


class Time:
    """A clock that goes only when somebody works or sleeps."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


# --- turns ----------------------------------------------------------------------------------------


def test_two_blocks_are_each_others_mirror_so_that_a_drift_cancels():
    names = ["a", "b", "c", "d"]
    order = turns(names, blocks=10, seed=0)
    assert len(order) == 10
    assert all(sorted(block) == names for block in order)
    assert all(there == back[::-1] for there, back in zip(order[::2], order[1::2], strict=True))
    places = {name: np.mean([block.index(name) for block in order]) for name in names}
    assert set(places.values()) == {1.5}


def test_the_order_is_random_and_that_of_its_seed():
    names = list("abcdef")
    assert turns(names, blocks=10, seed=1) == turns(names, blocks=10, seed=1)
    assert turns(names, blocks=10, seed=1) != turns(names, blocks=10, seed=2)
    assert len({tuple(block) for block in turns(names, blocks=10, seed=1)}) > 2


@pytest.mark.parametrize("blocks", [0, 1, 3, -2])
def test_an_odd_number_of_blocks_is_refused(blocks):
    with pytest.raises(ParameterError, match="even number"):
        turns(["a"], blocks=blocks, seed=0)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_configurations_have_names_of_their_own(names):
    with pytest.raises(ParameterError, match="names of their own"):
        turns(names, blocks=2, seed=0)


# --- load -----------------------------------------------------------------------------------------


def test_in_a_closed_loop_a_request_waits_for_its_batch():
    clock, seen = Time(), []

    def ask(some):
        seen.append(list(some))
        clock.pass_(0.5 * len(some))
        return [True] * len(some)

    load = closed_loop(ask, list("abcde"), batch_size=2, clock=clock)
    assert seen == [["a", "b"], ["c", "d"], ["e"]]
    assert load.latencies_s == (1, 1, 1, 1, 0.5)
    assert load.seconds == 2.5
    assert load.throughput == 2


def test_a_request_without_an_answer_took_forever_and_does_not_count():
    clock = Time()

    def ask(some):
        clock.pass_(1)
        return [one != "b" for one in some]

    load = closed_loop(ask, list("abc"), batch_size=1, clock=clock)
    assert load.latencies_s == (1, math.inf, 1)
    assert load.throughput == pytest.approx(2 / 3)


def test_a_service_that_keeps_up_is_not_charged_for_the_time_between_requests():
    clock = Time()

    def ask(some):
        clock.pass_(0.001)
        return [True] * len(some)

    load = open_loop(
        ask, range(200), rate=1.0, batch_size=4, seed=0, clock=clock, sleep=clock.pass_
    )
    assert np.median(load.latencies_s) == pytest.approx(0.001)
    assert max(load.latencies_s) < 0.01
    assert load.throughput == pytest.approx(1.0, rel=0.2)


def test_a_service_that_cannot_keep_up_is_charged_for_the_queue():
    clock, batches = Time(), []

    def ask(some):
        batches.append(len(some))
        clock.pass_(1.0)
        return [True] * len(some)

    load = open_loop(
        ask, range(100), rate=10.0, batch_size=2, seed=0, clock=clock, sleep=clock.pass_
    )
    # Two a second are answered while ten a second arrive: the last waits for some forty seconds.
    assert set(batches[1:-1]) == {2}
    assert load.latencies_s[-1] == pytest.approx(40, abs=5)
    assert load.throughput == pytest.approx(2, rel=0.1)
    assert all(one >= 1 for one in load.latencies_s)


def test_a_request_is_never_answered_before_it_arrives():
    clock, now = Time(), []

    def ask(some):
        now.extend((one, clock()) for one in some)
        clock.pass_(0.3)
        return [True] * len(some)

    open_loop(ask, range(50), rate=5.0, batch_size=8, seed=3, clock=clock, sleep=clock.pass_)
    due = 100 + np.cumsum(np.random.default_rng(3).exponential(1 / 5, size=50))
    assert [one for one, _ in now] == list(range(50))
    assert all(when >= due[one] - 1e-9 for one, when in now)


def test_an_answer_after_the_deadline_did_not_come():
    clock = Time()

    def ask(some):
        clock.pass_(2.0)
        return [True] * len(some)

    given = {"rate": 0.01, "batch_size": 1, "seed": 0, "clock": clock, "sleep": clock.pass_}
    assert open_loop(ask, [1, 2], deadline_s=2.5, **given).throughput > 0
    assert set(open_loop(ask, [1, 2], deadline_s=1.5, **given).latencies_s) == {math.inf}


@pytest.mark.parametrize("told", [[True], [True] * 4])
def test_a_service_tells_of_every_request(told):
    with pytest.raises(ValueError, match="zip"):
        closed_loop(lambda some: told, range(6), batch_size=3)
    with pytest.raises(ValueError, match="zip"):
        open_loop(lambda some: told, range(6), rate=1e9, batch_size=3, seed=0)


def test_what_the_service_raises_comes_through():
    def ask(some):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        closed_loop(ask, [1], batch_size=1)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"requests": []}, "a request to time"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"rate": math.inf}, "rate must be above 0"),
    ],
)
def test_what_cannot_be_timed_is_refused(wrong, rule):
    given = {"requests": [1], "batch_size": 1, "rate": 1.0, "seed": 0} | wrong
    requests = given.pop("requests")
    with pytest.raises(ParameterError, match=rule):
        open_loop(lambda some: [True] * len(some), requests, **given)


def test_the_warm_up_ends_when_three_calls_took_about_the_same():
    clock, lengths = Time(), iter([9.0, 3.0, 1.0, 1.02, 1.05, 1.0])
    warm = warm_up(lambda: clock.pass_(next(lengths)), most=20, clock=clock)
    assert warm.took_s == pytest.approx((9, 3, 1, 1.02, 1.05))
    assert warm.steady


def test_a_service_that_never_settles_is_called_no_more_than_told():
    clock, lengths = Time(), iter(2.0**at for at in range(50))
    warm = warm_up(lambda: clock.pass_(next(lengths)), most=7, clock=clock)
    assert len(warm.took_s) == 7
    assert not warm.steady
    with pytest.raises(ParameterError, match="at least 3"):
        warm_up(lambda: None, most=2)


# --- what disturbs --------------------------------------------------------------------------------


def machine(folder, *, stalled_us=0, steal=0, work=0):
    (folder / "pressure").mkdir(exist_ok=True)
    (folder / "pressure" / "cpu").write_text(
        f"some avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_us}\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    (folder / "stat").write_text(f"cpu  {work} 0 0 1000 0 0 0 {steal} 7 7\ncpu0 1 2 3 4\n")
    return folder


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({"stalled_us": 400_000, "work": 1000}, ""),
        ({"stalled_us": 1_200_000, "work": 1000}, "waited for a core 12% of the time"),
        ({"steal": 30, "work": 970}, "the host took 3% of the cores' time"),
        ({"steal": 10, "work": 990}, ""),
        (
            {"stalled_us": 5_000_000, "steal": 500, "work": 500},
            "waited for a core 50% of the time, the host took 50% of the cores' time",
        ),
    ],
)
def test_a_block_is_told_why_it_cannot_be_trusted(tmp_path, after, reason):
    clock = Time()
    before = look(machine(tmp_path), clock)
    clock.pass_(10)
    assert disturbance(before, look(machine(tmp_path, **after), clock)) == reason


def test_one_tick_of_a_short_block_is_no_disturbance(tmp_path):
    clock = Time()
    before = look(machine(tmp_path), clock)
    clock.pass_(0.1)
    assert disturbance(before, look(machine(tmp_path, steal=1, work=19), clock)) == ""


@pytest.mark.parametrize("content", [None, "", "nonsense\n"])
def test_a_system_that_does_not_tell_disturbs_nothing(tmp_path, content):
    if content is not None:
        machine(tmp_path)
        (tmp_path / "pressure" / "cpu").write_text(content)
        (tmp_path / "stat").write_text(content)
    clock = Time()
    before = look(tmp_path, clock)
    clock.pass_(10)
    after = look(tmp_path, clock)
    assert (after.stalled_s, after.stolen, after.ticks) == (None, None, None)
    assert disturbance(before, after) == ""


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
def test_this_machine_can_be_watched():
    before, after = look(), look()
    assert before.ticks is not None
    assert 0 <= before.stolen <= after.stolen <= after.ticks
    assert before.ticks <= after.ticks
    assert before.at_s < after.at_s


# --- who is faster --------------------------------------------------------------------------------


def study(rng, gains, *, blocks=10, requests=15):
    """Return the blocks of several configurations on a machine that has its moods."""
    moods = rng.lognormal(0, 0.2, blocks)
    return [
        [
            Block(at, tuple(mood * gain * rng.lognormal(0, 0.25, requests)), 1.0)
            for at, mood in enumerate(moods)
        ]
        for gain in gains
    ]


def test_a_candidate_that_takes_half_the_time_is_faster_and_the_other_way_round():
    once, again, half = study(np.random.default_rng(0), [1, 1, 0.5])
    floor = floor_of(once, again, seed=0)
    there = compare(once, half, floor=floor, seed=0)
    back = compare(half, once, floor=floor, seed=0)
    assert (there.verdict, back.verdict) == ("faster", "slower")
    assert there.ratio.low < 0.5 < there.ratio.high
    assert there.blocks == 10
    assert there.needed is None


def test_equals_are_told_apart_in_at_most_one_of_twenty_studies():
    with_floor = without = 0
    for seed in range(200):
        rng = np.random.default_rng([1, seed])
        once, again, same = study(rng, [1, 1, 1])
        floor = floor_of(once, again, seed=seed)
        with_floor += compare(once, same, floor=floor, seed=seed).verdict != "insufficient"
        without += compare(once, same, floor=0.0, seed=seed).verdict != "insufficient"
    assert with_floor <= 10
    assert with_floor < without  # the interval alone is not what keeps it there


def test_a_gain_within_the_floor_is_not_claimed_and_more_blocks_would_not_help():
    once, less = study(np.random.default_rng(2), [1, 0.9], blocks=200)
    assert compare(once, less, floor=0.0, seed=0).verdict == "faster"
    within = compare(once, less, floor=0.5, seed=0)
    assert within.verdict == "insufficient"
    assert within.needed is None


def test_few_blocks_are_insufficient_whatever_they_say():
    once, half = study(np.random.default_rng(3), [1, 0.1], blocks=8)
    found = compare(once, half, floor=0.0, seed=0)
    assert found.verdict == "insufficient"
    assert found.needed == 10
    assert found.ratio.value == pytest.approx(0.1, rel=0.2)


def test_the_blocks_that_are_needed_would_do():
    told = enough = 0
    for seed in range(40):
        rng = np.random.default_rng([6, seed])
        found = compare(*study(rng, [1, 0.94]), floor=0.0, seed=0)
        if found.verdict == "insufficient" and found.ratio.value < 0.97:
            told += 1
            assert found.needed % 2 == 0
            assert found.needed > 10
            gain = found.ratio.value
            more = compare(*study(rng, [1, gain], blocks=found.needed), floor=0.0, seed=0)
            enough += more.verdict == "faster"
    assert told >= 10
    assert enough >= told / 3  # at the number itself about every other study of this size would


def test_disturbed_blocks_do_not_count_and_their_repetition_does():
    once, half = study(np.random.default_rng(5), [1, 0.5], blocks=11)
    spoilt = [Block(3, (99.0,) * 15, 1.0, disturbed="somebody compiled"), *half]
    assert compare(once, spoilt, floor=0.0, seed=0) == compare(once, half, floor=0.0, seed=0)
    without = [block for block in spoilt if block.disturbed or block.number != 3]
    assert compare(once, without, floor=0.0, seed=0).blocks == 10


def test_who_fails_in_a_block_is_not_faster():
    once, half = study(np.random.default_rng(5), [1, 0.5], blocks=20)
    failing = [*half[:10], *(Block(at, (math.inf, math.inf, 0.1), 1.0) for at in range(10, 20))]
    found = compare(once, failing, floor=0.0, seed=0)
    assert (found.blocks, found.failed, found.verdict) == (10, (0, 10), "insufficient")
    assert found.needed is None  # more of the kind would not help
    assert found.ratio.value == pytest.approx(0.5, rel=0.2)
    assert compare(failing, once, floor=0.0, seed=0).verdict == "insufficient"
    # Half as fast and failing is slower nevertheless.
    assert compare(half, [*once[:19], failing[-1]], floor=0.0, seed=0).verdict == "slower"


def test_a_candidate_that_never_answers_is_told_apart_from_one_that_was_not_measured():
    once, _ = study(np.random.default_rng(5), [1, 0.5], blocks=12)
    failed = [Block(at, (math.inf,), 1.0) for at in range(12)]
    found = compare(once, failed, floor=0.0, seed=0)
    assert (found.blocks, found.failed, found.needed) == (0, (0, 12), None)
    assert math.isnan(found.ratio.value)
    nothing = compare(once, [Block(3, (), 0.0)], floor=0.0, seed=0)
    assert (nothing.blocks, nothing.failed, nothing.needed) == (0, (0, 0), LEAST_BLOCKS)


def test_few_blocks_and_failures_leave_no_floor():
    once, again = study(np.random.default_rng(5), [1, 1], blocks=10)
    assert floor_of(once, again, seed=0) < 1
    assert floor_of(once[:9], again, seed=0) == math.inf
    assert floor_of([*once[:9], Block(9, (math.inf,), 1.0)], again, seed=0) == math.inf
