"""lab.runs: a run's three files get to their places all or none, and are known again."""

import errno
import json
import os

import pytest

from lab import params, runs
from lab.tenants import Tenant

PARTS = {"notebook": "a", "data": "b"}


@pytest.fixture
def files(tmp_path):
    return runs.Files(Tenant("medical", tmp_path), "01_x")


def record(status="ok"):
    key = runs.run_key(PARTS)
    return {"schema": 1, "status": status, "run_key": key, "key_parts": PARTS}


def names(files):
    return sorted(path.name for path in files.tenant.reports.iterdir())


@pytest.mark.parametrize("text", ["", "直接\n", "a\r\nb\r", "lone \ud800 surrogate"])
def test_a_good_run_is_known_again(files, text):
    runs.write(files, {**record(), "text": text}, ipynb=json.dumps([text]), html=text)
    assert runs.why_run(files, PARTS) is None
    assert runs.read_record(files)["text"] == text
    assert names(files) == ["01_x.html", "01_x.ipynb", "01_x.metrics.json"]


@pytest.mark.parametrize("suffix", [".ipynb", ".html"])
def test_a_file_that_is_not_as_it_was_written(files, suffix):
    runs.write(files, record(), ipynb="{}", html="page")
    files.path(suffix).write_text("torn")
    assert runs.why_run(files, PARTS) == f"01_x{suffix} is missing or not as it was written"
    files.path(suffix).unlink()
    assert runs.why_run(files, PARTS) == f"01_x{suffix} is missing or not as it was written"


def test_a_failed_run_keeps_the_last_good_files_byte_for_byte(files):
    runs.write(files, record(), ipynb="{}", html="good\r\npage")
    good = {suffix: files.path(suffix).read_bytes() for suffix in runs.SUFFIXES}
    for _ in range(2):
        runs.write(files, record("failed"), ipynb="{}", html="bad")
        kept = {suffix: files.path(suffix, last_good=True) for suffix in runs.SUFFIXES}
        assert {suffix: path.read_bytes() for suffix, path in kept.items()} == good
        assert runs.last_good(files) == kept[".html"]
    runs.write(files, record(), ipynb="{}", html="good again")
    assert names(files) == ["01_x.html", "01_x.ipynb", "01_x.metrics.json"]


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5, 6])
def test_a_full_disk_leaves_the_old_run_and_nothing_beside(files, monkeypatch, fails_at):
    """A failed run after a good one syncs six files: three new ones, three kept."""
    runs.write(files, record(), ipynb="{}", html="good")
    synced = 0

    def fsync(handle):
        nonlocal synced
        synced += 1
        if synced == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        runs.write(files, record("failed"), ipynb="{}", html="bad")
    assert runs.why_run(files, PARTS) is None
    assert files.path(".html").read_text() == "good"
    assert not [name for name in names(files) if name.startswith(".writing-")]


def test_what_is_measured_decides_and_where_and_how_it_is_kept_does_not(root):
    def digest(*overrides):
        resolved = params.load("medical", root=root, overrides=overrides)
        return runs.key_parts(resolved, "01_data_analysis", data="sha256:aa")["settings"]

    assert digest("ledger=sqlite:///elsewhere.db", "execution.jobs=1") == digest()
    assert digest("ray.mode=inline", "ray.address=10.0.0.1:6379") == digest()
    assert digest("languages=[zh]") != digest()


def test_elsewhere_the_three_files_have_their_names_too(files):
    folder = runs.write_elsewhere(files, record("failed"), ipynb="{}", html="\ud800")
    try:
        assert sorted(path.name for path in folder.iterdir()) == [
            "01_x.html", "01_x.ipynb", "01_x.metrics.json"
        ]  # fmt: skip
        assert json.loads((folder / "01_x.metrics.json").read_text()) == record("failed")
        assert (folder / "01_x.html").read_text() == r"\ud800"
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
