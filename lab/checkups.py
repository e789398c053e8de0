"""A suite's first sign of life: every role loaded, one query of every kind in every language.

Owns which queries those are. Knows nothing of how good the answers are (see lab.exams).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab import assistants, lessons, models, roles, suites
from lab.errors import LabError
from lab.lessons import LANGUAGES, Progress
from lab.models import Model
from lab.queries import Query


@dataclass(frozen=True)
class Finding:
    """What was asked and what came back; ``problem`` if nothing did."""

    kind: str
    language: str
    asked: str
    answered: str = ""
    problem: str = ""


def check(suite: str, *, root: Path, progress: Progress) -> list[Finding]:
    """Load a suite's roles one after another and ask them.

    Args:
        suite: its name.
        root: project folder.
        progress: called with (stage, done, total).
    Raises: MissingError, ParameterError if there is no such suite. A role that does not load is a
        finding with a problem.
    """
    sources = suites.load(suite, root=root).sources
    loaded: dict[str, Model] = {}
    findings = []
    for number, (role, source) in enumerate(sources.items()):
        progress(f"loading {role}", number, len(sources) + 1)
        try:
            folder = suites.locate(source, root=root)
            loaded[role] = models.load(role, folder, cache=suites.digest_cache(root))
        except LabError as error:
            findings.append(Finding(role, "", str(source), problem=str(error)))
    progress("asking", len(sources), len(sources) + 1)
    findings += _ask(loaded, root)
    progress("asking", len(sources) + 1, len(sources) + 1)
    return findings


def _ask(loaded: dict[str, Model], root: Path) -> Iterator[Finding]:
    for language in LANGUAGES:
        if "vlm" in loaded:
            yield from _ask_assistant(loaded["vlm"], loaded.get("asr"), language, root)
        elif "asr" in loaded:
            said = lessons.utterance(0, part="exam", language=language)
            (heard,) = loaded["asr"].ask([Query(audio=said.speak(), language=language)])
            yield Finding("transcript", language, said.text, heard.text, heard.error)
        if "clip" in loaded:
            yield _ask_clip(loaded["clip"], language)
        if "encoder" in loaded:
            yield _ask_encoder(loaded["encoder"], language)


def _ask_assistant(vlm: Model, asr: Model | None, language: str, root: Path) -> Iterator[Finding]:
    """Yield a finding for text, image and text, speech, and all three."""
    shown = lessons.picture(0, part="exam")
    about = lessons.asked_about(shown, 0, part="exam", language=language)
    asked = lessons.question(0, part="exam", language=language)
    said = lessons.utterance(0, part="exam", language=language)
    # A model of words alone serves tenants without images.
    image = shown.draw() if roles.sees(vlm.engine) else None
    prompts = lessons.prompts(root)
    queries = {
        "text": Query(text=asked.text, language=language, system=prompts[asked.tenant]),
    }
    if image is not None:
        queries["image_text"] = Query(
            text=about.text, image=image, language=language, system=prompts[shown.tenant]
        )
    if asr is not None:
        aloud = lessons.Utterance(about.text, language, said.voice, said.seed)
        queries["speech"] = Query(audio=said.speak(), language=language)
        queries["joint"] = Query(
            text=about.text,
            image=image,
            audio=aloud.speak(),
            language=language,
            system=prompts[shown.tenant],
        )
    words = {"text": asked.text, "image_text": about.text, "speech": said.text, "joint": about.text}
    replies = assistants.reply(list(queries.values()), vlm=vlm, asr=asr)
    for kind, reply in zip(queries, replies, strict=True):
        yield Finding(kind, language, words[kind], reply.answer.text, reply.answer.error)


def _ask_clip(clip: Model, language: str) -> Finding:
    shown, other = (lessons.picture(n, part="exam") for n in (0, 1))
    image, right, wrong = clip.ask(
        [
            Query(image=shown.draw()),
            Query(text=shown.describe(language)),
            Query(text=other.describe(language)),
        ]
    )
    near, far = (float(np.dot(image.vector, one.vector)) for one in (right, wrong))
    answered = f"cosine {near:.2f}, with {other.describe(language)} {far:.2f}"
    return Finding("image and text vectors", language, shown.describe(language), answered)


def _ask_encoder(encoder: Model, language: str) -> Finding:
    asked = lessons.question(0, part="exam", language=language)
    same = lessons.asked_again(asked, language, number=1, part="train")
    other = lessons.question(1, part="exam", language=language)
    first, near, far = encoder.ask([Query(text=one.text) for one in (asked, same, other)])
    closeness = [float(np.dot(first.vector, one.vector)) for one in (near, far)]
    answered = f"cosine {closeness[0]:.2f} with {same.text}, {closeness[1]:.2f} with {other.text}"
    return Finding("sentence vectors", language, asked.text, answered)
