"""Model cards: what they say, and the place of the figures in them."""

from __future__ import annotations

import math

import pytest

from lab import cards
from lab.cards import Card
from lab.errors import MissingError, ModelError
from lab.slo import Limit, Metric

CARD = Card(
    title="A model",
    task="sentence-similarity",
    licence="mit",
    summary="What it is. 中文 日本語",
    data="Sentences.",
    recipe="Slowly.",
    limits="Many.",
)


AT_LEAST = Limit(">=", 0.9)


def figure(value=0.97, ci=(0.95, 0.99), limit=AT_LEAST):
    labels = {"what": "text answer, token-F1", "language": "zh"}
    if limit is None:
        return Metric("token_f1", value, "share", 400, ci, labels)
    return Metric.judged("token_f1", value, unit="share", n=400, ci=ci, limit=limit, labels=labels)


def text(folder):
    return (folder / "README.md").read_text("utf-8")


def test_a_card_has_no_figures_until_they_are_measured(tmp_path):
    cards.write(CARD, tmp_path)
    assert "Not measured yet" in text(tmp_path)
    assert text(tmp_path).startswith("---\nlicense: mit\nlanguage:\n- zh\n- en\n- ja\n")
    assert "中文 日本語" in text(tmp_path)


def test_figures_are_written_and_kept_when_the_card_is_written_again(tmp_path):
    cards.write(CARD, tmp_path)
    cards.write_figures([figure()], tmp_path, machine="a laptop, 2 cores")
    row = "| text answer, token-F1 | zh | 0.97 | 0.95 to 0.99 | 400 | >= 0.9 | pass |"
    assert row in text(tmp_path)
    assert "on a laptop, 2 cores" in text(tmp_path)
    assert "Not measured yet" not in text(tmp_path)
    before = text(tmp_path)
    cards.write(CARD, tmp_path)
    assert text(tmp_path) == before
    cards.write_figures([figure(0.5, (0.4, 0.6))], tmp_path, machine="another")
    assert row not in text(tmp_path)
    assert "| fail |" in text(tmp_path)


@pytest.mark.parametrize("ci", [None, (math.nan, math.nan)])
def test_no_interval_is_said(ci):
    assert cards.cells(figure(ci=ci, limit=None))[3] == "none"


def test_a_unit_stands_behind_the_value():
    one = Metric("latency_p50", 0.1234, "s", 30, (0.12, 0.13), {"what": "w", "language": "en"})
    assert cards.cells(one)[2] == "0.1234 s"


def test_figures_need_a_card_with_a_place(tmp_path):
    with pytest.raises(MissingError, match="model card"):
        cards.write_figures([figure()], tmp_path, machine="m")
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(ModelError, match="figures: begin"):
        cards.write_figures([figure()], tmp_path, machine="m")
    assert text(tmp_path) == "# mine"
