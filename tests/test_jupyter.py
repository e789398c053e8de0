"""A person's way: a real JupyterLab in a real browser, Run All Cells from the menu."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import BROWSER_FLAGS, require_browser

from lab import slo

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def jupyter(fresh_project, tmp_path):
    """A JupyterLab on loopback that sees the project; gives its address."""
    log = tmp_path / "jupyter.log"
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "share"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"),
    }
    environment.pop("LAB_ROOT", None)
    words = [
        "lab",
        "--no-browser",
        "--ip=127.0.0.1",
        "--port=0",
        "--allow-root",
        "--ServerApp.token=secret",
        f"--notebook-dir={fresh_project}",
    ]
    with log.open("w") as file:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("jupyter")), *words],
            env=environment,
            stdout=file,
            stderr=file,
            cwd=fresh_project,
        )
        try:
            yield wait_for_address(log)
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for_address(log: Path) -> str:
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.mark.timeout(400)
def test_run_all_works_in_jupyterlab(jupyter, fresh_project):
    browser = require_browser()
    from playwright.sync_api import sync_playwright

    path = fresh_project / "notebooks" / "01_data_analysis.ipynb"
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{jupyter}/lab/tree/notebooks/{path.name}?token=secret")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
        # Only a connected kernel runs what is asked of it: the status bar tells.
        page.locator(".jp-StatusBar-TextItem", has_text="| Idle").wait_for(timeout=60_000)
        page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        notebook = nbformat.read(path, as_version=4)
        for _ in range(100):
            page.wait_for_timeout(2000)
            page.keyboard.press("Control+s")
            notebook = nbformat.read(path, as_version=4)
            if concluded(notebook.cells[-1].outputs):
                break
        chromium.close()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type in ("error", "stream")]
    assert concluded(outputs)


def concluded(outputs) -> bool:
    """Whether the metrics, the last thing a notebook shows, are there."""
    return any(slo.MIME in output.get("data", {}) for output in outputs)
