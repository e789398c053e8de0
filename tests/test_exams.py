"""The demo suite's exam: what counts as right, and that nothing of the training is asked."""

from __future__ import annotations

import numpy as np

from lab import exams, lessons
from lab.queries import Answer

SMALL = exams.Size(questions=12, recordings=4, galleries=1, parallel=60)
PROMPTS = dict.fromkeys(("ecommerce", "education", "medical"), "")


def quiet(*_):
    """Say nothing of the progress."""


class Stand:
    """A model of a role that answers by a rule."""

    def __init__(self, role, rule):
        self.role, self.rule = role, rule

    def ask(self, queries, *, batch_size=None, generation=None):
        return [self.rule(query) for query in queries]


def by_what(figures):
    return {(one.labels["what"], one.labels["language"]): one for one in figures}


def knowing(seed=0):
    """Return the right answer to every question of the exam."""
    known = {}
    for language in lessons.LANGUAGES:
        for number in range(SMALL.questions):
            for one in (
                lessons.question(number, part="exam", seed=seed, language=language),
                lessons.off_topic(number, part="exam", seed=seed, language=language),
            ):
                known[one.text] = one.answer
    return known


def test_one_who_knows_all_passes_and_one_who_says_nothing_fails():
    known = knowing()
    right = Stand("vlm", lambda query: Answer(text=known.get(query.text, "")))
    figures = by_what(exams.examine(right, prompts=PROMPTS, size=SMALL, progress=quiet))
    for language in lessons.LANGUAGES:
        assert figures["text answer, token-F1", language].value == 1
        assert figures["off-topic question refused", language].value == 1
    assert all(one.value == 0 for (what, _), one in figures.items() if what.startswith("image"))
    silent = Stand("vlm", lambda query: Answer())
    figures = exams.examine(silent, prompts=PROMPTS, size=SMALL, progress=quiet)
    assert {one.value for one in figures} == {0}
    assert "pass" not in {one.verdict for one in figures}


def test_every_figure_has_n_interval_and_verdict():
    silent = Stand("vlm", lambda query: Answer())
    for one in exams.examine(silent, prompts=PROMPTS, size=SMALL, progress=quiet):
        assert 0 < one.n <= SMALL.questions
        assert one.ci[0] <= one.value <= one.ci[1]
        assert one.limit in (">= 0.95", ">= 0.9")


def test_a_transcript_is_held_against_what_was_said():
    said = {}
    for language in lessons.LANGUAGES:
        for number in range(SMALL.recordings):
            one = lessons.utterance(number, part="exam", language=language)
            said[one.speak().tobytes()] = one.text
    asr = Stand("asr", lambda query: Answer(text=said[query.audio.tobytes()]))
    figures = exams.examine(asr, prompts=PROMPTS, size=SMALL, progress=quiet)
    assert {one.value for one in figures} == {0}
    limits = {one.labels["language"]: one.limit for one in figures if one.limit}
    assert limits == {"zh": "<= 0.05", "en": "<= 0.03", "ja": "<= 0.05"}


def test_galleries_hold_pictures_that_differ():
    shown = exams._distinct(0, 0)
    assert len({one.look for one in shown}) == exams.GALLERY
    for language in lessons.LANGUAGES:
        names = [one.describe(language) for one in shown]
        # Two tenants may name two things alike; such a pair could not be told apart by words.
        assert len(set(names)) >= exams.GALLERY - 2, [n for n in names if names.count(n) > 1]


def test_vectors_that_know_the_meaning_pass():
    rng = np.random.default_rng(0)
    meanings = {}

    asked, number = {}, 0
    while len(asked) < SMALL.parallel:
        one = lessons.question(number, part="exam", language="en")
        asked.setdefault(one.meaning, one)
        number += 1
    for at, one in enumerate(asked.values()):
        place = rng.normal(size=8)
        place = (place / np.linalg.norm(place)).astype(np.float32)
        for language in lessons.LANGUAGES:
            for part in ("exam", "train"):
                again = lessons.asked_again(one, language, number=at, part=part)
                meanings[again.text] = place
    figures = exams.examine(
        Stand("encoder", lambda query: Answer(vector=meanings[query.text])),
        prompts=PROMPTS,
        size=SMALL,
        progress=quiet,
    )
    assert len(figures) == 9
    assert min(one.value for one in figures) > 0.97
