"""Tests of lab.locks: real processes that want the same device."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from types import SimpleNamespace

import pytest
import torch
from conftest import measuring

from lab import locks
from lab.errors import PathError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A temporary folder of the test's own, for it and for the processes that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_two_processes_never_have_one_device(folder):
    with measuring("cpu") as first:
        assert first.stdout.readline() == "has it\n"
        with measuring("cpu") as second:
            assert second.stdout.readline() == "waiting for another measurement on cpu\n"
            assert first.poll() is None
            first.communicate("done\n", timeout=30)
            assert second.stdout.readline() == "has it\n"
            second.communicate("done\n", timeout=30)
    assert (first.returncode, second.returncode) == (0, 0)


def test_who_is_killed_lets_go(folder):
    with measuring("cpu") as first:
        assert first.stdout.readline() == "has it\n"
        first.kill()
        first.wait(30)
    told = []
    with locks.measuring("cpu", waiting=told.append):
        assert not told


def test_who_fails_lets_go(folder):
    told = []
    with pytest.raises(OSError, match="mine"), locks.measuring("cpu", waiting=told.append):
        raise OSError("mine")
    with locks.measuring("cpu", waiting=told.append):
        assert not told


def test_nobody_gets_in_while_many_want_it(folder, tmp_path):
    """Each adds 1 to a number in a file, which without a lock would lose some."""
    count = tmp_path / "count"
    count.write_text("0")
    code = (
        "import sys, time; from pathlib import Path; from lab import locks\n"
        "count = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with locks.measuring('cpu', waiting=lambda stage: None):\n"
        "        seen = int(count.read_text()); time.sleep(0.01)\n"
        "        count.write_text(str(seen + 1))\n"
    )
    words = [sys.executable, "-c", code, str(count)]
    together = [subprocess.Popen(words) for _ in range(3)]
    assert [one.wait(60) for one in together] == [0, 0, 0]
    assert count.read_text() == "15"


def test_another_device_is_not_kept_out(folder, monkeypatch):
    names = {"cuda": "a", "cuda:0": "a", "cuda:1": "b"}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=names[device])
    )
    told = []
    with (
        locks.measuring("cpu", waiting=told.append),
        locks.measuring("cuda", waiting=told.append),
        locks.measuring("cuda:1", waiting=told.append),
    ):
        assert not told
        # The same GPU by another name is the same.
        asked = threading.Event()
        other = threading.Thread(target=wait_for, args=("cuda:0", asked.set))
        other.start()
        assert asked.wait(30)
    other.join(30)
    assert not other.is_alive()


def wait_for(device, told):
    with locks.measuring(device, waiting=lambda stage: told()):
        pass


def test_what_is_not_a_file_of_ones_own_is_refused(folder):
    with locks.measuring("cpu", waiting=print):
        (file,) = folder.glob("lab-measuring-*")
    assert file.stat().st_mode & 0o777 == 0o600
    assert str(os.getuid()) in file.name
    file.rename(folder / "elsewhere")
    file.symlink_to(folder / "elsewhere")
    with (
        pytest.raises(PathError, match="must be able to lock a file of their own"),
        locks.measuring("cpu", waiting=print),
    ):
        pytest.fail("got in")
