"""Tests of lab.memory on this process: what was held must be seen, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from lab import memory

MIB = 1 << 20


def test_what_was_held_at_once_is_seen_even_if_it_is_gone():
    with memory.watch() as peak:
        first = np.ones(40 * MIB, np.uint8)
        del first
        second = np.ones(64 * MIB, np.uint8)
        del second
    assert 60 * MIB < peak.taken < 90 * MIB


def test_what_was_there_before_does_not_count():
    before = np.ones(80 * MIB, np.uint8)
    with memory.watch() as peak:
        before += 1
    assert peak.taken < 20 * MIB


def test_a_stretch_that_failed_has_a_peak_too():
    def fail():
        held = np.ones(50 * MIB, np.uint8)
        raise MemoryError(held.size)

    with pytest.raises(MemoryError), memory.watch() as peak:
        fail()
    assert peak.taken > 45 * MIB


def test_a_system_that_does_not_tell_gives_no_figure(tmp_path):
    with memory.watch(proc=tmp_path / "none") as peak:
        pass
    assert peak.taken is None


def test_what_is_kept_is_less_than_the_peak():
    with memory.watch() as peak:
        gone, kept = bytearray(60 * MIB), bytearray(20 * MIB)
        gone[::4096], kept[::4096] = gone[1::4096], kept[1::4096]
        del gone
    assert 15 * MIB < peak.kept < 40 * MIB
    assert peak.taken > 75 * MIB
    assert len(kept) == 20 * MIB
