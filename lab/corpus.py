"""A tenant's corpus: fingerprinted, checked, and served as memory-mapped tables.

Owns the fingerprint, the Arrow cache and the rule that a corpus with problems is refused unless
the tenant allows quarantine. Knows nothing of what a problem is (``lab.validation``) or of what the
data are like. Only `fingerprint` is needed to decide that nothing is to do, so it imports nothing
heavy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lab import errors, media, readers, tenants, validation
from lab.errors import CorpusError, LabError, message, printable
from lab.files import write_whole
from lab.readers import Problem
from lab.tenants import contained
from lab.validation import FORMS, GROUP, MEDIA_FOLDERS, Form, Progress, Row, Scan

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from datasets import Dataset

    from lab.params import DataSettings, Resolved

_RACY_NS = 2_000_000_000  # a file touched this shortly before hashing may change unnoticed
_STAMPS = "fingerprint.json"
_MANIFEST = "manifest.json"
_BATCH_ROWS = 8192
_KEPT_ENTRIES = 2  # so that two sets of settings can take turns
_STALE_S = 3600
_LISTED_PROBLEMS = 20
_FACT_TYPES = {
    "width": "int32",
    "height": "int32",
    "bytes": "int64",
    "brightness": "float64",
    "contrast": "float64",
    "sharpness": "float64",
    "dhash": "uint64",
    "digest": "string",
    "duration_s": "float64",
    "sampling_rate": "int32",
    "peak": "float64",
    "rms_dbfs": "float64",
    "clipped_share": "float64",
    "silent_share": "float64",
}
_FACTS = {  # table -> the field that is measured and what of it
    "images": ("image_path", [field.name for field in dataclasses.fields(media.ImageFacts)]),
    "speech": ("audio_path", [field.name for field in dataclasses.fields(media.AudioFacts)]),
}


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check: every problem, rows read of each table, problems by kind."""

    problems: tuple[Problem, ...]
    rows: Mapping[str, int]
    counts: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tenant's data, fit to be used.

    Attributes:
        tenant: slug.
        folder: where the files are.
        fingerprint: of all the files, ``sha256:...``.
        tables: table -> memory-mapped Dataset. Each has ``row`` (1-based, in the file), the fields
            of its file, ``group`` (None where there is none), and where there is an annotation
            ``label``, a ClassLabel whose names are like ``zh/退货流程``; images and speech have
            the facts of their file too (see lab.media).
        problems: of the rows that were left out; empty unless the tenant allows quarantine.
        rows_read: table -> rows in its file, those left out included.
        absent: tables that the tenant does not have.
    """

    tenant: str
    folder: Path
    fingerprint: str
    tables: Mapping[str, Dataset]
    problems: tuple[Problem, ...]
    rows_read: Mapping[str, int]
    absent: tuple[str, ...]

    def media_path(self, relative: str) -> Path:
        """Return the file that a row names. Raises: PathError if it leads out of the folder."""
        return contained(self.folder, relative)

    def left_out(self, *, most: int = 200) -> pd.DataFrame:
        """Return why rows were left out: file, row, field, rule, got, remedy; ``most`` lines."""
        import pandas as pd

        columns = ["file", "row", "field", "rule", "got", "remedy"]
        shown = self.problems[:most]
        return pd.DataFrame(
            [[getattr(problem, name) for name in columns] for problem in shown], columns=columns
        )


def fingerprint(folder: Path, *, cache: Path) -> str:
    """Return a digest of the names and contents of a corpus' files: ``sha256:`` and 64 hex digits.

    Covers the tables and everything under images/ and audio/. A file whose size, times and inode
    are as they were when it was last read is not read again; one that was touched within two
    seconds before it was read is.

    Args:
        folder: the corpus.
        cache: the tenant's cache folder; made if need be, and not needed if it cannot be written.
    Raises: MissingError if there is no such folder.
    """
    validation.require_folder(folder)
    known = _read_stamps(cache / _STAMPS, folder)
    stamps: dict[str, list[Any]] = {}
    whole = hashlib.sha256()
    for name, entry in sorted(_entries(folder)):
        digest, stamp = _file_digest(folder / name, entry, known.get(name))
        if stamp:
            stamps[name] = stamp
        raw_name = os.fsencode(name)
        whole.update(b"%d:%s=%s;" % (len(raw_name), raw_name, digest.encode()))
    if stamps != known:
        # Without the stamps the next call is slower, not wrong.
        with contextlib.suppress(OSError):
            _private_folder(cache)
            text = json.dumps({"folder": str(folder), "files": stamps})
            write_whole(cache / _STAMPS, text, mode=0o600)
    return f"sha256:{whole.hexdigest()}"


def check(
    folder: Path,
    *,
    data: DataSettings,
    languages: Sequence[str],
    progress: Progress | None = None,
) -> CheckReport:
    """Hold every row and file of a corpus against the rules.

    Raises: MissingError if there is no such folder; what is wrong inside is in the report.
    """
    scan = Scan(folder, data=data, languages=languages, progress=progress)
    for form in scan.present:
        for _ in scan.sound_rows(form):
            pass
    problems = scan.sorted_problems()
    return CheckReport(
        problems, MappingProxyType(scan.rows), MappingProxyType(count_kinds(problems))
    )


def count_kinds(problems: Iterable[Problem]) -> dict[str, int]:
    """Count problems by kind, the most frequent first."""
    return dict(Counter(problem.kind for problem in problems).most_common())


def load(resolved: Resolved, *, progress: Progress | None = None) -> Corpus:
    """Return a tenant's corpus, checked; from the cache if nothing has changed.

    With ``data.quarantine`` the rows with problems are left out and the problems kept; a file of
    which an unknown number of rows is lost (broken JSON, another encoding) is refused even so.

    Raises: CorpusError if there are problems, MissingError if there is no corpus, LabError if the
        cache cannot be written.
    """
    folder, tenant = resolved.data_folder, resolved.tenant
    digest = fingerprint(folder, cache=tenant.cache)
    entries = tenant.cache / "corpus"
    target = entries / _key(digest, resolved)
    for _ in range(3):  # another process may remove an entry between our finding and opening it
        manifest = _read_manifest(target)
        if manifest is None:
            _build(target, digest, resolved, progress)
            _remove_older(entries, keep=target)
            continue
        try:
            problems = _read_problems(target, manifest)
            _refuse(problems, resolved)
            tables = _open_tables(target, manifest)
        except LabError:
            raise
        except (OSError, ValueError, KeyError):  # pyarrow's own errors are among these
            _discard(target)
            continue
        return Corpus(
            tenant=tenant.slug,
            folder=folder,
            fingerprint=digest,
            tables=MappingProxyType(tables),
            problems=problems,
            rows_read=MappingProxyType(manifest["rows_read"]),
            absent=tuple(form.table for form in FORMS if form.table not in tables),
        )
    raise LabError(
        message(
            "the cache must hold still",
            got="an entry that is damaged each time it is written",
            place=str(entries),
            remedy="delete that folder, and check the disk",
        )
    )


# --- fingerprint ---------------------------------------------------------------------------------


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path relative to the corpus, its status) of all that is fingerprinted, in no order."""
    for form in FORMS:
        with contextlib.suppress(FileNotFoundError):
            yield form.file, os.lstat(folder / form.file)
    waiting = list(MEDIA_FOLDERS)
    while waiting:
        below = waiting.pop()
        try:
            status = os.lstat(folder / below)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            yield below, status
            continue
        with contextlib.suppress(PermissionError), os.scandir(folder / below) as found:
            for entry in found:
                name = f"{below}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        yield name, entry.stat(follow_symlinks=False)


def _file_digest(
    path: Path, status: os.stat_result, known: list[Any] | None
) -> tuple[str, list[Any] | None]:
    """Return a file's digest, and the stamp under which it may be trusted, if it may."""
    if stat.S_ISLNK(status.st_mode):
        return f"link:{hashlib.sha256(os.fsencode(path.readlink())).hexdigest()}", None
    if not stat.S_ISREG(status.st_mode):
        return f"kind:{stat.S_IFMT(status.st_mode):o}", None
    stamp = _stamp(status)
    if known and known[:-1] == stamp:
        return known[-1], known
    started = time.time_ns()
    try:
        with media.open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
    except media.MediaError:
        return "unreadable", None
    touched = max(after.st_mtime_ns, after.st_ctime_ns)
    if _stamp(after) != stamp or touched > started - _RACY_NS:
        return digest, None
    return digest, [*stamp, digest]


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_stamps(path: Path, folder: Path) -> dict[str, list[Any]]:
    try:
        stored = json.loads(path.read_bytes())
        if stored["folder"] != str(folder):
            return {}
        files = stored["files"]
        return {name: stamp for name, stamp in files.items() if len(stamp) == 5}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# --- cache ---------------------------------------------------------------------------------------


def _key(digest: str, resolved: Resolved) -> str:
    """Name the cache entry: data, the settings that decide what is in it, and our own source."""
    settings = resolved.settings.data.model_dump(exclude={"folder", "quarantine"})
    parts = [digest, settings, resolved.settings.languages, _source_digest()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _source_digest() -> str:
    modules = (errors, media, readers, tenants, validation, sys.modules[__name__])
    sources = [Path(module.__file__).read_bytes() for module in modules]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def _build(target: Path, digest: str, resolved: Resolved, progress: Progress | None) -> None:
    """Check the corpus and write its entry, whole or not at all."""
    settings, folder = resolved.settings, resolved.data_folder
    with _writing(target.parent):
        _private_folder(resolved.tenant.cache)
        _private_folder(target.parent)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        scan = Scan(folder, data=settings.data, languages=settings.languages, progress=progress)
        tables = {form.table: _write_table(aside, form, scan) for form in scan.present}
        problems = scan.sorted_problems()
        manifest = {
            "rows_read": scan.rows,
            "tables": tables,
            "problems": _write_problems(aside, problems) if problems else None,
        }
        if fingerprint(folder, cache=resolved.tenant.cache) != digest:
            raise CorpusError(
                message(
                    "a corpus must not change while it is read",
                    got="another fingerprint",
                    place=str(folder),
                    remedy="run it again when nothing writes there",
                )
            )
        with _writing(target.parent):
            body = json.dumps(manifest).encode()
            (aside / _MANIFEST).write_bytes(_sealed(body))
            _put_in_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_in_place(aside: Path, target: Path) -> None:
    """Rename a finished entry to its place; one that another process finished first stands."""
    for _ in range(3):
        try:
            aside.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if _read_manifest(target) is not None:
                return
            _discard(target)
        else:
            return


def _write_table(aside: Path, form: Form, scan: Scan) -> dict[str, Any]:
    """Write the sound rows of one table; return what the manifest says of it."""
    import pyarrow as pa

    columns = _columns(form)
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
    labels: dict[str, int] = {}
    path = aside / f"{form.table}.arrow"
    with contextlib.ExitStack() as stack:
        with _writing(aside.parent):
            sink = stack.enter_context(pa.OSFile(str(path), "wb"))
            writer = pa.ipc.new_stream(sink, schema)
        rows: list[Row] = []
        for window in scan.sound_rows(form):
            rows += window
            if len(rows) >= _BATCH_ROWS:
                batch = _batch(rows, form, schema, scan, labels)
                rows = []
                with _writing(aside.parent):
                    writer.write_batch(batch)
        with _writing(aside.parent):
            if rows:
                writer.write_batch(_batch(rows, form, schema, scan, labels))
            writer.close()
            sink.close()
    return {"labels": list(labels), **_seal(path)}


def _columns(form: Form) -> dict[str, str]:
    """Return the columns of a table and their Arrow types, in order."""
    columns = {"row": "int32", **dict.fromkeys((*form.fields, GROUP), "string")}
    if "annotation" in form.fields:
        columns["label"] = "int64"
    _, facts = _FACTS.get(form.table, ("", []))
    return columns | {name: _FACT_TYPES[name] for name in facts}


def _batch(
    rows: list[Row], form: Form, schema: pa.Schema, scan: Scan, labels: dict[str, int]
) -> pa.RecordBatch:
    import pyarrow as pa

    values: dict[str, list[Any]] = {"row": [number for number, _ in rows]}
    for name in form.fields:
        values[name] = [row[name] for _, row in rows]
    values[GROUP] = [row.get(GROUP) for _, row in rows]
    if "annotation" in form.fields:
        pairs = zip(values["language"], values["annotation"], strict=True)
        values["label"] = [
            labels.setdefault(f"{language}/{annotation}", len(labels))
            for language, annotation in pairs
        ]
    if form.table in _FACTS:
        path_field, names = _FACTS[form.table]
        facts = [scan.facts(path_field, path) for path in values[path_field]]
        for name in names:
            values[name] = [getattr(found, name) for found in facts]
    return pa.record_batch(
        [pa.array(values[field.name], type=field.type) for field in schema], schema=schema
    )


def _open_tables(entry: Path, manifest: Mapping[str, Any]) -> dict[str, Dataset]:
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns that it draws its bars as text; none is drawn.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from datasets import ClassLabel, Dataset, DatasetInfo, Features, Value

    tables = {}
    for form in FORMS:
        if form.table not in manifest["tables"]:
            continue
        stored = manifest["tables"][form.table]
        features = {name: Value(kind) for name, kind in _columns(form).items()}
        if "label" in features:
            features["label"] = ClassLabel(names=stored["labels"])
        tables[form.table] = Dataset.from_file(
            str(entry / stored["file"]), info=DatasetInfo(features=Features(features))
        )
    return tables


def _write_problems(aside: Path, problems: Sequence[Problem]) -> dict[str, Any]:
    import pyarrow as pa

    kinds = {field.name: pa.string() for field in dataclasses.fields(Problem)}
    schema = pa.schema(list({**kinds, "row": pa.int32()}.items()))
    path = aside / "problems.arrow"
    with (
        _writing(aside.parent),
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as to,
    ):
        for start in range(0, len(problems), _BATCH_ROWS):
            part = problems[start : start + _BATCH_ROWS]
            columns = {name: [getattr(found, name) for found in part] for name in schema.names}
            to.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
    return _seal(path)


def _read_problems(entry: Path, manifest: Mapping[str, Any]) -> tuple[Problem, ...]:
    if manifest["problems"] is None:
        return ()
    import pyarrow as pa

    problems: list[Problem] = []
    kept: dict[Any, Any] = {}  # the same few rules and remedies stand in every row: one copy each
    with (
        pa.memory_map(str(entry / manifest["problems"]["file"])) as source,
        pa.ipc.open_stream(source) as stored,
    ):
        for batch in stored:
            columns = batch.to_pydict()
            for name in ("file", "field", "kind", "rule", "remedy"):
                columns[name] = [kept.setdefault(text, text) for text in columns[name]]
            problems += map(Problem, *columns.values())
    return tuple(problems)


def _refuse(problems: Sequence[Problem], resolved: Resolved) -> None:
    """Raise CorpusError if the problems forbid the use of the corpus."""
    allowed = resolved.settings.data.quarantine
    blocking = [problem for problem in problems if problem.is_fatal] if allowed else problems
    if not blocking:
        return
    counts = ", ".join(f"{kind} {count}" for kind, count in count_kinds(blocking).items())
    slug = resolved.tenant.slug
    if allowed:
        rule = "quarantine leaves out single rows; these problems put a whole table in doubt"
        remedy = f"correct the files (`lab data check {slug}` shows all problems)"
    else:
        rule = "a corpus must be without problems"
        remedy = (
            f"correct them (`lab data check {slug}` shows all), "
            "or set data.quarantine to true to go on without those rows"
        )
    place = printable(str(resolved.data_folder))
    lines = [f"{rule}, got {len(blocking)}: {counts} ({place}); {remedy}"]
    lines += [f"  {problem}" for problem in blocking[:_LISTED_PROBLEMS]]
    if len(blocking) > _LISTED_PROBLEMS:
        lines.append(f"  and {len(blocking) - _LISTED_PROBLEMS} more")
    raise CorpusError("\n".join(lines))


def _seal(path: Path) -> dict[str, Any]:
    """Describe a finished file so that a later change of it is seen."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "stamp": _entry_stamp(path), "sha256": digest}


def _entry_stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _is_whole(entry: Path, sealed: Mapping[str, Any]) -> bool:
    """Whether a file is as it was sealed; its content is read only if its status has changed."""
    path = entry / sealed["file"]
    if _entry_stamp(path) == sealed["stamp"]:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sealed["sha256"]


def _sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _read_manifest(entry: Path) -> dict[str, Any] | None:
    """Return what an entry says of itself, or None if it is not there or not whole."""
    try:
        seal, _, body = (entry / _MANIFEST).read_bytes().partition(b"\n")
        if seal.decode() != hashlib.sha256(body).hexdigest():
            return None
        manifest = json.loads(body)
        files = [*manifest["tables"].values(), manifest["problems"]]
        return manifest if all(_is_whole(entry, file) for file in files if file) else None
    except (OSError, ValueError, KeyError):
        return None


def _discard(entry: Path) -> None:
    """Take a damaged entry out of the way; another process may be doing the same."""
    aside = entry.with_name(f".building-damaged-{os.getpid()}-{time.time_ns()}")
    with contextlib.suppress(OSError):
        entry.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _remove_older(entries: Path, *, keep: Path) -> None:
    """Remove all but the newest entries, and what killed processes left half-built."""
    now = time.time()
    found = []
    for path in entries.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            newest = max(item.stat().st_mtime for item in (path, *path.iterdir()))
            if path.name.startswith(".building-"):
                if now - newest > _STALE_S:
                    shutil.rmtree(path, ignore_errors=True)
            elif path != keep:
                found.append((newest, path))
    for _, path in sorted(found, reverse=True)[_KEPT_ENTRIES - 1 :]:
        shutil.rmtree(path, ignore_errors=True)  # whoever has it mapped keeps what is mapped


def _private_folder(folder: Path) -> None:
    """Make a folder that only its owner can look into."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one clear error."""
    try:
        yield
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise LabError(
            message(
                "the cache must be writable",
                got=os.strerror(error.errno) if error.errno else str(error),
                place=str(folder),
                remedy="free some disk space" if room else "check the folder's permissions",
            )
        ) from error
