"""A tenant's slug and the paths that belong to it.

Owns which folders a tenant has and the rule that nothing of a tenant leads out of them.
Knows nothing of what is in the files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lab.errors import MissingError, PathError, UsageError, message

ROOT_MARK = Path("params") / "lab.yaml"
MAX_PATH_BYTES = 1000  # the system's own limit lies at 4,096 for the whole path
_SLUG = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def find_root(start: Path | None = None) -> Path:
    """Return the nearest folder, from ``start`` upward, that holds ``params/lab.yaml``.

    ``LAB_ROOT`` in the environment overrides the search. Raises MissingError if there is none.
    """
    named = os.environ.get("LAB_ROOT")
    start = (Path(named) if named else start or Path.cwd()).resolve()
    for folder in [start] if named else [start, *start.parents]:
        if (folder / ROOT_MARK).is_file():
            return folder
    raise MissingError(
        message(
            f"a project folder must hold {ROOT_MARK}",
            got=str(start),
            remedy="run from the project folder, or set LAB_ROOT to it",
        )
    )


@dataclass(frozen=True)
class Tenant:
    """One tenant: its slug, and its folders under the project's root."""

    slug: str
    root: Path

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise UsageError(
                message(
                    "a tenant's name must start with a letter a-z and hold only a-z, 0-9, _ and -",
                    got=self.slug,
                    remedy="use the name of a file in params/tenants",
                )
            )

    @property
    def params_file(self) -> Path:
        """The tenant's own settings, ``params/tenants/<slug>.yaml``."""
        return self.root / "params" / "tenants" / f"{self.slug}.yaml"

    @property
    def reports(self) -> Path:
        """Where the tenant's notebooks, reports and metrics are written."""
        return self.root / "reports" / self.slug

    @property
    def cache(self) -> Path:
        """Where what was derived from the tenant's data is kept; safe to delete."""
        return self.root / ".cache" / self.slug


def known_tenants(root: Path) -> list[str]:
    """Return the slugs that have a file under ``params/tenants``, sorted."""
    return sorted(path.stem for path in (root / "params" / "tenants").glob("*.yaml"))


def contained(folder: Path, relative: str) -> Path:
    """Return ``folder / relative`` if that really is a plain file or folder name inside ``folder``.

    Refuses, before touching the disk, what could lead elsewhere: absolute paths, ``..``,
    backslashes, drive letters and URLs, empty and control characters; then, on the disk, any
    symbolic link among the parts below ``folder``. The file itself need not exist.

    Raises: PathError with the rule that was broken.
    """
    problem = path_problem(folder, relative)
    if problem:
        raise PathError(message(problem, got=relative, place=str(folder)))
    return folder / relative


def path_problem(folder: Path, relative: str) -> str | None:
    """Return the rule that ``relative`` breaks as a path inside ``folder``, or None."""
    if not relative.strip():
        return "must be a path inside the tenant's folder"
    if any(ord(char) < 32 or ord(char) == 127 for char in relative):
        return "must not hold control characters"
    if any("\ud800" <= char <= "\udfff" for char in relative):
        return "must be valid Unicode"
    if _URL.match(relative) or relative.startswith("//"):
        return "must be a path, not a URL or a drive"
    if "\\" in relative:
        return "must use / between folders"
    if len(relative.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"must be at most {MAX_PATH_BYTES} bytes long"
    parts = PurePosixPath(relative).parts
    if relative.startswith("/"):
        return "must be relative to the tenant's folder"
    if ".." in parts:
        return "must not contain .."
    if any(len(part.encode()) > 255 for part in parts):
        return "must have names of at most 255 bytes"
    here = folder
    for part in parts:
        here = here / part
        if here.is_symlink():
            return "must not be, or pass through, a symbolic link"
    return None
