"""lab.files: the old or the new, never a part, and nothing left beside."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from lab import files

OLD = "old\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(OLD)
    return path


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("content", "raw"),
    [
        ("", b""),
        (b"", b""),
        ("医疗 直接 🙂", "医疗 直接 🙂".encode()),
        ("a\r\nb\nc\r", b"a\r\nb\nc\r"),
        (b"\xff\0\r\n", b"\xff\0\r\n"),
        ("x" * 3_000_000, b"x" * 3_000_000),
    ],
    ids=["empty text", "no bytes", "CJK", "line ends", "no text", "large"],
)
def test_what_was_there_is_replaced_by_the_content_and_nothing_else(path, content, raw):
    files.write_whole(path, content)
    assert path.read_bytes() == raw
    assert list(path.parent.iterdir()) == [path]


def test_a_new_file(tmp_path):
    files.write_whole(tmp_path / "new", "text")
    assert [one.name for one in tmp_path.iterdir()] == ["new"]


def test_whoever_has_the_old_file_open_keeps_it_whole(path):
    with path.open() as held:
        files.write_whole(path, "new")
        assert held.read() == OLD
    assert path.read_text() == "new"


def test_a_reader_never_sees_a_part(path):
    """Two contents take turns while a thread reads: each reading is one of them."""
    contents = ["a" * 200_000, "b" * 100_000]
    files.write_whole(path, contents[0])
    done = threading.Event()
    seen = set()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        files.write_whole(path, contents[number % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert seen


def test_the_content_is_synced_before_it_is_in_its_place(path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle).st_size))
    replace = Path.replace

    def late(self, target):
        seen.append(path.read_text())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", late)
    files.write_whole(path, "12345")
    assert seen == [5, OLD]


@pytest.mark.parametrize("failure", [full, interrupt], ids=["full disk", "Ctrl-C"])
@pytest.mark.parametrize(
    ("owner", "step"), [(os, "fsync"), (Path, "chmod"), (Path, "replace")], ids=str
)
def test_a_failure_at_any_step_leaves_the_old_and_nothing_beside(
    path, monkeypatch, owner, step, failure
):
    monkeypatch.setattr(owner, step, failure)
    with pytest.raises((OSError, KeyboardInterrupt)):
        files.write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == OLD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_write_that_finds_no_room(path, monkeypatch):
    opened = os.fdopen

    def without_room(handle, mode):
        os.close(handle)
        return opened(os.open("/dev/full", os.O_WRONLY), mode)

    monkeypatch.setattr(os, "fdopen", without_room)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_whole(path, "new")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_written_bit_by_bit_takes_its_place_at_the_end(path):
    with files.replacing(path) as file:
        for part in (b"ne", b"w"):
            file.write(part)
            assert path.read_text() == OLD
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(bytes(1 // 0))
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_whole(tmp_path / "nowhere" / "page.html", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way(path):
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        files.write_whole(path, "text")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_mode_is_as_told_whatever_the_umask(path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_whole(path, "text", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_mode_by_default(path):
    files.write_whole(path, "text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("text", ["\ud800", "a\\\udfffb", '"\udc80"', "🙂\ud83d"])
def test_lone_surrogates_become_escapes_that_json_reads_back(path, text):
    files.write_whole(path, json.dumps([text], ensure_ascii=False))
    assert json.loads(path.read_text("utf-8")) == [text]


def test_lone_surrogates_elsewhere_become_legible(path):
    files.write_whole(path, "<p>a\ud800b 🙂</p>")
    assert path.read_text("utf-8") == r"<p>a\ud800b 🙂</p>"


def test_aside_it_waits_in_the_folder_for_its_caller(path):
    aside = files.write_aside(path.parent, "new", mode=0o600)
    assert aside.parent == path.parent
    assert aside.name.startswith(".writing-")
    assert aside.read_text() == "new"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert path.read_text() == OLD
    assert files.write_aside(path.parent, "other") != aside
