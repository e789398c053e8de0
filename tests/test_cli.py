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
