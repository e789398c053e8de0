"""Figures of notebook 05: the matrix of scores, what they are calibrated by, and what they detect.

Owns how these three are drawn. Knows nothing of where a result comes from.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from lab import plots
from lab.plots import styled

if TYPE_CHECKING:
    import pandas as pd

# Colour and sign of a verdict; the sign is drawn too, for whoever cannot tell the colours.
_VERDICTS = {
    "pass": ("#8CD3B4", "✓"),
    "fail": ("#F2A98A", "✗"),
    "insufficient": ("#F0E0A8", "?"),
}
_OF = {
    "matched": ("#0072B2", "accounts that should agree"),
    "near": ("#E69F00", "near misses"),
    "other": (plots.OTHER, "other subjects"),
}


@styled
def matrix(rows: pd.DataFrame, *, limit: str, title: str = "Consistency") -> Figure:
    """Draw a panel per configuration, a line per pair, a field per language.

    Args:
        rows: configuration, pair, language, score, low, high, n, verdict.
        limit: that the scores are held against, for people to read.
        title: stands above.
    """
    names = list(dict.fromkeys(rows["configuration"]))
    if not names:
        return plots.nothing(Figure(), title)
    pairs, languages = list(dict.fromkeys(rows["pair"])), list(dict.fromkeys(rows["language"]))
    figure = Figure(
        figsize=(max(9.0, 1.6 + len(names) * 0.95 * len(languages)), 1.3 + 0.6 * len(pairs))
    )
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axis, name in zip(panels, names, strict=True):
        for one in rows[rows["configuration"] == name].itertuples(index=False):
            at = (languages.index(one.language), pairs.index(one.pair))
            colour, sign = _VERDICTS[one.verdict]
            axis.add_patch(_field(at, colour))
            low, high = (f"{end:.2f}" if math.isfinite(end) else "–" for end in (one.low, one.high))
            words = f"{sign} {one.score:.2f}\n{low} to {high}\nn = {one.n}"
            axis.text(*at, words, ha="center", va="center", fontsize=7, linespacing=1.25)
        axis.set_xticks(range(len(languages)), languages)
        axis.set_yticks(range(len(pairs)), [one.replace("_", " ") for one in pairs])
        axis.set_xlim(-0.5, len(languages) - 0.5)
        axis.set_ylim(len(pairs) - 0.5, -0.5)
        axis.grid(visible=False)
        axis.tick_params(length=0)
        axis.set_title(name)
    figure.suptitle(f"{title}: ✓ {limit}, ✗ not, ? open; score, 95 % interval, items")
    return figure


@styled
def calibration(rows: pd.DataFrame, *, title: str = "What similarity says") -> Figure:
    """Draw how similar accounts are that should agree, near misses, and other subjects.

    Args:
        rows: pair, language, of (matched, near, other), similarity; one row per pair of accounts.
        title: stands above.
    """
    pairs = list(dict.fromkeys(rows["pair"]))
    figure = Figure(figsize=(9.0, 1.0 + 1.5 * max(1, math.ceil(len(pairs) / 2))))
    if not pairs:
        return plots.nothing(figure, title)
    axes = figure.subplots(math.ceil(len(pairs) / 2), min(2, len(pairs)), squeeze=False).ravel()
    edges = np.linspace(-0.3, 1.0, 53)
    for axis, pair in zip(axes, pairs, strict=False):
        part = rows[rows["pair"] == pair]
        for of, (colour, label) in _OF.items():
            values = part["similarity"][part["of"] == of].to_numpy()
            if len(values):
                weights = np.full(len(values), 1 / len(values))
                axis.hist(
                    np.clip(values, edges[0], edges[-1]),
                    bins=edges,
                    weights=weights,
                    histtype="stepfilled" if of == "other" else "step",
                    color=colour,
                    alpha=0.5 if of == "other" else 1.0,
                    linewidth=1.6,
                    label=label,
                )
        axis.set_title(f"{pair.replace('_', ' ')}, n = {int((part['of'] == 'matched').sum())}")
        axis.set_xlabel("cosine")
        axis.set_ylabel("share")
        axis.set_yscale("log")
    for axis in axes[len(pairs) :]:
        axis.set_axis_off()
    return plots.with_title(figure, title)


@styled
def detection(rows: pd.DataFrame, *, title: str = "What is seen of planted faults") -> Figure:
    """Draw the AUC of each kind of plant, a panel per pair, a mark per language.

    Args:
        rows: pair, language, planted, auc, low, high, n.
        title: stands above.
    """
    pairs = list(dict.fromkeys(rows["pair"]))
    kinds = list(dict.fromkeys(rows["planted"]))
    figure = Figure(figsize=(9.0, 1.4 + 1.7 * max(1, math.ceil(len(pairs) / 3))))
    if not pairs:
        return plots.nothing(figure, title)
    axes = figure.subplots(
        math.ceil(len(pairs) / 3), min(3, len(pairs)), squeeze=False, sharex=True, sharey=True
    ).ravel()
    for axis, pair in zip(axes, pairs, strict=False):
        part = rows[rows["pair"] == pair]
        languages = plots.languages_in(part["language"])
        for number, language in enumerate(languages):
            own = part[part["language"] == language]
            places = np.array([kinds.index(one) for one in own["planted"]])
            shift = 0.2 * (number - (len(languages) - 1) / 2)
            middle = own["auc"].to_numpy(dtype=float)
            ends = [middle - own["low"].clip(lower=0), own["high"].clip(upper=1) - middle]
            axis.errorbar(
                middle,
                places + shift,
                xerr=np.clip(np.nan_to_num(np.array(ends)), 0, None),
                fmt=plots.MARKS.get(language, "D"),
                color=plots.COLOURS.get(language, plots.OTHER),
                capsize=2,
                markersize=4.5,
                label=plots.name_of(language),
            )
        axis.axvline(0.5, color=plots.OTHER, linewidth=1, linestyle=":")
        axis.set_yticks(range(len(kinds)), kinds)
        axis.set_ylim(len(kinds) - 0.5, -0.5)
        axis.set_xlim(0, 1.02)
        axis.grid(visible=False, axis="y")
        axis.set_title(pair.replace("_", " "))
    for axis in axes[len(pairs) :]:
        axis.set_axis_off()
    return plots.with_title(figure, f"{title}: AUC with 95 % interval; 0.5 is guessing")


def _field(at: tuple[int, int], colour: str) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle((at[0] - 0.48, at[1] - 0.46), 0.96, 0.92, color=colour, linewidth=0)
