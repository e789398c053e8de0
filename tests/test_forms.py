"""Tests of lab.forms on a real demo corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lab import corpus, forms, params
from lab.errors import CorpusError, PathError
from lab.forms import Item
from lab.media import MediaError

TABLES = ("faq", "speech", "images", "joint")


@pytest.fixture(scope="module")
def resolved(sound_project):
    return params.load("medical", root=sound_project)


@pytest.fixture(scope="module")
def data(resolved):
    return corpus.load(resolved)


def draw(data, resolved, table="faq", *, items=9, seed=0):
    return forms.draw(data, table, items=items, settings=resolved.settings, seed=seed)


def test_an_item_is_its_row(data, resolved):
    rows = {row["row"]: row for row in data.tables["faq"]}
    for one in draw(data, resolved):
        row = rows[int(one.id.removeprefix("faq:"))]
        assert (one.text, one.wanted) == (row["question"], row["answer"])
        assert (one.subject, one.language, one.group) == (
            row["annotation"],
            row["language"],
            row["group"],
        )
        assert (one.said, one.description, one.image, one.audio) == ("", "", "", "")


@pytest.mark.parametrize(
    ("table", "held"),
    [
        ("faq", {"text", "wanted"}),
        ("speech", {"said", "audio"}),
        ("images", {"description", "image"}),
        ("joint", {"text", "wanted", "said", "description", "image", "audio"}),
    ],
)
def test_each_table_has_its_forms(data, resolved, table, held):
    for one in draw(data, resolved, table, items=6):
        names = ("text", "said", "wanted", "description", "image", "audio")
        assert {name for name in names if getattr(one, name)} == held
        assert one.subject


def test_a_joint_item_has_the_words_of_its_image_and_recording(data, resolved):
    described = {
        (row["image_path"], row["language"]): row["description"] for row in data.tables["images"]
    }
    said = {(row["audio_path"], row["language"]): row["text"] for row in data.tables["speech"]}
    for one in draw(data, resolved, "joint"):
        assert one.description == described[one.image, one.language]
        assert one.said == said[one.audio, one.language]
        assert one.subject == one.wanted


def test_without_those_tables_it_has_none(data, resolved):
    alone = replace(data, tables={"joint": data.tables["joint"]})
    for one in draw(alone, resolved, "joint"):
        assert (one.description, one.said) == ("", "")
        assert one.image
        assert one.audio


@pytest.mark.parametrize("items", [1, 3, 10, 1_000])
def test_whole_groups_are_drawn_until_each_language_has_its_share(data, resolved, items):
    drawn = draw(data, resolved, items=items)
    rows = data.tables["faq"]
    sizes = Counter(rows["group"])
    assert Counter(one.group for one in drawn) == {one.group: sizes[one.group] for one in drawn}
    spoken = Counter(one.language for one in drawn)
    there = Counter(rows["language"])
    assert all(spoken[one] >= min(there[one], -(-items // 3)) for one in ("zh", "en", "ja"))
    assert len({one.id for one in drawn}) == len(drawn) <= max(items + 6, 0)


def test_the_same_seed_draws_the_same(data, resolved):
    ids = [[one.id for one in draw(data, resolved, seed=seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_more_items_keep_the_first(data, resolved):
    few, many = (draw(data, resolved, items=items) for items in (6, 30))
    assert few == many[: len(few)]


def test_rows_without_a_group_stand_alone(data, resolved):
    rows = data.tables["faq"].map(lambda _: {"group": None}, keep_in_memory=True)
    drawn = draw(replace(data, tables={"faq": rows}), resolved)
    assert [one.group for one in drawn] == [one.id for one in drawn]


def test_languages_that_the_tenant_does_not_serve_are_not_drawn(data, sound_project):
    some = params.load("medical", root=sound_project, overrides=["languages=['en','ja']"])
    assert {one.language for one in draw(data, some)} == {"en", "ja"}


def test_a_table_that_is_not_there_gives_no_items(data, resolved):
    assert draw(replace(data, tables={}), resolved) == ()


def test_a_table_without_the_languages_is_refused(data, sound_project):
    rows = data.tables["faq"].filter(lambda row: row["language"] == "en", keep_in_memory=True)
    wanted = params.load("medical", root=sound_project, overrides=["languages=['zh','ja']"])
    with pytest.raises(CorpusError, match="table faq must hold one of zh, ja, got 'none'"):
        draw(replace(data, tables={"faq": rows}), wanted)


# --- queries --------------------------------------------------------------------------------------


def test_a_query_holds_what_was_asked_for(data, resolved):
    (one,) = draw(data, resolved, "joint", items=1)[:1]
    words = one.query(data, resolved.settings, text="Where?")
    assert (words.text, words.image, words.audio) == ("Where?", None, None)
    assert (words.language, words.system) == (one.language, "You answer for the hospital.")
    whole = one.query(data, resolved.settings, image=True, audio=True)
    assert (whole.text, whole.image.mode, whole.image.size) == ("", "RGB", (512, 512))
    assert whole.audio.dtype == np.float32
    assert 0.01 < np.abs(whole.audio).max() <= 1


def test_no_system_prompt_is_none(data, sound_project):
    quiet = params.load("medical", root=sound_project, overrides=["system_prompt=null"])
    assert Item("faq:1", "g", "en").query(data, quiet.settings, text="a").system == ""


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "images/../../a.jpg"])
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_media_outside_of_the_corpus_are_refused(data, resolved, path, kind):
    one = Item("joint:1", "g", "en", **{kind: path})
    with pytest.raises(PathError):
        one.query(data, resolved.settings, **{kind: True})


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_media_that_are_not_there_or_something_else_are_refused(data, resolved, kind):
    wrong = {"image": data.tables["speech"][0]["audio_path"], "audio": "audio/nothing.wav"}
    one = Item("joint:1", "g", "en", **wrong)
    with pytest.raises(MediaError):
        one.query(data, resolved.settings, **{kind: True})
