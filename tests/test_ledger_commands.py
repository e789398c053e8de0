"""What a person types after ``lab ledger`` and sees."""

from __future__ import annotations

import shutil
import sqlite3

import pyarrow.parquet as pq
import pytest
from conftest import NO_WEIGHTS, lab
from test_exports import result as nf4
from test_ledger import result

from lab.ledger import Ledger

URL = "sqlite:///reports/ledger.db"


@pytest.fixture
def project(root, tmp_path):
    shutil.copytree(root / "params", tmp_path / "params", ignore=NO_WEIGHTS)
    return tmp_path


@pytest.fixture
def filled(project):
    with Ledger(URL, root=project) as ledger:
        for one in (result(1), result(2), result(1, "education")):
            ledger.add(one)
        ledger.add(nf4(status="out_of_memory", problem="24 GB were not enough"))
    return project


def tell(project, *words):
    answer = lab(project, "ledger", *words)
    assert "Traceback" not in answer.stderr
    return answer


def test_show_counts_by_tenant_and_status(filled):
    answer = tell(filled, "show")
    assert answer.returncode == 0, answer.stderr
    assert [line.split() for line in answer.stdout.splitlines()] == [
        [URL],
        ["tenant", "ok", "out_of_memory", "all"],
        ["education", "1", "0", "1"],
        ["medical", "2", "1", "3"],
    ]


def test_export_writes_all_or_one_tenants(filled):
    answer = tell(filled, "export", "--to", "all.parquet")
    assert (answer.returncode, answer.stdout) == (0, "all.parquet: 4 results\n"), answer.stderr
    assert pq.read_table(filled / "all.parquet").num_rows == 4
    tell(filled, "export", "--to", "all.parquet", "--tenant", "education")
    assert pq.read_table(filled / "all.parquet")["tenant"].to_pylist() == ["education"]


def test_a_tenant_with_a_ledger_of_its_own_is_shown_and_exported_too(filled):
    (filled / "params" / "tenants" / "ecommerce.yaml").write_text("ledger: sqlite:///own.db\n")
    with Ledger("sqlite:///own.db", root=filled) as ledger:
        ledger.add(result(1, "ecommerce"))
    assert tell(filled, "show").stdout.count("sqlite:///") == 2
    tell(filled, "export", "--to", "all.parquet")
    assert pq.read_table(filled / "all.parquet").num_rows == 5


def test_an_empty_ledger_is_said_to_be_so(project):
    shown = tell(project, "show")
    assert (shown.returncode, shown.stdout) == (0, f"{URL}: no results yet\n")
    answer = tell(project, "export", "--to", "all.parquet")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "error: there are no results to export, and no file was written\n"
    assert not (project / "all.parquet").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["export"], 2, "--to"),
        (["export", "--to", "all.csv"], 2, "must end in .parquet"),
        (["export", "--to", "none/all.parquet"], 1, "an export needs a folder, got 'none'"),
        (["export", "--to", "all.parquet", "--tenant", "medcal"], 2, "did you mean medical?"),
        (["show", "--profile", "quick"], 2, "profile must be one of"),
    ],
)
def test_wrong_usage_is_one_message(filled, words, code, message):
    answer = tell(filled, *words)
    assert answer.returncode == code
    assert message in answer.stderr


def test_a_result_that_cannot_be_read_is_named_and_nothing_is_written(filled):
    with sqlite3.connect(filled / "reports" / "ledger.db") as connection:
        connection.execute("update results set result = 'spoilt' where tenant = 'education'")
    connection.close()
    answer = tell(filled, "export", "--to", "all.parquet")
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: result {result(1, 'education').key} of ")
    assert not (filled / "all.parquet").exists()


def test_a_file_that_is_no_ledger_is_told(project):
    (project / "reports").mkdir()
    (project / "reports" / "ledger.db").write_text("somebody's notes" * 100)
    for words in (["show"], ["export", "--to", "all.parquet"]):
        answer = tell(project, *words)
        assert answer.returncode == 1
        assert answer.stderr.startswith("error: could not open the ledger, got 'file is not a data")
        assert len(answer.stderr.splitlines()) == 1
