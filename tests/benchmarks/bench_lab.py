"""The figures that the README claims, measured on this machine: ``make bench``.

Everything happens in a temporary copy of the project, so that nobody's data is touched. Each line
is one command of the lab with its wall time and the peak of the resident memory of all its
processes together, sampled every 50 ms. One run each: the figures say what to expect, not which of
two versions is faster. At the end two further benchmarks: what the lab's own code costs a request,
which decides the exit code, and how long the analysis of many rows takes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from lab import machine
from lab.tenants import known_tenants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAB = Path(sys.executable).with_name("lab")


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and everything below it, now."""
    total = 0
    try:
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        pass
    return total


def measure(title: str, words: list[str], cwd: Path) -> None:
    """Run one command and print its wall time and peak memory."""
    began = time.perf_counter()
    process = subprocess.Popen(
        words,
        cwd=cwd,
        env={**os.environ, "LAB_ROOT": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, tree_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    seconds = time.perf_counter() - began
    status = "" if process.returncode == 0 else f"  exit {process.returncode}"
    print(f"{title:<52} {seconds:8.1f} s {peak / 1e6:8.0f} MB{status}", flush=True)
    if process.returncode:
        print(output[-2000:])


def best_of(times: int, words: list[str], cwd: Path) -> float:
    """Return the shortest wall time of several runs of a command, in seconds."""
    shortest = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, "LAB_ROOT": str(cwd)},
            check=True,
            capture_output=True,
        )
        shortest = min(shortest, time.perf_counter() - began)
    return shortest


def main() -> None:
    """Measure each claim once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="full", choices=["demo", "full"])
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="FAQ rows of the large analysis"
    )
    arguments = parser.parse_args()
    lab = str(LAB)
    print(machine.description())
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        project = Path(folder)
        for name in ("params", "notebooks"):
            shutil.copytree(ROOT / name, project / name)
        shutil.copy(ROOT / "constraints.txt", project)
        scale = arguments.scale
        for tenant in known_tenants(project):
            words = [lab, "data", "make", tenant, "--scale", scale, "--defects"]
            measure(f"lab data make {tenant} --scale {scale} --defects", words, project)
        for tenant in known_tenants(project):
            measure(f"lab data check {tenant}", [lab, "data", "check", tenant], project)
        run = [lab, "run", "--profile", scale, "--notebook", "01_data_analysis"]
        measure(f"{' '.join(['lab', *run[1:]])} (3 tenants)", run, project)
        measure("the same again, nothing changed", run, project)
        bare = [sys.executable, "-c", "pass"]
        started = best_of(5, bare, project)
        seconds = best_of(5, [sys.executable, "-c", "import lab"], project) - started
        print(f"{'import lab (best of 5, less the bare interpreter)':<52} {seconds:8.3f} s")
        overhead = subprocess.run(
            [sys.executable, str(HERE / "bench_overhead.py"), "--root", str(project)], check=False
        )
    analysis = HERE / "bench_analysis.py"
    subprocess.run([sys.executable, str(analysis), "--rows", str(arguments.rows)], check=True)
    sys.exit(overhead.returncode)


if __name__ == "__main__":
    main()
