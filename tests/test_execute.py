"""Notebooks that end well and in every bad way, run by the real command line and real kernels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import GOOD_END, LAB, lab, processes_of, write_notebook

from lab import execute, machine
from lab.errors import UsageError

pytestmark = pytest.mark.slow

GOOD = ["x = 1", GOOD_END]
CONTRACT = {
    "schema",
    "tenant",
    "notebook",
    "profile",
    "status",
    "run_key",
    "started",
    "seconds",
    "provenance",
    "metrics",
}


def record(project, notebook, tenant="medical"):
    return json.loads(
        (project / "reports" / tenant / f"{notebook}.metrics.json").read_text("utf-8")
    )


def html(project, notebook, tenant="medical"):
    return (project / "reports" / tenant / f"{notebook}.html").read_text("utf-8")


def assert_failed(project, notebook, reason, outcome):
    """The one shape of every failure: told, recorded, shown, and nothing left running."""
    assert outcome.returncode == 1, outcome.stderr
    assert reason in outcome.stderr
    found = record(project, notebook)
    assert found["status"] == "failed"
    assert reason in found["error"]
    assert reason in html(project, notebook)
    notebook_left = nbformat.read(
        project / "reports" / "medical" / f"{notebook}.ipynb", as_version=4
    )
    assert notebook_left.metadata["tuning_lab"]["status"] == "failed"
    assert wait_for(lambda: not processes_of(project)), processes_of(project)
    assert "Traceback" not in outcome.stderr


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def start(project, *words):
    return subprocess.Popen(
        [str(LAB), "run", *words],
        cwd=project,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_good_run_leaves_three_files_and_is_reused(make_project):
    project = make_project({"01_toy": GOOD})
    first = lab(project, "run")
    assert first.returncode == 0, first.stderr
    found = record(project, "01_toy")
    assert set(found) >= CONTRACT
    assert (found["status"], found["metrics"][0]["value"]) == ("ok", 0.9)
    assert found["provenance"]["data"].startswith("sha256:")
    assert (project / "reports" / "index.html").is_file()
    second = lab(project, "run")
    assert second.returncode == 0
    assert "reused  nothing has changed" in second.stderr
    assert record(project, "01_toy") == found
    assert not processes_of(project)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("notebook", "changed: notebook"),
        ("data", "changed: data"),
        ("parameters", "changed: parameters"),
        ("packages", "changed: packages"),
        ("report", "01_toy.html is missing or not as it was written"),
        ("record", "not run yet"),
    ],
)
def test_whatever_a_result_depends_on_makes_it_run_again(make_project, change, reason):
    project = make_project({"01_toy": GOOD})
    assert lab(project, "run").returncode == 0
    words = []
    if change == "notebook":
        write_notebook(project / "notebooks" / "01_toy.ipynb", ["x = 2", GOOD_END])
    elif change == "data":
        path = project / "data" / "medical" / "faq.json"
        path.write_text(path.read_text("utf-8").replace("办法0", "方法0"), "utf-8")
    elif change == "parameters":
        words = ["--set", "seed=3"]
    elif change == "packages":
        (project / "constraints.txt").write_text("numpy==1.0\n")
    elif change == "report":
        (project / "reports" / "medical" / "01_toy.html").write_text("torn")
    else:
        (project / "reports" / "medical" / "01_toy.metrics.json").write_text("{")
    again = lab(project, "run", *words)
    assert again.returncode == 0
    assert all(word in again.stderr for word in reason.split(": ")), again.stderr


@pytest.mark.parametrize(
    ("cells", "words", "reason"),
    [
        pytest.param(
            ["raise ValueError('too <b>bad</b>'[:7])"], [], "ValueError: too <b>"[:15], id="raises"
        ),
        pytest.param(
            ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
            [],
            "the kernel died",
            id="killed",
        ),
        pytest.param(
            ["import time; time.sleep(60)"],
            ["--set", "execution.cell_timeout_s=1.0"],
            "cell_timeout_s = 1 s",
            id="cell-timeout",
        ),
        pytest.param(
            ["import time; time.sleep(60)"],
            ["--set", "execution.notebook_timeout_s=15.0"],
            "notebook_timeout_s = 15 s",
            id="deadline",
        ),
        pytest.param(["import sys; sys.exit(0)"], [], "SystemExit", id="exit-0"),
        pytest.param(["x = 1"], [], "must show a lab.slo.Conclusion", id="no-conclusion"),
    ],
)
def test_a_bad_end_is_a_failure_and_the_others_finish(make_project, cells, words, reason):
    project = make_project(
        {"01_bad": [*cells, GOOD_END] if cells != ["x = 1"] else cells, "02_good": GOOD}
    )
    outcome = lab(project, "run", *words)
    assert_failed(project, "01_bad", reason, outcome)
    assert record(project, "02_good")["status"] == "ok"
    assert lab(project, "run", "--notebook", "02_good").returncode == 0


WORKFLOW = ["--workflow", "params/tune_workflow.yaml"]


@pytest.fixture
def lead(make_project):
    """A project for whose workflow there are 02 and 05, and only 02 is led to by the tuning."""
    project = make_project({"01_toy": GOOD}, tenants=("medical", "education"))
    declare(project, "02_quantization", "methods: list = []\nqueries: list = []", GOOD)
    declare(project, "05_consistency", "methods: list = []", GOOD)
    file = project / "params" / "tune_workflow.yaml"
    lines = file.read_text("utf-8").splitlines()
    kept = [line for line in lines if "batch_size" not in line and "pruning_ratio" not in line]
    file.write_text("\n".join(kept), "utf-8")
    return project


def declare(project, name, parameters, cells):
    path = project / "notebooks" / f"{name}.ipynb"
    write_notebook(path, cells)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source += f"\n{parameters}"
    nbformat.write(notebook, path)


def test_a_workflow_runs_what_its_rules_lead_to(lead):
    told = ["assert methods == ['fp32', 'nf4'] and queries == ['text'], (methods, queries)"]
    declare(lead, "02_quantization", "methods: list = []\nqueries: list = []", told + GOOD)
    first = lab(lead, "run", *WORKFLOW)
    assert first.returncode == 0, first.stderr
    for tenant in ("medical", "education"):
        assert record(lead, "02_quantization", tenant)["status"] == "ok"
        assert record(lead, "05_consistency", tenant)["status"] == "ok"
        assert not (lead / "reports" / tenant / "01_toy.html").exists()
    assert "4 of 4 reports are good" in first.stdout
    assert "notebooks.02_quantization.methods=" in html(lead, "02_quantization")
    second = lab(lead, "run", *WORKFLOW)
    assert second.stderr.count("reused  nothing has changed") == 4


def test_a_workflow_goes_on_only_for_tenants_whose_notebooks_ended_well(lead):
    told = ["assert tenant == 'education'"]
    declare(lead, "02_quantization", "methods: list = []\nqueries: list = []", told + GOOD)
    outcome = lab(lead, "run", *WORKFLOW)
    assert outcome.returncode == 1
    assert "medical: prometheus_monitor is not reached: optimize_model.completed is not met" in (
        outcome.stdout
    )
    assert not (lead / "reports" / "medical" / "05_consistency.html").exists()
    assert record(lead, "05_consistency", "education")["status"] == "ok"


def test_a_workflow_that_is_interrupted_starts_nothing_more(lead):
    slow = ["import time", "tenant == 'medical' or open('at-work', 'w').close()"]
    slow += ["tenant == 'medical' or time.sleep(60)"]
    declare(lead, "02_quantization", "methods: list = []\nqueries: list = []", slow + GOOD)
    run = start(lead, "medical", "education", *WORKFLOW)
    assert wait_for((lead / "at-work").exists, 60)
    run.send_signal(signal.SIGINT)
    told, errors = run.communicate(timeout=60)
    assert run.returncode == 1, errors
    assert record(lead, "02_quantization", "medical")["status"] == "ok"
    assert "interrupted: nothing more is run" in told
    assert not (lead / "reports" / "medical" / "05_consistency.html").exists()


def test_a_failure_keeps_the_last_good_report(make_project):
    project = make_project({"01_toy": GOOD})
    assert lab(project, "run").returncode == 0
    good = html(project, "01_toy")
    write_notebook(project / "notebooks" / "01_toy.ipynb", ["1 / 0", GOOD_END])
    assert_failed(project, "01_toy", "ZeroDivisionError", lab(project, "run"))
    assert html(project, "01_toy.last_good") == good
    assert "01_toy.last_good.html" in html(project, "01_toy")
    write_notebook(project / "notebooks" / "01_toy.ipynb", GOOD)
    assert lab(project, "run").returncode == 0
    assert not list((project / "reports" / "medical").glob("*last_good*"))


def test_an_undeclared_parameter_fails_before_the_first_cell(make_project):
    project = make_project({"01_toy": ["open('ran', 'w').close()", GOOD_END]})
    outcome = lab(project, "run", "--set", "notebooks.01_toy.wrost_rows=3")
    assert outcome.returncode == 1
    assert "got 'wrost_rows'" in outcome.stderr
    assert not (project / "ran").exists()


def test_ctrl_c_leaves_a_failed_report_and_no_process(make_project):
    project = make_project(
        {
            "01_slow": ["open('at-work', 'w').close()", "import time; time.sleep(60)", GOOD_END],
            "02_later": GOOD,
        }
    )
    run = start(project, "--jobs", "1")
    assert wait_for((project / "at-work").exists, 60)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1, errors
    assert "interrupted by Ctrl-C" in record(project, "01_slow")["error"]
    assert "interrupted by Ctrl-C" in html(project, "01_slow")
    assert not (project / "reports" / "medical" / "02_later.html").exists()
    assert wait_for(lambda: not processes_of(project))
    assert lab(project, "run", "--notebook", "02_later").returncode == 0


def test_a_killed_driver_leaves_no_kernel_and_no_success(make_project):
    project = make_project(
        {"01_slow": ["open('at-work', 'w').close()", "while True: pass", GOOD_END]}
    )
    run = start(project)
    assert wait_for((project / "at-work").exists, 60)
    run.kill()
    run.communicate(timeout=30)
    assert wait_for(lambda: not processes_of(project), 20), processes_of(project)
    assert not (project / "reports" / "medical" / "01_slow.metrics.json").exists()


def test_a_killed_worker_is_buried_by_another(make_project):
    project = make_project(
        {
            "01_slow": ["open('at-work', 'w').close()", "import time; time.sleep(60)", GOOD_END],
            "02_good": GOOD,
        }
    )
    run = start(project, "--jobs", "1")
    assert wait_for((project / "at-work").exists, 60)
    workers = [one for one in processes_of(project) if "lab.worker" in " ".join(one.cmdline())]
    assert len(workers) == 1
    workers[0].kill()
    _, errors = run.communicate(timeout=90)
    assert run.returncode == 1, errors
    assert "the process that ran the notebook died" in record(project, "01_slow")["error"]
    assert "at-work" in html(project, "01_slow")  # as far as it came
    assert record(project, "02_good")["status"] == "ok"
    assert wait_for(lambda: not processes_of(project))


def test_two_runs_at_once_do_the_work_once(make_project):
    cell = "import os, time; open(f'ran-{os.getpid()}', 'w').close(); time.sleep(3)"
    project = make_project({"01_toy": [cell, GOOD_END]})
    runs = [start(project), start(project)]
    answers = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], answers
    assert len(list(project.glob("ran-*"))) == 1
    assert sum("waiting for it" in answer for answer in answers) == 1
    assert sum("reused" in answer for answer in answers) == 1
    assert record(project, "01_toy")["status"] == "ok"


LOGS = """
import json, os, time
from pathlib import Path

def log(word):
    threads = os.environ["OMP_NUM_THREADS"]
    with open("log", "a") as file:
        file.write(json.dumps([NAME, tenant, word, threads]) + chr(10))

log("begins")
"""
MEETS = """
Path(f"here-{tenant}").touch()
end = time.monotonic() + 60
while len(list(Path().glob("here-*"))) < 2 and time.monotonic() < end:
    time.sleep(0.02)
met = time.monotonic() < end
"""


def logging(name, work):
    return [f"NAME = {name!r}{LOGS}{work}", 'log("ends")', GOOD_END]


def test_who_times_models_runs_alone_and_after_the_others(make_project):
    names = ("01_look", "02_quantization", "03_pruning")
    works = (f"{MEETS}assert met", "time.sleep(0.3)", "time.sleep(0.3)")
    project = make_project(
        {name: logging(name, work) for name, work in zip(names, works, strict=True)},
        tenants=("ecommerce", "medical"),
    )
    outcome = lab(project, "run", "--jobs", "2")
    assert outcome.returncode == 0, outcome.stderr  # the first two did run side by side
    lines = [json.loads(line) for line in (project / "log").read_text("utf-8").splitlines()]
    look, alone = lines[:4], lines[4:]
    assert {name for name, *_ in look} == {"01_look"}
    assert [(name, tenant, word) for name, tenant, word, _ in alone] == [
        (name, tenant, word)
        for tenant in ("ecommerce", "medical")
        for name in names[1:]
        for word in ("begins", "ends")
    ]
    assert {threads for *_, threads in look} == {str(max(1, machine.threads() // 2))}
    assert {threads for *_, threads in alone} == {str(machine.threads())}


def test_settings_say_who_runs_alone(make_project):
    names = ("01_look", "02_quantization")
    project = make_project({name: logging(name, MEETS.replace("{tenant}", name)) for name in names})
    outcome = lab(project, "run", "--jobs", "2", "--set", "execution.alone=[]")
    assert outcome.returncode == 0, outcome.stderr
    lines = [json.loads(line) for line in (project / "log").read_text("utf-8").splitlines()]
    assert [word for _, _, word, _ in lines] == ["begins", "begins", "ends", "ends"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_the_good_report_and_says_where_the_rest_is(make_project):
    project = make_project({"01_toy": GOOD})
    reports = project / "reports"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(reports)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr!r}")
    try:
        assert lab(project, "run").returncode == 0
        good = html(project, "01_toy")
        write_notebook(project / "notebooks" / "01_toy.ipynb", ["print('x' * 400_000)", GOOD_END])
        outcome = lab(project, "run")
        assert outcome.returncode == 1
        assert "could not be written" in outcome.stderr
        left = outcome.stderr.split("was left in ")[1].split()[0]
        assert "x" * 1000 in Path(left, "01_toy.ipynb").read_text("utf-8")
        shutil.rmtree(left)
        assert html(project, "01_toy") == good
        assert not list((reports / "medical").glob(".writing-*"))
    finally:
        subprocess.run(["umount", "-l", str(reports)], check=True)


def test_a_broken_corpus_or_notebook_fails_alone(make_project):
    project = make_project({"01_toy": GOOD}, tenants=("ecommerce", "medical"))
    (project / "notebooks" / "02_torn.ipynb").write_text('{"cells": [')
    outcome = lab(project, "run")
    assert outcome.returncode == 1
    assert "a notebook must be valid JSON of nbformat 4, got '02_torn.ipynb'" in outcome.stderr
    assert (
        record(project, "01_toy")["status"]
        == record(project, "01_toy", "ecommerce")["status"]
        == "ok"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["medcal"], "did you mean medical"),
        (["--profile", "quick"], "smoke, demo, full"),
        (["--notebook", "99"], "must be one of 01_toy"),
        (["--set", "seed=x"], "seed: must be a valid integer"),
        (["--set", "data.max_row=1"], "did you mean max_rows"),
        (["--jobs", "0"], "--jobs"),
        (["--nonsense"], "No such option"),
        (["../medical"], "tenant"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(make_project, words, message):
    project = make_project({"01_toy": GOOD})
    outcome = lab(project, "run", *words)
    assert outcome.returncode == 2
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (project / "reports" / "medical").exists()


def test_a_dry_run_shows_values_with_their_places_and_runs_nothing(make_project):
    project = make_project({"01_toy": GOOD})
    outcome = lab(project, "run", "--dry-run", "--profile", "smoke", "--set", "seed=4")
    assert outcome.returncode == 0, outcome.stderr
    assert "sample.faq" in outcome.stdout
    assert "(profile smoke)" in outcome.stdout
    assert "--set" in outcome.stdout
    assert not (project / "reports" / "medical").exists()


def test_notebooks_are_chosen_by_number_name_or_file():
    known = ["01_data_analysis", "02_quantization"]
    assert execute.choose([], known) == known
    assert execute.choose(["2", "01", "notebooks/01_data_analysis.ipynb"], known) == [
        "02_quantization",
        "01_data_analysis",
    ]
    with pytest.raises(UsageError):
        execute.choose(["3"], known)


def test_nothing_of_a_kernel_stays_after_a_good_run(make_project):
    before = {process.pid for process in psutil.process_iter()}
    project = make_project(
        {"01_toy": ["import subprocess; subprocess.Popen(['sleep', '300'])", GOOD_END]}
    )
    assert lab(project, "run").returncode == 0
    assert wait_for(lambda: not processes_of(project))
    assert before  # the machine's own processes were there to compare with


def test_what_reads_the_others_runs_after_them_and_again_when_they_did(make_project):
    names = ("01_toy", "02_quantization", "07_recommendation")
    project = make_project(dict.fromkeys(names, GOOD))
    first = lab(project, "run", "--jobs", "2")
    assert first.returncode == 0, first.stderr
    started = {name: record(project, name)["started"] for name in names}
    assert max(started, key=lambda name: started[name]) == "07_recommendation"
    ended = [line.split()[1] for line in first.stderr.splitlines() if " ok " in line]
    assert ended[-1] == "07_recommendation"

    assert lab(project, "run").stderr.count("nothing has changed") == 3
    # Only the one that is asked for is made anew, unless it is read by another.
    time.sleep(1.1)  # a run is known by the second in which it started
    again = lab(project, "run", "--notebook", "01", "--force")
    assert again.returncode == 0
    assert "07_recommendation" not in again.stderr
    last = lab(project, "run")
    assert last.stderr.count("nothing has changed") == 2
    assert "changed: other notebooks" in last.stderr
    assert record(project, "07_recommendation")["started"] > started["07_recommendation"]
