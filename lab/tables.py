"""What a notebook cell shows: tables, metrics, pictures and sentences as HTML.

Owns the escaping: every text that comes in leaves as text, whatever it holds, so that a tenant's
data cannot act in JupyterLab or in a report. Knows nothing of the report around it, nor of
matplotlib (a figure is only asked to save itself).
"""

from __future__ import annotations

import base64
import functools
import io
import math
import numbers
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import media
from lab.errors import ParameterError, message, printable
from lab.slo import Limit, Metric

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from lab.corpus import Corpus
    from lab.params import DataSettings

# Without the tag a browser may draw Japanese glyphs for Chinese text, and the reverse.
HTML_LANGUAGES = {"zh": "zh-Hans", "en": "en", "ja": "ja"}

VERDICT_SYMBOLS = {"pass": "✓", "fail": "✗", "insufficient": "?"}
_VERDICT_ORDER = {"fail": 0, "insufficient": 1, "pass": 2}

# How a unit is shown: factor and name. Any other unit is shown as it is.
_SHOWN_UNITS = {"share": (100.0, "%"), "B": (1e-6, "MB")}
_SIGNS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}
_MISSING = "–"
_MAX_DECIMALS = 6
_PROGRESS_S = 0.3  # between two updates of a progress line
_THUMBNAIL = 256  # pixels, twice as many as are shown
_LONG_CHARS = 24  # from here on a cell keeps a readable width and the box scrolls instead


@dataclass(frozen=True, repr=False)
class Html:
    """Markup for a notebook cell; ``summary`` is what a reader of plain text sees instead.

    The markup is taken as it is: whoever builds it escapes what goes into it.
    """

    markup: str
    summary: str = "HTML"

    def _repr_html_(self) -> str:
        return f"<style>{stylesheet()}</style>{self.markup}"

    def __repr__(self) -> str:
        return printable(self.summary)


@functools.cache
def stylesheet() -> str:
    """Return the style of everything made here; a report includes it once for all its cells."""
    return (Path(__file__).parent / "templates" / "tables.css").read_text(encoding="utf-8")


def table(frame: pd.DataFrame, *, caption: str, language_column: str | None = None) -> Html:
    """Show a data frame.

    Args:
        frame: any frame; its index is shown as row headers unless it is a nameless range.
        caption: what the rows are; also names the scroll box for a screen reader.
        language_column: column that holds zh, en or ja; the text cells of a row are then marked
            with that language (those that hold other than ASCII characters, for zh and ja).
    Raises: ParameterError if the frame has no such column.
    """
    languages = _languages(frame, language_column)
    summary = f"Table: {caption} ({len(frame)} row{'' if len(frame) == 1 else 's'})"
    if frame.empty:
        return Html(f'<p class="lab-none"><strong>{_text(caption)}</strong>: none</p>', summary)
    import pandas as pd  # loaded already: the caller holds a frame

    with_index = frame.index.name is not None or not isinstance(frame.index, pd.RangeIndex)
    columns = [_plain(frame.iloc[:, position]) for position in range(frame.shape[1])]
    places = [_decimals(column) for column in columns]
    head = [_head(_label(frame.index.name), numeric=False)] if with_index else []
    head += [
        _head(_label(name), numeric=_is_numeric(column))
        for name, column in zip(frame.columns, columns, strict=True)
    ]
    rows = []
    for position, label in enumerate(frame.index):
        cells = [f'<th scope="row">{_text(_label(label))}</th>'] if with_index else []
        cells += [
            _cell(column[position], places=decimals, language=languages[position])
            for column, decimals in zip(columns, places, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return Html(_box(caption, head, rows), summary)


def metrics(
    metrics: Iterable[Metric], *, caption: str = "Measured figures and their limits"
) -> Html:
    """Show figures with unit, 95 % interval, n, limit and verdict; what fails comes first."""
    records = [metric.record() for metric in metrics]
    return metric_table(records, caption=caption)


def metric_table(records: Sequence[Mapping[str, Any]], *, caption: str) -> Html:
    """Show figures as ``metrics.json`` holds them (see ``lab.slo.Metric.record``).

    Limit and verdict are left out where no figure has a limit.
    """
    summary = f"Figures: {caption} ({len(records)})"
    if not records:
        return Html(f'<p class="lab-none"><strong>{_text(caption)}</strong>: none</p>', summary)
    judged = any(record.get("limit") for record in records)
    titles = ["Figure", "Value", "95 % interval", "n"]
    head = [_head(title, numeric=title in ("Value", "n")) for title in titles]
    if judged:
        head = [_head("Verdict", numeric=False), *head, _head("Limit", numeric=False)]
    ordered = sorted(records, key=lambda one: _VERDICT_ORDER.get(one.get("verdict"), 3))
    rows = [f"<tr>{_metric_row(record, judged=judged)}</tr>" for record in ordered]
    return Html(_box(caption, head, rows, extra_class="lab-metrics"), summary)


def verdict_mark(verdict: str | None) -> str:
    """Return the markup of a verdict: a symbol and a word, so that colour is not needed."""
    if verdict not in VERDICT_SYMBOLS:
        return '<span class="lab-verdict lab-nolimit">no limit</span>'
    symbol = VERDICT_SYMBOLS[verdict]
    return (
        f'<span class="lab-verdict lab-{verdict}">'
        f'<span aria-hidden="true">{symbol}</span> {verdict}</span>'
    )


def picture(figure: Figure, *, alt: str, caption: str, numbers: pd.DataFrame) -> Html:
    """Show a matplotlib figure, with what it shows in words and in numbers.

    The image is PNG at twice the figure's own density; equal figures give equal bytes.

    Args:
        figure: saved at its own size.
        alt: the message of the figure in words, for whoever cannot see it.
        caption: the line below it.
        numbers: what was drawn, shown on demand.
    Raises: ParameterError if alt is blank.
    """
    if not alt.strip():
        raise ParameterError(
            message("alt must say in words what the figure shows", got=alt, place=caption)
        )
    file = io.BytesIO()
    # Matplotlib would write its own version into the file; no time stamp is written for PNG.
    figure.savefig(file, format="png", dpi=2 * figure.dpi, metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width, height = (round(inches * figure.dpi) for inches in figure.get_size_inches())
    behind = table(numbers, caption=f"{caption}: numbers").markup
    return Html(
        '<figure class="lab-figure">'
        f'<img src="data:image/png;base64,{data}" alt="{_text(alt)}" '
        f'width="{width}" height="{height}">'
        f"<figcaption>{_text(caption)}</figcaption>"
        f"<details><summary>Numbers behind this figure</summary>{behind}</details>"
        "</figure>",
        f"Figure: {caption}",
    )


def exhibits(
    frame: pd.DataFrame, *, caption: str, corpus: Corpus, data: DataSettings, language_column: str
) -> Html:
    """Show items with their image and recording beside what is said of them.

    Args:
        frame: any columns; ``image`` and ``audio`` hold paths in the corpus, or nothing.
        caption: what the items are.
        corpus: the tenant's.
        data: what its media must be like.
        language_column: as of `table`.
    Raises: MediaError, PathError; ParameterError as `table`.
    """
    if frame.empty:
        return table(frame, caption=caption)
    shown = frame.drop(columns=["image", "audio"])
    columns = [_plain(shown[name]) for name in shown]
    places = [_decimals(column) for column in columns]
    languages = _languages(shown, language_column)
    head = [_head("item", numeric=False)]
    head += [
        _head(_label(name), numeric=_is_numeric(column))
        for name, column in zip(shown.columns, columns, strict=True)
    ]
    rows = []
    media_paths = zip(_plain(frame["image"]), _plain(frame["audio"]), strict=True)
    for at, (image, audio) in enumerate(media_paths):
        media_of = _image(image, corpus, data) + _audio(audio, corpus, data)
        cells = [f'<td class="lab-media">{media_of or _MISSING}</td>']
        cells += [
            _cell(column[at], places=decimals, language=languages[at])
            for column, decimals in zip(columns, places, strict=True)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return Html(_box(caption, head, rows), f"Items: {caption} ({len(frame)})")


def _image(path: str | None, corpus: Corpus, data: DataSettings) -> str:
    if not path:
        return ""
    file = io.BytesIO()
    image = media.load_image(corpus.media_path(path), data=data)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    image.save(file, format="JPEG", quality=85)
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{content}" alt="{_text(path)}">'


def _audio(path: str | None, corpus: Corpus, data: DataSettings) -> str:
    if not path:
        return ""
    where = corpus.media_path(path)
    media.probe_audio(where, data=data)  # refuses what is no recording
    with media.open_regular(where) as file:
        content = base64.b64encode(file.read()).decode("ascii")
    return (
        f'<audio controls preload="none" aria-label="{_text(path)}" '
        f'src="data:audio/wav;base64,{content}"></audio>'
    )


def sentences(lines: Sequence[str]) -> Html:
    """Show conclusions: one as a paragraph, several as a list."""
    if len(lines) == 1:
        markup = f'<p class="lab-sentences">{_text(lines[0])}</p>'
    else:
        items = "".join(f"<li>{_text(line)}</li>" for line in lines)
        markup = f'<ul class="lab-sentences">{items}</ul>' if lines else ""
    return Html(markup, " ".join(lines))


def record(values: Mapping[str, Any], *, caption: str) -> Html:
    """Show a record as a table of names and values; a mapping inside it takes one line."""
    import pandas as pd

    lines = [
        (
            name.replace("_", " "),
            ", ".join(f"{key} {part}" for key, part in value.items()) or "none"
            if isinstance(value, Mapping)
            else str(value),
        )
        for name, value in values.items()
    ]
    return table(pd.DataFrame(lines, columns=["what", "value"]), caption=caption)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Keep one line of a notebook cell up to date; gives what takes stage, done and total.

    The line is gone when the work is done. Outside a notebook nothing is shown.
    """
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:
        yield lambda stage, done, total: None
        return
    line = display(Html("", "working"), display_id=True)
    told = 0.0

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _PROGRESS_S:
            told = now
            share = f" {done / total:.0%}" if total else ""
            line.update(Html(f"<p>{_text(stage)}{share}</p>", f"{stage}{share}"))

    try:
        yield tell
    finally:
        line.update(Html("", "done"))


def quantity(value: float | None, *, unit: str, ci: Sequence[float | None] | None = None) -> str:
    """Return a figure with its unit, with as many decimals as its interval bears.

    Two significant digits of the interval's half width decide; without an interval, three
    significant digits of the value. ``–`` for None, NaN and infinities.
    """
    factor, shown_unit = _SHOWN_UNITS.get(unit, (1.0, unit))
    number = _fixed(_scaled(value, factor), _metric_decimals(value, ci, factor))
    return number if number == _MISSING or not shown_unit else f"{number} {shown_unit}"


def interval(ci: Sequence[float | None] | None, *, unit: str) -> str:
    """Return an interval with the decimals that ``quantity`` uses; ``–`` where there is none.

    Of one that is open on a side, because n is too small to bound it, the end that is there.
    """
    known = [end for end in ci or () if _scaled(end, 1.0) is not None]
    if ci is None or len(ci) != 2 or not known or any(end != end for end in ci):  # NaN
        return _MISSING
    factor, shown_unit = _SHOWN_UNITS.get(unit, (1.0, unit))
    decimals = _metric_decimals(None, known, factor)
    if len(known) == 1:
        side = "at least" if known[0] == ci[0] else "at most"
        return f"{side} {_fixed(_scaled(known[0], factor), decimals)} {shown_unit}".rstrip()
    if ci[0] == ci[1]:
        return "exact: all were looked at"
    low, high = (_fixed(_scaled(end, factor), decimals) for end in ci)
    return f"{low} to {high} {shown_unit}".rstrip()


def limit_text(limit: object, *, unit: str) -> str:
    """Return a limit as a reader writes it: ``<= 0.02`` of a share is ``≤ 2 %``."""
    if limit is None:
        return _MISSING
    try:
        parsed = Limit.parse(str(limit))
    except ParameterError:
        return str(limit)
    factor, shown_unit = _SHOWN_UNITS.get(unit, (1.0, unit))
    return f"{_SIGNS[parsed.sign]} {parsed.bound * factor:g} {shown_unit}".rstrip()


def number(value: float, *, decimals: int | None = None) -> str:
    """Return a number as it is read: 9876 and 12,345, a real minus sign, no needless digits.

    Args:
        value: NaN gives ``–``.
        decimals: for a number that is not an int; three significant digits if not given. A number
            too small or too large for them is shown with its own significant digits.
    """
    if isinstance(value, numbers.Integral):
        return _sign(_grouped(int(value), "d"))
    value = float(value)
    if math.isnan(value):
        return _MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    decimals = _significant(abs(value), 3) if decimals is None else decimals
    too_small = value != 0 and abs(value) < 0.5 * 10**-decimals
    if too_small or abs(value) >= 1e15:
        return _sign(f"{value:.2g}")
    return _fixed(value, decimals)


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _label(label: Hashable) -> str:
    if label is None:
        return ""
    return " · ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _head(title: str, *, numeric: bool) -> str:
    return f'<th scope="col"{_number_class(numeric)}>{_text(title)}</th>'


def _number_class(numeric: bool) -> str:
    return ' class="lab-number"' if numeric else ""


def _box(caption: str, head: Iterable[str], rows: Iterable[str], *, extra_class: str = "") -> str:
    """Return a table in a box that scrolls by itself and can be reached by keyboard."""
    classes = f"lab-table {extra_class}".strip()
    return (
        f'<div class="lab-box" role="region" tabindex="0" aria-label="{_text(caption)}">'
        f'<table class="{classes}"><caption>{_text(caption)}</caption>'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(value: object, *, places: int, language: str | None) -> str:
    if value is None:
        return f"<td>{_MISSING}</td>"
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return f'<td class="lab-number">{number(value, decimals=places)}</td>'
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    mark = _language_mark(value, language) if isinstance(value, str) else ""
    long = ' class="lab-long"' if len(str(value)) > _LONG_CHARS else ""
    return f"<td{long}{mark}>{_text(value)}</td>"


def _language_mark(text: str, language: str | None) -> str:
    """Return the lang attribute of a text; ASCII in a zh or ja row is a code or a name."""
    tag = HTML_LANGUAGES.get(language or "")
    return f' lang="{tag}"' if tag and (language == "en" or not text.isascii()) else ""


def _languages(frame: pd.DataFrame, column: str | None) -> list[str | None]:
    if column is None:
        return [None] * len(frame)
    if column not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise ParameterError(message(f"language_column must be one of {known}", got=column))
    return [value if value in HTML_LANGUAGES else None for value in map(str, frame[column])]


def _plain(column: pd.Series) -> list[Any]:
    """Return the values as plain Python, None for whatever pandas takes for missing."""
    gone = column.isna()
    return [
        None if missing else value for value, missing in zip(column.tolist(), gone, strict=True)
    ]


def _is_numeric(column: Iterable[object]) -> bool:
    present = [value for value in column if value is not None]
    return bool(present) and all(
        isinstance(value, numbers.Real) and not isinstance(value, bool) for value in present
    )


def _decimals(column: Iterable[object]) -> int:
    """Return the decimals that fit all numbers of a column: three digits of the largest."""
    sizes = [abs(value) for value in column if isinstance(value, float) and math.isfinite(value)]
    if not sizes or all(size.is_integer() for size in sizes):
        return 0
    return _significant(max(sizes), 3)


def _significant(size: float, digits: int) -> int:
    if size == 0 or not math.isfinite(size):
        return 0
    return min(_MAX_DECIMALS, max(0, digits - 1 - math.floor(math.log10(size))))


def _metric_row(record: Mapping[str, Any], *, judged: bool) -> str:
    unit, ci = str(record.get("unit") or ""), record.get("ci")
    verdict, needed = record.get("verdict"), record.get("needed")
    name = str(record.get("name", "")).replace("_", " ")
    labels = record.get("labels")
    labels = labels if isinstance(labels, Mapping) else {}
    language = str(labels.get("language"))
    marks = "".join(
        f'<span class="lab-label"{_language_mark(str(value), language)}>'
        f"{_text(key)}: {_text(value)}</span>"
        for key, value in labels.items()
    )
    ci = ci if isinstance(ci, Sequence) and not isinstance(ci, str) else None
    value = _honest_quantity(record.get("value"), unit=unit, ci=ci, limit=record.get("limit"))
    n = record.get("n")
    shown_n = number(n) if isinstance(n, int) else _MISSING
    if verdict == "insufficient" and isinstance(needed, int):
        shown_n += f'<span class="lab-needed">needs {number(needed)}</span>'
    cells = [
        f'<th scope="row">{_text(name)}{marks}</th>',
        f'<td class="lab-number">{_text(value)}</td>',
        f"<td>{_text(interval(ci, unit=unit))}</td>",
        f'<td class="lab-number">{shown_n}</td>',
    ]
    if judged:
        limit = f"<td>{_text(limit_text(record.get('limit'), unit=unit))}</td>"
        cells = [f"<td>{verdict_mark(verdict)}</td>", *cells, limit]
    return "".join(cells)


def _honest_quantity(
    value: object, *, unit: str, ci: Sequence[float | None] | None, limit: object
) -> str:
    """Return the figure; with more decimals where rounding would put it past its limit."""
    shown = quantity(_scaled(value, 1.0), unit=unit, ci=ci)
    factor, shown_unit = _SHOWN_UNITS.get(unit, (1.0, unit))
    size = _scaled(value, factor)
    try:
        parsed = Limit.parse(str(limit))
    except ParameterError:
        return shown
    if size is None:
        return shown
    bound = Limit(parsed.sign, round(parsed.bound * factor, 12))
    for decimals in range(_metric_decimals(_scaled(value, 1.0), ci, factor), 13):
        if bound.holds(round(size, decimals)) == bound.holds(size):
            return f"{_fixed(size, decimals)} {shown_unit}".rstrip()
    return shown


def _scaled(value: object, factor: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    scaled = float(value) * factor
    return scaled if math.isfinite(scaled) else None


def _metric_decimals(value: float | None, ci: Sequence[float | None] | None, factor: float) -> int:
    ends = [_scaled(end, factor) for end in ci or ()]
    if len(ends) == 2 and None not in ends and ends[0] != ends[1]:
        return _significant(abs(ends[1] - ends[0]) / 2, 2)
    size = _scaled(value if value is not None or not ends else ends[0], factor)
    return 0 if size is None or size.is_integer() else _significant(abs(size), 3)


def _fixed(value: float | None, decimals: int) -> str:
    return _MISSING if value is None else _sign(_grouped(value, f".{decimals}f"))


def _grouped(value: float, form: str) -> str:
    """Group thousands from five digits on: 9876 reads well as it is, and so does a year."""
    return format(value, f",{form}" if abs(value) >= 10_000 else form)


def _sign(text: str) -> str:
    return "−" + text[1:] if text.startswith("-") and text.strip("-0.,") else text.lstrip("-")
