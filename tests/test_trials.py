from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from lab import trials
from lab.errors import ParameterError
from lab.trials import Block, Quality, Runtime, Setting, Trial, TrialResult, key

SETTING = Setting(
    data="sha256:aa", models={"vlm": "sha256:bb", "clip": "sha256:cc"}, code="1", hardware="cpu"
)
TRIAL = Trial(tenant="medical", kind="text", suite="demo", items=20, seed=0)


def result(trial=TRIAL, setting=SETTING, **more):
    given = {"status": "ok", "finished": "2026-11-25T03:00:00Z"} | more
    return TrialResult(key=key(trial, setting), trial=trial, setting=setting, **given)


def test_a_key_is_the_same_in_every_process_and_however_the_models_are_listed():
    script = (
        "from lab.trials import *\n"
        "s = Setting(data='sha256:aa', models={'clip': 'sha256:cc', 'vlm': 'sha256:bb'}, code='1',"
        " hardware='cpu')\n"
        "print(key(Trial(tenant='medical', kind='text', suite='demo', items=20, seed=0), s))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == key(TRIAL, SETTING)


OTHER = {
    "tenant": "ecommerce",
    "kind": "speech",
    "suite": "hub",
    "items": 21,
    "seed": 1,
    "batch_size": 2,
    "quantization": "nf4",
    "runtime": Runtime(compiled=True),
    "rate": 5.0,
}


@pytest.mark.parametrize("name", OTHER)
def test_whatever_differs_makes_another_key(name):
    assert key(replace(TRIAL, **{name: OTHER[name]}), SETTING) != key(TRIAL, SETTING)


def test_pruning_makes_another_key_and_so_does_more_of_it():
    pruned = [replace(TRIAL, pruning="l1", sparsity=sparsity) for sparsity in (0.2, 0.3)]
    pruned.append(replace(TRIAL, pruning="wanda", sparsity=0.3))
    assert len({key(one, SETTING) for one in (TRIAL, *pruned)}) == 4


def test_every_field_of_a_trial_is_tried():
    assert {one.name for one in fields(Trial)} == {*OTHER, "pruning", "sparsity"}


@pytest.mark.parametrize("name", ["data", "code", "hardware"])
def test_another_setting_makes_another_key(name):
    assert key(TRIAL, replace(SETTING, **{name: "other"})) != key(TRIAL, SETTING)
    models = dict(SETTING.models) | {"vlm": "sha256:dd"}
    assert key(TRIAL, replace(SETTING, models=models)) != key(TRIAL, SETTING)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"kind": "video"}, "kind must be one of"),
        ({"pruning": "magic", "sparsity": 0.1}, "pruning must be one of"),
        ({"pruning": "l1", "sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"pruning": "l1"}, "above 0 with a pruning method"),
        ({"sparsity": 0.3}, "0 without one, got 0.3"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"items": 0}, "items must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"rate": math.inf}, "rate must be above 0 and finite"),
        ({"rate": math.nan}, "rate must be above 0 and finite"),
        ({"sparsity": math.nan}, "sparsity must be in"),
    ],
)
def test_what_cannot_be_measured_is_refused(wrong, rule):
    with pytest.raises(ParameterError, match=rule):
        replace(TRIAL, **wrong)


def test_every_broken_rule_is_listed_at_once():
    with pytest.raises(ParameterError) as caught:
        replace(TRIAL, items=0, batch_size=-2, seed=-1)
    assert len(str(caught.value).splitlines()) == 3


def test_a_result_comes_back_exactly_as_it_was():
    whole = result(
        trial=replace(
            TRIAL, runtime=Runtime("bfloat16", "eager"), pruning="l1", sparsity=0.1, rate=0.1
        ),
        blocks=(
            Block(0, (0.1, 1 / 3, math.inf), 1.5, tokens_out=7),
            Block(1, (1e-9, 0.30000000000000004), 0.2, disturbed="steal 12 %"),
        ),
        load_s=1.25,
        first_request_s=0.1 + 0.2,
        stored_bytes=2**40,
        loaded_bytes=3,
        peak_bytes=10**12,
        quality=(Quality("q1", "g1", "ja", {"token_f1": (0.7, 1.0), "cer": (3.0, 17.0)}),),
        answers="sha256:ee",
        environment={"torch": "2.13.0", "注意": "日本語 \ud800", "threads": 2},
    )
    assert TrialResult.unpack(whole.pack()) == whole


def test_ten_thousand_latencies_take_less_than_their_text():
    latencies = tuple(0.1 + 1 / (7 + number) for number in range(10_000))
    packed = result(blocks=(Block(0, latencies, 1.0),)).pack()
    assert len(packed) < 100_000
    assert TrialResult.unpack(packed).blocks[0].latencies_s == latencies


@pytest.mark.parametrize("status", ["out_of_memory", "timeout", "invalid", "error"])
def test_a_failure_is_a_result_that_tells_its_problem(status):
    assert result(status=status, problem="batch 64 did not fit").status == status
    with pytest.raises(ParameterError, match="must tell its problem"):
        result(status=status)


def test_a_result_that_is_ok_has_no_problem():
    with pytest.raises(ParameterError, match="unless it is ok"):
        result(problem="but")


def test_an_unknown_status_is_refused():
    with pytest.raises(ParameterError, match="status must be one of"):
        result(status="fine", problem="?")


def test_a_result_bears_the_key_of_its_trial():
    with pytest.raises(ParameterError, match="must bear the key"):
        replace(result(), trial=replace(TRIAL, seed=5))


@pytest.mark.parametrize("packed", [b"", b"junk", trials.zlib.compress(b"[1]")])
def test_what_was_not_packed_is_refused(packed):
    with pytest.raises(ParameterError, match="one that was packed"):
        TrialResult.unpack(packed)


def test_what_a_newer_lab_packed_is_refused(monkeypatch):
    monkeypatch.setattr(trials, "_RECORD", 2)
    packed = result().pack()
    monkeypatch.undo()
    with pytest.raises(ParameterError, match="form 1, got 2"):
        TrialResult.unpack(packed)
