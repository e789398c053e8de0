"""Files that are there whole or not at all.

Owns how content gets to its place: written aside in the same folder, synced, then renamed. Knows
nothing of what is written or where it belongs.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Put content in its place; whoever reads there finds the old or the new, never a part.

    Args:
        path: replaced if it is there; its folder must be there.
        content: see `write_aside`.
        mode: permissions of the file, whatever the umask.
    Raises: OSError if it cannot be written; the old file stands then, and nothing is left beside.
    """
    with replacing(path, mode=mode) as file:
        file.write(_raw(content))


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Give a file to write that takes its place at the end, for what is too large to be held.

    Arguments and errors as of `write_whole`; whatever is raised inside leaves the old file too.
    """
    with _aside(path.parent, mode) as (aside, file):
        yield file
    try:
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_aside(folder: Path, content: str | bytes, *, mode: int = 0o644) -> Path:
    r"""Write and sync a file, ``.writing-*``, that waits in a folder for its caller to rename it.

    Text becomes UTF-8, its line ends as they are. Lone surrogates, which UTF-8 lacks, are written
    as their escapes (``\ud800``): inside JSON that is the same character, elsewhere it is legible.

    Returns: the file, which is the caller's to rename or delete.
    Raises: OSError if it cannot be written; nothing is left then.
    """
    with _aside(folder, mode) as (path, file):
        file.write(_raw(content))
    return path


def _raw(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


@contextlib.contextmanager
def _aside(folder: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file, which is synced at the end, or deleted if anything is raised."""
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield path, file
            file.flush()
            os.fsync(file.fileno())
        path.chmod(mode)
    except BaseException:  # Ctrl-C too
        path.unlink(missing_ok=True)
        raise
