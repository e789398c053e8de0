"""The errors the lab raises on purpose, all of one family.

Owns the types and the one wording rule (rule, received value, place, remedy). Knows nothing of
what went wrong where; modules above fill that in. Everything else that escapes is a defect of ours.
"""

from __future__ import annotations

import unicodedata

_SHOWN_CHARS = 80


class LabError(Exception):
    """Base of every error that a person can act on; printed without a traceback."""


class ParameterError(LabError, ValueError):
    """A setting or an argument breaks its rule."""


class UsageError(ParameterError):
    """The command line asks for something that there is not."""


class ShapeError(LabError, ValueError):
    """An array or a table has another shape than the function needs."""


class PathError(LabError, ValueError):
    """A path leaves the folder it belongs to, or is of a kind that is never followed."""


class MissingError(LabError, FileNotFoundError):
    """A file, folder, package or program that is needed is not there."""


class ModelError(LabError, ValueError):
    """A checkpoint, or a suite of them, cannot be used as it is."""


class NumberError(LabError, ArithmeticError):
    """A model computes what is no number, or has no end."""


class CorpusError(LabError, ValueError):
    """A tenant's data cannot be used as it is."""


class LedgerError(LabError, RuntimeError):
    """The ledger cannot be opened, read or written."""


class ClusterError(LabError, RuntimeError):
    """Ray, or a device of its cluster, cannot be had or does not do as it should."""


class NotebookError(LabError, RuntimeError):
    """A notebook cannot be run, or did not come to its end."""


def shown(value: object) -> str:
    """Return a value as it may be printed: one line, at most 80 characters, nothing that acts.

    Control and format characters (ANSI escapes, bidirectional overrides, line breaks) and lone
    surrogates are written as their escapes, so that hostile text stays text in a terminal, a log
    and a report.
    """
    text = repr(value) if isinstance(value, str) else str(value)
    text = printable(text)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def printable(text: str) -> str:
    """Return text with every character that is not plainly visible written as its escape."""
    if text.isprintable() and text.isascii():
        return text
    return "".join(
        char
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in text
    )


def message(rule: str, *, got: object, place: str = "", remedy: str = "") -> str:
    """Word an error in the house's order: ``rule, got value (place); remedy``."""
    where = f" ({place})" if place else ""
    what_now = f"; {remedy}" if remedy else ""
    return f"{rule}, got {shown(got)}{where}{what_now}"
