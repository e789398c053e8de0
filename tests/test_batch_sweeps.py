"""Tests of lab.batch_sweeps: a service that is computed, not run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import ROOT
from test_batching import BASE, LIMITS, result

from lab import batch_sweeps, corpus, designs, params, requests
from lab.batching import Rule
from lab.errors import CorpusError, ParameterError
from lab.params import Slo
from lab.studies import Study
from lab.trials import Block


class TestSweep:
    """A service whose batch of b takes 0.1 + 0.01 b seconds, asked instead of a real one."""

    @staticmethod
    def ask(asked, turns=60):
        def answer(study):
            asked.append([one.batch_size for one in study.trials])
            return [
                result(one.batch_size, [0.1 + 0.01 * one.batch_size] * turns, answers="sha256:a")
                if one.batch_size < 64
                else result(one.batch_size, status="out_of_memory")
                for one in study.trials
            ]

        return answer

    def swept(self, sizes, *, turns=60, **more):
        asked = []
        first = Study(tuple(replace(BASE, batch_size=size) for size in sizes))
        limits = Slo(**LIMITS)
        return batch_sweeps.sweep(self.ask(asked, turns), first, limits=limits, **more), asked

    def test_the_knee_the_limit_and_the_rule_are_refined(self):
        found, asked = self.swept([1, 2, 4, 8, 16, 32, 64])
        # b / latency² is largest at b = 10, latency is 0.4 at b = 30.
        assert asked[0] == [1, 2, 4, 8, 16, 32, 64]
        # Memory ends between 32 and 64.
        assert asked[1] == [1, 6, 12, 24, 48]
        assert found.choice.largest == 24
        assert found.choice.best.batch_size == 24
        assert found.knee.batch_size in (8, 12)
        assert found.replay.ends_with == 16
        assert found.rule_gain.value == pytest.approx((24 / 0.34) / (16 / 0.26))
        assert (found.frontier.largest, found.frontier.smallest_beyond) == (48, 64)

    def test_more_rounds_come_closer(self):
        found, asked = self.swept([1, 8, 32], refinements=3)
        assert len(asked) == 4
        assert found.choice.largest in (28, 29)

    def test_what_is_settled_is_not_asked_again(self):
        found, asked = self.swept([1, 2], refinements=5, rule=Rule(1, 1, 2))
        assert asked == [[1, 2]]
        assert found.batch_sizes == [1, 2]

    def test_no_refinement(self):
        found, asked = self.swept([1, 8], refinements=0)
        assert asked == [[1, 8]]
        assert found.replay.missing == (12, 16)
        with pytest.raises(ParameterError, match="at least 0, got -1"):
            self.swept([1, 8], refinements=-1)

    def test_it_is_told_in_words(self):
        words = " ".join(self.swept([1, 8, 32, 64])[0].sentences())
        for part in (
            "Text: batch size 20 answers most within the latency limit (p95 < 0.4 s), the largest",
            "20: 66.7 requests/s",
            "misses the throughput limit (> 100 requests/s)",
            "stays with 16, for 16 is the most it takes",
            "The best within the limit, 20, answers 1.08 times as much",
            "it runs out at 64",
            "is the same at all",
        ):
            assert part in words, words
        short = " ".join(self.swept([1, 8], turns=10)[0].sentences())
        assert "59 batches are needed, 10 were timed" in short
        assert "its limit was not reached" in short

    def test_nothing_undisturbed_is_told_in_words(self):
        loud = (Block(0, (9.0,), 9.0, disturbed="waited"),)
        found = batch_sweeps.weigh([result(1, blocks=loud)], limits=Slo(**LIMITS), seed=0)
        words = " ".join(found.sentences())
        assert "of 1 blocks 1 were disturbed" in words
        assert "gave no throughput" in words or "was not measured" in words

    def test_whoever_cannot_be_measured_at_all_is_told_in_words(self):
        failed = result(1, status="error")
        found = batch_sweeps.weigh([failed], limits=Slo(**LIMITS), seed=0)
        words = " ".join(found.sentences())
        assert "no batch size could be measured: too much." in words
        assert "nan" not in words
        assert {one.labels["batch_size"] for one in found.metrics()} == {1}

    def test_a_limit_within_the_interval_and_below_the_figure_is_open(self):
        slow = [result(1, [0.39] * 9 + [0.41])]
        words = batch_sweeps.weigh(slow, limits=Slo(**LIMITS), seed=0).sentences()
        assert "is open; 59 batches are needed, 10 were timed. By its figures none is" in words[0]

    def test_limits_are_held_against_the_chosen_size_alone(self):
        found, _ = self.swept([1, 8, 32, 64])
        judged = [one for one in found.metrics() if one.verdict is not None]
        assert {one.labels["batch_size"] for one in judged} == {20}
        assert {one.name: one.verdict for one in judged} == {
            "latency_p95": "pass",
            "throughput": "fail",
            "error_rate": "insufficient",
        }
        assert {one.labels["batch_size"] for one in found.metrics()} >= {1, 8, 32, 64}

    def test_a_larger_batch_is_faster_by_throughput(self):
        found, _ = self.swept([1, 8])
        speeds = {one.labels["batch_size"]: one for one in found.metrics() if one.name == "speedup"}
        assert 1 not in speeds
        assert speeds[8].value == pytest.approx((8 / 0.18) / (1 / 0.1))
        assert speeds[8].ci[0] <= speeds[8].value <= speeds[8].ci[1]


FOLDERS = {"vlm": ROOT / "params" / "models" / "demo" / "vlm"}


class TestRun:
    """Real questions of a real corpus, answered by nobody."""

    @pytest.fixture
    def run(self, sound_project, monkeypatch):
        monkeypatch.setattr(designs, "located", lambda resolved: (FOLDERS, {"vlm": "sha256:m"}))

        def told(design, resolved, *, corpus, progress):
            (study,) = design.studies
            base = study.trials[0]
            drawing = {"items": base.items, "settings": resolved.settings, "seed": base.seed}
            requests.draw(corpus, base.kind, **drawing)  # raises what the real one would
            times = {one: 0.1 + 0.01 * one.batch_size for one in study.trials}
            return [[result(one.batch_size, [took] * 60, base=base) for one, took in times.items()]]

        monkeypatch.setattr(batch_sweeps.sweeps, "run_design", told)
        resolved = params.load("medical", root=sound_project)
        data = corpus.load(resolved)

        def swept(queries, *, items=6, without=()):
            design = designs.of_batch_sizes(
                resolved, queries=queries, batch_sizes=[8, 4], items=items, turns=2, seed=0
            )
            tables = {name: one for name, one in data.tables.items() if name not in without}
            return design, batch_sweeps.run(
                design,
                resolved,
                corpus=replace(data, tables=tables),
                refinements=1,
                progress=lambda *words: None,
            )

        return swept

    def test_each_kind_has_a_sweep_and_its_padding(self, run):
        design, found = run(["text", "image_text"])
        assert [[one.batch_size for one in study.trials] for study in design.studies] == [
            [1, 4, 8],
            [1, 4, 8],
        ]
        assert set(found.curve["query"]) == {"text", "image_text"}
        assert found.curve["batch_size"].tolist()[:5] == [1, 4, 6, 8, 12]
        # Eight times as many queries as are asked, or all; batches that they can fill.
        assert found.padding["queries"].unique().tolist() == [48, 9]
        assert found.padding["batch_size"].tolist() == [1, 4, 6, 8, 12, 16, 1, 4, 6, 8]
        assert (found.padding["ideal"] <= found.padding["drawn"]).all()
        # Every picture is as many tokens, so that those of the words are all there is to sort by.
        assert found.padding["sorted"].tolist() == pytest.approx(found.padding["ideal"].tolist())
        text = found.padding[found.padding["query"] == "text"].iloc[1:]  # batches of 1 have none
        assert (text["sorted"] < 0.6 * text["characters"]).all()
        assert len(found.overview) == len(found.curve)
        assert {one.labels["query"] for one in found.chosen} == {"text", "image_text"}
        assert "of positions are padding as the queries come" in " ".join(found.conclusion())
        assert "sorted by tokens, as the lab does it" in " ".join(found.conclusion())

    def test_what_cannot_be_asked_is_left_out_and_told(self, run):
        _, found = run(["text", "image_text", "speech"], without=("joint",))
        assert [one.kind for one in found.sweeps] == ["text"]
        assert len(found.left_out) == 2
        assert "the suite demo has no asr" in found.left_out[0]
        assert "come from the table joint" in found.left_out[1]
        assert found.conclusion()[-2:] == list(found.left_out)

    def test_somebody_must_be_asked(self, run):
        with pytest.raises(CorpusError, match="come from the table faq"):
            run(["text"], without=("faq",))
        with pytest.raises(ParameterError, match="batch_sizes must be"):
            designs.of_batch_sizes(
                None, queries=["text"], batch_sizes=[0], items=6, turns=2, seed=0
            )
