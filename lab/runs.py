"""One run of one notebook: its key, its three files, and whether they can be used again.

Owns what makes a run the same as an earlier one, and how ``<NN>.ipynb``, ``.html`` and
``.metrics.json`` get to their places whole or not at all. Knows nothing of how a notebook is
executed or shown.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import MissingError, NotebookError, message
from lab.files import write_aside, write_whole
from lab.params import Resolved, notebook_parameters
from lab.tenants import Tenant

SUFFIXES = (".ipynb", ".html", ".metrics.json")
LAST_GOOD = ".last_good"
SCHEMA = 1


@dataclass(frozen=True)
class Files:
    """Where the files of one notebook of one tenant are."""

    tenant: Tenant
    notebook: str

    def path(self, suffix: str, *, last_good: bool = False) -> Path:
        """Return ``reports/<tenant>/<notebook><suffix>``, or its kept last good version."""
        return self.tenant.reports / f"{self.notebook}{LAST_GOOD if last_good else ''}{suffix}"


def notebooks(root: Path) -> list[str]:
    """Return the names of the notebooks, without folder and suffix, in their order."""
    return sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def stripped(path: Path) -> str:
    """Return a notebook's cells without outputs and counts, as canonical JSON.

    Raises: MissingError or NotebookError if there is no such notebook or it is not one.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            {
                "type": cell["cell_type"],
                "tags": cell.get("metadata", {}).get("tags", []),
                "source": "".join(cell["source"]),
            }
            for cell in document["cells"]
        ]
    except FileNotFoundError as error:
        raise MissingError(
            message("a notebook must be in notebooks/", got=path.name, remedy="see lab run --help")
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise NotebookError(
            message("a notebook must be valid JSON of nbformat 4", got=path.name)
        ) from error
    return json.dumps(cells, sort_keys=True, ensure_ascii=False)


def declared(root: Path, notebook: str) -> dict[str, str]:
    """Return the parameters that a notebook declares, each with its default as source text."""
    from papermill import inspect_notebook

    found = inspect_notebook(root / "notebooks" / f"{notebook}.ipynb")
    return {name: details["default"] for name, details in found.items()}


def key_parts(
    resolved: Resolved, notebook: str, *, data: str, models: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the digest of each thing that a run's result depends on.

    ``data`` is the corpus fingerprint, ``models`` the digest by role. How and where a run is
    carried out (jobs, timeouts, Ray) and where results are kept are left out: they do not change a
    result.
    """
    root = resolved.tenant.root
    unused = {"execution", "ledger", "notebooks", "ray"}
    settings = resolved.settings.model_dump(mode="json", exclude=unused)
    constraints = root / "constraints.txt"
    return {
        "notebook": _digest(stripped(root / "notebooks" / f"{notebook}.ipynb")),
        "parameters": _digest(json.dumps(notebook_parameters(resolved, notebook), sort_keys=True)),
        "settings": _digest(json.dumps(settings, sort_keys=True)),
        "lab code": source_digest(),
        "data": data,
        "models": _digest(json.dumps(dict(models or {}), sort_keys=True)),
        "packages": _digest(constraints.read_text() if constraints.is_file() else ""),
        "python": platform.python_version(),
    }


def run_key(parts: Mapping[str, str]) -> str:
    """Return the one digest of all the parts."""
    return f"sha256:{_digest(json.dumps(dict(parts), sort_keys=True))}"


def source_digest() -> str:
    """Return the digest of the lab's own modules and templates."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), *folder.glob("templates/**/*")]):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_record(files: Files, *, last_good: bool = False) -> dict[str, Any] | None:
    """Return the run's ``metrics.json`` if it is there and whole, else None."""
    try:
        record = json.loads(files.path(".metrics.json", last_good=last_good).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def why_run(files: Files, parts: Mapping[str, str]) -> str | None:
    """Return why the notebook must be run, or None if its files are good as they are."""
    record = read_record(files)
    if record is None:
        return "not run yet"
    if record.get("status") != "ok":
        return "failed last time"
    old = record.get("key_parts")
    if record.get("run_key") != run_key(parts):
        changed = [
            name for name in parts if not isinstance(old, dict) or old.get(name) != parts[name]
        ]
        return f"changed: {', '.join(changed) or 'key'}"
    outputs = record.get("outputs")
    for suffix in (".ipynb", ".html"):
        path = files.path(suffix)
        written = outputs.get(suffix) if isinstance(outputs, dict) else None
        if written is None or _file_digest(path) != written:
            return f"{path.name} is missing or not as it was written"
    return None


def write(files: Files, record: dict[str, Any], *, ipynb: str, html: str) -> None:
    """Put a finished run in its place: all three files, or none.

    All are written aside and synced first, so that a full disk harms nothing. A failed run moves
    the last good files to ``<NN>.last_good.*``; a good run removes those. ``metrics.json`` goes
    last and holds the digests of the other two, so a torn set is never taken for a whole one.

    Raises: OSError if the files cannot be written; nothing has changed then.
    """
    folder = files.tenant.reports
    folder.mkdir(parents=True, exist_ok=True)
    aside: dict[str, Path] = {}
    try:
        for suffix, text in ((".ipynb", ipynb), (".html", html)):
            aside[suffix] = write_aside(folder, text)
        outputs = {
            suffix: hashlib.sha256(path.read_bytes()).hexdigest() for suffix, path in aside.items()
        }
        aside[".metrics.json"] = write_aside(folder, _as_json({**record, "outputs": outputs}))
        _keep_last_good(files, new_is_good=record["status"] == "ok")
        for suffix, path in aside.items():
            path.replace(files.path(suffix))
    finally:
        for path in aside.values():
            path.unlink(missing_ok=True)


def last_good(files: Files) -> Path | None:
    """Return where the last good report is, or will be once a failed run has been written."""
    record = read_record(files)
    kept = files.path(".html", last_good=True)
    good_now = record is not None and record.get("status") == "ok"
    return kept if good_now or kept.is_file() else None


def write_elsewhere(files: Files, record: dict[str, Any], *, ipynb: str, html: str) -> Path:
    """Leave a run in the system's temporary folder when its own place cannot be written.

    Returns: the folder. Raises: OSError if that is full too.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"lab-{files.tenant.slug}-{files.notebook}-"))
    for suffix, text in zip(SUFFIXES, (ipynb, html, _as_json(record)), strict=True):
        write_whole(folder / f"{files.notebook}{suffix}", text)
    return folder


def _keep_last_good(files: Files, *, new_is_good: bool) -> None:
    old = read_record(files)
    for suffix in SUFFIXES:
        kept = files.path(suffix, last_good=True)
        if new_is_good:
            kept.unlink(missing_ok=True)
        elif old is not None and old.get("status") == "ok" and files.path(suffix).is_file():
            # A copy, not a move: the good report stays in place until the new one is there.
            spare = write_aside(files.tenant.reports, files.path(suffix).read_bytes())
            try:
                shutil.copystat(files.path(suffix), spare)
                spare.replace(kept)
            finally:
                spare.unlink(missing_ok=True)


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, indent=1)


def _file_digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
