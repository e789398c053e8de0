"""Reports in a real browser: hostile text runs nothing, and the page reads well everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from matplotlib.figure import Figure

from lab import indexes, machine, markup, reports, slo, tables

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra named test")

# These need the extra too, so that they come after the question whether it is there.
from test_indexes import NOW, make_site, put_record  # noqa: E402
from test_reports import (  # noqa: E402
    HOSTILE,
    RAW_HTML,
    failed_notebook,
    hostile_report,
    hostile_verdicts,
    metric,
    notebook,
    record,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(machine.browser() is None, reason="no Chromium was found on this machine"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Fires what waits for a reader: handlers on focus, hover and click, and folded parts.
PROVOKE = """() => {
  for (const element of document.querySelectorAll('*')) {
    if (element instanceof HTMLDetailsElement) element.open = true;
    for (const kind of ['focus', 'mouseover', 'click', 'load', 'error', 'toggle'])
      if (!(element instanceof HTMLAnchorElement && kind === 'click'))
        element.dispatchEvent(new Event(kind));
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=machine.browser(), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context()
    yield made
    made.close()


class Watched:
    """A page that was opened, and everything it tried to do."""

    def __init__(self, context: BrowserContext, path: Path) -> None:
        self.page = context.new_page()
        self.requests: list[str] = []
        self.stopped: list[str] = []  # requests that the policy stopped
        self.dialogs: list[str] = []
        self.console: list[str] = []
        self.popups: list[Page] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss())
        )
        self.page.on("requestfailed", self._failed)
        self.page.on("console", lambda line: self.console.append(line.text))
        self.page.on("popup", lambda popup: self.popups.append(popup))
        self.address = path.as_uri()
        self.page.goto(self.address)
        self.page.evaluate(PROVOKE)
        self.page.wait_for_timeout(100)

    def _failed(self, request: Request) -> None:
        if request.failure == "csp":
            self.stopped.append(request.url)

    def assert_inert(self) -> None:
        assert self.page.evaluate("window.pwned === undefined")
        assert self.page.url == self.address
        sent = [url for url in self.requests if url not in self.stopped]
        assert [url for url in sent if not url.startswith("data:image/")] == [self.address]
        assert self.dialogs == []
        assert self.popups == []


def write(folder: Path, html: str) -> Path:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


def good_report() -> str:
    figures = [metric("fail"), metric("insufficient"), metric(), metric(None)]
    return reports.render(notebook(), record=record(metrics=figures), reproduce="lab run medical")


class TestHostileText:
    @pytest.mark.parametrize("make", [hostile_report, hostile_verdicts])
    def test_report_runs_nothing(self, context, tmp_path, make):
        watched = Watched(context, write(tmp_path, make()))
        watched.assert_inert()
        # Not even the policy had something to stop: the text was inert before it.
        assert watched.stopped == []
        assert watched.console == []
        assert "<script>window.pwned=1</script>" in watched.page.inner_text("h1")

    def test_indexes_run_nothing(self, context, tmp_path):
        root = make_site(tmp_path, title=HOSTILE)
        figures = [metric("fail", name=HOSTILE, labels={HOSTILE: HOSTILE}, limit=HOSTILE)]
        put_record(root, "01_x", metrics=figures)
        put_record(root, "02_x", status="failed", error=HOSTILE)
        indexes.write_indexes(root, tenants=["medical"], notebooks=["01_x", "02_x"], now=NOW)
        for path in ("index.html", "medical/index.html"):
            watched = Watched(context, root / "reports" / path)
            watched.assert_inert()
            assert watched.console == []

    def test_what_cells_show_is_inert_without_any_policy(self, context, tmp_path):
        """In JupyterLab there is neither our policy nor our sanitiser: escaping alone must do."""
        frame = pd.DataFrame({HOSTILE: [HOSTILE], "language": [HOSTILE]}, index=[HOSTILE])
        hostile = slo.Metric(HOSTILE, 1.0, HOSTILE, 1, labels={HOSTILE: HOSTILE}, limit=HOSTILE)
        shown = [
            tables.table(frame, caption=HOSTILE, language_column="language"),
            tables.metrics([hostile], caption=HOSTILE),
            tables.picture(Figure(), alt=HOSTILE, caption=HOSTILE, numbers=frame),
            tables.sentences([HOSTILE]),
        ]
        body = "".join(html._repr_html_() for html in shown)
        Watched(
            context, write(tmp_path, f"<!doctype html><meta charset=utf-8>{body}")
        ).assert_inert()

    def test_sanitiser_alone_stops_foreign_markup(self, context, tmp_path):
        page = f"<!doctype html><meta charset=utf-8>{markup.sanitised(RAW_HTML)}"
        Watched(context, write(tmp_path, page)).assert_inert()

    def test_policy_alone_stops_foreign_markup(self, context, tmp_path):
        scripts = "<script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"
        html = good_report().replace("</main>", f"{scripts}</main>")
        watched = Watched(context, write(tmp_path, html))
        watched.assert_inert()
        assert len(watched.stopped) == 1
        assert any("Content Security Policy" in line for line in watched.console)

    def test_the_attack_is_one(self, context, tmp_path):
        """Without any wall the same text does run; else the tests above would prove nothing."""
        page = f"<!doctype html><meta charset=utf-8><p>{HOSTILE.splitlines()[0]}"
        watched = Watched(context, write(tmp_path, page))
        assert watched.page.evaluate("window.pwned") == 1


class TestReading:
    def test_without_javascript_the_verdict_is_there(self, browser, tmp_path):
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(write(tmp_path, good_report()).as_uri())
        heading = page.locator("#verdict-title")
        assert heading.is_visible()
        assert "1 of 3 limits is not met." in heading.inner_text()
        code = page.locator("details.code").first
        assert not code.locator("pre").is_visible()
        code.locator("summary").click()
        assert code.locator("pre").is_visible()
        context.close()

    @pytest.mark.parametrize("kind", ["report", "failed", "hostile", "index"])
    def test_a_phone_never_scrolls_the_page_sideways(self, browser, tmp_path, kind):
        if kind == "index":
            root = make_site(tmp_path)
            names = [f"0{number}_a_notebook_with_a_long_name" for number in range(7)]
            put_record(root, names[0], metrics=[metric("fail")])
            indexes.write_indexes(root, tenants=["medical"], notebooks=names, now=NOW)
            path = root / "reports" / "index.html"
        elif kind == "failed":
            failed = record(status="failed", error="CorpusError: " + "长" * 300 + "x" * 300)
            html = reports.render(failed_notebook(), record=failed, reproduce="lab " + "x" * 300)
            path = write(tmp_path, html)
        else:
            path = write(tmp_path, good_report() if kind == "report" else hostile_report())
        context = browser.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        context.close()

    @pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
    def test_colours_follow_the_preference(self, browser, tmp_path, scheme, dark):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(write(tmp_path, good_report()).as_uri())
        colours = page.evaluate(
            "(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))"
        )
        ground, text = (sum(map(int, colour[4:-1].split(","))) / 3 for colour in colours)
        assert (ground < 64, text > 192) == (dark, dark)
        context.close()

    def test_failed_report_leads_to_its_cell(self, context, tmp_path):
        failed = record(status="failed", error="CorpusError: no rows")
        html = reports.render(failed_notebook(), record=failed, reproduce="x")
        page = context.new_page()
        page.goto(write(tmp_path, html).as_uri())
        assert page.locator(".banner").is_visible()
        page.get_by_text("Go to the cell that failed").click()
        assert page.locator(".traceback").is_visible()
        top = page.evaluate("document.querySelector('.failed-here').getBoundingClientRect().top")
        assert 0 <= top < page.viewport_size["height"]

    def test_contents_work_by_keyboard(self, context, tmp_path):
        page = context.new_page()
        page.goto(write(tmp_path, good_report()).as_uri())
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("nav a", has_text="Conclusion").focus()
        page.keyboard.press("Enter")
        assert page.url.endswith("#section-3")

    def test_print_shows_the_numbers_and_leaves_out_the_code(self, context, tmp_path):
        page = context.new_page()
        page.goto(write(tmp_path, good_report()).as_uri())
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator(".lab-figure details table").is_visible()
        assert not page.locator("details.code").first.is_visible()
        assert not page.locator("nav").is_visible()
        white = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert white == "rgb(255, 255, 255)"
        pdf = page.pdf()
        assert pdf.startswith(b"%PDF-")
        assert len(pdf) > 5000

    def test_chinese_and_japanese_get_fonts_of_their_own(self, context, tmp_path):
        page = context.new_page()
        page.goto(write(tmp_path, good_report()).as_uri())
        families = page.evaluate(
            "['zh-Hans', 'ja'].map(tag => getComputedStyle("
            "document.querySelector(`article [lang='${tag}']`)).fontFamily)"
        )
        assert "Noto Sans CJK SC" in families[0]
        assert "CJK JP" not in families[0]
        assert "Noto Sans CJK JP" in families[1]
        assert "CJK SC" not in families[1]
