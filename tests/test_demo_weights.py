"""The weights that ship: within their size, with a card each, and as good as the card says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import cards, checkpoints, exams, suites

ROOT = Path(__file__).resolve().parent.parent
SOURCES = suites.load("demo", root=ROOT).sources


def test_they_are_within_their_size():
    weights = [*(ROOT / "params" / "models" / "demo").rglob("*.safetensors")]
    assert weights
    assert sum(file.stat().st_size for file in weights) <= 48_000_000
    others = [
        file for file in (ROOT / "params" / "models").rglob("*") if file.stat().st_size > 2_000_000
    ]
    assert set(others) <= set(weights)


@pytest.mark.parametrize("role", SOURCES)
class TestShipped:
    def test_it_is_what_its_role_needs(self, role):
        found = checkpoints.inspect(suites.locate(SOURCES[role], root=ROOT), role=role)
        assert found.dtypes == ("bfloat16",)

    def test_its_card_has_recipe_figures_and_limits(self, role):
        text = (suites.locate(SOURCES[role], root=ROOT) / cards.CARD).read_text("utf-8")
        for heading in ("learnt from", "Recipe", "Measured", "Limits", "Whose work"):
            assert re.search(rf"^## .*{heading}", text, re.M), heading
        for language in ("zh", "en", "ja"):
            assert re.search(rf"^\| .* \| .*{language}.* \| .* \| \d+ \| ", text, re.M)

    @pytest.mark.slow
    @pytest.mark.timeout(900)  # the whole exam
    def test_it_is_as_good_as_its_card_says(self, role):
        folder = suites.locate(SOURCES[role], root=ROOT)
        figures = exams.sit(role, folder, root=ROOT, quick=False, progress=lambda *words: None)
        card = (folder / cards.CARD).read_text("utf-8")
        for figure in figures:
            if figure.unit == "s" or figure.limit is None:
                continue  # a time belongs to the machine it was measured on
            what, language = figure.labels["what"], figure.labels["language"]
            pattern = rf"^\| {re.escape(what)} \| {language} \| ([\d.e-]+) .*\| {figure.n} \|"
            known = re.search(pattern, card, re.M)
            assert known, f"{what} {language}"
            # The same items as the card was written from: other processors round a few otherwise.
            assert abs(figure.value - float(known[1])) <= 0.02, f"{what} {language}"
