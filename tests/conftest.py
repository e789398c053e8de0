"""Small projects and corpora for the tests; everything is made in temporary folders."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from filelock import FileLock

from lab import machine, synthesis
from lab.params import Scale

# As many test processes as cores run at a time; with threads of their own they would queue up.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
LAB = Path(sys.executable).with_name("lab")
GOOD_END = (
    "from lab import slo\n"
    'slo.Conclusion([slo.Metric("answer_f1", 0.9, unit="share", n=10, ci=(0.8, 0.95))])'
)

# Copies of params/ go without the 48 MB of the demo suite, which few tests need.
NO_WEIGHTS = shutil.ignore_patterns(".ipynb_checkpoints", "*.safetensors")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test waits for what is measured on this machine, by people or by other tests.

    Its path is short, as the system's is: sockets are made in it.
    """
    tmp_path_factory.getbasetemp()  # stays where it was
    with (
        tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture
def root() -> Path:
    """The repository itself."""
    return ROOT


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Path]:
    """Make a project folder with its own params, notebooks and a tiny FAQ per tenant."""

    def make(
        notebooks: Mapping[str, Sequence[str]], *, tenants: Sequence[str] = ("medical",)
    ) -> Path:
        project = tmp_path / "project"
        shutil.copytree(ROOT / "params", project / "params", ignore=NO_WEIGHTS)
        for path in (project / "params" / "tenants").glob("*.yaml"):
            if path.stem not in tenants:
                path.unlink()
        shutil.copy(ROOT / "constraints.txt", project)
        (project / "reports").mkdir()
        settings = project / "params" / "lab.yaml"
        text = settings.read_text("utf-8")
        begin = text.index("notebooks:  ")
        end = text.index("profiles:")
        settings.write_text(text[:begin] + "notebooks: {}\n\n" + text[end:], "utf-8")
        for name, cells in notebooks.items():
            write_notebook(project / "notebooks" / f"{name}.ipynb", cells)
        for tenant in tenants:
            folder = project / "data" / tenant
            folder.mkdir(parents=True)
            rows = [
                {
                    "question": f"问题{i}怎么办？",
                    "answer": f"办法{i}。",
                    "language": "zh",
                    "annotation": "问题",
                }
                for i in range(5)
            ]
            (folder / "faq.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
        return project

    return make


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook: a title, the common parameters, then the given code cells."""
    parameters = (
        'tenant: str = "medical"  # slug\nprofile: str = "demo"  # profile\n'
        "seed: int = 0  # seed\noverrides: list = []  # as --set takes them"
    )
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# A notebook for tests"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *(nbformat.v4.new_code_cell(source) for source in cells),
        ],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def lab(project: Path, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the lab's command line in a project, as a person would."""
    return subprocess.run(
        [str(LAB), *words], cwd=project, capture_output=True, text=True, timeout=timeout
    )


@contextmanager
def measuring(device: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has a device to itself until it gets a line, or is killed at the end.

    It says when it has to wait, and when it has it.
    """
    code = (
        "import sys; from lab import locks\n"
        "with locks.measuring(sys.argv[1], waiting=lambda stage: print(stage, flush=True)):\n"
        "    print('has it', flush=True); sys.stdin.readline()"
    )
    words = [sys.executable, "-c", code, device]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def processes_of(project: Path) -> list[psutil.Process]:
    """Return the living processes that work in a project: workers and kernels."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if Path(process.cwd()).is_relative_to(project) and process.pid != psutil.Process().pid:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture(scope="session")
def demo_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped params and notebooks with a small demo corpus, defects planted, made once."""
    scale = Scale(faq=240, images=40, speech=40, joint=10)
    return _made_once(tmp_path_factory, "demo-project", scale, defect_share=0.1)


@pytest.fixture(scope="session")
def sound_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped params with a small demo corpus without a defect, made once."""
    scale = Scale(faq=120, images=12, speech=24, joint=9)
    return _made_once(tmp_path_factory, "sound-project", scale, defect_share=0.0)


@pytest.fixture
def fresh_project(demo_project: Path, tmp_path: Path) -> Path:
    """A private copy of the demo project, to be changed at will."""
    shutil.copytree(
        demo_project,
        tmp_path / "demo",
        ignore=shutil.ignore_patterns("reports", ".cache"),
        copy_function=_copy,
    )
    (tmp_path / "demo" / "reports").mkdir()
    return tmp_path / "demo"


def _made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, scale: Scale, *, defect_share: float
) -> Path:
    """Return a project that the processes of this run have in common, and no other run has."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{shared}.lock"):
        if not (shared / "data" / "medical").is_dir():
            copy_project(shared)
            recipe = synthesis.Recipe(
                tenant="medical", scale=scale, seed=1, defect_share=defect_share
            )
            synthesis.make(recipe, shared / "data" / "medical", jobs=1)
    return shared


def copy_project(folder: Path) -> None:
    """Copy what a project consists of besides its data."""
    for name in ("params", "notebooks"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
            copy_function=_copy,
        )
    shutil.copy(ROOT / "constraints.txt", folder)
    suite = folder / "params" / "models" / "demo.yaml"
    here = suite.read_text("utf-8").replace("folder: params/", f"folder: {ROOT}/params/")
    suite.write_text(here, "utf-8")
    (folder / "reports").mkdir()


def _copy(source: str, target: str) -> None:
    """Copy a file; weights become a second name of the same file where that is possible."""
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):  # on another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)


def small_llama() -> Any:
    """Return an untrained Llama of two layers whose words are tied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ).eval()


def require_browser() -> str:
    """Return the path of Chromium, or skip the test with the reason."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = machine.browser()
    if found is None:
        pytest.skip(f"none of {', '.join(machine.BROWSERS)} is installed")
    return found


BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
