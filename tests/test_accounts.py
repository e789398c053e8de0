"""Tests of lab.accounts: stand-ins that note what they are asked, and the shipped models."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT

from lab import accounts, corpus, forms, params
from lab.accounts import forms_of, tell
from lab.forms import Item
from lab.queries import Answer

DEMO = ROOT / "params" / "models" / "demo"
FOLDERS = {role: DEMO / role for role in ("vlm", "clip", "encoder")}
FAQ = Item("faq:1", "g1", "en", subject="hours", text="When?", wanted="At nine.")
SPOKEN = Item("speech:1", "g2", "en", subject="hours", said="When then?", audio="audio/a.wav")
SHOWN = Item("images:1", "g3", "en", subject="cup", description="A cup.", image="images/a.jpg")


class Stand:
    """A model that notes what it is asked, and answers by a rule."""

    def __init__(self, rule):
        self.rule, self.batches = rule, []

    @property
    def asked(self):
        return [query for queries, _ in self.batches for query in queries]

    def ask(self, queries, *, batch_size=None, generation=None):
        self.batches.append((list(queries), batch_size))
        return [self.rule(query) for query in queries]


def hearing(text="heard"):
    return Stand(lambda query: Answer(text=text, audio_s=query.seconds))


def answering():
    return Stand(lambda query: Answer(text=f"[{query.text}{'+' if query.image else ''}]"))


def looking():
    return Stand(
        lambda query: Answer(vector=np.array([query.image is not None, 1], dtype=np.float32))
    )


@pytest.fixture(scope="module")
def resolved(sound_project):
    return params.load("medical", root=sound_project)


@pytest.fixture(scope="module")
def data(resolved):
    return corpus.load(resolved)


@pytest.fixture(scope="module")
def joint(data, resolved):
    return forms.draw(data, "joint", items=3, settings=resolved.settings, seed=0)[:2]


@pytest.fixture
def told(data, resolved):
    def ask(items, given, **more):
        more = {"progress": lambda *_: None} | more
        return tell(items, given, corpus=data, settings=resolved.settings, **more)

    return ask


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "hears", "forms"),
    [
        ({"text": "?"}, True, ("text",)),
        ({"said": "?"}, False, ("text",)),
        ({"said": "?", "audio": "a"}, True, ("text", "speech")),
        ({"said": "?", "audio": "a"}, False, ("text",)),
        ({"audio": "a"}, True, ("speech",)),
        ({"audio": "a"}, False, ()),
        ({"image": "i", "description": "d"}, True, ()),  # there is nothing to ask
        ({"text": "?", "image": "i"}, True, ("text+image",)),
        ({"text": "?", "image": "i", "description": "d"}, True, ("text+image", "description")),
        (
            {"text": "?", "image": "i", "description": "d", "audio": "a"},
            True,
            ("text+image", "description", "speech+image", "joint"),
        ),
        (
            {"text": "?", "image": "i", "description": "d", "audio": "a"},
            False,
            ("text+image", "description"),
        ),
        ({}, True, ()),
    ],
)
def test_an_item_has_these_forms(has, hears, forms):
    assert forms_of(Item("joint:1", "g", "en", **has), hears=hears) == forms


# --- telling --------------------------------------------------------------------------------------


def test_words_are_answered_as_they_are(told):
    vlm = answering()
    found = told([FAQ], {"vlm": vlm})
    assert found.answers == {"text": {"faq:1": "[When?]"}}
    (query,) = vlm.asked
    assert (query.language, query.system) == ("en", "You answer for the hospital.")


def test_a_spoken_question_is_answered_as_heard_and_as_it_was_read(told, data, resolved):
    (one,) = forms.draw(data, "speech", items=1, settings=resolved.settings, seed=0)[:1]
    asr, vlm = hearing("what was heard"), answering()
    found = told([one], {"asr": asr, "vlm": vlm})
    assert found.heard == {one.id: "what was heard"}
    assert found.answers == {
        "text": {one.id: f"[{one.said}]"},
        "speech": {one.id: "[what was heard]"},
    }
    assert asr.asked[0].seconds > 0
    assert (asr.asked[0].text, asr.asked[0].language) == ("", one.language)


def test_an_image_is_shown_or_described(told, joint):
    vlm = answering()
    found = told(joint, {"asr": hearing("as heard"), "vlm": vlm})
    for one in joint:
        assert {form: answers[one.id] for form, answers in found.answers.items()} == {
            "text+image": f"[{one.text}+]",
            "description": f"[{one.description}\n{one.text}]",
            "speech+image": "[as heard+]",
            "joint": f"[{one.text}\nas heard+]",
        }
    kinds = [{bool(query.image) for query in queries} for queries, _ in vlm.batches]
    assert all(len(kind) == 1 for kind in kinds)


def test_of_joint_words_that_are_said_too_one_is_enough(told, joint):
    one = joint[0]
    found = told([one], {"asr": hearing(one.text), "vlm": answering()})
    assert found.answers["joint"][one.id] == f"[{one.text}+]"


def test_what_is_heard_word_for_word_is_not_asked_twice(told, joint):
    one, vlm = joint[0], answering()
    found = told([one], {"asr": hearing(one.text), "vlm": vlm})
    assert len(vlm.asked) == 2  # with the image, and with its description
    answer = found.answers["text+image"]
    assert found.answers["speech+image"] == found.answers["joint"] == answer
    assert set(answer) == {one.id}


def test_who_is_not_there_tells_nothing(told, joint):
    nothing = told([FAQ, SPOKEN, SHOWN], {})
    assert (nothing.heard, nothing.answers, nothing.seen, nothing.read) == ({}, {}, {}, {})
    deaf = told(joint, {"vlm": answering()})
    assert set(deaf.answers) == {"text+image", "description"}
    assert told([SPOKEN], {"vlm": answering()}).answers == {"text": {"speech:1": "[When then?]"}}


def test_what_was_heard_before_is_not_asked_again(told):
    asr = hearing()
    found = told([SPOKEN], {"asr": asr, "vlm": answering()}, heard={"speech:1": "known"})
    assert not asr.asked
    assert found.answers["speech"] == {"speech:1": "[known]"}


def test_what_was_known_stays_as_it_was(told, joint):
    known = {"speech:9": "known"}
    told(joint, {"asr": hearing()}, heard=known)
    assert known == {"speech:9": "known"}


def test_images_and_descriptions_have_vectors(told, data, resolved):
    some = forms.draw(data, "images", items=3, settings=resolved.settings, seed=0)
    clip = looking()
    found = told([FAQ, *some], {"clip": clip})
    assert set(found.seen) == set(found.read) == {one.id for one in some}
    assert all(vector.tolist() == [1, 1] for vector in found.seen.values())
    assert all(vector.tolist() == [0, 1] for vector in found.read.values())
    assert {one.text for one in clip.asked if one.image is None} == {
        one.description for one in some
    }


def test_what_could_not_be_answered_is_a_problem_and_empty(told, joint):
    vlm = Stand(lambda query: Answer(error="too long") if query.image else Answer(text=query.text))
    clip = Stand(lambda query: Answer(error="no picture") if query.image else looking().rule(query))
    one = joint[0]
    found = told([one], {"vlm": vlm, "clip": clip})
    assert found.answers["text+image"] == {one.id: ""}
    assert found.problems == {
        f"{one.id}, text+image": "too long",
        f"{one.id}, looking": "no picture",
    }
    assert not found.seen
    assert set(found.read) == {one.id}


def test_what_was_not_heard_is_asked_as_silence(told, joint):
    asr = Stand(lambda query: Answer(error="a recording must last at most 30 s"))
    one = joint[0]
    found = told([one], {"asr": asr, "vlm": answering()})
    assert found.heard == {one.id: ""}
    assert found.answers["speech+image"] == {one.id: "[+]"}
    assert f"{one.id}, listening" in found.problems


def test_no_item_tells_nothing(told):
    vlm = answering()
    assert told([], {"vlm": vlm, "asr": hearing(), "clip": looking()}).answers == {}
    assert not vlm.batches


def test_batches_are_as_large_as_asked_and_few_are_held(told):
    some = [Item(f"faq:{at}", "g", "en", text=f"Question {at}?") for at in range(300)]
    vlm, stages = answering(), []
    found = told(some, {"vlm": vlm}, batch_size=4, progress=lambda *words: stages.append(words))
    assert [len(queries) for queries, _ in vlm.batches] == [128, 128, 44]
    assert {size for _, size in vlm.batches} == {4}
    assert stages == [("text", 0, 300), ("text", 128, 300), ("text", 256, 300)]
    assert found.answers["text"]["faq:299"] == "[Question 299?]"


# --- models ---------------------------------------------------------------------------------------


def test_roles_that_a_suite_lacks_are_left_out():
    given = accounts.load("fp32", FOLDERS, ("asr", "clip"))
    assert set(given) == {"clip"}
    assert given["clip"].engine.module.dtype.itemsize == 4


def test_a_method_is_a_dtype_or_a_quantization():
    half, fourth = (accounts.load(name, FOLDERS, ("vlm",))["vlm"] for name in ("bf16", "nf4"))
    assert half.engine.module.dtype.itemsize == fourth.engine.module.dtype.itemsize == 2
    assert fourth.loaded.loaded_bytes < half.loaded.loaded_bytes


def test_the_shipped_models_tell_of_a_corpus(told, data, resolved, joint):
    given = accounts.load("fp32", FOLDERS, ("vlm", "clip")) | {"asr": hearing("as heard")}
    items = (*joint, *forms.draw(data, "faq", items=3, settings=resolved.settings, seed=0))
    found = told(items, given, batch_size=8)
    assert not found.problems
    assert all(text for answers in found.answers.values() for text in answers.values())
    assert found.answers["text"].keys() == {one.id for one in items if not one.image}
    for one in joint:
        assert np.linalg.norm(found.seen[one.id]) == pytest.approx(1, abs=1e-3)
    alone = told(items, given, batch_size=1)
    for one in joint:
        assert alone.seen[one.id] == pytest.approx(found.seen[one.id], abs=1e-3)
