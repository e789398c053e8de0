"""What the demo suite learns from and is examined on: kept apart, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from lab import drawing, grammar, lessons, voices

LANGUAGES = grammar.LANGUAGES


def template_of(question):
    """Return (intent, language, template) by trying every template of the tenant."""
    tables = grammar.load(question.tenant)
    intent = next(one for one in tables.intents if one.id == question.kind)
    words = tables.filling(intent, question.filling)
    more = grammar.paraphrases(question.tenant)[intent.id][question.language]
    for template in (*intent.questions[question.language], *more):
        if grammar.fill(template, words, question.language) == question.text:
            return intent, template
    raise AssertionError(question)


class TestQuestions:
    @pytest.mark.parametrize("part", ["train", "exam"])
    def test_keep_to_their_side(self, part):
        for number in range(400):
            one = lessons.question(number, part=part)
            tables = grammar.load(one.tenant)
            intent, template = template_of(one)
            assert tables.held_out(intent, one.filling) == (part == "exam")
            assert (template == intent.questions[one.language][-1]) == (part == "exam")
            assert one.answer == grammar.fill(
                intent.answers[one.language], tables.filling(intent, one.filling), one.language
            )

    def test_are_the_same_for_a_number_and_a_seed(self):
        first = [lessons.question(n, part="train") for n in range(50)]
        assert first == [lessons.question(n, part="train") for n in range(50)]
        assert first != [lessons.question(n, part="train", seed=1) for n in range(50)]
        assert first != [lessons.question(n, part="exam") for n in range(50)]

    def test_about_one_filling_in_ten_is_held_out(self):
        shares = []
        for tenant in grammar.tenants():
            tables = grammar.load(tenant)
            for intent in tables.intents:
                held = [tables.held_out(intent, n) for n in range(tables.combinations(intent))]
                assert any(held), intent.id
                shares.append(np.mean(held))
        assert 0.08 < np.mean(shares) < 0.12

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_asked_again_mean_the_same(self, language):
        one = lessons.question(3, part="exam", language="en")
        again = lessons.asked_again(one, language, number=1, part="exam")
        assert again.meaning == one.meaning
        assert again.language == language

    def test_a_neighbour_is_of_the_same_intent(self):
        one = lessons.question(3, part="train")
        others = [lessons.neighbour(one, n, part="train") for n in range(20)]
        assert {other.kind for other in others} == {one.kind}
        assert len({other.filling for other in others}) > 5


class TestOffTopic:
    def test_subjects_are_apart_and_get_the_refusal(self):
        train, exam = (
            {intent.id for intent in grammar.load_off_topic(held_out=held_out).intents}
            for held_out in (False, True)
        )
        assert len(train) == 72
        assert len(exam) == 18
        assert not train & exam
        answers = {
            (one.language, one.answer)
            for part in ("train", "exam")
            for one in (lessons.off_topic(n, part=part) for n in range(100))
        }
        assert len(answers) == 3

    def test_languages_of_one_number_say_the_same(self):
        kinds = [lessons.off_topic(5, part="train", language=language) for language in LANGUAGES]
        assert len({one.filling for one in kinds}) == 1
        tables = grammar.load_off_topic(held_out=False)
        places = {
            (at, phrasing)
            for one in kinds
            for at, topic in enumerate(tables.intents)
            for phrasing, template in enumerate(topic.questions[one.language])
            if one.filling < tables.combinations(topic)
            and grammar.fill(template, tables.filling(topic, one.filling), one.language) == one.text
        }
        assert len(places) == 1


class TestPictures:
    @pytest.mark.parametrize("part", ["train", "exam"])
    def test_keep_to_their_side(self, part):
        for number in range(200):
            one = lessons.picture(number, part=part)
            assert drawing.held_out(one.object_kind, one.shade) == (part == "exam")

    def test_one_icon_is_held_out_in_the_same_colours_for_every_tenant(self):
        catalogue = drawing.load_objects()
        for icon in ("fa6s:scissors", "fa6s:microscope"):
            kinds = [k for t in catalogue.tenants for k in t.kinds if k.icon == icon]
            assert len(kinds) > 1
            for colour in catalogue.colours:
                assert len({drawing.held_out(kind, colour) for kind in kinds}) == 1

    def test_are_drawn_small_and_kept(self, tmp_path):
        shown = [lessons.picture(n, part="train") for n in range(3)]
        told = []
        first = lessons.draw_all(
            shown, tmp_path, jobs=1, progress=lambda *words: told.append(words)
        )
        assert first.shape == (3, lessons.SIDE, lessons.SIDE, 3)
        assert np.array_equal(first[1], lessons.small(shown[1].draw()))
        assert told[-1] == ("drawing", 1, 1)
        (part,) = tmp_path.rglob("*.npy")
        before = part.stat().st_mtime_ns
        again = lessons.draw_all(shown, tmp_path, jobs=1, progress=lambda *words: None)
        assert np.array_equal(first, again)
        assert part.stat().st_mtime_ns == before

    def test_other_pictures_are_not_taken_for_these(self, tmp_path):
        for first in (0, 10):
            shown = [lessons.picture(n, part="train") for n in range(first, first + 2)]
            drawn = lessons.draw_all(shown, tmp_path, jobs=1, progress=lambda *words: None)
            assert np.array_equal(drawn[0], lessons.small(shown[0].draw()))

    def test_questions_about_them_keep_to_their_side(self):
        shown = lessons.picture(0, part="train")
        last = {
            kind.questions[language][-1]
            for kind in grammar.load_visual().kinds
            for language in LANGUAGES
        }
        for part in ("train", "exam"):
            texts = {lessons.asked_about(shown, n, part=part).text for n in range(100)}
            assert texts & last == (texts if part == "exam" else set())


class TestUtterances:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_keep_to_their_voices(self, language):
        known = voices.voices(language)
        exam = {lessons.utterance(n, part="exam", language=language).voice for n in range(40)}
        assert exam == set(known[-2:])
        names = {
            lessons.utterance(n, part="train", language=language).voice.name for n in range(200)
        }
        assert names == {voice.name for voice in known[:-2]}

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_fit_the_window(self, language):
        for number in range(6):
            one = lessons.utterance(number, part="exam", language=language)
            samples = one.speak()
            assert 0.3 < len(samples) / 16_000 <= lessons.MAX_SECONDS

    def test_an_exam_is_on_questions_never_trained_on(self):
        trained = {lessons.utterance(n, part="train").text for n in range(2_000)}
        examined = {lessons.utterance(n, part="exam").text for n in range(300)}
        assert not trained & examined


class TestParaphrases:
    def test_of_questions_about_pictures_repeat_nothing(self):
        known = grammar.paraphrases("visual")
        for kind in grammar.load_visual().kinds:
            for language in LANGUAGES:
                texts = [*kind.questions[language], *known[kind.id][language]]
                assert len(set(texts)) == len(texts) >= 30

    @pytest.mark.parametrize("tenant", ["ecommerce", "education", "medical"])
    def test_use_the_slots_and_repeat_nothing(self, tenant):
        tables = grammar.load(tenant)
        known = grammar.paraphrases(tenant)
        assert set(known) == {intent.id for intent in tables.intents}
        for intent in tables.intents:
            words = tables.filling(intent, 0)
            for language in LANGUAGES:
                texts = [*intent.questions[language], *known[intent.id][language]]
                assert len(known[intent.id][language]) >= 10  # none of them the held-out phrasing
                assert len(set(texts)) == len(texts)
                for text in known[intent.id][language]:
                    filled = grammar.fill(text, words, language)
                    assert "{" not in filled
                    assert all(text.count(f"{{{slot}}}") == 1 for slot in intent.slots)
