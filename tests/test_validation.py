"""lab.validation: each rule with its message."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_media import DATA, jpeg, tone, wav

from lab import corpus, validation
from lab.errors import MissingError

FIXTURE = Path(__file__).parent / "fixtures" / "corpus"
LANGUAGES = ("zh", "en", "ja")
GOOD = {"question": "如何退货?", "answer": "请登录。", "language": "zh", "annotation": "退货"}
HEADER = "image_path,description,language,annotation\n"


def make_corpus(folder, tables=("faq.json", "images.csv", "speech.json", "joint.json")):
    """A sound corpus: the tables of the fixture, and media made to go with them."""
    for name in ("images", "audio"):
        (folder / name).mkdir(parents=True)
    for table in tables:
        shutil.copy(FIXTURE / table, folder / table)
    for number in (1, 2):
        (folder / f"images/product{number}.jpg").write_bytes(jpeg(seed=number))
        (folder / f"audio/query{number}.wav").write_bytes(wav(tone(0.1 * number)))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_corpus(tmp_path / "medical")


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(jpeg())
    return tmp_path


def problems(folder, **changed):
    data = DATA.model_copy(update=changed)
    return corpus.check(folder, data=data, languages=LANGUAGES).problems


def lines(folder, **changed):
    return [str(problem) for problem in problems(folder, **changed)]


def faq(folder, content):
    """Write a faq.json (text, bytes or rows) and return the lines of its problems."""
    if isinstance(content, list):
        content = json.dumps(content, ensure_ascii=True)
    if isinstance(content, str):
        content = content.encode()
    (folder / "faq.json").write_bytes(content)
    return lines(folder)


def images(folder, content):
    (folder / "images.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return lines(folder)


def scanned(folder, table, **changed):
    """The sound rows of one table as a plain list."""
    data = DATA.model_copy(update=changed)
    scan = validation.Scan(folder, data=data, languages=LANGUAGES)
    form = next(form for form in scan.present if form.table == table)
    return [row for window in scan.sound_rows(form) for row in window]


# --- sound data ----------------------------------------------------------------------------------


def test_a_sound_corpus_has_no_problems_and_its_rows_are_counted(folder):
    report = corpus.check(folder, data=DATA, languages=LANGUAGES)
    assert report.problems == ()
    assert dict(report.rows) == {"faq": 4, "images": 4, "speech": 2, "joint": 1}
    assert dict(report.counts) == {}


@pytest.mark.parametrize("table", ["faq.json", "images.csv", "speech.json", "joint.json"])
def test_any_one_table_is_enough(tmp_path, table):
    folder = make_corpus(tmp_path / "one", tables=(table,))
    report = corpus.check(folder, data=DATA, languages=LANGUAGES)
    assert report.problems == ()
    assert list(report.rows) == [table.split(".")[0]]


def test_no_table_at_all(empty):
    (line,) = lines(empty)
    assert line == (
        f"{empty.name}: a corpus must hold at least one of faq.json, images.csv, speech.json, "
        "joint.json, got none of them; put the files there, or correct data.folder"
    )


def test_no_folder(tmp_path):
    with pytest.raises(MissingError, match=r"a corpus must be a folder, got .*lab data make"):
        problems(tmp_path / "nowhere")


def test_hostile_text_is_data(empty):
    texts = [
        "<script>alert(1)</script>",
        "\x1b[31mred\x1b[0m",
        "javascript:alert(1) {{ 7*7 }} ${7*7}",
        "tab\tand\nline\r\nbreak \x07",
        "\u202egnirts\u202c",
        '=HYPERLINK("x")',
        "🙂👩‍👩‍👧 𠮷野家",
    ]
    rows = [{**GOOD, "question": text, "answer": text} for text in texts]
    assert faq(empty, rows) == []
    assert [row["question"] for _, row in scanned(empty, "faq")] == texts


def test_group_may_be_left_out_or_null_or_an_empty_cell(empty):
    assert faq(empty, [GOOD, {**GOOD, "group": None}, {**GOOD, "group": "g"}]) == []
    assert [row.get("group") for _, row in scanned(empty, "faq")] == [None, None, "g"]
    text = "group," + HEADER + ",images/1.jpg,a,en,b\ng,images/1.jpg,a,en,b\n"
    assert images(empty, text) == []
    assert [row["group"] for _, row in scanned(empty, "images")] == [None, "g"]


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"question": " \n"},
            "question: must not be blank, got ' \\n'; fill it in or delete the row",
        ),
        ({"answer": 42}, "answer: must be text, got the number 42; put it in quotes"),
        ({"answer": 10**400}, "answer: must be text, got the number inf; put it in quotes"),
        ({"answer": None}, "answer: must be text, got null; put it in quotes"),
        ({"answer": True}, "answer: must be text, got true; put it in quotes"),
        ({"answer": ["a", "b"]}, "answer: must be text, got a list of 2; put it in quotes"),
        ({"answer": {"a": 1}}, "answer: must be text, got an object; put it in quotes"),
        ({"answer": float("nan")}, "answer: must be text, got the number nan; put it in quotes"),
        ({"group": 7}, "group: must be text, got the number 7; put it in quotes"),
        ({"group": ""}, "group: must not be blank, got ''; fill it in or delete the row"),
        (
            {"question": "長" * 1001},
            "question: must be at most 1000 characters, got 1001 characters; "
            "shorten it, or raise data.max_field_chars",
        ),
        (
            {"answer": "a\0b"},
            "answer: must not hold NUL characters, got 'a\\x00b'; delete them",
        ),
        (
            {"answer": "a\ud800b"},
            "answer: must be valid Unicode, got half of a surrogate pair, \\ud800, at character 2; "
            "write the whole character",
        ),
        (
            {"language": "fr"},
            "language: must be one of zh, en, ja, got 'fr'; "
            "correct it, or add the language to the tenant's languages",
        ),
        ({"language": "zh-CN"}, "language: must be one of zh, en, ja, got 'zh-CN'; write zh"),
        (
            {"language": "\x1b[31m"},
            "language: must be one of zh, en, ja, got '\\x1b[31m'; "
            "correct it, or add the language to the tenant's languages",
        ),
    ],
)
def test_a_field_that_breaks_its_rule(empty, change, line):
    assert faq(empty, [GOOD, {**GOOD, **change}, GOOD]) == [f"faq.json:2: {line}"]
    assert [number for number, _ in scanned(empty, "faq")] == [1, 3]


def test_a_field_of_exactly_the_cap_is_sound(empty):
    assert faq(empty, [{**GOOD, "question": "長" * 1000, "answer": "a" * 1000}]) == []


def test_missing_unknown_and_repeated_fields(empty):
    short = {key: GOOD[key] for key in ("question", "language", "annotation")}
    text = json.dumps([short, {**GOOD, "answr": "x", "b": 1, "c": 2, "d": 3}])
    text = text[:-1] + ', {"question": "a", "question": "b", "answer": "a", "language": "en", '
    text += '"annotation": "c"}]'
    assert faq(empty, text) == [
        "faq.json:1: answer: must be there, got nothing; add the field",
        "faq.json:2: a field must be one of question, answer, language, annotation, group, "
        "got 'answr', 'b', 'c' and 1 more; rename it to answer",
        "faq.json:3: a field must stand once in a row, got 'question' more than once; "
        "delete one of them",
    ]


def test_a_row_of_very_many_repeated_fields_is_one_problem(empty):
    row = ",".join(f'"{number % 50_000}": "x"' for number in range(60_000))
    (empty / "faq.json").write_text(f"[{{{row}}}]")
    kinds = corpus.check(empty, data=DATA, languages=LANGUAGES).counts
    assert dict(kinds) == {"missing-field": 4, "repeated-field": 1, "unknown-field": 1}


def test_all_problems_of_a_row_are_listed_in_the_file_s_order(empty):
    rows = [{"question": "", "answer": 1, "language": "xx"}, "row", None, GOOD]
    assert [line.split(", got")[0] for line in faq(empty, rows)] == [
        "faq.json:1: question: must not be blank",
        "faq.json:1: answer: must be text",
        "faq.json:1: language: must be one of zh, en, ja",
        "faq.json:1: annotation: must be there",
        'faq.json:2: a row must be an object {"field": "text"}',
        'faq.json:3: a row must be an object {"field": "text"}',
    ]


def test_problems_are_counted_by_kind(empty):
    (empty / "faq.json").write_text(json.dumps([{**GOOD, "language": "fr"}] * 2 + [1, GOOD]))
    report = corpus.check(empty, data=DATA, languages=LANGUAGES)
    assert dict(report.counts) == {"language": 2, "not-object": 1}
    assert dict(report.rows) == {"faq": 4}


def test_caps_on_rows_and_classes(empty):
    rows = [{**GOOD, "annotation": str(number)} for number in range(6)]
    (empty / "faq.json").write_text(json.dumps([*rows, "not reached"]))
    assert lines(empty, max_rows=6) == [
        "faq.json: a table must have at most 6 rows, got more; "
        "split the corpus, or raise data.max_rows; it was not read beyond"
    ]
    assert lines(empty, max_rows=7, max_classes=5)[0] == (
        "faq.json: annotation: a language must have at most 5 different annotations, got more in "
        "zh; check that annotations are classes and not free text, or raise data.max_classes"
    )
    (empty / "faq.json").write_text(json.dumps(rows))
    assert lines(empty, max_rows=6, max_classes=6) == []
    (empty / "faq.json").unlink()
    (empty / "images.csv").write_text(HEADER + "images/1.jpg,a,en,b\n" * 4)
    assert [problem.kind for problem in problems(empty, max_rows=3)] == ["too-many-rows"]


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "starts"),
    [
        (
            "image_path,description,language",
            ["the header must be image_path,description,language,annotation, got none for "
             "annotation; let the first line be"],
        ),
        (
            "image_path,description,language,annotation,colour",
            ["a column must be one of image_path, description, language, annotation, group, "
             "got 'colour'; delete it"],
        ),
        (
            "image_path,description,langauge,annotation",
            ["the header must be", "a column must be one of image_path, description, language, "
             "annotation, group, got 'langauge'; rename it to language"],
        ),
        (
            "image_path,description,language,annotation,language",
            ["a column must stand once, got 'language' more than once; delete one of them"],
        ),
        (
            "image_path;description;language;annotation",
            ["the header must be image_path,description,language,annotation, got none for "
             "image_path, description, language, annotation; let the first line be "
             "image_path,description,language,annotation, with commas", "a column must be one of"],
        ),
    ],
)  # fmt: skip
def test_headers(empty, header, starts):
    row = ",".join(["images/1.jpg", "a", "en", "b", "en"][: header.count(",") + 1])
    found = images(empty, f"{header}\n{row}\n")
    assert len(found) == len(starts)
    for line, start in zip(found, starts, strict=True):
        assert line.startswith(f"images.csv: {start}")


def test_rows_below_a_faulty_header_are_checked_but_not_handed_out(empty):
    found = images(empty, "image_path,description,language\nimages/1.jpg,a,fr\nimages/1.jpg,a,en\n")
    assert found[1].startswith("images.csv:1: language: must be one of zh, en, ja, got 'fr'")
    assert len(found) == 2
    assert scanned(empty, "images") == []


# --- paths and media -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/etc/passwd", "must be relative to the tenant's folder"),
        ("images/../../secret.jpg", "must not contain .."),
        ("../medical/images/1.jpg", "must not contain .."),
        ("https://example.org/1.jpg", "must be a path, not a URL or a drive"),
        ("file:///etc/passwd", "must be a path, not a URL or a drive"),
        ("//host/share/1.jpg", "must be a path, not a URL or a drive"),
        ("C:/1.jpg", "must be a path, not a URL or a drive"),
        ("images\\1.jpg", "must use / between folders"),
        ("images/link.jpg", "must not be, or pass through, a symbolic link"),
        ("images/linked/1.jpg", "must not be, or pass through, a symbolic link"),
        ("faq.json", "must lie in images/"),
        ("audio/1.jpg", "must lie in images/"),
        ("images", "must lie in images/"),
        ("images/" + "a" * 256, "must have names of at most 255 bytes"),
        ("images/" + "a/" * 4000, "must be at most 500 characters"),
        ("images/" + "🙂/" * 198, "the file must exist"),  # 997 bytes
        ("images/" + "🙂/" * 240, "must be at most 1000 bytes long"),
        ("images/none.jpg", "the file must exist"),
        ("images/\u202e1.jpg", "the file must exist"),
    ],
)
def test_paths(empty, path, rule):
    (empty / "images/link.jpg").symlink_to("1.jpg")
    (empty / "images/linked").symlink_to(".")
    (empty / "images.csv").write_text(f"{HEADER}{path},a,en,c\n")
    (found,) = lines(empty, max_field_chars=10_000)
    assert found.startswith(f"images.csv:1: image_path: {rule}, got '")
    assert found.isprintable()


def test_a_dangling_link_in_place_of_a_table_is_not_an_absent_table(folder):
    (folder / "faq.json").unlink()
    (folder / "faq.json").symlink_to("/nowhere")
    assert lines(folder) == [
        "faq.json: must not be, or pass through, a symbolic link, got 'faq.json'; "
        "put the file itself there"
    ]


def test_a_pipe_and_a_folder_in_place_of_a_table(folder):
    (folder / "faq.json").unlink()
    os.mkfifo(folder / "faq.json")
    (folder / "images.csv").unlink()
    (folder / "images.csv").mkdir()
    assert lines(folder) == [
        "faq.json: must be a regular file, got a pipe; put the file itself there",
        "images.csv: must be a regular file, got a folder; put the file itself there",
    ]


def test_media_problems_name_the_row_and_the_file(folder):
    (folder / "images/product1.jpg").write_bytes(jpeg(size=(40, 32)))
    (folder / "images/product2.jpg").unlink()
    (folder / "audio/query1.wav").write_bytes(wav(tone(), rate=44100))
    (folder / "audio/query2.wav").write_bytes(wav(tone())[:-10])
    found = lines(folder)
    assert [line.split(": ")[0] for line in found] == [
        "images.csv:1", "images.csv:2", "images.csv:3", "images.csv:4",
        "speech.json:1", "speech.json:2", "joint.json:1", "joint.json:1",
    ]  # fmt: skip
    assert found[0] == (
        "images.csv:1: image_path: an image must be 32x32 pixels, "
        "got 40x32 in 'images/product1.jpg'; "
        "resize it, or change data.image_width and data.image_height"
    )
    assert found[3] == (
        "images.csv:4: image_path: the file must exist, got 'images/product2.jpg'; "
        "add the file or correct the path"
    )
    assert "got 16-bit PCM, 1 channel, 44100 Hz in 'audio/query1.wav';" in found[4]


def test_each_file_is_probed_once(folder, monkeypatch):
    probed = []

    def count(probe, paths, *, data):
        probed.extend(path.name for path in paths)
        return original(probe, paths, data=data)

    original = validation.probe_all
    monkeypatch.setattr(validation, "probe_all", count)
    assert problems(folder) == ()
    assert sorted(probed) == ["product1.jpg", "product2.jpg", "query1.wav", "query2.wav"]


def test_progress_ends_at_the_total(folder):
    told = []
    corpus.check(folder, data=DATA, languages=LANGUAGES, progress=lambda *where: told.append(where))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    assert {stage: (done, total) for stage, done, total in told} == {
        name: (size, size) for name, size in sizes.items()
    }
