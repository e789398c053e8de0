"""A station: the process on a device that measures studies, one at a time, for who listens to it.

Owns the thread that measures, what it tells and when, checkpoints that came without a folder, and
the end of work that nobody waits for any more. Knows nothing of Ray, of ledgers or other stations.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import shutil
import stat
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lab import checkpoints, studies
from lab.errors import ClusterError, LabError, ModelError, PathError, message
from lab.requests import Drawn
from lab.roles import Role
from lab.studies import Study
from lab.trials import Setting

_REST_S = 0.005  # in which a listener that just heard something comes to rest before time is taken
_LOOK_S = 0.5
KEPT_S = 14 * 86_400  # that a checkpoint that was sent is kept after its last use


@dataclass(frozen=True)
class About:
    """What a station is.

    Attributes:
        device: cpu or cuda, as torch names it in that process.
        threads: that it measures with.
        hardware: as of lab.studies.
        software: as of lab.studies.
        code: digest of the lab's modules that measure.
        process: its id on its machine.
    """

    device: str
    threads: int
    hardware: str
    software: str
    code: str
    process: int


@dataclass(frozen=True)
class Work:
    """What a station is to measure.

    Attributes:
        study: what is compared.
        setting: that the results bear.
        folders: checkpoint by role, as whoever asks sees it.
        digests: of those.
        threads: of torch.
    """

    study: Study
    setting: Setting
    folders: Mapping[Role, str]
    digests: Mapping[Role, str]
    threads: int


@dataclass(frozen=True)
class Event:
    """What a station tells.

    ``progress``: (stage, done, total). ``working``: the number of the trial that is in work.
    ``results``: each packed. ``failed``: the pickled error and its traceback as text.
    """

    kind: Literal["progress", "working", "results", "failed"]
    value: Any


class Station:
    """Measures one study at a time, and leaves when nobody needs it.

    Its methods may be called by several threads at a time. Whoever gave it work is its owner, and
    must be heard of now and then; an owner that is silent is taken for dead.
    """

    def __init__(
        self,
        *,
        device: str,
        threads: int,
        silent_s: float,
        idle_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """Begin to wait for work.

        Args:
            device: cpu, cuda or cuda:N.
            threads: that may be used at most.
            silent_s: after which an owner counts as dead; then the process ends.
            idle_s: without work, after which the process ends.
            leave: ends the process, whatever its threads do.
        """
        self._device, self._threads = device, threads
        self._silent_s, self._idle_s, self._leave = silent_s, idle_s, leave
        self._changed = threading.Condition()
        self._owner = ""
        self._thread: threading.Thread | None = None
        self._events: list[Event] = []
        self._listened = 0  # events that the owner has
        self._heard = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def about(self, threads: int | None = None) -> About:
        """Return what this station is if it measures with so many threads; None: with all."""
        threads = min(threads or self._threads, self._threads)
        return About(
            device=self._device,
            threads=threads,
            hardware=studies.hardware(self._device, threads),
            software=studies.software(),
            code=studies.code_digest(),
            process=os.getpid(),
        )

    def lacking(self, folders: Mapping[Role, str], digests: Mapping[Role, str]) -> list[Role]:
        """Return the roles whose checkpoint is not to be found here."""
        return [role for role, folder in folders.items() if _found(folder, digests[role]) is None]

    def receive(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Keep a checkpoint for all who work on this machine.

        Args:
            digest: that it must have.
            files: content by path in its folder.
        Raises: ModelError if its digest is another, PathError if a file is to lie outside.
        """
        keep(digest, files)

    def begin(self, owner: str, work: Work, drawn: Drawn) -> bool:
        """Begin to measure for an owner; return False if there is another's work.

        Args:
            owner: any text that nobody else has.
            work: what is measured.
            drawn: what is asked.
        """
        with self._changed:
            if self._owner:
                return self._owner == owner
            self._owner, self._events, self._listened = owner, [], 0
            self._heard = time.monotonic()
            self._thread = threading.Thread(target=self._measure, args=(work, drawn), daemon=True)
            self._thread.start()
        return True

    def hear(self, owner: str, after: int, wait_s: float) -> list[Event]:
        """Return the events after the first so many, which the owner has; wait for one if need be.

        Raises: ClusterError if the work is not this owner's.
        """
        with self._changed:
            if owner != self._owner:
                raise ClusterError(message("a station is heard by its owner", got=owner))
            self._heard, self._listened = time.monotonic(), after
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._events) > after, wait_s)
            return self._events[after:]

    def ping(self, owner: str) -> None:
        """Say that an owner lives."""
        if owner == self._owner:
            self._heard = time.monotonic()

    def end(self, owner: str) -> None:
        """Forget work that is done, and all that came with it."""
        if owner == self._owner and self._thread is not None:
            self._thread.join()
            self._forget()

    def retire(self) -> None:
        """End this process if it has no work."""
        if not self._owner:
            self._leave(0)

    def _forget(self) -> None:
        with self._changed:
            self._owner, self._thread, self._events = "", None, []
            self._heard = time.monotonic()
        gc.collect()

    def _measure(self, work: Work, drawn: Drawn) -> None:
        try:
            folders = {role: _here(one, work.digests[role]) for role, one in work.folders.items()}
            results = studies.measure(
                work.study,
                drawn,
                setting=work.setting,
                folders=folders,
                device=self._device,
                threads=work.threads,
                cache=_stamps(),
                progress=lambda *words: self._tell("progress", words),
                working=lambda trial: self._working(work.study.trials.index(trial)),
            )
            self._tell("results", [one.pack() for one in results])
        except BaseException as error:  # whatever it is, the owner must hear of it
            self._tell("failed", (_pickled(error), traceback.format_exc()))

    def _tell(self, kind: Literal["progress", "working", "results", "failed"], value: Any) -> None:
        with self._changed:
            self._events.append(Event(kind, value))
            self._changed.notify_all()

    def _working(self, number: int) -> None:
        """Go on when the owner knows what is in work: it cannot be asked if this process dies."""
        self._tell("working", number)
        with self._changed:
            self._changed.wait_for(lambda: self._listened >= len(self._events))
        time.sleep(_REST_S)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            silent_s = time.monotonic() - self._heard
            if not self._owner and silent_s > self._idle_s:
                self._leave(0)
                return
            if self._owner and silent_s > self._silent_s:
                # A thread cannot be stopped from outside; what it loaded would stay as well.
                self._leave(1)
                return


def _pickled(error: BaseException) -> bytes:
    """Return an error as bytes; one that cannot be pickled as a RuntimeError of its words."""
    try:
        packed = pickle.dumps(error)
        pickle.loads(packed)  # noqa: S301 (our own bytes; some errors only fail here)
    except Exception:  # of any kind
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return packed


# --- checkpoints ----------------------------------------------------------------------------------


def packed(folder: Path) -> dict[str, bytes]:
    """Return the content of a checkpoint's files by their path in its folder.

    Raises: MissingError, ModelError or PathError if it cannot be read.
    """
    return {name: (folder / name).read_bytes() for name in checkpoints.files(folder)}


def keep(digest: str, files: Mapping[str, bytes]) -> Path:
    """Write a checkpoint into this machine's temporary folder; return where it is.

    Args:
        digest: that it must have.
        files: content by path in its folder.
    Raises: ModelError if its digest is another, PathError if a file is to lie outside.
    """
    place = _kept(digest)
    with _aside(place) as aside:
        for name, content in files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise PathError(message("a checkpoint's file must lie in its folder", got=name))
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (aside / path).write_bytes(content)
        if (got := checkpoints.digest(aside)) != digest:
            rule = f"a checkpoint must have the digest {digest}"
            raise ModelError(message(rule, got=got, remedy="take the digest of its folder again"))
        shutil.rmtree(place, ignore_errors=True)  # it was not as it should be, or not there
        with contextlib.suppress(OSError):  # another station's came first
            aside.rename(place)
    _remove_unused(place.parent)
    return place


def _remove_unused(folder: Path) -> None:
    """Remove the checkpoints that nobody asked for in a long time."""
    for place in folder.iterdir():
        with contextlib.suppress(OSError):
            if place.is_dir() and time.time() - place.stat().st_mtime > KEPT_S:
                shutil.rmtree(place)


def _found(folder: str, digest: str) -> Path | None:
    """Return where a checkpoint lies on this machine, if one of its digest does."""
    for place in (Path(folder), *_in_hub(Path(folder)), _kept(digest)):
        with contextlib.suppress(LabError, OSError):
            if place.is_dir() and checkpoints.digest(place, cache=_stamps()) == digest:
                if place == _kept(digest):
                    os.utime(place)  # it is in use
                return place
    return None


def _here(folder: str, digest: str) -> Path:
    found = _found(folder, digest)
    if found is None:
        rule = "a checkpoint must be on the machine that measures, or be sent there"
        raise ClusterError(message(rule, got=f"none of {digest}", place=folder))
    return found


def _in_hub(folder: Path) -> Iterator[Path]:
    """Yield where a hub's snapshot lies on this machine, which may keep them elsewhere."""
    parts = folder.parts
    if len(parts) > 3 and parts[-2] == "snapshots" and parts[-3].startswith("models--"):
        from huggingface_hub.constants import HF_HUB_CACHE

        yield Path(HF_HUB_CACHE).joinpath(*parts[-3:])


def _kept(digest: str) -> Path:
    return _own_folder() / digest.partition(":")[2]


def _stamps() -> Path:
    return _own_folder() / "stamps"


def _own_folder() -> Path:
    """Return this user's folder for checkpoints in the machine's temporary folder.

    Raises: PathError if there is something of another user's in its place.
    """
    folder = Path(tempfile.gettempdir()) / f"lab-checkpoints-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        raise PathError(
            message("a folder for checkpoints must be one's own", got=folder, remedy="remove it")
        )
    return folder


@contextlib.contextmanager
def _aside(place: Path) -> Iterator[Path]:
    """Give a new folder beside a place; what is left of it is removed."""
    aside = place.with_name(f".{place.name[:12]}-{uuid.uuid4().hex}")
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
