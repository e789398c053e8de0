"""Running notebooks for tenants: what must run, in which worker process, and what becomes of it.

Owns the plan (what is reused and why), the worker processes with their deadlines, the Ray that they
have in common, and the locks that keep two runs apart. Knows nothing of Papermill (``lab.worker``)
or of how progress is shown (``lab.cli``).
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import psutil
from filelock import FileLock, Timeout

from lab import checkpoints, corpus, machine, params, runs, suites, tenants
from lab.errors import ClusterError, LabError, UsageError, message
from lab.worker import Failure, Job

Status = Literal["ok", "failed", "reused", "interrupted"]
_NEED_RAY = ("sweeps", "scorecards")  # a notebook whose text has one of these measures with it
_GRACE_S = 20.0  # for a cancelled worker to leave its failed report before it is killed
_POLL_S = 0.1


@dataclass(frozen=True)
class Event:
    """One step of the work, for whoever shows progress.

    ``kind`` is planned, waiting, started, cell or finished. ``text`` says why, or what was wrong.
    """

    kind: str
    tenant: str
    notebook: str
    text: str = ""
    cell: int = 0
    cells: int = 0
    seconds: float = 0.0
    status: Status | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook of one tenant."""

    tenant: str
    notebook: str
    status: Status
    seconds: float = 0.0
    text: str = ""


@dataclass
class _Task:
    """A notebook that may have to run, with what is known of it so far."""

    resolved: params.Resolved
    notebook: str
    reason: str = ""
    waiting_told: bool = False

    @property
    def tenant(self) -> str:
        return self.resolved.tenant.slug

    @property
    def files(self) -> runs.Files:
        return runs.Files(self.resolved.tenant, self.notebook)

    @property
    def alone(self) -> bool:
        """Whether nothing else may run meanwhile: what it measures would be disturbed."""
        return self.notebook in self.resolved.settings.execution.alone

    @property
    def last(self) -> bool:
        """Whether it reads what the tenant's other notebooks left."""
        return self.notebook in self.resolved.settings.execution.last


@dataclass
class _Process:
    """A worker process and what it is doing."""

    popen: subprocess.Popen[str]
    errors: IO[str]
    task: _Task | None = None
    job: Job | None = None
    began: float = 0.0
    cancel_at: float | None = None
    reason: str = ""
    kernels: list[psutil.Process] = field(default_factory=list)

    def kill(self) -> None:
        """Kill the worker, everything below it, and the kernels it is known to have started.

        Those are named because a killed worker's kernel has another parent at once.
        """
        _kill_tree(self.popen)
        for kernel in self.kernels:
            with suppress(psutil.NoSuchProcess):
                kernel.kill()


@dataclass
class Batch:
    """One call of ``lab run``: tenants x notebooks, carried out by at most ``jobs`` workers.

    ``asked``, if given, says which notebooks of which tenants instead, as (tenant, notebook), and
    for each the overrides that come before those of all.
    """

    root: Path
    tenants: Sequence[str]
    notebooks: Sequence[str]
    profile: str = "demo"
    overrides: Sequence[str] = ()
    jobs: int | None = None
    force: bool = False
    ray_address: str | None = None
    show: Callable[[Event], None] = lambda event: None
    asked: Mapping[tuple[str, str], Sequence[str]] | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._events: queue.Queue[tuple[_Process, dict[str, Any] | None]] = queue.Queue()
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []
        self._locks: dict[str, FileLock] = {}
        self._interrupted = False
        self._environment = {"RAY_ADDRESS": self.ray_address} if self.ray_address else {}

    def run(self) -> list[Outcome]:
        """Run what must be run; every other notebook still finishes when one fails.

        Returns: one outcome per tenant and notebook, in the order they ended.
        Raises: LabError, before anything is run, if settings are wrong.
        """
        waiting = self._plan()
        if not waiting:
            return self.outcomes
        jobs = self.jobs or waiting[0].resolved.settings.execution.jobs
        jobs = max(1, min(jobs, len(waiting)))
        with ExitStack() as stack:
            try:
                self._share_ray(waiting, stack)
                self._loop(waiting, jobs)
            except KeyboardInterrupt:
                self._interrupt(waiting)
            finally:
                for process in [*self._busy, *self._idle]:
                    process.kill()
                    process.errors.close()
                for lock in self._locks.values():
                    lock.release()
        return self.outcomes

    def _share_ray(self, waiting: Sequence[_Task], stack: ExitStack) -> None:
        """Start one Ray for all notebooks if one of them measures and has none to go to."""
        if self._environment or not any(_starts_ray(task) for task in waiting):
            return
        from lab import sweeps

        with suppress(ClusterError):  # whoever needs it tries again, and tells
            self._environment = stack.enter_context(sweeps.local())

    # Planning: what is there already, and is it still good?

    def _plan(self) -> list[_Task]:
        tasks = []
        for tenant in self.tenants:
            known: dict[tuple[str, ...], params.Resolved] = {}
            for notebook in self.notebooks:
                own = () if self.asked is None else self.asked.get((tenant, notebook))
                if own is None:
                    continue
                overrides = (*own, *self.overrides)
                if overrides not in known:
                    known[overrides] = params.load(
                        tenant, profile=self.profile, overrides=overrides, root=self.root
                    )
                tasks.append(_Task(known[overrides], notebook))
        # Those that run side by side go first: no core is idle between two that run alone.
        tasks.sort(key=lambda task: (task.last, task.alone))
        planned: list[_Task] = []
        for task in tasks:
            before = {one.tenant for one in planned if not one.last}
            if task.last and task.tenant in before:
                task.reason = "what it reads is made anew"
                self.show(Event("planned", task.tenant, task.notebook, task.reason))
                planned.append(task)
            elif self._must_run(task):
                planned.append(task)
        return planned

    def _must_run(self, task: _Task) -> bool:
        try:
            task.reason = "forced" if self.force else runs.why_run(task.files, _parts(task)) or ""
        except LabError as error:
            self._end(task, "failed", str(error))
            return False
        if not task.reason:
            self._end(task, "reused", "nothing has changed")
            return False
        self.show(Event("planned", task.tenant, task.notebook, task.reason))
        return True

    def _has_changed(self, task: _Task) -> bool:
        """Look again, now that what the task reads is there: it may have come out as it was."""
        try:
            reason = runs.why_run(task.files, _parts(task))
        except LabError as error:
            self._end(task, "failed", str(error))
            return False
        if reason is None:
            self._end(task, "reused", "nothing has changed")
        task.reason = reason or task.reason
        return reason is not None

    # Carrying out

    def _loop(self, waiting: list[_Task], jobs: int) -> None:
        while waiting or self._busy:
            while waiting and len(self._busy) < jobs:
                task = self._next(waiting)
                if task is None:
                    break
                self._start(task, jobs)
            self._release_done(waiting)
            self._handle_events()
            self._enforce_deadlines()

    def _next(self, waiting: list[_Task]) -> _Task | None:
        """Take the first task that may start now, and whose tenant no other run is working on."""
        for task in list(waiting):
            if not self._may_join(task) or not self._lock(task):
                continue
            waiting.remove(task)
            # Another run may have done the work while this one waited for it.
            if task.waiting_told and not self._must_run(task):
                continue
            if task.last and not self.force and not self._has_changed(task):
                continue
            return task
        return None

    def _may_join(self, task: _Task) -> bool:
        running = [process.task for process in self._busy if process.task]
        return not running or not any(one.alone for one in (task, *running))

    def _lock(self, task: _Task) -> bool:
        if task.tenant in self._locks:
            return True
        task.files.tenant.reports.mkdir(parents=True, exist_ok=True)
        lock = FileLock(task.files.tenant.reports / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not task.waiting_told:
                task.waiting_told = True
                text = "another run is working on this tenant; waiting for it"
                self.show(Event("waiting", task.tenant, task.notebook, text))
            return False
        self._locks[task.tenant] = lock
        return True

    def _release_done(self, waiting: list[_Task]) -> None:
        needed = {task.tenant for task in waiting}
        needed |= {process.task.tenant for process in self._busy if process.task}
        for tenant in [name for name in self._locks if name not in needed]:
            self._locks.pop(tenant).release()

    def _start(self, task: _Task, jobs: int) -> None:
        try:
            job = self._job(task, threads=max(1, machine.threads() // (1 if task.alone else jobs)))
        except LabError as error:
            self._end(task, "failed", str(error))
            return
        process = self._idle.pop() if self._idle else self._spawn()
        process.task, process.job = task, job
        process.began, process.cancel_at, process.reason = time.monotonic(), None, ""
        self._busy.append(process)
        self.show(Event("started", task.tenant, task.notebook, task.reason))
        self._order(process, {"order": "run", "job": asdict(job)})

    def _job(self, task: _Task, *, threads: int) -> Job:
        execution = task.resolved.settings.execution
        return Job(
            root=str(self.root),
            tenant=task.tenant,
            notebook=task.notebook,
            profile=self.profile,
            parameters=params.notebook_parameters(task.resolved, task.notebook),
            key_parts=_parts(task),
            models=_models(task.resolved),
            reproduce=reproduce(task.tenant, task.notebook, self.profile, task.resolved.overrides),
            cell_timeout_s=execution.cell_timeout_s,
            kernel_start_s=execution.kernel_start_s,
            threads=threads,
        )

    def _spawn(self) -> _Process:
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        popen = subprocess.Popen(
            [sys.executable, "-m", "lab.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            cwd=self.root,
            env={**os.environ, **self._environment, "LAB_ROOT": str(self.root)},
            start_new_session=True,  # Ctrl-C is for the driver, which tells the workers
        )
        process = _Process(popen, errors)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: _Process) -> None:
        for line in process.popen.stdout or ():
            with suppress(ValueError):
                self._events.put((process, json.loads(line)))
        self._events.put((process, None))

    def _order(self, process: _Process, order: dict[str, Any]) -> None:
        # A worker that is dead already is noticed by its listener.
        with suppress(OSError):
            stdin = process.popen.stdin
            if stdin is not None:
                stdin.write(json.dumps(order) + "\n")
                stdin.flush()

    def _handle_events(self) -> None:
        try:
            process, event = self._events.get(timeout=_POLL_S)
        except queue.Empty:
            return
        task = process.task
        if event is None:
            self._bury(process)
        elif task is None:
            return
        elif event["event"] == "cell":
            for pid in event["kernels"]:
                with suppress(psutil.NoSuchProcess):
                    process.kernels.append(psutil.Process(pid))
            seconds = time.monotonic() - process.began
            self.show(
                Event(
                    "cell",
                    task.tenant,
                    task.notebook,
                    cell=event["cell"],
                    cells=event["cells"],
                    seconds=seconds,
                )
            )
        elif event["event"] == "finished":
            self._finished(process, event)

    def _finished(self, process: _Process, event: dict[str, Any]) -> None:
        task = process.task
        if task is None:
            return
        self._busy.remove(process)
        process.task = process.job = None
        process.kernels.clear()
        self._idle.append(process)
        text = event["error"]
        if event["left"]:
            text += f"; what there is was left in {event['left']}"
        status: Status = event["status"]
        if status == "failed" and self._interrupted:
            status = "interrupted"
        self._end(task, status, text, time.monotonic() - process.began)

    def _bury(self, process: _Process) -> None:
        """A worker died. Have another one leave the failed report of what it was doing."""
        if process in self._idle:
            self._idle.remove(process)
        if process not in self._busy:
            return
        self._busy.remove(process)
        process.kill()
        task, job = process.task, process.job
        if task is None or job is None:
            return
        reason = process.reason or f"the process that ran the notebook died{_last_words(process)}"
        process.errors.close()
        if process.reason.startswith("buried: "):
            self._end(task, "failed", process.reason.removeprefix("buried: "))
            return
        fresh = self._spawn()
        fresh.task, fresh.job = task, job
        fresh.began, fresh.reason = process.began, f"buried: {reason}"
        self._busy.append(fresh)
        failure = asdict(Failure("WorkerDied" if not process.reason else "Cancelled", reason))
        self._order(fresh, {"order": "bury", "job": asdict(job), "failure": failure})

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for process in list(self._busy):
            if process.task is None:
                continue
            limit = process.task.resolved.settings.execution.notebook_timeout_s
            if process.cancel_at is None and now - process.began > limit:
                self._cancel(process, f"ran longer than execution.notebook_timeout_s = {limit:g} s")
            elif process.cancel_at is not None and now - process.cancel_at > _GRACE_S:
                process.cancel_at = now
                process.kill()

    def _cancel(self, process: _Process, reason: str) -> None:
        process.cancel_at = time.monotonic()
        process.reason = process.reason or reason
        self._order(process, {"order": "cancel", "reason": reason})

    def _interrupt(self, waiting: list[_Task]) -> None:
        """Ctrl-C: nothing new starts; what runs leaves its failed notebook and report."""
        self._interrupted = True
        for task in waiting:
            self._end(task, "interrupted", "not started: interrupted")
        waiting.clear()
        try:
            for process in list(self._busy):
                self._cancel(process, "interrupted by Ctrl-C")
            while self._busy:
                self._handle_events()
                self._enforce_deadlines()
        except KeyboardInterrupt:  # asked twice: leave at once
            for process in self._busy:
                if process.task:
                    self._end(process.task, "interrupted", "interrupted twice: no report was left")

    def _end(self, task: _Task, status: Status, text: str, seconds: float = 0.0) -> None:
        self.outcomes.append(Outcome(task.tenant, task.notebook, status, seconds, text))
        self.show(
            Event("finished", task.tenant, task.notebook, text, seconds=seconds, status=status)
        )


def choose(asked: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return the notebooks asked for by name, file name or number; all if none is named.

    Raises: UsageError for a name that fits none or several.
    """
    chosen = []
    for name in asked:
        plain = Path(name).stem if name.endswith(".ipynb") else name
        fits = [known_name for known_name in known if plain == known_name]
        fits = fits or [one for one in known if one.split("_")[0] == plain.zfill(2)]
        if len(fits) != 1:
            raise UsageError(message(f"--notebook must be one of {', '.join(known)}", got=name))
        chosen += [one for one in fits if one not in chosen]
    return chosen or list(known)


def reproduce(tenant: str, notebook: str, profile: str, overrides: Sequence[str]) -> str:
    """Return the command that makes one report again."""
    import shlex

    words = ["lab", "run", tenant, "--notebook", notebook, "--profile", profile]
    for text in overrides:
        words += ["--set", text]
    return shlex.join(words)


def _parts(task: _Task) -> dict[str, str]:
    data = corpus.fingerprint(task.resolved.data_folder, cache=task.resolved.tenant.cache)
    parts = runs.key_parts(task.resolved, task.notebook, data=data, models=_models(task.resolved))
    return parts | ({"other notebooks": _others(task)} if task.last else {})


def _others(task: _Task) -> str:
    """Return the digest of what all notebooks of all tenants left that are not themselves last."""
    root, found = task.resolved.tenant.root, []
    for slug in tenants.known_tenants(root):
        for name in runs.notebooks(root):
            if name not in task.resolved.settings.execution.last:
                record = runs.read_record(runs.Files(tenants.Tenant(slug, root), name)) or {}
                found.append([slug, name, *map(record.get, ("run_key", "started", "status"))])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _models(resolved: params.Resolved) -> dict[str, str]:
    """Return the digest of each role's checkpoint that is on this machine.

    One that is not there, or not whole, is left out: the notebooks that need it will say so.
    """
    root, name = resolved.tenant.root, resolved.settings.suite
    found = {}
    for role, source in (suites.load(name, root=root).sources if name else {}).items():
        with suppress(LabError):
            if folder := suites.cached(source, root=root):
                found[role] = checkpoints.digest(folder, cache=suites.digest_cache(root))
    return found


def _starts_ray(task: _Task) -> bool:
    """Tell whether a notebook would start a Ray of its own."""
    ray = task.resolved.settings.ray
    if ray.mode == "inline" or ray.address or os.environ.get("RAY_ADDRESS"):
        return False
    text = runs.stripped(task.resolved.tenant.root / "notebooks" / f"{task.notebook}.ipynb")
    return any(word in text for word in _NEED_RAY)


def _last_words(process: _Process) -> str:
    with suppress(OSError, ValueError):
        process.errors.seek(0)
        lines = process.errors.read()[-2000:].strip().splitlines()
        code = process.popen.poll()
        return f" (exit {code}{': ' + lines[-1] if lines else ''})"
    return ""


def _kill_tree(popen: subprocess.Popen[str]) -> None:
    """Kill a process and everything below it, kernels in their own sessions included."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(popen.pid)
        for process in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with suppress(subprocess.TimeoutExpired):
        popen.wait(timeout=10)
    for stream in (popen.stdin, popen.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
