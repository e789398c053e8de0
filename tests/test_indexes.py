"""Indexes: what is there, what is not, and what cannot be relied on, whatever the records hold."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from test_reports import HOSTILE, assert_self_contained, metric, record, soup

from lab import indexes, runs
from lab.tenants import Tenant

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def make_site(root: Path, *, title: str = "Medical") -> Path:
    """Make a project with a hostile or plain tenant title, and reports of every kind."""
    (root / "params" / "tenants").mkdir(parents=True)
    here = Path(__file__).parent.parent / "params"
    (root / "params" / "lab.yaml").write_text((here / "lab.yaml").read_text("utf-8"), "utf-8")
    (root / "params" / "models").mkdir()
    shutil.copy(here / "models" / "demo.yaml", root / "params" / "models")
    names = json.dumps({"zh": title, "en": title, "ja": "医療"})  # JSON is YAML
    (root / "params/tenants/medical.yaml").write_text(f"title: {names}\n", "utf-8")
    (root / "params/tenants/shop.yaml").write_text("title: [broken", "utf-8")
    return root


def put(root: Path, tenant: str, name: str, content: Mapping[str, Any] | str) -> None:
    folder = root / "reports" / tenant
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, "utf-8")


def put_record(root: Path, notebook: str, **changes: Any) -> None:
    put(root, "medical", f"{notebook}.metrics.json", record(notebook=notebook, **changes))


def read(
    root: Path, tenant: str = "", *, tenants=("medical", "shop"), notebooks=("01_x",)
) -> BeautifulSoup:
    indexes.write_indexes(root, tenants=tenants, notebooks=notebooks, now=NOW)
    return soup((root / "reports" / tenant / "index.html").read_text("utf-8"))


def test_nothing_of_hostile_text_acts(tmp_path):
    root = make_site(tmp_path, title=HOSTILE)
    put_record(root, "01_x", metrics=[metric("fail", name=HOSTILE, labels={HOSTILE: HOSTILE})])
    put_record(root, "02_x", status="failed", error=HOSTILE)
    indexes.write_indexes(root, tenants=["medical"], notebooks=["01_x", "02_x"], now=NOW)
    for path in (root / "reports").rglob("index.html"):
        assert_self_contained(path.read_text("utf-8"))


class TestIndexes:
    @pytest.fixture
    def root(self, tmp_path):
        return make_site(tmp_path)

    def test_matrix_links_verdicts_and_ages(self, root):
        put_record(root, "01_x", metrics=[metric("fail")])
        put(root, "medical", "01_x.html", "report")
        page = read(root)
        row = page.tbody.find_all("tr")[0]
        assert row.th.get_text(" ", strip=True) == "Medical 医療"
        assert [a["href"] for a in row.find_all("a")] == ["medical/index.html", "medical/01_x.html"]
        cells = [cell.get_text(" ", strip=True) for cell in row.find_all("td")]
        assert cells == ["✗ fail", "✗ fail 1 of 1 limits is not met. 3 hours old"]
        assert page.find("time", title="22 November 2026, 09:00 UTC") is not None
        assert page.find(id="legend") is not None

    def test_scorecard_lists_what_is_not_met_and_links_the_files(self, root):
        good = metric(name="isolation")
        put_record(root, "01_x", metrics=[good, metric("insufficient", needed=900), metric("fail")])
        for suffix in ("html", "ipynb"):
            put(root, "medical", f"01_x.{suffix}", "x")
        page = read(root, "medical")
        card = page.find(class_="card")
        assert card.h2.get_text(" ", strip=True) == "✗ fail X"
        rows = [row.td.get_text() for row in card.tbody.find_all("tr")]
        assert rows == ["✗ fail", "? insufficient"]
        assert "needs 900" in card.get_text()
        assert [a["href"] for a in card.find(class_="files")("a")] == [
            "01_x.html", "01_x.ipynb", "01_x.metrics.json",
        ]  # fmt: skip

    def test_a_failed_run_keeps_the_last_good_in_sight(self, root):
        put_record(root, "01_x", status="failed", metrics=[], error="E: \x1b[1mno\x1b[0m\nrows")
        for name in ("01_x.html", "01_x.last_good.html"):
            put(root, "medical", name, "x")
        card = read(root, "medical").find(class_="card")
        assert card.pre.get_text() == "E: no rows"
        assert card.find("a", string="last good report")["href"] == "01_x.last_good.html"
        row = read(root).tbody.find_all("tr")[0]
        assert "… incomplete" in row.find_all("td")[0].get_text()
        assert row.find("a", string="last good report")["href"] == "medical/01_x.last_good.html"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ('{"schema": 1, "ten', "cannot be read (JSONDecodeError)"),
            ("", "cannot be read (JSONDecodeError)"),
            ("[" * 100_000, "cannot be read (RecursionError)"),
            ("[1]", "not a record of schema 1"),
            (record(notebook="01_x", schema=2), "not a record of schema 1"),
            (record(notebook="01_x", tenant="shop", metrics=[metric(name="secret")]),
             "belongs to another tenant"),
            (record(notebook="02_x"), "belongs to another notebook"),
            (record(notebook="01_x", status="fine"), "status is neither ok nor failed"),
            (record(notebook="01_x", metrics={}), "not in the form of the lab"),
            (record(notebook="01_x", metrics=[metric("great")]), "not in the form of the lab"),
            (record(notebook="01_x", metrics=[metric(["pass"])]), "not in the form of the lab"),
            (record(notebook="01_x", metrics=["x"]), "not in the form of the lab"),
        ],
    )  # fmt: skip
    def test_torn_and_foreign_records_are_told_of(self, root, content, said):
        put(root, "medical", "01_x.metrics.json", content)
        page = read(root, "medical")
        assert said in page.get_text()
        assert "secret" not in page.get_text()
        assert "! unreadable" in read(root).tbody.get_text()

    def test_bytes_that_are_no_text(self, root):
        folder = root / "reports" / "medical"
        folder.mkdir(parents=True)
        (folder / "01_x.metrics.json").write_bytes(b"\xff\xfe\x00{")
        assert "cannot be read" in read(root, "medical").get_text()

    def test_odd_values_in_a_record_of_the_right_form(self, root):
        odd = metric("pass", value="x", ci=[None, {}], n="many", unit=None, labels=[1], limit=3)
        put_record(root, "01_x", metrics=[odd], started="yesterday", seconds="x")
        assert "age unknown" in read(root, "medical").get_text()

    def test_no_tenant_page_names_another_tenant(self, root):
        figures = [metric("fail", name="shop_figure")]
        put(root, "shop", "01_x.metrics.json",
            record(notebook="01_x", tenant="shop", metrics=figures))  # fmt: skip
        text = str(read(root, "medical"))
        assert "shop" not in text
        assert "Not run yet." in text

    def test_broken_settings_leave_the_slug(self, root):
        assert read(root).tbody.find_all("tr")[1].th.get_text(strip=True) == "shop"

    def test_nothing_there_at_all(self, root):
        assert "No tenants yet" in read(root, tenants=()).get_text()
        assert "… incomplete" in read(root, notebooks=()).tbody.get_text()

    @pytest.mark.parametrize(
        ("started", "age"),
        [
            ("2026-11-22T11:59:30Z", "less than a minute"),
            ("2026-11-22T11:59:00Z", "1 minute"),
            ("2026-11-22T18:00:00+09:00", "3 hours"),
            ("2026-11-12T12:00:00Z", "10 days"),
            ("2026-11-23T12:00:00Z", "less than a minute"),
        ],
    )
    def test_age(self, root, started, age):
        put_record(root, "01_x", started=started)
        assert read(root, "medical").find(class_="card").time.get_text() == f"{age} old"

    def test_pages_are_replaced_whole_or_not_at_all(self, root, monkeypatch):
        read(root)
        before = (root / "reports" / "index.html").read_text("utf-8")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        put_record(
            root,
            "01_x",
        )
        with pytest.raises(OSError, match="No space left"):
            indexes.write_indexes(root, tenants=["medical"], notebooks=["01_x"], now=NOW)
        assert (root / "reports" / "index.html").read_text("utf-8") == before
        left = [path.name for path in (root / "reports").rglob("*") if path.is_file()]
        assert sorted(left) == ["01_x.metrics.json", "index.html", "index.html", "index.html"]

    def test_overall_of_a_tenant(self, root):
        def state(*records: Mapping[str, Any]) -> str:
            for number, one in enumerate(records):
                put(
                    root,
                    "medical",
                    f"0{number}_x.metrics.json",
                    {**one, "notebook": f"0{number}_x"},
                )
            names = [f"0{number}_x" for number in range(len(records))]
            entries = [indexes.read_entry(runs.Files(Tenant("medical", root), n)) for n in names]
            return indexes._tenant_state(entries)

        broken = record(status="failed")
        assert state(record(), record()) == "pass"
        assert state(record(), record(metrics=[metric("insufficient")])) == "insufficient"
        assert state(broken, record(metrics=[metric("fail")])) == "fail"
        assert state(record(), broken) == "incomplete"
        assert state(record(metrics=[])) == "no limit"
