"""Tables, metrics, pictures and sentences: what is shown, and that text stays text."""

from __future__ import annotations

import base64
import io
import math
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag
from matplotlib.figure import Figure
from PIL import Image

from lab import corpus, params, slo, tables
from lab.errors import ParameterError, PathError, printable
from lab.media import MediaError

HOSTILE = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"><svg onload='window.pwned=1'>",
    "' onmouseover='window.pwned=1",
    "javascript:window.pwned=1",
    "{{7*7}}{% raw %}{# #}",
    "</textarea></style></title></table><script>window.pwned=1</script>",
    "\x1b[31mred\x1b[0m \u202eevil\u2066 \u200b\x00 &lt;b&gt; &#60;script&#62;",
    "=HYPERLINK(1)\nsecond line\r\nthird",
]


def parsed(html: tables.Html) -> BeautifulSoup:
    return BeautifulSoup(html.markup, "html.parser")


def texts(row: Tag) -> list[str]:
    return [cell.get_text() for cell in row.find_all(["th", "td"])]


def metric(**changes: object) -> slo.Metric:
    fields: dict[str, object] = {"name": "error_rate", "value": 0.01, "unit": "share", "n": 100}
    return slo.Metric(**{**fields, **changes})


class TestNumber:
    @pytest.mark.parametrize(
        ("value", "decimals", "shown"),
        [
            (0, None, "0"),
            (9876, None, "9876"),
            (12345, None, "12,345"),
            (-3, None, "−3"),
            (np.int64(1234567), None, "1,234,567"),
            (0.5, 3, "0.500"),
            (-0.0, 1, "0.0"),
            (12.345, None, "12.3"),
            (123456.7, 1, "123,456.7"),
            (0.0004, 2, "0.0004"),
            (-0.0004, 2, "−0.0004"),
            (0.004, 2, "0.004"),
            (2e20, 2, "2e+20"),
            (math.nan, 2, "–"),
            (-math.inf, 2, "−∞"),
        ],
    )
    def test_by_hand(self, value, decimals, shown):
        assert tables.number(value, decimals=decimals) == shown


class TestQuantities:
    @pytest.mark.parametrize(
        ("value", "unit", "ci", "shown", "shown_ci"),
        [
            (0.0123, "share", (0.0118, 0.0134), "1.230 %", "1.180 to 1.340 %"),
            (0.3812, "s", (0.3701, 0.3955), "0.381 s", "0.370 to 0.396 s"),
            (123456.0, "requests/s", (120000.0, 126000.0), "123,456 requests/s",
             "120,000 to 126,000 requests/s"),
            (538_000_000, "B", None, "538 MB", "–"),
            (2.25, "", None, "2.25", "–"),
            (1.0, "share", (1.0, 1.0), "100 %", "exact: all were looked at"),
            (None, "s", (None, None), "–", "–"),
            (math.nan, "s", (0.1, math.nan), "–", "–"),
            (0.381, "s", (0.378, None), "0.381 s", "at least 0.378 s"),
            (0.381, "s", (0.378, math.inf), "0.381 s", "at least 0.378 s"),
            (0.0, "share", (None, 0.25), "0 %", "at most 25 %"),
            (0.5, "分", (0.4, 0.6), "0.50 分", "0.40 to 0.60 分"),
        ],
    )  # fmt: skip
    def test_by_hand(self, value, unit, ci, shown, shown_ci):
        assert tables.quantity(value, unit=unit, ci=ci) == shown
        assert tables.interval(ci, unit=unit) == shown_ci

    @pytest.mark.parametrize(
        ("limit", "unit", "shown"),
        [
            ("< 0.4", "s", "< 0.4 s"),
            ("<= 0.029", "share", "≤ 2.9 %"),
            (">= 1", "share", "≥ 100 %"),
            ("> 100", "", "> 100"),
            (None, "s", "–"),
            ("about 3", "s", "about 3"),
        ],
    )
    def test_limits_by_hand(self, limit, unit, shown):
        assert tables.limit_text(limit, unit=unit) == shown

    def test_rounding_never_crosses_the_limit(self):
        failing = metric(value=0.40001, unit="s", ci=(0.3, 0.5), limit="<= 0.4", verdict="fail")
        passing = metric(value=0.39996, unit="s", limit="< 0.4", verdict="pass")
        markup = tables.metrics([failing, passing]).markup
        assert "0.40001 s" in markup
        assert "0.39996 s" in markup


class TestTable:
    def test_cells_headers_and_alignment(self):
        frame = pd.DataFrame({"word": ["b", "a"], "n": [7, 12000], "share": [0.123456, math.nan]})
        soup = parsed(tables.table(frame, caption="Words"))
        rows = soup.find_all("tr")
        assert [texts(row) for row in rows] == [
            ["word", "n", "share"],
            ["b", "7", "0.123"],
            ["a", "12,000", "–"],
        ]
        assert [cell.get("scope") for cell in rows[0].find_all("th")] == ["col"] * 3
        assert [cell.get("class") for cell in rows[1].find_all("td")] == [
            None,
            ["lab-number"],
            ["lab-number"],
        ]
        assert soup.caption.get_text() == "Words"
        assert soup.div["tabindex"] == "0"
        assert soup.div["aria-label"] == "Words"

    def test_named_and_many_level_indexes_become_row_headers(self):
        frame = pd.DataFrame({"n": [1, 2]}, index=pd.Index(["zh", "ja"], name="language"))
        rows = parsed(tables.table(frame, caption="c")).find_all("tr")
        assert texts(rows[0]) == ["language", "n"]
        assert rows[1].th["scope"] == "row"
        many = pd.DataFrame({("a", "b"): [1]}, index=pd.MultiIndex.from_tuples([("x", 2)]))
        assert [texts(row) for row in parsed(tables.table(many, caption="c")).find_all("tr")] == [
            ["", "a · b"],
            ["x · 2", "1"],
        ]

    def test_languages_choose_the_glyphs(self):
        frame = pd.DataFrame(
            {
                "text": ["直接", "直接", "direct", "x", "直接"],
                "reason": ["short"] * 5,
                "language": ["zh", "ja", "en", "fr", None],
            }
        )
        cells = parsed(tables.table(frame, caption="c", language_column="language")).find_all("td")
        assert [cell.get("lang") for cell in cells[0::3]] == ["zh-Hans", "ja", "en", None, None]
        assert [cell.get("lang") for cell in cells[1::3]] == [None, None, "en", None, None]

    def test_unknown_language_column(self):
        with pytest.raises(ParameterError, match="language_column must be one of a, got 'b'"):
            tables.table(pd.DataFrame({"a": [1]}), caption="c", language_column="b")

    @pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []})])
    def test_empty_says_none(self, frame):
        html = tables.table(frame, caption="Rows left out")
        assert parsed(html).get_text() == "Rows left out: none"
        assert repr(html) == "Table: Rows left out (0 rows)"

    def test_missing_values_flags_and_odd_types(self):
        frame = pd.DataFrame(
            {"x": [None, pd.NA, pd.NaT, True, [1, 2], {"a": 1}, 3, 2.5]}, dtype=object
        )
        cells = [c.get_text() for c in parsed(tables.table(frame, caption="c")).find_all("td")]
        assert cells == ["–", "–", "–", "yes", "[1, 2]", "{'a': 1}", "3", "2.50"]

    def test_columns_of_one_name_keep_their_own_values(self):
        frame = pd.DataFrame([[1, "a"]], columns=["x", "x"])
        assert texts(parsed(tables.table(frame, caption="c")).find_all("tr")[1]) == ["1", "a"]

    def test_input_is_unmodified(self):
        frame = pd.DataFrame({"a": [1.5, None]})
        before = frame.copy(deep=True)
        tables.table(frame, caption="c")
        pd.testing.assert_frame_equal(frame, before)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_stays_text(self, text):
        frame = pd.DataFrame({text: [text]}, index=pd.Index([text], name=text))
        soup = parsed(tables.table(frame, caption=text))
        safe = printable(text)
        assert [texts(row) for row in soup.find_all("tr")] == [[safe, safe], [safe, safe]]
        assert soup.caption.get_text() == safe
        assert soup.div["aria-label"] == safe
        assert {tag.name for tag in soup.find_all(True)} <= {
            "div", "table", "caption", "thead", "tbody", "tr", "th", "td",
        }  # fmt: skip


class TestMetrics:
    def test_worst_first_with_words_symbols_and_the_n_that_would_do(self):
        shown = tables.metrics(
            [
                metric(name="isolation", value=1.0, limit=">= 1", verdict="pass"),
                metric(name="rows", value=5, unit="rows"),
                metric(limit="< 0.001", verdict="insufficient", needed=2300, ci=(0.0, 0.03)),
                metric(name="latency_p95", value=0.5, unit="s", limit="< 0.4", verdict="fail",
                       labels={"query": "text", "batch_size": 8}),
            ]
        )  # fmt: skip
        rows = [texts(row) for row in parsed(shown).find_all("tr")]
        assert rows == [
            ["Verdict", "Figure", "Value", "95 % interval", "n", "Limit"],
            ["✗ fail", "latency p95query: textbatch_size: 8", "0.500 s", "–", "100", "< 0.4 s"],
            ["? insufficient", "error rate", "1.0 %", "0.0 to 3.0 %", "100needs 2300", "< 0.1 %"],
            ["✓ pass", "isolation", "100 %", "–", "100", "≥ 100 %"],
            ["no limit", "rows", "5 rows", "–", "100", "–"],
        ]

    def test_without_limits_there_is_no_verdict_column(self):
        rows = parsed(tables.metrics([metric()])).find_all("tr")
        assert texts(rows[0]) == ["Figure", "Value", "95 % interval", "n"]

    def test_none_at_all(self):
        assert parsed(tables.metrics([], caption="Figures")).get_text() == "Figures: none"

    def test_nan_is_not_a_number_to_show(self):
        bad = metric(value=math.nan, ci=(math.nan, math.nan), limit="< 1", verdict="insufficient")
        assert texts(parsed(tables.metrics([bad])).find_all("tr")[1])[2:4] == ["–", "–"]

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_stays_text(self, text):
        hostile = metric(name=text, unit=text, labels={text: text, "language": "zh"}, limit=text)
        soup = parsed(tables.metrics([hostile], caption=text))
        assert {tag.name for tag in soup.find_all(True)} <= {
            "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span",
        }  # fmt: skip
        assert printable(text) in soup.find(class_="lab-label").get_text()


class TestPicture:
    def figure(self) -> Figure:
        figure = Figure(figsize=(3, 2), dpi=100)
        figure.subplots().plot([1, 2, 3])
        return figure

    def show(self, **changes: object) -> tables.Html:
        words = {"alt": "It rises.", "caption": "Rise", **changes}
        return tables.picture(self.figure(), numbers=pd.DataFrame({"y": [1, 2, 3]}), **words)

    def test_image_alt_caption_and_numbers(self):
        soup = parsed(self.show())
        assert soup.img["alt"] == "It rises."
        assert (soup.img["width"], soup.img["height"]) == ("300", "200")
        assert soup.figcaption.get_text() == "Rise"
        assert soup.summary.get_text() == "Numbers behind this figure"
        assert [cell.get_text() for cell in soup.find_all("td")] == ["1", "2", "3"]

    def test_twice_the_density_and_nothing_but_the_picture(self):
        data = base64.b64decode(parsed(self.show()).img["src"].partition(",")[2])
        assert struct.unpack(">II", data[16:24]) == (600, 400)
        assert b"tEXt" not in data
        assert b"tIME" not in data

    def test_equal_figures_give_equal_bytes(self):
        assert self.show().markup == self.show().markup

    def test_blank_alt_is_refused(self):
        with pytest.raises(ParameterError, match="alt must say in words"):
            self.show(alt=" ")

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_stays_text(self, text):
        soup = parsed(self.show(alt=text, caption=text))
        assert soup.img["alt"] == printable(text)
        assert sorted(soup.img.attrs) == ["alt", "height", "src", "width"]
        assert soup.find(["script", "svg"]) is None


@pytest.fixture(scope="module")
def resolved(sound_project):
    return params.load("medical", root=sound_project)


@pytest.fixture(scope="module")
def data(resolved):
    return corpus.load(resolved)


class TestExhibits:
    @pytest.fixture
    def show(self, data, resolved):
        def exhibits(frame, caption="Worst", language_column="language"):
            return tables.exhibits(
                frame,
                caption=caption,
                corpus=data,
                data=resolved.settings.data,
                language_column=language_column,
            )

        return exhibits

    def rows(self, data, **more):
        first = data.tables["joint"][0]
        row = {
            "score": 0.25,
            "said": "はい",
            "language": "ja",
            "image": first["image_path"],
            "audio": first["audio_path"],
        }
        return pd.DataFrame([row | more])

    def test_image_and_recording_stand_beside_the_words(self, data, show):
        html = show(self.rows(data))
        soup = parsed(html)
        head, body = soup.find_all("tr")
        assert texts(head) == ["item", "score", "said", "language"]
        assert texts(body) == ["", "0.250", "はい", "ja"]
        first = data.tables["joint"][0]
        image = Image.open(io.BytesIO(base64.b64decode(soup.img["src"].partition(",")[2])))
        assert (image.format, image.size) == ("JPEG", (256, 256))
        assert soup.img["alt"] == first["image_path"]
        sound = base64.b64decode(soup.audio["src"].partition(",")[2])
        assert sound == data.media_path(first["audio_path"]).read_bytes()
        assert (soup.audio["preload"], soup.audio["aria-label"]) == ("none", first["audio_path"])
        assert [cell.get("lang") for cell in body.find_all("td")][2] == "ja"
        assert repr(html) == "Items: Worst (1)"

    @pytest.mark.parametrize("nothing", ["", None, math.nan])
    def test_neither_is_a_dash(self, data, show, nothing):
        (_, body) = parsed(show(self.rows(data, image=nothing, audio=nothing))).find_all("tr")
        assert texts(body) == ["–", "0.250", "はい", "ja"]

    @pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"image": [], "audio": []})])
    def test_empty_says_none(self, show, frame):
        assert parsed(show(frame)).get_text() == "Worst: none"

    @pytest.mark.parametrize("kind", ["image", "audio"])
    @pytest.mark.parametrize(
        "path", ["../../../../etc/passwd", "/etc/passwd", "images/../../x.jpg"]
    )
    def test_paths_that_lead_out_of_the_corpus_are_refused(self, data, show, kind, path):
        with pytest.raises(PathError):
            show(self.rows(data, **{kind: path}))

    def test_links_are_not_followed(self, data, show, tmp_path):
        link = data.folder / "images" / "link.jpg"
        link.symlink_to("/etc/passwd")
        try:
            with pytest.raises((PathError, MediaError)):
                show(self.rows(data, image="images/link.jpg"))
        finally:
            link.unlink()

    def test_what_is_no_image_or_recording_is_refused(self, data, show):
        first = data.tables["joint"][0]
        for wrong in ({"image": first["audio_path"]}, {"audio": first["image_path"]}):
            with pytest.raises(MediaError):
                show(self.rows(data, **wrong))

    def test_input_is_unmodified(self, data, show):
        frame = self.rows(data)
        before = frame.copy(deep=True)
        show(frame)
        pd.testing.assert_frame_equal(frame, before)

    def test_unknown_language_column(self, data, show):
        with pytest.raises(ParameterError, match="language_column must be one of score, said"):
            show(self.rows(data), language_column="b")

    @pytest.mark.parametrize("text", [*HOSTILE, "<b>" * 4_000])
    def test_text_stays_text(self, data, show, text):
        frame = self.rows(data, said=text, language=text).rename(columns={"said": text})
        soup = parsed(show(frame, caption=text))
        safe = printable(text)
        head, body = soup.find_all("tr")
        assert texts(head) == ["item", "score", safe, "language"]
        assert texts(body) == ["", "0.250", safe, safe]
        assert {tag.name for tag in soup.find_all(True)} <= {
            "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "img", "audio",
        }  # fmt: skip
        assert sorted(soup.img.attrs) == ["alt", "src"]
        assert sorted(soup.audio.attrs) == ["aria-label", "controls", "preload", "src"]


class TestSentencesAndHtml:
    def test_one_is_a_paragraph_and_several_a_list(self):
        assert parsed(tables.sentences(["a < b"])).p.get_text() == "a < b"
        items = parsed(tables.sentences(["一", "二"])).find_all("li")
        assert [item.get_text() for item in items] == ["一", "二"]
        assert tables.sentences([]).markup == ""

    @pytest.mark.parametrize("text", HOSTILE)
    def test_text_stays_text(self, text):
        soup = parsed(tables.sentences([text, text]))
        assert {tag.name for tag in soup.find_all(True)} == {"ul", "li"}
        assert soup.li.get_text() == printable(text)

    def test_jupyter_gets_the_style_and_plain_text_a_safe_line(self):
        html = tables.Html("<b>x</b>", "Table:\x1b[31m \u202ex")
        assert html._repr_html_() == f"<style>{tables.stylesheet()}</style><b>x</b>"
        assert repr(html) == "Table:\\x1b[31m \\u202ex"

    def test_style_only_reaches_what_is_made_here(self):
        rules = [line for line in tables.stylesheet().splitlines() if line.strip()]
        assert rules
        assert all(line.startswith(".lab-") for line in rules)


def test_import_is_light():
    code = (
        "import sys, lab.tables; print([m for m in ('matplotlib', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
