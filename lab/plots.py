"""Figures: results in, matplotlib Figures out; the only importer of matplotlib.

Owns fonts that have Chinese and Japanese glyphs, colours that the colour-blind tell apart, and how
each result is drawn. Touches no state of pyplot. Knows nothing of where a result comes from.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
)

from lab.errors import MissingError, message

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Okabe and Ito (2008), told apart in every common form of colour blindness.
COLOURS: Mapping[str, str] = {"zh": "#D55E00", "en": "#0072B2", "ja": "#009E73"}
OTHER, QUIET = "#999999", "#E5E5E5"
MARKS: Mapping[str, str] = {"zh": "o", "en": "s", "ja": "^"}
NAMES: Mapping[str, str] = {"zh": "Chinese", "en": "English", "ja": "Japanese"}
GLYPHS: Mapping[str, str] = {"zh": "zh-Hans", "en": "en", "ja": "ja"}  # BCP 47: shapes of Han

_FONT_PACKAGE = "notojp_matplotlib"
_FAMILIES = ("DejaVu Sans", "Noto Sans CJK JP")  # in this order, glyph by glyph
_WIDTH = 9.0  # inches
_MOST_BARS = 44  # per language; above, the largest and the smallest are shown
_MOST_LAYERS = 30  # above, those that are worth most are shown
_LONGEST_NAME = 32  # columns of a class's name that fit beside a bar; a CJK character takes two
# Mark and colour of a verdict about speed.
_SPEEDS: Mapping[str, tuple[str, str]] = {
    "faster": ("^", "#009E73"),
    "slower": ("v", "#D55E00"),
    "insufficient": ("o", OTHER),
    "baseline": ("|", "black"),
}
# Colour and sign of a verdict; the sign is drawn too, for whoever cannot tell the colours.
_VERDICTS: Mapping[str, tuple[str, str]] = {
    "pass": ("#8CD3B4", "✓"),
    "fail": ("#F2A98A", "✗"),
    "insufficient": ("#F0E0A8", "?"),
    "not measured": (QUIET, "–"),
}
_SILENCE_DBFS = -100.0  # where a recording of zeros is drawn
_FAR = 1.5  # times what an axis shows: a limit beyond it would squeeze everything else

_P = ParamSpec("_P")


@cache
def _add_fonts() -> None:
    """Make the CJK font known; importing its package would change the defaults of all figures."""
    found = importlib.util.find_spec(_FONT_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingError(
            message(
                "figures need a font with Chinese and Japanese glyphs",
                got=f"no package {_FONT_PACKAGE}",
                remedy="pip install notojp-matplotlib",
            )
        )
    for folder in found.submodule_search_locations:
        for file in sorted((Path(folder) / "fonts").glob("*.otf")):
            fontManager.addfont(file)


@cache
def _drawable() -> frozenset[int]:
    """Return the code points that have a glyph."""
    return frozenset(
        code for family in _FAMILIES for code in FT2Font(fontManager.findfont(family)).get_charmap()
    )


@contextmanager
def _style() -> Iterator[None]:
    """Set fonts and sizes for what is drawn inside, and leave the defaults as they were."""
    _add_fonts()
    with mpl.rc_context(
        {
            "font.family": list(_FAMILIES),
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": QUIET,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    ):
        yield


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Return a function that draws with the lab's fonts and sizes."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return drawn


@styled
def balance(classes: pd.DataFrame, *, title: str = "Rows per class") -> Figure:
    """Draw the rows of each class, a panel per language, largest first.

    Args:
        classes: language, annotation, rows; one row per class, of one table.
        title: stands above, followed by n.
    """
    languages = languages_in(classes["language"])
    shown = {name: _most_and_least(classes[classes["language"] == name]) for name in languages}
    bars = max((len(part) for part in shown.values()), default=0)
    figure = Figure(figsize=(_WIDTH * 1.2, max(2.2, 1.0 + 0.19 * bars)))
    if not languages:
        return nothing(figure, title)
    axes = figure.subplots(1, len(languages), squeeze=False, sharex=True)[0]
    for axis, name in zip(axes, languages, strict=True):
        part = shown[name]
        places = np.arange(len(part))
        axis.barh(places, part["rows"], color=COLOURS.get(name, OTHER), height=0.75)
        axis.set_yticks(places, [_cut(text) for text in part["annotation"]])
        for label in axis.get_yticklabels():
            label.set_language(GLYPHS.get(name))
            label.set_fontsize(8)
        axis.set_ylim(bars - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_xlabel("rows")
        whole = classes[classes["language"] == name]
        left = len(whole) - len(part)
        note = f"\n{len(part)} of {len(whole)}: largest and smallest" if left else ""
        axis.set_title(
            f"{name_of(name)}: {len(whole)} classes, n = {_count(whole['rows'].sum())}{note}"
        )
    figure.suptitle(f"{title}, n = {_count(classes['rows'].sum())}")
    return figure


@styled
def lengths(summary: pd.DataFrame, *, title: str = "Length of texts") -> Figure:
    """Draw the spread of text lengths, a panel per field and unit, a box per language.

    Args:
        summary: field, language, unit, n and the percentiles p0, p5, p25, p50, p75, p95, p100.
        title: stands above.
    """
    panels = list(dict.fromkeys(zip(summary["field"], summary["unit"], strict=True)))
    figure = Figure(figsize=(_WIDTH, 1.0 + 1.7 * max(1, math.ceil(len(panels) / 2))))
    if not panels:
        return nothing(figure, title)
    columns = min(2, len(panels))
    axes = figure.subplots(math.ceil(len(panels) / columns), columns, squeeze=False).ravel()
    for axis, (field, unit) in zip(axes, panels, strict=False):
        part = summary[(summary["field"] == field) & (summary["unit"] == unit)]
        names = languages_in(part["language"])
        for place, name in enumerate(names):
            one = part[part["language"] == name].iloc[0]
            colour = COLOURS.get(name, OTHER)
            axis.plot([one["p0"], one["p100"]], [place, place], ":", color=colour, linewidth=1)
            axis.plot([one["p5"], one["p95"]], [place, place], "-", color=colour, linewidth=1.5)
            width = one["p75"] - one["p25"]
            axis.barh(place, width, left=one["p25"], height=0.5, color=colour, alpha=0.55)
            axis.plot([one["p50"]] * 2, [place - 0.25, place + 0.25], color="black", linewidth=2)
        labels = [
            f"{name_of(name)}\nn = {_count(part[part['language'] == name]['n'].iloc[0])}"
            for name in names
        ]
        axis.set_yticks(range(len(names)), labels)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(left=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel(f"{unit} of the {field}")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(f"{title}: median, middle half (box), 5 to 95 % (line), all (dotted)")
    return figure


@styled
def coverage(shares: pd.DataFrame, *, title: str = "Items that have each language") -> Figure:
    """Draw which share of a table's groups or images have a row in each language.

    Args:
        shares: table, language, items, share.
        title: stands above.
    """
    tables = list(dict.fromkeys(shares["table"]))
    languages = languages_in(shares["language"])
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.28 * max(1, len(tables) * (len(languages) + 1))))
    if not tables:
        return nothing(figure, title)
    axis = figure.subplots()
    for place, name in enumerate(languages):
        part = shares[shares["language"] == name].set_index("table").reindex(tables)
        at = np.arange(len(tables)) * (len(languages) + 1) + place
        values = part["share"].to_numpy(dtype=float)
        axis.barh(at, values, color=COLOURS.get(name, OTHER), height=0.8)
        for y, value in zip(at, values, strict=True):
            if not math.isnan(value):
                axis.text(1.01, y, f"{name_of(name)} {100 * value:.4g} %", va="center", fontsize=8)
    middles = np.arange(len(tables)) * (len(languages) + 1) + (len(languages) - 1) / 2
    items = shares.groupby("table")["items"].first()
    axis.set_yticks(middles, [f"{name}\nn = {_count(items[name])}" for name in tables])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axis.set_xlabel("share of items (FAQ and speech: groups)")
    axis.set_title(f"{title}, n = {_count(items.sum())} items")
    return figure


@styled
def question_map(points: pd.DataFrame, *, embedding: str, title: str = "Questions") -> Figure:
    """Draw the map of the questions: what is close is worded alike; the axes have no unit.

    Args:
        points: x, y, language.
        embedding: what the places were made with; stands below.
        title: stands above, followed by n.
    """
    figure = Figure(figsize=(_WIDTH, 6.2))
    if points.empty:
        return nothing(figure, title)
    axis = figure.subplots()
    for name in languages_in(points["language"]):
        part = points[points["language"] == name]
        axis.scatter(
            part["x"],
            part["y"],
            s=_dot(len(points)),
            marker=MARKS.get(name, "x"),
            color=COLOURS.get(name, OTHER),
            alpha=0.7,
            linewidths=0,
            label=f"{name_of(name)} ({_count(len(part))})",
            rasterized=True,
        )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(f"no unit: what is close is worded alike\n{embedding}")
    axis.set_title(f"{title}, n = {_count(len(points))}")
    _legend_beside(axis)
    return figure


@styled
def images(facts: pd.DataFrame, *, title: str = "Images") -> Figure:
    """Draw sharpness over brightness, an image a dot; what was found about it by colour and mark.

    Args:
        facts: brightness (0-255), sharpness (variance of the Laplacian), finding ("" for none).
        title: stands above, followed by n.
    """
    figure = Figure(figsize=(_WIDTH, 4.6))
    if facts.empty:
        return nothing(figure, title)
    axis = figure.subplots()
    kinds = facts["finding"].map(_kind_of_finding)
    for number, kind in enumerate(["", *sorted(set(kinds) - {""})]):
        part = facts[kinds == kind]
        axis.scatter(
            part["brightness"],
            np.maximum(part["sharpness"], 0.1),
            **_finding_style(number, len(facts)),
            label=f"{kind or 'nothing found'} ({_count(len(part))})",
        )
    axis.set_yscale("log")
    axis.set_xlim(0, 255)
    axis.set_xlabel("brightness (mean luma, 0 black to 255 white)")
    axis.set_ylabel("sharpness (variance of the Laplacian)")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_title(f"{title}, n = {_count(len(facts))}")
    _legend_beside(axis)
    return figure


@styled
def audio(facts: pd.DataFrame, *, title: str = "Recordings") -> Figure:
    """Draw duration and loudness of recordings: how many of each, by language.

    Args:
        facts: language, duration_s, rms_dbfs (minus infinity for zeros), finding ("" for none).
        title: stands above, followed by n.
    """
    figure = Figure(figsize=(_WIDTH, 3.8))
    if facts.empty:
        return nothing(figure, title)
    left, right = figure.subplots(1, 2)
    loudness = facts["rms_dbfs"].clip(lower=_SILENCE_DBFS)
    longest = max(float(facts["duration_s"].max()), 0.1)
    quietest = min(-40.0, 10.0 * math.floor(float(loudness.min()) / 10))
    bins = 16 if len(facts) < 300 else 31
    for axis, values, edges in (
        (left, facts["duration_s"], np.linspace(0, longest, bins)),
        (right, loudness, np.linspace(quietest, 0, bins)),
    ):
        for name in languages_in(facts["language"]):
            part = values[facts["language"] == name]
            axis.hist(
                part,
                bins=edges,
                histtype="step",
                linewidth=1.8,
                linestyle={"zh": "-", "en": "--", "ja": "-."}.get(name, ":"),
                color=COLOURS.get(name, OTHER),
                label=f"{name_of(name)} ({_count(len(part))})",
            )
        flagged = values[facts["finding"] != ""]
        if len(flagged):
            axis.plot(
                flagged,
                np.zeros(len(flagged)),
                "x",
                color="black",
                markersize=7,
                markeredgewidth=1.5,
                clip_on=False,
                zorder=5,
                label=f"something found ({_count(len(flagged))})",
            )
        axis.set_ylabel("recordings")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0)
    left.set_xlabel("duration (s)")
    right.set_xlabel(f"loudness (RMS, dBFS; silence stands at {_SILENCE_DBFS:g})")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle(f"{title}, n = {_count(len(facts))}")
    return figure


@styled
def speeds(rows: pd.DataFrame, *, floors: Mapping[str, float], title: str = "Speed") -> Figure:
    """Draw how many times as fast each configuration is as its study's baseline.

    Args:
        rows: study, configuration, times as fast, low, high, speed (the verdict); one per
            configuration. The baseline has a verdict of its own name and stands at 1.
        floors: study -> share by which two can be told apart; drawn as a band around 1.
        title: stands above.
    """
    studies = list(dict.fromkeys(rows["study"]))
    most = max((sum(rows["study"] == one) for one in studies), default=0)
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.32 * most))
    if not studies:
        return nothing(figure, title)
    panels = figure.subplots(1, len(studies), squeeze=False, sharex=True)[0]
    for axis, study in zip(panels, studies, strict=True):
        part, floor = rows[rows["study"] == study], floors.get(study, math.inf)
        if math.isfinite(floor):
            axis.axvspan(1 / (1 + floor), 1 + floor, color=QUIET, zorder=0)
        axis.axvline(1, color=OTHER, linewidth=1)
        for place, (value, low, high, verdict) in enumerate(
            part[["times as fast", "low", "high", "speed"]].itertuples(index=False)
        ):
            value, low, high = (1, 1, 1) if verdict == "baseline" else (value, low, high)
            mark, colour = _SPEEDS.get(verdict, _SPEEDS["insufficient"])
            ends = [[max(0, value - low)], [max(0, min(high, 10 * value) - value)]]
            axis.errorbar(value, place, xerr=ends, fmt=mark, color=colour, capsize=3, markersize=6)
        axis.set_yticks(range(len(part)), part["configuration"])
        axis.set_ylim(len(part) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("times as fast as the baseline")
        noise = f"noise ±{floor:.0%}" if math.isfinite(floor) else "noise unknown"
        axis.set_title(f"{study}: {noise}")
    figure.suptitle(f"{title}: ▲ faster, ▼ slower, ● not told apart")
    return figure


@styled
def changes(rows: pd.DataFrame, *, least: float, title: str = "Change of quality") -> Figure:
    """Draw how quality changes in each language, with intervals and what is tolerated.

    Args:
        rows: study, configuration, language, change, low, high, n.
        least: change from which on it is tolerated, such as -0.02.
        title: stands above.
    """
    studies = list(dict.fromkeys(rows["study"]))
    names = {
        one: list(dict.fromkeys(rows["configuration"][rows["study"] == one])) for one in studies
    }
    most = max(map(len, names.values()), default=0)
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.5 * most))
    if not studies:
        return nothing(figure, title)
    panels = figure.subplots(1, len(studies), squeeze=False, sharex=True)[0]
    for axis, study in zip(panels, studies, strict=True):
        part = rows[rows["study"] == study]
        axis.axvline(0, color=OTHER, linewidth=1)
        axis.axvline(least, color="black", linewidth=1, linestyle="--")
        languages = languages_in(part["language"])
        for number, language in enumerate(languages):
            own = part[part["language"] == language]
            at = [names[study].index(one) for one in own["configuration"]]
            shift = 0.2 * (number - (len(languages) - 1) / 2)
            middle = own["change"].to_numpy(dtype=float)
            ends = [middle - own["low"].to_numpy(), own["high"].to_numpy() - middle]
            axis.errorbar(
                middle,
                np.array(at) + shift,
                xerr=np.clip(np.nan_to_num(np.array(ends)), 0, None),
                fmt=MARKS.get(language, "D"),
                color=COLOURS.get(language, OTHER),
                capsize=2,
                markersize=5,
                label=f"{name_of(language)}, n = {_count(own['n'].max())}",
            )
        axis.set_yticks(range(len(names[study])), names[study])
        axis.set_ylim(len(names[study]) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("change against the baseline (right is better)")
        axis.set_title(study)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(f"{title}: dashed is what is tolerated ({least:+.3g})")
    return figure


@styled
def sizes(rows: pd.DataFrame, *, title: str = "Bytes of the weights") -> Figure:
    """Draw what weights take beside what their bits alone would.

    Args:
        rows: query, configuration, model (MB), in theory (MB).
        title: stands above.
    """
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.42 * max(1, len(rows))))
    if rows.empty:
        return nothing(figure, title)
    axis, at = figure.subplots(), np.arange(len(rows))
    axis.barh(at - 0.2, rows["model (MB)"], height=0.38, color="#0072B2", label="measured")
    axis.barh(at + 0.2, rows["in theory (MB)"], height=0.38, color=OTHER, label="bits alone")
    axis.set_yticks(at, rows["query"] + ": " + rows["configuration"])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("MB in memory")
    axis.set_title(title)
    _legend_beside(axis)
    return figure


@styled
def sparsity_curves(
    curve: pd.DataFrame,
    *,
    least: float,
    unit: str,
    article: tuple[str, tuple[float, ...]] = ("", ()),
    title: str = "Quality against sparsity",
) -> Figure:
    """Draw what each sparsity does to the quality, a panel per method, a line per language.

    Args:
        curve: method, sparsity, language, change (more is better), low, high, n; NaN without an
            answer, drawn as a cross at the lower edge.
        least: change from which on it is tolerated, such as -0.02.
        unit: of the change.
        article: method and sparsities of the article's rule, marked in that method's panel.
        title: stands above, followed by n.
    """
    methods = list(dict.fromkeys(curve["method"]))
    columns = min(2, max(1, len(methods)))
    rows = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(_WIDTH, 1.1 + 2.5 * max(1, rows)))
    if not methods:
        return nothing(figure, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    languages = languages_in(curve["language"])
    most, lowest = float(curve["sparsity"].max()), float(curve["low"].min(skipna=True))
    floor = 2 * least if math.isnan(lowest) else min(lowest, 2 * least)
    for axis, method in zip(grid, methods, strict=False):
        part = curve[curve["method"] == method]
        axis.axhline(0, color="black", linewidth=0.8)
        axis.axhspan(floor * 1.05, least, color=QUIET, alpha=0.5, zorder=0)
        axis.axhline(least, color="black", linestyle="--", linewidth=1)
        for place, name in enumerate(languages):
            one = part[part["language"] == name].sort_values("sparsity")
            aside = 0.008 * most * (place - (len(languages) - 1) / 2)  # so that none hides another
            _curve(axis, one, name, aside=aside, floor=floor)
        if method == article[0]:
            for sparsity in article[1]:
                axis.axvline(sparsity, color="black", linestyle=":", linewidth=1)
        marked = " and ".join(f"{one:g}" for one in article[1]) if method == article[0] else ""
        axis.set_title(f"{method} (dotted: the article's {marked})" if marked else method)
        axis.set_xlim(0, most * 1.06)
        axis.set_ylim(bottom=floor * 1.05)
    for axis in grid[len(methods) :]:
        axis.set_axis_off()
    for axis in grid[max(0, len(methods) - columns) : len(methods)]:  # nothing drawn below
        axis.set_xlabel("sparsity (share of weights, neurons or heads)")
        axis.tick_params(labelbottom=True)
    figure.supylabel(f"change against dense ({unit})", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    each = _range(curve.loc[curve["n"] > 0, "n"])
    figure.suptitle(f"{title}, n = {each} items per language; shaded: not tolerated")
    return figure


def _curve(axis: Axes, one: pd.DataFrame, language: str, *, aside: float, floor: float) -> None:
    """Draw a language's line from the dense model on, and a cross where there was no answer."""
    colour, known = COLOURS.get(language, OTHER), one[one["change"].notna()]
    bars = np.nan_to_num([known["change"] - known["low"], known["high"] - known["change"]], nan=0.0)
    axis.errorbar(
        known["sparsity"] + aside,
        known["change"],
        yerr=np.maximum(bars, 0.0),
        fmt=MARKS.get(language, "x"),
        color=colour,
        markersize=4,
        capsize=2,
        linewidth=1.2,
        label=name_of(language),
    )
    axis.plot(
        [0.0, *(known["sparsity"] + aside)], [0.0, *known["change"]], color=colour, linewidth=1
    )
    silent = one[one["change"].isna()]
    if len(silent):  # an empty line that is not clipped would have no place, and the layout none
        at = [floor] * len(silent)
        axis.plot(silent["sparsity"] + aside, at, "x", color=colour, clip_on=False)


def _range(counts: pd.Series) -> str:
    if counts.empty:
        return "0"
    least, most = int(counts.min()), int(counts.max())
    return _count(least) if least == most else f"{_count(least)} to {_count(most)}"


@styled
def sensitivities(found: pd.DataFrame, *, title: str = "What each layer is worth") -> Figure:
    """Draw what becomes of the perplexity when one layer alone is pruned, the worst first.

    Args:
        found: layer, perplexity (over the whole model's), low, high, groups.
        title: stands above, followed by n.
    """
    ordered = found.sort_values("perplexity", ascending=False, kind="stable")
    shown = ordered.head(_MOST_LAYERS)
    figure = Figure(figsize=(_WIDTH, max(2.2, 1.2 + 0.19 * len(shown))))
    if shown.empty:
        return nothing(figure, title)
    axis = figure.subplots()
    places = np.arange(len(shown))
    change = shown[["perplexity", "low", "high"]].to_numpy(dtype=float)
    change = 100 * (np.where(np.isfinite(change), change, np.nan) - 1)
    bars = np.nan_to_num([change[:, 0] - change[:, 1], change[:, 2] - change[:, 0]])
    axis.axvline(0, color="black", linewidth=0.8)
    axis.errorbar(
        change[:, 0],
        places,
        xerr=np.maximum(bars, 0),
        fmt="o",
        color=COLOURS["en"],
        ecolor=OTHER,
        markersize=4,
        capsize=2,
        linewidth=1.2,
    )
    for place in places[np.isnan(change[:, 0])]:
        axis.annotate(
            "no answer that is a number",
            (0.99, place),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize=8,
        )
    axis.set_yticks(places, _shortened(shown["layer"]), fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("change of the perplexity of the right answers (%), with 95 % interval")
    left = len(found) - len(shown)
    note = f"; the worst {len(shown)} of {len(found)} layers" if left else ""
    axis.set_title(f"{title}, n = {_range(found['groups'])} groups of items{note}")
    return figure


def _shortened(names: pd.Series) -> list[str]:
    """Return names of layers without what says nothing in all of them."""
    return [name.removeprefix("model.").replace("layers.", "") for name in names]


@styled
def promises(gains: pd.DataFrame, *, title: str = "Promised and measured") -> Figure:
    """Draw what zeros promise beside what was measured: bytes on the left, time on the right.

    Args:
        gains: method, sparsity, promised_bytes, stored_bytes, loaded_bytes, promised_time, time,
            low, high: shares of the dense model; blocks, in which the time was measured.
        title: stands above, followed by n.
    """
    figure = Figure(figsize=(_WIDTH, max(2.4, 1.5 + 0.22 * len(gains))))
    if gains.empty:
        return nothing(figure, title)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(gains))
    quiet = {"linestyle": "none", "markersize": 6}
    for axis, promised, kept in (
        (left, gains["promised_bytes"], gains["stored_bytes"]),
        (right, gains["promised_time"], gains["time"]),
    ):
        axis.axvline(1, color="black", linewidth=0.8)
        axis.hlines(places, promised, kept, color=QUIET, linewidth=3, zorder=1)
        axis.plot(promised, places, "D", color=OTHER, fillstyle="none", label="promised", **quiet)
        axis.grid(visible=False, axis="y")
    left.plot(
        gains["stored_bytes"], places, "o", color=COLOURS["en"], label="measured, stored", **quiet
    )
    left.plot(
        gains["loaded_bytes"], places, "x", color=COLOURS["zh"], label="measured, loaded", **quiet
    )
    bars = np.array([gains["time"] - gains["low"], gains["high"] - gains["time"]], dtype=float)
    bars[:, ~np.isfinite(bars).all(axis=0)] = 0.0  # of a single block nothing is known
    right.errorbar(
        gains["time"],
        places,
        xerr=np.maximum(bars, 0.0),
        fmt="o",
        color=COLOURS["en"],
        ecolor=OTHER,
        capsize=2,
        label="measured",
    )
    left.set_yticks(
        places,
        [f"{one.method} {one.sparsity:g}" for one in gains.itertuples()],
    )
    left.set_ylim(len(gains) - 0.4, -0.6)
    left.set_xlabel("bytes of the weights (dense = 1)")
    right.set_xlabel("latency with 95 % interval (dense = 1)\npromised: multiplications left")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(f"{title}, n = {_range(gains['blocks'])} undisturbed blocks")
    return figure


@styled
def batch_curve(curve: pd.DataFrame, *, title: str = "Throughput and latency") -> Figure:
    """Draw latency over throughput, a panel per kind of query, each dot with its batch size.

    Args:
        curve: query, batch_size, batches; throughput, latency_p50 and latency_p95, each with _low
            and _high; latency_limit and throughput_limit, NaN for none.
        title: stands above, followed by n.
    """
    known = curve.dropna(subset=["throughput", "latency_p50"])
    figure, panels = _panels(known, title, height=4.2)
    for axis, (_, part) in panels:
        part = part.sort_values("batch_size")
        for name, mark, colour in (("latency_p50", "o-", "#0072B2"), ("latency_p95", "v", OTHER)):
            axis.errorbar(
                part["throughput"],
                part[name],
                xerr=_bars(part, "throughput") if name == "latency_p50" else None,
                yerr=_bars(part, name),
                fmt=mark,
                color=colour,
                elinewidth=1,
                markersize=4,
                label=f"{name[-2:]}th percentile" if name != "latency_p50" else "median",
            )
        for one in part.itertuples():
            axis.annotate(
                str(one.batch_size),
                (one.throughput, one.latency_p50),
                xytext=(4, -10),
                textcoords="offset points",
                fontsize=8,
            )
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        _limit_line(axis, part["latency_limit"], along="y", sign="s ↑")
        _limit_line(axis, part["throughput_limit"], along="x", sign="requests/s →")
        axis.set_xlabel("throughput (requests/s)")
        axis.set_ylabel("latency of a batch (s)")
    return with_title(
        figure, f"{title} by batch size, n = {_count(known['batches'].sum())} batches"
    )


@styled
def batch_memory(curve: pd.DataFrame, *, title: str = "Peak memory") -> Figure:
    """Draw peak memory over batch size, a panel per kind; a cross is where memory ended.

    Args:
        curve: query, batch_size, status, peak_bytes (NaN if not known).
        title: stands above, followed by n.
    """
    known = curve[curve["peak_bytes"].notna() | (curve["status"] == "out_of_memory")]
    figure, panels = _panels(known, title, height=3.4)
    for axis, (_, part) in panels:
        part = part.sort_values("batch_size")
        out = part["status"] == "out_of_memory"
        ran = part[~out]
        axis.plot(ran["batch_size"], ran["peak_bytes"] / 1e6, "o-", color="#0072B2", label="ran")
        axis.plot(
            part[out]["batch_size"],
            part[out]["peak_bytes"].fillna(0) / 1e6,
            "X",
            color="#D55E00",
            markersize=9,
            label="out of memory",
        )
        axis.set_xscale("log", base=2)
        axis.set_xticks(part["batch_size"], [str(size) for size in part["batch_size"]])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(bottom=0)
        axis.set_xlabel("batch size")
        axis.set_ylabel("peak memory (MB)")
    return with_title(figure, f"{title} by batch size, n = {_count(len(known))} trials")


@styled
def padding(shares: pd.DataFrame, *, title: str = "Padding") -> Figure:
    """Draw which share of a batch is padding, a panel per kind, a line per order of the queries.

    Args:
        shares: query, batch_size, queries, drawn, characters, sorted, ideal.
        title: stands above, followed by n.
    """
    figure, panels = _panels(shares, title, height=3.4)
    orders = {
        "drawn": ("as they come", "o-", "#D55E00"),
        "characters": ("sorted by characters", "^-", "#CC79A7"),
        "sorted": ("sorted by tokens, as here", "s-", "#0072B2"),
        "ideal": ("sorted by tokens, images too", ":", "#000000"),
    }
    for axis, (_, part) in panels:
        part = part.sort_values("batch_size")
        for name, (label, mark, colour) in orders.items():
            axis.plot(part["batch_size"], part[name], mark, color=colour, label=label, markersize=4)
        axis.set_xscale("log", base=2)
        axis.set_xticks(part["batch_size"], [str(size) for size in part["batch_size"]])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.set_xlabel("batch size")
        axis.set_ylabel("padding, of all positions")
    queries = shares.groupby("query")["queries"].first().sum()
    return with_title(figure, f"{title}, n = {_count(queries)} queries")


@styled
def fields(rows: pd.DataFrame, *, title: str) -> Figure:
    """Draw verdicts as coloured fields, a panel each, with what they are about in words.

    Args:
        rows: panel, row, column, verdict (pass, fail, insufficient, not measured), words.
        title: stands above.
    """
    panels = list(dict.fromkeys(rows["panel"]))
    if not panels:
        return nothing(Figure(), title)
    lines, columns = list(dict.fromkeys(rows["row"])), list(dict.fromkeys(rows["column"]))
    width = 1.8 + 1.05 * len(columns)
    across = max(1, min(len(panels), int(16 // width)))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(max(_WIDTH, across * width), 0.5 + down * (0.7 + 0.62 * len(lines))))
    axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, panels, strict=False):
        for one in rows[rows["panel"] == name].itertuples(index=False):
            x, y = columns.index(one.column), lines.index(one.row)
            colour, sign = _VERDICTS[one.verdict]
            axis.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, linewidth=0))
            words = f"{sign} {one.words}" if one.words else sign
            axis.text(x, y, words, ha="center", va="center", fontsize=7, linespacing=1.25)
        axis.set_xticks(range(len(columns)), columns, fontsize=8)
        axis.set_yticks(range(len(lines)), [_cut(line) for line in lines])
        axis.set_xlim(-0.5, len(columns) - 0.5)
        axis.set_ylim(len(lines) - 0.5, -0.5)
        axis.grid(visible=False)
        axis.tick_params(length=0)
        axis.set_title(name)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    return figure


@styled
def scorecard(rows: pd.DataFrame, *, title: str = "Candidates") -> Figure:
    """Draw the candidates of each kind of query against the limits.

    Args:
        rows: query, candidate, figure, value, low, high, n, unit, verdict; one per figure.
        title: stands above.
    """
    shown = rows.assign(
        panel=rows["query"],
        row=rows["candidate"],
        column=rows["figure"],
        words=[
            "" if one.verdict == "not measured" else _in_field(one)
            for one in rows.itertuples(index=False)
        ],
    )
    return fields(shown, title=f"{title}: ✓ meets the limit, ✗ does not, ? open; * recommended")


def _in_field(one: Any) -> str:
    digits = 2 if abs(one.value) < 10 else 0
    number = f"{one.value:.{digits}f}" if math.isfinite(one.value) else "–"
    unit = {"requests/s": "/s", "share": "", "F1": ""}.get(one.unit, one.unit)
    return f"{number} {unit}".rstrip() + f"\n{ends(one.low, one.high)}\nn = {one.n}"


def ends(low: float, high: float) -> str:
    """Return an interval in few characters; an end that n does not bear is a dash."""
    shown = (f"{end:.3g}" if math.isfinite(end) else "–" for end in (low, high))
    return " to ".join(shown)


def _panels(
    rows: pd.DataFrame, title: str, *, height: float
) -> tuple[Figure, list[tuple[Axes, tuple[str, pd.DataFrame]]]]:
    """Return a figure with a panel per kind of query, each with its rows."""
    figure = Figure(figsize=(_WIDTH, height))
    kinds = list(dict.fromkeys(rows["query"]))
    if not kinds:
        return nothing(figure, title), []
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    panels = []
    for axis, kind in zip(axes, kinds, strict=True):
        axis.set_title(kind.replace("_", " + "))
        panels.append((axis, (kind, rows[rows["query"] == kind])))
    return figure, panels


def _bars(part: pd.DataFrame, name: str) -> np.ndarray:
    """Return the lengths of error bars, (2, rows); 0 where an end is not known."""
    ends = [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
    lengths = np.array(ends, dtype=float)
    return np.where(np.isfinite(lengths), np.maximum(lengths, 0), 0)


def _limit_line(axis: Axes, limits: pd.Series, *, along: str, sign: str) -> None:
    """Draw a limit across; one far beyond what is drawn is written at the edge instead."""
    if limits.isna().all():
        return
    limit, colour = float(limits.dropna().iloc[0]), "#D55E00"
    end = (axis.get_xlim() if along == "x" else axis.get_ylim())[1]
    if limit > _FAR * end:
        place = {"x": 0.98, "y": 0.04} if along == "x" else {"x": 0.02, "y": 0.93}
        axis.text(
            **place,
            s=f"limit {limit:g} {sign}",
            color=colour,
            ha="right" if along == "x" else "left",
            transform=axis.transAxes,
        )
    else:
        line = axis.axvline if along == "x" else axis.axhline
        line(limit, color=colour, linestyle="--", linewidth=1.2, label="limit")


def with_title(figure: Figure, title: str) -> Figure:
    """Put a title above the panels and what they have in common below; nothing without panels."""
    handles: dict[str, object] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        figure.suptitle(title)
    return figure


def nothing(figure: Figure, title: str) -> Figure:
    """Say that there is nothing to draw."""
    figure.set_size_inches(_WIDTH, 1.6)
    figure.text(0.5, 0.5, f"{title}: nothing to draw, n = 0", ha="center", va="center")
    return figure


def languages_in(column: pd.Series) -> list[str]:
    """Return the languages that occur, the usual three first and in their order."""
    present = dict.fromkeys(column)
    return [name for name in COLOURS if name in present] + sorted(
        name for name in present if name not in COLOURS
    )


def name_of(language: str) -> str:
    """Return a language's name in English; its tag if there is none."""
    return NAMES.get(language, language)


def _count(number: float) -> str:
    return f"{int(number):,}" if number >= 10_000 else str(int(number))


def _cut(text: str) -> str:
    """Return a class's name as it can be drawn: short, and a box for what has no glyph."""
    drawable = _drawable()
    text = "".join(char if char.isprintable() and ord(char) in drawable else "□" for char in text)
    widths = np.cumsum([2 if char >= "\u2e80" else 1 for char in text])
    if len(text) and widths[-1] > _LONGEST_NAME:
        text = text[: int(np.searchsorted(widths, _LONGEST_NAME - 1, side="right"))] + "…"
    return text.replace("$", r"\$")  # else it would begin mathematics


def _most_and_least(classes: pd.DataFrame) -> pd.DataFrame:
    ordered = classes.sort_values(
        ["rows", "annotation"], ascending=[False, True], kind="stable", ignore_index=True
    )
    if len(ordered) <= _MOST_BARS:
        return ordered
    half = _MOST_BARS // 2
    return ordered.iloc[[*range(half), *range(len(ordered) - half, len(ordered))]]


def _dot(n: int) -> float:
    return float(np.clip(9000 / max(n, 1), 8, 40))


def _kind_of_finding(finding: str) -> str:
    """Return a finding without its particulars: ``too dark (mean luma 12)`` is ``too dark``."""
    return "shows the same as another" if finding.startswith("shows") else finding.split(" (")[0]


def _finding_style(number: int, n: int) -> dict[str, object]:
    if number == 0:
        return {"s": _dot(n), "color": OTHER, "marker": "o", "alpha": 0.6, "linewidths": 0}
    colours = ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#000000", "#56B4E9")
    marks = "XDP^vs"
    place = (number - 1) % len(marks)
    return {"s": 50, "color": colours[place], "marker": marks[place], "zorder": 3}


def _legend_beside(axis: Axes) -> None:
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.3)
