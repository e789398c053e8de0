"""Tests of lab.designs: the shipped settings and suite."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT

from lab import designs, params
from lab.errors import ParameterError

RESOLVED = params.load("medical", root=ROOT)


def of(**more):
    given = {
        "methods": ["fp32", "nf4", "fp16"],
        "queries": ["text"],
        "batch_sizes": [8, 1],
        "items": 6,
        "turns": 2,
        "seed": 3,
    } | more
    return designs.of_quantization(more.pop("resolved", RESOLVED), **given)


def test_each_kind_and_batch_size_is_a_study_with_its_own_baseline():
    design = of(queries=["text", "image_text"])
    assert [
        (one.trials[0].kind, one.trials[0].batch_size, one.trials[0].method)
        for one in design.studies
    ] == [
        ("text", 1, "fp32"),
        ("text", 8, "fp32"),
        ("image_text", 1, "fp32"),
        ("image_text", 8, "fp32"),
    ]
    trial = design.studies[0].trials[1]
    assert (trial.quantization, trial.runtime.dtype) == ("nf4", "bfloat16")
    assert (trial.tenant, trial.items, trial.turns, trial.seed) == ("medical", 6, 2, 3)
    assert set(design.digests) == set(design.folders) >= {"vlm"}


def test_pictures_and_descriptions_are_a_kind_like_others():
    design = of(queries=["text", "match"], batch_sizes=[2])
    assert [study.trials[0].kind for study in design.studies] == ["text", "match"]
    assert not [one for one in design.left_out if "match" in one]
    assert "clip" in design.folders


def test_what_the_device_cannot_run_is_left_out_and_said():
    design = of()
    assert [one.method for one in design.studies[0].trials] == ["fp32", "nf4"]
    assert "fp16 is not measured: a CPU gains nothing by float16" in " ".join(design.left_out)


def test_a_kind_that_the_suite_cannot_answer_is_left_out_and_said(monkeypatch):
    folders = {role: path for role, path in of().folders.items() if role != "asr"}
    monkeypatch.setattr(designs, "located", lambda _: (folders, dict.fromkeys(folders, "sha256:")))
    design = of(queries=["text", "speech"])
    assert {one.trials[0].kind for one in design.studies} == {"text"}
    assert "kind speech are not measured: the suite demo has no asr" in " ".join(design.left_out)
    with pytest.raises(ParameterError, match="has no asr"):
        of(queries=["joint"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"methods": []}, "methods must be a list with at least one of fp32"),
        ({"methods": "fp32"}, "methods must be a list"),
        ({"methods": ["fp32", "int3"]}, "must be among fp32, .*, got 'int3'"),
        ({"methods": ["fp32", "fp32"]}, "methods must differ, got 'fp32 twice'"),
        ({"methods": ["fp16", "fp32"]}, "first of methods is the baseline and must run on cpu"),
        ({"queries": ["video"]}, "queries must be among text"),
        ({"batch_sizes": [0]}, "batch_sizes must be different whole numbers of at least 1"),
        ({"batch_sizes": [4, 4]}, "batch_sizes must be different"),
        ({"batch_sizes": [True]}, "batch_sizes must be"),
        ({"batch_sizes": []}, "batch_sizes must be"),
        ({"turns": 3}, "turns must be an even number"),
    ],
)
def test_what_is_wrong_is_said(wrong, told):
    with pytest.raises(ParameterError, match=told):
        of(**wrong)


@pytest.mark.parametrize("known", [["a", "b"], {"a": 1, "b": 2}])
def test_names_are_checked_together(known):
    designs.check(["b", "a"], "letters", known)
    with pytest.raises(ParameterError) as caught:
        designs.check(["c", "a", "a"], "letters", known)
    assert "letters must be among a, b, got 'c'" in str(caught.value)
    assert "letters must differ, got 'a twice'" in str(caught.value)
    for wrong in ([], "a", None, ()):
        with pytest.raises(ParameterError, match="letters must be a list with at least one of a"):
            designs.check(wrong, "letters", known)


def test_a_tenant_without_a_suite_is_told_so():
    nothing = replace(RESOLVED, settings=RESOLVED.settings.model_copy(update={"suite": None}))
    with pytest.raises(ParameterError, match="suite must name the models that are measured"):
        designs.located(nothing)


def pruned(**more):
    given = {
        "methods": ["wanda", "l1"],
        "sparsities": [0.3, 0, 0.2, 0.3],
        "query": "text",
        "batch_size": 4,
        "items": 6,
        "turns": 2,
        "seed": 3,
    } | more
    return designs.of_pruning(RESOLVED, **given)


def test_every_method_is_pruned_to_every_sparsity_beside_the_dense_model():
    (study,) = pruned().studies
    assert [(one.pruning, one.sparsity) for one in study.trials] == [
        ("none", 0.0),
        ("wanda", 0.2),
        ("wanda", 0.3),
        ("l1", 0.2),
        ("l1", 0.3),
    ]
    assert {(one.kind, one.batch_size, one.seed) for one in study.trials} == {("text", 4, 3)}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"methods": []}, "methods must be a list with at least one of l1, wanda"),
        ({"methods": ["magic"]}, "methods must be among l1, wanda, structured, heads, got 'magic'"),
        ({"sparsities": [0.0]}, "sparsities must hold one above 0"),
        ({"sparsities": [1.2]}, r"sparsity must be in \[0, 1\), got 1.2"),
        ({"query": "smell"}, "queries must be among"),
        ({"query": "match"}, "kind that is answered in words: .*, got 'match'; take text"),
        ({"batch_size": 0}, "batch_sizes must be"),
    ],
)
def test_a_design_of_pruning_that_cannot_be_is_refused(wrong, told):
    with pytest.raises(ParameterError, match=told):
        pruned(**wrong)
