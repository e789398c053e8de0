"""Tests of lab.consistency_studies: a demo corpus, and models that know all or fail on purpose."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT

from lab import (
    accounts,
    consistency_plots,
    consistency_studies,
    corpus,
    designs,
    forms,
    models,
    params,
    slo,
    tables,
)
from lab.consistency import PAIRS
from lab.errors import ClusterError, ParameterError
from lab.queries import Answer

LANGUAGES = ("en", "ja", "zh")
ROLES = ("vlm", "clip", "encoder", "asr")
DEMO = ROOT / "params" / "models" / "demo"
FOLDERS = {role: DEMO / role for role in ROLES}
LIMITS = ["slo.quality_delta='>= -0.2'"]


@pytest.fixture(scope="module")
def resolved(sound_project):
    return params.load("medical", root=sound_project, overrides=LIMITS)


@pytest.fixture(scope="module")
def data(resolved):
    return corpus.load(resolved)


class Knowing:
    """Models that hear, see and answer rightly, but for the faults of a method.

    Faults are (method, role) -> what is made of an answer, given the item and what it would be.
    """

    def __init__(self, data, settings):
        self.faults, self.asked = {}, []
        self._said, self._shown, self._answers, self._vectors = {}, {}, {}, {}
        subjects = {}
        for table in ("faq", "speech", "images", "joint"):
            for one in forms.draw(data, table, items=10**6, settings=settings, seed=0):
                if one.audio:
                    audio = one.query(data, settings, audio=True).audio
                    self._said[audio.tobytes()] = one
                if one.image:
                    image = one.query(data, settings, image=True).image.tobytes()
                    self._shown[image] = one.image
                    place = subjects.setdefault(one.image, len(subjects))
                    self._vectors[one.description] = self._vectors[image] = place
                if table == "joint":
                    for words in (one.text, f"{one.text}\n{one.said}", one.said):
                        self._answers[words, one.image] = one
                    self._answers[f"{one.description}\n{one.text}", ""] = one
                else:
                    self._answers[one.text or one.said, ""] = one

    def load(self, method, folders, roles, *, device="cpu"):
        return {role: Model(self, method, role) for role in roles if role in folders}

    def answer(self, method, role, query):
        change = self.faults.get((method, role), lambda _, text: text)
        if role == "clip":
            import numpy as np

            key = query.text or query.image.tobytes()
            place = change(None, self._vectors[key]) % 64
            return Answer(vector=np.eye(64, dtype=np.float32)[place])
        if role == "asr":
            item = self._said[query.audio.tobytes()]
            return Answer(text=change(item, item.said))
        image = self._shown[query.image.tobytes()] if query.image else ""
        item = self._answers.get((query.text, image))
        text = "" if item is None else item.wanted or item.said
        return Answer(text=change(item, text))


class Model:
    def __init__(self, knowing, method, role):
        self.knowing, self.method, self.role = knowing, method, role

    def ask(self, queries, *, batch_size=None, generation=None):
        self.knowing.asked += [(self.method, self.role, batch_size, one) for one in queries]
        return [self.knowing.answer(self.method, self.role, one) for one in queries]


class Remembering:
    """The shipped encoder, which reads each text once for all tests."""

    def __init__(self):
        self.encoder, self.known = models.load("encoder", DEMO / "encoder"), {}

    def ask(self, queries, *, batch_size=None, generation=None):
        new = [query for query in queries if query.text not in self.known]
        answers = self.encoder.ask(new, batch_size=batch_size)
        self.known |= {query.text: answer for query, answer in zip(new, answers, strict=True)}
        return [self.known[query.text] for query in queries]


@pytest.fixture(scope="module")
def encoder():
    return Remembering()


@pytest.fixture(scope="module")
def everything(data, resolved):
    return Knowing(data, resolved.settings)


def give(patch, roles):
    """Give the suite just these roles."""
    folders = {role: FOLDERS[role] for role in roles}
    digests = dict.fromkeys(roles, "sha256:1")
    patch.setattr(designs, "located", lambda _: (folders, digests))


@pytest.fixture
def has(monkeypatch):
    """Return what gives the suite just some roles; it has all."""
    give(monkeypatch, ROLES)
    return lambda *roles: give(monkeypatch, roles)


@pytest.fixture
def knowing(everything, encoder, monkeypatch):
    everything.faults, everything.asked = {}, []
    monkeypatch.setattr(accounts, "load", everything.load)
    monkeypatch.setattr(consistency_studies.models, "load", lambda *_, **__: encoder)
    return everything


@pytest.fixture
def study(resolved, data, has, knowing):
    return lambda data=data, **more: run(resolved, data, **more)


def run(resolved, data, **more):
    asked = plan(resolved, **more)
    return consistency_studies.run(asked, resolved, corpus=data, progress=lambda *_: None)


def plan(resolved, **more):
    given = {
        "methods": ["fp32"],
        "pairs": [],
        "items": 9,
        "batch_size": 4,
        "alone": 9,
        "seed": 0,
        "device": "cpu",
    } | more
    return consistency_studies.plan(resolved, **given)


def agreement(tried, pair, language):
    (found,) = [
        a for a in tried.agreements if (a.sample.pair, a.sample.language) == (pair, language)
    ]
    return found


def words(found):
    return " ".join(found.conclusion())


# --- plans ----------------------------------------------------------------------------------------


def test_all_pairs_are_compared_unless_some_are_named(resolved, has):
    asked = plan(resolved)
    assert asked.pairs == tuple(PAIRS)
    assert (asked.methods, asked.left_out, asked.items, asked.alone) == (("fp32",), (), 9, 9)
    assert set(asked.folders) == set(asked.digests) == set(ROLES)
    assert plan(resolved, pairs=["joint", "batch"]).pairs == ("joint", "batch")


def test_pairs_that_need_a_missing_model_are_left_out_and_said(resolved, has):
    has("vlm", "clip", "encoder")
    asked = plan(resolved)
    assert asked.pairs == ("image_input", "image_output", "languages", "batch", "baseline")
    assert [one for one in asked.left_out if "has no asr" in one] == [
        f"{name} is not compared: the suite demo has no asr."
        for name in ("speech_input", "speech_output", "joint")
    ]
    has("encoder")
    assert "joint is not compared: the suite demo has no asr and no vlm." in plan(resolved).left_out


def test_a_suite_needs_an_encoder(resolved, has):
    has("vlm", "clip", "asr")
    with pytest.raises(ParameterError, match="needs a suite with an encoder"):
        plan(resolved)


def test_what_the_device_cannot_run_is_left_out_and_said(resolved, has):
    asked = plan(resolved, methods=["fp32", "nf4", "fp16"])
    assert asked.methods == ("fp32", "nf4")
    assert asked.left_out == (
        "fp16 is not tried: a CPU gains nothing by float16; bf16 takes as little.",
    )


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"methods": []}, "methods must be a list with at least one of fp32"),
        ({"methods": "fp32"}, "methods must be a list"),
        ({"methods": ["int3"]}, "methods must be among fp32, .*, got 'int3'"),
        ({"methods": ["fp16", "fp32"]}, "first of methods is the baseline and must run on cpu"),
        ({"pairs": ["smell"]}, "pairs must be among speech_input, .*, got 'smell'"),
        ({"pairs": "joint"}, "pairs must be a list"),
        ({"pairs": ["joint", "joint"]}, "pairs must differ"),
        ({"items": 1}, "items must be a whole number of at least 2, got 1"),
        ({"items": 2.5}, "items must be a whole number"),
        ({"items": True}, "items must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"alone": 1}, "alone must be a whole number of at least 2"),
    ],
)
def test_what_is_wrong_is_said(resolved, has, wrong, told):
    with pytest.raises(ParameterError, match=told):
        plan(resolved, **wrong)


# --- runs -----------------------------------------------------------------------------------------


def test_who_knows_all_agrees_in_everything(study):
    found = study(methods=["fp32", "bf16"], items=27, alone=30)
    base, half = found.tried
    assert {a.sample.pair for a in base.agreements} == set(PAIRS) - {"baseline"}
    assert {a.sample.pair for a in half.agreements} == set(PAIRS)
    for one in (*base.agreements, *half.agreements):
        if one.sample.pair != "languages":
            assert one.score.value == pytest.approx(1, abs=0.01), one.sample.pair
        assert one.verdict != "fail"
    assert {value.value for value, _ in half.changes.values()} == {0}
    assert all(one.wrong == 0 for one in found.blames)
    assert "joint questions are answered rightly" in words(found)
    swapped = [one for one in found.detections if one.planted == "swapped"]
    assert min(one.auc.value for one in swapped) >= 0.95


def test_one_language_that_is_lost_makes_a_configuration_ineligible(study, knowing):
    other = "受付は一階の正面玄関にあります。"
    knowing.faults["nf4", "vlm"] = lambda item, text: (
        other if item is not None and item.language == "ja" else text
    )
    found = study(methods=["fp32", "bf16", "nf4"], pairs=["baseline", "languages"], items=120)
    base, half, fourth = found.tried
    assert half.eligible != "fail"
    assert fourth.eligible == "fail"
    lost = {a.sample.language: a.verdict for a in fourth.agreements if a.sample.pair == "baseline"}
    assert lost == {"en": "pass", "ja": "fail", "zh": "pass"}
    told = {place: verdict for place, (_, verdict) in fourth.changes.items()}
    assert told["languages", "en-ja"] == told["languages", "ja-zh"] == "fail"
    assert told["languages", "en-zh"] != "fail"
    assert base.changes == {}
    assert "nf4: consistency misses > 0.9 in" in words(found)
    assert "baseline (ja 0." in words(found)
    assert "nf4 loses against fp32: languages (en-ja) by" in words(found)
    scenarios = found.scenarios(["text ja", "text zh", "text", "joint"])
    assert scenarios["language"].tolist() == ["ja", "zh", "all", "all"]
    assert scenarios["bf16"].tolist()[0] != "fail"
    assert scenarios["nf4"].tolist() == ["fail", "fail", "fail", "not measured"]


def test_the_same_seed_gives_the_same_figures_and_another_other_items(study):
    one, two, other = (
        study(pairs=["speech_output", "languages", "image_input"], seed=seed) for seed in (0, 0, 1)
    )
    records = [[metric.record() for metric in found.metrics] for found in (one, two)]
    assert str(records[0]) == str(records[1])
    assert list(one.items) == list(two.items)
    assert set(one.items) != set(other.items)


def test_every_metric_has_its_labels_n_and_limit(study):
    found = study(methods=["fp32", "bf16"])
    by_name = {}
    for metric in found.metrics:
        by_name.setdefault(metric.name, []).append(metric)
    assert set(by_name) == {"consistency", "cosine", "consistency_delta", "detection_auc"}
    for metric in by_name["consistency"]:
        assert metric.labels["pair"] in PAIRS
        assert metric.labels["quantization"] in ("fp32", "bf16")
        assert metric.labels["batch_size"] == 4
        assert metric.limit == "> 0.9"
        assert metric.ci[0] <= metric.value <= metric.ci[1]
        assert metric.verdict == slo.judge(
            slo.Limit.parse("> 0.9"), value=metric.value, ci=metric.ci
        )
    assert all(metric.unit for metric in found.metrics)
    kinds = {one.labels["pair"]: one.labels.get("query") for one in by_name["consistency"]}
    assert kinds["speech_output"] == "speech"
    assert kinds["image_input"] == "image_text"
    assert kinds["batch"] is None
    assert {one.limit for one in by_name["consistency_delta"]} == {">= -0.2"}
    assert all(one.limit is None for one in by_name["cosine"] + by_name["detection_auc"])


def test_alone_are_some_of_each_table_and_language(study, knowing):
    found = study(alone=9)
    alone = [one for _, role, size, one in knowing.asked if (role, size) == ("vlm", 1)]
    assert {one.language for one in alone} == set(LANGUAGES)
    assert {one.image is None for one in alone} == {True, False}
    (base,) = found.tried
    for language in LANGUAGES:
        items = agreement(base, "batch", language).sample.items
        assert {name.partition(":")[0] for name in items} == {"faq", "speech", "joint"}
        forms_of = {name.partition(" ")[2] for name in items}
        assert forms_of == {"text", "text+image", "description"}


def test_a_batch_that_changes_answers_is_found(study, knowing, monkeypatch):
    def garbled(method, role, query, real=knowing.answer):
        answer = real(method, role, query)
        batch = knowing.asked[-1][2]
        return replace(answer, text=f"{answer.text} 42 padding") if batch == 4 else answer

    monkeypatch.setattr(knowing, "answer", garbled)
    (base,) = study(pairs=["batch"], items=60, alone=60).tried
    assert all(a.score.value < 1 for a in base.agreements)


def test_who_fails_while_asked_is_a_result(study, knowing):
    def fail(item, text):
        raise RuntimeError("CUDA out of <b>memory</b>\x1b[31m\nsecond line")

    knowing.faults["nf4", "vlm"] = fail
    found = study(methods=["fp32", "nf4", "bf16"], pairs=["languages", "baseline"])
    lost = found.tried[1]
    assert [one.method for one in found.tried] == ["fp32", "nf4", "bf16"]
    assert (lost.eligible, lost.agreements, lost.problem) == (
        "fail",
        (),
        "CUDA out of <b>memory</b>\x1b[31m",
    )
    assert "nf4 could not be asked: CUDA out of <b>memory</b>\\x1b[31m." in words(found)
    assert found.scenarios(["text"])["nf4"].tolist() == ["not measured"]
    assert found.tried[2].agreements
    tables.sentences(found.conclusion())
    consistency_plots.matrix(found.matrix, limit="> 0.9")


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), MemoryError(), AssertionError()])
def test_a_baseline_that_fails_is_an_error(study, knowing, error):
    def fail(item, text):
        raise error

    knowing.faults["fp32", "vlm"] = fail
    with pytest.raises(type(error)):
        study(pairs=["languages"])


def test_a_failure_without_words_is_named(study, knowing):
    def fail(item, text):
        raise MemoryError

    knowing.faults["bf16", "vlm"] = fail
    assert study(methods=["fp32", "bf16"], pairs=["languages"]).tried[1].problem == "MemoryError"


def test_errors_of_the_lab_are_no_results(study, knowing):
    def fail(item, text):
        raise ClusterError("the cluster is gone")

    knowing.faults["bf16", "vlm"] = fail
    with pytest.raises(ClusterError):
        study(methods=["fp32", "bf16"], pairs=["languages"])


def test_queries_that_could_not_be_answered_are_told(study, knowing, monkeypatch):
    def short(method, role, query, real=knowing.answer):
        return Answer(error="too long\x1b[31m") if query.image else real(method, role, query)

    monkeypatch.setattr(knowing, "answer", short)
    found = study(pairs=["image_output"], items=9)
    assert {a.verdict for a in found.tried[0].agreements} == {"insufficient"}
    assert "fp32: 9 of the queries could not be answered and count as silence" in words(found)
    assert "text+image: too long\\x1b[31m." in words(found)


def test_nothing_to_compare_is_refused(study, data):
    empty = replace(data, tables={"images": data.tables["images"]})
    with pytest.raises(ParameterError, match=r"a pair of accounts to compare, got 'joint, batch'"):
        study(empty, pairs=["joint", "batch"])


def test_tables_that_a_tenant_lacks_leave_their_pairs_out(study, data):
    found = study(replace(data, tables={"faq": data.tables["faq"]}))
    assert {a.sample.pair for a in found.tried[0].agreements} == {"languages", "batch"}


def test_pairs_that_nothing_came_of_are_told(study, data):
    few = {"faq": data.tables["faq"], "joint": data.tables["joint"].select(range(3))}
    found = study(replace(data, tables=few), pairs=["image_output", "languages", "baseline"])
    assert {a.sample.pair for a in found.tried[0].agreements} == {"languages"}
    assert "baseline is not compared: there is no other configuration." in found.conclusion()
    assert "image output is not compared: in no language are there two items" in words(found)


def test_without_speech_the_rest_is_compared_and_it_is_said(study, has):
    has("vlm", "clip", "encoder")
    found = study()
    assert {a.sample.pair for a in found.tried[0].agreements} == {
        "image_input",
        "image_output",
        "languages",
        "batch",
    }
    assert found.blames == ()
    assert "joint is not compared: the suite demo has no asr." in found.conclusion()


# --- whose fault ----------------------------------------------------------------------------------


def test_what_repairs_an_answer_was_to_blame(study, knowing):
    garbled = "zxcv"
    knowing.faults["fp32", "asr"] = lambda item, text: garbled if item.language == "en" else text
    knowing.faults["fp32", "vlm"] = lambda item, text: (
        "わかりません" if item is not None and item.language == "ja" else text
    )
    found = study(pairs=["joint"], items=9)
    blames = {one.language: one for one in found.blames}
    english, japanese, chinese = (blames[language] for language in LANGUAGES)
    assert (english.asked, english.wrong, english.speech) == (3, 3, 3)
    assert (japanese.asked, japanese.wrong, japanese.model) == (3, 3, 3)
    assert (chinese.asked, chinese.wrong) == (3, 0)
    assert list(found.blame.columns) == ["language", "asked", "wrong", "speech", "image", "model"]
    assert (
        "Of 9 joint questions 6 are answered wrongly; to blame is the recording 3 times, "
        "neither, but the answering model 3 times."
    ) in found.conclusion()


def test_an_image_that_was_not_seen_is_to_blame(study, knowing, monkeypatch):
    def blind(method, role, query, real=knowing.answer):
        return Answer(text="?") if role == "vlm" and query.image else real(method, role, query)

    monkeypatch.setattr(knowing, "answer", blind)
    found = study(pairs=["joint", "image_output"])
    assert all(one.wrong == one.image == one.asked for one in found.blames)
    assert f"to blame is the image {sum(one.asked for one in found.blames)} times." in words(found)


# --- tables ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(everything, encoder, resolved, data):
    """A study in which the baseline swallows the ends of its answers."""
    with pytest.MonkeyPatch.context() as patch:
        give(patch, ROLES)
        patch.setattr(accounts, "load", everything.load)
        patch.setattr(consistency_studies.models, "load", lambda *_, **__: encoder)
        everything.faults = {("fp32", "vlm"): lambda item, text: text[:-4] if item else ""}
        return run(resolved, data, methods=["fp32", "bf16"], items=18)


def test_tables_have_their_rows(shown):
    matrix = shown.matrix
    assert len(matrix) == sum(len(one.agreements) for one in shown.tried)
    assert matrix["score"].between(0, 1).all()
    assert set(matrix["article"]) <= {"pass", "fail", "insufficient"}
    every = shown.similarities
    spread = shown.spread.set_index(["pair", "language", "of"])
    some = every[(every["pair"] == "joint") & (every["language"] == "zh")]
    one = spread.loc["joint", "zh", "near"]
    near = some[some["of"] == "near"]["similarity"]
    assert (one["n"], one["p50"]) == (len(near), pytest.approx(near.median()))
    assert set(shown.power["planted"]) >= {"swapped", "one word"}
    assert len(shown.power) == len(shown.detections)


def test_the_worst_come_first_and_say_what_was_said(shown):
    worst = shown.worst
    assert len(worst) == 20
    assert worst["score"].is_monotonic_increasing
    assert {"image input", "joint"} & set(worst["pair"]) <= set(worst["pair"])
    for row in worst.to_dict("records"):
        item = shown.items[row["row"]]
        assert (row["image"], row["audio"], row["wanted"]) == (item.image, item.audio, item.wanted)
    assert not {"batch", "baseline"} & set(worst["pair"])


def test_modes_are_of_languages_subjects_and_lengths(shown):
    modes = shown.modes
    assert modes["score"].is_monotonic_increasing
    assert set(modes["by"]) <= {"language", "subject", "length"}
    assert (modes["n"] >= 3).all()
    assert len(modes) <= 20
    assert (modes["low"] <= modes["score"] + 1e-9).all()


def test_a_scenario_that_cannot_be_is_refused_before_anything_is_asked(resolved):
    with pytest.raises(ParameterError, match=r"a scenario must be one of .*got 'smell'"):
        plan(resolved, scenarios=["joint", "smell"])
    assert plan(resolved, scenarios=["joint", "text zh"]) == plan(resolved)


@pytest.mark.parametrize(
    "text", ["smell", "speech fr", "text zh en", "", "joint  zh", "<script>", "TEXT", 3, None]
)
def test_a_scenario_that_cannot_be_is_refused(shown, text):
    with pytest.raises(ParameterError, match="a scenario must be one of image_text, joint"):
        shown.scenarios([text])


def test_scenarios_are_those_of_the_settings(shown, resolved):
    asked = resolved.settings.notebooks["05_consistency"]["scenarios"]
    found = shown.scenarios(asked)
    assert len(found) == len(asked) == 10
    assert list(found.columns) == ["scenario", "query", "language", "fp32", "bf16"]
    assert set(found["fp32"]) <= {"pass", "fail", "insufficient"}
    assert shown.scenarios([]).empty


def test_figures_are_drawn(shown):
    consistency_plots.matrix(shown.matrix, limit="> 0.9")
    consistency_plots.calibration(shown.similarities)
    consistency_plots.detection(shown.power)


def test_pairs_without_items_of_their_own_have_no_worst(study, data, resolved):
    found = study(pairs=["batch"])
    html = tables.exhibits(
        found.worst,
        caption="Worst",
        corpus=data,
        data=resolved.settings.data,
        language_column="language",
    )
    assert BeautifulSoup(html.markup, "html.parser").get_text() == "Worst: none"
    assert found.modes["pair"].tolist() in ([], ["batch"] * len(found.modes))
    assert found.blame.empty


# --- hostile text ---------------------------------------------------------------------------------

HOSTILE = (
    "<script>window.pwned=1</script> $x_1$ \\frac{1}{0}",
    "<img src=x onerror=window.pwned=1> {{7*7}}",
    "\x1b[31mred\x1b[0m \u202eevil\u2066 \u200b\x00",
    "</td></table><script>window.pwned=1</script>" * 220,  # 10,000 characters
)


def test_hostile_text_goes_through_without_acting(study, data, resolved, knowing):
    def spoil(row, at):
        bad = HOSTILE[at % len(HOSTILE)]
        changed = {"annotation": bad[:200]}
        return changed | {"question": f"{row['question']}{bad}"[:10_000], "answer": bad[:10_000]}

    rows = data.tables["faq"].map(
        spoil, with_indices=True, remove_columns=["label"], keep_in_memory=True
    )
    knowing.faults["fp32", "vlm"] = lambda item, text: HOSTILE[len(text) % 3]
    knowing.faults["bf16", "vlm"] = lambda item, text: HOSTILE[(len(text) + 1) % 3]
    found = study(
        replace(data, tables={**data.tables, "faq": rows}),
        methods=["fp32", "bf16"],
        pairs=["joint", "languages", "batch", "baseline"],
        items=18,
    )
    started = time.perf_counter()
    parts = [
        tables.exhibits(
            found.worst,
            caption=HOSTILE[0],
            corpus=data,
            data=resolved.settings.data,
            language_column="language",
        ),
        tables.table(found.modes, caption="Modes"),
        tables.table(found.matrix, caption="Matrix"),
        tables.sentences(found.conclusion()),
        tables.metrics(found.metrics),
    ]
    assert time.perf_counter() - started < 60
    for part in parts:
        soup = BeautifulSoup(part.markup, "html.parser")
        assert not {"script", "svg", "iframe"} & {tag.name for tag in soup.find_all(True)}
        assert not any(name.startswith("on") for tag in soup.find_all(True) for name in tag.attrs)
        assert all(tag["src"].startswith("data:") for tag in soup.find_all("img"))
        assert "\x1b" not in part.markup
        assert "\u202e" not in part.markup
    consistency_plots.matrix(found.matrix, limit="> 0.9")


# --- the shipped models ---------------------------------------------------------------------------


def test_the_shipped_models_are_compared(resolved, data, has):
    has("vlm", "clip", "encoder")
    asked = plan(resolved, items=12, alone=6)
    stages = []
    found = consistency_studies.run(
        asked, resolved, corpus=data, progress=lambda *said: stages.append(said)
    )
    (base,) = found.tried
    assert not base.problem
    assert not base.accounts.problems
    assert {a.sample.pair for a in base.agreements} == {
        "image_input",
        "image_output",
        "languages",
        "batch",
    }
    assert agreement(base, "batch", "en").score.value > 0.95
    assert {stage for stage, _, _ in stages} >= {"fp32: text", "fp32: looking", "comparing"}
    assert all(0 <= done <= total for _, done, total in stages)
    assert any("fp32: consistency" in one for one in found.conclusion())
