"""Every notebook, executed for real: by the lab, by plain Papermill, on hostile data."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import BROWSER_FLAGS, lab, require_browser

from lab import runs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = runs.notebooks(ROOT)
HOSTILE = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=2>"
    "<a href='javascript:window.pwned=3'>{{7*7}}{% raw %}</a>\x1b[31m\u202e"
    "</style></title></textarea>"
)

# Models are measured on cores that other tests keep busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def record(project, notebook, tenant="medical"):
    return json.loads(
        (project / "reports" / tenant / f"{notebook}.metrics.json").read_text("utf-8")
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs_and_keeps_the_contract(fresh_project, notebook):
    outcome = lab(
        fresh_project, "run", "medical", "--profile", "smoke", "--notebook", notebook, timeout=600
    )
    assert outcome.returncode == 0, outcome.stderr
    found = record(fresh_project, notebook)
    assert (found["schema"], found["status"], found["profile"]) == (1, "ok", "smoke")
    assert found["metrics"]
    assert set(found["provenance"]["models"]) >= {"vlm", "clip", "encoder"}
    for metric in found["metrics"]:
        assert {"name", "labels", "value", "unit", "n", "ci", "limit", "verdict"} <= set(metric)
        assert metric["verdict"] in ("pass", "fail", "insufficient", None)
        assert (metric["limit"] is None) == (metric["verdict"] is None)
        assert metric["unit"]
        if metric["ci"] is not None and metric["value"] is not None:
            low, high = metric["ci"]  # null: an end that so few samples do not bear
            assert low is None or low <= metric["value"]
            assert high is None or metric["value"] <= high
    html = (fresh_project / "reports" / "medical" / f"{notebook}.html").read_text("utf-8")
    assert f"lab run medical --notebook {notebook} --profile smoke" in html


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_plain_papermill_works_from_the_root(demo_project, notebook, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill = Path(sys.executable).with_name("papermill")
    environment = {key: value for key, value in os.environ.items() if key != "LAB_ROOT"}
    subprocess.run(
        [
            str(papermill),
            f"notebooks/{notebook}.ipynb",
            str(out),
            "-p",
            "tenant",
            "medical",
            "-p",
            "profile",
            "smoke",
        ],
        cwd=demo_project,
        env=environment,
        check=True,
        capture_output=True,
        timeout=600,
    )
    outputs = nbformat.read(out, as_version=4).cells[-1].outputs
    assert any(
        "application/vnd.tuning-lab.metrics+json" in output.get("data", {}) for output in outputs
    )


def test_rows_that_break_the_format_stop_the_run_or_are_shown(fresh_project):
    path = fresh_project / "data" / "medical" / "faq.json"
    rows = json.loads(path.read_text("utf-8"))
    rows[3]["language"] = "fr"
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    words = ("run", "medical", "--profile", "smoke", "--notebook", "01")
    refused = lab(fresh_project, *words)
    assert refused.returncode == 1
    assert "faq.json:4: language: must be one of zh, en, ja, got 'fr'" in refused.stderr
    assert record(fresh_project, "01_data_analysis")["status"] == "failed"
    allowed = lab(fresh_project, *words, "--set", "data.quarantine=true")
    assert allowed.returncode == 0, allowed.stderr
    html = (fresh_project / "reports" / "medical" / "01_data_analysis.html").read_text("utf-8")
    assert "must be one of zh, en, ja" in html
    left_out = [
        one
        for one in record(fresh_project, "01_data_analysis")["metrics"]
        if one["name"] == "quarantined"
    ]
    assert any(one["value"] > 0 for one in left_out)


@pytest.mark.parametrize("kept", ["faq.json", "images.csv", "speech.json"])
def test_a_tenant_may_have_only_one_kind_of_data(fresh_project, kept):
    for name in ("faq.json", "images.csv", "speech.json", "joint.json"):
        if name != kept:
            (fresh_project / "data" / "medical" / name).unlink()
    outcome = lab(fresh_project, "run", "medical", "--profile", "smoke", "--notebook", "01")
    assert outcome.returncode == 0, outcome.stderr
    tables = {
        one["labels"]["table"] for one in record(fresh_project, "01_data_analysis")["metrics"]
    }
    assert tables == {kept.split(".")[0]}


@pytest.mark.browser
def test_a_hostile_corpus_executes_nothing(fresh_project):
    browser = require_browser()
    from playwright.sync_api import sync_playwright

    folder = fresh_project / "data" / "medical"
    faq = [
        {
            "question": f"{i} {HOSTILE}",
            "answer": HOSTILE + str(i % 3),
            "language": lang,
            "annotation": HOSTILE,
            "group": HOSTILE + str(i),
        }
        for i in range(20)
        for lang in ("zh", "en", "ja")
    ]
    (folder / "faq.json").write_text(json.dumps(faq), "utf-8")
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        images = list(csv.DictReader(file))
    with (folder / "images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(images[0]))
        writer.writeheader()
        writer.writerows(
            {**row, "description": HOSTILE, "annotation": HOSTILE, "group": HOSTILE}
            for row in images
        )
    speech = json.loads((folder / "speech.json").read_text("utf-8"))
    hostile = [{**row, "text": HOSTILE, "annotation": HOSTILE, "group": HOSTILE} for row in speech]
    (folder / "speech.json").write_text(json.dumps(hostile), "utf-8")
    tenant = fresh_project / "params" / "tenants" / "medical.yaml"
    tenant.write_text(json.dumps({"title": dict.fromkeys(("zh", "en", "ja"), HOSTILE)}), "utf-8")
    outcome = lab(fresh_project, "run", "medical", "--profile", "smoke", timeout=800)
    assert outcome.returncode == 0, outcome.stderr
    assert "\x1b" not in outcome.stderr
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        page = chromium.new_page()
        asked, dialogs = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        for path in sorted((fresh_project / "reports").rglob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("window.pwned") is None, path.name
            assert page.locator("script, iframe, [onerror], a[href^='javascript:']").count() == 0, (
                path.name
            )
        assert dialogs == []
        assert all(url.startswith(("file:", "data:")) for url in asked)
        text = page.goto(
            (fresh_project / "reports/medical/01_data_analysis.html").as_uri()
        ) and page.inner_text("body")
        assert "window.pwned=1" in text  # shown as the text it is
        chromium.close()
