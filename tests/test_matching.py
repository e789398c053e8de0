"""Tests of lab.matching: choices by hand, and the shipped clip."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from lab import lessons, matching, models
from lab.queries import Answer, Query
from lab.requests import Request


def asked(*texts, language="en", first=0):
    return [
        Request(f"images:{at}", f"g{at}", language, Query(text=text, language=language), text)
        for at, text in enumerate(texts, first)
    ]


def answer(image, words):
    return Answer(vector=np.array([image, words], np.float32))


def told(found):
    return [(one.item, one.chosen, one.right) for one in found]


RED, BLUE, GREEN = np.eye(3, dtype=np.float32)


def test_each_side_chooses_the_most_similar_other():
    # The image of the first is more like the words of the second.
    answers = [answer(0.6 * RED + 0.8 * BLUE, RED), answer(BLUE, BLUE), answer(GREEN, GREEN)]
    assert told(matching.matches(asked("red", "blue", "green"), answers)) == [
        ("images:0 image", "images:1", False),
        ("images:0 words", "images:0", True),
        ("images:1 image", "images:1", True),
        ("images:1 words", "images:1", True),
        ("images:2 image", "images:2", True),
        ("images:2 words", "images:2", True),
    ]


def test_only_what_has_the_same_language_is_chosen_among():
    pairs = [*asked("red"), *asked("红色", language="zh", first=1)]
    found = matching.matches(pairs, [answer(RED, BLUE), answer(BLUE, RED)])
    assert [one.chosen for one in found] == ["images:0", "images:0", "images:1", "images:1"]
    assert all(one.right for one in found)
    assert [one.language for one in found] == ["en", "en", "zh", "zh"]
    assert [one.group for one in found] == ["g0", "g0", "g1", "g1"]


def test_an_equal_description_is_right_as_well_and_is_the_same_choice():
    # Two pictures of a red sofa, of which each is more like the other's words, if only by a bit.
    pairs = asked("Red sofa", "red  sofa.", "blue sofa")
    near = RED + 1e-3 * GREEN
    answers = [answer(near, RED), answer(RED, near), answer(BLUE, BLUE)]
    found = matching.matches(pairs, answers)
    assert all(one.right for one in found)
    assert [one.chosen for one in found] == ["images:0"] * 4 + ["images:2"] * 2


def test_a_tie_with_another_description_is_not_right():
    found = matching.matches(asked("red", "blue"), [answer(RED, RED), answer(RED, RED)])
    assert not any(one.right for one in found)


def test_what_did_not_come_is_chosen_by_nobody_and_holds_up_nobody():
    answers = [answer(RED, RED), Answer(error="too large"), answer(-RED, -RED)]
    assert told(matching.matches(asked("red", "blue", "green"), answers)) == [
        ("images:0 image", "images:0", True),
        ("images:0 words", "images:0", True),
        ("images:1 image", "", False),
        ("images:1 words", "", False),
        ("images:2 image", "images:2", True),
        ("images:2 words", "images:2", True),
    ]
    assert not matching.matches(asked("red"), [Answer(error="too large")])[0].right
    assert matching.matches([], []) == []


@pytest.fixture(scope="module")
def clip():
    return models.load("clip", ROOT / "params" / "models" / "demo" / "clip")


def pictures(count):
    shown = [lessons.picture(at, part="train") for at in range(count)]
    return [Query(text=one.describe("en"), image=one.draw(), language="en") for one in shown]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_pair_has_the_vectors_of_its_two_sides(clip, size):
    queries = pictures(5)
    found = matching.ask(clip, queries, batch_size=size)
    for one, query in zip(found, queries, strict=True):
        image, words = clip.ask([Query(image=query.image), Query(text=query.text)])
        np.testing.assert_allclose(one.vector, [image.vector, words.vector], atol=1e-5)
        assert one.tokens_in == words.tokens_in
        assert not one.error


def test_a_side_that_cannot_be_asked_is_an_error_of_its_pair(clip):
    bad = Query(text=" ", image=Image.new("RGB", (64, 64)))
    first, second = matching.ask(clip, [bad, *pictures(1)], batch_size=2)
    assert "must hold words" in first.error
    assert first.vector is None
    assert second.vector.shape[0] == 2


def test_the_shipped_clip_finds_most_of_what_the_shop_shows(clip):
    queries = pictures(12)
    pairs = [
        Request(f"images:{at}", f"g{at}", "en", query, query.text)
        for at, query in enumerate(queries)
    ]
    found = matching.matches(pairs, matching.ask(clip, queries, batch_size=4))
    assert sum(one.right for one in found) / len(found) > 0.8
