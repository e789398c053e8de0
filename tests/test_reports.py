"""Reports: whole, self-contained, readable, and inert whatever the data holds."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lab import reports, slo, tables

LONE_SURROGATE = "\ud800"  # JSON can hold one; UTF-8 and pandas cannot
HOSTILE = "\n".join(
    [
        "<script>window.pwned=1</script>",
        "<img src=x onerror=window.pwned=1>",
        "\"'><svg onload=window.pwned=1>",
        "[link](javascript:window.pwned=1) javascript:window.pwned=1",
        "{{7*7}} {% raw %} {# comment #}",
        "</textarea></style></title></pre></table><script>window.pwned=1</script>",
        "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07click\x1b]8;;\x07 \u202eevil\u2069",
        "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    ]
)
RAW_HTML = """
<script>window.pwned=1</script><img src=x onerror="window.pwned=1"><svg onload="window.pwned=1">
<a href="javascript:window.pwned=1" onclick="window.pwned=1">click</a>
<a href="//evil.example/x">far</a><a href="data:text/html,<script>window.pwned=1</script>">data</a>
<iframe src="http://evil.example" srcdoc="<script>window.pwned=1</script>"></iframe>
<meta http-equiv="refresh" content="0;url=http://evil.example"><base href="http://evil.example">
<form action="http://evil.example"><input name="a" autofocus onfocus="window.pwned=1"></form>
<link rel="stylesheet" href="http://evil.example/x.css"><style>@import "http://evil.example";</style>
<p style="background:url(http://evil.example)" id="verdict" class="verdict lab-pass">style</p>
<img src="http://evil.example/x.png"><img src="data:image/svg+xml,<svg onload=window.pwned=1>">
<math><mtext></form><form><mglyph><style></math><img src onerror="window.pwned=1">
<video src="http://evil.example" onerror="window.pwned=1"></video>
<p title="&#x202e;x">b\u202eidi</p>
"""


HOSTILE_SVG = (
    "<svg xmlns='http://www.w3.org/2000/svg' onload='window.pwned=1'>"
    "<script>window.pwned=1</script><image href='http://evil.example/x.png'/></svg>"
)


def metric(verdict: str | None = "pass", *, name: str = "error_rate", **changes: Any) -> dict:
    record = {
        "name": name, "labels": {}, "value": 0.01, "unit": "share", "n": 100, "ci": [0.005, 0.02],
        "limit": "< 0.05" if verdict else None, "verdict": verdict,
    }  # fmt: skip
    return {**record, **changes}


def record(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1, "tenant": "medical", "notebook": "01_data_analysis", "profile": "demo",
        "status": "ok", "run_key": "sha256:00", "started": "2026-11-22T09:00:00Z", "seconds": 41.2,
        "provenance": {"commit": "abc", "models": {}, "versions": {"python": "3.11.7"}},
        "metrics": [metric()], **changes,
    }  # fmt: skip


def display(shown: tables.Html | slo.Conclusion) -> NotebookNode:
    if isinstance(shown, slo.Conclusion):
        return new_output("display_data", data=shown._repr_mimebundle_())
    return new_output("display_data", data={"text/html": shown._repr_html_(), "text/plain": "x"})


def mime(name: str, data: str, **metadata: Any) -> NotebookNode:
    return new_output("display_data", data={name: data, "text/plain": "plain"}, metadata=metadata)


def code(source: str, *outputs: NotebookNode, tags: Sequence[str] = (), count: int | None = 1):
    return new_code_cell(
        source, outputs=list(outputs), execution_count=count, metadata={"tags": list(tags)}
    )


def notebook() -> NotebookNode:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 2])
    numbers = pd.DataFrame({"language": ["zh", "ja"], "text": ["直接", "直接"]})
    rows = tables.table(numbers, caption="Rows", language_column="language")
    picture = tables.picture(figure, alt="Up.", caption="Up", numbers=numbers)
    warning = new_output("stream", name="stderr", text="\r10%\r100%\n\x1b[33mW\x1b[0m: x\n")
    links = "See [a paper](https://doi.org/10.1/x) and [02](02_x.html)."
    return new_notebook(
        cells=[
            new_markdown_cell(f"# Is it fit?\n\n{links}"),
            code("worst: int = 20  # rows listed\nname: str = 'a#b'", tags=["parameters"]),
            code("# Parameters\nworst = 4", tags=["injected-parameters"]),
            code("import lab", warning),
            new_markdown_cell("## Languages\n\n#### Deep\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
            code("table", display(rows)),
            code("picture", display(picture)),
            new_markdown_cell("# Conclusion"),
            code("say", display(tables.sentences(["It is fit."])), tags=["conclusion"]),
            code("end", display(slo.Conclusion([]))),
        ]
    )


def failed_notebook() -> NotebookNode:
    nb = notebook()
    trace = ["\x1b[31mTraceback\x1b[0m", "  in load", "CorpusError: no rows"]
    nb.cells[5].outputs = [
        new_output("error", ename="CorpusError", evalue="no rows", traceback=trace)
    ]
    for cell in nb.cells[6:]:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def hostile_report() -> str:
    """Return a failed report in which every text field is hostile."""
    frame = pd.DataFrame({HOSTILE: [HOSTILE], "language": ["zh"]})
    figure = Figure(figsize=(1, 1))
    hostile = HOSTILE + LONE_SURROGATE
    nb = new_notebook(
        cells=[
            new_markdown_cell(f"# {HOSTILE}\n\n{hostile}\n\n```html\n{HOSTILE}\n```"),
            code(f"x: str = {HOSTILE!r}  # <script>window.pwned=1</script>", tags=["parameters"]),
            code(
                HOSTILE,
                new_output("stream", name="stdout", text=hostile),
                new_output("stream", name="stderr", text=hostile),
                display(tables.table(frame, caption=HOSTILE, language_column="language")),
                display(tables.picture(figure, alt=HOSTILE, caption=HOSTILE, numbers=frame)),
                display(tables.sentences([HOSTILE])),
                tags=["conclusion"],
            ),
            code(
                "raw",
                mime("text/html", RAW_HTML),
                mime("text/html", hostile),
                mime("text/markdown", HOSTILE),
                mime("image/svg+xml", HOSTILE_SVG),
                mime("image/png", "AAAA\" onerror=window.pwned=1 x=\""),
                mime("image/png", "AAAA", **{"image/png": {"alt": HOSTILE}}),
                mime("application/javascript", "window.pwned=1"),
                mime("text/plain", HOSTILE),
            ),
            code("boom", new_output("error", ename=HOSTILE, evalue=HOSTILE, traceback=[hostile])),
        ]
    )  # fmt: skip
    failed = record(
        tenant=hostile, profile=HOSTILE, status="failed", error=hostile, started=HOSTILE,
        seconds=HOSTILE, provenance={HOSTILE: hostile, "versions": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    return reports.render(
        nb, record=failed, reproduce=hostile, title=hostile, notes=[hostile], last_good=HOSTILE
    )


def hostile_verdicts() -> str:
    """Return a good report whose figures and title are hostile."""
    hostile = metric("fail", name=HOSTILE, unit=HOSTILE, labels={HOSTILE: HOSTILE}, limit=HOSTILE)
    cells = [new_markdown_cell(HOSTILE)]
    return reports.render(
        new_notebook(cells=cells), record=record(metrics=[hostile]), reproduce="x", title=HOSTILE
    )


def soup(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def assert_self_contained(html: str) -> None:
    """Nothing is fetched, nothing runs, and the policy that forbids both comes first."""
    page = soup(html)
    assert page.find(["script", "iframe", "object", "embed", "base", "form", "link", "svg"]) is None
    for tag in page.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            address = tag.get(name)
            if address is not None:
                assert re.fullmatch(
                    r"data:image/(png|svg\+xml);base64,[\w+/=]+|#[\w-]+|(\.\./)?[\w.%/-]+", address
                ), (tag.name, address)
    assert not re.search(r"url\(|@import", "".join(style.get_text() for style in page("style")))
    metas = page.find_all("meta")
    assert metas[1]["http-equiv"] == "Content-Security-Policy"
    assert metas[1]["content"] == (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert [meta for meta in metas if meta.get("http-equiv") == "refresh"] == []
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)


@pytest.fixture(scope="module")
def page() -> BeautifulSoup:
    return soup(
        reports.render(
            notebook(),
            record=record(metrics=[metric(None), metric(), metric("insufficient"), metric("fail")]),
            reproduce="lab run medical --set 'a=b'",
            notes=["12 rows were left out."],
        )
    )


class TestReport:
    def test_is_self_contained_and_in_a_language(self):
        html = reports.render(notebook(), record=record(), reproduce="x")
        assert html.lstrip().startswith("<!doctype html>")
        assert soup(html).html["lang"] == "en"
        assert_self_contained(html)

    def test_equal_input_gives_equal_bytes(self):
        first, second = (
            reports.render(notebook(), record=record(), reproduce="x") for _ in range(2)
        )
        assert first == second

    def test_verdict_comes_first_and_the_worst_on_top(self, page):
        assert page.find(id="verdict-title").get_text(" ", strip=True) == (
            "✗ fail 1 of 3 limits is not met. 1 of 3 cannot be decided yet: more data needed."
        )
        order = [tag.get("id") for tag in page.find_all(["section", "nav", "article"])]
        assert order[0] == "verdict"
        first_table = page.find(id="verdict").table
        marks = [row.td.get_text() for row in first_table.tbody.find_all("tr")]
        assert marks == ["✗ fail", "? insufficient", "✓ pass"]
        rest = page.find(id="verdict").details
        assert rest.summary.get_text() == "Figures without a limit"
        assert len(rest.tbody.find_all("tr")) == 1

    def test_conclusion_and_notes_stand_with_the_verdict(self, page):
        text = page.find(id="verdict").get_text()
        assert "It is fit." in text
        assert "12 rows were left out." in text

    @pytest.mark.parametrize(
        ("metrics", "said"),
        [
            ([], "no limit No limit is set for what was measured here."),
            ([metric(None)], "no limit No limit is set for what was measured here."),
            ([metric()], "✓ pass The one limit is met."),
            ([metric(), metric()], "✓ pass All 2 limits are met."),
            ([metric("fail"), metric("fail")], "✗ fail 2 of 2 limits are not met."),
            ([metric(), metric("insufficient")],
             "? insufficient 1 of 2 cannot be decided yet: more data needed."),
        ],
    )  # fmt: skip
    def test_verdict_in_words(self, metrics, said):
        html = reports.render(notebook(), record=record(metrics=metrics), reproduce="x")
        assert soup(html).find(id="verdict-title").get_text(" ", strip=True) == said

    def test_headings_never_skip_a_level(self, page):
        levels = [int(tag.name[1]) for tag in page.find_all(re.compile(r"^h[1-6]$"))]
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))

    def test_contents_lead_to_the_headings(self, page):
        links = page.nav.find_all("a")
        assert [link.get_text() for link in links] == [
            "Languages", "Deep", "Conclusion", "Where this comes from", "How to make it again",
        ]  # fmt: skip
        for link in links:
            assert page.find(id=link["href"][1:]).get_text() == link.get_text()

    def test_every_inner_link_resolves_and_no_id_is_used_twice(self, page):
        ids = [tag["id"] for tag in page.find_all(id=True)]
        assert len(ids) == len(set(ids))
        inner = [a["href"][1:] for a in page.find_all("a", href=True) if a["href"][0] == "#"]
        assert set(inner) <= set(ids)

    def test_title_is_the_first_heading_unless_given(self, page):
        assert page.h1.get_text() == "Is it fit?"
        html = reports.render(notebook(), record=record(), reproduce="x", title="医疗")
        assert soup(html).h1.get_text() == "医疗"
        assert "Is it fit?" in [h.get_text() for h in soup(html).find_all("h2")]
        bare = reports.render(new_notebook(), record=record(), reproduce="x")
        assert soup(bare).h1.get_text() == "Data analysis"

    def test_code_is_folded_and_there(self, page):
        blocks = page.find_all("details", class_="code")
        assert [block.pre.get_text() for block in blocks] == [
            "import lab", "table", "picture", "say", "end",
        ]  # fmt: skip
        assert not any(block.has_attr("open") for block in blocks)

    def test_parameters_are_a_table_and_no_code(self, page):
        table = next(
            t for t in page.find_all("table") if t.caption and t.caption.get_text() == "Parameters"
        )
        rows = [[c.get_text() for c in row.find_all(["th", "td"])] for row in table.tbody("tr")]
        assert rows == [
            ["worst", "4", "this run", "rows listed"],
            ["name", "'a#b'", "notebook", ""],
        ]

    def test_parameters_that_are_more_than_values_stay_code(self):
        nb = new_notebook(cells=[code("import os\nx = 1", tags=["parameters"])])
        shown = soup(reports.render(nb, record=record(), reproduce="x"))
        assert shown.find("details", class_="code").pre.get_text() == "import os\nx = 1"

    def test_warnings_are_folded_and_clean(self, page):
        block = page.find("details", class_="printed")
        assert block.summary.get_text() == "Warnings and messages (2 lines)"
        assert block.pre.get_text().strip() == "100%\nW: x"

    def test_printed_text_is_capped_and_says_so(self):
        nb = new_notebook(cells=[code("p", new_output("stream", name="stdout", text="a" * 30_000))])
        shown = soup(reports.render(nb, record=record(), reproduce="x"))
        assert len(shown.find("pre", class_="scroll").get_text()) == 20_000
        assert "10000 more characters are in the notebook." in shown.get_text()

    def test_every_image_has_an_alternative(self, page):
        assert [image["alt"] for image in page.find_all("img")] == ["Up."]
        svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
        nb = new_notebook(
            cells=[
                code(
                    "x",
                    mime("image/png", "AAAA\n"),
                    mime("image/png", "AAAA", **{"image/png": {"alt": "A cat"}}),
                    mime("image/svg+xml", svg),
                    mime("text/html", '<img src="data:image/png;base64,AAAA">'),
                )
            ]
        )
        images = soup(reports.render(nb, record=record(), reproduce="x")).find_all("img")
        unknown = "Image without a description"
        assert [image["alt"] for image in images] == [unknown, "A cat", unknown, unknown]
        assert base64.b64decode(images[2]["src"].partition(",")[2]).decode() == svg

    def test_languages_survive(self, page):
        assert [cell.get_text() for cell in page.article.find_all(lang="ja")] == ["直接"]

    def test_remote_links_become_text_and_local_ones_stay(self, page):
        text = page.find(id="cell-1")
        assert "a paper (https://doi.org/10.1/x)" in text.get_text()
        assert [link["href"] for link in text.find_all("a")] == ["02_x.html"]

    def test_provenance_and_the_command(self, page):
        table = page.find("table", class_="provenance")
        rows = {row.th.get_text(): row.td.get_text().strip() for row in table.tbody("tr")}
        assert rows["commit"] == "abc"
        assert rows["models"] == "none"
        assert rows["versions"] == "python 3.11.7"
        assert page.find("pre", class_="command").get_text() == "lab run medical --set 'a=b'"

    def test_style_has_dark_print_and_both_scripts(self, page):
        style = page.style.get_text()
        for part in (
            "prefers-color-scheme: dark",
            "@media print",
            "@page",
            ":lang(zh-Hans)",
            ":lang(ja)",
        ):
            assert part in style
        assert tables.stylesheet().strip() in style

    def test_style_of_cells_is_not_repeated(self, page):
        assert len(page.find_all("style")) == 1

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_contrast(self, scheme):
        css = (Path(reports.__file__).parent / "templates" / "report.css").read_text("utf-8")
        blocks = re.findall(r":root \{(.*?)\}", css, re.S)
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[scheme == "dark"]))
        for name in ("text", "quiet", "link", "keyword", "string", "comment", "literal"):
            for ground in ("page", "raised"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)

    def test_verdict_contrast(self):
        pairs = re.findall(r"background: (#[0-9a-f]{6}); color: #fff", tables.stylesheet())
        assert len(pairs) == 4
        assert all(contrast(ground, "#ffffff") >= 4.5 for ground in pairs)

    def test_old_or_foreign_records_do_not_break_it(self):
        html = reports.render(new_notebook(), record={"status": "ok"}, reproduce="")
        assert "No limit is set" in html


class TestFailedReport:
    def page(self, nb: NotebookNode, **changes: Any) -> BeautifulSoup:
        failed = record(status="failed", error="CorpusError: \x1b[31mno <rows>\x1b[0m", **changes)
        return soup(reports.render(nb, record=failed, reproduce="x", last_good="01.last_good.html"))

    def test_banner_says_what_and_where(self):
        page = self.page(failed_notebook())
        banner = page.find(id="verdict")
        assert banner.h2.get_text(" ", strip=True) == (
            "! failed run The notebook did not finish: no verdict."
        )
        assert banner.pre.get_text() == "CorpusError: no <rows>"
        links = [link["href"] for link in banner.find_all("a")]
        assert links == ["#cell-6", "01.last_good.html"]
        cell = page.find(id="cell-6")
        assert "The run stopped here." in cell.get_text()
        assert cell.find(class_="traceback").get_text() == (
            "Traceback\n  in load\nCorpusError: no rows"
        )
        assert cell.details.has_attr("open")
        assert len(page.find_all(class_="failed-here")) == 1

    def test_no_success_is_shown_even_if_figures_are_there(self):
        page = self.page(failed_notebook(), metrics=[metric()])
        assert page.find(id="verdict").table is None
        assert "✓" not in page.get_text()

    def test_without_a_traceback_the_last_begun_cell_is_named(self):
        nb = failed_notebook()
        nb.cells[5].outputs = []
        assert self.page(nb).find(class_="failed-here").parent["id"] == "cell-6"

    def test_nothing_ran_at_all(self):
        nb = new_notebook(cells=[new_markdown_cell("x"), code("y", count=None)])
        assert self.page(nb).find(class_="failed-here").parent["id"] == "cell-2"
        assert self.page(new_notebook()).find(class_="failed-here") is None

    def test_a_failing_parameter_cell_is_shown(self):
        error = new_output("error", ename="NameError", evalue="x", traceback=[])
        nb = new_notebook(cells=[code("x = y", error, tags=["injected-parameters"])])
        assert self.page(nb).find(class_="traceback").get_text() == "NameError: x"


class TestHostileText:
    @pytest.mark.parametrize("make", [hostile_report, hostile_verdicts])
    def test_nothing_of_it_acts(self, make):
        html = make()
        assert_self_contained(html)
        assert "{{7*7}}" in html
        assert "49" not in soup(html).h1.get_text()
        html.encode("utf-8")


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_import_is_light():
    names = "('jinja2', 'nh3', 'markdown_it', 'pygments', 'nbconvert', 'pandas')"
    code = "import sys; from lab import indexes, reports"
    source = f"{code}; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
