"""Tests of lab.pairings: accounts made by hand, yardsticks from blind to shipped."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from lab import consistency, corpus, forms, models, pairings, params
from lab.accounts import Accounts
from lab.consistency import PAIRS
from lab.errors import ParameterError
from lab.forms import Item
from lab.pairings import PLANTS, pair
from lab.queries import Answer
from lab.slo import Limit
from lab.yardsticks import Yardstick

LIMIT = Limit.parse("> 0.9")
LANGUAGES = ("en", "ja", "zh")


class Encoder:
    """An encoder made of a rule: text -> vector."""

    def __init__(self, rule):
        self.rule = rule

    def ask(self, queries, *, batch_size=None, generation=None):
        return [self._answer(query.text) for query in queries]

    def _answer(self, text):
        if not text.strip():
            return Answer(error="blank")
        vector = np.asarray(self.rule(text), dtype=np.float32)
        return Answer(vector=vector / np.linalg.norm(vector))


def letters(text):
    """How often each of 128 characters is there."""
    return np.bincount([ord(char) % 128 for char in text], minlength=128)


def noise(text):
    """Another direction for every text, whatever it says."""
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=32)


BY_LETTERS = Yardstick(Encoder(letters))


def asked(number, language="en", **more):
    """An item about subject 0, 1 or 2."""
    fields = {"subject": f"s{number % 3}", "text": f"q{number}", "wanted": f"w{number}"} | more
    return Item(f"faq:{number}", f"g{number}", language, **fields)


def answered(items, form="text", say=lambda item: f"answer {item.id}"):
    return Accounts(answers={form: {one.id: say(one) for one in items}})


def put(which, items, told, **more):
    return pair(which, items, told, **({"yardstick": BY_LETTERS, "seed": 0} | more))


# --- which two ------------------------------------------------------------------------------------


def test_what_is_heard_stands_beside_what_was_said():
    items = [asked(at, said=word) for at, word in enumerate(["ab", "cd", "ef"])]
    told = Accounts(heard={"faq:0": "ab", "faq:1": "cx", "faq:2": "gh"})
    (found,) = put("speech_input", items, told)
    assert (found.sample.pair, found.sample.language) == ("speech_input", "en")
    assert found.sample.items == ("faq:0", "faq:1", "faq:2")
    assert found.sample.groups == ("g0", "g1", "g2")
    assert found.sample.matched == pytest.approx([1, 0.5, 0])
    assert found.sample.other == pytest.approx(np.zeros(6))
    assert found.sample.ideal == pytest.approx(np.ones(3))
    assert [(two.left, two.right) for two in found.twos] == [
        ("ab", "ab"),
        ("cx", "cd"),
        ("gh", "ef"),
    ]


def test_what_is_said_about_an_image_is_told_by_the_joint_pair():
    items = [asked(at, said="word", image="i" * (at > 1)) for at in range(4)]
    told = Accounts(heard=dict.fromkeys([one.id for one in items], "word"))
    (found,) = put("speech_input", items, told)
    assert found.sample.items == ("faq:0", "faq:1")


@pytest.mark.parametrize(
    ("which", "left", "right"),
    [
        ("speech_output", "speech", "text"),
        ("image_output", "description", "text+image"),
    ],
)
def test_the_same_is_asked_in_two_forms(which, left, right):
    items = [asked(at) for at in range(4)]
    told = answered(items, left, lambda one: f"left {one.id}")
    told.answers.update(answered(items[:3], right, lambda one: f"right {one.id}").answers)
    (found,) = put(which, items, told)
    assert found.sample.items == ("faq:0", "faq:1", "faq:2")  # the last lacks a form
    assert [(two.left, two.right) for two in found.twos][1] == ("left faq:1", "right faq:1")


def test_the_joint_answer_stands_beside_two_others():
    items = [asked(at) for at in range(2)]
    told = answered(items, "joint", lambda one: "joint")
    for form in ("text+image", "speech+image"):
        told.answers[form] = {one.id: form for one in items}
    (found,) = put("joint", items, told)
    assert found.sample.items == (
        "faq:0 text+image",
        "faq:0 speech+image",
        "faq:1 text+image",
        "faq:1 speech+image",
    )
    assert found.sample.groups == ("g0", "g0", "g1", "g1")
    assert {two.right for two in found.twos} == {"text+image", "speech+image"}


@pytest.mark.parametrize("which", ["batch", "baseline"])
def test_another_configuration_is_compared_in_what_both_answered(which):
    items = [asked(at) for at in range(4)]
    told, other = answered(items), answered(items[:3], say=lambda one: "alone")
    told.answers["speech"] = {"faq:0": "heard"}
    (found,) = put(which, items, told, against=other)
    assert found.sample.items == ("faq:0 text", "faq:1 text", "faq:2 text")
    assert {two.right for two in found.twos} == {"alone"}
    assert put(which, items, told) == []


def test_each_two_languages_of_a_group_are_compared():
    items = [
        Item(
            f"faq:{language}{at}", f"g{at}", language, f"s{at}", text="?", wanted=f"w{at}{language}"
        )
        for at in range(3)
        for language in LANGUAGES
    ]
    told = answered(items[:-1], say=lambda one: one.id)
    found = put("languages", items, told)
    assert [(one.sample.language, len(one.sample.items)) for one in found] == [
        ("en-ja", 3),
        ("en-zh", 2),
        ("ja-zh", 2),
    ]
    two = found[0].twos[0]
    assert (two.left, two.right, two.language) == ("faq:en0", "faq:ja0", "ja")
    assert two.ideal == ("w0en", "w0ja")


def test_items_with_an_image_or_without_a_mate_are_in_one_language_only():
    items = [asked(at, language) for at, language in enumerate(["en", "zh", "en", "zh"])]
    items += [replace(items[0], id="a", language="zh", image="i"), replace(items[1], id="b")]
    assert put("languages", items, answered(items)) == []


@pytest.mark.parametrize("subjects", [[], ["s1"], ["s1", "s1", "s1"]])
def test_one_item_or_one_subject_has_nothing_to_be_compared_with(subjects):
    items = [asked(at, said="x", subject=subject) for at, subject in enumerate(subjects)]
    assert put("speech_input", items, Accounts(heard={one.id: "x" for one in items})) == []


def test_nothing_told_is_nothing_paired():
    items = [asked(at, said="a", audio="a", description="d", image="i") for at in range(4)]
    for which in PAIRS:
        assert put(which, items, Accounts(), against=Accounts()) == []


# --- pools ----------------------------------------------------------------------------------------


def test_others_are_of_other_subjects_and_know_whose_they_are():
    items = [asked(at, said=f"{at}") for at in range(4)]  # the first and last are of one subject
    (found,) = put("speech_input", items, Accounts(heard={one.id: one.said for one in items}))
    places = found.sample.other_of.tolist()
    assert len(found.sample.other) == len(places) == 10
    assert [0, 3] not in places
    assert [3, 0] not in places
    assert all(left != right for left, right in places)


def test_near_misses_differ_in_one_word_from_what_is_known_to_agree():
    words = ["alpha beta", "gamma delta", "epsilon zeta", ""]
    items = [asked(at, said=word or "42") for at, word in enumerate(words)]
    told = Accounts(heard={one.id: "misheard altogether" for one in items})
    (found,) = put("speech_input", items, told)
    near = found.sample.near
    assert len(near) == 9  # three of each that has a word
    assert found.sample.near_of[:, 0].tolist() == [0, 1, 2] * 3
    assert 0.3 < near.mean() < 0.95
    assert found.sample.matched.max() < near.mean()  # the model's errors are not in them


def test_the_same_seed_gives_the_same_near_misses():
    items = [asked(at, said=word) for at, word in enumerate(["alpha beta", "gamma delta"])]
    told = Accounts(heard={one.id: one.said for one in items})
    near = [put("speech_input", items, told, seed=seed)[0].sample.near for seed in (0, 0, 1)]
    assert near[0].tolist() == near[1].tolist() != near[2].tolist()


def test_silence_and_another_language_are_alike_to_nothing():
    said = ["where is the old desk", "who has the new key", "when do you close today"]
    heard = [said[0], "", "今天几点关门呢请问一下"]
    items = [asked(at, said=text) for at, text in enumerate(said)]
    told = Accounts(heard={one.id: text for one, text in zip(items, heard, strict=True)})
    (found,) = put("speech_input", items, told)
    assert found.sample.matched == pytest.approx([1, 0, 0])


def test_answers_that_are_all_in_another_language_are_alike_to_nothing():
    items = [asked(at) for at in range(3)]
    told = answered(items, "speech", lambda one: f"the answer to {one.text} is here")
    told.answers["text"] = dict.fromkeys(told.answers["speech"], "今天几点关门呢请问一下")
    (found,) = put("speech_output", items, told)
    assert found.sample.matched.tolist() == found.sample.ideal.tolist() == [0, 0, 0]


def test_hostile_text_is_compared_as_any_other():
    said = ["<script>x</script>", "$\\frac{1}{0}$ {{7*7}}", "\x1b[31m\x00", "a b" * 3_000, "\ud800"]
    items = [asked(at, said=text) for at, text in enumerate(said)]
    told = Accounts(heard={one.id: one.said for one in items})
    (found,) = put("speech_input", items, told, plants=True)
    assert found.sample.matched == pytest.approx(np.ones(5))


# --- images ---------------------------------------------------------------------------------------


def seen(numbers, **more):
    """Images whose descriptions are a unit vector each."""
    items = [
        Item(f"images:{at}", f"g{at}", "en", subject=subject, description=words, **more)
        for at, (subject, words) in enumerate(numbers)
    ]
    vectors = np.eye(len(items), dtype=np.float32)
    return items, Accounts(
        seen={one.id: vectors[at] for at, one in enumerate(items)},
        read={
            one.id: (vectors[at] * 0.8 + vectors[at - 1] * 0.6).astype(np.float32)
            for at, one in enumerate(items)
        },
    )


def test_images_stand_beside_their_descriptions():
    items, told = seen([("cup", "red"), ("cup", "blue"), ("cup", "red"), ("pen", "red")])
    (found,) = put("image_input", items, told)
    assert found.sample.matched == pytest.approx([0.8] * 4)
    # The image 0 and the description of 1, an image and description of one subject.
    assert sorted(found.sample.near.round(3)) == pytest.approx([0, 0, 0.6, 0.6])
    assert sorted(found.sample.other.round(3)) == pytest.approx([0] * 4 + [0.6] * 2)
    assert found.sample.near_of.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1]]
    assert found.sample.other_of.tolist() == [[0, 3], [1, 3], [2, 3], [3, 0], [3, 1], [3, 2]]
    assert (found.twos, found.items) == ((), tuple(items))
    assert found.sample.sees_subjects


def test_images_of_joint_questions_and_those_without_a_vector_are_left_out():
    items, told = seen([("cup", "red"), ("pen", "red"), ("cap", "red")])
    del told.seen["images:2"]
    assert put("image_input", items, told)[0].sample.items == ("images:0", "images:1")
    items, told = seen([("cup", "red"), ("pen", "red")], audio="a.wav")
    assert put("image_input", items, told) == []


def test_one_subject_of_images_is_nothing():
    items, told = seen([("cup", "red"), ("cup", "blue")])
    assert put("image_input", items, told) == []


def test_swapped_descriptions_are_planted_where_there_are_others():
    items, told = seen([("cup", "red"), ("cup", "blue"), ("pen", "red")])
    (found,) = put("image_input", items, told, plants=True)
    assert {one.planted: one.n for one in found.detections} == {"swapped": 3, "one word": 2}
    assert put("image_input", items, told)[0].detections == ()


# --- plants ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(sound_project):
    """Questions of a demo corpus in three languages, whole groups."""
    resolved = params.load("medical", root=sound_project)
    data = corpus.load(resolved)
    drawn = forms.draw(data, "faq", items=90, settings=resolved.settings, seed=0)
    return [replace(one, said=one.text) for one in drawn]


@pytest.fixture(scope="module")
def shipped():
    return Yardstick(models.load("encoder", ROOT / "params" / "models" / "demo" / "encoder"))


def by_kind(found):
    return {one.planted: one for one in found.detections}


def carelessly(text):
    """As somebody writes who was told the same: without capitals and marks."""
    return "".join(char for char in text.lower() if char not in ".,?!。、？！，")


@pytest.mark.parametrize("heard", [str, carelessly])
def test_the_shipped_encoder_sees_what_is_planted_into_each_language(rows, shipped, heard):
    told = Accounts(heard={one.id: heard(one.said) for one in rows})
    found = put("speech_input", rows, told, yardstick=shipped, plants=True)
    assert [one.sample.language for one in found] == list(LANGUAGES)
    for one in found:
        assert one.sample.sees_subjects
        kinds = by_kind(one)
        assert set(kinds) == set(PLANTS)
        assert kinds["swapped"].auc.value >= 0.95
        assert kinds["one word"].auc.value >= 0.85
        assert kinds["elsewhere"].auc.value >= 0.95
        assert kinds["language"].auc.value >= 0.95
        assert kinds["swapped"].n == kinds["elsewhere"].n == len(one.sample.items)


def test_the_shipped_encoder_sees_swapped_answers_across_languages(rows, shipped):
    told = answered(rows, say=lambda one: one.wanted)
    for one in put("languages", rows, told, yardstick=shipped, plants=True):
        assert one.sample.sees_subjects
        kinds = by_kind(one)
        assert kinds["swapped"].auc.value >= 0.95
        assert "language" not in kinds


def test_directions_by_chance_find_nothing_and_are_told_as_such(rows):
    told = answered(rows, say=lambda one: one.wanted)
    found = put("languages", rows, told, yardstick=Yardstick(Encoder(noise)), plants=True)
    assert len(found) == 3
    for one in found:
        assert not one.sample.sees_subjects
        assert consistency.agree(one.sample, limit=LIMIT, seed=0).verdict == "insufficient"
        kinds = by_kind(one)
        for kind in ("swapped", "one word", "elsewhere"):
            assert kinds[kind].auc.value == pytest.approx(0.5, abs=0.15)
            assert kinds[kind].auc.low < 0.5 < kinds[kind].auc.high


def test_one_direction_for_all_finds_nothing_and_is_told_as_such(rows):
    told = Accounts(heard={one.id: one.said for one in rows})
    constant = Yardstick(Encoder(lambda _: [1.0, 0.0]))
    for one in put("speech_input", rows, told, yardstick=constant, plants=True):
        assert not one.sample.sees_subjects
        assert consistency.agree(one.sample, limit=LIMIT, seed=0).verdict == "insufficient"
        assert by_kind(one)["swapped"].auc.value == 0.5


def test_plants_are_the_same_for_one_seed(rows):
    told = Accounts(heard={one.id: carelessly(one.said) for one in rows})
    one, two, other = (
        [
            by_kind(found)["one word"].auc
            for found in put("speech_input", rows, told, seed=seed, plants=True)
        ]
        for seed in (3, 3, 4)
    )
    assert one == two != other


def test_without_a_mate_no_other_language_can_be_planted():
    items = [asked(at, said=word) for at, word in enumerate(["alpha beta", "gamma delta"])]
    told = Accounts(heard={one.id: one.said for one in items})
    (found,) = put("speech_input", items, told, plants=True)
    assert set(by_kind(found)) == {"swapped", "one word", "elsewhere"}


def test_every_kind_of_plant_is_explained_and_every_pair_has_a_kind():
    assert set(pairings.KINDS) == set(PAIRS)
    assert all(PLANTS.values())


def test_accounts_that_are_no_numbers_are_refused():
    items, told = seen([("cup", "red"), ("pen", "red")])
    told.seen["images:0"][:] = np.nan
    with pytest.raises(ParameterError, match=r"finite, got 'NaN' \(image_input en\)"):
        put("image_input", items, told)
