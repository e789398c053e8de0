"""Runs of the lab of which some process is killed, at a random moment, again and again.

`make chaos` kills as often as the lab claims to bear; here it is a few times.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import GOOD_END, LAB, ROOT, processes_of

from lab import checkpoints, corpus, params, sweeps
from lab.ledger import Ledger
from lab.studies import Study
from lab.trials import Trial, TrialResult

KILLS = int(os.environ.get("LAB_RUN_KILLS", "1"))
STUDIES = 3 + KILLS // 2
VLM = ROOT / "params" / "models" / "demo" / "vlm"
MEASURE = f"""
from pathlib import Path
from lab import corpus, params, sweeps
from lab.ledger import Ledger
from lab.studies import Study
from lab.trials import Trial
resolved = params.load("medical")
trial = dict(tenant="medical", kind="text", suite="demo", items=2, turns=2)
asked = [Study((Trial(seed=seed, **trial),)) for seed in range({STUDIES})]
with Ledger(resolved.settings.ledger, root=resolved.tenant.root) as ledger:
    results = sweeps.run(
        *asked, corpus=corpus.load(resolved), settings=resolved.settings, ledger=ledger,
        folders={{"vlm": Path({str(VLM)!r})}}, digests={{"vlm": {checkpoints.digest(VLM)!r}}},
        threads=1, progress=lambda *words: None)
assert [one.status for one in results] == ["ok"] * {STUDIES}
"""
# Each study that begins to be measured is noted, whoever measures it.
NOTED = """
import importlib.abc, importlib.util, os, sys

class Noter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lab.studies":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            measure = module.measure
            def noted(study, *args, **options):
                with open(os.environ["LAB_TEST_NOTES"], "a") as notes:
                    notes.write(f"{study.trials[0].seed}\\n")
                return measure(study, *args, **options)
            module.measure = noted
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Noter())
"""
# Who is killed, by what stands in its command line.
VICTIMS = {
    "driver": ("bin/lab", "run"),
    "worker": ("lab.worker",),
    "kernel": ("ipykernel",),
    "station": ("ray::Station",),
    "node": ("raylet/raylet",),
    "head": ("gcs_server",),
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def folder(monkeypatch):
    tempfile.gettempdir()  # this process keeps the folder it has: what is made there must stay
    with tempfile.TemporaryDirectory(prefix="lab-t-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(NOTED)
        (folder / "notes").touch()
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setenv("LAB_TEST_NOTES", str(folder / "notes"))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([name, str(ROOT)]))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        yield folder


def ours(project: Path, folder: Path) -> list[psutil.Process]:
    """Return the processes of a run: those in its folder, and its Ray's."""
    found = list(processes_of(project))
    for process in psutil.process_iter(["cmdline"]):
        if any(f"{folder}/lab-ray-" in word for word in process.info["cmdline"] or ()):
            found.append(process)
            found += process.children(recursive=True)
    return list(dict.fromkeys(found))


def of_kind(kind: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            words = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in words for word in VICTIMS[kind]):
            found.append(process)
    return found


def kept(project: Path) -> dict[str, tuple[str, str, str]]:
    """Return what the ledger holds: status, answers and time of finishing, by key."""
    if not (project / "reports" / "ledger.db").exists():
        return {}
    with Ledger("sqlite:///reports/ledger.db", root=project) as ledger:
        some = ledger.of_tenant("medical")
    assert len({one.key for one in some}) == len(some)
    return {one.key: (one.status, one.answers, one.finished) for one in some}


def seeds(project: Path) -> list[int]:
    with Ledger("sqlite:///reports/ledger.db", root=project) as ledger:
        return [one.trial.seed for one in ledger.of_tenant("medical")]


def wait_until(met, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(met())


@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_run_killed_anywhere_loses_doubles_and_repeats_nothing(
    make_project, sound_project, folder
):
    project = make_project({"02_a": [MEASURE, GOOD_END]})
    shutil.rmtree(project / "data")
    shutil.copytree(sound_project / "data", project / "data")
    rng = random.Random(KILLS)
    notes, lost, repeated, killed = folder / "notes", 0, 0, []
    command = [str(LAB), "run", "--force"]
    running = None

    def is_there(kind: str) -> bool:
        return bool(of_kind(kind, ours(project, folder))) or running.poll() is not None

    while len(killed) < KILLS:
        before, noted = kept(project), len(notes.read_text().split())
        done = set(seeds(project)) if before else set()
        running = subprocess.Popen(
            command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Not before there is anything to kill: somewhere between its start and its end.
        kind = rng.choice(list(VICTIMS))
        assert wait_until(partial(is_there, kind), 90)
        time.sleep(rng.uniform(0, 3 * STUDIES))
        for process in of_kind(kind, ours(project, folder))[:1]:
            process.send_signal(signal.SIGKILL)
            killed.append(kind)
        if kind == "driver":
            running.wait()
        else:
            running.wait(timeout=240)
        assert wait_until(lambda: not ours(project, folder), 60), "processes are left"
        after = kept(project)
        lost += sum(after.get(key) != result for key, result in before.items())
        begun = [int(one) for one in notes.read_text().split()[noted:]]
        repeated += sum(seed in done for seed in begun)
    final = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert final.returncode == 0, final.stderr
    wanted = {one.key: (one.status, one.answers) for one in undisturbed(project, folder)}
    found = {key: one[:2] for key, one in kept(project).items()}
    counts = ", ".join(f"{killed.count(kind)} {kind}" for kind in VICTIMS)
    told = f"{len(killed)} kills ({counts}), {len(wanted)} trials: {lost} lost, "
    print(f"{told}{len(found) - len(wanted)} doubled, {repeated} repeated")  # noqa: T201
    assert (lost, repeated) == (0, 0)
    assert found == wanted


def undisturbed(project: Path, folder: Path) -> list[TrialResult]:
    """Return what the same studies come to in this process, with a ledger of its own."""
    resolved = params.load("medical", root=project, overrides=["ray.mode=inline"])
    trials = (
        Trial(tenant="medical", kind="text", suite="demo", items=2, turns=2, seed=seed)
        for seed in range(STUDIES)
    )
    with Ledger("sqlite:///alone.db", root=folder) as ledger:
        return sweeps.run(
            *(Study((one,)) for one in trials),
            corpus=corpus.load(resolved),
            settings=resolved.settings,
            ledger=ledger,
            folders={"vlm": VLM},
            digests={"vlm": checkpoints.digest(VLM)},
            threads=1,
            progress=lambda *_: None,
        )
