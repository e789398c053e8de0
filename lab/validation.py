"""What a tenant's files may hold, and every place where they hold something else.

Owns the forms of the four tables and the rules of a header and of a row. A row is counted from 1 in
the order of the data: the header of a CSV file and blank lines are no rows. Knows nothing of how
bytes become rows (``lab.readers``), of Arrow, caches or what is done with a bad row, and does not
judge the data itself: duplicates, hostile text and wrong labels are the analysis' business.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lab.errors import MissingError, message, printable, shown
from lab.media import (
    AudioFacts,
    ImageFacts,
    MediaError,
    open_regular,
    probe_all,
    probe_audio,
    probe_image,
)
from lab.readers import REPORTED, Problem, Repeated, Report, csv_rows, json_rows
from lab.tenants import path_problem

if TYPE_CHECKING:
    from lab.params import DataSettings

Progress = Callable[[str, int, int], None]  # (stage, done, total); total is 0 where unknown
Row = tuple[int, dict[str, Any]]  # number, fields


@dataclass(frozen=True)
class Form:
    """One table: its file, its fields, and the folder that each of its paths must lie in."""

    table: str
    file: str
    fields: tuple[str, ...]
    media: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The required fields and the optional one."""
        return (*self.fields, GROUP)


GROUP = "group"  # ties the language versions of one item together; may be left out
_IMAGE, _AUDIO = {"image_path": "images"}, {"audio_path": "audio"}
FORMS = (
    Form("faq", "faq.json", ("question", "answer", "language", "annotation")),
    Form("images", "images.csv", ("image_path", "description", "language", "annotation"), _IMAGE),
    Form("speech", "speech.json", ("audio_path", "text", "language", "annotation"), _AUDIO),
    Form(
        "joint",
        "joint.json",
        ("text", "image_path", "audio_path", "language", "answer"),
        {**_IMAGE, **_AUDIO},
    ),
)
MEDIA_FOLDERS = ("images", "audio")

_WINDOW = 512  # rows whose files are probed together
_MAX_PATH_CHARS = 500  # below what any file system takes in bytes
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIX = "correct or delete the row"


def require_folder(folder: Path) -> None:
    """Raise MissingError unless a corpus' folder is there."""
    if not folder.is_dir():
        raise MissingError(
            message(
                "a corpus must be a folder",
                got=str(folder),
                remedy="make one with `lab data make`, or set data.folder",
            )
        )


class Scan:
    """One pass over a corpus: hands out the sound rows, window by window, and notes the rest.

    ``problems`` and ``rows`` (rows read of each table) are complete once each table was iterated.
    Files are probed once, however many rows and tables name them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        data: DataSettings,
        languages: Sequence[str],
        progress: Progress | None = None,
    ) -> None:
        require_folder(folder)
        self.folder, self.data, self.languages = folder, data, tuple(languages)
        self.problems: list[Problem] = []
        self.rows: dict[str, int] = {}
        self.present = tuple(form for form in FORMS if os.path.lexists(folder / form.file))
        self._progress = progress
        self._facts: dict[tuple[str, str], ImageFacts | AudioFacts | MediaError] = {}
        if not self.present:
            names = ", ".join(form.file for form in FORMS)
            self.problems.append(
                Problem(
                    printable(folder.name),
                    None,
                    None,
                    "no-tables",
                    f"a corpus must hold at least one of {names}",
                    "none of them",
                    "put the files there, or correct data.folder",
                )
            )

    def sorted_problems(self) -> tuple[Problem, ...]:
        """Return the problems in the order of files and rows, a file's own problems first."""
        order = {form.file: place for place, form in enumerate(FORMS)}
        return tuple(
            sorted(self.problems, key=lambda found: (order.get(found.file, -1), found.row or 0))
        )

    def facts(self, name: str, path: str) -> ImageFacts | AudioFacts:
        """Return what was measured of a sound row's file: the value ``path`` of its field."""
        found = self._facts[name, path]
        if isinstance(found, MediaError):
            raise found
        return found

    def sound_rows(self, form: Form) -> Iterator[list[Row]]:
        """Read one table; yield its sound rows in windows, in the file's order."""
        self.rows[form.table] = 0
        try:
            file = self._open(form)
        except MediaError as error:
            words = (error.kind, error.rule, error.got, error.remedy)
            self.problems.append(Problem(form.file, None, None, *words))
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            rules = _Rules(form, self.data, self.languages)
            window: list[Row] = []
            for row in _rows(file, form, self.data, self.problems.append):
                window.append(row)
                if len(window) == _WINDOW:
                    yield self._sound(form, rules, window)
                    window = []
                    self._tell(form.file, min(file.tell(), size), size)
            if window:
                yield self._sound(form, rules, window)
            self._tell(form.file, size, size)

    def _open(self, form: Form) -> BinaryIO:
        problem = path_problem(self.folder, form.file)
        if problem:
            raise MediaError("path", problem, shown(form.file), "put the file itself there")
        return open_regular(self.folder / form.file)

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(stage, done, total)

    def _sound(self, form: Form, rules: _Rules, window: list[Row]) -> list[Row]:
        self.rows[form.table] += len(window)
        for name, folder in form.media.items():
            self._probe(name, folder, window)
        sound = []
        for number, row in window:
            if row is REPORTED:
                continue
            found = rules.problems(number, row)
            for name in form.media:
                found += self._media_problems(form, number, name, row)
            if found:
                self.problems += found
            elif not isinstance(row, _Partial):
                sound.append((number, row))
        return sound

    def _probe(self, name: str, folder: str, window: list[Row]) -> None:
        """Measure the files that a window names and that were not met before."""
        probe = probe_image if folder == "images" else probe_audio
        paths: dict[str, Path] = {}
        for _, row in window:
            path = row.get(name) if isinstance(row, dict) else None
            if not isinstance(path, str) or (name, path) in self._facts or path in paths:
                continue
            if len(path) > _MAX_PATH_CHARS:
                problem = f"must be at most {_MAX_PATH_CHARS} characters"
            else:
                problem = path_problem(self.folder, path)
            if not problem and not path.startswith(f"{folder}/"):
                problem = f"must lie in {folder}/"
            if problem:
                example = f"{folder}/1.jpg" if folder == "images" else f"{folder}/1.wav"
                remedy = f"name a file of the corpus, such as {example}"
                self._facts[name, path] = MediaError("path", problem, shown(path), remedy)
            else:
                paths[path] = self.folder / path
        found = probe_all(probe, list(paths.values()), data=self.data)
        self._facts.update(zip(((name, path) for path in paths), found, strict=True))

    def _media_problems(self, form: Form, number: int, name: str, row: Any) -> list[Problem]:
        path = row.get(name) if isinstance(row, dict) else None
        if not isinstance(path, str) or not path.strip():
            return []  # which the rules of a row have reported
        found = self._facts[name, path]
        if not isinstance(found, MediaError):
            return []
        named = shown(path)
        got = named if found.kind in ("path", "missing-file") else f"{found.got} in {named}"
        return [Problem(form.file, number, name, found.kind, found.rule, got, found.remedy)]


class _Rules:
    """The rules of one table's rows, and the annotations met so far."""

    def __init__(self, form: Form, data: DataSettings, languages: tuple[str, ...]) -> None:
        self.form = form
        self.required = frozenset(form.fields)
        self.allowed = frozenset(form.allowed)
        self.languages = languages
        self.max_chars = data.max_field_chars
        self.max_classes = data.max_classes
        self.classes: dict[str, set[str]] = {language: set() for language in languages}

    def problems(self, number: int, row: Any) -> list[Problem]:
        """Return what is wrong with a row, its files aside."""
        found = [] if self._plainly_sound(row) else self._all_problems(number, row)
        if not found and "annotation" in row and "language" in row:
            seen = self.classes[row["language"]]
            if row["annotation"] not in seen and len(seen) <= self.max_classes:
                seen.add(row["annotation"])
                if len(seen) > self.max_classes:
                    found = [self._too_many_classes(row["language"])]
        return found

    def _plainly_sound(self, row: Any) -> bool:
        """Judge the usual row in one go, for speed; what fails here is looked at in detail."""
        if type(row) is not dict or (row.keys() != self.required and row.keys() != self.allowed):
            return False
        try:
            joined = "".join(row.values())
            joined.encode()
        except (TypeError, UnicodeEncodeError):
            return False
        texts = row.values()
        return (
            len(joined) <= self.max_chars
            and "\0" not in joined
            and row["language"] in self.languages
            and "" not in texts
            and not any(map(str.isspace, texts))
        )

    def _all_problems(self, number: int, row: Any) -> list[Problem]:
        found: list[Problem] = []

        def note(name: str | None, kind: str, rule: str, got: str, remedy: str) -> None:
            found.append(Problem(self.form.file, number, name, kind, rule, got, remedy))

        if not isinstance(row, dict):
            note(None, "not-object", 'a row must be an object {"field": "text"}', _value(row), _FIX)
            return found
        if isinstance(row, Repeated):
            note(
                None,
                "repeated-field",
                "a field must stand once in a row",
                f"{_names(row.names)} more than once",
                "delete one of them",
            )
        unknown = [name for name in row if name not in self.allowed]
        if unknown:
            note(
                None,
                "unknown-field",
                f"a field must be one of {', '.join(self.form.allowed)}",
                _names(unknown),
                _closest(unknown[0], self.form.allowed),
            )
        for name in self.form.fields:
            if name not in row:
                if not isinstance(row, _Partial):
                    note(name, "missing-field", "must be there", "nothing", "add the field")
            elif self._text_problem(row[name], name, note) or name != "language":
                continue
            elif row[name] not in self.languages:
                note(
                    name,
                    "language",
                    f"must be one of {', '.join(self.languages)}",
                    shown(row[name]),
                    _tag_remedy(row[name], self.languages),
                )
        if row.get(GROUP) is not None:
            self._text_problem(row[GROUP], GROUP, note)
        return found

    def _text_problem(self, text: Any, name: str, note: Callable[..., None]) -> bool:
        if not isinstance(text, str):
            note(name, "not-text", "must be text", _value(text), "put it in quotes")
        elif not text.strip():
            note(name, "blank", "must not be blank", shown(text), "fill it in or delete the row")
        elif len(text) > self.max_chars:
            note(
                name,
                "too-long",
                f"must be at most {self.max_chars} characters",
                f"{len(text)} characters",
                "shorten it, or raise data.max_field_chars",
            )
        elif "\0" in text:
            note(name, "nul", "must not hold NUL characters", shown(text), "delete them")
        elif lone := _SURROGATE.search(text):
            note(
                name,
                "surrogate",
                "must be valid Unicode",
                f"half of a surrogate pair, {printable(lone[0])}, at character {lone.start() + 1}",
                "write the whole character",
            )
        else:
            return False
        return True

    def _too_many_classes(self, language: str) -> Problem:
        return Problem(
            self.form.file,
            None,
            "annotation",
            "too-many-classes",
            f"a language must have at most {self.max_classes} different annotations",
            f"more in {language}",
            "check that annotations are classes and not free text, or raise data.max_classes",
        )


class _Partial(dict):
    """A row below a faulty header, which was reported once for the file."""


def _rows(file: BinaryIO, form: Form, data: DataSettings, report: Report) -> Iterator[Row]:
    """Yield the rows of a table as its reader gives them, those of a CSV file as objects too."""
    width = len(form.allowed)
    if not form.file.endswith(".csv"):
        yield from json_rows(file, form.file, data=data, width=width, report=report)
        return
    header, faulty = [], False
    for number, cells in csv_rows(file, form.file, data=data, width=width, report=report):
        if number == 0:
            header = cells
            faulty = _is_faulty(header, form, report)
            if set(header).isdisjoint(form.fields):
                return
            continue
        if cells is REPORTED:
            yield number, REPORTED
            continue
        row: dict[str, Any] = dict(zip(header, cells, strict=True))
        if not row.get(GROUP, "x"):
            row[GROUP] = None  # an empty cell is CSV's only way to say so
        if faulty:
            row = _Partial({name: row[name] for name in form.allowed if name in row})
        yield number, row


def _is_faulty(header: list[str], form: Form, report: Report) -> bool:
    """Report what is wrong with a header; return whether anything is."""

    def note(kind: str, rule: str, got: str, remedy: str) -> None:
        report(Problem(form.file, None, None, kind, rule, got, remedy))

    absent = [name for name in form.fields if name not in header]
    unknown = [name for name in dict.fromkeys(header) if name not in form.allowed]
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if absent:
        written = ",".join(form.fields)
        remedy = f"let the first line be {written}"
        if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
            remedy += ", with commas"
        got = f"none for {', '.join(absent)}"
        note("missing-column", f"the header must be {written}", got, remedy)
    if unknown:
        rule = f"a column must be one of {', '.join(form.allowed)}"
        note("unknown-column", rule, _names(unknown), _closest(unknown[0], form.allowed))
    if repeated:
        got = f"{_names(repeated)} more than once"
        note("repeated-column", "a column must stand once", got, "delete one of them")
    return bool(absent or unknown or repeated)


def _value(value: Any) -> str:
    """Word a JSON value that should have been something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value:g}" if isinstance(value, float) else f"the number {value}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else shown(value)


def _names(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"


@functools.lru_cache(maxsize=1024)
def _closest(name: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name[:40].strip().lower(), allowed, n=1)
    return f"rename it to {near[0]}" if near else "delete it"


def _tag_remedy(tag: str, languages: Collection[str]) -> str:
    short = tag.strip().lower()[:2]
    if short in languages:
        return f"write {short}"
    return "correct it, or add the language to the tenant's languages"
