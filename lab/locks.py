"""Work that only one process may do at a time.

Owns the locks that keep such processes apart; the system opens them when a process ends, however it
ends. Knows nothing of the work itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lab.errors import PathError, message

_POLL_S = 0.2
_AGAIN_S = 30.0  # who waits says so again, so that nobody takes it for dead


@contextmanager
def measuring(device: str, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Have a device to oneself: two that measure on one would measure each other.

    For a user's processes on one machine, whatever they are: a run of the lab, JupyterLab, a
    script. Another device, or another user, is not kept out.

    Args:
        device: cpu, cuda or cuda:N.
        waiting: told what is waited for, now and then, if the device is not free.
    Raises: PathError if the lock's file, in the system's temporary folder, cannot be opened.
    """
    lock = _lock(Path(tempfile.gettempdir()), device)
    try:
        _take(lock, told=lambda: waiting(f"waiting for another measurement on {device}"))
    except OSError as error:
        raise PathError(
            message(
                "who measures must be able to lock a file of their own",
                got=lock.lock_file,
                place=error.strerror or type(error).__name__,
                remedy="remove what is there, and see that its folder can be written",
            )
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path, device: str) -> FileLock:
    """Return the lock of a device and user: flock, which no process keeps beyond its end."""
    name = f"lab-measuring-{os.getuid()}-{_identity(device)}.lock"
    return FileLock(folder / name, mode=0o600)


def _take(lock: FileLock, *, told: Callable[[], None]) -> None:
    wait_s = 0.0
    while True:
        try:
            lock.acquire(timeout=wait_s, poll_interval=_POLL_S)
        except Timeout:
            told()
            wait_s = _AGAIN_S
        else:
            return


def _identity(device: str) -> str:
    """Return the device's name; of a GPU its own, for two processes may number them differently."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"
