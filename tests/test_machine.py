import subprocess
import sys

import pytest

from lab import machine, provenance


def test_every_finding_says_what_follows(root):
    findings = machine.examine(root)
    assert {"cores", "memory", "GPU", "disk", "fonts", "browser"} <= {one.what for one in findings}
    assert all(
        one.found and one.follows and one.state in ("ok", "note", "missing") for one in findings
    )


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("200000 100000", 2), ("50000 100000", 1), ("", None), ("x y", None)],
)
def test_the_containers_cpu_quota_counts(tmp_path, text, quota):
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert machine._cpu_quota(file) == quota
    assert machine._cpu_quota(tmp_path / "absent") is None


def test_cores_are_those_this_process_may_use():
    code = (
        "import os; os.sched_setaffinity(0, {0}); from lab import machine; print(machine.cores())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "1"


def test_a_missing_browser_or_extra_is_named(root, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    findings = {one.what: one for one in machine.examine(root)}
    assert findings["browser"].state == "note"
    assert findings["extra: demo"].state == "missing"
    assert "pip install" in findings["extra: demo"].follows
    assert findings["GPU"].found == "none"


def test_versions_hold_what_is_installed_only():
    found = machine.versions()
    assert found["numpy"]
    assert set(found) <= {"python", *machine.PACKAGES}


def git(folder, *words):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *words],
        check=True,
        capture_output=True,
    )


def test_the_commit_is_told_with_its_changes(tmp_path):
    assert provenance.commit(tmp_path) == "unknown"
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    clean = provenance.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert provenance.commit(tmp_path) == f"{clean}+changes"


def test_provenance_has_what_the_contract_asks(root):
    found = provenance.collect(root, data="sha256:0", seed=3, models={"vlm": "sha256:1"})
    assert {"commit", "data", "models", "seed", "device", "versions"} <= set(found)
    assert (found["data"], found["seed"], found["models"]) == ("sha256:0", 3, {"vlm": "sha256:1"})
    assert provenance.collect(root, data="x", seed=0)["models"] == {}


@pytest.mark.parametrize(
    ("said", "threads"), [("1", 1), ("3", 3), ("9", 3), ("", 2), ("many", 2), ("0", 2)]
)
def test_threads_are_those_asked_for_or_leave_a_core_to_the_rest(monkeypatch, said, threads):
    monkeypatch.setattr(machine, "cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert machine.threads() == threads


def test_a_single_core_has_a_thread(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.threads() == 1
