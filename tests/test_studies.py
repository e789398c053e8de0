"""Tests of lab.studies: the shipped vlm, a real corpus, a real ledger."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import cycle

import pytest
import torch
from conftest import ROOT, measuring

from lab import checkpoints, corpus, params, requests, services, studies
from lab.errors import ParameterError
from lab.ledger import Ledger
from lab.studies import Study
from lab.trials import Runtime, Trial

FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}
DIGESTS = {"vlm": checkpoints.digest(FOLDERS["vlm"])}
BASE = Trial(tenant="medical", kind="text", suite="demo", items=6, seed=0, batch_size=2, turns=2)
SMALL = replace(BASE, quantization="nf4", runtime=Runtime("bfloat16"))
ONE = replace(BASE, batch_size=1)
# Fewer items, where what they are does not matter.
QUICK, QUICK_ONE, QUICK_SMALL = (replace(one, items=2) for one in (BASE, ONE, SMALL))


@pytest.fixture(scope="module")
def tenant(sound_project):
    resolved = params.load("medical", root=sound_project)
    return {"corpus": corpus.load(resolved), "settings": resolved.settings}


@pytest.fixture
def calm(monkeypatch):
    """Nothing disturbs: the tests beside this one would, and blocks be measured twice."""
    monkeypatch.setattr(studies.measurement, "disturbance", lambda *_: "")


@pytest.fixture
def ledger(tmp_path, calm):
    with Ledger("sqlite:///ledger.db", root=tmp_path) as opened:
        yield opened


def run(tenant, ledger, *trials, **more):
    told = []
    options = {"folders": FOLDERS, "digests": DIGESTS, "threads": 1} | more
    results = studies.run(
        Study(trials),
        **tenant,
        ledger=ledger,
        progress=lambda *words: told.append(words),
        **options,
    )
    return results, told


@pytest.fixture(scope="module")
def measured(tenant, tmp_path_factory):
    with Ledger("sqlite:///ledger.db", root=tmp_path_factory.mktemp("ledger")) as opened:
        return run(tenant, opened, BASE, SMALL, ONE)


def test_every_trial_has_a_result_in_its_place(measured):
    results, told = measured
    assert [one.trial for one in results] == [BASE, SMALL, ONE]
    assert {one.status for one in results} == {"ok"}
    assert told[-1] == ("timing", 5, 5)


def test_what_was_seen_is_kept_raw(measured):
    for result in measured[0]:
        assert result.first_request_s > 0
        assert 0 < result.load_s < 60
        assert result.stored_bytes > result.loaded_bytes * (0.4 if result.trial == BASE else 0.1)
        assert len({block.number for block in result.blocks}) == 2
        for block in (*result.blocks, *result.baseline):
            # Three of the six items are a block's share; they fill whole batches.
            assert len(block.latencies_s) == (3 if result.trial == ONE else 4) or (
                block in result.baseline
            )
            assert all(0 < one < 60 for one in block.latencies_s)
            assert block.tokens_out == (
                len(block.latencies_s) * result.environment["tokens_while_timing"]
            )
        assert result.environment["threads"] == 1
        assert result.environment["warm_up_s"]
        assert result.environment["versions"]["torch"]
    base, small, _ = measured[0]
    assert small.loaded_bytes < base.loaded_bytes / 3


def test_loading_libraries_is_no_part_of_loading_a_model(tenant):
    """In a fresh process the first load imports transformers, which takes seconds."""
    script = (
        "import sys, time; from pathlib import Path; from lab import services, studies\n"
        "from lab.requests import Drawn, Request; from lab.queries import Query\n"
        "from lab.trials import Setting, Trial\n"
        "t = Trial(tenant='medical', kind='text', suite='demo', items=1, seed=0, turns=2)\n"
        "d = Drawn((Request('a', 'a', 'en', Query(text='hi'), 'hi'),), ())\n"
        "assert 'transformers.models.llava' not in sys.modules; begun = time.perf_counter()\n"
        f"r, = studies.measure(studies.Study((t,)), d, setting=Setting('a', {{}}, 'c', 'h'),"
        f" folders={{'vlm': Path({str(FOLDERS['vlm'])!r})}}, threads=1,"
        " progress=lambda *words: None)\n"
        "print(r.load_s / (time.perf_counter() - begun), r.status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    share, status = done.stdout.split()
    assert status == "ok"
    assert float(share) < 0.5


def test_partners_are_of_the_same_turns_and_equal_ones_are_twice(measured):
    base, small, _ = measured[0]
    assert small.baseline == base.blocks
    assert base.baseline != base.blocks
    assert {one.number for one in base.baseline} == {one.number for one in base.blocks}


def test_answers_are_judged_item_by_item(measured, tenant):
    base = measured[0][0]
    drawn = requests.draw(
        tenant["corpus"], "text", items=6, settings=tenant["settings"], seed=0
    ).measured
    assert {one.item for one in base.quality} == {one.id for one in drawn}
    right = [one.scores["token_f1"][0] for one in base.quality]
    # The shipped model was trained for this tenant: a random one scores near 0.
    assert sum(right) / len(right) > 0.5


def test_the_same_answers_have_one_digest(measured):
    base, small, one = measured[0]
    assert base.answers == one.answers  # batch 2 says what batch 1 says
    assert small.answers.startswith("sha256:")


def test_what_is_known_is_not_measured_again(tenant, ledger, monkeypatch):
    first, _ = run(tenant, ledger, QUICK, QUICK_ONE)
    again, told = run(tenant, ledger, QUICK, QUICK_ONE)
    assert again == first
    assert not told
    loaded = []
    monkeypatch.setattr(
        studies.services,
        "load",
        lambda trial, *rest, load=services.load, **more: (
            loaded.append(trial) or load(trial, *rest, **more)
        ),
    )
    more, _ = run(tenant, ledger, QUICK, QUICK_ONE, QUICK_SMALL)
    assert more[:2] == first
    assert more[2].trial == QUICK_SMALL
    assert set(loaded) == {QUICK, QUICK_SMALL}  # the baseline is its partner


@pytest.mark.parametrize("method", ["wanda", "structured"])
def test_words_and_pictures_are_listened_to(tenant, ledger, method, monkeypatch):
    monkeypatch.setattr(studies, "CALIBRATION", 2)
    pruned = replace(QUICK, pruning=method, sparsity=0.25)
    results, _ = run(tenant, ledger, QUICK, pruned)
    assert [one.status for one in results] == ["ok", "ok"]
    assert (results[1].loaded_bytes < results[0].loaded_bytes) == (method == "structured")


def test_whatever_decides_the_outcome_makes_another_result(tenant, ledger, monkeypatch):
    run(tenant, ledger, QUICK_ONE)
    other = {
        "digests": {"vlm": "sha256:other"},
        "threads": 2,
        "settings": tenant["settings"].model_copy(update={"system_prompt": "Be brief."}),
    }
    measured = []
    monkeypatch.setattr(studies, "measure", lambda study, *_, **more: measured.append(more) or [])
    for name, value in other.items():
        with pytest.raises(KeyError):  # nothing was measured, so nothing is found
            run(
                {**tenant, **({name: value} if name == "settings" else {})},
                ledger,
                QUICK_ONE,
                **({} if name == "settings" else {name: value}),
            )
    assert len(measured) == len(other)


def test_a_result_is_for_the_baseline_it_was_measured_with(tenant, ledger):
    first, _ = run(tenant, ledger, QUICK, QUICK_ONE)
    second, _ = run(tenant, ledger, QUICK_ONE, QUICK)
    assert first[1].key != second[0].key
    assert second[1].baseline == second[0].blocks
    assert second[0].baseline != second[1].blocks


def test_who_cannot_be_measured_is_a_result_and_holds_up_nobody(tenant, ledger):
    nowhere = replace(QUICK, quantization="torchao_int4", runtime=Runtime("bfloat16"))
    results, _ = run(tenant, ledger, QUICK, nowhere)
    assert [one.status for one in results] == ["ok", "invalid"]
    assert "no int4 kernel for a CPU" in results[1].problem
    assert not results[1].blocks
    assert len(results[1].baseline) >= 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError("no room"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out_of_memory"),
        (RuntimeError("no kernel\nfor this shape"), "error"),
    ],
)
def test_running_out_of_memory_is_an_answer(tenant, ledger, monkeypatch, error, status):
    ask = services.Service.ask

    def fail(self, queries, *, batch_size, generation):
        if batch_size == 2:
            raise error
        return ask(self, queries, batch_size=batch_size, generation=generation)

    monkeypatch.setattr(services.Service, "ask", fail)
    results, _ = run(tenant, ledger, QUICK_ONE, QUICK)
    assert [one.status for one in results] == ["ok", status]
    assert results[1].problem == str(error).splitlines()[0]
    # It was loaded all the same, and that is known.
    assert results[1].load_s > 0
    assert results[1].loaded_bytes == results[0].loaded_bytes
    assert results[1].peak_bytes > 0
    assert not results[1].blocks


def test_pictures_and_descriptions_are_matched(tenant, ledger):
    clip = ROOT / "params" / "models" / "demo" / "clip"
    roles = {"folders": {"clip": clip}, "digests": {"clip": checkpoints.digest(clip)}}
    base = replace(BASE, kind="match", items=12)
    small = replace(base, quantization="int8", runtime=Runtime("bfloat16"))
    pruned = replace(base, pruning="l1", sparsity=0.8)
    results, _ = run(tenant, ledger, base, small, replace(base, batch_size=1), pruned, **roles)
    assert [one.status for one in results] == ["ok"] * 4
    first, second, alone, last = results
    assert len(first.quality) == 24  # an image and its words each
    assert {one.item.split()[1] for one in first.quality} == {"image", "words"}
    assert {one.agreement for one in first.quality} == {1.0}
    assert alone.answers == first.answers
    assert last.answers != first.answers
    assert second.loaded_bytes < first.loaded_bytes

    def recall(result):
        return sum(one.scores["recall_at_1"][0] for one in result.quality) / len(result.quality)

    assert recall(first) > 0.8  # by chance it would be a quarter, for there are four of a language
    assert recall(last) < recall(first)
    assert {one.agreement for one in last.quality} == {0.0, 1.0}
    assert all(block.tokens_out == 0 for block in first.blocks)
    assert first.environment["tokens_while_timing"] == 0


def test_compiling_is_told_and_no_part_of_what_is_timed(tenant, ledger, monkeypatch):
    asked, ask = [], services.Service.ask

    def noted(self, *words, **more):
        asked.append(self)
        return ask(self, *words, **more)

    monkeypatch.setattr(services.Service, "ask", noted)
    monkeypatch.setattr(studies.roles, "compile_steps", lambda _: None)
    monkeypatch.setattr(studies.roles, "compiling_s", lambda: 100.0 * len(asked))  # at each request
    counts = cycle([1, 1, 2, 2, 2])  # each is loaded twice, for the sake of a library
    monkeypatch.setattr(studies, "_libraries", lambda: next(counts))
    compiled = replace(QUICK_ONE, runtime=Runtime(compiled=True))
    results, _ = run(tenant, ledger, QUICK_ONE, compiled)
    assert 100 < results[1].first_request_s < 110  # the second time it was compiled already
    assert results[0].environment.get("compile_s") is None
    # Its first request, everything once, three to warm up and one to look at.
    assert results[1].environment["compile_s"] >= 600
    for block in (*results[0].blocks, *results[1].blocks):
        assert block.disturbed == "torch.compile was at work"


@pytest.mark.parametrize(("value", "told"), [(math.nan, "nan"), (math.inf, "inf|nan")])
def test_what_is_no_number_is_an_answer(tenant, ledger, monkeypatch, value, told):
    load = services.load

    def spoiled(trial, *words, **more):
        service = load(trial, *words, **more)
        if trial == QUICK:
            llama = service.models["vlm"].engine.module.model.language_model
            llama.layers[1].mlp.down_proj.weight.data[0, 0] = value
        return service

    monkeypatch.setattr(studies.services, "load", spoiled)
    results, _ = run(tenant, ledger, QUICK_SMALL, QUICK)
    assert [one.status for one in results] == ["ok", "error"]
    problem = results[1].problem
    assert re.match(rf"the logits of vlm must be finite, got ({told}) \(a batch of 2\); ", problem)
    assert "dtype of wider range" in problem
    assert results[1].loaded_bytes > results[0].loaded_bytes  # it was loaded, and that is known
    assert not results[1].blocks
    assert not results[1].quality


def test_nobody_looks_for_numbers_while_requests_are_timed(tenant, ledger, monkeypatch):
    looked = []
    monkeypatch.setattr(studies.measurement, "look", lambda: looked.append(hooks()))
    monkeypatch.setattr(
        studies.services,
        "load",
        lambda *words, load=services.load, **more: (
            loaded.append(load(*words, **more)) or loaded[-1]
        ),
    )
    loaded = []

    def hooks():
        return [len(one.models["vlm"].engine.module._forward_hooks) for one in loaded[-1:]]

    run(tenant, ledger, QUICK_ONE)
    assert {tuple(one) for one in looked} == {(0,)}


def test_running_out_of_memory_while_loading_is_the_same_answer(tenant, ledger, monkeypatch):
    from transformers import LlavaForConditionalGeneration

    once = LlavaForConditionalGeneration.from_pretrained

    def fail(*words, **options):
        if options["dtype"] == "bfloat16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return once(*words, **options)

    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", fail)
    results, _ = run(tenant, ledger, QUICK_ONE, QUICK_SMALL)
    assert [one.status for one in results] == ["ok", "out_of_memory"]


def test_who_measures_waits_for_another_process_and_says_so(tenant, ledger, monkeypatch):
    told = []
    with measuring("cpu") as other:
        assert other.stdout.readline() == "has it\n"

        def progress(stage, done, total):
            told.append((stage, done, total))
            if stage.startswith("waiting"):
                assert not loaded
                other.kill()

        loaded = []
        load = services.load
        monkeypatch.setattr(
            studies.services, "load", lambda *a, **b: loaded.append(a) or load(*a, **b)
        )
        options = {"folders": FOLDERS, "digests": DIGESTS, "threads": 1}
        (result,) = studies.run(
            Study((QUICK_ONE,)), **tenant, ledger=ledger, progress=progress, **options
        )
    assert told[0] == ("waiting for another measurement on cpu", 0, 3)
    assert told[1][0].startswith("asking")
    assert result.status == "ok"


def test_a_defect_of_the_lab_is_no_result(tenant, ledger, monkeypatch):
    monkeypatch.setattr(services.Service, "ask", lambda *_, **__: 1 / 0)
    before, parallel = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM")
    with pytest.raises(ZeroDivisionError):
        run(tenant, ledger, QUICK, threads=before + 1)
    assert not ledger.of_tenant("medical")
    assert torch.get_num_threads() == before
    assert os.environ.get("TOKENIZERS_PARALLELISM") == parallel


def test_a_disturbed_block_is_measured_again_and_kept(tenant, ledger, monkeypatch):
    said = iter(["waited for a core 90 % of the time", *[""] * 50])
    monkeypatch.setattr(studies.measurement, "disturbance", lambda *_: next(said))
    (result,), _ = run(tenant, ledger, QUICK_ONE)
    every = [*result.blocks, *result.baseline]
    assert sum(bool(block.disturbed) for block in every) == 1
    assert [block.number for block in result.blocks] == [0, 0, 1]


def test_requests_that_arrive_by_themselves_wait(tenant, ledger):
    (result,), _ = run(tenant, ledger, replace(QUICK_ONE, rate=1_000.0))
    first = result.blocks[0].latencies_s
    assert list(first) == sorted(first)  # all are there at once, and are served one by one
    assert math.isfinite(first[-1])


@pytest.mark.parametrize(("items", "blocks", "size"), [(6, 2, 1), (7, 4, 3), (5, 10, 8), (1, 2, 2)])
def test_every_request_is_timed_and_every_batch_is_full(items, blocks, size):
    shares = [studies._of_block(range(items), at, size, blocks) for at in range(blocks)]
    assert {one for share in shares for one in share} == set(range(items))
    assert {len(share) % size for share in shares} == {0}
    assert len({len(share) for share in shares}) == 1


def test_a_study_is_about_one_thing():
    with pytest.raises(ParameterError, match="must have a trial"):
        Study(())
    with pytest.raises(ParameterError, match="must differ, got 'fp32, batch 2 twice'"):
        Study((BASE, BASE))
    with pytest.raises(ParameterError, match="the same items, got '6, 7'"):
        Study((BASE, replace(SMALL, items=7)))


def test_a_result_survives_the_ledger(measured):
    for result in measured[0]:
        assert type(result).unpack(result.pack()) == result
        json.dumps(result.environment)


def test_batches_of_one_configuration_share_its_models(measured):
    base, _, one = measured[0]
    assert one.load_s == base.load_s
    assert one.first_request_s == base.first_request_s
    assert one.peak_bytes > one.loaded_bytes


def test_a_batch_beyond_one_that_ran_out_of_memory_is_not_tried(tenant, ledger, monkeypatch):
    ask, tried = services.Service.ask, []

    def fail(self, queries, *, batch_size, generation):
        tried.append(batch_size)
        if batch_size >= 2:
            raise MemoryError("no room")
        return ask(self, queries, batch_size=batch_size, generation=generation)

    monkeypatch.setattr(services.Service, "ask", fail)
    beyond = replace(QUICK, batch_size=4)
    results, _ = run(tenant, ledger, QUICK_ONE, QUICK, beyond)
    assert [one.status for one in results] == ["ok", "out_of_memory", "out_of_memory"]
    assert results[2].problem == "it ran out of memory at batch 2"
    assert results[2].loaded_bytes is None
    assert 4 not in tried


def test_answers_are_held_against_the_baselines(measured):
    base, small, _ = measured[0]
    assert {item.agreement for item in base.quality} == {1.0}
    assert {item.agreement == 1 for item in small.quality} >= {True}
    assert all(0 <= item.agreement <= 1 for item in small.quality)


def test_what_multiplies_is_seen(measured):
    base, small, _ = measured[0]
    seen = [{one["name"] for one in result.environment["operators"]} for result in (base, small)]
    assert "aten::mm" in seen[0] or "aten::addmm" in seen[0] or "mkldnn" in str(seen[0])
    assert seen[0] != seen[1]
