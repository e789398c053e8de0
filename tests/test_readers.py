"""lab.readers: JSON and CSV come whole, and files broken in every place are told of."""

import csv
import io
import json

import numpy as np
import pytest
from test_media import DATA, jpeg
from test_validation import (
    GOOD,
    HEADER,
    LANGUAGES,
    faq,
    images,
    lines,
    make_corpus,
    problems,
    scanned,
)

from lab import corpus, readers


@pytest.fixture
def empty(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(jpeg())
    return tmp_path


def read(reader, content):
    """What a reader hands out of some bytes, and the kinds of what it reports."""
    found = []
    rows = reader(io.BytesIO(content), "a.file", data=DATA, width=5, report=found.append)
    return list(rows), [(problem.row, problem.kind) for problem in found]


# --- JSON -----------------------------------------------------------------------------------------


def test_rows_that_straddle_the_reader_s_windows_come_whole(empty, monkeypatch):
    rows = [{**GOOD, "question": f"问题🙂{number} " + "長" * (number % 7)} for number in range(300)]
    for chunk in (1, 2, 3, 7, 64, 1000):
        monkeypatch.setattr(readers, "_CHUNK", chunk)
        for indent in (None, 1):
            (empty / "faq.json").write_text(json.dumps(rows, ensure_ascii=False, indent=indent))
            found = scanned(empty, "faq")
            assert [number for number, _ in found] == list(range(1, 301))
            assert [row for _, row in found] == rows


FILE_CASES = {
    "empty": (b"", "a table must not be empty, got an empty file; add rows, or delete"),
    "white space": (b" \n\t", "a table must not be empty, got an empty file;"),
    "no rows": (b" [ ] ", "a table must have at least one row, got [];"),
    "object": (b'{"rows": []}', "must be a JSON array of rows, got '{\"rows\": []}'; put [ before"),
    "text": (b"question;answer", "must be a JSON array of rows, got 'question;answer';"),
    "number": (b"12", "must be a JSON array of rows, got '12';"),
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_json_files_without_rows(empty, case):
    content, start = FILE_CASES[case]
    (line,) = faq(empty, content)
    assert line.startswith(f"faq.json: {start}")


def broken(place, what, row=2):
    return f"faq.json:{row}: must be valid JSON, got {what} at {place}; correct the file there"


@pytest.mark.parametrize(
    ("tail", "start"),
    [
        (",\n  {", broken("line 2 column 4", "the end of the file")),
        (",\n  ", broken("line 2 column 3", "the end of the file")),
        (",\n {'a'", 'faq.json:2: must be valid JSON, got "Expecting property name'),
        (',\n {"a": "b', broken("line 2 column 8", "a text without closing quotes")),
        (',\n {"a": "b\n"}', broken("line 2 column 10", '"Invalid control character at"')),
        (',\n {"a" 1}]', broken("line 2 column 7", "\"Expecting ':' delimiter\"")),
        (",\n nope]", broken("line 2 column 2", '"Expecting value"')),
        ("", "faq.json:1: a row must be followed by , or ], got the end of the file;"),
        ("\n  {}]", "faq.json:1: a row must be followed by , or ], got '{' at line 2 column 3;"),
        ("]\n 1", "faq.json: nothing must follow the closing ], got '1' at line 2 column 2;"),
    ],
)
def test_broken_json_is_placed_and_what_stands_before_is_checked(empty, tail, start):
    first = json.dumps({**GOOD, "language": "fr"})
    (one, two) = sorted(faq(empty, f"[{first}{tail}"), key=lambda line: ": language:" not in line)
    assert one.startswith("faq.json:1: language:")
    assert two.startswith(start)


def test_deep_nesting_is_one_problem(empty):
    (found,) = faq(empty, f"[{json.dumps(GOOD)}, {'[' * 200_000}")
    assert found.startswith("faq.json:2: a row must be flat, got more levels at line 1 column ")


def test_a_row_without_end_is_not_held_in_memory(empty, monkeypatch):
    monkeypatch.setattr(readers, "_MIN_ROW_CHARS", 1000)
    monkeypatch.setattr(readers, "_CHUNK", 5000)
    (line,) = faq(empty, '[{"question": "' + "a" * 2_000_000)
    assert line == (
        "faq.json:1: a row must be at most 60000 characters, got more from line 1 column 2; "
        "close the quotes and braces before it"
    )
    (line,) = images(empty_again(empty), HEADER + 'images/1.jpg,"' + "a" * 2_000_000)
    assert line.startswith("images.csv: a row must be at most 20000 bytes, got more from line 2;")
    (line,) = images(empty, HEADER + 'images/1.jpg,"' + "a\n" * 2_000_000)
    assert line.startswith("images.csv: a row must be at most 20000 bytes, got more from line 2;")


def empty_again(folder):
    (folder / "faq.json").unlink()
    return folder


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
def test_items_of_any_kind_are_those_of_the_json_module(monkeypatch, chunk):
    monkeypatch.setattr(readers, "_CHUNK", chunk)
    text = ' [1, -2.5, 3e+2, 4.25E-1 ,true,"\\u00e9\\ud83d\\ude42長",[{}, []],{"a": {"b": 1.5}}] \n'
    rows, reported = read(readers.json_rows, text.encode())
    assert rows == list(enumerate(json.loads(text), start=1))
    assert reported == []


def test_an_object_with_a_key_twice_is_marked():
    rows, _ = read(readers.json_rows, b'[{"a": 1, "b": 2, "a": 3}, {"a": 1}]')
    assert rows == [(1, {"a": 3, "b": 2}), (2, {"a": 1})]
    assert rows[0][1].names == ("a",)
    assert type(rows[1][1]) is dict


# --- encodings ------------------------------------------------------------------------------------


def test_byte_order_mark_is_reported_and_the_rest_checked(empty):
    content = json.dumps([GOOD, {**GOOD, "language": "fr"}]).encode()
    found = faq(empty, b"\xef\xbb\xbf" + content)
    assert found[0] == (
        "faq.json: must not start with a byte order mark, got EF BB BF; "
        "save it as UTF-8 without BOM; the rest is read as usual"
    )
    assert found[1].startswith("faq.json:2: language:")
    (empty / "faq.json").unlink()
    found = images(empty, b"\xef\xbb\xbf" + f"{HEADER}images/1.jpg,a,fr,b".encode())
    assert [line.split(", got")[0] for line in found] == [
        "images.csv: must not start with a byte order mark",
        "images.csv:1: language: must be one of zh, en, ja",
    ]


@pytest.mark.parametrize(
    ("encoding", "question", "guess"),
    [
        ("gb18030", "如何退货?请告诉我流程", "gb18030"),
        ("gb18030", "这款药什么时候服用比较好", "gb18030"),
        ("shift_jis", "返品方法を教えてください。", "shift_jis"),
        ("shift_jis", "カードで支払えますか。", "shift_jis"),
        ("utf-16", "如何退货?", "utf-16"),
        ("utf-16-le", "如何退货?", "utf-16"),
        ("utf-32", "如何退货?", "utf-32"),
    ],
)
@pytest.mark.parametrize("table", ["faq", "images"])
def test_another_encoding_is_named(empty, table, encoding, question, guess):
    if table == "faq":
        text = json.dumps([dict.fromkeys(GOOD, question)], ensure_ascii=False)
        (line,) = faq(empty, text.encode(encoding))
    else:
        (line,) = images(empty, f"{HEADER}images/1.jpg,{question},zh,x\n".encode(encoding))
    assert ": must be UTF-8, got " in line
    assert f"iconv -f {guess} -t utf-8" in line


def test_a_damaged_byte_is_placed_and_no_encoding_is_guessed(empty):
    rows = [GOOD, {**GOOD, "language": "fr"}, GOOD]
    content = json.dumps(rows, ensure_ascii=False, indent=0).encode()
    place = content.rindex("退".encode()) + 1
    spoilt = content[:place] + b"\xff" + content[place + 1 :]
    line = content[:place].count(b"\n") + 1
    found = faq(empty, spoilt)
    assert found[0] == (
        f"faq.json: must be UTF-8, got byte 0xe9 at offset {place - 1} (line {line}); "
        "correct the damaged character, or restore the file"
    )
    assert found[1].startswith("faq.json:2: language:")
    assert len(found) == 2


def test_the_offset_of_a_fault_holds_across_windows(empty, monkeypatch):
    monkeypatch.setattr(readers, "_CHUNK", 7)
    content = json.dumps([GOOD] * 20, ensure_ascii=False).encode()
    for place in range(len(content) - 60, len(content)):
        (empty / "faq.json").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        (problem,) = [one for one in problems(empty) if one.kind == "encoding"]
        offset = int(problem.got.split("offset ")[1].split()[0])
        with pytest.raises(UnicodeDecodeError) as caught:
            (empty / "faq.json").read_bytes().decode()
        assert offset == caught.value.start


# --- CSV ------------------------------------------------------------------------------------------


def test_csv_cells_with_quotes_commas_and_line_breaks(empty):
    text = 'Red, "long"\r\nand\nwarm'
    quoted = text.replace('"', '""')
    assert images(empty, f'{HEADER}images/1.jpg,"{quoted}",en,Clothing\r\n\r\n') == []
    ((number, row),) = scanned(empty, "images")
    assert (number, row["description"]) == (1, text)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "images.csv: a table must not be empty, got an empty file; add rows, or"),
        ("\n\n", "images.csv: a table must not be empty, got an empty file; add rows, or"),
        (HEADER, "images.csv: a table must have at least one row, got a header only; add rows"),
        (
            f"{HEADER}images/1.jpg,a,b,en,c\n",
            "images.csv:1: a row must have 4 cells, got 5; put a cell that holds a comma in double",
        ),
        (f"{HEADER}images/1.jpg,a,en\n", "images.csv:1: a row must have 4 cells, got 3; put"),
        (
            f'{HEADER}images/1.jpg,"a"b,en,c\n',
            "images.csv:1: must be valid CSV, got \"',' expected after '\"'\" in line 2; put the",
        ),
        (
            f'{HEADER}images/1.jpg,"a,en,c\nimages/1.jpg,a,en,c',
            'images.csv:1: must be valid CSV, got "unexpected end of data" in line 2 to 3;',
        ),
        (
            f"{HEADER}images/1.jpg,a\0,en,c\n",
            "images.csv:1: description: must not hold NUL characters, got 'a\\x00';",
        ),
        ("a,b\rc,d\r", 'images.csv: must be valid CSV, got "new-line character seen in unquoted'),
    ],
)
def test_csv_faults(empty, content, line):
    (found,) = images(empty, content)
    assert found.startswith(line)


def test_reading_goes_on_behind_a_faulty_row_and_rows_keep_their_numbers(empty):
    good = "images/1.jpg,a,en,c\n"
    found = images(empty, HEADER + good + 'images/1.jpg,"a"b,en,c\n' + good + "x\n" + good)
    assert [line.split(": ")[0] for line in found] == ["images.csv:2", "images.csv:4"]
    assert [number for number, _ in scanned(empty, "images")] == [1, 3, 5]
    assert corpus.check(empty, data=DATA, languages=LANGUAGES).rows["images"] == 5


def test_a_cell_longer_than_the_csv_module_takes_by_default(empty):
    (empty / "images.csv").write_text(f"{HEADER}images/1.jpg,{'a' * 140_000},en,c\n")
    assert lines(empty, max_field_chars=150_000) == []


def test_cells_are_those_of_the_csv_module_with_the_header_as_number_0():
    text = 'a,"b ""c"""\r\n\r\n"1\r\n2",\n長,🙂\n'
    rows, reported = read(readers.csv_rows, text.encode())
    wanted = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]
    assert rows == list(enumerate(wanted))
    assert reported == []


def test_a_row_that_cannot_be_read_keeps_its_number_and_is_marked():
    rows, reported = read(readers.csv_rows, b'a,b\n1,2\n3\n"4"x,5\n6,7\n')
    assert rows == [
        (0, ["a", "b"]), (1, ["1", "2"]), (2, readers.REPORTED), (3, readers.REPORTED),
        (4, ["6", "7"]),
    ]  # fmt: skip
    assert reported == [(2, "ragged"), (3, "broken-csv")]


# --- files broken anywhere ------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["faq.json", "images.csv", "speech.json"])
def test_a_table_cut_at_any_byte_never_ends_in_a_traceback(tmp_path, table):
    folder = make_corpus(tmp_path / "cut", tables=(table,))
    content = (folder / table).read_bytes()
    for length in range(len(content) - 1):
        (folder / table).write_bytes(content[:length])
        found = problems(folder)
        # A CSV file may be cut at the end of a row, or within its last cell, and look whole.
        assert found or table == "images.csv", length
        assert all(str(problem).isprintable() for problem in found)


@pytest.mark.parametrize("table", ["faq.json", "images.csv", "speech.json", "joint.json"])
def test_flipped_bytes_never_end_in_a_traceback(tmp_path, table):
    folder = make_corpus(tmp_path / "flipped", tables=(table,))
    content = (folder / table).read_bytes()
    rng = np.random.default_rng(1)
    marks = np.frombuffer(b'"{}[]:,\\\n\r\0\xff\xef\x80u', dtype=np.uint8)
    kinds = set()
    for _ in range(150):
        spoilt = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            spoilt[place] = rng.choice(marks)
        (folder / table).write_bytes(bytes(spoilt))
        found = problems(folder)
        kinds |= {problem.kind for problem in found}
        assert all(str(problem).isprintable() for problem in found)
    assert len(kinds) >= 4
