"""Figures of consistency: they render, say what they must, and leave their data alone."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lab import consistency_plots as plots

PAIRS = ("speech_input", "image_input", "languages")
KINDS = ("swapped", "one word", "contrary")


def png(figure):
    """Render; warnings, such as a missing glyph, are errors here. Returns (height, width, 3)."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    return np.asarray(Image.open(stream).convert("RGB"))


def texts(figure):
    found = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    return [text for text in found if text]


def scores(names=("fp32", "nf4")):
    verdicts = ("pass", "fail", "insufficient")
    rows = [
        {
            "configuration": name,
            "pair": pair,
            "language": language,
            "score": 0.9 + 0.01 * at,
            "low": 0.85,
            "high": 0.95,
            "n": 20,
            "verdict": verdicts[at],
        }
        for name in names
        for pair in PAIRS
        for at, language in enumerate(("en-zh",) if pair == "languages" else ("en", "ja", "zh"))
    ]
    return pd.DataFrame(rows)


def similarities(n=30):
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "pair": pair,
                "language": "en",
                "of": of,
                "similarity": rng.normal(mean, 0.1, n),
            }
        )
        for pair in PAIRS
        for of, mean in (("matched", 0.9), ("near", 0.7), ("other", 0.1))
    ]
    return pd.concat(parts, ignore_index=True)


def power():
    rows = [
        {
            "pair": pair,
            "language": language,
            "planted": kind,
            "auc": 0.9 - 0.1 * at,
            "low": 0.8 - 0.1 * at,
            "high": 0.95,
            "caught": 0.5,
            "n": 30,
        }
        for pair in PAIRS
        for language in (("en-zh", "ja-zh") if pair == "languages" else ("en", "ja", "zh"))
        for at, kind in enumerate(KINDS)
    ]
    return pd.DataFrame(rows)


FIGURES = {
    "matrix": (plots.matrix, scores, {"limit": "> 0.9"}),
    "calibration": (plots.calibration, similarities, {}),
    "detection": (plots.detection, power, {}),
}


@pytest.fixture(scope="module")
def drawn():
    """Pixels of each figure."""
    return {name: png(draw(data(), **extra)) for name, (draw, data, extra) in FIGURES.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_render_and_leave_their_data_alone(name, drawn):
    draw, data, extra = FIGURES[name]
    frame = data()
    pixels = png(draw(frame, **extra))
    assert frame.equals(data())
    assert (pixels != 255).any(axis=2).mean() > 0.01
    assert np.array_equal(pixels, drawn[name])


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_said(name):
    draw, data, extra = FIGURES[name]
    figure = draw(data().iloc[:0], **extra)
    png(figure)
    assert any("nothing to draw, n = 0" in text for text in texts(figure))


@pytest.mark.parametrize("name", FIGURES)
def test_no_label_is_cut_off_by_the_edge(name, drawn):
    pixels = drawn[name]
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge == 255).mean() > 0.99


@pytest.mark.parametrize("name", FIGURES)
def test_one_row_is_drawn(name):
    draw, data, extra = FIGURES[name]
    png(draw(data().iloc[:1], **extra))


def test_the_matrix_says_score_interval_items_and_verdict():
    found = texts(plots.matrix(scores(), limit="> 0.9"))
    assert "✓ 0.90\n0.85 to 0.95\nn = 20" in found
    assert "✗ 0.91\n0.85 to 0.95\nn = 20" in found
    assert "? 0.92\n0.85 to 0.95\nn = 20" in found
    assert {"fp32", "nf4", "speech input", "en-zh"} <= set(found)
    assert any("> 0.9" in text and "95 % interval" in text for text in found)


def test_an_interval_without_ends_is_a_dash():
    frame = scores().assign(low=-np.inf, high=np.inf, n=1)
    figure = plots.matrix(frame, limit="> 0.9")
    png(figure)
    assert "✓ 0.90\n– to –\nn = 1" in texts(figure)


def test_each_configuration_has_a_panel_and_only_the_pairs_it_has():
    frame = scores()
    frame = frame[(frame["configuration"] == "nf4") | (frame["pair"] != "languages")]
    first, second = plots.matrix(frame, limit="> 0.9").axes
    assert (len(first.patches), len(second.patches)) == (6, 7)
    many = plots.matrix(scores([f"method{at}" for at in range(10)]), limit="> 0.9")
    assert len(many.axes) == 10


def test_markup_in_names_stays_text():
    name = "$x_1$ <b> \\frac{1}{0}"
    png(plots.matrix(scores([name]), limit="> 0.9"))
    png(plots.detection(power().replace({"planted": {"swapped": name}})))


def test_the_calibration_says_how_many_pairs_should_agree():
    found = texts(plots.calibration(similarities()))
    assert "speech input, n = 30" in found
    assert {"accounts that should agree", "near misses", "other subjects"} <= set(found)


def test_similarities_beyond_the_axis_are_on_its_edge():
    frame = similarities().assign(similarity=-0.9)
    assert plots.calibration(frame).axes[0].dataLim.y1 == pytest.approx(1)


def test_a_pair_without_near_misses_is_drawn():
    frame = similarities()
    png(plots.calibration(frame[frame["of"] != "near"]))


def test_a_plant_without_an_interval_is_drawn_from_end_to_end():
    figure = plots.detection(power().assign(low=-np.inf, high=np.inf))
    png(figure)
    (bars,) = figure.axes[0].containers[0].lines[2]
    assert [part[:, 0].tolist() for part in bars.get_segments()] == [[0, 1]] * len(KINDS)
    png(plots.detection(power().assign(low=np.nan, high=np.nan)))


def test_languages_have_their_marks_and_names():
    found = texts(plots.detection(power()))
    assert {"English", "Japanese", "Chinese"} <= {text.partition(" (")[0] for text in found}
    assert any("0.5 is guessing" in text for text in found)


def test_defaults_of_other_figures_stay_as_they_are():
    before = dict(mpl.rcParams)
    for draw, data, extra in FIGURES.values():
        draw(data(), **extra)
    assert dict(mpl.rcParams) == before
