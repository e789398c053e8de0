"""``lab models``: the suites and their checkpoints, as a person asks for them in a terminal.

Owns the words of these commands and the tables they print. Knows nothing of how a checkpoint is
found, read or pinned; every command is a thin wrapper around the modules below, which it imports
itself so that ``lab --help`` is quick. Exit codes are those of ``lab.cli``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lab.errors import LabError, UsageError, message, printable
from lab.tenants import find_root
from lab.terminal import bar, err, out

if TYPE_CHECKING:
    from lab.checkpoints import Checkpoint
    from lab.suites import Source, Suite

models_app = typer.Typer(
    help="See, check, measure, pin and train model suites.", no_args_is_help=True
)

SuiteName = Annotated[
    str | None, typer.Argument(metavar="[SUITE]", help="A suite; all if none is named.")
]


@models_app.command("list")
def models_list(suite: SuiteName = None) -> None:
    """Show a suite by role: what it is, how large, its digest; nothing is downloaded."""
    from lab import suites

    root = find_root()
    failed = False
    for name in [suite] if suite else suites.known(root):
        try:
            loaded = suites.load(name, root=root)
        except LabError as error:
            if suite:
                raise
            _tell_problem(name, error)
            failed = True
            continue
        failed = not _show(loaded, root) or failed
    if failed:
        raise SystemExit(1)


@models_app.command("pin")
def models_pin(
    suite: SuiteName = None,
    update: Annotated[
        bool, typer.Option("--update", help="Ask again for what is pinned already.")
    ] = False,
) -> None:
    """Write the commit hashes that the hub gives now into the suite's file."""
    from lab import suites

    root = find_root()
    failed = False
    for name in [suite] if suite else suites.known(root):
        pins = suites.pin(name, root=root, update=update)
        for one in pins:
            failed = failed or bool(one.problem)
            if one.problem:
                _tell_problem(f"{name}: {one.role}", one.problem)
                continue
            was = f" (was {one.before})" if one.before else ""
            _tell(f"{name}: {one.role}: {one.hub} pinned to {one.after}{was}")
        if not pins:
            _tell(f"{name}: nothing to pin")
    if failed:
        raise SystemExit(1)


@models_app.command("check")
def models_check(
    suite: Annotated[str, typer.Argument(metavar="[SUITE]", help="A suite.")] = "demo",
) -> None:
    """Load every role of a suite and answer one query of every kind in every language."""
    from lab import checkups

    root = find_root()
    with bar(f"checking {suite}") as progress:
        found = checkups.check(suite, root=root, progress=progress)
    table = Table(
        *("kind", "language", "asked", "answered"),
        title=f"suite {suite}",
        title_justify="left",
        box=None,
    )
    for one in found:
        answer = Text(one.problem, style="bold red") if one.problem else Text(one.answered)
        table.add_row(one.kind, one.language, Text(one.asked), answer)
    out.print(table)
    if any(one.problem for one in found):
        raise SystemExit(1)


@models_app.command("evaluate")
def models_evaluate(
    suite: Annotated[str, typer.Argument(metavar="[SUITE]", help="A suite.")] = "demo",
    role: Annotated[list[str] | None, typer.Option(help="A role; all if none is named.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the items.")] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Write the figures into the model cards.")
    ] = False,
) -> None:
    """Measure a suite against the demo suite's targets, on items never trained on."""
    from lab import cards, exams, machine

    root = find_root()
    failed = False
    for name, folder in _folders(suite, role or [], root):
        with bar(f"examining {name}") as progress:
            figures = exams.sit(name, folder, root=root, quick=quick, progress=progress)
        table = Table(
            *("what", "language", "value", "95 % interval", "n", "target", "verdict"),
            title=f"{suite}: {name}",
            title_justify="left",
            box=None,
        )
        for figure in figures:
            table.add_row(*cards.cells(figure))
            failed = failed or figure.verdict == "fail"
        out.print(table)
        if write:
            cards.write_figures(figures, folder, machine=machine.description())
    if failed:
        raise SystemExit(1)


@models_app.command("train-demo")
def models_train_demo(
    role: Annotated[str, typer.Argument(help="vlm, asr, clip or encoder.")],
    to: Annotated[
        Path | None, typer.Option(help="Folder of the suite; params/models/demo if not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of the optimizer; the recipe's if not given.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, items and dropout.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Processes that draw and speak.", min=1)] = 1,
) -> None:
    """Train a role of the demo suite; stopped and started again, it goes on."""
    from lab import demo_suite
    from lab.roles import ROLES

    if role not in ROLES:
        raise UsageError(message(f"ROLE must be one of {', '.join(ROLES)}", got=role))
    root = find_root()
    with bar(f"training {role}") as progress:
        trained = demo_suite.train(
            role,
            root=root,
            to=to or root / "params" / "models" / "demo",
            steps=steps,
            seed=seed,
            jobs=jobs,
            progress=progress,
        )
    _tell(
        f"{role}: trained for {len(trained.losses):,} steps in {trained.seconds / 60:.1f} min, "
        f"loss {trained.mean_loss(0.02):.3f} to {trained.mean_loss(-0.02):.3f}"
    )


def _folders(suite: str, roles: list[str], root: Path) -> list[tuple[str, Path]]:
    """Return the roles that are asked for, each with its folder."""
    from lab import suites

    sources = suites.load(suite, root=root).sources
    if unknown := [role for role in roles if role not in sources]:
        raise UsageError(message(f"--role must be one of {', '.join(sources)}", got=unknown[0]))
    return [(role, suites.locate(sources[role], root=root)) for role in roles or sources]


def _show(suite: Suite, root: Path) -> bool:
    """Print a suite's table, its problems and its warnings; return whether there is no problem."""
    table = Table(
        *("role", "architecture", "from", "parameters", "stored MB", "dtype", "digest", "memory"),
        title=f"suite {suite.name}",
        title_justify="left",
        box=None,
    )
    problems = []
    for source in suite.sources.values():
        try:
            with err.status(f"looking at {source.role}"):
                found = _look(source, root)
        except LabError as error:
            problems.append((source, error))
            cells = [Text("problem", style="bold red"), Text(str(source)), *[""] * 4]
        else:
            cells = _cells(source, found)
        table.add_row(source.role, *cells, Text(printable(source.memory)))
    out.print(table)
    for source, error in problems:
        _tell_problem(source.role, error)
    for warning in suite.warnings:
        out.print(Text("warning: ", style="yellow").append(warning, style="none"), soft_wrap=True)
    return not problems


def _look(source: Source, root: Path) -> Checkpoint | None:
    """Return what a source's files tell, or None if a hub's are not on this machine."""
    from lab import checkpoints, suites

    folder = suites.cached(source, root=root)
    if folder is None:
        return None
    return checkpoints.inspect(folder, role=source.role, cache=suites.digest_cache(root))


def _cells(source: Source, found: Checkpoint | None) -> list[Text | str]:
    if found is None:
        return [Text("not downloaded yet", style="yellow"), Text(str(source)), *[""] * 4]
    return [
        Text(printable(found.architecture)),
        Text(str(source)),
        f"{found.parameters / 1e6:,.1f} M",
        f"{found.stored_bytes / 1e6:,.1f}",
        ", ".join(found.dtypes),
        found.digest.removeprefix("sha256:")[:12],
    ]


def _tell(line: str) -> None:
    out.print(Text(line), soft_wrap=True)


def _tell_problem(what: str, error: LabError | str) -> None:
    for line in str(error).splitlines():
        text = Text("problem: ", style="bold red").append(f"{what}: {line}", style="none")
        out.print(text, soft_wrap=True)
