"""A workflow followed for tenants, with notebooks that only pretend to run."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from conftest import NO_WEIGHTS

from lab import stages, workflow
from lab.errors import ParameterError
from lab.nodes import Candidate

SHIPPED = "params/tune_workflow.yaml"
ROW = {"question": "问题？", "answer": "答案。", "language": "zh", "annotation": "类别"}
TUNING = ["02_quantization", "03_pruning", "04_batch_size_sweep"]


@pytest.fixture
def project(root, tmp_path):
    shutil.copytree(root / "params", tmp_path / "params", ignore=NO_WEIGHTS)
    for tenant in ("ecommerce", "education", "medical"):
        faq(tmp_path, tenant, [ROW])
    return tmp_path


@pytest.fixture
def flow(root):
    return workflow.load(root / SHIPPED, shown_as=SHIPPED)


def faq(project, tenant, rows):
    folder = project / "data" / tenant
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faq.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")


def examine(flow, project, *tenants, overrides=()):
    return stages.examine(
        flow, tenants or ("medical",), profile="demo", overrides=overrides, root=project
    )


def follow(flow, found, failing=()):
    """Return the course, the notebooks of each stage, and what was told."""
    ran, told = [], []

    def carry_out(asked):
        ran.append(sorted(asked))
        return [name for name in asked if name in failing]

    return stages.follow(flow, found, carry_out=carry_out, tell=told.append), ran, told


def test_the_monitor_comes_after_the_tuning(flow, project):
    course, ran, told = follow(flow, examine(flow, project))
    assert ran == [[("medical", name) for name in TUNING], [("medical", "05_consistency")]]
    assert course.completed == {"medical": ["optimize_model", "prometheus_monitor"]}
    assert not course.failed
    assert not course.idle
    assert "medical: the corpus has faq" in told
    assert f"medical: optimize_model leads to {', '.join(TUNING)}" in told


def test_what_failed_has_not_completed_and_other_tenants_go_on(flow, project):
    found = examine(flow, project, "medical", "education")
    course, ran, told = follow(flow, found, failing=[("medical", "03_pruning")])
    assert ran[1] == [("education", "05_consistency")]
    assert course.completed["medical"] == []
    assert course.failed == {("medical", "03_pruning")}
    assert "medical: prometheus_monitor is not reached: optimize_model.completed is not met" in told


def test_a_tenant_for_whom_no_rule_fires_is_told_of(flow, project):
    faq(project, "medical", [])
    course, ran, told = follow(flow, examine(flow, project))
    assert ran == []
    assert course.idle == ["medical"]
    assert not course.failed
    assert "medical: no rule fires, so nothing is run" in told
    assert "medical: the corpus has nothing; no sound row in faq, see lab data check medical" in (
        told
    )


def test_a_table_without_a_sound_row_is_not_present(flow, project):
    faq(project, "medical", [{**ROW, "language": "fr"}])
    (found,) = examine(flow, project)
    assert (found.tables, found.unsound, found.present) == ((), ("faq",), set())
    (project / "data" / "medical" / "faq.json").write_text("{")
    (found,) = examine(flow, project)
    assert found.unsound == ("faq",)


@pytest.mark.parametrize(
    ("tables", "present"),
    [
        (["faq"], {"text"}),
        (["images"], {"image"}),
        (["speech"], {"audio"}),
        (["joint"], {"text", "image", "audio"}),
        ([], set()),
    ],
)
def test_what_is_present_follows_from_the_tables(flow, project, tables, present):
    (found,) = examine(flow, project)
    assert dataclasses.replace(found, tables=tuple(tables)).present == present


def test_images_alone_are_matched_with_their_descriptions(flow, project):
    (found,) = examine(flow, project)
    _, ran, _ = follow(flow, [dataclasses.replace(found, tables=("images",))])
    assert [name for _, name in ran[0]] == ["02_quantization", "04_batch_size_sweep"]


def test_what_is_there_can_be_led_to_but_not_asked_about(flow, project):
    """The joint table holds words, and a question about an image without an input for images."""
    (found,) = examine(flow, project)
    flow = dataclasses.replace(flow, inputs=tuple(o for o in flow.inputs if o.modality == "text"))
    only = dataclasses.replace(found, tables=("joint",))
    course, ran, told = follow(flow, [only])
    assert ran == []
    assert course.idle == []
    assert any("optimize_model is reached, but nothing can be asked" in one for one in told)
    assert course.completed == {"medical": []}


def test_a_tenant_without_a_corpus_fails_and_the_others_go_on(flow, project):
    shutil.rmtree(project / "data" / "medical")
    course, ran, told = follow(flow, examine(flow, project, "medical", "education"))
    assert course.failed == {("medical", "")}
    assert course.idle == []
    assert ran[0] == [("education", name) for name in TUNING]
    assert any(one.startswith("medical: a corpus must be a folder") for one in told)


def test_a_node_without_notebooks_completes(flow, project):
    flow = dataclasses.replace(flow, candidate=Candidate("optimize_model", cache="redis"))
    course, ran, told = follow(flow, examine(flow, project))
    assert ran == [[("medical", "05_consistency")]]
    assert "medical: optimize_model leads to no notebook" in told
    assert course.completed["medical"] == ["optimize_model", "prometheus_monitor"]


def test_the_command_line_comes_last(flow, project):
    typed = ["notebooks.02_quantization.batch_sizes=[2]", "ray.mode=inline"]
    course, _, _ = follow(flow, examine(flow, project, overrides=typed))
    keys = {one.key for given in course.asked.values() for one in given}
    assert "notebooks.03_pruning.batch_size" in keys
    assert not keys & {"notebooks.02_quantization.batch_sizes", "ray.mode"}


def test_contradictions_of_all_tenants_come_at_once(flow, project):
    own = project / "params" / "tenants" / "education.yaml"
    own.write_text(own.read_text("utf-8") + "\ndata: {image_width: 256}\n", "utf-8")
    with pytest.raises(ParameterError) as caught:
        examine(flow, project, "medical", "education", overrides=["data.sampling_rate=8000"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert any("of education (params/tenants/education.yaml:" in line for line in lines)
