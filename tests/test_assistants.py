"""Queries of every kind, answered by speech model and answering model together."""

from __future__ import annotations

import numpy as np
import pytest

from lab import assistants
from lab.assistants import kind_of, reply
from lab.errors import ParameterError
from lab.queries import Answer, Query

SOUND = np.zeros(16_000, np.float32)


class Stand:
    """A model that answers with what it was asked."""

    def __init__(self, said=None):
        self.said, self.asked = said, []

    def ask(self, queries, *, batch_size=None, generation=None):
        self.asked += queries
        if self.said is None:
            return [Answer(text=f"[{query.text}]") for query in queries]
        return [self.said for _ in queries]


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (Query(text="a"), "text"),
        (Query(text="a", image=object()), "image_text"),
        (Query(audio=SOUND), "speech"),
        (Query(audio=SOUND, text="a"), "joint"),
        (Query(audio=SOUND, image=object()), "joint"),
    ],
)
def test_kinds(query, kind):
    assert kind_of(query) == kind
    assert kind in assistants.KINDS


@pytest.mark.parametrize(
    ("text", "heard", "words"),
    [
        ("", "where is it", "where is it"),
        ("Where is it?", "where is it", "Where is it?"),  # the same wording is not repeated
        ("In red?", "where is it", "In red?\nwhere is it"),
        ("In red?", "", "In red?"),
    ],
)
def test_what_was_said_goes_on_as_words(text, heard, words):
    vlm, asr = Stand(), Stand(Answer(text=heard, audio_s=1.0))
    (answer,) = reply([Query(text=text, audio=SOUND, language="en")], vlm=vlm, asr=asr)
    assert answer.answer.text == f"[{words}]"
    assert answer.heard.text == heard
    assert vlm.asked[0].audio is None
    assert vlm.asked[0].language == "en"


@pytest.mark.parametrize(
    ("text", "said", "words"),
    [
        ("", "", ""),
        ("红色的吗？", "红色的吗", "红色的吗？"),
        ("ＡＢＣ", "abc!", "ＡＢＣ"),
        ("In red?", "In blue?", "In red?\nIn blue?"),
        ("#1", "1", "#1\n1"),
        ("\ud800", "\ud800", "\ud800"),
    ],
)
def test_what_is_said_too_is_given_once(text, said, words):
    assert assistants.together(text, said) == words


def test_the_order_is_kept_and_only_recordings_are_heard():
    vlm, asr = Stand(), Stand(Answer(text="said"))
    replies = reply(
        [Query(text="a"), Query(audio=SOUND), Query(text="b")], vlm=vlm, asr=asr, batch_size=2
    )
    assert [one.answer.text for one in replies] == ["[a]", "[said]", "[b]"]
    assert [one.heard is None for one in replies] == [True, False, True]
    assert len(asr.asked) == 1


def test_what_was_not_understood_is_an_error_of_the_reply():
    vlm, asr = Stand(), Stand(Answer(error="too long"))
    (answer,) = reply([Query(audio=SOUND, text="x")], vlm=vlm, asr=asr)
    assert answer.answer.error == "too long"
    assert answer.answer.text == ""


def test_a_recording_needs_a_speech_model():
    with pytest.raises(ParameterError, match="a spoken query needs a speech model"):
        reply([Query(audio=SOUND)], vlm=Stand())
