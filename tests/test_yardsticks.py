"""Tests of lab.yardsticks: vectors made once, and the shipped encoder."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT

from lab import models
from lab.queries import Answer
from lab.yardsticks import Yardstick, is_foreign


class Stand:
    """An encoder whose vectors are the number of letters a and b, and 1."""

    def __init__(self):
        self.asked = []

    def ask(self, queries, *, batch_size=None, generation=None):
        self.asked += [query.text for query in queries]
        return [self._answer(query.text) for query in queries]

    def _answer(self, text):
        if not text.strip():
            return Answer(error="text must not be blank")
        found = np.array([text.count("a"), text.count("b"), 1], dtype=np.float32)
        return Answer(vector=found / np.linalg.norm(found))


@pytest.fixture(scope="module")
def encoder():
    return models.load("encoder", ROOT / "params" / "models" / "demo" / "encoder")


def test_similarity_is_the_cosine():
    found = Yardstick(Stand()).similarity(["aa", "ab", "a"], ["aa", "b", ""], ["en"] * 3)
    assert found == pytest.approx([1, 2 / np.sqrt(6), 0])


def test_each_text_is_asked_once():
    stand = Stand()
    one = Yardstick(stand)
    one.vectors(["a", "b", "a"], ["en", "en", "en"])
    one.similarity(["b", "c"], ["a", "a"], ["en", "en"])
    assert stand.asked[1:] == ["a", "b", "c"]  # the first tells how long vectors are


def test_blank_texts_are_alike_to_nothing():
    found = Yardstick(Stand()).vectors(["", "a", " \n"], ["en"] * 3)
    assert found.shape == (3, 3)
    assert found.any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_at_all_is_as_wide_as_something(texts):
    found = Yardstick(Stand()).vectors(texts, ["en"] * len(texts))
    assert found.shape == (len(texts), 3)
    assert not found.any()


def test_the_answer_in_another_language_is_alike_to_nothing():
    one, text = Yardstick(Stand()), "This is an answer in English"
    assert one.similarity([text, text], [text, text], ["en", "zh"]).tolist() == [
        pytest.approx(1),
        0,
    ]


def test_each_text_has_its_language():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        Yardstick(Stand()).vectors(["a", "b"], ["en"])


def test_progress_is_told_some_at_a_time():
    told = []
    one = Yardstick(Stand(), progress=lambda *words: told.append(words))
    one.vectors([f"a{at}" for at in range(1_100)], ["en"] * 1_100)
    assert told == [("comparing", 0, 1100), ("comparing", 512, 1100), ("comparing", 1024, 1100)]


@pytest.mark.parametrize(
    ("text", "wanted", "foreign"),
    [
        ("周四下午可以取药吗", "zh", False),
        ("周四下午可以取药吗", "ja", True),
        ("木曜の午後に薬を受け取れますか", "ja", False),
        ("木曜の午後に薬を受け取れますか", "zh", True),
        ("Where is the desk on the first floor", "en", False),
        ("Where is the desk on the first floor", "ja", True),
        ("是的", "ja", False),  # too short to tell
        ("", "en", False),
        ("42", "zh", False),
        ("Где находится аптека сегодня", "en", True),
        ("\ud800", "en", False),
    ],
)
def test_another_language_is_told(text, wanted, foreign):
    assert is_foreign([text], [wanted]).tolist() == [foreign]


def test_no_text_is_in_no_language():
    assert is_foreign([], []).shape == (0,)


# --- the shipped encoder --------------------------------------------------------------------------


def test_vectors_are_of_unit_length_and_do_not_depend_on_their_company(encoder):
    texts = ["Where is the pharmacy?", "取药在哪里", "薬局はどこですか", "A"]
    languages = ["en", "zh", "ja", "en"]
    together = Yardstick(encoder).vectors(texts, languages)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    alone = Yardstick(encoder)
    for text, language, vector in zip(texts, languages, together, strict=True):
        assert alone.vectors([text], [language])[0] == pytest.approx(vector, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> $x_1$",
        "null \x00 and \x1b[31m",
        "\u202eright to left",
        "long " * 2_000,
        "{{7*7}}",
    ],
)
def test_hostile_text_is_text(encoder, text):
    assert Yardstick(encoder).similarity([text], [text], ["en"]) == pytest.approx([1], abs=1e-5)


def test_what_is_no_text_is_alike_to_nothing(encoder):
    text = "broken \ud800 surrogate"
    assert Yardstick(encoder).similarity([text], [text], ["en"]) == [0]
