"""Studies measured by Ray: on this machine or on a cluster, as the settings say.

Owns where a study is measured, what becomes of it if that place hangs or dies, and that a result is
in the ledger before anybody is told of it; starts and stops this machine's own Ray. The only module
that imports Ray. Knows nothing of how a study is measured or of what its results mean.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import pickle
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from lab import machine, stations, studies, suites
from lab.checkpoints import digest as checkpoint_digest
from lab.errors import ClusterError, message
from lab.ledger import Ledger
from lab.requests import Drawn
from lab.roles import Role
from lab.services import ROLES
from lab.stations import About, Event, Station, Work
from lab.studies import Progress, Study
from lab.trials import Setting, Status, Trial, TrialResult, key

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.designs import Design
    from lab.params import RaySettings, Resolved, Settings

SILENT_S = 20.0  # without a sign of its driver, after which a station gives up
IDLE_S = 600.0  # without work, after which a station gives its device back
_NAMESPACE = "lab"
TRIES = 3  # to measure a study whose station dies
_HEAR_S = 5.0  # that a station is listened to at a time
_READY_S = 60.0  # for the stations of a cluster; those that are not there by then are left out
_AGAIN_S = 1.0  # before what was refused is asked for again
_START_S = 120.0  # for Ray
_KNOCK_S = 10.0
_MEMORY = "RAY_memory_usage_threshold"  # in what Ray says when it killed a process for its memory
_FOLDER = "lab-ray-"  # then the process that owns it


def run(
    *asked: Study,
    corpus: Corpus,
    settings: Settings,
    folders: Mapping[Role, Path],
    digests: Mapping[Role, str],
    ledger: Ledger,
    threads: int | None = None,
    cache: Path | None = None,
    progress: Progress,
) -> list[TrialResult]:
    """Return the results of studies, in the order of their trials; only the unknown is measured.

    Where it is measured is set by ``ray.mode`` and ``ray.address``; the results are the same. On
    Ray, each study is measured as a whole by one device, several by as many devices as there are,
    all of one hardware class. A trial in work when its device gives no sign for ``ray.deadline_s``
    is a result of status ``timeout``; one in whose work the process died three times, of status
    ``error``; if Ray killed it for want of memory, at once of status ``out_of_memory``. The others
    are then measured without it; none can be without the baseline.

    Args:
        asked: what is compared, of one tenant.
        corpus: the tenant's.
        settings: the tenant's.
        folders: checkpoint by role.
        digests: of those checkpoints.
        ledger: where results are kept.
        threads: of torch, at most; None: the cores that a device has to itself.
        cache: where digests of large checkpoints are remembered.
        progress: called with (stage, done, total).
    Raises: as lab.studies.run, and ClusterError if Ray or its devices cannot be had.
    """
    if settings.ray.mode == "inline":
        shared = {"corpus": corpus, "settings": settings, "folders": folders, "digests": digests}
        shared |= {"ledger": ledger, "device": machine.device(), "threads": threads}
        return [
            result
            for one in asked
            for result in studies.run(one, **shared, cache=cache, progress=progress)
        ]
    sweep = _Sweep(corpus, settings, folders, digests, ledger, threads, cache, progress)
    if not _address_of(settings.ray) and sweep.knows_from_here(asked):
        return sweep.results(asked)  # Ray need not be started to find that out
    _connect(settings.ray)
    return sweep.run(asked)


def run_design(
    design: Design, resolved: Resolved, *, corpus: Corpus, progress: Progress
) -> list[list[TrialResult]]:
    """Return the results of each study of a design, as `run` does.

    Args:
        design: studies of the tenant.
        resolved: the tenant's settings.
        corpus: the tenant's.
        progress: called with (stage, done, total).
    Raises: as `run`.
    """
    root = resolved.tenant.root
    with Ledger(resolved.settings.ledger, root=root) as ledger:
        found = iter(
            run(
                *design.studies,
                corpus=corpus,
                settings=resolved.settings,
                folders=design.folders,
                digests=design.digests,
                ledger=ledger,
                cache=suites.digest_cache(root),
                progress=progress,
            )
        )
    return [[next(found) for _ in study.trials] for study in design.studies]


# --- a sweep --------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Part:
    """What of a study is still to be measured."""

    study: Study
    setting: Setting
    missing: Study
    tries: int = 0
    step: int = 0
    in_work: Trial | None = None
    drawn: Drawn | None = None  # from when it is given to a device

    @property
    def steps(self) -> int:
        """As many as lab.studies.measure tells of."""
        return len(self.missing.trials) + self.missing.trials[0].turns


@dataclass(eq=False)
class _Device:
    """A device of the cluster, and its station."""

    name: str
    options: Mapping[str, Any]
    arguments: Mapping[str, Any]
    handle: Any = None
    about: About | None = None
    part: _Part | None = None
    owner: str = ""
    began: bool = False  # with the part; before, its station may be at another driver's
    heard: int = 0  # events
    sign: float = 0.0  # when it gave the last one
    waits: tuple[Any, Callable[[Any], None]] | None = None  # for an answer, and what then
    not_before: float = 0.0
    deaths: int = 0  # in a row, without work


@dataclass(eq=False)
class _Sweep:
    """Studies of one tenant on their way through the devices of a cluster."""

    corpus: Corpus
    settings: Settings
    folders: Mapping[Role, Path]
    digests: Mapping[Role, str]
    ledger: Ledger
    threads: int | None
    cache: Path | None
    progress: Progress
    devices: list[_Device] = field(default_factory=list)
    waiting: deque[_Part] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._class: tuple[str, str] | None = None  # hardware and software
        self._over = threading.Event()
        self._began = self._lacking_since = time.monotonic()
        self._done = self._total = 0  # trials
        self._steps = self._all_steps = 0
        self._problem = ""  # that a device had

    def run(self, asked: Sequence[Study]) -> list[TrialResult]:
        pinging = threading.Thread(target=self._ping, daemon=True)
        pinging.start()
        try:
            self._gather(asked)
            self._plan(asked)
            while self.waiting or any(one.part for one in self.devices):
                self._assign()
                self._listen()
                self._enforce()
        finally:
            self._over.set()
            pinging.join()
            for device in self.devices:
                if device.began:  # it would go on for nobody
                    _kill(device.handle)
        return self.results(asked)

    def knows_from_here(self, asked: Sequence[Study]) -> bool:
        """Tell whether all was measured on this machine, as its own Ray would measure it."""
        share = max(1, machine.threads() // max(1, len(machine.gpus())))
        threads = min(self.threads or share, share)
        self._class = (studies.hardware(machine.device(), threads), studies.software())
        return not any(
            studies.unknown(one, self._setting(one, self._class), self.ledger) for one in asked
        )

    def results(self, asked: Sequence[Study]) -> list[TrialResult]:
        """Return what is known of studies, of the class of devices that was chosen."""
        return [
            result
            for one in asked
            for result in studies.known(one, self._setting(one, self._class), self.ledger)
        ]

    # Where: one station per device, and devices of one class

    def _gather(self, asked: Sequence[Study]) -> None:
        """Wait for the stations, and choose the class of devices that is used."""
        self.devices, self._class = _devices(), None
        begun = time.monotonic()
        self.progress("waiting for a device", 0, sum(len(one.trials) for one in asked))
        while True:
            self._start_stations()
            self._listen()
            there = [one for one in self.devices if one.about is not None]
            late = time.monotonic() - begun > _READY_S
            if there and (late or len(there) == len(self.devices)):
                break
            self._look_for_more()
        self._choose(asked, there)

    def _choose(self, asked: Sequence[Study], there: Sequence[_Device]) -> None:
        classes: dict[tuple[str, str], list[_Device]] = {}
        for device in there:
            classes.setdefault(_class_of(device), []).append(device)

        def rank(one: tuple[str, str]) -> tuple[int, bool, int, str]:
            known = sum(
                len(study.trials) - len(missing.trials if missing else ())
                for study in asked
                for missing in [studies.unknown(study, self._setting(study, one), self.ledger)]
            )
            is_gpu = any(device.about.device != "cpu" for device in classes[one])
            return (known, is_gpu, len(classes[one]), str(one))

        self._class = max(classes, key=rank)
        self.devices = classes[self._class]
        if len(classes) > 1:
            total = sum(len(one.trials) for one in asked)
            told = f"only on {self._class[0]}: figures of several classes are never pooled"
            self.progress(told, 0, total)

    def _setting(self, study: Study, where: tuple[str, str]) -> Setting:
        return studies.setting_of(
            study,
            corpus=self.corpus,
            settings=self.settings,
            digests=self.digests,
            hardware=where[0],
            software=where[1],
        )

    def _plan(self, asked: Sequence[Study]) -> None:
        """Note what is to be measured."""
        for study in asked:
            setting = self._setting(study, self._class)
            if missing := studies.unknown(study, setting, self.ledger):
                self.waiting.append(_Part(study, setting, missing))
        self._total = sum(len(one.missing.trials) for one in self.waiting)
        self._all_steps = sum(one.steps for one in self.waiting)
        self._began = time.monotonic()

    def _start_stations(self) -> None:
        now = time.monotonic()
        for device in self.devices:
            if device.handle is None and now >= device.not_before:
                device.handle = _station(device)
                ref = device.handle.about.remote(self.threads)
                self._ask(device, ref, lambda about, one=device: self._welcome(one, about))

    def _welcome(self, device: _Device, about: About) -> None:
        if about.code != studies.code_digest():
            rule = "a station must run the lab's code that its driver runs"
            raise ClusterError(
                message(rule, got=about.code, remedy="install the same version on every machine")
            )
        device.about, device.deaths = about, 0
        if self._class is not None and _class_of(device) != self._class:
            self.devices.remove(device)

    # What: a part to a device, and what comes back

    def _assign(self) -> None:
        self._look_for_more()
        self._start_stations()
        now = time.monotonic()
        for device in self.devices:
            free = device.about and device.part is None and device.waits is None
            if free and now >= device.not_before and self.waiting:
                self._give(device, self.waiting.popleft())

    def _give(self, device: _Device, part: _Part) -> None:
        if part.drawn is None:
            part.drawn = studies.draw(part.missing.trials, self.corpus, self.settings)
        device.part, device.owner, device.heard = part, uuid.uuid4().hex, 0
        part.in_work, part.step = None, 0
        roles = [one for one in ROLES[part.study.trials[0].kind] if one in self.folders]
        folders = {role: str(self.folders[role].absolute()) for role in roles}
        digests = {role: self._digest(role) for role in roles}
        work = Work(part.missing, part.setting, folders, digests, device.about.threads)
        ref = device.handle.lacking.remote(folders, digests)
        self._ask(device, ref, lambda lacking: self._send(device, work, lacking))

    def _digest(self, role: Role) -> str:
        return self.digests.get(role) or checkpoint_digest(self.folders[role], cache=self.cache)

    def _send(self, device: _Device, work: Work, lacking: Sequence[Role]) -> None:
        """Send checkpoints that the device's machine lacks, one at a time, then the work."""
        if not lacking:
            self._begin(device, work)
            return
        role, *rest = lacking
        files = stations.packed(self.folders[role])
        ref = device.handle.receive.remote(work.digests[role], files)
        self._ask(device, ref, lambda _: self._send(device, work, rest))

    def _begin(self, device: _Device, work: Work) -> None:
        ref = device.handle.begin.remote(device.owner, work, device.part.drawn)
        self._ask(device, ref, lambda taken: self._taken(device, taken))

    def _taken(self, device: _Device, taken: bool) -> None:
        if taken:
            device.began = True
            self._hear(device, [])
            return
        # Another driver's study is measured there; its turn ends, or it dies and is given up.
        self.waiting.appendleft(device.part)
        device.part, device.owner = None, ""
        device.not_before = time.monotonic() + _AGAIN_S

    def _hear(self, device: _Device, events: Sequence[Event]) -> None:
        part = device.part
        for event in events:
            device.heard += 1
            if event.kind == "working":
                part.in_work = part.missing.trials[event.value]
            elif event.kind == "progress":
                stage, part.step, _ = event.value
                self._tell(part, stage)
            elif event.kind == "failed":
                self._raise(*event.value)
            else:
                self._keep(device, [TrialResult.unpack(one) for one in event.value])
                return
        ref = device.handle.hear.remote(device.owner, device.heard, _HEAR_S)
        self._ask(device, ref, lambda events: self._hear(device, events), sign=bool(events))

    def _keep(self, device: _Device, results: Sequence[TrialResult]) -> None:
        for result in results:
            self.ledger.add(result)
        part, device.part, device.began = device.part, None, False
        part.drawn = None
        ref = device.handle.end.remote(device.owner)
        device.owner = ""
        self._ask(device, ref, lambda _: None)
        self._finished(part, part.missing.trials, part.steps)

    def _finished(self, part: _Part, trials: Sequence[Trial], steps: int) -> None:
        self._done += len(trials)
        self._steps += steps
        self._tell(part, "in the ledger")

    def _raise(self, packed: bytes, words: str) -> None:
        error = pickle.loads(packed)  # noqa: S301 (of our own worker)
        error.add_note(f"as the station told it:\n{words}")
        raise error

    # Waiting for answers

    def _ask(
        self, device: _Device, ref: Any, then: Callable[[Any], None], *, sign: bool = True
    ) -> None:
        device.waits = (ref, then)
        if sign or not device.sign:
            device.sign = time.monotonic()

    def _listen(self) -> None:
        import ray

        pending = {one.waits[0]: one for one in self.devices if one.waits}
        if not pending:
            time.sleep(_AGAIN_S / 4)
            return
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=_AGAIN_S)
        for ref in ready:
            device = pending[ref]
            (_, then), device.waits = device.waits, None
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayTaskError as error:  # the station's own words
                raise error.cause from error
            except ray.exceptions.RayError as error:
                self._lost(device, error)
            else:
                then(answer)

    def _enforce(self) -> None:
        deadline_s = self.settings.ray.deadline_s
        for device in self.devices:
            if device.part is None or time.monotonic() - device.sign < deadline_s:
                continue
            part = self._bury(device)
            problem = f"gave no sign for ray.deadline_s = {deadline_s:g} s"
            self._blame(part, "timeout", problem)

    def _ping(self) -> None:
        while not self._over.wait(SILENT_S / 5):
            for device in list(self.devices):
                if device.owner and device.handle is not None:
                    with contextlib.suppress(Exception):  # the sweep finds out by itself
                        device.handle.ping.remote(device.owner)

    # What goes wrong

    def _lost(self, device: _Device, error: Exception) -> None:
        """A station died, with its machine or without."""
        import ray

        words = str(error).strip().splitlines()
        self._problem = words[-1] if words else type(error).__name__
        no_memory = isinstance(error, ray.exceptions.OutOfMemoryError) or _MEMORY in str(error)
        part = self._bury(device)
        if part is None:
            device.deaths += 1
            if device.deaths >= TRIES:
                self.devices.remove(device)
            return
        part.tries += 1
        if no_memory and part.in_work is not None:
            self._blame(part, "out_of_memory", "was killed: no memory was left")
        elif part.tries >= TRIES:
            self._blame(part, "error", f"lost its process {part.tries} times")
        else:
            self._tell(part, "the process that measured died, once more")
            self.waiting.appendleft(part)

    def _bury(self, device: _Device) -> _Part | None:
        """Make sure that a station is dead; return what it was doing."""
        _kill(device.handle)
        part, device.part, device.began = device.part, None, False
        device.handle = device.about = device.waits = None
        device.owner = ""
        device.not_before = time.monotonic() + _AGAIN_S
        return part

    def _blame(self, part: _Part, status: Status, problem: str) -> None:
        """Give the trial in work its status, and leave the others to be measured without it."""
        culprit, baseline = part.in_work, part.missing.trials[0]
        if culprit is None:
            rule = "a device must begin with a study that it was given"
            raise ClusterError(message(rule, got=problem, place=self._problem))
        guilty = part.missing.trials if culprit == baseline else (culprit,)
        for trial in guilty:
            told = problem if trial == culprit else f"the baseline {problem}"
            self.ledger.add(_failed(trial, part.setting, status, told))
        before, left = part.steps, studies.unknown(part.study, part.setting, self.ledger)
        part.missing = left or part.missing
        part.tries, part.step = 0, 0
        if left is not None:
            self.waiting.appendleft(part)
        self._finished(part, guilty, before - (part.steps if left else 0))

    def _look_for_more(self) -> None:
        """Take in machines that joined; give up if there has been none for too long."""
        if any(one.about for one in self.devices):
            self._lacking_since = time.monotonic()
        if self.devices and time.monotonic() - self._lacking_since < _READY_S:
            return
        known = {one.name for one in self.devices}
        self.devices += [one for one in _devices() if one.name not in known]
        if time.monotonic() - self._lacking_since > max(_READY_S, self.settings.ray.deadline_s):
            raise ClusterError(
                message(
                    "the cluster must have a device to measure on",
                    got=self._problem or "none that is free",
                    remedy="see whether others hold its CPUs or GPUs, or set ray.mode=inline",
                )
            )

    def _tell(self, part: _Part, stage: str) -> None:
        running = [one.part for one in self.devices if one.part]
        steps = self._steps + sum(one.step for one in running)
        if steps >= self._all_steps and self._done < self._total:
            return  # all is measured, and not yet in the ledger
        at_work = sum(len(one.missing.trials) for one in running)
        left = sum(len(one.missing.trials) for one in self.waiting)
        counts = f"trials: {self._done} done, {at_work} running, {left} left"
        self.progress(
            f"{part.study.trials[0].kind}: {stage}; {counts}{self._end(steps)}",
            steps,
            self._all_steps,
        )

    def _end(self, steps: int) -> str:
        if not 0 < steps < self._all_steps:
            return ""
        left_s = (time.monotonic() - self._began) / steps * (self._all_steps - steps)
        return f", about {left_s / 60:.0f} min to go" if left_s > 90 else f", {left_s:.0f} s to go"


def _class_of(device: _Device) -> tuple[str, str]:
    return (device.about.hardware, device.about.software)


def _failed(trial: Trial, setting: Setting, status: Status, problem: str) -> TrialResult:
    return TrialResult(
        key=key(trial, setting),
        trial=trial,
        setting=setting,
        status=status,
        finished=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        problem=problem,
    )


# --- devices and stations -------------------------------------------------------------------------


def _devices() -> list[_Device]:
    """Return the devices of all machines: every GPU, or all the CPUs of a machine without one."""
    import ray

    found = []
    for node in ray.nodes():
        has = node["Resources"]
        cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if not node["Alive"] or not (cpus or gpus):
            continue
        own = max(1, cpus // max(1, gpus))
        for number in range(gpus or 1):
            found.append(_device(node["NodeID"], number, cpus=min(own, cpus), gpu=gpus > 0))
    _retire_others({one.name for one in found})
    return found


def _device(node: str, number: int, *, cpus: int, gpu: bool) -> _Device:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    threads = max(1, cpus)
    name = f"station {studies.code_digest()[7:19]} {node[:16]} {number}"
    options = {
        "name": name,
        "namespace": _NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": cpus,
        "num_gpus": int(gpu),
        "max_restarts": 0,
        "max_concurrency": 8,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    }
    arguments = {"device": "cuda" if gpu else "cpu", "threads": threads}
    return _Device(name, options, arguments | {"silent_s": SILENT_S, "idle_s": IDLE_S})


def _station(device: _Device) -> Any:
    import ray

    return ray.remote(Station).options(**device.options).remote(**device.arguments)


def _retire_others(names: set[str]) -> None:
    """Ask stations of other versions of the code to give their devices back if they are idle."""
    import ray

    for one in ray.util.list_named_actors(all_namespaces=True):
        name, place = one["name"], one["namespace"]
        if place == _NAMESPACE and name.startswith("station ") and name not in names:
            with contextlib.suppress(ValueError):  # it is gone
                ray.get_actor(name, namespace=_NAMESPACE).retire.remote()


def _kill(handle: Any) -> None:
    import ray

    if handle is not None:
        with contextlib.suppress(Exception):  # of whatever kind: it is dead already
            ray.kill(handle, no_restart=True)


# --- Ray ------------------------------------------------------------------------------------------

_own: dict[str, str] = {}  # the environment of a Ray that this process started


def _connect(settings: RaySettings) -> None:
    """Connect this process to Ray, once; start Ray if there is no address."""
    address = _address_of(settings) or _started()  # which has to come before Ray is imported
    with _quiet():
        import ray

        if ray.is_initialized():
            return
        try:
            _knock(address)
            with _code() as folder:
                ray.init(
                    address=address,
                    namespace=_NAMESPACE,
                    runtime_env={"working_dir": str(folder)},
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:  # a dozen kinds, one of them a plain RuntimeError
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(
                message(
                    "Ray must be there, of this version and with this token",
                    got=words[0],
                    place=address,
                    remedy="see ray.address, RAY_ADDRESS and RAY_AUTH_TOKEN, or set "
                    'ray.mode=inline; ray:// needs pip install -c constraints.txt -e ".[cluster]"',
                )
            ) from error


def _address_of(settings: RaySettings) -> str | None:
    """Return a cluster's address; None if a Ray is to be started here."""
    return os.environ.get("RAY_ADDRESS") or settings.address


def _started() -> str:
    """Return the address of this process's own Ray, which ends with it."""
    if not _own:
        context = local()
        _own.update(context.__enter__())
        atexit.register(context.__exit__, None, None, None)
    os.environ.update({name: one for name, one in _own.items() if name != "RAY_ADDRESS"})
    return _own["RAY_ADDRESS"]


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at host:port: Ray would end this process instead."""
    host, _, port = address.rpartition(":")
    if "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep out of a notebook what Ray says while it is imported and connected, and afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it will change one day
            from ray._private import worker

            # Its account of every process that died; a sweep tells what follows from it.
            worker.listen_error_messages = lambda *_: None
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _code() -> Iterator[Path]:
    """Give a folder that holds the lab as it is now, and nothing else: a worker's only source."""
    with tempfile.TemporaryDirectory(prefix="lab-code-") as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(__file__).parent, Path(folder) / "lab", ignore=ignored)
        yield Path(folder)


@contextlib.contextmanager
def local() -> Iterator[dict[str, str]]:
    """Start Ray on this machine, for as long as the context lasts or this process lives.

    Yields: the environment with which other processes find it, `run` in a notebook's kernel too.
    Raises: ClusterError if it does not start.
    """
    leads_to_it = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its ports are this machine's only
    }
    ignored = ("RAY_ADDRESS",)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ignored},
        **leads_to_it,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_enable_worker_prestart": "0",
        "RAY_worker_niceness": "0",  # else every other process goes before what is timed
    }
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryFile("w+") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", "from lab import sweeps; sweeps.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for who started it
        )
        try:
            yield {"RAY_ADDRESS": _address(server, errors), **leads_to_it}
        finally:
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=30)
            server.kill()
            server.wait()
            server.stdout.close()


def _address(server: subprocess.Popen[str], errors: IO[str]) -> str:
    """Return what a server tells when Ray is there."""
    late = threading.Timer(_START_S, server.kill)
    late.start()
    try:
        for line in server.stdout:
            with contextlib.suppress(ValueError):  # something else that was printed
                return json.loads(line)["address"]
    finally:
        late.cancel()
    errors.seek(0)
    words = errors.read().strip().splitlines() or ["nothing"]
    raise ClusterError(
        message(
            f"Ray must start within {_START_S:g} s",
            got=words[-1],
            remedy="set ray.mode=inline to do without it",
        )
    )


def serve() -> None:
    """Be a process that has Ray running until its standard input ends, however its starter ends."""
    import ray

    _remove_left_behind()
    folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=_short_folder())
    warnings.simplefilter("ignore")
    try:
        context = ray.init(
            address="local",
            num_cpus=machine.threads(),
            include_dashboard=False,
            _temp_dir=folder,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        print(json.dumps({"address": context.address_info["gcs_address"]}), flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """Return a temporary folder in which the paths of Ray's sockets are not too long."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 20 or not Path("/tmp").is_dir() else "/tmp"  # noqa: S108


def _remove_left_behind() -> None:
    """Remove folders of servers that were killed."""
    for folder in Path(_short_folder()).glob(f"{_FOLDER}*-*"):
        process = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
