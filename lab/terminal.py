"""What a person sees in a terminal: consoles and progress bars, the same for every command.

Owns their looks. Knows nothing of commands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# Into a file or a pipe nothing is folded: whoever reads it there searches for whole lines.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False)
_FIGURE = re.compile(r"\d+\.\d+")


def short(path: Path, root: Path) -> str:
    """Return a path as it is told: relative to the project where it lies in it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@contextmanager
def bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress(stage, done, total) that draws a bar on a terminal, and lines elsewhere."""
    if not err.is_terminal:
        last: tuple[str, int] | None = None

        def lines(stage: str, done: int, total: int) -> None:
            nonlocal last
            quarter = 4 * done // total if total else 0
            # A figure in the stage's name, such as the loss, changes all the time.
            here = (_FIGURE.sub("", stage), quarter)
            if here != last:
                last = here
                text = f"{title}: {stage} {25 * quarter} %" if total else f"{title}: {stage}"
                err.print(Text(text))

        yield lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda stage, done, total: progress.update(
            task, description=f"{title}: {stage}", completed=done, total=total or None
        )
