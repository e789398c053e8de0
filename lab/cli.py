"""The command line: words in, progress and plain messages out, an exit code.

Owns what a person types and sees in a terminal; knows nothing of how it is done. Every command is
a thin wrapper around one call of the modules below; those are imported by the command that needs
them, so that ``lab --help`` is quick. Exit codes: 0 done, 1 something failed and was reported,
2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from lab.errors import CorpusError, LabError, UsageError, message, printable
from lab.ledger_commands import ledger_app
from lab.model_commands import models_app
from lab.tenants import find_root, known_tenants
from lab.terminal import bar, err, out, short

if TYPE_CHECKING:
    from lab.execute import Event, Outcome
    from lab.nodes import Override

app = typer.Typer(
    name="lab",
    help="Measure which quantization, pruning, batch size and runtime meet a tenant's limits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Make and check tenants' corpora.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(ledger_app, name="ledger")

_STATUS_STYLE = {"ok": "green", "reused": "cyan", "failed": "bold red", "interrupted": "yellow"}
_STATE_STYLE = {"ok": "green", "note": "yellow", "missing": "bold red"}

Tenants = Annotated[
    list[str] | None, typer.Argument(metavar="[TENANT]...", help="Tenants; all if none is named.")
]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Hold the options of every command; ``--debug`` is read by main."""


def main() -> None:
    """Run the command line; errors become one message and an exit code."""
    debug = "--debug" in sys.argv
    if debug:  # accepted anywhere on the line
        sys.argv.remove("--debug")
    try:
        app()
    except UsageError as error:
        _fail(error, 2, debug=debug)
    except LabError as error:
        _fail(error, 1, debug=debug)
    except KeyboardInterrupt:
        err.print("interrupted", style="yellow")
        raise SystemExit(1) from None
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more; say nothing about it
        raise SystemExit(1) from None
    except OSError as error:
        _fail(error, 1, debug=debug)


def _fail(error: BaseException, code: int, *, debug: bool) -> None:
    if debug:
        raise error
    lines = str(error).splitlines() or [type(error).__name__]
    err.print(Text("error: ", style="bold red").append(lines[0], style="none"), soft_wrap=True)
    for line in lines[1:]:
        err.print(Text(f"       {line}"), soft_wrap=True)
    raise SystemExit(code) from None


# --- lab data -------------------------------------------------------------------------------------


@data_app.command("make")
def data_make(
    tenants: Tenants = None,
    scale: Annotated[str, typer.Option(help="demo (a tenth) or full.")] = "demo",
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    defects: Annotated[bool, typer.Option("--defects", help="Plant realistic faults.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes; 0: as many as cores.", min=0)] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace data that was not made here.")
    ] = False,
) -> None:
    """Make demo corpora under data/; what is there already and unchanged is left alone."""
    from lab import grammar, machine, params, synthesis

    root = find_root()
    for tenant in tenants or [name for name in known_tenants(root) if name in grammar.tenants()]:
        resolved = params.load(tenant, root=root)
        scales = resolved.settings.synthesis.scales
        if scale not in scales:
            raise UsageError(message(f"--scale must be one of {', '.join(scales)}", got=scale))
        recipe = synthesis.Recipe(
            tenant=tenant,
            scale=scales[scale],
            seed=seed,
            defect_share=resolved.settings.synthesis.defect_share if defects else 0.0,
        )
        with bar(f"making {tenant}") as progress:
            made = synthesis.make(
                recipe,
                resolved.data_folder,
                jobs=jobs or machine.cores(),
                force=force,
                progress=progress,
            )
        counts = ", ".join(f"{count} {what}" for what, count in made.counts.items() if count)
        done = "made" if made.redone else "unchanged, nothing to do"
        out.print(Text(f"{tenant}: {done}: {counts} in {short(made.folder, root)}"))


@data_app.command("check")
def data_check(
    tenant: Annotated[str | None, typer.Argument(help="A tenant.")] = None,
    path: Annotated[
        Path | None, typer.Option(help="Check the corpus in this folder instead.")
    ] = None,
) -> None:
    """Check a corpus; print every problem as file:row: field: rule, got value; remedy."""
    from lab import corpus, params

    root = find_root()
    if (tenant is None) == (path is None):
        raise UsageError("name one tenant, or a folder with --path")
    resolved = params.load(tenant or known_tenants(root)[0], root=root)
    folder = path if path is not None else resolved.data_folder
    with bar(f"checking {tenant or path}") as progress:
        report = corpus.check(
            folder,
            data=resolved.settings.data,
            languages=resolved.settings.languages,
            progress=progress,
        )
    for problem in report.problems:
        out.print(Text(f"{short(folder, root)}/{problem}"), soft_wrap=True)
    rows = ", ".join(f"{count} rows in {table}" for table, count in report.rows.items())
    if report.problems:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        raise CorpusError(f"{len(report.problems)} problems ({kinds}); {rows}")
    out.print(Text(f"{short(folder, root)}: no problems; {rows}"), soft_wrap=True)


# --- lab run --------------------------------------------------------------------------------------


@app.command()
def run(
    tenants: Tenants = None,
    profile: Annotated[str, typer.Option(help="smoke, demo or full.")] = "demo",
    notebook: Annotated[
        list[str] | None, typer.Option(help="Name or number; may be given again; all if not given.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Notebooks at a time; execution.jobs if not given.", min=1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run also what is up to date.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be given again."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Ray cluster: host:port, ray://host:port or auto; if not given, RAY_ADDRESS, "
            "ray.address, or a Ray of this machine.",
        ),
    ] = None,
    workflow: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run what this workflow leads to, such as params/tune_workflow.yaml, with what it "
            "sets; it chooses the notebooks, so not with --notebook. --set overrides it.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be used, and whence; run nothing.")
    ] = False,
) -> None:
    """Run notebooks and write their reports; what is up to date is reused."""
    from lab import execute, runs

    root = find_root()
    if workflow is not None and notebook:
        raise UsageError(
            message(
                "--workflow chooses the notebooks itself",
                got=f"--notebook {notebook[0]} too",
                remedy="leave one of them out",
            )
        )
    chosen = execute.choose(notebook or [], runs.notebooks(root))
    names = list(dict.fromkeys(tenants or known_tenants(root)))

    def carry_out(asked: Mapping[tuple[str, str], Sequence[str]] | None) -> list[Outcome]:
        books = chosen if asked is None else sorted({book for _, book in asked})
        with _run_progress() as show:
            batch = execute.Batch(
                root=root,
                tenants=names,
                notebooks=books,
                profile=profile,
                overrides=set_ or [],
                jobs=jobs,
                force=force,
                ray_address=ray_address,
                show=show,
                asked=asked,
            )
            return batch.run()

    if workflow is not None:
        _follow(workflow, names, profile, set_ or [], root, None if dry_run else carry_out)
        return
    if dry_run:
        for tenant in names:
            _show_settings(tenant, profile, set_ or [], chosen, root)
        return
    _conclude(carry_out(None), root)


def _conclude(outcomes: Sequence[Outcome], root: Path, *, failed: bool = False) -> None:
    """Write the indexes and say how it went; exit with 1 if something failed."""
    index = _write_indexes(root)
    good = [one for one in outcomes if one.status not in ("failed", "interrupted")]
    text = f"{len(good)} of {len(outcomes)} reports are good; open {index}"
    out.print(Text(text), soft_wrap=True)
    if failed or len(good) < len(outcomes):
        raise SystemExit(1)


def _follow(
    file: Path,
    tenants: Sequence[str],
    profile: str,
    overrides: list[str],
    root: Path,
    carry_out: Callable[[Mapping[tuple[str, str], Sequence[str]]], list[Outcome]] | None,
) -> None:
    """Run what a workflow leads to, or without ``carry_out`` only show it."""
    from lab import stages
    from lab import workflow as files

    flow = files.load(file, shown_as=printable(short(file.resolve(), root)))
    for note in flow.notes:
        out.print(Text(printable(note)), soft_wrap=True)
    found = stages.examine(flow, tenants, profile=profile, overrides=overrides, root=root)
    outcomes: list[Outcome] = []

    def run(asked: stages.Asked) -> list[tuple[str, str]]:
        if carry_out is None:
            return []
        if any(one.status == "interrupted" for one in outcomes):
            tell("interrupted: nothing more is run")
            return list(asked)
        ended = carry_out({name: [*map(str, given)] for name, given in asked.items()})
        outcomes.extend(ended)
        bad = [one for one in ended if one.status in ("failed", "interrupted")]
        return [(one.tenant, one.notebook) for one in bad]

    def tell(text: str) -> None:
        out.print(Text(printable(text)), soft_wrap=True)

    course = stages.follow(flow, found, carry_out=run, tell=tell)
    if carry_out is not None:
        if flow.monitor:
            _show_watched(flow.monitor.metrics, outcomes, root)
        _conclude(outcomes, root, failed=bool(course.failed))
        return
    for tenant in tenants:
        own = {book: given for (slug, book), given in course.asked.items() if slug == tenant}
        if own:
            _show_settings(tenant, profile, overrides, list(own), root, own)
    if course.failed:
        raise SystemExit(1)


def _show_watched(metrics: Sequence[str], outcomes: Sequence[Outcome], root: Path) -> None:
    """Count the verdicts of the figures that a workflow watches."""
    from lab import indexes, runs
    from lab.tenants import Tenant

    verdicts = ("pass", "fail", "insufficient")
    table = Table("tenant", "watched", "figures", *verdicts, "no limit", box=None)
    for tenant in dict.fromkeys(one.tenant for one in outcomes):
        records = [
            record
            for one in outcomes
            if one.tenant == tenant
            for record in indexes.read_entry(runs.Files(Tenant(tenant, root), one.notebook)).metrics
        ]
        for name in metrics:
            mine = [record["verdict"] for record in records if record["name"] == name]
            counts = [str(mine.count(one)) for one in (*verdicts, None)]
            table.add_row(tenant, name, str(len(mine)), *counts)
    if table.row_count:
        out.print(table)


@app.command()
def report() -> None:
    """Rebuild the tenants' and the global index from the reports that are there."""
    out.print(Text(str(_write_indexes(find_root()))), soft_wrap=True)


def _write_indexes(root: Path) -> Path:
    from lab import indexes, runs

    indexes.write_indexes(root, tenants=known_tenants(root), notebooks=runs.notebooks(root))
    return root / "reports" / "index.html"


def _show_settings(
    tenant: str,
    profile: str,
    overrides: list[str],
    notebooks: list[str],
    root: Path,
    own: Mapping[str, Sequence[Override]] | None = None,
) -> None:
    """Print every setting with the place it comes from, the notebooks' parameters last.

    ``own`` is what a workflow sets for each notebook.
    """
    from lab import params, runs

    def resolve(notebook: str) -> tuple[params.Resolved, dict[str, str]]:
        given = (own or {}).get(notebook, ())
        texts = [*map(str, given), *overrides]
        resolved = params.load(tenant, profile=profile, overrides=texts, root=root)
        return resolved, {**resolved.origins, **{one.key: one.place for one in given}}

    table = Table("setting", "value", "from", title=f"{tenant}, profile {profile}", box=None)
    resolved, origins = resolve(notebooks[0] if notebooks else "")
    values = resolved.settings.model_dump(mode="json", exclude={"notebooks"})
    for path, value in _flatten(values):
        table.add_row(path, Text(str(value)), origins.get(path, "default"))
    for notebook in notebooks:
        resolved, origins = resolve(notebook)
        given = params.notebook_parameters(resolved, notebook)
        for name, value in {**runs.declared(root, notebook), **given}.items():
            origin = origins.get(f"notebooks.{notebook}.{name}")
            if origin is None:
                origin = origins.get(name, "command line" if name in given else notebook)
            table.add_row(f"{notebook}: {name}", Text(str(value)), origin)
    out.print(table)


def _flatten(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# --- lab doctor -----------------------------------------------------------------------------------


@app.command()
def doctor() -> None:
    """Say what this machine has and lacks, and what follows."""
    from lab import machine

    table = Table("what", "found", "what follows", box=None)
    findings = machine.examine(find_root())
    for finding in findings:
        style = _STATE_STYLE[finding.state]
        table.add_row(finding.what, Text(finding.found, style=style), Text(finding.follows))
    out.print(table)
    if any(finding.state == "missing" for finding in findings):
        raise SystemExit(1)


# --- progress -------------------------------------------------------------------------------------


@contextmanager
def _run_progress() -> Iterator[Callable[[Event], None]]:
    """Give the ``show`` of a batch: a line for what ended, a bar for what runs."""
    if not err.is_terminal:
        yield lambda event: _print_event(event, cells=True)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("cell {task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        bars: dict[tuple[str, str], TaskID] = {}

        def show(event: Event) -> None:
            name = (event.tenant, event.notebook)
            if event.kind == "started":
                bars[name] = progress.add_task(f"{event.tenant} {event.notebook}", total=1)
            elif event.kind == "cell" and name in bars:
                progress.update(bars[name], completed=event.cell - 1, total=event.cells)
            elif event.kind == "finished" and name in bars:
                progress.remove_task(bars.pop(name))
            _print_event(event, cells=False)

        yield show


def _print_event(event: Event, *, cells: bool) -> None:
    line = Text(f"{event.tenant}  {event.notebook}  ")
    if event.kind == "cell":
        if cells:
            line.append(f"cell {event.cell}/{event.cells}  {event.seconds:.0f} s")
            err.print(line)
        return
    if event.kind == "planned":
        return
    if event.kind == "finished" and event.status:
        line.append(event.status, style=_STATUS_STYLE[event.status])
        if event.seconds:
            line.append(f"  {event.seconds:.0f} s")
    else:
        line.append("running" if event.kind == "started" else event.kind)
    first, *more = event.text.splitlines() or [""]
    err.print(line.append(f"  {printable(first)}" if first else ""), soft_wrap=True)
    for text in more:
        err.print(Text(f"    {printable(text)}"), soft_wrap=True)
