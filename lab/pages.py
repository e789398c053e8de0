"""What all pages share: the templates; verdicts, names and times in words.

Owns the escaping of every text that goes into a template. Every page stands alone: no remote
reference, no script, and a content security policy that would stop one. Knows nothing of what a
single page shows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab import slo, tables
from lab.errors import printable

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

State = Literal[
    "pass", "fail", "insufficient", "no limit", "failed run", "not run", "unreadable", "incomplete"
]


def metric_records(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the figures of a run's record, none if it has none."""
    return list(record.get("metrics") or [])


def state(metrics: Iterable[Mapping[str, Any]]) -> State:
    """Return the verdict over all figures."""
    return slo.overall(metric.get("verdict") for metric in metrics) or "no limit"


def explained(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Say in a sentence or two how many limits are met."""
    verdicts = [metric.get("verdict") for metric in metrics]
    judged = sum(verdict is not None for verdict in verdicts)
    fails, open_ones = verdicts.count("fail"), verdicts.count("insufficient")
    if not judged:
        return "No limit is set for what was measured here."
    undecided = f"{open_ones} of {judged} cannot be decided yet: more data needed."
    if fails:
        text = f"{fails} of {judged} limits {'is' if fails == 1 else 'are'} not met."
        return f"{text} {undecided}" if open_ones else text
    if open_ones:
        return undecided
    return f"All {judged} limits are met." if judged > 1 else "The one limit is met."


def figures(metrics: Sequence[Mapping[str, Any]], *, caption: str) -> Markup | None:
    """Return figures as a table, or None if there are none."""
    from markupsafe import Markup

    if not metrics:
        return None
    # Our own markup, escaped where it is made.
    return Markup(tables.metric_table(metrics, caption=caption).markup)  # noqa: S704


def words(name: str) -> str:
    """Return a name without its number, in words: ``01_data_analysis`` is data analysis."""
    return re.sub(r"^\d+_", "", name).replace("_", " ")


def title(notebook: str) -> str:
    """Return a notebook's name as a reader writes it."""
    text = words(notebook)
    return text[:1].upper() + text[1:]


def template(name: str) -> jinja2.Template:
    """Return one of the templates; whatever text is put into it is escaped, and nothing acts."""
    return _environment().get_template(name)


def timestamp(text: object) -> datetime | None:
    """Return an ISO time with its zone, or None for anything else."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        return moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _moment(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _age(moment: datetime, now: datetime) -> str:
    seconds = (now - moment).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        count = int(seconds // size)
        if count >= 1:
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        )

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(age=_age, moment=_moment, title_of=title)
    return environment
