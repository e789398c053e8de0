"""Is a tenant's data fit to tune on? The checks, their figures, and the rows to look at.

Owns what is looked for in each table, the rules by which a row is flagged, and the conclusion.
Reads the tables in batches and keeps numbers, not texts, so that a million rows fit in memory.
Knows nothing of how a corpus is loaded or validated, nor of how a figure is drawn.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import duplicates, inspection, labels, normalisation, scripts, views
from lab.errors import ParameterError, message
from lab.slo import Metric, Verdict, overall
from lab.stats import proportion_interval, proportion_needed
from lab.views import NO_ITEM, TEXTS, View

if TYPE_CHECKING:
    import pandas as pd

    from lab.corpus import Corpus
    from lab.params import Settings

Progress = Callable[[str, int, int], None]  # (stage, done, total)

TABLES = ("faq", "images", "speech")
MAPPED_ROWS = 1000  # questions on the map
EMBEDDING = "character n-grams 2-4, tf-idf, 32 singular vectors, t-SNE; no encoder in the suite"

RULES: Mapping[str, str] = {
    "exact_duplicates": (
        "question and answer are those of another row after normalisation "
        f"({normalisation.RULE}), or one of them was copied into another language of its group"
    ),
    "near_duplicates": duplicates.NEAR_RULE,
    "contradictions": "one normalised question in one language, different normalised answers",
    "language_mismatch": (
        "the characters of a row decide for another language than its tag; rows whose characters "
        "decide nothing are left out"
    ),
    "group_coverage": "share of groups (in images: of images) with a row in every language",
    "class_imbalance": (
        "rows of the largest over rows of the smallest class, without rows of a wrong language; "
        "interval of these two classes' odds by Wilson"
    ),
    "image_defects": inspection.IMAGE_RULE,
    "image_duplicates": duplicates.IMAGE_RULE,
    "label_mismatch": labels.RULE,
    "audio_defects": inspection.AUDIO_RULE,
    "audio_pace": inspection.PACE_RULE,
    "quarantined": "rows that break the format and were left out",
    "tokens": scripts.TOKENISATION,
}
ADVICE: Mapping[str, str] = {
    "exact_duplicates": "delete the copies, else they leak from training into evaluation",
    "near_duplicates": "merge the copies with their originals",
    "contradictions": "decide on one answer for each of these questions",
    "language_mismatch": "correct the language tags, or translate the texts",
    "group_coverage": "add the languages that are missing",
    "class_imbalance": "collect rows for the smallest classes, or merge them",
    "image_defects": "replace these images",
    "image_duplicates": "replace the copies with images of their own",
    "label_mismatch": "hold these images against their descriptions",
    "audio_defects": "record these queries again",
    "quarantined": "correct the rows that the check of the corpus lists",
}
# How much a finding weighs when rows are ranked: 3 teaches something false, 1 wastes a row.
SEVERITY: Mapping[str, int] = {
    "contradictions": 3,
    "language_mismatch": 3,
    "label_mismatch": 3,
    "audio_defects": 3,
    "exact_duplicates": 2,
    "image_defects": 2,
    "near_duplicates": 1,
    "image_duplicates": 1,
    "audio_pace": 1,
    "group_coverage": 1,
}

_SHOWN_CHARS = 200
_LISTED_ITEMS = 200
_PLOTTED = 3000
_REACHABLE = 20  # times the rows there are: more is not worth asking for
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True)
class Analysis:
    """What was found in a tenant's corpus.

    Attributes:
        tenant: slug.
        metrics: one per check, table and, where it applies, language.
        flagged: every finding: table, row (1-based, in the file), check, reason.
        worst: the rows to look at first: table, row, language, text, reasons, severity.
        frames: small tables for display and figures, empty where their table is absent: ``rows``,
            ``balance``, ``lengths``, ``languages``, ``coverage``, ``incomplete``, ``copies``,
            ``map``, ``images``, ``audio``.
        rows: table -> rows looked at.
        absent: tables that the tenant does not have.
        embedding: what the map was made with.
        notes: what limits the findings, in sentences.
    """

    tenant: str
    metrics: tuple[Metric, ...]
    flagged: pd.DataFrame
    worst: pd.DataFrame
    frames: Mapping[str, pd.DataFrame]
    rows: Mapping[str, int]
    absent: tuple[str, ...]
    embedding: str
    notes: tuple[str, ...]

    def conclusion(self) -> list[str]:
        """Return the answer in sentences: the verdict, what fails or is open, what to do."""
        counts = Counter(metric.verdict for metric in self.metrics)
        n = len(self.metrics)
        failing, unsettled = counts["fail"], counts["insufficient"]
        headline = {
            "pass": f"The data of {self.tenant} are fit to tune on: all {n} figures are within "
            "their limits.",
            "fail": f"The data of {self.tenant} are not fit to tune on yet: {failing} of {n} "
            "figures miss their limit.",
            "insufficient": f"Whether the data of {self.tenant} are fit to tune on is open: no "
            f"figure misses its limit, but {unsettled} of {n} need more rows to be told from it.",
            None: f"There is nothing to judge in the data of {self.tenant}.",
        }
        return [
            headline[overall(metric.verdict for metric in self.metrics)],
            *_sentences(self.metrics, "fail"),
            *_sentences(self.metrics, "insufficient"),
            *(f"There is no {table} table: its checks were not made." for table in self.absent),
            *self.notes,
        ]


def analyse(
    corpus: Corpus,
    *,
    settings: Settings,
    seed: int,
    near_duplicate: float,
    worst_rows: int,
    progress: Progress | None = None,
) -> Analysis:
    """Look at a tenant's tables and judge each check by its limit.

    Args:
        corpus: see lab.corpus; FAQ, images and speech are looked at, those that are there.
        settings: limits, languages, and how many rows of a table to look at. A sample keeps
            groups, and the languages of an image, together.
        seed: of the samples and of the map.
        near_duplicate: similarity from which two questions are near duplicates, (0, 1].
        worst_rows: rows to list as the first to look at, at least 1.
        progress: called with (stage, done, total).
    Raises: ParameterError if near_duplicate or worst_rows is out of range.
    """
    if not 0 < near_duplicate <= 1:
        raise ParameterError(message("near_duplicate must be in (0, 1]", got=near_duplicate))
    if worst_rows < 1:
        raise ParameterError(message("worst_rows must be at least 1", got=worst_rows))
    report = _Report(corpus, settings, seed, progress or (lambda stage, done, total: None))
    read = [report.read(table) for table in TABLES if table in corpus.tables]
    for view in read:
        _check_quarantine(report, view)
        _describe(report, view)
        _check_languages(report, view)
        _check_balance(report, view)
        _check_coverage(report, view)
        if view.table == "faq":
            _check_copies(report, view, near_duplicate)
            _map_questions(report, view)
        elif view.table == "images":
            _check_images(report, view)
        else:
            _check_audio(report, view)
    return report.finish(read, worst_rows)


# --- what is found -------------------------------------------------------------------------------


class _Report:
    """Findings as they come in, and the pieces every check needs."""

    def __init__(self, corpus: Corpus, settings: Settings, seed: int, progress: Progress) -> None:
        self.corpus = corpus
        self.settings = settings
        self.seed = seed
        self.progress = progress
        self.languages: tuple[str, ...] = tuple(settings.languages)
        self.metrics: list[Metric] = []
        self.notes: list[str] = []
        self._flags: list[tuple[str, np.ndarray, str, list[str]]] = []
        self._frames: dict[str, list[Mapping[str, Any]]] = defaultdict(list)

    def read(self, table: str) -> View:
        """Read a table, and say so if only a sample is looked at."""
        view = views.read(
            self.corpus.tables[table],
            table,
            languages=self.languages,
            size=getattr(self.settings.sample, table),
            seed=self.seed,
            progress=lambda done, total: self.progress(f"reading {table}", done, total),
        )
        if len(view) < view.rows_there:
            self.notes.append(
                f"A sample of {len(view)} of {view.rows_there} {table} rows was looked at; a copy "
                "of a row outside the sample is not found."
            )
        return view

    def flag(self, view: View, positions: np.ndarray, check: str, reasons: list[str]) -> None:
        """Note that rows at some positions were caught by a check, each for a reason."""
        self._flags.append((view.table, view.row[positions], check, reasons))

    def show(self, frame: str, columns: Mapping[str, Any]) -> None:
        """Add rows, given by column, to a frame."""
        self._frames[frame].append(columns)

    def share(
        self, check: str, view: View, hits: int, n: int, *, language: str | None = None
    ) -> None:
        """Judge the share of hits among n rows or items."""
        limit = getattr(self.settings.checks, check)
        value = hits / n if n else math.nan
        of = {"table": view.table} | ({"language": language} if language else {})
        # The question is about these data: once all are looked at, nothing is left to infer.
        population = view.population(n)
        self.metrics.append(
            Metric.judged(
                check,
                value,
                unit="share",
                n=n,
                ci=proportion_interval(hits, n, population=population),
                limit=limit,
                labels=of,
                needed=proportion_needed(value, limit.bound, population=population),
            )
        )

    def share_by_language(
        self, check: str, view: View, hit: np.ndarray, looked: np.ndarray | None = None
    ) -> None:
        """Judge a share in each language of its own: (n,) bool, among the rows looked at."""
        for index, language in enumerate(self.languages):
            among = view.language == index
            if looked is not None:
                among = among & looked
            self.share(check, view, int((hit & among).sum()), int(among.sum()), language=language)

    def finish(self, read: Sequence[View], worst_rows: int) -> Analysis:
        """Return everything, ordered."""
        import pandas as pd

        frames = {
            name: pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)
            if (parts := self._frames.get(name))
            else pd.DataFrame(columns=list(columns))
            for name, columns in _FRAMES.items()
        }
        flagged = _flagged(self._flags)
        return Analysis(
            tenant=self.corpus.tenant,
            metrics=tuple(self.metrics),
            flagged=flagged,
            worst=_worst(flagged, read, worst_rows),
            frames=frames,
            rows={view.table: len(view) for view in read},
            absent=tuple(table for table in TABLES if table not in self.corpus.tables),
            embedding=EMBEDDING,
            notes=tuple(self.notes),
        )


_FRAMES: Mapping[str, tuple[str, ...]] = {
    "rows": ("table", "language", "rows", "classes"),
    "balance": ("table", "language", "annotation", "rows"),
    "lengths": ("table", "field", "language", "unit", "n", *(f"p{p}" for p in _PERCENTILES)),
    "languages": ("table", "tag", "characters", "rows"),
    "coverage": ("table", "language", "items", "with_language", "share"),
    "incomplete": ("table", "item", "row", "lacks"),
    "copies": ("check", "language", "row", "text", "original", "original_text", "similarity"),
    "map": ("row", "language", "annotation", "x", "y"),
    "images": ("row", "image_path", "brightness", "contrast", "sharpness", "finding"),
    "audio": (
        "row",
        "language",
        "duration_s",
        "tokens",
        "rms_dbfs",
        "clipped_share",
        "silent_share",
        "finding",
    ),
}


def _flagged(flags: Sequence[tuple[str, np.ndarray, str, list[str]]]) -> pd.DataFrame:
    import pandas as pd

    flagged = pd.DataFrame(
        {
            "table": np.concatenate([np.full(len(f[1]), f[0]) for f in flags] or [[]]),
            "row": np.concatenate([f[1] for f in flags] or [[]]).astype(np.int64),
            "check": np.concatenate([np.full(len(f[1]), f[2]) for f in flags] or [[]]),
            "reason": [reason for f in flags for reason in f[3]],
        }
    )
    for name, order in (("table", TABLES), ("check", tuple(SEVERITY))):
        flagged[name] = pd.Categorical(flagged[name].astype(str), categories=list(order))
    return flagged.sort_values(["table", "row", "check"], kind="stable", ignore_index=True)


def _worst(flagged: pd.DataFrame, read: Sequence[View], count: int) -> pd.DataFrame:
    """Return the rows that weigh most; among equals, each kind of finding comes in turn."""
    import pandas as pd

    weight = flagged["check"].map(SEVERITY).astype(np.int64)
    rows = (
        flagged.assign(severity=weight)
        .sort_values(["table", "row", "severity"], ascending=[True, True, False], kind="stable")
        .groupby(["table", "row"], observed=True, sort=False)
        .agg(severity=("severity", "max"), main=("check", "first"), findings=("check", "size"))
        .reset_index()
    )
    by_table = {view.table: view for view in read}
    rows["item"] = [
        # The rows of one image share what is found in its pixels: one of them is enough.
        by_table[table].item_of(row) if table == "images" else row
        for table, row in zip(rows["table"], rows["row"], strict=True)
    ]
    rows = rows.sort_values(
        ["severity", "findings"], ascending=False, kind="stable"
    ).drop_duplicates(["table", "item"])
    rows["turn"] = rows.groupby(["severity", "main"], observed=True).cumcount()
    rows = rows.sort_values(
        ["severity", "turn", "main", "table", "row"],
        ascending=[False, True, True, True, True],
        kind="stable",
    ).head(count)
    told = []
    for table, row, severity in zip(rows["table"], rows["row"], rows["severity"], strict=True):
        view = by_table[table]
        position = np.searchsorted(view.row, [row])
        reasons = flagged.loc[(flagged["table"] == table) & (flagged["row"] == row), "reason"]
        told.append(
            {
                "table": table,
                "row": row,
                "language": view.languages[view.language[position[0]]],
                "text": _shortened(view.column(TEXTS[table][0], position)[0]),
                "reasons": "; ".join(reasons),
                "severity": severity,
            }
        )
    return pd.DataFrame(told, columns=["table", "row", "language", "text", "reasons", "severity"])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


# --- checks of every table -----------------------------------------------------------------------


def _check_quarantine(report: _Report, view: View) -> None:
    """Judge the rows that were left out: every row was read, so the share has no interval."""
    read = report.corpus.rows_read.get(view.table, view.rows_there)
    report.metrics.append(
        Metric.judged(
            "quarantined",
            (read - view.rows_there) / read if read else math.nan,
            unit="share",
            n=read,
            ci=proportion_interval(read - view.rows_there, read, population=read),
            limit=report.settings.checks.quarantined,
            labels={"table": view.table},
        )
    )


def _describe(report: _Report, view: View) -> None:
    """Count rows and classes, and measure texts, per language."""
    balance = sorted(view.classes.items(), key=lambda one: (one[0][0], -one[1], one[0][1]))
    balance.sort(key=lambda one: view.languages.index(one[0][0]))
    report.show(
        "balance",
        {
            "table": [view.table] * len(balance),
            "language": [language for (language, _), _ in balance],
            "annotation": [annotation for (_, annotation), _ in balance],
            "rows": [rows for _, rows in balance],
        },
    )
    for index, language in enumerate(view.languages):
        among = view.language == index
        report.show(
            "rows",
            {
                "table": [view.table],
                "language": [language],
                "rows": [int(among.sum())],
                "classes": [sum(name == language for name, _ in view.classes)],
            },
        )
        if not among.any():
            continue
        for unit, fields in (("characters", view.characters), ("tokens", view.tokens)):
            for name, lengths in fields.items():
                values = np.percentile(lengths[among], _PERCENTILES, method="inverted_cdf")
                report.show(
                    "lengths",
                    {
                        "table": [view.table],
                        "field": [name],
                        "language": [language],
                        "unit": [unit],
                        "n": [int(among.sum())],
                        **{
                            f"p{p}": [int(value)]
                            for p, value in zip(_PERCENTILES, values, strict=True)
                        },
                    },
                )


def _check_languages(report: _Report, view: View) -> None:
    """Hold language tags against the characters of the texts."""
    wrong = np.flatnonzero(view.mismatched)
    names = {"zh": "Chinese", "en": "English", "ja": "Japanese", "other": "another language"}
    report.flag(
        view,
        wrong,
        "language_mismatch",
        [
            f"tagged {scripts.VERDICTS[tag]}, written in {names[scripts.VERDICTS[spoken]]}"
            for tag, spoken in zip(
                view.tag[wrong].tolist(), view.spoken[wrong].tolist(), strict=True
            )
        ],
    )
    report.share_by_language("language_mismatch", view, view.mismatched, view.spoken != 0)
    pairs = Counter(zip(view.tag.tolist(), view.spoken.tolist(), strict=True))
    for (tag, spoken), rows in sorted(pairs.items()):
        report.show(
            "languages",
            {
                "table": [view.table],
                "tag": [scripts.VERDICTS[tag]],
                "characters": [scripts.VERDICTS[spoken]],
                "rows": [rows],
            },
        )


def _check_balance(report: _Report, view: View) -> None:
    """Compare the largest with the smallest class of each language."""
    for language in view.languages:
        counts = [rows for (name, _), rows in view.classes.items() if name == language]
        largest, smallest = max(counts, default=0), min(counts, default=0)
        ci = (math.nan, math.nan)
        if len(counts) == 1:
            ci = (1.0, 1.0)
        elif counts:
            both = largest + smallest
            ends = proportion_interval(largest, both, population=view.population(both))
            low, high = (end / (1 - end) for end in ends)
            ci = (max(1.0, low), high)
        report.metrics.append(
            Metric.judged(
                "class_imbalance",
                largest / smallest if counts else math.nan,
                unit="ratio",
                n=sum(counts),
                ci=ci,
                limit=report.settings.checks.class_imbalance,
                labels={"table": view.table, "language": language},
            )
        )


def _check_coverage(report: _Report, view: View) -> None:
    """Find the items that lack a language; rows without a group are counted apart."""
    grouped = np.flatnonzero(view.item != NO_ITEM)
    alone = len(view) - len(grouped)
    if alone and view.table != "speech":
        report.notes.append(
            f"{alone} of {len(view)} {view.table} rows belong to no group and are not part of "
            "group_coverage."
        )
    if not len(grouped):
        return
    _, first, item = np.unique(view.item[grouped], return_index=True, return_inverse=True)
    has = np.zeros((len(first), len(view.languages)), dtype=bool)
    has[item, view.language[grouped]] = True
    complete = has.all(axis=1)
    report.share("group_coverage", view, int(complete.sum()), len(complete))
    for index, language in enumerate(view.languages):
        report.show(
            "coverage",
            {
                "table": [view.table],
                "language": [language],
                "items": [len(has)],
                "with_language": [int(has[:, index].sum())],
                "share": [float(has[:, index].mean())],
            },
        )
    short = np.flatnonzero(~complete)
    short = short[np.argsort(first[short])]
    lacks = [
        ", ".join(name for name, there in zip(view.languages, row, strict=True) if not there)
        for row in has[short].tolist()
    ]
    positions = grouped[first[short]]
    what = "image" if view.table == "images" else "group"
    report.flag(view, positions, "group_coverage", [f"its {what} lacks {one}" for one in lacks])
    listed = positions[:_LISTED_ITEMS]
    report.show(
        "incomplete",
        {
            "table": [view.table] * len(listed),
            "item": view.column("image_path" if what == "image" else "group", listed),
            "row": view.row[listed],
            "lacks": lacks[:_LISTED_ITEMS],
        },
    )


# --- FAQ -----------------------------------------------------------------------------------------


def _check_copies(report: _Report, view: View, similarity: float) -> None:
    """Find exact and near copies, copies across languages, and contradictions."""
    questions, answers = view.keys["question"], view.keys["answer"]
    # Of equal rows the original is one that belongs to a group, then one whose tag is right, then
    # the first.
    order = np.lexsort((np.arange(len(view)), view.mismatched, view.item == NO_ITEM))
    preference = np.empty(len(view), dtype=np.int64)
    preference[order] = np.arange(len(view))

    exact = duplicates.exact_copies(questions, answers, preference=preference)
    copied = np.zeros(len(view), dtype=bool)
    copied[exact.rows] = True
    same_tag = view.language[exact.rows] == view.language[exact.originals]
    reasons = [
        f"says the same as row {row}"
        if same
        else f"says the same as row {row}, which is tagged {view.languages[language]}"
        for row, language, same in zip(
            view.row[exact.originals].tolist(),
            view.language[exact.originals].tolist(),
            same_tag.tolist(),
            strict=True,
        )
    ]
    report.flag(view, exact.rows, "exact_duplicates", reasons)
    for name in TEXTS["faq"]:
        across = _across_languages(view, name) & ~copied
        copied |= across
        report.flag(
            view,
            np.flatnonzero(across),
            "exact_duplicates",
            [f"its {name} was copied from another language of its group"] * int(across.sum()),
        )
    report.share_by_language("exact_duplicates", view, copied)

    single = np.flatnonzero(~copied)
    near = duplicates.near_copies(
        view.questions.take(single),
        answers[single],
        preference=preference[single],
        similarity=similarity,
        seed=report.seed,
        progress=lambda done, total: report.progress("comparing questions", done, total),
    )
    rows, originals = single[near.rows], single[near.originals]
    report.flag(
        view,
        rows,
        "near_duplicates",
        [
            f"asks nearly the same as row {row} (similarity {value:.2f})"
            for row, value in zip(
                view.row[originals].tolist(), near.similarity.tolist(), strict=True
            )
        ],
    )
    hit = np.zeros(len(view), dtype=bool)
    hit[rows] = True
    report.share_by_language("near_duplicates", view, hit)

    contradicting = duplicates.contradicting(questions, answers, view.language)
    report.flag(
        view,
        np.flatnonzero(contradicting),
        "contradictions",
        ["its question is answered differently in another row"] * int(contradicting.sum()),
    )
    report.share_by_language("contradictions", view, contradicting)
    for check, of, at, alike in (
        ("exact_duplicates", exact.rows, exact.originals, exact.similarity),
        ("near_duplicates", rows, originals, near.similarity),
    ):
        _show_copies(report, view, check, of[:_LISTED_ITEMS], at[:_LISTED_ITEMS], alike)


def _across_languages(view: View, name: str) -> np.ndarray:
    """Mark rows of a group that bear another of its languages' text: (n,) bool.

    Only text whose characters decide its language counts: a number or a product's name may well
    be the same in all.
    """
    marked = np.zeros(len(view), dtype=bool)
    foreign = np.flatnonzero(
        (view.item != NO_ITEM) & (view.written[name] != 0) & (view.written[name] != view.tag)
    )
    if len(foreign) == 0:
        return marked
    there = np.flatnonzero(np.isin(view.item, view.item[foreign]))
    rightful = {
        (item, key)
        for item, key, written, tag in zip(
            view.item[there].tolist(),
            view.keys[name][there].tolist(),
            view.written[name][there].tolist(),
            view.tag[there].tolist(),
            strict=True,
        )
        if written == tag
    }
    pairs = zip(view.item[foreign].tolist(), view.keys[name][foreign].tolist(), strict=True)
    marked[foreign] = np.fromiter((pair in rightful for pair in pairs), bool, len(foreign))
    return marked


def _show_copies(
    report: _Report,
    view: View,
    check: str,
    rows: np.ndarray,
    originals: np.ndarray,
    similarity: np.ndarray,
) -> None:
    report.show(
        "copies",
        {
            "check": [check] * len(rows),
            "language": [view.languages[index] for index in view.language[rows]],
            "row": view.row[rows],
            "text": [_shortened(text) for text in view.column("question", rows)],
            "original": view.row[originals],
            "original_text": [_shortened(text) for text in view.column("question", originals)],
            "similarity": similarity[: len(rows)],
        },
    )


def _map_questions(report: _Report, view: View) -> None:
    """Lay a sample of the questions out in two dimensions, alike beside alike."""
    size = min(MAPPED_ROWS, len(view))
    chosen = np.sort(np.random.default_rng(report.seed).permutation(len(view))[:size])
    report.progress("map of the questions", 0, 1)
    place = _project(view.questions.take(chosen).to_pylist(), seed=report.seed)
    report.progress("map of the questions", 1, 1)
    report.show(
        "map",
        {
            "row": view.row[chosen],
            "language": [view.languages[index] for index in view.language[chosen]],
            "annotation": view.column("annotation", chosen),
            "x": place[:, 0],
            "y": place[:, 1],
        },
    )


def _project(texts: Sequence[str], *, seed: int) -> np.ndarray:
    """Return a place for each text: (n, 2)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.manifold import TSNE

    dimensions = min(32, len(set(texts)) - 1)
    if dimensions < 3:  # too few different texts to lay out
        numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        return np.array([[numbers[text], 0.0] for text in texts]).reshape(-1, 2)
    counts = HashingVectorizer(
        analyzer="char", ngram_range=(2, 4), n_features=2**16, alternate_sign=False, norm=None
    ).transform(texts)
    vectors = TruncatedSVD(dimensions, random_state=seed).fit_transform(
        TfidfTransformer().fit_transform(counts)
    )
    return TSNE(
        init="pca", perplexity=min(30.0, (len(texts) - 1) / 3), max_iter=500, random_state=seed
    ).fit_transform(vectors)


# --- images --------------------------------------------------------------------------------------


def _check_images(report: _Report, view: View) -> None:
    """Find images that show nothing, repeat another, or bear the wrong label."""
    names = ["image_path", "brightness", "contrast", "sharpness", "dhash", "digest"]
    facts = view.facts(names)
    _, first, image = np.unique(view.item, return_index=True, return_inverse=True)
    by_place = np.argsort(first)  # images in the order of the file
    first = first[by_place]
    image = np.argsort(by_place)[image]
    each = facts.iloc[first]

    defects = inspection.image_defects(
        *(each[name].to_numpy() for name in ("brightness", "contrast", "sharpness"))
    )
    copies = duplicates.image_copies(
        each["digest"].to_numpy(dtype=object),
        each["dhash"].to_numpy(dtype=np.uint64),
        [report.corpus.media_path(path) for path in each["image_path"]],
        progress=lambda done, total: report.progress("comparing images", done, total),
    )
    originals = each["image_path"].iloc[copies.originals]
    repeated = dict(
        zip(copies.rows.tolist(), (f"shows the same as {one}" for one in originals), strict=True)
    )
    doubtful = _label_mismatches(report, view)

    for check, found in (("image_defects", defects), ("image_duplicates", repeated)):
        positions = np.flatnonzero(np.isin(image, list(found)))
        report.flag(view, positions, check, [found[at] for at in image[positions].tolist()])
        report.share(check, view, len(found), len(first))
    positions = np.array(sorted(doubtful), dtype=np.int64)
    report.flag(view, positions, "label_mismatch", [doubtful[at] for at in positions.tolist()])
    report.share("label_mismatch", view, len(np.unique(image[positions])), len(first))

    mislabelled = dict.fromkeys(image[positions].tolist(), "label disagrees")
    finding = {**mislabelled, **repeated, **defects}
    shown = _for_figure(len(first), finding, report.seed)
    report.show(
        "images",
        {
            "row": view.row[first[shown]],
            **{name: each[name].to_numpy()[shown] for name in names[:4]},
            "finding": [finding.get(at, "") for at in shown.tolist()],
        },
    )


def _label_mismatches(report: _Report, view: View) -> dict[int, str]:
    """Return position -> reason, of the rows whose label goes with neither image nor languages."""
    columns = ["row", "image_path", "description", "language", "annotation"]
    found = labels.suspects(
        view.facts(columns), report.corpus.media_path, seed=report.seed, progress=report.progress
    )
    report.notes += found.attrs["notes"]
    place = {row: at for at, row in enumerate(view.row.tolist())}
    return {place[row]: reason for row, reason in zip(found["row"], found["reason"], strict=True)}


def _for_figure(n: int, found: Mapping[int, str], seed: int) -> np.ndarray:
    """Choose what a figure shows: all findings first, then others at random; sorted positions."""
    order = np.random.default_rng(seed).permutation(n)
    is_found = np.isin(order, list(found))
    return np.sort(np.concatenate([order[is_found], order[~is_found]])[:_PLOTTED])


# --- speech --------------------------------------------------------------------------------------


def _check_audio(report: _Report, view: View) -> None:
    """Find recordings that are clipped, silent or too quiet, and those of an odd pace."""
    measured = ["rms_dbfs", "clipped_share", "silent_share"]
    facts = view.facts(["duration_s", *measured])
    found = inspection.audio_defects(*(facts[name].to_numpy() for name in measured))
    positions = np.array(sorted(found), dtype=np.int64)
    report.flag(view, positions, "audio_defects", [found[at] for at in positions.tolist()])
    hit = np.zeros(len(view), dtype=bool)
    hit[positions] = True
    report.share_by_language("audio_defects", view, hit)

    duration, tokens = facts["duration_s"].to_numpy(), view.tokens["text"]
    odd = np.zeros(len(view), dtype=bool)
    for index in range(len(view.languages)):
        among = np.flatnonzero((view.language == index) & ~hit)
        odd[among] = inspection.odd_pace(duration[among], tokens[among])
    report.flag(
        view,
        np.flatnonzero(odd),
        "audio_pace",
        [
            f"{duration[at]:.1f} s for {tokens[at]} tokens is not the usual pace"
            for at in np.flatnonzero(odd).tolist()
        ],
    )
    for at in np.flatnonzero(odd).tolist():
        found[at] = "odd pace"
    shown = _for_figure(len(view), found, report.seed)
    report.show(
        "audio",
        {
            "row": view.row[shown],
            "language": [view.languages[index] for index in view.language[shown]],
            "duration_s": duration[shown],
            "tokens": tokens[shown],
            **{name: facts[name].to_numpy()[shown] for name in measured},
            "finding": [found.get(at, "") for at in shown.tolist()],
        },
    )


# --- sentences -----------------------------------------------------------------------------------


def _sentences(metrics: Sequence[Metric], verdict: Verdict) -> Iterator[str]:
    """Yield a sentence for each check and table with figures of a verdict."""
    groups: dict[tuple[str, object], list[Metric]] = defaultdict(list)
    for metric in metrics:
        if metric.verdict == verdict:
            groups[metric.name, metric.labels.get("table")].append(metric)
    for (name, table), group in groups.items():
        figures = ", ".join(map(_figure, group))
        sign, bound = str(group[0].limit).split()
        limit = f"limit {sign} {_number(float(bound), group[0].unit)}"
        ending = f"{ADVICE[name]}" if verdict == "fail" else _what_would_settle(group)
        yield f"{name.replace('_', ' ').capitalize()} in {table}: {figures}; {limit}; {ending}."


def _what_would_settle(group: Sequence[Metric]) -> str:
    needed = [metric.needed for metric in group]
    if all(metric.n == 0 for metric in group):
        return "open, there is nothing to judge by"
    if any(n and n <= _REACHABLE * m.n for n, m in zip(needed, group, strict=True)):
        most = max(n for n, m in zip(needed, group, strict=True) if n and n <= _REACHABLE * m.n)
        each = " in each language" if "language" in group[0].labels else ""
        return f"open, about n = {most}{each} would settle it"
    return "open, too close to the limit to tell"


def _figure(metric: Metric) -> str:
    """Word one figure: ``zh 1.5 % (0.6 % to 3.5 %, n = 333)``."""
    language = f"{metric.labels['language']} " if "language" in metric.labels else ""
    if metric.n == 0:
        return f"{language}no rows"
    between = "exact, "
    if metric.ci is not None and metric.ci[0] != metric.ci[1]:
        low, high = (_number(end, metric.unit) for end in metric.ci)
        between = f"95 % interval {low} to {high}, "
    return f"{language}{_number(metric.value, metric.unit)} ({between}n = {metric.n})"


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.3g} %" if unit == "share" else f"{value:.3g}"
