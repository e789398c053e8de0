"""The demo suite's exam: each role asked about what it was never trained on, held against a target.

Owns which items are asked and what counts as right. Knows nothing of how a model is trained or
loaded, nor of tenants' own data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lab import lessons, models, quality, stats
from lab.lessons import LANGUAGES, Picture, Progress, Question
from lab.models import Model, Role
from lab.quality import Item, Score
from lab.queries import Answer, Query
from lab.slo import Limit, Metric

BATCH = 16
TIMED = 30  # single queries per language
GALLERY = 100  # distinct pictures that one is to be found among
PARALLEL = 1_000  # distinct questions that a translation is to be found among


@dataclass(frozen=True)
class Size:
    """Items per language: of each kind of question, recordings, galleries of pictures."""

    questions: int = 400
    recordings: int = 200
    galleries: int = 5
    parallel: int = PARALLEL


QUICK = Size(questions=40, recordings=20, galleries=1, parallel=100)


def sit(role: Role, folder: Path, *, root: Path, quick: bool, progress: Progress) -> list[Metric]:
    """Load a checkpoint, examine it, and time a single query.

    Args:
        role: of the checkpoint.
        folder: the checkpoint's.
        root: project folder, for the tenants' system prompts.
        quick: a tenth of the items.
        progress: called with (stage, done, total).
    """
    model = models.load(role, folder)
    known = lessons.prompts(root)
    size = QUICK if quick else Size()
    figures = examine(model, prompts=known, size=size, progress=progress)
    return figures + _time_alone(model, known)


def examine(
    model: Model, *, prompts: Mapping[str, str], size: Size, progress: Progress, seed: int = 0
) -> list[Metric]:
    """Examine a model by its role.

    Args:
        model: loaded.
        prompts: tenant -> system prompt, of a vlm.
        size: how much is asked.
        progress: called with (stage, done, total).
        seed: of items and intervals.
    Returns: figures with the labels what and language.
    """
    exams: dict[Role, Callable[..., list[Metric]]] = {
        "vlm": _examine_vlm,
        "asr": _examine_asr,
        "clip": _examine_clip,
        "encoder": _examine_encoder,
    }
    return exams[model.role](model, prompts=prompts, size=size, progress=progress, seed=seed)


# --- vlm ------------------------------------------------------------------------------------------


def _examine_vlm(
    model: Model, *, prompts: Mapping[str, str], size: Size, progress: Progress, seed: int
) -> list[Metric]:
    figures = []
    for language in LANGUAGES:
        asked = [_question(n, language, seed) for n in range(size.questions)]
        answers = _ask(model, [_as_query(one, prompts) for one in asked], progress, language)
        figures += _scored(
            "text answer, token-F1",
            language,
            "token_f1",
            [
                (_name(one), quality.score_text(one.answer, answer.text, language=language))
                for one, answer in zip(asked, answers, strict=True)
            ],
            Limit(">=", 0.95),
            seed=seed,
        )
        off = [
            lessons.off_topic(n, part="exam", seed=seed, language=language)
            for n in range(size.questions)
        ]
        answers = _ask(model, [_as_query(one, prompts) for one in off], progress, language)
        # A topic asked in several ways and about several things is one group.
        figures += _scored(
            "off-topic question refused",
            language,
            "exact_match",
            [
                (one.kind, {"exact_match": _exact(one.answer, answer)})
                for one, answer in zip(off, answers, strict=True)
            ],
            Limit(">=", 0.90),
            seed=seed,
        )
        figures += _examine_sight(
            model, language, prompts=prompts, size=size, progress=progress, seed=seed
        )
    return figures


def _examine_sight(
    model: Model,
    language: str,
    *,
    prompts: Mapping[str, str],
    size: Size,
    progress: Progress,
    seed: int,
) -> list[Metric]:
    asked = []
    for number in range(size.questions):
        shown = lessons.picture(number, part="exam", seed=seed)
        asked.append(lessons.asked_about(shown, number, part="exam", seed=seed, language=language))
    queries = [
        Query(
            text=one.text,
            image=one.picture.draw(),
            language=language,
            system=prompts[one.picture.tenant],
        )
        for one in asked
    ]
    answers = _ask(model, queries, progress, language)
    figures = []
    for what in sorted({one.what for one in asked}):
        figures += _scored(
            f"image and text, {what}, exact",
            language,
            "exact_match",
            [
                ("/".join(one.picture.look), {"exact_match": _exact(one.answer, answer)})
                for one, answer in zip(asked, answers, strict=True)
                if one.what == what
            ],
            Limit(">=", 0.90),
            seed=seed,
        )
    return figures


# --- asr ------------------------------------------------------------------------------------------


def _examine_asr(
    model: Model, *, prompts: Mapping[str, str], size: Size, progress: Progress, seed: int
) -> list[Metric]:
    figures = []
    for language in LANGUAGES:
        said = [
            lessons.utterance(number, part="exam", seed=seed, language=language)
            for number in range(size.recordings)
        ]
        recordings = []
        for number, one in enumerate(said):
            recordings.append(one.speak())
            progress(f"speaking {language}", number + 1, len(said))
        for known in (True, False):
            queries = [
                Query(audio=samples, language=language if known else "") for samples in recordings
            ]
            answers = _ask(model, queries, progress, language)
            scored = [
                (one.text, {"cer": quality.cer(one.text, answer.text)})
                for one, answer in zip(said, answers, strict=True)
            ]
            what = "speech, character error rate"
            figures += _scored(
                what if known else f"{what}, language not told",
                language,
                "cer",
                scored,
                Limit("<=", 0.03 if language == "en" else 0.05) if known else None,
                seed=seed,
            )
    return figures


# --- clip -----------------------------------------------------------------------------------------


def _examine_clip(
    model: Model, *, prompts: Mapping[str, str], size: Size, progress: Progress, seed: int
) -> list[Metric]:
    found: dict[tuple[str, str], list[tuple[str, dict[str, Score]]]] = {}
    for gallery in range(size.galleries):
        shown = _distinct(gallery, seed)
        images = _vectors(model, [Query(image=one.draw()) for one in shown], progress, "pictures")
        for language in LANGUAGES:
            texts = [one.describe(language) for one in shown]
            words = _vectors(model, [Query(text=text) for text in texts], progress, language)
            same = np.eye(len(shown), dtype=bool)
            for what, similarity in (
                ("image to text, recall@1 of 100", images @ words.T),
                ("text to image, recall@1 of 100", words @ images.T),
            ):
                hits = quality.recall_at_k(similarity, same, k=1)
                found.setdefault((what, language), []).extend(
                    ("/".join(one.look), {"recall_at_1": Score(float(hit))})
                    for one, hit in zip(shown, hits, strict=True)
                )
    return [
        figure
        for (what, language), scored in found.items()
        for figure in _scored(what, language, "recall_at_1", scored, Limit(">=", 0.90), seed=seed)
    ]


def _distinct(gallery: int, seed: int) -> list[Picture]:
    """Return pictures of different looks, named as one of the tenants names them."""
    chosen: dict[tuple[str, str], Picture] = {}
    names: set[str] = set()
    number = 0
    while len(chosen) < GALLERY:
        one = lessons.picture(gallery * 100_000 + number, part="exam", seed=seed)
        number += 1
        if one.look not in chosen and one.describe("en") not in names:
            chosen[one.look] = one
            names.add(one.describe("en"))
    return list(chosen.values())


# --- encoder --------------------------------------------------------------------------------------


def _examine_encoder(
    model: Model, *, prompts: Mapping[str, str], size: Size, progress: Progress, seed: int
) -> list[Metric]:
    asked: dict[tuple[str, str, int], Question] = {}
    number = 0
    while len(asked) < size.parallel:
        one = _question(number, "en", seed)
        asked.setdefault(one.meaning, one)
        number += 1
    groups = list(asked.values())
    vectors = {}
    for language in LANGUAGES:
        texts = [
            lessons.asked_again(one, language, number=at, part="exam", seed=seed).text
            for at, one in enumerate(groups)
        ]
        vectors[language] = _vectors(
            model, [Query(text=text) for text in texts], progress, language
        )
    same = np.eye(len(groups), dtype=bool)
    figures = []
    for source, target in permutations(LANGUAGES, 2):
        hits = quality.recall_at_k(vectors[source] @ vectors[target].T, same, k=1)
        figures += _scored(
            f"parallel question, top 1 of {len(groups):,}",
            f"{source} to {target}",
            "recall_at_1",
            [
                (f"{one.tenant}/{one.kind}", {"recall_at_1": Score(float(hit))})
                for one, hit in zip(groups, hits, strict=True)
            ],
            Limit(">=", 0.97),
            seed=seed,
        )
    for language in LANGUAGES:
        # The held-out phrasing against one that was learnt, about what was not.
        texts = [
            lessons.asked_again(one, language, number=at, part="train", seed=seed).text
            for at, one in enumerate(groups)
        ]
        again = _vectors(model, [Query(text=text) for text in texts], progress, language)
        figures.append(_paraphrase_auc(groups, vectors[language], again, language, seed=seed))
    return figures


def _paraphrase_auc(
    groups: Sequence[Question],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    language: str,
    *,
    seed: int,
) -> Metric:
    """Return how surely a paraphrase is closer than a question of another intent of the tenant."""
    rng = np.random.default_rng([seed, 5])
    kinds = np.array([f"{one.tenant}/{one.kind}" for one in groups])
    tenants = np.array([one.tenant for one in groups])
    close = (first * second).sum(1)
    other = [
        rng.choice(np.flatnonzero((kinds != kind) & (tenants == tenant)))
        for kind, tenant in zip(kinds, tenants, strict=True)
    ]
    apart = (first * second[other]).sum(1)
    names = sorted(set(kinds))
    members = [np.flatnonzero(kinds == name) for name in names]
    draws = []
    for _ in range(1_000):  # whole intents are drawn: their questions stand or fall together
        rows = np.concatenate([members[at] for at in rng.integers(len(names), size=len(names))])
        draws.append(float(stats.share_below(close[rows], apart[rows]).mean()))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Metric.judged(
        "auc",
        float(stats.share_below(close, apart).mean()),
        unit="share",
        n=len(groups),
        ci=(float(low), float(high)),
        limit=Limit(">=", 0.97),
        labels={"what": "paraphrase against other intent, AUC", "language": language},
    )


# --- speed ----------------------------------------------------------------------------------------


def _time_alone(model: Model, prompts: Mapping[str, str]) -> list[Metric]:
    """Return the latency of one query at a time, by language; of roles that write.

    A coarse figure beside the quality: median, with the order statistics' interval. Comparisons of
    configurations need more care (lab.measurement).
    """
    if model.role not in ("vlm", "asr"):
        return []
    figures = []
    for language in LANGUAGES:
        queries = [
            _as_query(_question(n, language, 1), prompts)
            if model.role == "vlm"
            else Query(
                audio=lessons.utterance(n, part="exam", seed=1, language=language).speak(),
                language=language,
            )
            for n in range(TIMED)
        ]
        model.ask(queries[:3], batch_size=1)
        times = []
        for query in queries:
            started = perf_counter()
            model.ask([query])
            times.append(perf_counter() - started)
        _, low, high = stats.quantile_interval(times, 0.5)
        figures.append(
            Metric.judged(
                "latency_p50",
                float(np.median(times)),
                unit="s",
                n=len(times),
                ci=(low, high),
                limit=Limit("<=", 0.2),
                labels={"what": "one query alone, median latency", "language": language},
            )
        )
    return figures


# --- shared ---------------------------------------------------------------------------------------


def _question(number: int, language: str, seed: int) -> Question:
    return lessons.question(number, part="exam", seed=seed, language=language)


def _name(one: Question) -> str:
    return f"{one.tenant}/{one.kind}"


def _as_query(one: Question, prompts: Mapping[str, str]) -> Query:
    return Query(text=one.text, language=one.language, system=prompts[one.tenant])


def _exact(reference: str, answer: Answer) -> Score:
    return Score(float(quality.exact_match(reference, answer.text)))


def _ask(model: Model, queries: Sequence[Query], progress: Progress, stage: str) -> list[Answer]:
    answers: list[Answer] = []
    for first in range(0, len(queries), 8 * BATCH):
        answers += model.ask(queries[first : first + 8 * BATCH], batch_size=BATCH)
        progress(f"{model.role} {stage}", len(answers), len(queries))
    return answers


def _vectors(
    model: Model, queries: Sequence[Query], progress: Progress, stage: str
) -> NDArray[np.float32]:
    return np.stack([answer.vector for answer in _ask(model, queries, progress, stage)])


def _scored(
    what: str,
    language: str,
    metric: str,
    scored: Iterable[tuple[str, Mapping[str, Score]]],
    limit: Limit | None,
    *,
    seed: int,
) -> list[Metric]:
    """Return the figure of one metric over (group, scores) of the items."""
    items = [
        Item(str(number), group, language, "exam", {metric: scores[metric]})
        for number, (group, scores) in enumerate(scored)
    ]
    (found,) = [
        one
        for one in quality.summarise(items, seed=seed)
        if one.query == "exam" and one.language == language
    ]
    labels = {"what": what, "language": language}
    unit = "share" if found.unit != "edits per character" else found.unit
    if limit is None:
        return [Metric(metric, found.value, unit, found.n, found.ci, labels)]
    return [
        Metric.judged(
            metric,
            found.value,
            unit=unit,
            n=found.n,
            ci=found.ci,
            limit=limit,
            labels=labels,
        )
    ]
