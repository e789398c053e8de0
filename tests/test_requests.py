"""Tests of lab.requests on a real demo corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lab import corpus, params, requests
from lab.errors import CorpusError, ParameterError

KINDS = ("text", "image_text", "speech", "joint", "match")


@pytest.fixture(scope="module")
def resolved(sound_project):
    return params.load("medical", root=sound_project)


@pytest.fixture(scope="module")
def data(resolved):
    return corpus.load(resolved)


def draw(data, resolved, kind="text", *, items=9, seed=0, **more):
    return requests.draw(data, kind, items=items, settings=resolved.settings, seed=seed, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_what_it_is_about(data, resolved, kind):
    for one in draw(data, resolved, kind, items=6).measured:
        assert (one.query.image is not None) == (kind in ("image_text", "joint", "match"))
        assert (one.query.audio is not None) == (kind in ("speech", "joint"))
        assert bool(one.query.text) == (kind != "speech")
        assert one.wanted
        assert one.query.language == one.language
        assert one.query.system == "You answer for the hospital."


def test_a_picture_is_matched_with_its_description(data, resolved):
    rows = {f"images:{row['row']}": row for row in data.tables["images"]}
    for one in draw(data, resolved, "match", items=6).measured:
        row = rows[one.id]
        assert one.query.text == one.wanted == row["description"]
        assert (one.language, one.group) == (row["language"], row["group"])


def test_the_same_picture_is_in_a_language_once(data, resolved):
    rows = data.tables["images"]
    twice = replace(data, tables={**data.tables, "images": rows.select([*range(len(rows)), 0, 1])})
    there = requests.available(data, "match", languages=["zh", "en", "ja"])
    assert there == len(rows)
    assert requests.available(twice, "match", languages=["zh", "en", "ja"]) == there
    found = draw(twice, resolved, "match", items=there).measured
    assert len({one.id for one in found}) == there
    with pytest.raises(CorpusError, match=f"must have {there + 1} rows"):
        draw(twice, resolved, "match", items=there + 1)


def test_media_are_those_of_the_row(data, resolved):
    by_id = {one.id: one.query for one in draw(data, resolved, "joint", items=6).measured}
    for row in data.tables["joint"]:
        if (query := by_id.get(f"joint:{row['row']}")) is not None:
            assert query.text == row["text"]
            assert query.image.mode == "RGB"
            assert query.image.size == (512, 512)
            assert query.audio.dtype == np.float32
            assert 0.01 < np.abs(query.audio).max() <= 1


def test_languages_take_turns(data, resolved):
    spoken = [one.language for one in draw(data, resolved, items=10).measured]
    assert spoken[:3] == spoken[3:6] == ["zh", "en", "ja"]
    assert sorted(Counter(spoken).values()) == [3, 3, 4]


def test_a_language_with_few_rows_leaves_its_turns_to_others(data, resolved):
    rows = data.tables["faq"]
    few = [at for at, one in enumerate(rows["language"]) if one != "ja"][:20]
    few.append(rows["language"].index("ja"))
    small = replace(data, tables={**data.tables, "faq": rows.select(few)})
    spoken = Counter(one.language for one in draw(small, resolved, items=21).measured)
    assert spoken["ja"] == 1
    assert spoken.total() == 21


def test_the_same_seed_asks_the_same(data, resolved):
    ids = [[one.id for one in draw(data, resolved, seed=seed).measured] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 9


def test_more_items_keep_the_first(data, resolved):
    few, many = (draw(data, resolved, items=count).measured for count in (5, 15))
    assert [one.id for one in few] == [one.id for one in many[:5]]


def test_no_group_is_both_measured_and_calibrated_with(data, resolved):
    drawn = draw(data, resolved, items=20, calibration=12)
    assert len(drawn.calibration) == 12
    assert not {one.group for one in drawn.measured} & {one.group for one in drawn.calibration}


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_there_are_can_be_drawn(data, resolved, kind):
    there = requests.available(data, kind, languages=("zh", "en", "ja"))
    assert len(draw(data, resolved, kind, items=there).measured) == there
    with pytest.raises(CorpusError):
        draw(data, resolved, kind, items=there + 1)
    assert requests.available(data, kind, languages=("ja",)) < there
    assert requests.available(replace(data, tables={}), kind, languages=("ja",)) == 0


def test_too_many_are_refused(data, resolved):
    with pytest.raises(CorpusError, match=r"joint must have 99 rows .*got '\d+ in zh, en, ja"):
        draw(data, resolved, "joint", items=99)


def test_too_many_to_calibrate_with_are_refused(data, resolved):
    with pytest.raises(CorpusError, match="and 999 of other groups to calibrate with"):
        draw(data, resolved, items=20, calibration=999)


def test_a_table_that_is_not_there_is_named(data, resolved):
    without = replace(data, tables={"faq": data.tables["faq"]})
    with pytest.raises(CorpusError, match="kind speech come from the table speech, got 'none'"):
        draw(without, resolved, "speech")


def test_recordings_of_another_rate_are_refused(data, sound_project):
    slow = params.load("medical", root=sound_project, overrides=["data.sampling_rate=8000"])
    with pytest.raises(ParameterError, match="16000 Hz that speech models hear, got 8000"):
        draw(data, slow, "speech")
