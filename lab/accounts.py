"""What models make of items: each item told in every form that it has, by one configuration.

Owns which forms are asked, in which batches, and what came back. Knows nothing of how alike two
accounts are, or of what follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lab import assistants, models, quantization
from lab.forms import Item
from lab.models import Model
from lab.queries import Answer, Query
from lab.roles import Role

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.params import Settings

Form = Literal["text", "speech", "text+image", "speech+image", "description", "joint"]
_ORDER: tuple[Form, ...] = (  # in which they are asked: what is heard after what is read
    "text",
    "text+image",
    "description",
    "speech",
    "speech+image",
    "joint",
)
BATCH = 16
_AT_A_TIME = 8 * BATCH  # of which images and recordings are held
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Accounts:
    """What one configuration said.

    Attributes:
        heard: item -> transcript of its recording.
        answers: form -> item -> answer in that form.
        seen: item -> (width,) vector of its image.
        read: item -> (width,) vector of its description.
        problems: what could not be answered, with the reason; its answer is empty.
    """

    heard: dict[str, str] = field(default_factory=dict)
    answers: dict[Form, dict[str, str]] = field(default_factory=dict)
    seen: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    read: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def load(
    method: str, folders: Mapping[Role, Path], roles: Sequence[Role], *, device: str = "cpu"
) -> dict[Role, Model]:
    """Return the models of a suite with their weights stored by a method.

    Args:
        method: of lab.quantization.METHODS.
        folders: checkpoint by role.
        roles: those that are wanted; those that the suite lacks are left out.
        device: cpu, cuda or cuda:N.
    Raises: as lab.models.load.
    """
    chosen = quantization.method(method)
    return {
        role: models.load(
            role,
            folders[role],
            dtype=chosen.dtype,
            quantization=method if chosen.library else quantization.NONE,
            device=device,
        )
        for role in roles
        if role in folders
    }


def forms_of(item: Item, *, hears: bool) -> tuple[Form, ...]:
    """Return the forms in which an item can be asked.

    Args:
        item: which.
        hears: whether there is a model that listens.
    """
    spoken = bool(item.audio) and hears
    if item.image:
        if not item.text:
            return ()
        described: tuple[Form, ...] = ("description",) if item.description else ()
        return ("text+image", *described, *(("speech+image", "joint") if spoken else ()))
    return (*(("text",) if item.text or item.said else ()), *(("speech",) if spoken else ()))


def tell(
    items: Sequence[Item],
    given: Mapping[Role, Model],
    *,
    corpus: Corpus,
    settings: Settings,
    batch_size: int = BATCH,
    heard: Mapping[str, str] | None = None,
    progress: Progress,
) -> Accounts:
    """Have models tell of items in every form that they have.

    Args:
        items: of any tables.
        given: models by role; what a missing one would tell is not told.
        corpus: the tenant's.
        settings: the tenant's.
        batch_size: queries answered at a time.
        heard: item -> transcript, if it is known already.
        progress: called with (stage, done, total).
    Raises: MediaError, PathError.
    """
    told = Accounts(heard=dict(heard or {}))
    read = _Reader(corpus, settings, batch_size, progress, told.problems)
    if "asr" in given:
        spoken = [one for one in items if one.audio and one.id not in told.heard]
        told.heard.update(
            (one.id, answer.text)
            for one, answer in read.ask(
                given["asr"], [(one, {"audio": True}) for one in spoken], "listening"
            )
        )
    if "vlm" in given:
        asked = [(one, form) for one in items for form in forms_of(one, hears=one.id in told.heard)]
        known: dict[tuple[str, tuple[tuple[str, object], ...]], str] = {}
        for form in sorted({form for _, form in asked}, key=_ORDER.index):
            queries = {
                one.id: (one, _wording(one, form, told.heard)) for one, its in asked if its == form
            }
            # What was heard word for word comes to a query that was asked already: decoding is
            # greedy, and the answer would be the same.
            keys = {name: (name, tuple(words.items())) for name, (_, words) in queries.items()}
            new = [queries[name] for name, key in keys.items() if key not in known]
            known |= {
                keys[one.id]: answer.text for one, answer in read.ask(given["vlm"], new, form)
            }
            told.answers[form] = {name: known[key] for name, key in keys.items()}
    if "clip" in given:
        shown = [one for one in items if one.image and one.description]
        for kept, stage, what in (
            (told.seen, "looking", lambda _: {"image": True}),
            (told.read, "reading", lambda one: {"text": one.description}),
        ):
            for one, answer in read.ask(given["clip"], [(one, what(one)) for one in shown], stage):
                if answer.vector is not None:
                    kept[one.id] = answer.vector
    return told


def _wording(item: Item, form: Form, heard: Mapping[str, str]) -> dict[str, object]:
    """Return what is put into the query of a form.

    The words of a spoken question are those it was read from; the image's place is taken by its
    description, which stands before the question.
    """
    said = heard.get(item.id, "")
    if form == "text":
        return {"text": item.text or item.said}
    if form == "speech":
        return {"text": said}
    if form == "description":
        return {"text": f"{item.description}\n{item.text}"}
    words = {
        "text+image": item.text,
        "speech+image": said,
        "joint": assistants.together(item.text, said),
    }
    return {"text": words[form], "image": True}


@dataclass
class _Reader:
    """Asks models, some at a time, so that images and recordings are not all in memory."""

    corpus: Corpus
    settings: Settings
    batch_size: int
    progress: Progress
    problems: dict[str, str]

    def ask(
        self, model: Model, asked: Sequence[tuple[Item, Mapping[str, object]]], stage: str
    ) -> list[tuple[Item, Answer]]:
        found: list[tuple[Item, Answer]] = []
        for first in range(0, len(asked), _AT_A_TIME):
            self.progress(stage, first, len(asked))
            part = asked[first : first + _AT_A_TIME]
            queries: list[Query] = [
                one.query(self.corpus, self.settings, **dict(words)) for one, words in part
            ]
            answers = model.ask(queries, batch_size=self.batch_size)
            found += [(one, answer) for (one, _), answer in zip(part, answers, strict=True)]
        for one, answer in found:
            if answer.error:
                self.problems[f"{one.id}, {stage}"] = answer.error
        return found
