"""Whether a tenant's words stand anywhere that belongs to another tenant.

Owns the strings that are looked for, the places, and the share of probes without a leak. Reads what
belongs to others only to see whether a string is in it, and knows nothing of it afterwards.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.ledger import Ledger
from lab.slo import Limit, Metric
from lab.tenants import Tenant

if TYPE_CHECKING:
    from lab.corpus import Corpus

LEAST_CHARS = 12  # of a string that is looked for; shorter ones two tenants may share by chance
CANARIES = 100
_FIELDS = {
    "faq": ("question", "answer"),
    "images": ("description",),
    "speech": ("text",),
    "joint": ("text", "answer"),
}
_PART = 1 << 24  # bytes of a file that are held at a time


@dataclass(frozen=True)
class Leak:
    """A tenant's string in a place of another's.

    Attributes:
        owner: of the string.
        tenant: in whose place it stands.
        place: file, relative to the project, or ``ledger``.
        string: what was found.
    """

    owner: str
    tenant: str
    place: str
    string: str


@dataclass(frozen=True)
class Probed:
    """What was looked for, and found.

    Attributes:
        strings: looked for.
        places: looked into.
        leaks: what was found where.
    """

    strings: int
    places: int
    leaks: tuple[Leak, ...]

    def metric(self, limit: Limit) -> Metric:
        """Return the share of probes without a leak; a probe is one string in one place."""
        n = self.strings * self.places
        return Metric.judged(
            "isolation",
            1 - len(self.leaks) / n if n else math.nan,
            unit="share",
            n=n,
            # Every string was looked for in every place: nothing was sampled.
            ci=None,
            limit=limit,
        )


def canaries(corpus: Corpus, *, seed: int, most: int = CANARIES) -> tuple[str, ...]:
    """Return strings of a tenant's corpus that should stand nowhere else.

    Args:
        corpus: the tenant's.
        seed: of the choice.
        most: strings.
    """
    found: dict[str, None] = {}
    for table, fields in _FIELDS.items():
        if table in corpus.tables:
            rows = corpus.tables[table].select_columns(list(fields))[:]
            for name in fields:
                found |= dict.fromkeys(text for text in rows[name] if len(text) >= LEAST_CHARS)
    every = list(found)
    order = np.random.default_rng(seed).permutation(len(every))
    return tuple(every[at] for at in order[:most])


def probe(
    strings: Sequence[str], *, owner: Tenant, others: Mapping[Tenant, Path], ledger: Ledger
) -> Probed:
    """Look for a tenant's strings in the notebooks, reports, caches and ledger of others.

    What stands in another tenant's own data is no leak: two shops may say the same.

    Args:
        strings: of the owner.
        owner: whose they are.
        others: tenants, and the folder of each one's data.
        ledger: of all.
    """
    places, leaks = 0, []
    own = [one for one in strings if one]
    for other, data in others.items():
        theirs = _within(own, _files(data, ("json", "csv", "yaml")))
        theirs |= _within(own, [other.params_file])
        wanted = [one for one in own if one not in theirs]
        for path in _files(other.reports, None) + _files(other.cache, None):
            places += 1
            name = path.relative_to(other.root).as_posix()
            leaks += [
                Leak(owner.slug, other.slug, name, one) for one in sorted(_within(wanted, [path]))
            ]
        places += 1
        view = " ".join(str(one) for one in ledger.of_tenant(other.slug))
        leaks += [Leak(owner.slug, other.slug, "ledger", one) for one in wanted if one in view]
    return Probed(len(own), places, tuple(leaks))


def _files(folder: Path, suffixes: Sequence[str] | None) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and (suffixes is None or path.suffix.lstrip(".") in suffixes)
    )


def _within(strings: Sequence[str], paths: Sequence[Path]) -> set[str]:
    """Return the strings that stand in files, as they are or as HTML or JSON write them."""
    forms = {one: {form.encode() for form in _written(one)} for one in strings}
    longest = max((len(form) for some in forms.values() for form in some), default=0)
    found: set[str] = set()
    for path in paths:
        try:
            with path.open("rb") as file:
                before = b""
                while part := file.read(_PART):
                    text = before + part
                    found |= {
                        one
                        for one, some in forms.items()
                        if one not in found and any(form in text for form in some)
                    }
                    before = text[-longest:] if longest else b""
        except OSError:
            continue  # it went away meanwhile, or was never for this user to read
    return found


def _written(text: str) -> Iterator[str]:
    yield text
    yield html.escape(text)
    yield html.escape(text, quote=False)
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
