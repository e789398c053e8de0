"""What a person types after ``lab models`` and sees; no network, no weights to speak of."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lab import suites
from lab.errors import UsageError
from lab.model_commands import models_app

SHA = "ab" * 20


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a sound recogniser, an encoder that is not there and a hub's CLIP."""
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "params" / "models"
    asr = folder / "asr"
    asr.mkdir(parents=True)
    (tmp_path / "params" / "lab.yaml").write_text("seed: 0\n")
    config = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"}
    (asr / "config.json").write_text(json.dumps(config))
    save_file({"model.x": np.ones((1000, 1500), "float16")}, asr / "model.safetensors")
    (folder / "mine.yaml").write_text(
        "roles:\n"
        "  asr: {folder: params/models/asr, memory: 6 MB in float32}\n"
        "  clip: {hub: nobody/has-this-one, revision: null, memory: 1 GB}\n"
    )
    return tmp_path


def run(*words):
    return CliRunner().invoke(models_app, words)


def test_the_list_shows_each_role(project):
    answer = run("list", "mine")
    assert answer.exit_code == 0, answer.output
    title, head, asr, clip, warning = answer.output.splitlines()
    assert title.strip() == "suite mine"
    assert head.split() == [
        *("role", "architecture", "from", "parameters", "stored", "MB", "dtype", "digest"),
        "memory",
    ]
    digest = next(word for word in asr.split() if len(word) == 12 and word.isalnum())
    assert asr.split() == [
        *("asr", "WhisperForConditionalGeneration", "params/models/asr", "1.5", "M", "3.0"),
        *("float16", digest, "6", "MB", "in", "float32"),
    ]
    assert clip.split() == [
        *("clip", "not", "downloaded", "yet", "nobody/has-this-one@unpinned", "1", "GB")
    ]
    assert warning.startswith("warning: The role clip of suite mine is not pinned: nobody/has-th")
    assert re.fullmatch("[0-9a-f]{12}", digest)


def test_the_list_shows_problems_and_goes_on(project):
    config = {"architectures": ["CLIPModel"], "model_type": "clip"}
    (project / "params" / "models" / "asr" / "config.json").write_text(json.dumps(config))
    (project / "params" / "models" / "other.yaml").write_text(
        "roles: {encoder: {folder: 'no\u202ene', memory: x}}"
    )
    (project / "params" / "models" / "third.yaml").write_text(
        "roles: {encoder: {folder: none, memory: x}}"
    )
    answer = run("list")
    assert answer.exit_code == 1
    lines = answer.output.splitlines()
    assert lines[2].split()[:3] == ["asr", "problem", "params/models/asr"]
    assert lines[3].split()[:4] == ["clip", "not", "downloaded", "yet"]
    problems = [line for line in lines if line.startswith("problem: ")]
    assert problems[0].startswith(
        "problem: asr: the role asr needs a speech-to-text model such as WhisperForConditional"
    )
    assert problems[0].endswith("it fits the role clip")
    assert problems[1].startswith(
        "problem: other: params/models/other.yaml:1: roles.encoder.folder: must be a text"
    )
    assert problems[2] == (
        "problem: encoder: the checkpoint of the role encoder must be a folder, got 'none' "
        "(params/models/third.yaml:1); put it there, or correct the path"
    )
    assert "\u202e" not in answer.output


def test_a_suite_that_there_is_not_is_wrong_usage(project):
    for command in ("list", "pin", "check", "evaluate"):
        answer = run(command, "nine")
        assert isinstance(answer.exception, UsageError)
        assert "a suite must be one of mine, got 'nine'; did you mean mine?" in str(
            answer.exception
        )


def test_a_pin_is_told(project, monkeypatch):
    pins = [suites.Pin("asr", "a/b", None, SHA), suites.Pin("clip", "a/c", "cd" * 20, SHA)]
    monkeypatch.setattr(suites, "pin", lambda name, *, root, update: pins if update else [])
    assert run("pin").output == "mine: nothing to pin\n"
    answer = run("pin", "--update")
    assert answer.exit_code == 0
    assert answer.output.splitlines() == [
        f"mine: asr: a/b pinned to {SHA}",
        f"mine: clip: a/c pinned to {SHA} (was {'cd' * 20})",
    ]


def test_a_pin_that_fails_is_told_and_exits_with_1(project):
    answer = run("pin", "mine")
    assert answer.exit_code == 1
    assert answer.output == (
        "problem: mine: clip: the hub must be asked for a revision, got 'HF_HUB_OFFLINE or "
        "TRANSFORMERS_OFFLINE is set' (params/models/mine.yaml:3); unset it where there is a "
        "network\n"
    )


def test_help_names_the_commands():
    answer = run("--help")
    assert answer.exit_code == 0
    for command in ("list", "pin", "check", "evaluate", "train-demo"):
        assert command in answer.output


class TestDemoSuite:
    """Commands on the weights that ship."""

    def test_check_asks_every_kind_in_every_language(self, root, monkeypatch):
        monkeypatch.chdir(root)
        answer = CliRunner().invoke(models_app, ["check", "demo"])
        assert answer.exit_code == 0, answer.output
        for language in ("zh", "en", "ja"):
            assert answer.output.count(f" {language} ") >= 1
        assert "problem" not in answer.output

    def test_evaluate_says_n_interval_and_verdict(self, root, monkeypatch):
        monkeypatch.chdir(root)
        answer = CliRunner().invoke(models_app, ["evaluate", "demo", "--role", "clip", "--quick"])
        assert answer.exit_code == 0, answer.output
        assert answer.output.count("recall@1") == 6
        assert " to " in answer.output

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["evaluate", "demo", "--role", "tts"], "--role must be one of"),
            (["evaluate", "nosuch"], "nosuch"),
            (["check", "nosuch"], "nosuch"),
            (["train-demo", "tts"], "ROLE must be one of"),
        ],
    )
    def test_what_there_is_not_is_said(self, root, monkeypatch, words, told):
        monkeypatch.chdir(root)
        answer = CliRunner().invoke(models_app, words)
        assert answer.exit_code != 0
        assert told in str(answer.exception)

    def test_check_goes_on_past_a_role_that_does_not_load(self, root, tmp_path, monkeypatch):
        shutil.copytree(root / "params", tmp_path / "params", symlinks=True)
        folder = tmp_path / "params" / "models" / "demo" / "clip"
        (folder / "config.json").write_text("{}")
        monkeypatch.chdir(tmp_path)
        answer = CliRunner().invoke(models_app, ["check", "demo"])
        assert answer.exit_code == 1
        assert "architectures" in answer.output
