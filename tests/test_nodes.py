"""What a workflow means for a tenant: who is reached, and with which settings notebooks are run."""

from __future__ import annotations

import dataclasses

import pytest

from lab import params, workflow
from lab.errors import ParameterError
from lab.nodes import Candidate

SHIPPED = "params/tune_workflow.yaml"
ALL = ("text", "image_text", "speech", "joint", "match")


@pytest.fixture
def flow(root):
    return workflow.load(root / SHIPPED, shown_as=SHIPPED)


@pytest.fixture
def settings(root):
    return lambda *overrides: params.load("medical", overrides=overrides, root=root).settings


def given(flow, step, settings, kinds=ALL):
    """Return what each notebook gets, by its short key."""
    return {
        notebook: {one.key.removeprefix(f"notebooks.{notebook}."): one.value for one in overrides}
        for notebook, overrides in flow.notebooks(step, settings, kinds=kinds).items()
    }


@pytest.mark.parametrize(
    ("present", "expected"),
    [({"text"}, 1), ({"image"}, 1), ({"audio"}, 1), ({"text", "image", "audio"}, 1), (set(), 0)],
)
def test_a_node_is_reached_by_what_is_present(flow, present, expected):
    rules = flow.reached("optimize_model", present=present, completed=[])
    assert len(rules) == expected


def test_a_node_is_reached_by_what_has_completed(flow):
    assert not flow.reached("prometheus_monitor", present={"text"}, completed=[])
    done = ["optimize_model"]
    assert flow.reached("prometheus_monitor", present=set(), completed=done) == [flow.rules[1]]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (["faq", "images", "speech", "joint"], list(ALL)),
        (["faq"], ["text"]),
        (["speech"], ["speech"]),
        (["joint"], ["image_text", "joint"]),
        (["images"], ["match"]),
        (["splits"], []),
    ],
)
def test_what_can_be_asked_follows_from_the_tables(flow, tables, expected):
    assert flow.kinds(tables) == expected


@pytest.mark.parametrize(
    ("modality", "expected"),
    [("text", ["text"]), ("image", ["image_text", "match"]), ("audio", ["speech"])],
)
def test_what_can_be_asked_needs_an_input(flow, modality, expected):
    inputs = tuple(one for one in flow.inputs if one.modality == modality)
    alone = dataclasses.replace(flow, inputs=inputs)
    assert alone.kinds(["faq", "images", "speech", "joint"]) == expected


def test_the_tuning_node_leads_to_the_notebooks_of_what_it_sets(flow, settings):
    found = given(flow, "optimize_model", settings())
    assert found == {
        "02_quantization": {"methods": ["fp32", "nf4"], "batch_sizes": [8]},
        "03_pruning": {"methods": ["l1"], "sparsities": [0.0, 0.2], "batch_size": 8},
        "04_batch_size_sweep": {},  # 8 is among the tenant's own
    }


def test_what_writes_no_words_is_not_pruned(flow, settings):
    found = flow.notebooks("optimize_model", settings(), kinds=["match"])
    assert sorted(found) == ["02_quantization", "04_batch_size_sweep"]


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (Candidate("optimize_model", method="int8"), {"02_quantization"}),
        (Candidate("optimize_model", pruning="l1", sparsity=0.3), {"03_pruning"}),
        (Candidate("optimize_model", batch_size=2), {"04_batch_size_sweep"}),
        (Candidate("optimize_model", sparsity=0.0), set()),
        (Candidate("optimize_model", ray_mode="ray"), set()),
    ],
)
def test_what_it_does_not_set_is_not_run(flow, settings, candidate, expected):
    flow = dataclasses.replace(flow, candidate=candidate)
    assert set(given(flow, "optimize_model", settings())) == expected


def test_the_baseline_stays_the_tenants(flow, settings):
    own = settings("notebooks.02_quantization.methods=[bf16,fp32]")
    assert given(flow, "optimize_model", own)["02_quantization"]["methods"] == ["bf16", "nf4"]
    same = settings("notebooks.02_quantization.methods=[nf4,fp32]")
    assert given(flow, "optimize_model", same)["02_quantization"]["methods"] == ["nf4"]


def test_a_batch_can_be_full_and_the_sweep_holds_its_size(flow, settings):
    own = settings("notebooks.02_quantization.items=4", "notebooks.04_batch_size_sweep.items=4")
    flow = dataclasses.replace(flow, candidate=Candidate("optimize_model", "nf4", 12))
    found = given(flow, "optimize_model", own)
    assert found["02_quantization"]["items"] == 12
    assert found["04_batch_size_sweep"] == {"batch_sizes": [1, 8, 12, 16], "items": 12}


def test_only_what_the_corpus_has_is_asked(flow, settings):
    found = given(flow, "optimize_model", settings(), kinds=["speech"])
    assert found["02_quantization"]["queries"] == ["speech"]
    assert found["03_pruning"]["query"] == "speech"
    found = given(flow, "optimize_model", settings(), kinds=["image_text", "joint"])
    assert found["04_batch_size_sweep"]["queries"] == ["image_text"]
    assert flow.obstacle("optimize_model", kinds=[]).startswith("nothing can be asked")
    assert not flow.obstacle("prometheus_monitor", kinds=[])
    with pytest.raises(ParameterError, match="nothing can be asked"):
        flow.notebooks("optimize_model", settings(), kinds=[])


def test_the_monitor_leads_to_consistency_if_it_watches_that(flow, settings):
    found = given(flow, "prometheus_monitor", settings())
    assert found == {"05_consistency": {"batch_size": 8}}  # fp32 and nf4 are the tenant's own
    watched = dataclasses.replace(flow.monitor, watched=("latency",))
    other = dataclasses.replace(flow, monitor=watched)
    assert given(other, "prometheus_monitor", settings()) == {}
    untuned = dataclasses.replace(flow, candidate=None)
    assert given(untuned, "prometheus_monitor", settings()) == {"05_consistency": {}}


def test_each_setting_tells_its_line_and_is_written_as_set_takes_it(flow, settings, root):
    lines = (root / SHIPPED).read_text("utf-8").splitlines()
    for overrides in flow.notebooks("optimize_model", settings(), kinds=ALL).values():
        for one in overrides:
            file, _, line = one.place.partition(":")
            assert file == SHIPPED
            assert any(
                word in lines[int(line) - 1]
                for word in ("quantization", "batch_size", "pruning", "optimize_model")
            )
            assert settings(str(one))  # is understood


def test_where_it_is_measured_follows_the_file(flow, settings):
    inline = settings("ray.mode=inline")
    for overrides in flow.notebooks("optimize_model", inline, kinds=ALL).values():
        assert [one.value for one in overrides if one.key == "ray.mode"] == ["ray"]
    for overrides in flow.notebooks("optimize_model", settings(), kinds=ALL).values():
        assert not [one for one in overrides if one.key == "ray.mode"]


@pytest.mark.parametrize(
    "override",
    [
        "notebooks.02_quantization={methods: [], items: x, queries: text}",
        "notebooks.02_quantization={methods: 3, items: [1], queries: [[1]]}",
        "notebooks.04_batch_size_sweep={batch_sizes: x, queries: [3]}",
        "notebooks.03_pruning={query: [x]}",
    ],
)
def test_settings_that_are_no_good_are_left_to_the_notebook(flow, settings, override):
    assert given(flow, "optimize_model", settings(override))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.image_height=256", "16: image_input.resolution: must be 512x256, the "
         "data.image_width x data.image_height of medical (params/lab.yaml:"),
        ("data.sampling_rate=8000", "22: speech_input.sampling_rate: must be 8000, the "
         "data.sampling_rate of medical (--set), got 16000; change one of them"),
    ],
)  # fmt: skip
def test_settings_that_contradict_an_input_are_told_with_both_places(flow, root, override, told):
    found = flow.problems(params.load("medical", overrides=[override], root=root))
    assert len(found) == 1
    assert found[0].startswith(f"{SHIPPED}:{told}")


def test_a_language_that_an_input_does_not_take_is_told(flow, root):
    resolved = params.load("medical", root=root)
    text = dataclasses.replace(flow.inputs[0], languages=("zh", "en"))
    found = dataclasses.replace(flow, inputs=(text,)).problems(resolved)
    assert found[0].startswith(
        f"{SHIPPED}:10: text_input.language: must be at least zh en ja, the languages of medical "
    )
    fewer = params.load("medical", overrides=["languages=[zh]"], root=root)
    assert flow.problems(fewer) == []
