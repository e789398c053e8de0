"""Demo corpora: right sizes, the same for a seed, sound by the lab's own check, safe to make."""

from __future__ import annotations

import csv
import json
import wave
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lab import corpus, drawing, params, synthesis
from lab.errors import CorpusError, ParameterError
from lab.params import Scale

SMALL = Scale(faq=95, images=10, speech=10, joint=8)


def make(tmp_path, **given):
    recipe = synthesis.Recipe(
        tenant=given.pop("tenant", "medical"),
        scale=given.pop("scale", SMALL),
        seed=given.pop("seed", 0),
        defect_share=given.pop("defect_share", 0.0),
    )
    return synthesis.make(recipe, tmp_path / "corpus", jobs=given.pop("jobs", 1), **given)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(folder: Path, name: str) -> list[dict]:
    if name.endswith(".csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return json.loads((folder / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("made")).folder


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Path:
    big = Scale(faq=200, images=20, speech=20, joint=8)
    return make(tmp_path_factory.mktemp("spoiled"), scale=big, defect_share=0.2).folder


def test_the_sizes_are_exactly_those_asked_for(made):
    assert len(rows(made, "faq.json")) == 95
    assert len(rows(made, "images.csv")) == 3 * 10
    assert len(list((made / "images").iterdir())) == 10
    assert len(rows(made, "speech.json")) == 10
    assert len(list((made / "audio").iterdir())) == 10
    assert len(rows(made, "joint.json")) == 8


def test_the_labs_own_check_finds_nothing_wrong(made, root):
    settings = params.load("medical", root=root).settings
    report = corpus.check(made, data=settings.data, languages=settings.languages)
    assert [str(problem) for problem in report.problems] == []


def test_defects_break_no_rule_of_the_format(spoiled, root):
    settings = params.load("medical", root=root).settings
    report = corpus.check(spoiled, data=settings.data, languages=settings.languages)
    assert [str(problem) for problem in report.problems] == []


def test_groups_are_parallel_in_three_languages(made):
    groups = Counter((row["group"]) for row in rows(made, "faq.json") if "group" in row)
    assert set(groups.values()) == {3}
    alone = [row for row in rows(made, "faq.json") if "group" not in row]
    assert len(alone) == 95 % 3
    pictures = {}
    for row in rows(made, "images.csv"):
        pictures.setdefault(row["image_path"], set()).add(row["language"])
    assert all(languages == {"zh", "en", "ja"} for languages in pictures.values())


def test_no_question_is_asked_twice(made):
    questions = [row["question"] for row in rows(made, "faq.json")]
    assert len(set(questions)) == len(questions)


def test_one_phrasing_of_each_intent_is_held_out(made):
    splits = rows(made, "splits.csv")
    faq = [row for row in splits if row["file"] == "faq.json"]
    assert [int(row["row"]) for row in faq] == list(range(1, 96))
    held_out = [row for row in faq if row["split"] == "heldout_phrasing"]
    assert {row["setting"] for row in held_out} == {"phrasing 6"}
    assert all(row["setting"] != "phrasing 6" for row in faq if row["split"] == "train")
    assert {row["file"] for row in splits} == {"faq.json", "images.csv", "speech.json"}


def test_what_the_demo_suite_never_saw_is_marked(made):
    splits = rows(made, "splits.csv")
    faq = [row["split"] for row in splits if row["file"] == "faq.json"]
    assert 0 < faq.count("heldout_filling") < 0.3 * len(faq)
    catalogue = drawing.load_objects()
    kinds = {kind.id: kind for kind in catalogue.of_tenant("medical").kinds}
    colours = {colour.id: colour for colour in catalogue.colours}
    for row in splits:
        if row["file"] == "images.csv":
            kind, colour = row["setting"].split(" ")
            held_out = drawing.held_out(kinds[kind], colours[colour])
            assert (row["split"] == "heldout_look") == held_out


def test_media_are_what_the_format_says(made):
    for path in (made / "images").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (512, 512), "RGB")
    for path in (made / "audio").iterdir():
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            assert 0.5 < file.getnframes() / 16000 < 10


def test_joint_items_belong_together(made):
    spoken = {row["audio_path"]: row for row in rows(made, "speech.json")}
    shown = {(row["image_path"], row["language"]): row for row in rows(made, "images.csv")}
    answers = set()
    for item in rows(made, "joint.json"):
        question = spoken[item["audio_path"]]
        assert (question["text"], question["language"]) == (item["text"], item["language"])
        image = shown[(item["image_path"], item["language"])]
        answer = item["answer"].removesuffix("です")
        assert answer.lower() in f"{image['description']} {image['annotation']}".lower()
        answers.add(item["answer"])
    assert len(answers) > 2


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(made, tmp_path):
    again = make(tmp_path / "again", jobs=2).folder
    assert content(again) == content(made)
    other = make(tmp_path / "other", seed=1).folder
    assert content(other)["faq.json"] != content(made)["faq.json"]


def test_tenants_differ(made, tmp_path):
    other = make(tmp_path, tenant="education").folder
    assert not {row["question"] for row in rows(other, "faq.json")} & {
        row["question"] for row in rows(made, "faq.json")
    }


def test_planted_defects_are_listed_and_really_there(spoiled):
    planted = rows(spoiled, "defects.csv")
    kinds = Counter(row["kind"] for row in planted)
    assert kinds["near_duplicate"] == kinds["wrong_language"] == 20
    assert kinds["mislabelled_image"] == 2 * 3 + 2 * 1
    assert kinds["clipped_audio"] == kinds["silent_audio"] == 2
    faq = rows(spoiled, "faq.json")
    assert len(faq) == 200
    for row in planted:
        if row["kind"] == "near_duplicate":
            copy = faq[int(row["row"]) - 1]
            assert "group" not in copy
            assert sum(other["answer"] == copy["answer"] for other in faq) >= 2
        if row["kind"] == "wrong_language":
            marked = faq[int(row["row"]) - 1]
            assert row["detail"].endswith(f"tagged {marked['language']}")
    assert not (spoiled.parent.parent / "nothing").exists()


def test_what_is_there_is_left_alone_and_what_was_half_made_is_finished(tmp_path, monkeypatch):
    first = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    second = make(tmp_path)
    assert (first.redone, second.redone) == (True, False)
    assert second.counts == first.counts
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def test_a_stopped_making_keeps_the_old_corpus_and_goes_on_later(tmp_path, monkeypatch):
    old = content(make(tmp_path).folder)
    drawn = []
    draw = synthesis.drawing.draw

    def stops(*given, **named):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(named)
        return draw(*given, **named)

    monkeypatch.setattr(synthesis.drawing, "draw", stops)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, seed=9)
    assert content(tmp_path / "corpus") == old
    monkeypatch.setattr(
        synthesis.drawing, "draw", lambda *a, **n: (drawn.append(n), draw(*a, **n))[1]
    )
    drawn.clear()
    resumed = content(make(tmp_path, seed=9).folder)
    assert len(drawn) == 10 - 4
    monkeypatch.setattr(synthesis.drawing, "draw", draw)
    assert resumed == content(make(tmp_path / "fresh", seed=9).folder)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("what", ["foreign", "edited"])
def test_data_of_somebody_else_is_never_replaced_unasked(tmp_path, what):
    folder = tmp_path / "corpus"
    if what == "foreign":
        folder.mkdir()
        (folder / "faq.json").write_text("[]")
    else:
        make(tmp_path)
        path = folder / "faq.json"
        path.write_text(path.read_text("utf-8").replace("？", "?"), "utf-8")
    before = content(folder)
    with pytest.raises(CorpusError, match="may only replace a demo corpus"):
        make(tmp_path, seed=5)
    assert content(folder) == before
    assert make(tmp_path, seed=5, force=True).redone


def test_more_than_the_grammar_can_say_is_refused_with_the_number(tmp_path):
    huge = Scale(faq=10_000_000, images=1, speech=1, joint=1)
    with pytest.raises(ParameterError, match="the grammar gives at most"):
        make(tmp_path, scale=huge)
    assert not (tmp_path / "corpus").exists()


def test_the_smallest_corpus_works(tmp_path, root):
    folder = make(tmp_path, scale=Scale(faq=1, images=1, speech=1, joint=1)).folder
    settings = params.load("medical", root=root).settings
    assert not corpus.check(folder, data=settings.data, languages=settings.languages).problems
