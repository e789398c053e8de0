"""Results as a Parquet table: all of it, read back by another library's rules, or no file."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lab import exports
from lab.errors import LedgerError, MissingError, UsageError
from lab.trials import Block, Quality, Runtime, Setting, Trial, TrialResult, key

SETTING = Setting(
    data="sha256:aa",
    models={"vlm": "sha256:bb"},
    code="1",
    hardware="cpu",
    software="torch 2",
    settings="sha256:dd",
    partner="sha256:ee",
)
OLD = b"what was there"


def result(seed=0, **given):
    trial = Trial(
        tenant="medical",
        kind="joint",
        suite="demo",
        items=20,
        seed=seed,
        batch_size=8,
        quantization="nf4",
        pruning="wanda",
        sparsity=0.3,
        runtime=Runtime(dtype="bfloat16", compiled=True),
        rate=2.5,
    )
    common = {"status": "ok", "finished": "2026-11-25T03:00:00Z"}
    return TrialResult(key=key(trial, SETTING), trial=trial, setting=SETTING, **{**common, **given})


FULL = result(
    blocks=(
        Block(0, (0.1, 0.3, math.inf, 0.2), 2.0, tokens_out=7),
        Block(1, (9.0, 9.0), 1.0, disturbed="两个进程"),
        Block(1, (0.1, 0.1 + 0.2), 4.0),
    ),
    baseline=(Block(1, (0.5,), 0.5),),
    load_s=1.5,
    first_request_s=0.25,
    stored_bytes=2**40,
    loaded_bytes=2,
    peak_bytes=3,
    quality=(
        Quality("faq:1", "g1", "zh", {"answer_f1": (1, 2), "cer": (math.nan, 0)}),
        Quality("faq:2", "g1", "ja", {}),
    ),
    answers="sha256:cc",
    environment={"threads": 1, "说": ["=1+1", None]},
)
FAILED = result(1, status="error", problem='=cmd|"/c calc"!A1 出错\udce5')


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "results.parquet"
    path.write_bytes(OLD)
    return path


def untouched(path):
    return path.read_bytes() == OLD and list(path.parent.iterdir()) == [path]


def test_a_row_by_hand(path):
    assert exports.write([FULL], path) == 1
    (row,) = pq.read_table(path).to_pylist()
    blocks, baseline, quality = (row.pop(name) for name in ("blocks", "baseline", "quality"))
    assert row == {
        "key": FULL.key,
        "tenant": "medical",
        "kind": "joint",
        "suite": "demo",
        "quantization": "nf4",
        "pruning": "wanda",
        "sparsity": 0.3,
        "batch_size": 8,
        "dtype": "bfloat16",
        "attention": "sdpa",
        "compiled": True,
        "static_cache": False,
        "items": 20,
        "seed": 0,
        "turns": 10,
        "rate": 2.5,
        "status": "ok",
        "problem": "",
        "finished": "2026-11-25T03:00:00Z",
        "load_s": 1.5,
        "first_request_s": 0.25,
        "stored_bytes": 2**40,
        "loaded_bytes": 2,
        "peak_bytes": 3,
        # Of 0.1 0.1 0.2 0.3 0.3 and infinity, without the disturbed block.
        "requests": 6,
        "errors": 1,
        "latency_p50_s": 0.2,
        "throughput_p50": 0.5,  # of 3 / 2 s and 2 / 4 s
        "data": "sha256:aa",
        "code": "1",
        "hardware": "cpu",
        "software": "torch 2",
        "settings": "sha256:dd",
        "partner": "sha256:ee",
        "answers": "sha256:cc",
        "models": '{"vlm": "sha256:bb"}',
        "environment": '{"threads": 1, "说": ["=1+1", null]}',
    }
    assert tuple(Block(**block) for block in blocks) == FULL.blocks
    assert tuple(Block(**block) for block in baseline) == FULL.baseline
    assert [one["disturbed"] for one in blocks] == ["", "两个进程", ""]
    first, second = quality
    assert [first[name] for name in ("item", "group", "language")] == ["faq:1", "g1", "zh"]
    f1, cer = first["scores"]
    assert f1 == {"metric": "answer_f1", "numerator": 1.0, "denominator": 2.0}
    assert math.isnan(cer["numerator"])
    assert second["scores"] == []


def test_a_field_that_is_added_to_a_result_gets_a_column():
    records = (Trial, Runtime, Setting, TrialResult)
    names = {one.name for record in records for one in fields(record)}
    assert names - {"trial", "setting", "runtime"} <= set(exports.SCHEMA.names)
    for record, column in ((Block, "blocks"), (Block, "baseline"), (Quality, "quality")):
        held = {one.name for one in exports.SCHEMA.field(column).type.value_type}
        assert held == {one.name for one in fields(record)}


def test_a_trial_that_failed_is_a_row_and_its_text_stays_text(path):
    exports.write([FAILED, FULL], path)
    failed = pd.read_parquet(path).iloc[0]
    assert failed["problem"] == '=cmd|"/c calc"!A1 出错\\udce5'
    empty = ["load_s", "peak_bytes", "requests", "errors", "latency_p50_s", "throughput_p50"]
    assert failed[empty].isna().all()
    assert len(failed["blocks"]) == len(failed["quality"]) == 0


def test_more_than_are_held_at_a_time_keep_their_order(path):
    results = [result(seed) for seed in range(250)]
    assert exports.write(iter(results), path) == 250
    assert pq.read_table(path)["seed"].to_pylist() == list(range(250))
    assert pq.ParquetFile(path).num_row_groups == 3


def test_no_results_leave_what_was_there(path):
    with pytest.raises(LedgerError, match="no results to export, and no file was written"):
        exports.write([], path)
    assert untouched(path)


def test_a_ledger_that_breaks_half_way_leaves_what_was_there(path):
    def broken():
        yield from (result(seed) for seed in range(150))
        raise LedgerError("result 151 cannot be read")

    with pytest.raises(LedgerError, match="result 151"):
        exports.write(broken(), path)
    assert untouched(path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from lab import exports
from lab.errors import LedgerError
from tests.test_exports import result
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    exports.write(map(result, range(300)), Path(sys.argv[1]))
except LedgerError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [1, 5_000])
def test_a_full_disk_is_one_message_and_leaves_what_was_there(root, path, limit):
    words = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.stdout.startswith("could not write the export, got 'File too large' ("), done
    assert done.stderr == ""
    assert untouched(path)


def test_a_number_that_parquet_cannot_hold_is_told(path):
    with pytest.raises(LedgerError, match="could not write the export"):
        exports.write([result(2**70)], path)
    assert untouched(path)


@pytest.mark.parametrize("name", ["ledger.db", "results.csv", "results", ".parquet"])
def test_a_file_that_is_something_else_is_not_replaced(tmp_path, name):
    with pytest.raises(UsageError, match=r"must end in \.parquet"):
        exports.write([FULL], tmp_path / name)


def test_a_folder_that_is_not_there_or_in_the_way(tmp_path):
    with pytest.raises(MissingError, match=r"needs a folder, got .*; make it"):
        exports.write([FULL], tmp_path / "nowhere" / "results.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(LedgerError, match="could not write the export, got 'Is a directory'"):
        exports.write([FULL], tmp_path / "folder.parquet")
