"""The process in which notebooks are executed: one job after another, Papermill imported once.

Owns a notebook from its parameters to its three files, and whether it really came to its end.
Started by ``lab.execute`` as ``python -m lab.worker``: jobs come as JSON lines on standard input,
events go as JSON lines to standard output. Knows nothing of other tenants, workers or reuse.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

from lab import provenance, reports, runs, slo
from lab.errors import LabError, NotebookError, message, printable
from lab.files import write_whole
from lab.tenants import Tenant

# Two busy libraries on the same cores slow each other down many times over.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Job:
    """What one worker needs to know to run one notebook for one tenant."""

    root: str
    tenant: str
    notebook: str
    profile: str
    parameters: dict[str, Any]
    key_parts: dict[str, str]
    models: dict[str, str]  # digest by role, of the tenant's suite
    reproduce: str
    cell_timeout_s: float
    kernel_start_s: float
    threads: int  # of each library that computes in the kernel

    @property
    def files(self) -> runs.Files:
        """Where the job's files go."""
        return runs.Files(Tenant(self.tenant, Path(self.root)), self.notebook)

    @property
    def partial(self) -> Path:
        """Where the notebook is kept while it runs, for the case that this process is killed."""
        return self.files.tenant.cache / f"{self.notebook}.partial.ipynb"


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not come to its end."""

    name: str
    text: str


class _Worker:
    """The state shared between the job loop and the thread that listens for orders."""

    def __init__(self, events: IO[str]) -> None:
        self._events = events
        self._cancelled: str | None = None
        self._busy = False
        self._lock = threading.Lock()
        self.jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def tell(self, event: str, **details: Any) -> None:
        """Send one event to the driver."""
        with suppress(BrokenPipeError):
            self._events.write(json.dumps({"event": event, **details}) + "\n")
            self._events.flush()

    def listen(self) -> None:
        """Read orders until the driver is gone; then leave no kernel behind."""
        for line in sys.stdin:
            order = json.loads(line)
            if order["order"] == "cancel":
                with self._lock:
                    if self._busy:
                        self._cancelled = order["reason"]
                kill_children()
            else:
                self.jobs.put(order)
        if self._busy:
            kill_children()
            os._exit(1)
        self.jobs.put(None)

    def begin(self) -> None:
        """Note that a job runs from now on, so that it can be cancelled."""
        with self._lock:
            self._busy, self._cancelled = True, None

    def end(self) -> None:
        """Note that no job runs."""
        with self._lock:
            self._busy = False

    @property
    def cancelled(self) -> str | None:
        """Why the job was cancelled, or None."""
        return self._cancelled


def kill_children() -> None:
    """Kill every process below this one: the kernel, and what the kernel started."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def main() -> None:
    """Carry out orders until standard input ends."""
    # Standard output is the line to the driver: whatever else prints goes to standard error.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    runtime = tempfile.mkdtemp(prefix="lab-kernels-")
    os.environ["JUPYTER_RUNTIME_DIR"] = runtime  # short: a socket's path has at most 107 bytes
    worker = _Worker(events)
    threading.Thread(target=worker.listen, daemon=True).start()
    try:
        while (order := worker.jobs.get()) is not None:
            job = Job(**order["job"])
            worker.begin()
            try:
                if order["order"] == "bury":
                    _bury(job, Failure(**order["failure"]), worker)
                else:
                    _carry_out(job, worker)
            except Exception as error:  # the driver must hear of whatever went wrong
                worker.tell("finished", status="failed", error=_one_line(error), left="")
            finally:
                worker.end()
    finally:
        kill_children()
        shutil.rmtree(runtime, ignore_errors=True)


def _carry_out(job: Job, worker: _Worker) -> None:
    started, clock = datetime.now(UTC), time.monotonic()
    notebook, failure = _execute(job, worker)
    seconds = time.monotonic() - clock
    conclusion = None if failure else _conclusion(notebook)
    if failure is None and conclusion is None:
        failure = Failure(
            "NotebookError",
            "a notebook must show a lab.slo.Conclusion, but none was shown",
        )
        _mark_failed(notebook, len(notebook.cells) - 1, failure)
    record = {
        "schema": runs.SCHEMA,
        "tenant": job.tenant,
        "notebook": job.notebook,
        "profile": job.profile,
        "status": "failed" if failure else "ok",
        "run_key": runs.run_key(job.key_parts),
        "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "provenance": provenance.collect(
            Path(job.root),
            data=job.key_parts["data"],
            seed=job.parameters["seed"],
            models=job.models,
        ),
        "metrics": conclusion or [],
        "key_parts": job.key_parts,
    }
    if failure:
        record["error"] = f"{failure.name}: {failure.text}"
    _finish(job, notebook, record, worker)


def _bury(job: Job, failure: Failure, worker: _Worker) -> None:
    """Leave the failed notebook and its report for a job whose own worker is dead."""
    import nbformat

    try:
        notebook = nbformat.read(job.partial, as_version=4)
    except Exception:  # nothing, or half of something: start from the notebook as committed
        notebook = nbformat.read(
            Path(job.root) / "notebooks" / f"{job.notebook}.ipynb", as_version=4
        )
    _mark_failed(notebook, _running_cell(notebook), failure)
    record = {
        "schema": runs.SCHEMA,
        "tenant": job.tenant,
        "notebook": job.notebook,
        "profile": job.profile,
        "status": "failed",
        "run_key": runs.run_key(job.key_parts),
        "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": 0.0,
        "provenance": provenance.collect(
            Path(job.root),
            data=job.key_parts["data"],
            seed=job.parameters["seed"],
            models=job.models,
        ),
        "metrics": [],
        "key_parts": job.key_parts,
        "error": f"{failure.name}: {failure.text}",
    }
    _finish(job, notebook, record, worker)


def _finish(job: Job, notebook: Any, record: dict[str, Any], worker: _Worker) -> None:
    """Write the three files; where that is impossible, leave them elsewhere as a failed run."""
    import nbformat

    def pages() -> dict[str, str]:
        last_good = runs.last_good(job.files) if record["status"] != "ok" else None
        html = reports.render(
            notebook,
            record=record,
            reproduce=job.reproduce,
            last_good=last_good.name if last_good else None,
        )
        return {"ipynb": nbformat.writes(notebook), "html": html}

    left = ""
    try:
        runs.write(job.files, record, **pages())
    except OSError as error:
        failure = Failure(type(error).__name__, f"the report could not be written: {error}")
        record |= {"status": "failed", "error": f"{failure.name}: {failure.text}"}
        _mark_failed(notebook, len(notebook.cells) - 1, failure)
        with suppress(OSError):
            left = str(runs.write_elsewhere(job.files, record, **pages()))
    with suppress(OSError):
        job.partial.unlink(missing_ok=True)
    worker.tell("finished", status=record["status"], error=record.get("error", ""), left=left)


def _execute(job: Job, worker: _Worker) -> tuple[Any, Failure | None]:
    """Run the notebook; return it as far as it came, and why it stopped, if it did."""
    import nbformat
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import remove_error_markers
    from traitlets.config import Config

    path = Path(job.root) / "notebooks" / f"{job.notebook}.ipynb"
    _check_parameters(job)
    notebook = nbformat.read(path, as_version=4)
    os.environ.update(dict.fromkeys(_THREADS, str(job.threads)))  # the kernel takes it over
    seen: dict[str, Any] = {"notebook": notebook, "cell": None}
    total = sum(cell.cell_type == "code" for cell in notebook.cells) + 1  # + the injected one
    codes = 0

    def on_start(notebook: Any) -> None:
        seen["notebook"] = notebook

    def on_cell(cell: Any, cell_index: int) -> None:
        nonlocal codes
        seen["cell"] = cell_index
        if cell.cell_type == "code":
            codes += 1
            kernels = [child.pid for child in psutil.Process().children()]
            worker.tell("cell", cell=codes, cells=total, kernels=kernels)
            with suppress(OSError):  # only a spare copy: a full disk must not stop the run
                job.partial.parent.mkdir(parents=True, exist_ok=True)
                write_whole(job.partial, nbformat.writes(seen["notebook"]))

    failure = None
    try:
        execute_notebook(
            path,
            None,
            parameters=job.parameters,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=int(job.kernel_start_s),
            execution_timeout=int(job.cell_timeout_s),
            resources={"metadata": {"path": job.root}},
            # Sockets in this worker's own folder: parallel kernels cannot race for TCP ports.
            config=Config({"KernelManager": {"transport": "ipc", "ip": _socket_path()}}),
            on_notebook_start=on_start,
            on_cell_start=on_cell,
        )
    except PapermillExecutionError as error:
        failure = Failure(error.ename, _plain(error.evalue))
    except Exception as error:  # a dead kernel, a timeout, a full disk: each ends in a report
        failure = Failure(type(error).__name__, _reason(error, job))
    if worker.cancelled:
        failure = Failure("Cancelled", worker.cancelled)
    kill_children()
    notebook = remove_error_markers(seen["notebook"])
    if failure is None:
        failure = _silent_failure(notebook)
    if failure:
        _mark_failed(notebook, _failing_cell(notebook, seen["cell"]), failure)
    return notebook, failure


def _socket_path() -> str:
    return str(Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "kernel")


def _check_parameters(job: Job) -> None:
    """Refuse what Papermill only warns of: a parameter that the notebook does not declare."""
    declared = list(runs.declared(Path(job.root), job.notebook))
    unknown = [name for name in job.parameters if name not in declared]
    if unknown:
        raise NotebookError(
            message(
                f"parameters of {job.notebook} must be among {', '.join(declared)}",
                got=", ".join(unknown),
                place=f"notebooks.{job.notebook}",
                remedy="remove them from params/ or --set",
            )
        )


def _reason(error: Exception, job: Job) -> str:
    kind = type(error).__name__
    if kind == "DeadKernelError":
        return "the kernel died: killed by the system (out of memory?) or by somebody"
    if kind == "CellTimeoutError":
        return f"a cell ran longer than execution.cell_timeout_s = {job.cell_timeout_s:g} s"
    return _one_line(error)


def _silent_failure(notebook: Any) -> Failure | None:
    """Find what Papermill lets pass: ``sys.exit(0)``, and cells that never ran."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return Failure(output.ename, _plain(output.evalue) or "left before its end")
        if cell.execution_count is None:
            return Failure("NotebookError", "a cell was never executed")
    return None


def _failing_cell(notebook: Any, last: int | None) -> int | None:
    for index, cell in enumerate(notebook.cells):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            return index
    return last


def _running_cell(notebook: Any) -> int | None:
    for index, cell in enumerate(notebook.cells):
        if cell.metadata.get("papermill", {}).get("status") == "running":
            return index
    return None


def _mark_failed(notebook: Any, index: int | None, failure: Failure) -> None:
    """Make the failing cell look failed: the notebook itself must not read as a success."""
    from nbformat.v4 import new_output

    codes = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    at = index if index is not None and index in codes else (codes[0] if codes else None)
    notebook.metadata["tuning_lab"] = {"status": "failed", "cell": at, "error": failure.name}
    for position, cell in enumerate(notebook.cells):
        if "papermill" in cell.metadata and at is not None and position >= at:
            cell.metadata.papermill["status"] = "failed" if position == at else "pending"
    if at is None:
        return
    cell = notebook.cells[at]
    if not any(output.output_type == "error" for output in cell.outputs):
        text = f"{failure.name}: {failure.text}"
        cell.outputs.append(
            new_output("error", ename=failure.name, evalue=failure.text, traceback=[text])
        )


def _conclusion(notebook: Any) -> list[dict[str, Any]] | None:
    """Return the metrics that the notebook handed over, or None if it showed no conclusion."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get(slo.MIME)
            if data is not None:
                return list(data["metrics"])
    return None


def _plain(text: str) -> str:
    """Return a text that shows and does nothing: no colours, no controls, its lines kept."""
    return "\n".join(printable(line) for line in _ANSI.sub("", str(text)).splitlines())


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _plain(lines[0] if not isinstance(error, LabError) else " | ".join(lines))


if __name__ == "__main__":
    main()
