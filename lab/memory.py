"""How much memory something took while it ran.

Owns reading the system's own account of the highest point, of this process or of the GPU's
allocator, and what tells that there was not enough. Knows nothing of what ran.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_RESET_PEAK = "5"  # of proc(5), clear_refs


@dataclass
class Peak:
    """Bytes held beyond those held before; None until known, or if the system does not tell.

    Attributes:
        taken: the most at once.
        kept: when it was over.
    """

    taken: int | None = None
    kept: int | None = None


@contextmanager
def watch(device: str = "cpu", *, proc: Path = Path("/proc/self")) -> Iterator[Peak]:
    """Watch a stretch of work.

    On a CPU it is the resident memory of the process; what was free before is given back first, so
    that filling it again counts. Other threads count too.

    Args:
        device: cpu, cuda or cuda:N.
        proc: where the system tells of this process.
    Yields: the peak, which is known when the stretch is over, also one that failed.
    """
    peak = Peak()
    on_gpu = device.startswith("cuda")
    before = _start_on_gpu(device) if on_gpu else _start(proc)
    try:
        yield peak
    finally:
        highest = _highest_on_gpu(device) if on_gpu else _read(proc, "VmHWM")
        after = _held_on_gpu(device) if on_gpu else _held(proc)
        if None not in (before, highest, after):
            peak.taken, peak.kept = max(0, highest - before), max(0, after - before)


def ran_out(error: BaseException | None) -> bool:
    """Tell whether an error, or what it came from, says that there was no memory left."""
    import torch

    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        # A CPU's allocator only says so in words.
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            return True
        error = error.__cause__
    return False


def _start(proc: Path) -> int | None:
    held = _held(proc)
    try:
        (proc / "clear_refs").write_text(_RESET_PEAK)
    except OSError:  # another system, or one that does not allow it
        return None
    return held


def _held(proc: Path) -> int | None:
    """Return the resident memory, once what is free was given back."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # another system
        return None
    return _read(proc, "VmRSS")


def _read(proc: Path, name: str) -> int | None:
    try:
        for line in (proc / "status").read_text("ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _start_on_gpu(device: str) -> int:
    import torch

    torch.cuda.init()  # before it there are no figures to reset
    held = _held_on_gpu(device)
    torch.cuda.reset_peak_memory_stats(device)
    return held


def _held_on_gpu(device: str) -> int:
    import torch

    gc.collect()
    return torch.cuda.memory_allocated(device)


def _highest_on_gpu(device: str) -> int:
    import torch

    return torch.cuda.max_memory_allocated(device)
