from __future__ import annotations

import io
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lab import plots

LANGUAGES = ("zh", "en", "ja")
CLASSES = {"zh": "退货流程", "en": "Return process", "ja": "返品プロセス"}


def png(figure):
    """Render; warnings, such as a missing glyph, are errors here. Returns (height, width, 3)."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    return np.asarray(Image.open(stream).convert("RGB"))


def texts(figure):
    found = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    return [text for text in found if text]


def classes(count=3):
    rows = [
        {"language": language, "annotation": f"{CLASSES[language]}{number}", "rows": number + 1}
        for language in LANGUAGES
        for number in range(count)
    ]
    return pd.DataFrame(rows)


def lengths():
    rows = [
        {"field": field, "language": language, "unit": unit, "n": 10}
        | {f"p{p}": p // 5 + 3 for p in (0, 5, 25, 50, 75, 95, 100)}
        for field in ("question", "answer")
        for unit in ("characters", "tokens")
        for language in LANGUAGES
    ]
    return pd.DataFrame(rows)


def coverage():
    rows = [
        {"table": table, "language": language, "items": 20, "share": share}
        for table in ("faq", "images")
        for language, share in zip(LANGUAGES, (1.0, 0.95, 0.0), strict=True)
    ]
    return pd.DataFrame(rows)


def points(n=30):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "y": rng.normal(size=n),
            "language": [LANGUAGES[at % 3] for at in range(n)],
        }
    )


def images(n=12):
    findings = ["", "too dark (mean luma 5)", "shows the same as images/a.jpg", "label disagrees"]
    return pd.DataFrame(
        {
            "brightness": np.linspace(0, 255, n),
            "sharpness": np.linspace(0, 300, n),
            "finding": [findings[at % 4] for at in range(n)],
        }
    )


def audio(n=30):
    return pd.DataFrame(
        {
            "language": [LANGUAGES[at % 3] for at in range(n)],
            "duration_s": np.linspace(1, 6, n),
            "rms_dbfs": [-np.inf, *np.linspace(-40, -10, n - 1)],
            "finding": ["silent (100% of the time)"] + [""] * (n - 1),
        }
    )


def curve(methods=("l1", "wanda", "structured")):
    rows = [
        {
            "method": method,
            "sparsity": sparsity,
            "language": language,
            "change": -(sparsity**2),
            "low": -(sparsity**2) - 0.05,
            "high": 0.05,
            "n": 30,
        }
        for method in methods
        for sparsity in (0.2, 0.3, 0.5)
        for language in LANGUAGES
    ]
    return pd.DataFrame(rows)


def sensitivities(count=9):
    names = [f"model.language_model.layers.{at}.mlp.down_proj" for at in range(count)]
    worse = 1 + np.linspace(-0.01, 0.5, count)
    return pd.DataFrame(
        {"layer": names, "perplexity": worse, "low": worse - 0.1, "high": worse + 0.2, "groups": 6}
    )


def gains():
    rows = [
        {
            "method": method,
            "sparsity": sparsity,
            "promised_bytes": 1 - 0.8 * sparsity,
            "stored_bytes": 1.0,
            "loaded_bytes": 1.0,
            "promised_time": 1 - sparsity,
            "time": 1.0,
            "low": 0.97,
            "high": 1.03,
            "blocks": 10,
        }
        for method in ("l1", "structured")
        for sparsity in (0.2, 0.5)
    ]
    return pd.DataFrame(rows)


def sweep():
    sizes = [1, 8, 12, 64]
    figures = {
        name: [*values, np.nan]
        for name, values in {
            "throughput": [10.0, 40.0, 42.0],
            "throughput_low": [9.0, 0.0, 41.0],
            "throughput_high": [11.0, np.inf, 43.0],
            "latency_p50": [0.1, 0.2, 0.28],
            "latency_p50_low": [0.1, 0.19, -np.inf],
            "latency_p50_high": [0.1, 0.22, np.inf],
            "latency_p95": [0.12, 0.21, 0.3],
            "latency_p95_low": [0.1, 0.2, 0.25],
            "latency_p95_high": [np.inf, np.inf, np.inf],
        }.items()
    }
    whole = pd.DataFrame(
        {
            "batch_size": sizes,
            "status": ["ok", "ok", "ok", "out_of_memory"],
            "batches": [10, 10, 10, 0],
            "peak_bytes": [2e7, 4e7, np.nan, np.nan],
            "latency_limit": 0.4,
            "throughput_limit": 100.0,
            **figures,
        }
    )
    return pd.concat([whole.assign(query="text"), whole.assign(query="image_text")])


def padded():
    return pd.DataFrame(
        {
            "query": ["text", "text", "image_text"],
            "batch_size": [1, 8, 8],
            "queries": [16, 16, 9],
            "drawn": [0.0, 0.3, 0.2],
            "characters": [0.0, 0.1, 0.08],
            "sorted": [0.0, 0.05, 0.05],
            "ideal": [0.0, 0.05, 0.05],
        }
    )


FIGURES = {
    "batch_curve": (plots.batch_curve, sweep, {}),
    "batch_memory": (plots.batch_memory, sweep, {}),
    "padding": (plots.padding, padded, {}),
    "sparsity_curves": (
        plots.sparsity_curves,
        curve,
        {"least": -0.05, "unit": "F1", "article": ("l1", (0.2, 0.3))},
    ),
    "sensitivities": (plots.sensitivities, sensitivities, {}),
    "promises": (plots.promises, gains, {}),
    "balance": (plots.balance, classes, {}),
    "lengths": (plots.lengths, lengths, {}),
    "coverage": (plots.coverage, coverage, {}),
    "question_map": (plots.question_map, points, {"embedding": "character n-grams"}),
    "images": (plots.images, images, {}),
    "audio": (plots.audio, audio, {}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_render_say_n_and_leave_their_data_alone(name):
    draw, data, extra = FIGURES[name]
    frame = data()
    pixels = png(draw(frame, **extra))
    assert frame.equals(data())
    assert (pixels != 255).any(axis=2).mean() > 0.01
    assert any("n = " in text for text in texts(draw(frame, **extra)))


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw_is_said(name):
    draw, data, extra = FIGURES[name]
    figure = draw(data().iloc[:0], **extra)
    png(figure)
    assert any("nothing to draw, n = 0" in text for text in texts(figure))


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_data_give_the_same_picture(name):
    draw, data, extra = FIGURES[name]
    assert np.array_equal(png(draw(data(), **extra)), png(draw(data(), **extra)))


def test_chinese_and_japanese_glyphs_are_drawn():
    frame = pd.DataFrame(
        {
            "language": ["zh", "ja", "ja"],
            "annotation": ["退货流程", "返品プロセス", "髙島屋"],
            "rows": [3, 2, 1],
        }
    )
    figure = plots.balance(frame)
    png(figure)  # a glyph that is missing warns, and a warning is an error
    labels = {label.get_text(): label for label in figure.axes[0].get_yticklabels()}
    assert labels["退货流程"].get_language() == "zh-Hans"
    assert "Noto Sans CJK JP" in labels["退货流程"].get_fontfamily()


def test_what_has_no_glyph_becomes_a_box():
    frame = pd.DataFrame(
        {"language": ["zh"], "annotation": ["退\U0001f9ff货\x1b\u202e"], "rows": [1]}
    )
    figure = plots.balance(frame)
    png(figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["退□货□□"]


def test_dollar_signs_and_markup_in_names_stay_text():
    frame = pd.DataFrame({"language": ["en"], "annotation": ["$x_1$ <b> \\frac"], "rows": [1]})
    png(plots.balance(frame))


def test_long_names_and_many_classes_are_shortened_and_it_is_said():
    frame = classes(300)
    frame["annotation"] += "很长的名字" * 20
    figure = plots.balance(frame)
    height = png(figure).shape[0] / 60
    assert height < 12
    assert any("44 of 300: largest and smallest" in text for text in texts(figure))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 44
    assert max(map(len, names)) <= 32
    assert all(name.endswith("…") for name in names)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_methods_have_panels_of_their_own(count):
    some = ("l1", "wanda", "structured", "heads")[:count]
    figure = plots.sparsity_curves(curve(some), least=-0.05, unit="F1", article=("l1", (0.2, 0.3)))
    png(figure)
    assert "l1 (dotted: the article's 0.2 and 0.3)" in texts(figure)
    assert set(some[1:]) <= set(texts(figure))


def test_who_did_not_answer_and_who_has_no_interval_are_drawn():
    frame = curve(("l1",))
    frame.loc[frame["sparsity"] == 0.5, ["change", "low", "high"]] = np.nan
    frame.loc[frame["sparsity"] == 0.3, ["low", "high"]] = np.nan
    png(plots.sparsity_curves(frame, least=-0.05, unit="F1"))
    frame[["change", "low", "high"]] = np.nan
    png(plots.sparsity_curves(frame.assign(n=0), least=-0.05, unit="F1"))


def test_of_many_layers_the_worst_are_drawn_and_it_is_said():
    figure = plots.sensitivities(sensitivities(50))
    png(figure)
    assert any("the worst 30 of 50 layers" in text for text in texts(figure))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == "language_model.49.mlp.down_proj"


def test_a_layer_that_is_the_end_of_all_answers_is_told():
    frame = sensitivities(3)
    frame.loc[1, ["perplexity", "low", "high"]] = np.inf
    figure = plots.sensitivities(frame)
    png(figure)
    assert "no answer that is a number" in texts(figure)


def test_a_single_block_has_no_interval_and_is_drawn():
    frame = gains().assign(low=0.0, high=np.inf)
    frame.loc[0, ["time", "stored_bytes", "loaded_bytes"]] = np.nan
    png(plots.promises(frame))


@pytest.mark.parametrize("name", ["balance", "lengths", "coverage", "question_map", "audio"])
def test_one_language_and_an_unknown_one(name):
    draw, data, extra = FIGURES[name]
    frame = data()
    png(draw(frame[frame["language"] == "ja"], **extra))
    png(draw(frame.replace({"language": {"ja": "ko"}}), **extra))


def test_one_recording_of_no_length():
    frame = audio(30).iloc[:1].assign(duration_s=0.0)
    png(plots.audio(frame))


def test_no_label_is_cut_off_by_the_edge():
    for draw, data, extra in FIGURES.values():
        figure = draw(data(), **extra)
        pixels = png(figure)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge == 255).mean() > 0.99, draw.__name__


def test_defaults_of_other_figures_stay_as_they_are():
    before = dict(mpl.rcParams)
    png(plots.balance(classes()))
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_loaded():
    code = "import sys, lab.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
