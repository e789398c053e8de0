"""The house's rules that a machine can check: style, floors, pins, notebooks as committed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "lab").glob("*.py"))


def run(root, *words):
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=root, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "words",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("lint-imports", "--no-cache"),
        ("nbstripout", "--verify", *map(str, NOTEBOOKS)),
    ],
    ids=["lint", "format", "floors", "notebooks"],
)
def test_a_tool_finds_nothing(root, words):
    answer = run(root, *words)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_importing_the_lab_is_quick_and_light(root):
    code = (
        "import sys, time; t = time.perf_counter(); import lab; print(time.perf_counter() - t);"
        "print(*[m for m in ('torch', 'numpy', 'pandas', 'datasets', 'ray') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[1] == ""


def test_the_command_line_starts_without_the_heavy_packages(root):
    code = (
        "import sys; from lab import cli, execute;"
        "print(*[m for m in ('torch', 'pandas', 'datasets', 'pyarrow', 'sklearn', 'papermill',"
        " 'nbformat', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_says_what_it_owns_and_what_it_does_not_know(path):
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert text
    if path.stem != "__init__":
        assert re.search(r"\b[Oo]wns\b", text), path.stem
        assert re.search(r"\b(Knows|knows)\b|Changes nothing", text), path.stem


def pins(text):
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {
        name.lower().replace("_", "-"): version
        for line in lines
        if line and not line.startswith("-")
        for name, version in [line.split("==")]
    }


def test_every_dependency_is_pinned_within_its_range(root):
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = pins((root / "constraints.txt").read_text("utf-8"))
    for text in wanted:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert name in pinned, name
        assert requirement.specifier.contains(pinned[name]), f"{text}: pinned {pinned[name]}"


def test_conda_users_get_the_same_pins(root):
    environment = YAML(typ="safe").load((root / "environment.yml").read_text("utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pins("\n".join(pip)) == pins((root / "constraints.txt").read_text("utf-8"))


def test_what_is_installed_is_what_is_pinned(root):
    import importlib.metadata

    for name, version in pins((root / "constraints.txt").read_text("utf-8")).items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        # A build for one kind of machine bears a label of its own: 2.13.0+cpu.
        assert installed.partition("+")[0] == version, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def cells(self, path):
        return json.loads(path.read_text("utf-8"))["cells"]

    def test_is_committed_without_outputs(self, path):
        for cell in self.cells(path):
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                assert cell["execution_count"] is None

    def test_begins_with_its_question(self, path):
        first = self.cells(path)[0]
        assert first["cell_type"] == "markdown"
        assert "".join(first["source"]).startswith("# ")
        assert "change our mind" in "".join(first["source"])

    def test_asks_and_leaves_the_work_to_the_lab(self, path):
        for cell in self.cells(path):
            source = "".join(cell["source"])
            if cell["cell_type"] != "code":
                continue
            assert len(source.splitlines()) <= 12
            tree = ast.parse(source)
            assert not any(
                isinstance(node, ast.FunctionDef | ast.ClassDef | ast.While | ast.For)
                for node in ast.walk(tree)
            )
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "lab":
                    names = {alias.name for alias in node.names}
                    assert not names & {"cli", "execute", "worker", "reports", "runs"}

    def test_has_the_common_parameters_in_the_form_papermill_reads(self, path):
        cells = [
            cell for cell in self.cells(path) if "parameters" in cell["metadata"].get("tags", [])
        ]
        assert len(cells) == 1
        lines = "".join(cells[0]["source"]).splitlines()
        for line in lines:
            assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = [^=|]+  # [^=]+", line), (
                line
            )
        names = [line.split(":")[0] for line in lines]
        assert names[:4] == ["tenant", "profile", "seed", "overrides"]

    def test_ends_with_its_conclusion_and_provenance(self, path):
        codes = [
            "".join(cell["source"]) for cell in self.cells(path) if cell["cell_type"] == "code"
        ]
        assert "provenance.collect" in codes[-1]
        assert "Conclusion(" in codes[-1]
