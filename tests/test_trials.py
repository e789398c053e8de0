from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import numpy as np
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
    "turns": 4,
}


@pytest.mark.parametrize("name", OTHER)
def test_whatever_differs_makes_another_key(name):
    assert key(replace(TRIAL, **{name: OTHER[name]}), SETTING) != key(TRIAL, SETTING)


def test_a_name_tells_what_was_done_and_how_it_is_run():
    pruned = replace(TRIAL, quantization="nf4", pruning="wanda", sparsity=0.3, batch_size=4)
    assert str(pruned) == "nf4, wanda 0.3, batch 4"
    run = Runtime("bfloat16", compiled=True, static_cache=True)
    assert str(replace(TRIAL, runtime=run)) == "bf16, compiled, static cache, batch 1"


def test_pruning_makes_another_key_and_so_does_more_of_it():
    pruned = [replace(TRIAL, pruning="l1", sparsity=sparsity) for sparsity in (0.2, 0.3)]
    pruned.append(replace(TRIAL, pruning="wanda", sparsity=0.3))
    assert len({key(one, SETTING) for one in (TRIAL, *pruned)}) == 4


GOLDEN = "sha256:860cf4da9b9dad08c912f136e67dc6e5621f8238dee9fc47a412cec356e05cb1"
PACKED = (
    "789c5d525b6ee3300cbc0bbfd342966337f139fad5c522a025ba16a2872bd1eda645eebe54bcdb00050c"
    "c81c0f359ca1bf0063f9a05c6000d8c1e89339cbfbafdf3ba0f8ee728a8122c3f075ddc1e4a22b3359a1"
    "6aa5fb87a679d0ddb36a07a5e47981cac8854f99de569253ee89abf702a71c60687670a68b34971975d7"
    "0f875e99696ff1381e2d5a7530c7464f4ddb53ff644d4f5daf9be9a0db83253a4e66ff84fb461b326dd7"
    "93eaccd8889e4f68ab8c7aecb682ec69bc307d2b2f84e71f484ea3a7b0d97d5bd13bbe6c7e0b31bbf82a"
    "5ec1244bc2a8121619ef33230a3463b61f982bc32cab0041e8bedc1abd5bee6c63e4e3bb0f77641ce12a"
    "4916465e6be4e90cb54af9e7e09c1dfa7ae3886ce653719f744bd0310521692561ba5857c1f487a1fa5a"
    "e36d7a8829d2e62db2fb447629ded18c4cff35a4835da0aa82ccb2e68d59ec525d9a1416e7ebb627f485"
    "2409be2cd5f3244173ab61b3e1ccc9a099e91fad9aa3da2403960573b9c5ab1e6bb9baaa0d9642926611"
    "c4fa674120eb8c98bd5eff02310fd12d"
)


def test_a_key_stays_what_it_was():
    # Whoever changes this makes everybody measure everything again.
    assert key(TRIAL, SETTING) == GOLDEN


def test_what_an_earlier_lab_packed_is_read():
    assert TrialResult.unpack(bytes.fromhex(PACKED)) == result(load_s=0.5)


def test_a_field_that_is_added_with_a_default_changes_no_key():
    @dataclass(frozen=True)
    class Later(Trial):
        calibration: str = "none"

    later = Later(tenant="medical", kind="text", suite="demo", items=20, seed=0)
    assert key(later, SETTING) == key(TRIAL, SETTING)
    assert key(replace(later, calibration="own"), SETTING) != key(TRIAL, SETTING)


@pytest.mark.parametrize(
    "same",
    [
        {"items": np.int64(20), "seed": np.int32(0), "batch_size": np.uint8(1)},
        {"sparsity": 0, "runtime": Runtime()},
    ],
)
def test_equal_trials_have_one_key_whatever_their_numbers_came_from(same):
    assert key(replace(TRIAL, **same), SETTING) == key(TRIAL, SETTING)
    rates = {key(replace(TRIAL, rate=rate), SETTING) for rate in (5, 5.0, np.float32(5))}
    assert len(rates) == 1


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"items": True}, "items must be a whole number, got True"),
        ({"seed": "0"}, "seed must be a whole number"),
        ({"sparsity": "much"}, "sparsity must be a number"),
        ({"sparsity": None}, "sparsity must be a number"),
        ({"rate": True}, "rate must be a number"),
    ],
)
def test_numbers_of_another_kind_are_refused(wrong, rule):
    with pytest.raises(ParameterError, match=rule):
        replace(TRIAL, **wrong)


def test_a_switch_is_on_or_off():
    with pytest.raises(ParameterError, match="compiled must be true or false, got 1"):
        Runtime(compiled=1)


def test_models_may_be_any_mapping():
    setting = replace(SETTING, models=MappingProxyType(dict(SETTING.models)))
    assert key(TRIAL, setting) == key(TRIAL, SETTING)


def test_every_field_of_a_trial_is_tried():
    assert {one.name for one in fields(Trial)} == {*OTHER, "pruning", "sparsity"}


@pytest.mark.parametrize("name", ["data", "code", "hardware", "software", "settings", "partner"])
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


def test_numbers_of_numpy_come_back_as_numbers():
    made = result(
        blocks=(Block(0, np.array([0.1, 0.2], dtype=np.float32), 1.0),),
        environment={"load": np.float32(0.5), "cores": (1, 2)},
        peak_bytes=np.int64(7),
    )
    assert TrialResult.unpack(made.pack()) == made
    assert made.environment == {"load": 0.5, "cores": [1, 2]}


def test_what_cannot_be_kept_is_told_when_it_is_made():
    for bad in ({"model": object()}, {1: "one", "two": 2}):
        with pytest.raises(ParameterError, match="what JSON can hold"):
            result(environment=bad)


@pytest.mark.parametrize("latency", [math.nan, -0.1])
def test_a_latency_is_no_less_than_nothing(latency):
    with pytest.raises(ParameterError, match=r"at least 0.*\(block 4\)"):
        Block(4, (0.1, latency), 1.0)


def test_a_block_counts_its_errors_and_what_was_answered():
    block = Block(0, (0.1, math.inf, 0.3), 2.0)
    assert (block.errors, block.throughput) == (1, 1.0)
    assert math.isnan(Block(0, (0.0,), 0.0).throughput)


@pytest.mark.parametrize("finished", ["", "2026-11-25", "2026-11-25T03:00:00.5Z"])
def test_the_time_is_told_in_one_way(finished):
    with pytest.raises(ParameterError, match="finished must be like"):
        result(finished=finished)


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
    monkeypatch.setattr(trials, "_FORM", 2)
    packed = result().pack()
    monkeypatch.undo()
    with pytest.raises(ParameterError, match="form 1, got 2"):
        TrialResult.unpack(packed)
