"""The indexes: a scorecard of each tenant, and one page over all of them.

Owns what is read from the runs' metrics.json files, and how those that cannot be relied on are told
of. Knows nothing of how a notebook or its report came about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lab import pages, params, runs, slo
from lab.errors import LabError
from lab.files import write_whole
from lab.markup import one_line
from lab.tenants import Tenant

if TYPE_CHECKING:
    from markupsafe import Markup

_MAX_RECORD_BYTES = 20_000_000


@dataclass(frozen=True)
class Entry:
    """What an index knows of one notebook of one tenant."""

    notebook: str
    state: pages.State
    explanation: str
    metrics: tuple[Mapping[str, Any], ...] = ()
    started: datetime | None = None
    error: str = ""
    files: tuple[tuple[str, str], ...] = ()  # (what it is, link)

    @property
    def title(self) -> str:
        """The notebook's name as a reader writes it."""
        return pages.title(self.notebook)

    @property
    def unmet(self) -> list[Mapping[str, Any]]:
        """The figures that fail or cannot be decided."""
        return [one for one in self.metrics if one.get("verdict") in ("fail", "insufficient")]

    @property
    def page(self) -> str | None:
        """The link to the report, if there is one."""
        return dict(self.files).get("report")


def write_indexes(
    root: Path,
    *,
    tenants: Sequence[str],
    notebooks: Sequence[str],
    now: datetime | None = None,
) -> None:
    """Write ``reports/<tenant>/index.html`` for each tenant, then ``reports/index.html``.

    Everything is read from the metrics.json files that are there. One that is missing, torn or of
    another tenant or notebook is shown as such. Each page is replaced whole or not at all.

    Args:
        root: the project folder.
        tenants: slugs, in the order of the rows.
        notebooks: names without suffix, in the order of the columns.
        now: the time from which ages are counted.
    Raises: OSError if a page cannot be written.
    """
    now = now or datetime.now(UTC)
    rows, written = [], {}
    for slug in tenants:
        tenant = Tenant(slug, root)
        entries = [read_entry(runs.Files(tenant, notebook)) for notebook in notebooks]
        row = {
            "slug": slug,
            "names": _tenant_names(tenant),
            "entries": entries,
            "state": _tenant_state(entries),
            "explanation": _tenant_explained(entries),
        }
        rows.append(row)
        written[tenant.reports] = pages.template("tenant.html").render(
            **row, unmet_table=_unmet_table, now=now
        )
    written[root / "reports"] = pages.template("index.html").render(
        rows=rows, notebooks=notebooks, now=now
    )
    for folder, page in written.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "index.html", page)


def read_entry(files: runs.Files) -> Entry:
    """Return what there is of one notebook of one tenant; never raises for what the files hold."""
    links = tuple(_links(files))
    path = files.path(".metrics.json")
    try:
        record = _read_json(path)
    except FileNotFoundError:
        return Entry(files.notebook, "not run", "Not run yet.", files=links)
    except (OSError, ValueError, RecursionError) as error:
        text = f"{path.name} cannot be read ({type(error).__name__}). Run the notebook again."
        return Entry(files.notebook, "unreadable", text, files=links)
    problem = _record_problem(record, files)
    if problem:
        text = f"{path.name} is not used: {problem}. Run the notebook again."
        # What the other files hold is as doubtful as this one, perhaps another tenant's.
        return Entry(files.notebook, "unreadable", text)
    started = pages.timestamp(record.get("started"))
    if record["status"] != "ok":
        return Entry(
            files.notebook,
            "failed run",
            "The latest run failed: no verdict.",
            started=started,
            error=one_line(str(record.get("error", ""))),
            files=links,
        )
    metrics = pages.metric_records(record)
    return Entry(
        files.notebook,
        pages.state(metrics),
        pages.explained(metrics),
        metrics=tuple(metrics),
        started=started,
        files=links,
    )


def _tenant_state(entries: Sequence[Entry]) -> pages.State:
    states = [entry.state for entry in entries]
    judged = [state for state in states if state in ("pass", "fail", "insufficient")]
    worst = slo.overall(judged)
    if worst == "fail":
        return "fail"
    if any(state not in ("pass", "insufficient", "no limit") for state in states) or not states:
        return "incomplete"
    return worst or "no limit"


def _tenant_explained(entries: Sequence[Entry]) -> str:
    parts = []
    metrics = [metric for entry in entries for metric in entry.metrics]
    if any(metric.get("verdict") for metric in metrics):
        parts.append(pages.explained(metrics))
    for state, words in (
        ("failed run", "failed"),
        ("not run", "not run yet"),
        ("unreadable", "not readable"),
    ):
        count = sum(entry.state == state for entry in entries)
        if count:
            parts.append(f"{count} of {len(entries)} notebooks {words}.")
    return " ".join(parts) or "Nothing has been measured against a limit."


def _unmet_table(entry: Entry) -> Markup | None:
    return pages.figures(entry.unmet, caption="Limits that are not met, or undecided")


def _read_json(path: Path) -> Any:
    with path.open("rb") as file:
        raw = file.read(_MAX_RECORD_BYTES + 1)
    if len(raw) > _MAX_RECORD_BYTES:
        raise ValueError
    return json.loads(raw)


def _record_problem(record: object, files: runs.Files) -> str | None:
    """Return why a record is not that of this notebook and tenant, or None."""
    if not isinstance(record, dict) or record.get("schema") != runs.SCHEMA:
        return f"it is not a record of schema {runs.SCHEMA}"
    # Neither name is repeated: it may be one that the readers of this page should not see.
    if record.get("tenant") != files.tenant.slug:
        return "it belongs to another tenant"
    if record.get("notebook") != files.notebook:
        return "it belongs to another notebook"
    if record.get("status") not in ("ok", "failed"):
        return "its status is neither ok nor failed"
    metrics = record.get("metrics")
    if not isinstance(metrics, list) or not all(map(_is_metric, metrics)):
        return "its figures are not in the form of the lab"
    return None


def _is_metric(metric: object) -> bool:
    return (
        isinstance(metric, dict)
        and isinstance(metric.get("name"), str)
        and metric.get("verdict") in ("pass", "fail", "insufficient", None)
    )


def _links(files: runs.Files) -> Iterator[tuple[str, str]]:
    names = {".html": "report", ".ipynb": "notebook", ".metrics.json": "figures as JSON"}
    for last_good in (False, True):
        for suffix, name in names.items():
            path = files.path(suffix, last_good=last_good)
            if path.is_file():
                yield (f"last good {name}" if last_good else name, quote(path.name))


def _tenant_names(tenant: Tenant) -> list[tuple[str, str]]:
    """Return (language tag, name) as the tenant's readers write it, or its slug alone."""
    try:
        title = params.load(tenant.slug, root=tenant.root).settings.title
    except LabError:
        title = None
    if title is None:
        return [("en", tenant.slug)]
    names = {title.en: "en"}
    # One name may serve two languages (教育), and is then shown once.
    for tag, name in (("zh-Hans", title.zh), ("ja", title.ja)):
        names.setdefault(name, tag)
    return [(tag, name) for name, tag in names.items()]
