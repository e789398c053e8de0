"""Tests of lab.sweeps: real Rays on this machine, the shipped vlm, a real corpus and ledger.

What goes wrong in a worker is planted there by a ``sitecustomize.py``, told by a file which loads
are to fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import GOOD_END, LAB, ROOT, lab, processes_of

from lab import checkpoints, corpus, params, sweeps
from lab.errors import CorpusError
from lab.ledger import Ledger
from lab.studies import Study
from lab.trials import Trial

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]  # one Ray for all

VLM = ROOT / "params" / "models" / "demo" / "vlm"
DIGESTS = {"vlm": checkpoints.digest(VLM)}
ONE = Trial(tenant="medical", kind="text", suite="demo", items=2, seed=0, turns=2)
TWO, THREE = replace(ONE, batch_size=2), replace(ONE, batch_size=3)
OTHER = replace(ONE, seed=1)

# Before a model of a batch size is loaded, the next of its faults happens: die, or hang.
PLANTED = """
import importlib.abc, importlib.util, json, os, sys, time

class Planter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lab.services":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            plant(module)
        spec.loader.exec_module = exec_module
        return spec

def plant(services):
    from lab import measurement
    measurement.disturbance = lambda *_: ""  # the tests beside these disturb, and blocks are twice
    ask, file = services.Service.ask, os.environ["LAB_TEST_FAULTS"]
    def faulty(service, queries, *, batch_size, generation):
        with open(file) as opened:
            faults = json.load(opened)
        some = faults.get(str(batch_size))
        if some:
            fault = some.pop(0)
            with open(file + ".new", "w") as opened:
                json.dump(faults, opened)
            os.replace(file + ".new", file)
            if fault == "die":
                os._exit(9)
            time.sleep(600)
        return ask(service, queries, batch_size=batch_size, generation=generation)
    services.Service.ask = faulty

sys.meta_path.insert(0, Planter())
"""


@pytest.fixture(scope="module")
def planted():
    """A short folder with the fault planter, a file that tells the faults, and checkpoints."""
    folder = Path(tempfile.mkdtemp(prefix="lab-t-", dir="/tmp"))
    (folder / "sitecustomize.py").write_text(PLANTED)
    (folder / "faults.json").write_text("{}")
    changed = {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "LAB_TEST_FAULTS": str(folder / "faults.json"),
        "TMPDIR": str(folder),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value)
        patch.setattr(sweeps, "SILENT_S", 4.0)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(planted):
    """A Ray for this process, and the environment that leads to it."""
    with pytest.MonkeyPatch.context() as patch, sweeps.local() as environment:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment
        import ray

        ray.shutdown()


@pytest.fixture
def faults(planted):
    """Plant faults, by batch size; afterwards there are none."""
    file = planted / "faults.json"

    def plant(**planned):
        file.write_text(json.dumps({name.strip("_"): some for name, some in planned.items()}))

    plant.file = file
    yield plant
    file.write_text("{}")


@pytest.fixture(scope="module")
def project(sound_project):
    return sound_project


@pytest.fixture
def sweep(project, tmp_path):
    """Run studies with the tenant's data; return results and what was told."""

    def run(*asked, overrides=(), ledger="ledger", **more):
        resolved = params.load("medical", root=project, overrides=overrides)
        told = []
        options = {"folders": {"vlm": VLM}, "digests": DIGESTS, "threads": 1} | more
        with Ledger(f"sqlite:///{ledger}.db", root=tmp_path) as opened:

            def progress(stage, done, total):
                counts = opened.counts()
                told.append((stage, done, total, counts.get("medical", 0)))

            results = sweeps.run(
                *asked,
                corpus=corpus.load(resolved),
                settings=resolved.settings,
                ledger=opened,
                progress=progress,
                **options,
            )
        return results, told

    return run


def statuses(results):
    return [one.status for one in results]


class TestOneMachine:
    def test_ray_says_what_this_process_says(self, cluster, sweep):
        by_ray, told = sweep(Study((ONE, TWO)), Study((OTHER,)))
        here, _ = sweep(
            Study((ONE, TWO)), Study((OTHER,)), overrides=["ray.mode=inline"], ledger="inline"
        )
        assert [one.trial for one in by_ray] == [ONE, TWO, OTHER]
        assert [one.key for one in by_ray] == [one.key for one in here]
        assert [one.answers for one in by_ray] == [one.answers for one in here]
        assert [one.quality for one in by_ray] == [one.quality for one in here]
        assert statuses(by_ray) == ["ok"] * 3
        # Who is told that something is done finds it in the ledger.
        kept = [(stage, counted) for stage, _, _, counted in told if "in the ledger" in stage]
        assert [counted for _, counted in kept] == [2, 3]
        assert "trials: 2 done, 0 running, 1 left" in kept[0][0]
        assert all(counted == 3 for _, done, total, counted in told if done == total)
        steps = [done for _, done, _, _ in told]
        assert steps == sorted(steps)
        assert told[-1][1:3] == (7, 7)

        again, told = sweep(Study((ONE, TWO)), Study((OTHER,)))
        assert again == by_ray
        assert [stage for stage, *_ in told] == ["waiting for a device"]
        with pytest.MonkeyPatch.context() as patch:
            # Without a Ray that runs already, none is started for what is known.
            patch.delenv("RAY_ADDRESS")
            patch.setattr(sweeps, "local", None)
            again, told = sweep(Study((ONE, TWO)), Study((OTHER,)))
        assert again == by_ray
        assert not told

    def test_who_hangs_is_given_up_and_the_others_are_measured(self, cluster, sweep, faults):
        faults(_2=["hang"])
        results, told = sweep(Study((ONE, TWO, THREE)), overrides=["ray.deadline_s=12.0"])
        assert statuses(results) == ["ok", "timeout", "ok"]
        assert results[1].problem == "gave no sign for ray.deadline_s = 12 s"
        assert {one.number for one in results[2].blocks} == {0, 1}
        assert told[-1][1] == told[-1][2]

    def test_who_died_once_is_measured_again(self, cluster, sweep, faults):
        faults(_2=["die"])
        results, told = sweep(Study((ONE, TWO)))
        assert statuses(results) == ["ok", "ok"]
        assert any("died, once more" in stage for stage, *_ in told)

    def test_who_always_dies_has_failed_and_a_baseline_takes_all_with_it(
        self, cluster, sweep, faults, monkeypatch
    ):
        faults(_2=["die"] * 3)
        results, _ = sweep(Study((ONE, TWO)))
        assert statuses(results) == ["ok", "error"]
        assert results[1].problem == "lost its process 3 times"
        faults(_3=["die"])
        monkeypatch.setattr(sweeps, "TRIES", 1)
        results, _ = sweep(Study((THREE, ONE)))
        assert statuses(results) == ["error", "error"]
        assert results[1].problem == "the baseline lost its process 1 times"

    def test_a_checkpoint_that_only_the_driver_sees_is_sent(self, cluster, sweep, tmp_path):
        shutil.copytree(VLM, tmp_path / "vlm")
        (tmp_path / "vlm" / "added.json").write_text("{}")
        opened = os.open(tmp_path / "vlm", os.O_RDONLY)
        try:
            # The path means this folder in this process only.
            folders = {"vlm": Path(f"/proc/self/fd/{opened}")}
            digests = {"vlm": checkpoints.digest(folders["vlm"])}
            results, _ = sweep(Study((ONE,)), folders=folders, digests=digests)
        finally:
            os.close(opened)
        assert statuses(results) == ["ok"]
        assert results[0].setting.models == digests

    def test_what_is_wrong_with_the_question_is_told_as_it_is_here(self, cluster, sweep):
        for mode in ("ray", "inline"):
            with pytest.raises(CorpusError, match="must have 9999 rows"):
                sweep(Study((replace(ONE, items=9_999),)), overrides=[f"ray.mode={mode}"])

    def test_a_driver_that_is_killed_goes_on_where_it_was(self, cluster, sweep, faults, start):
        faults(_3=["hang"])
        driver = start([ONE], [THREE])
        wait_for_line(driver, "asking fp32, batch 3")
        assert wait_until(lambda: json.loads(faults.file.read_text()) == {"3": []}, 30)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        begun = time.monotonic()
        results, told = sweep(Study((ONE,)), Study((THREE,)))
        assert statuses(results) == ["ok", "ok"]
        assert not any("batch 1" in stage for stage, *_ in told)
        assert time.monotonic() - begun < 60  # the hanging study is of nobody, and is given up


# --- a cluster ------------------------------------------------------------------------------------


def elsewhere(leads_to_it):
    """Return an environment that leads to another Ray than this process's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {"RAY_worker_niceness": "0"} | leads_to_it


@contextlib.contextmanager
def node(*words, hidden=(), environment):
    """Have a node run in the root folder, where some folders are empty for it."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", *words]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    if hidden:
        mounts = "".join(f"mount -t tmpfs none '{one}' && " for one in hidden)
        command = ["unshare", "-m", "sh", "-c", f'{mounts}exec "$@"', "sh", *command]
    started = subprocess.Popen(
        command,
        cwd="/",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        kill_all(started)


def kill_all(started):
    """Kill a process and all below it."""
    if started.poll() is None:
        for one in [*psutil.Process(started.pid).children(recursive=True), started]:
            one.kill()
    started.wait()


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_a_node_that_sees_nothing_of_the_driver_measures_and_another_takes_over(
    planted, project, start
):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user may not hide folders from a process (unshare -m)")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    blind = elsewhere(token) | {"PYTHONPATH": str(planted)}
    installed = subprocess.run(
        [sys.executable, "-c", "import lab; print(lab.__path__[0])"],
        env=blind,
        cwd="/",
        capture_output=True,
        text=True,
    ).stdout.strip()
    hidden = {str(project), str(ROOT / "lab"), str(ROOT / "params"), installed} - {""}
    port = free_port()
    address = f"127.0.0.1:{port}"
    head = ("--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false")
    folder = planted / "r"
    there = token | {"RAY_ADDRESS": address}
    with contextlib.ExitStack() as stack:
        stack.enter_context(node(*head, f"--temp-dir={folder}", environment=elsewhere(token)))
        assert wait_until(lambda: listens(port), 60)
        joining = node(f"--address={address}", "--num-cpus=1", hidden=hidden, environment=blind)
        second = stack.enter_context(joining)
        driver = start([ONE], [OTHER], [TWO], cpus=[1, 1], environment=there)
        said = driver.stdout.read().splitlines()
        assert driver.wait() == 0
        assert said[-1] == "statuses ok ok ok"
        assert any("2 running, 1 left" in line for line in said)
        # The second had to be sent what the first sees.
        assert list(planted.glob(f"lab-checkpoints-*/{DIGESTS['vlm'][7:]}/config.json"))

        third = replace(ONE, seed=2), replace(ONE, seed=3)
        driver = start(*([one] for one in third), environment=there)
        wait_for_line(driver, "2 running")
        kill_all(second)
        said = driver.stdout.read().splitlines()
        assert driver.wait() == 0
        assert any("died, once more" in line for line in said)
        assert said[-1] == "statuses ok ok"

        # A device of another class is left idle, and the class whose figures are known goes on.
        with node(f"--address={address}", "--num-cpus=2", environment=elsewhere(token)):
            options = {"cpus": [1, 2], "threads": None, "environment": there}
            driver = start([ONE], [TWO], **options)
            said = driver.stdout.read().splitlines()
            assert driver.wait() == 0
            (told,) = (line for line in said if line.startswith("only on"))
            assert "1 threads: figures of several classes are never pooled" in told
            assert not any("asking" in line for line in said)


# --- lab run --------------------------------------------------------------------------------------

SHOW = "import os\nfrom lab import sweeps\nprint(os.environ['RAY_ADDRESS'])"
MEASURE = f"""
from pathlib import Path
from lab import corpus, params
from lab.ledger import Ledger
from lab.studies import Study
from lab.trials import Runtime, Trial
resolved = params.load("medical")
with Ledger(resolved.settings.ledger, root=resolved.tenant.root) as ledger:
    results = sweeps.run(
        Study(({ONE!r},)), corpus=corpus.load(resolved), settings=resolved.settings, ledger=ledger,
        folders={{"vlm": Path({str(VLM)!r})}}, digests={DIGESTS!r}, threads=1,
        progress=lambda *words: Path("told").write_text(str(words)))
print(results[0].status)
"""


def printed(project, notebook):
    text = (project / "reports" / "medical" / f"{notebook}.ipynb").read_text("utf-8")
    outputs = [one for cell in json.loads(text)["cells"] for one in cell.get("outputs", ())]
    return "".join("".join(one.get("text", "")) for one in outputs)


def rays(folder):
    """Return the processes of Rays whose folder lies in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(f"{folder}/lab-ray-" in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def is_clean(folder):
    return not rays(folder) and not list(folder.glob("lab-ray-*"))


@pytest.fixture
def short_folder(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="lab-t-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        yield Path(folder)


def test_a_run_has_one_ray_for_its_notebooks_and_leaves_nothing(
    make_project, project, short_folder
):
    own = make_project({"02_a": [SHOW, MEASURE, GOOD_END], "03_b": [SHOW, GOOD_END]})
    shutil.rmtree(own / "data")
    shutil.copytree(project / "data", own / "data")
    outcome = lab(own, "run", "--jobs", "1", timeout=240)
    assert outcome.returncode == 0, outcome.stderr
    address = printed(own, "03_b").strip()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    assert printed(own, "02_a") == f"{address}\nok\n"  # and not a word of Ray's
    assert is_clean(short_folder)


def test_a_run_that_is_killed_leaves_nothing(make_project, short_folder):
    wait = f"{SHOW}\nopen('begun', 'w').close()\nimport time; time.sleep(600)"
    own = make_project({"02_a": [wait, GOOD_END]})
    running = subprocess.Popen(
        [str(LAB), "run"], cwd=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert wait_until((own / "begun").exists, 120)
    running.kill()
    running.wait()
    assert wait_until(lambda: is_clean(short_folder), 30)
    assert wait_until(lambda: not processes_of(own), 30)


@pytest.mark.parametrize(
    ("source", "words"),
    [("print('analysis')", ()), ("print('sweeps')", ("--set", "ray.mode=inline"))],
    ids=["not needed", "not wanted"],
)
def test_a_run_without_studies_does_not_pay_for_ray(make_project, short_folder, source, words):
    shown = f"import os, sys\n{source}\nprint(os.environ.get('RAY_ADDRESS'), 'ray' in sys.modules)"
    own = make_project({"01_a": [shown, GOOD_END]})
    outcome = lab(own, "run", *words)
    assert outcome.returncode == 0, outcome.stderr
    assert "None False" in printed(own, "01_a")


def test_a_cluster_that_is_named_is_handed_on_and_none_is_started(make_project, short_folder):
    shown = "import os\nprint('sweeps at', os.environ['RAY_ADDRESS'])"
    own = make_project({"02_a": [shown, GOOD_END]})
    outcome = lab(own, "run", "--ray-address", "10.0.0.1:6379")
    assert outcome.returncode == 0, outcome.stderr
    assert "sweeps at 10.0.0.1:6379" in printed(own, "02_a")


def test_a_cluster_that_is_not_there_is_told(start):
    nobody = f"127.0.0.1:{free_port()}"
    environment = {"RAY_ADDRESS": nobody}
    driver = start([ONE], environment=environment, errors=True)
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "Ray must be there" in errors
    assert nobody in errors


@pytest.fixture
def start(project, tmp_path):
    """Start drivers that end with the test, whatever comes of it."""
    started = []

    def start(*asked, **options):
        started.append(start_driver(project, tmp_path, *asked, **options))
        return started[-1]

    yield start
    for one in started:
        kill_all(one)
        for stream in (one.stdout, one.stderr):
            if stream is not None:
                stream.close()


def start_driver(project, folder, *asked, environment=None, errors=False, cpus=(), threads=1):
    """Start another process that runs studies, once nodes are there, and prints what it hears."""
    script = f"""
        import sys
        from pathlib import Path
        from lab import corpus, params, sweeps
        from lab.ledger import Ledger
        from lab.studies import Study
        from lab.trials import Runtime, Trial
        sweeps.SILENT_S = 4.0
        if {cpus}:
            import ray, time
            ray.init(log_to_driver=False, logging_level="error")
            deadline = time.monotonic() + 90
            while {cpus} != sorted(
                one["Resources"].get("CPU") for one in ray.nodes() if one["Alive"]
            ):
                assert time.monotonic() < deadline, ray.nodes()
                time.sleep(0.2)
            ray.shutdown()
        resolved = params.load("medical", root=Path({str(project)!r}))
        with Ledger("sqlite:///ledger.db", root=Path({str(folder)!r})) as ledger:
            results = sweeps.run(
                *{[Study(tuple(one)) for one in asked]!r},
                corpus=corpus.load(resolved), settings=resolved.settings, ledger=ledger,
                folders={{"vlm": Path({str(VLM)!r})}}, digests={DIGESTS!r}, threads={threads},
                progress=lambda *words: print(*words, flush=True))
        print("statuses", *[one.status for one in results])
        """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if errors else None,
        text=True,
        env=elsewhere(environment) if environment else None,
    )


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def wait_for_line(process, words):
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"ended without {words}")
