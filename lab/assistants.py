"""Queries of every kind, answered by the models of a suite together.

Owns the four kinds of query and the way from speech to an answer: the speech model writes down what
was said, the answering model gets the words. Knows nothing of loading, suites or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lab.errors import ParameterError, message
from lab.models import Model
from lab.normalisation import normalise
from lab.queries import Answer, Generation, Query

Kind = Literal["text", "image_text", "speech", "joint"]
KINDS: tuple[Kind, ...] = ("text", "image_text", "speech", "joint")


@dataclass(frozen=True, eq=False)
class Reply:
    """The answer to a query, and what the speech model heard if there was a recording."""

    answer: Answer
    heard: Answer | None = None


def kind_of(query: Query) -> Kind:
    """Return the kind of a query: joint is a recording together with words or an image."""
    if query.audio is None:
        return "text" if query.image is None else "image_text"
    return "joint" if query.text or query.image is not None else "speech"


def reply(
    queries: Sequence[Query],
    *,
    vlm: Model,
    asr: Model | None = None,
    batch_size: int | None = None,
    generation: Generation | None = None,
    transcript: Generation | None = None,
) -> list[Reply]:
    """Answer queries of any kind, in their order.

    What was said goes to the answering model as words. Where there are words too and they are the
    same (see lab.normalisation), it is not repeated; else it follows them on a line of its own.

    Args:
        queries: any mix of kinds.
        vlm: the model that answers.
        asr: the model that listens; needed if there is a recording.
        batch_size: of each model.
        generation: of the answer.
        transcript: of what is written down; None: it stops where the model stops.
    """
    spoken = [at for at, query in enumerate(queries) if query.audio is not None]
    if spoken and asr is None:
        raise ParameterError(
            message(
                "a spoken query needs a speech model", got="none", remedy="add asr to the suite"
            )
        )
    heard: dict[int, Answer] = {}
    if spoken and asr is not None:
        transcripts = asr.ask(
            [queries[at] for at in spoken], batch_size=batch_size, generation=transcript
        )
        heard = dict(zip(spoken, transcripts, strict=True))
    asked = [
        replace(query, audio=None, text=together(query.text, heard[at].text))
        if at in heard
        else query
        for at, query in enumerate(queries)
    ]
    answers = vlm.ask(asked, batch_size=batch_size, generation=generation)
    return [
        Reply(_failed(heard[at]) if at in heard and heard[at].error else answer, heard.get(at))
        for at, answer in enumerate(answers)
    ]


def together(text: str, said: str) -> str:
    """Return what the answering model is given of a question's words and of what was said."""
    if not text or not said:
        return text or said
    return text if normalise(text) == normalise(said) else f"{text}\n{said}"


def _failed(heard: Answer) -> Answer:
    return Answer(error=heard.error, audio_s=heard.audio_s)
