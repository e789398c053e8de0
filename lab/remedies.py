"""Remedies for accounts that do not agree: tried on items they were not chosen with, never advised.

Owns what each remedy does and what it gained. Knows nothing of who is to blame, or of how results
are shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from lab import accounts, consistency, finetuning, media, models, pairings
from lab.accounts import Accounts, Progress
from lab.consistency import Pair
from lab.finetuning import FineTuning
from lab.forms import Item
from lab.losses import Example
from lab.models import Model
from lab.normalisation import normalise
from lab.queries import Query
from lab.roles import Role
from lab.slo import Limit
from lab.stats import Interval
from lab.yardsticks import Yardstick

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.params import Settings

Name = Literal["prompt", "vocabulary", "fine_tune"]
REMEDIES: Mapping[Name, str] = {
    "prompt": "the answering model is told to answer what is asked, in its language",
    "vocabulary": "a transcript that nearly is a question of the tenant's FAQ becomes it",
    "fine_tune": "the speech model learns from the tenant's own recordings",
}
NEEDS: Mapping[Name, tuple[Role, ...]] = {
    "prompt": ("vlm",),
    "vocabulary": ("asr",),
    "fine_tune": ("asr",),
}
PROMPT = (
    "Answer only what is asked, in the language of the question, from what is written, said or "
    "shown."
)
_PAIRS: tuple[Pair, ...] = ("speech_input", "speech_output", "image_output", "joint")
_LIKENESS = (0.6, 0.7, 0.8, 0.9)  # from which a transcript is taken for a question; one is chosen
_LEARNING = FineTuning(learning_rate=2e-4, batch_size=4, epochs=4)
_NO_CHANGE = Limit(">=", 0.0)


@dataclass(frozen=True)
class Gain:
    """What a remedy did to one pair in one language.

    Attributes:
        remedy: which.
        pair: of accounts.
        language: of the items.
        before: mean score without it.
        after: mean score with it, by the same calibration.
        gain: after less before, paired item by item.
        n: items.
        verdict: helps or harms if the whole interval says so, else open.
        cost: in words.
    """

    remedy: Name
    pair: Pair
    language: str
    before: float
    after: float
    gain: Interval
    n: int
    verdict: Literal["helps", "harms", "open"]
    cost: str


def halves(items: Sequence[Item], *, seed: int) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Part items into those to choose with and those to try on, whole groups at a time."""
    groups = sorted({one.group for one in items})
    order = np.random.default_rng([seed, 4]).permutation(len(groups))
    first = {groups[at] for at in order[: len(groups) // 2]}
    return (
        tuple(one for one in items if one.group in first),
        tuple(one for one in items if one.group not in first),
    )


def correct(heard: str, questions: Sequence[str], *, likeness: float) -> str:
    """Return the question that a transcript nearly is, or the transcript.

    Args:
        heard: the transcript.
        questions: of the tenant, in the same language.
        likeness: least similarity, [0, 1]: 1 less edits over characters, after normalisation.
    """
    from rapidfuzz import fuzz, process

    best = process.extractOne(
        heard, questions, scorer=fuzz.ratio, processor=normalise, score_cutoff=100 * likeness
    )
    return heard if best is None else best[0]


def attempt(
    names: Sequence[Name],
    items: Sequence[Item],
    told: Accounts,
    *,
    method: str,
    folders: Mapping[Role, Path],
    corpus: Corpus,
    settings: Settings,
    yardstick: Yardstick,
    batch_size: int,
    seed: int,
    device: str = "cpu",
    progress: Progress,
) -> list[Gain]:
    """Try remedies on the second half of the items; what must be chosen is, with the first.

    Args:
        names: of REMEDIES; those whose role the suite lacks are left out.
        items: that were asked.
        told: what was said of them without a remedy.
        method: of storing weights.
        folders: checkpoint by role.
        corpus: the tenant's.
        settings: the tenant's.
        yardstick: measures texts.
        batch_size: queries answered at a time.
        seed: of the halves, and of learning.
        device: cpu, cuda or cuda:N.
        progress: called with (stage, done, total).
    Raises: as lab.accounts.load and lab.accounts.tell.
    """
    able = [name for name in names if all(role in folders for role in NEEDS[name])]
    if not able:
        return []
    with_what, on_what = halves([one for one in items if one.audio or one.image], seed=seed)
    given = accounts.load(method, folders, ("asr", "vlm"), device=device)

    def tell(models_of: Mapping[Role, Model], **more: object) -> Accounts:
        shared = {"corpus": corpus, "settings": settings, "batch_size": batch_size}
        return accounts.tell(on_what, models_of, **(shared | {"progress": progress} | more))

    ways: dict[Name, Callable[[], tuple[Accounts, str]]] = {
        "prompt": lambda: _prompted(tell, given, told, settings),
        "vocabulary": lambda: _corrected(
            tell, given, told, with_what, on_what, corpus=corpus, settings=settings
        ),
        "fine_tune": lambda: _taught(
            tell, given, with_what, corpus=corpus, settings=settings, seed=seed, progress=progress
        ),
    }
    return [
        gain
        for name in able
        for gain in _gains(name, *ways[name](), on_what, told, yardstick=yardstick, seed=seed)
    ]


# --- what each does -------------------------------------------------------------------------------


def _prompted(
    tell: Callable[..., Accounts],
    given: Mapping[Role, Model],
    told: Accounts,
    settings: Settings,
) -> tuple[Accounts, str]:
    words = f"{settings.system_prompt or ''} {PROMPT}".strip()
    changed = settings.model_copy(update={"system_prompt": words})
    answering = {role: model for role, model in given.items() if role == "vlm"}
    after = tell(answering, heard=told.heard, settings=changed)
    return after, f"{len(PROMPT.split())} more words before each question"


def _corrected(
    tell: Callable[..., Accounts],
    given: Mapping[Role, Model],
    told: Accounts,
    with_what: Sequence[Item],
    on_what: Sequence[Item],
    *,
    corpus: Corpus,
    settings: Settings,
) -> tuple[Accounts, str]:
    questions = _questions(corpus, settings)

    def corrected(items: Sequence[Item], likeness: float) -> dict[str, str]:
        return {
            one.id: correct(told.heard[one.id], questions.get(one.language, ()), likeness=likeness)
            for one in items
            if one.id in told.heard
        }

    def rightly_heard(likeness: float) -> int:
        heard = corrected(with_what, likeness)
        return sum(
            normalise(heard[one.id]) == normalise(one.said or one.text)
            for one in with_what
            if one.id in heard
        )

    likeness = max(_LIKENESS, key=lambda one: (rightly_heard(one), one))
    begun = perf_counter()
    heard = corrected(on_what, likeness)
    took_ms = (perf_counter() - begun) / max(1, len(heard)) * 1e3
    answering = {role: model for role, model in given.items() if role == "vlm"}
    after = tell(answering, heard=heard)
    known = {normalise(one) for some in questions.values() for one in some}
    new = sum(normalise(one.said or one.text) not in known for one in on_what if one.id in heard)
    return after, (
        f"{took_ms:.1f} ms a transcript, from a likeness of {likeness:g}; "
        f"{new} of {len(heard)} questions are not in the FAQ"
    )


def _questions(corpus: Corpus, settings: Settings) -> dict[str, list[str]]:
    if "faq" not in corpus.tables:
        return {}
    rows = corpus.tables["faq"].select_columns(["question", "language"])[:]
    return {
        language: [
            question
            for question, spoken in zip(rows["question"], rows["language"], strict=True)
            if spoken == language
        ]
        for language in settings.languages
    }


def _taught(
    tell: Callable[..., Accounts],
    given: Mapping[Role, Model],
    with_what: Sequence[Item],
    *,
    corpus: Corpus,
    settings: Settings,
    seed: int,
    progress: Progress,
) -> tuple[Accounts, str]:
    """Let the speech model, in float32, learn from the first half of the items."""
    lessons = []
    for one in with_what:
        if one.audio and (one.said or one.text):
            samples = media.load_audio(corpus.media_path(one.audio), data=settings.data)
            query = Query(audio=samples, language=one.language)
            lessons.append(Example(query, one.said or one.text))
    learner = models.load("asr", given["asr"].engine.checkpoint.folder)
    with tempfile.TemporaryDirectory(prefix="lab-remedy-") as aside:
        done = finetuning.fine_tune(
            learner,
            lessons,
            replace(_LEARNING, seed=seed, batch_size=min(_LEARNING.batch_size, len(lessons))),
            folder=Path(aside) / "asr",
            work=Path(aside) / "work",
            progress=progress,
        )
    after = tell({**given, "asr": learner})
    return after, f"{done.seconds:.0f} s of learning from {len(lessons)} recordings"


# --- what it gained -------------------------------------------------------------------------------


def _gains(
    name: Name,
    after: Accounts,
    cost: str,
    items: Sequence[Item],
    before: Accounts,
    *,
    yardstick: Yardstick,
    seed: int,
) -> Iterator[Gain]:
    """Yield what became of each pair and language; both are held against what was before."""
    for pair in _PAIRS:
        earlier, later = (
            {
                one.sample.language: one.sample
                for one in pairings.pair(pair, items, told, yardstick=yardstick, seed=seed)
            }
            for told in (before, after)
        )
        for language, sample in earlier.items():
            if language not in later or later[language].items != sample.items:
                continue
            same = replace(sample, matched=later[language].matched)
            first, second = (
                consistency.agree(one, limit=_NO_CHANGE, seed=seed) for one in (sample, same)
            )
            gain, _ = consistency.change(first, second, limit=_NO_CHANGE, seed=seed)
            yield Gain(
                remedy=name,
                pair=pair,
                language=language,
                before=first.score.value,
                after=second.score.value,
                gain=gain,
                n=len(sample.items),
                verdict="helps" if gain.low > 0 else "harms" if gain.high < 0 else "open",
                cost=cost,
            )
