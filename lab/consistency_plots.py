"""Figures of notebook 05: the matrix of scores, what they are calibrated by, and what they detect.

Owns how these three are drawn. Knows nothing of where a result comes from.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lab import plots
from lab.plots import styled

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
    fields = pd.DataFrame(
        {
            "panel": rows["configuration"],
            "row": rows["pair"].str.replace("_", " "),
            "column": rows["language"],
            "verdict": rows["verdict"],
            "words": [
                f"{one.score:.2f}\n{plots.ends(one.low, one.high)}\nn = {one.n}"
                for one in rows.itertuples(index=False)
            ],
        }
    )
    return plots.fields(
        fields, title=f"{title}: ✓ {limit}, ✗ not, ? open; score, 95 % interval, items"
    )


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
