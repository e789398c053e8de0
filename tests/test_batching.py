"""Tests of lab.batching: sweeps made by hand, small enough to be computed on paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import beta, linregress

from lab import batching, comparisons
from lab.batching import Rule
from lab.errors import ParameterError, ShapeError
from lab.params import Slo
from lab.slo import Limit
from lab.trials import Block, Quality, Setting, Trial, TrialResult, digest, key

BASE = Trial(tenant="medical", kind="text", suite="demo", items=64, seed=0, turns=2)
SETTING = Setting(data="d", models={"vlm": "m"}, code="c", hardware="h", partner=digest(BASE))
UNDER = Limit.parse("< 0.4")
OVER = Limit.parse("> 100")
LIMITS = {
    "latency_p95": "< 0.4",
    "throughput": "> 100",
    "error_rate": "< 0.001",
    "consistency": "> 0.9",
    "isolation": ">= 1",
    "quality_delta": ">= -0.02",
}


def blocks(size, latencies, *, batches=1):
    """Return a block for each latency, of so many whole batches back to back."""
    return tuple(
        Block(number, (latency,) * (size * batches), latency * batches)
        for number, latency in enumerate(latencies)
    )


def result(size, latencies=(), *, alone=(), status="ok", base=BASE, **more):
    trial, setting = replace(base, batch_size=size), replace(SETTING, partner=digest(base))
    given = {
        "blocks": blocks(size, latencies),
        "baseline": blocks(1, alone or [0.1] * len(latencies)),
        "problem": "" if status == "ok" else "too much",
    }
    return TrialResult(
        key=key(trial, setting),
        trial=trial,
        setting=setting,
        status=status,
        finished="2026-11-25T03:00:00Z",
        **{**given, **more},
    )


def sweep(latency_of, sizes, *, turns=60):
    """Return results in which each block of a size takes the same time."""
    return [result(size, [latency_of[size]] * turns) for size in sizes]


def points(results, latency=UNDER):
    limits = Slo(**{**LIMITS, "latency_p95": str(latency)})
    return batching.points(comparisons.compare(results, limits=limits, seed=0))


# Powers of two: 10, 18, 31, 42, 47 requests/s.
LATENCIES = {1: 0.10, 2: 0.11, 4: 0.13, 8: 0.19, 16: 0.34}


class TestCurve:
    def test_a_point_by_hand(self):
        one, two = points([result(1, [0.1, 0.2]), result(2, [0.2, 0.2])])
        assert (one.batch_size, one.batches) == (1, 2)
        assert (two.batches, two.needed) == (2, 59)
        assert one.throughput.value == pytest.approx(math.sqrt(10 * 5))  # geometric
        assert two.throughput.value == pytest.approx(10)
        assert one.latency_p50.value == 0.1
        assert one.latency_p95.value == 0.2

    def test_a_tail_needs_59_batches_however_many_requests_they_hold(self):
        short, enough = (points([result(1, [0.1] * n), result(16, [0.3] * n)])[1] for n in (58, 59))
        assert (short.verdict, short.needed >= 59) == ("insufficient", True)
        assert (enough.verdict, enough.needed) == ("pass", None)

    def test_few_batches_are_enough_to_see_that_a_limit_is_missed(self):
        assert points([result(1, [0.1] * 10), result(64, [0.9] * 10)])[1].verdict == "fail"

    def test_disturbed_blocks_tell_nothing(self):
        mixed = (
            Block(0, (9.0,), 9.0, disturbed="waited"),
            Block(0, (0.1,), 0.1),
            Block(1, (0.1,), 0.1),
        )
        assert points([result(1, blocks=mixed)])[0].latency_p95.value == 0.1
        loud = (Block(0, (9.0,), 9.0, disturbed="waited"),)
        (point,) = points([result(1, blocks=loud)])
        assert (point.batches, point.verdict, point.needed) == (0, "insufficient", 59)
        assert math.isnan(point.throughput.value)

    def test_answers_are_held_against_those_of_batch_1(self):
        def quality(*scores):
            return tuple(
                Quality(f"faq:{at}", f"g{at}", "ja", {"token_f1": (score, 1.0)})
                for at, score in enumerate(scores)
            )

        one, two, four = points(
            [
                result(1, [0.1], answers="sha256:a", quality=quality(1, 1, 0, 0)),
                result(2, [0.1], answers="sha256:a", quality=quality(1, 1, 0, 0)),
                result(4, [0.1], answers="sha256:b", quality=quality(1, 0.5, 0, 0)),
            ]
        )
        assert (one.same_answers, two.same_answers, four.same_answers) == (True, True, False)
        assert two.changed.value == 0
        assert four.changed.value == 0.25
        assert four.changed.high == pytest.approx(beta.ppf(0.975, 2, 3))
        assert four.items == 4
        unknown = points([result(1, [0.1]), result(2, [0.1])])[1]
        assert unknown.same_answers is None
        assert math.isnan(unknown.changed.value)

    def test_whoever_failed_is_a_row(self):
        out = result(64, status="out_of_memory", peak_bytes=900)
        frame = batching.curve(points([result(1, [0.1]), out]))
        assert frame["status"].tolist() == ["ok", "out_of_memory"]
        assert frame["within the limit"].tolist() == ["insufficient", "fail"]
        assert frame["quality holds"].tolist() == ["pass", "fail"]
        assert frame["peak_bytes"].tolist()[1] == 900

    def test_what_was_asked_in_smaller_batches_tells_nothing_of_memory_and_answers(self):
        few = {"answers": "sha256:a", "peak_bytes": 5}
        one, two = points([result(1, [0.1], **few), result(128, [0.1], **few)])
        assert (one.peak_bytes, one.same_answers) == (5, True)
        assert (two.peak_bytes, two.same_answers, two.items) == (None, None, 0)

    @pytest.mark.parametrize("sizes", [(2, 4), (1, 2, 2), (2, 1)])
    def test_what_is_no_sweep_is_refused(self, sizes):
        with pytest.raises(ParameterError, match="batch size 1 as its baseline"):
            points([result(size, [0.1]) for size in sizes])


class TestBest:
    def test_the_best_within_the_limit_by_hand(self):
        results = sweep(LATENCIES | {32: 0.6}, (1, 2, 4, 8, 16, 32))
        choice = batching.choose(results, points(results), latency=UNDER, seed=0)
        assert (choice.verdict, choice.largest) == ("pass", 16)
        assert (choice.best.batch_size, choice.best.rivals) == (16, ())

    def test_the_largest_is_not_always_the_best(self):
        results = sweep(LATENCIES | {16: 0.39}, (1, 8, 16))  # 41 requests/s against 42
        choice = batching.choose(results, points(results), latency=UNDER, seed=0)
        assert (choice.largest, choice.best.batch_size) == (16, 8)

    def test_too_few_batches_are_told_and_still_tell_what_is_likely(self):
        results = sweep(LATENCIES | {32: 0.6}, (1, 8, 32), turns=10)
        choice = batching.choose(results, points(results), latency=UNDER, seed=0)
        assert (choice.verdict, choice.largest) == ("insufficient", None)
        assert choice.best.batch_size == 8
        assert (choice.undecided, choice.needed) == ((1, 8), 59)

    def test_no_size_may_be_within_the_limit(self):
        results = sweep(LATENCIES, (1, 8), turns=100)
        strict = Limit.parse("< 0.01")
        choice = batching.choose(results, points(results, strict), latency=strict, seed=0)
        assert (choice.verdict, choice.best, choice.largest) == ("fail", None, None)

    def test_a_size_at_which_answers_are_worse_is_not_eligible(self):
        def answers(score):
            return tuple(
                Quality(f"faq:{at}", f"g{at}", "zh", {"token_f1": (score, 1.0)}) for at in range(40)
            )

        results = [
            result(1, [0.1] * 60, quality=answers(1.0)),
            result(8, [0.19] * 60, quality=answers(0.5)),
        ]
        choice = batching.choose(results, points(results), latency=UNDER, seed=0)
        assert (choice.largest, choice.best.batch_size) == (1, 1)

    def test_equals_are_rivals(self):
        noisy = [0.19, 0.21] * 5
        results = [result(1, [0.1] * 10), result(8, noisy), result(9, [x * 9 / 8 for x in noisy])]
        best = batching.top(results, batching.throughput, seed=0)
        assert best.rivals == (min({8, 9} - {best.batch_size}),)

    def test_a_machine_twice_as_slow_in_another_study_changes_nothing(self):
        slow = replace(
            result(16, [0.6] * 10, alone=[0.2] * 10)
        )  # as fast as 0.3 s where batch 1 takes 0.1 s
        first = result(8, [0.16] * 10)
        ratio = batching.gain(first, slow, batching.throughput, seed=0)
        assert ratio.value == pytest.approx((16 / 0.3) / (8 / 0.16))

    def test_blocks_that_nobody_shares_tell_nothing(self):
        ratio = batching.gain(result(1), result(8, [0.1]), batching.throughput, seed=0)
        assert math.isnan(ratio.value)
        assert batching.top([result(1)], batching.throughput, seed=0) is None


class TestKnee:
    def test_power_is_largest_at_the_knee(self):
        # b / latency²: 100, 165, 237, 222, 138.
        results = sweep(LATENCIES, (1, 2, 4, 8, 16))
        assert batching.top(results, batching.power, seed=0).batch_size == 4

    def test_what_is_halfway_to_its_neighbours_is_worth_measuring(self):
        found = points(sweep(LATENCIES, (1, 2, 4, 8, 16)))
        assert batching.between(found, around=[4]) == [3, 6]
        assert batching.between(found, around=[1]) == []
        assert batching.between(found, around=[16]) == [12]
        assert batching.between(found, around=[8, 16]) == [6, 12]


class TestMemory:
    def test_the_frontier_lies_between_what_ran_and_what_did_not(self):
        peaks = {1: 110, 2: 119, 4: 142, 8: 180}
        results = [result(size, [0.1], peak_bytes=peak) for size, peak in peaks.items()]
        results.append(result(16, status="out_of_memory", peak_bytes=200))
        edge = batching.frontier(points(results))
        line = linregress([*peaks], [*peaks.values()])
        assert (edge.largest, edge.smallest_beyond) == (8, 16)
        assert edge.bytes_per_query.value == pytest.approx(line.slope)
        assert edge.bytes_per_query.high - line.slope == pytest.approx(4.30265 * line.stderr)

    def test_a_frontier_that_was_not_reached_is_unknown(self):
        edge = batching.frontier(points([result(1, [0.1], peak_bytes=5), result(2, [0.1])]))
        assert (edge.largest, edge.smallest_beyond) == (2, None)
        assert math.isnan(edge.bytes_per_query.value)


class TestRule:
    def test_it_adds_4_while_throughput_is_too_low(self):
        found = points(sweep({1: 0.1, 8: 0.09, 12: 0.11, 16: 0.12}, (1, 8, 12, 16)))
        replayed = batching.replay(found, enough=OVER)  # 89, then 109 requests/s
        assert (replayed.tried, replayed.ends_with) == ((8, 12), 12)

    def test_it_ends_at_16_whatever_comes(self):
        found = points(sweep({1: 0.1, 8: 0.19, 12: 0.26, 16: 0.34}, (1, 8, 12, 16)))
        replayed = batching.replay(found, enough=OVER)
        assert (replayed.tried, replayed.ends_with) == ((8, 12, 16), 16)

    def test_what_was_not_measured_is_not_made_up(self):
        replayed = batching.replay(points(sweep(LATENCIES, (1, 8, 16))), enough=OVER)
        assert (replayed.tried, replayed.ends_with, replayed.missing) == ((8,), None, (12,))

    def test_it_stays_with_what_ran(self):
        found = [result(1, [0.1]), result(8, [0.19]), result(12, status="out_of_memory")]
        replayed = batching.replay(points(found), enough=OVER)
        assert (replayed.ends_with, replayed.missing) == (8, ())
        assert replayed.why == "memory runs out at 12"
        for status in ("out_of_memory", "error"):
            nothing = points([result(1, [0.1]), result(8, status=status)])
            assert batching.replay(nothing, enough=OVER).ends_with is None
        less = points([result(1, [0.1]), result(4, status="out_of_memory")])  # 8 was never tried
        assert batching.replay(less, enough=OVER).why == "memory runs out at 4"

    def test_another_rule(self):
        assert Rule(start=1, step=3, most=8).sizes == (1, 4, 7)


class TestPadding:
    def test_by_hand(self):
        assert batching.padding([2, 4, 6, 8], 1) == 0
        assert batching.padding([2, 8, 4, 6], 2) == pytest.approx(1 - 20 / 28)
        assert batching.padding([2, 4, 6, 8], 2) == pytest.approx(1 - 20 / 24)
        assert batching.padding([5, 5, 5, 1], 3) == 0  # the last batch is smaller

    def test_orders(self):
        orders = {"characters": [50, 40, 30, 20], "sorted": [20, 30, 40, 50]}
        frame = batching.padding_by_order([2, 8, 4, 6], orders, [1, 2, 4])
        assert frame.columns.tolist() == ["batch_size", "queries", *batching.ORDERS]
        assert frame["characters"].tolist() == pytest.approx([0, 1 - 20 / 28, 1 - 20 / 32])
        assert frame["drawn"].tolist() == pytest.approx([0, 1 - 20 / 28, 1 - 20 / 32])
        assert frame["sorted"].tolist() == frame["drawn"].tolist()
        assert frame["ideal"].tolist() == pytest.approx([0, 1 - 20 / 24, 1 - 20 / 32])

    @pytest.mark.parametrize("lengths", [[], [0, 3]])
    def test_lengths_that_are_none_are_refused(self, lengths):
        with pytest.raises(ParameterError, match="lengths of at least 1 token"):
            batching.padding(lengths, 2)

    def test_sizes_that_are_none_are_refused(self):
        with pytest.raises(ParameterError, match="batch_size must be at least 1"):
            batching.padding([1], 0)
        with pytest.raises(ShapeError, match="sorted by"):
            batching.padding_by_order([1, 2], {"sorted": [1]}, [1])
