"""Tests of lab.remedies: halves and corrections by hand, and the shipped models for the rest."""

from __future__ import annotations

import pytest
from conftest import ROOT

from lab import accounts, corpus, forms, models, params, remedies
from lab.accounts import Accounts
from lab.errors import ParameterError
from lab.forms import Item
from lab.yardsticks import Yardstick

DEMO = ROOT / "params" / "models" / "demo"
FOLDERS = {role: DEMO / role for role in ("vlm", "asr", "clip", "encoder")}
QUESTIONS = ["如何退货？", "可以开发票吗？", "什么时候发货？"]


def item(number, group=None):
    return Item(f"speech:{number}", group or f"g{number}", "zh", audio="a.wav", said="x")


class TestHalves:
    def test_groups_stay_together_and_none_is_in_both(self):
        items = [item(at, f"g{at // 3}") for at in range(30)]
        first, second = remedies.halves(items, seed=0)
        assert not {one.group for one in first} & {one.group for one in second}
        assert sorted([*first, *second], key=lambda one: one.id) == sorted(
            items, key=lambda one: one.id
        )
        assert len({one.group for one in first}) == 5

    def test_a_seed_decides(self):
        items = [item(at) for at in range(20)]
        assert remedies.halves(items, seed=0) == remedies.halves(items, seed=0)
        assert remedies.halves(items, seed=0) != remedies.halves(items, seed=1)

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_to_part_are_all_tried_on(self, count):
        items = [item(at) for at in range(count)]
        assert remedies.halves(items, seed=0) == ((), tuple(items))


class TestCorrect:
    def test_what_nearly_is_a_question_becomes_it(self):
        assert remedies.correct("如何退火", QUESTIONS, likeness=0.7) == "如何退货？"

    def test_what_is_like_none_stays(self):
        assert remedies.correct("今天天气很好", QUESTIONS, likeness=0.7) == "今天天气很好"

    @pytest.mark.parametrize("heard", ["", "？", "\U0001f600"])
    def test_nothing_said_stays_nothing(self, heard):
        assert remedies.correct(heard, QUESTIONS, likeness=0.6) == heard

    def test_without_questions_it_stays(self):
        assert remedies.correct("如何退货", [], likeness=0.6) == "如何退货"

    def test_width_and_case_do_not_count(self):
        found = remedies.correct("CAN I RETURN ＩＴ", ["Can I return it?"], likeness=0.95)
        assert found == "Can I return it?"


@pytest.fixture(scope="module")
def shop(sound_project):
    resolved = params.load("medical", root=sound_project)
    return corpus.load(resolved), resolved.settings


@pytest.fixture(scope="module")
def yardstick():
    return Yardstick(models.load("encoder", FOLDERS["encoder"]))


@pytest.fixture(scope="module")
def told(shop):
    data, settings = shop
    items = [
        *forms.draw(data, "speech", items=24, settings=settings, seed=0),
        *forms.draw(data, "joint", items=6, settings=settings, seed=0),
    ]
    given = accounts.load("fp32", FOLDERS, ("asr", "vlm"))
    return items, accounts.tell(
        items, given, corpus=data, settings=settings, progress=lambda *_: None
    )


@pytest.fixture
def attempt(shop, yardstick, told):
    data, settings = shop
    items, before = told

    def attempt(*names, before=before, folders=FOLDERS):
        return remedies.attempt(
            names,
            items,
            before,
            method="fp32",
            folders=folders,
            corpus=data,
            settings=settings,
            yardstick=yardstick,
            batch_size=8,
            seed=0,
            progress=lambda *_: None,
        )

    return attempt


@pytest.mark.slow
class TestAttempt:
    def test_misheard_questions_of_the_faq_are_repaired(self, attempt, told):
        """Every transcript lacks each fourth character; those in the FAQ get them back."""
        items, before = told
        spoilt = {
            one.id: "".join(c for at, c in enumerate(one.said or one.text) if at % 4 != 3)
            for one in items
            if one.id in before.heard
        }
        worse = Accounts(spoilt, before.answers, before.seen, before.read, {})
        gains = [one for one in attempt("vocabulary", before=worse) if one.pair == "speech_input"]
        assert {one.language for one in gains} == {"zh", "en", "ja"}
        assert all(one.after >= one.before for one in gains)
        assert sum(one.after - one.before for one in gains) > 0
        assert "not in the FAQ" in gains[0].cost

    def test_a_remedy_that_changes_nothing_gains_nothing(self, attempt, monkeypatch):
        monkeypatch.setattr(remedies, "PROMPT", "")
        gains = attempt("prompt")
        assert gains
        assert {one.gain.value for one in gains} == {0.0}
        assert {one.verdict for one in gains} == {"open"}
        assert all(one.before == one.after for one in gains)

    def test_learning_takes_the_first_half_and_is_tried_on_the_second(self, attempt, told):
        items, _ = told
        gains = attempt("fine_tune")
        assert {one.pair for one in gains} >= {"speech_input", "speech_output"}
        first, _ = remedies.halves(items, seed=0)
        assert f"from {len([one for one in first if one.audio])} recordings" in gains[0].cost

    def test_without_the_role_a_remedy_is_left_out(self, attempt):
        folders = {role: path for role, path in FOLDERS.items() if role != "asr"}
        assert attempt("vocabulary", folders=folders) == []
        assert attempt() == []


def test_an_unknown_remedy_is_refused(sound_project):
    from lab import consistency_studies

    resolved = params.load("medical", root=sound_project)
    with pytest.raises(ParameterError, match=r"remedies must be among .*got 'prayer'"):
        consistency_studies.plan(
            resolved,
            methods=["fp32"],
            pairs=[],
            items=9,
            batch_size=4,
            alone=2,
            seed=0,
            remedies=["prayer"],
        )
