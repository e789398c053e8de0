"""A table's bytes turned into rows, one at a time, in bounded memory.

Owns the two ways a table may be written (JSON array, CSV), how its encoding is told, and what is
said of a place that cannot be read. Knows nothing of what a row must hold.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from lab.errors import printable, shown

if TYPE_CHECKING:
    from lab.params import DataSettings

REPORTED: Any = object()  # stands for a row that could not be read, which was reported

# Where reading stops or is out of step, so that it cannot be told how many rows are lost.
_LOST_ROWS = frozenset({"broken-json", "broken-csv", "nesting", "row-too-large"})
_CHUNK = 1 << 20  # bytes
_MIN_ROW_CHARS = 1 << 20
_ESCAPED = 12  # characters that JSON may spend on one: \ud83d\ude00
_BOM = codecs.BOM_UTF8
_SPACE = re.compile(r"[ \t\n\r]*")
_SAMPLE = 4096  # bytes on either side of a fault that are looked at to name the encoding
_KANA = re.compile("[\u3041-\u30fe]")
_HALF_KANA = re.compile("[\uff61-\uff9f]")
_IDEOGRAPHS = re.compile("[\u4e00-\u9fff\u3000-\u303f\uff01-\uff5e]{2,}")
_EMPTY_REMEDY = "add rows, or delete the file if there are none"
_JSON_REMEDY = "correct the file there; it was not read beyond"


@dataclass(frozen=True, slots=True)
class Problem:
    """One place where a file breaks a rule.

    ``row`` is 1-based and None for the file as a whole; ``kind`` is a slug for counting; ``got`` is
    fit to be printed, whatever the file holds.
    """

    file: str
    row: int | None
    field: str | None
    kind: str
    rule: str
    got: str
    remedy: str

    @property
    def is_fatal(self) -> bool:
        """Whether the whole table is in doubt, so that leaving out bad rows is no way out."""
        return self.kind in _LOST_ROWS or (self.row is None and self.kind != "bom")

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}:{self.row}"
        if self.field:
            place += f": {self.field}"
        return f"{place}: {self.rule}, got {self.got}; {self.remedy}"


Report = Callable[[Problem], None]


class Repeated(dict):
    """An object of a JSON file that names a key more than once."""

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeated = Repeated(row)
    counts = Counter(name for name, _ in pairs)
    repeated.names = tuple(name for name, count in counts.items() if count > 1)
    return repeated


def _number(digits: str) -> int | float:
    # Python refuses to read integers of thousands of digits; no field is a number anyway.
    return int(digits) if len(digits) <= 20 else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_number)


def json_rows(
    file: BinaryIO, name: str, *, data: DataSettings, width: int, report: Report
) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, item) of a JSON array, holding no more than one row's text.

    What cannot be read is reported, and ends the reading. An object that names a key more than
    once comes as a `Repeated`.

    Args:
        file: at its start; read as it is iterated.
        name: of the file, for what is reported.
        data: caps on rows and on the characters of a field.
        width: fields that a row may have, for the cap on a row's text.
        report: is handed each problem as it is met.
    """
    max_row_chars = max(_MIN_ROW_CHARS, _ESCAPED * data.max_field_chars * width)
    text = _Text(file, name, report)

    def refuse(kind: str, rule: str, got: str, remedy: str, row: int | None = None) -> None:
        if not text.reported:
            report(Problem(name, row, None, kind, rule, got, remedy))

    first = text.peek()
    if not first:
        refuse("empty-file", "a table must not be empty", "an empty file", _EMPTY_REMEDY)
        return
    if first != "[":
        remedy = "put [ before the first row, ] behind the last and a comma between two"
        refuse("not-array", "must be a JSON array of rows", _beginning(text), remedy)
        return
    text.at += 1
    number = 0
    if text.peek() == "]":
        refuse("no-rows", "a table must have at least one row", "[]", _EMPTY_REMEDY)
        return
    while True:
        number += 1
        if number > data.max_rows:
            report(_too_many_rows(name, data))
            return
        try:
            item = text.item(max_row_chars)
        except _BrokenJsonError as error:
            refuse(*error.args, row=number)
            return
        yield number, item
        mark = text.peek()
        text.at += 1
        if mark == "]":
            break
        if mark != ",":
            text.at -= 1
            what = f"{shown(mark)} at {text.place(text.at)}" if mark else "the end of the file"
            refuse("broken-json", "a row must be followed by , or ]", what, _JSON_REMEDY, number)
            return
        text.peek()
    if text.peek():
        where = f"{shown(text.peek())} at {text.place(text.at)}"
        refuse("broken-json", "nothing must follow the closing ]", where, "delete it")


class _BrokenJsonError(Exception):
    """Carries kind, rule, got and remedy."""


class _Text:
    """A window of decoded text that moves over a file, and knows its line and column.

    Bytes that are not UTF-8 are reported, and end the text where they start.
    """

    def __init__(self, file: BinaryIO, name: str, report: Report) -> None:
        self.text, self.at, self.ended, self.reported = "", 0, False, False
        self._file, self._name, self._report = file, name, report
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._read = 0  # bytes handed to the decoder
        self._line, self._column = 1, 1  # of text[0]

    def peek(self) -> str:
        """Move to the next character that is not white space and return it; empty at the end."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._fill()

    def item(self, max_chars: int) -> Any:
        """Parse the value that starts here and move behind it. Raises: _BrokenJsonError."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError:
                got = f"more levels at {self.place(self.at)}"
                raise _BrokenJsonError(
                    "nesting", "a row must be flat", got, "write text in each field"
                ) from None
            except json.JSONDecodeError as error:
                over = len(self.text) - self.at > max_chars
                if self.ended or over:
                    raise self._broken(error, max_chars) from None
            else:
                # A number at the end of the window may go on behind it, from what looks like its
                # end on: of 1e+5 one sees 1, and e+ behind it.
                if end + 2 < len(self.text) or self.ended:
                    self.at = end
                    return value
            self._fill()

    def place(self, position: int) -> str:
        """Word a position in the window as line and column of the file."""
        line = self._line + self.text.count("\n", 0, position)
        last = self.text.rfind("\n", 0, position)
        column = position - last if last >= 0 else self._column + position
        return f"line {line} column {column}"

    def _broken(self, error: json.JSONDecodeError, max_chars: int) -> _BrokenJsonError:
        unclosed = error.msg.startswith("Unterminated")
        unfinished = error.pos >= len(self.text)
        if (unclosed or unfinished) and not self.ended:
            got = f"more from {self.place(self.at)}"
            rule = f"a row must be at most {max_chars} characters"
            return _BrokenJsonError(
                "row-too-large", rule, got, "close the quotes and braces before it"
            )
        what = f'"{error.msg}"'
        if unclosed:
            what = "a text without closing quotes"
        elif unfinished:
            what = "the end of the file"
        got = f"{what} at {self.place(error.pos)}"
        return _BrokenJsonError("broken-json", "must be valid JSON", got, _JSON_REMEDY)

    def _fill(self) -> None:
        """Drop what was read and add at least as much as is left, so that work stays linear."""
        done = self.text[: self.at]
        lines = done.count("\n")
        self._line += lines
        self._column = len(done) - done.rfind("\n") if lines else self._column + len(done)
        rest = self.text[self.at :]
        chunk = self._file.read(max(_CHUNK, len(rest)))
        if self._read == 0 and chunk.startswith(_BOM):
            self._report(_bom(self._name))
            self._read, chunk = len(_BOM), chunk[len(_BOM) :]
        if self._read == 0 and (problem := _other_unicode(self._name, chunk)):
            self._report(problem)
            self.reported = self.ended = True
            return
        pending = len(self._decoder.getstate()[0])
        try:
            more = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            more = error.object[: error.start].decode()
            self.text, self.at = rest + more, 0
            line = self._line + self.text.count("\n")
            offset = self._read - pending + error.start
            self._report(_not_utf8(self._name, self._file, offset, line, error))
            self.reported = self.ended = True
            return
        self.text, self.at = rest + more, 0
        self._read += len(chunk)
        self.ended = not chunk


def csv_rows(
    file: BinaryIO, name: str, *, data: DataSettings, width: int, report: Report
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, cells) of a CSV file, the header first, as number 0.

    Each row has as many cells as the header; one that has not, or cannot be read, is reported and
    comes as `REPORTED`, so that the others keep their numbers. Blank lines are no rows.

    Args: as for `json_rows`.
    """
    csv.field_size_limit(max(csv.field_size_limit(), data.max_field_chars + 1))
    lines = _Lines(file, name, report, cap=4 * data.max_field_chars * width)
    records = csv.reader(lines, strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        lines.start_record()
        try:
            cells = next(records)
        except StopIteration:
            break
        except csv.Error as error:
            number += header is not None
            if not lines.reported:
                report(_broken_csv(name, number or None, lines, error))
            if header is None:
                return
            yield number, REPORTED
            continue
        if not cells:
            continue
        if header is None:
            header = cells
            yield 0, header
            continue
        number += 1
        if number > data.max_rows:
            report(_too_many_rows(name, data))
            return
        if len(cells) != len(header):
            report(_ragged(name, number, cells, header))
            yield number, REPORTED
            continue
        yield number, cells
    if header is None and not lines.reported:
        words = ("empty-file", "a table must not be empty", "an empty file", _EMPTY_REMEDY)
        report(Problem(name, None, None, *words))
    elif number == 0 and not lines.reported:
        words = ("no-rows", "a table must have at least one row", "a header only", _EMPTY_REMEDY)
        report(Problem(name, None, None, *words))


class _Lines:
    """The decoded lines of a CSV file; ends, with a report, where it cannot be read on."""

    def __init__(self, file: BinaryIO, name: str, report: Report, *, cap: int) -> None:
        self.reported = False
        self.line = 0  # of the last one handed out
        self.record_line = 1
        self._file, self._name, self._report = file, name, report
        self._cap = max(_MIN_ROW_CHARS, cap)  # bytes of a row
        self._read = self._record = 0

    def start_record(self) -> None:
        """Forget the size of the record before."""
        self._record, self.record_line = 0, self.line + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = b"" if self.reported else self._file.readline(self._cap + 1)
        if not raw:
            raise StopIteration
        self.line += 1
        self._record += len(raw)
        if self.line == 1 and raw.startswith(_BOM):
            self._report(_bom(self._name))
            self._read, raw = len(_BOM), raw[len(_BOM) :]
        if self.line == 1 and (problem := _other_unicode(self._name, raw)):
            return self._stop(problem)
        if self._record > self._cap:
            rule = f"a row must be at most {self._cap} bytes"
            got = f"more from line {self.record_line}"
            remedy = "close the quotes before it, and end lines with a line feed"
            words = ("row-too-large", rule, got, remedy)
            return self._stop(Problem(self._name, None, None, *words))
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            offset = self._read + error.start
            return self._stop(_not_utf8(self._name, self._file, offset, self.line, error))
        self._read += len(raw)
        return text

    def _stop(self, problem: Problem) -> str:
        self._report(problem)
        self.reported = True
        raise StopIteration


def _ragged(name: str, number: int, cells: list[str], header: list[str]) -> Problem:
    rule = f"a row must have {len(header)} cells"
    remedy = "put a cell that holds a comma in double quotes"
    return Problem(name, number, None, "ragged", rule, f"{len(cells)}", remedy)


def _broken_csv(name: str, number: int | None, lines: _Lines, error: csv.Error) -> Problem:
    where = f"line {lines.record_line}"
    if lines.line > lines.record_line:
        where += f" to {lines.line}"
    got = f'"{printable(str(error))}" in {where}'
    remedy = 'put the cell in double quotes, double those inside it (""), and end lines with \\n'
    return Problem(name, number, None, "broken-csv", "must be valid CSV", got, remedy)


def _too_many_rows(name: str, data: DataSettings) -> Problem:
    rule = f"a table must have at most {data.max_rows} rows"
    remedy = "split the corpus, or raise data.max_rows; it was not read beyond"
    return Problem(name, None, None, "too-many-rows", rule, "more", remedy)


def _bom(name: str) -> Problem:
    remedy = "save it as UTF-8 without BOM; the rest is read as usual"
    rule = "must not start with a byte order mark"
    return Problem(name, None, None, "bom", rule, "EF BB BF", remedy)


def _other_unicode(name: str, head: bytes) -> Problem | None:
    """Recognise UTF-16 and UTF-32, which may be valid UTF-8 as far as ASCII goes."""
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32"}
    marks |= {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    coding = next((marks[mark] for mark in marks if head.startswith(mark)), None)
    if coding is None and b"\0" in head[:2]:
        coding = "utf-16"
    if coding is None:
        return None
    got = f"what looks like {coding}, starting with {head[:4].hex(' ')}"
    remedy = f"save it again: iconv -f {coding} -t utf-8"
    return Problem(name, None, None, "encoding", "must be UTF-8", got, remedy)


def _not_utf8(
    name: str, file: BinaryIO, offset: int, line: int, error: UnicodeDecodeError
) -> Problem:
    start = max(0, offset - _SAMPLE)
    file.seek(start)
    sample = file.read(2 * _SAMPLE)
    guess = _guess_encoding(sample[: offset - start], sample[offset - start :])
    remedy = "correct the damaged character, or restore the file"
    if guess:
        remedy = f"it reads as {guess}: save it again with iconv -f {guess} -t utf-8"
    got = f"byte 0x{error.object[error.start]:02x} at offset {offset} (line {line})"
    return Problem(name, None, None, "encoding", "must be UTF-8", got, remedy)


def _guess_encoding(before: bytes, behind: bytes) -> str | None:
    """Name the legacy encoding that bytes around the first fault can be read in, if one stands out.

    None if much before the fault is valid UTF-8: then the file is damaged, and not of another kind.
    """
    if sum(byte > 0x7F for byte in before) > 16:
        return None
    sample = before[before.rfind(b"\n") + 1 :] + behind
    readings = {}
    for name in ("shift_jis", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            readings[name] = codecs.getincrementaldecoder(name)().decode(sample)
    japanese, chinese = readings.get("shift_jis", ""), readings.get("gb18030", "")
    if len(_KANA.findall(japanese)) > len(_HALF_KANA.findall(japanese)):
        return "shift_jis"
    return "gb18030" if _IDEOGRAPHS.search(chinese) else None


def _beginning(text: _Text) -> str:
    return shown(text.text[text.at : text.at + 20])
