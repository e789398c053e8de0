"""What a person types and sees; runs of notebooks are in test_execute."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import NO_WEIGHTS, lab

GOOD_ROW = {"question": "问题？", "answer": "答案。", "language": "zh", "annotation": "类别"}


@pytest.fixture
def project(root, tmp_path):
    shutil.copytree(root / "params", tmp_path / "params", ignore=NO_WEIGHTS)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def faq(project, rows, tenant="medical"):
    folder = project / "data" / tenant
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faq.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return folder


def test_a_sound_corpus_is_said_to_be_so(project):
    faq(project, [GOOD_ROW])
    outcome = lab(project, "data", "check", "medical")
    assert outcome.returncode == 0, outcome.stderr
    assert "no problems; 1 rows in faq" in outcome.stdout


def test_every_problem_is_one_line_with_file_row_field_rule_value_remedy(project):
    faq(
        project,
        [
            GOOD_ROW,
            {**GOOD_ROW, "language": "fr"},
            {**GOOD_ROW, "answer": " "},
            {"question": "\x1b[31mx"},
        ],
    )
    outcome = lab(project, "data", "check", "medical")
    assert outcome.returncode == 1
    lines = outcome.stdout.splitlines()
    assert any(
        line.startswith("data/medical/faq.json:2: language: ") and "got 'fr'; " in line
        for line in lines
    ), outcome.stdout
    assert any(line.startswith("data/medical/faq.json:3: answer: ") for line in lines)
    assert sum(line.startswith("data/medical/faq.json:4: ") for line in lines) >= 3
    assert outcome.stderr.splitlines()[-1].startswith("error: ")
    assert "problems (" in outcome.stderr
    assert "\x1b" not in outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_folder_anywhere_can_be_checked(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    (folder / "faq.json").write_text(json.dumps([GOOD_ROW]), "utf-8")
    assert lab(project, "data", "check", "--path", str(folder)).returncode == 0
    missing = lab(project, "data", "check", "--path", str(folder / "none"))
    assert missing.returncode == 1
    assert "none" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "check"], "name one tenant, or a folder"),
        (["data", "check", "medical", "--path", "."], "name one tenant, or a folder"),
        (["data", "check", "nobody"], "tenant must be one of"),
        (["data", "make", "medical", "--scale", "huge"], "--scale must be one of demo, full"),
        (["data", "make", "medical", "--seed", "-1"], "--seed"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_exits_with_2(project, words, message):
    outcome = lab(project, *words)
    assert outcome.returncode == 2, outcome.stderr
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_demo_corpus_is_made_once(project):
    settings = project / "params" / "lab.yaml"
    text = settings.read_text("utf-8").replace(
        "demo: {faq: 500, images: 100, speech: 100, joint: 50}",
        "demo: {faq: 30, images: 4, speech: 4, joint: 2}",
    )
    settings.write_text(text, "utf-8")
    first = lab(project, "data", "make", "education")
    assert first.returncode == 0, first.stderr
    assert (
        "education: made: 30 FAQ rows, 4 images, 4 recordings, 2 joint items in data/education"
        in first.stdout
    )
    second = lab(project, "data", "make", "education")
    assert "education: unchanged, nothing to do: 30 FAQ rows" in second.stdout
    (project / "data" / "education" / "faq.json").write_text("[]")
    third = lab(project, "data", "make", "education", "--seed", "1")
    assert third.returncode == 1
    assert "may only replace a demo corpus" in third.stderr


# --- lab run --workflow ---------------------------------------------------------------------------

WORKFLOW = "params/tune_workflow.yaml"


@pytest.fixture
def lead(root, project):
    """A project whose notebooks are the shipped ones, and a corpus of one question."""
    shutil.copytree(root / "notebooks", project / "notebooks", dirs_exist_ok=True)
    faq(project, [GOOD_ROW])
    return project


def edit(project, old, new):
    path = project / WORKFLOW
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_a_workflow_says_what_it_leads_to_and_whence(lead):
    outcome = lab(lead, "run", "medical", "--workflow", WORKFLOW, "--dry-run")
    assert outcome.returncode == 0, outcome.stderr
    told = outcome.stdout.splitlines()
    assert f"{WORKFLOW}:30: optimize_model.cache: is kept, but the lab has no cache yet: " in (
        outcome.stdout
    )
    assert "medical: the corpus has faq" in told
    books = "02_quantization, 03_pruning, 04_batch_size_sweep"
    assert f"medical: optimize_model leads to {books}" in told
    assert "medical: prometheus_monitor leads to 05_consistency" in told
    sizes = next(line for line in told if line.split()[:2] == ["02_quantization:", "batch_sizes"])
    assert sizes.split()[2:] == ["[8]", f"{WORKFLOW}:27"]
    queries = [line.split()[2] for line in told if " queries " in line]
    assert queries == ["['text']", "['text']"]  # no picture to ask about
    assert not any("01_data_analysis" in line for line in told)
    assert not list(lead.glob("reports/*/*.html"))


def test_set_comes_after_a_workflow(lead):
    words = ["--dry-run", "--set", "notebooks.02_quantization.batch_sizes=[2]"]
    outcome = lab(lead, "run", "medical", "--workflow", WORKFLOW, *words)
    line = next(one for one in outcome.stdout.splitlines() if " batch_sizes " in one)
    assert line.split()[2:] == ["[2]", "--set"]


def test_a_workflow_chooses_the_notebooks_itself(lead):
    outcome = lab(lead, "run", "--workflow", WORKFLOW, "--notebook", "02")
    assert outcome.returncode == 2
    assert "--workflow chooses the notebooks itself, got '--notebook 02 too'" in outcome.stderr


def test_every_problem_of_a_workflow_is_one_line(lead):
    edit(lead, "quantization: 4bit", "quantization: 3bit")
    edit(lead, "format: jpeg", "format: png")
    edit(lead, "condition: optimize_model.completed", "condition: optimise_model.completed")
    outcome = lab(lead, "run", "medical", "--workflow", WORKFLOW)
    assert outcome.returncode == 1
    lines = [line.removeprefix("error: ").strip() for line in outcome.stderr.splitlines()]
    assert [line.partition(": ")[0] for line in lines] == [
        f"{WORKFLOW}:{at}" for at in (15, 26, 39)
    ]
    assert "Traceback" not in outcome.stderr
    assert not (lead / "reports" / "medical" / "02_quantization.html").exists()


def test_a_workflow_that_contradicts_a_tenant_runs_nothing(lead):
    edit(lead, "512x512", "10x10")
    outcome = lab(lead, "run", "--workflow", WORKFLOW)
    assert outcome.returncode == 1
    assert outcome.stderr.count(f"{WORKFLOW}:16: image_input.resolution: must be 512x512") == 3
    assert "got 10x10; change one of them" in outcome.stderr


def test_a_workflow_without_a_rule_that_fires_says_so(lead):
    faq(lead, [])
    outcome = lab(lead, "run", "medical", "--workflow", WORKFLOW)
    assert outcome.returncode == 0, outcome.stderr
    assert "medical: no rule fires, so nothing is run" in outcome.stdout
    assert "0 of 0 reports are good" in outcome.stdout


@pytest.mark.parametrize("file", ["none.yaml", "params"])
def test_a_workflow_that_is_not_there_is_told(lead, file):
    outcome = lab(lead, "run", "medical", "--workflow", file)
    assert outcome.returncode == 1
    assert f"a settings file must exist, got '{file}'" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_tenant_without_a_corpus_fails_a_workflow(lead):
    outcome = lab(lead, "run", "education", "--workflow", WORKFLOW)
    assert outcome.returncode == 1
    assert "education: a corpus must be a folder" in outcome.stdout


def test_the_doctor_says_what_follows(root):
    outcome = lab(root, "doctor")
    assert outcome.returncode == 0, outcome.stdout
    for what in ("cores", "memory", "GPU", "disk", "fonts", "browser"):
        assert what in outcome.stdout


def test_outside_a_project_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("LAB_ROOT", raising=False)
    outcome = lab(tmp_path, "run")
    assert outcome.returncode == 1
    assert "run from the project folder, or set LAB_ROOT" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_debug_shows_the_traceback(tmp_path):
    outcome = lab(tmp_path, "run", "--debug")
    assert outcome.returncode == 1
    assert "Traceback" in outcome.stderr


def test_help_names_every_command(root):
    outcome = lab(root, "--help")
    assert outcome.returncode == 0
    for command in ("data", "run", "report", "doctor"):
        assert command in outcome.stdout


def test_report_rebuilds_the_indexes(project):
    outcome = lab(project, "report")
    assert outcome.returncode == 0, outcome.stderr
    assert (project / "reports" / "index.html").is_file()
    assert (project / "reports" / "medical" / "index.html").is_file()
