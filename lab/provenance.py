"""Where a result comes from: commit, data, models, seed, device and versions.

Owns the record that goes with every result. Knows nothing of what the result is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import machine


def collect(
    root: Path, *, data: str, seed: int, models: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the provenance of a result as ``metrics.json`` holds it.

    Args:
        root: the project folder, whose commit is told.
        data: fingerprint of the tenant's corpus, ``sha256:...``.
        seed: seed of every random choice.
        models: digest by role; empty where no model took part.
    """
    return {
        "commit": commit(root),
        "data": data,
        "models": dict(models or {}),
        "seed": seed,
        "device": machine.device(),
        "machine": machine.description(),
        "versions": machine.versions(),
    }


def commit(root: Path) -> str:
    """Return the commit checked out at ``root``, with ``+changes`` if tracked files differ from it.

    ``unknown`` outside a git checkout or without git.
    """
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def _git(root: Path, *words: str) -> str:
    answer = subprocess.run(  # noqa: S603 (fixed arguments)
        ["git", "-C", str(root), *words],  # noqa: S607 (git is found on the PATH, as a person would)
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return answer.stdout.strip()
