"""``lab ledger``: what was measured so far, as a person asks for it in a terminal.

Owns the words of these commands and the table they print. Knows nothing of how results are kept or
laid out; every command is a thin wrapper around the modules below, which it imports itself so that
``lab --help`` is quick. Exit codes are those of ``lab.cli``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lab.errors import printable
from lab.tenants import find_root, known_tenants
from lab.terminal import err, out

if TYPE_CHECKING:
    from lab.trials import TrialResult

ledger_app = typer.Typer(help="See and export what was measured.", no_args_is_help=True)

Profile = Annotated[str, typer.Option(help="Of the settings, should one name another ledger.")]


@ledger_app.command("show")
def ledger_show(profile: Profile = "demo") -> None:
    """Count the results by tenant and status."""
    from lab.ledger import Ledger

    root = find_root()
    for url in _urls(known_tenants(root), profile, root):
        with Ledger(url, root=root) as ledger:
            found = ledger.statuses()
        columns = dict.fromkeys(status for counts in found.values() for status in counts)
        table = Table("tenant", *columns, "all", box=None)
        for tenant, counts in found.items():
            cells = [str(counts.get(status, 0)) for status in columns]
            table.add_row(Text(printable(tenant)), *cells, str(sum(counts.values())))
        out.print(Text(f"{printable(url)}{'' if found else ': no results yet'}"), soft_wrap=True)
        if found:
            out.print(table)


@ledger_app.command("export")
def ledger_export(
    to: Annotated[Path, typer.Option(help="A .parquet file; replaced if it is there.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's results.")] = None,
    profile: Profile = "demo",
) -> None:
    """Write results to a Parquet file, a row for each; exit 1 if there are none."""
    from lab import exports

    root = find_root()
    urls = _urls([tenant] if tenant else known_tenants(root), profile, root)
    with err.status(f"writing {printable(str(to))}"):
        count = exports.write(_results(urls, tenant, root), to)
    out.print(Text(f"{printable(str(to))}: {count:,} results"), soft_wrap=True)


def _urls(tenants: list[str], profile: str, root: Path) -> list[str]:
    """Return the ledgers of tenants, each once; mostly all have the same."""
    from lab import params

    loaded = (params.load(tenant, profile=profile, root=root) for tenant in tenants)
    return list(dict.fromkeys(resolved.settings.ledger for resolved in loaded))


def _results(urls: list[str], tenant: str | None, root: Path) -> Iterator[TrialResult]:
    from lab.ledger import Ledger

    for url in urls:
        with Ledger(url, root=root) as ledger:
            yield from ledger.results(tenant)
