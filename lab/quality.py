"""How good answers are: scores per item, summaries per kind of query and language, comparisons.

Owns the wording in which texts are scored, the scores, and their 95 % intervals over groups of
items. Knows nothing of models, of how an answer came about, or of limits.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product, zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.errors import ParameterError, ShapeError, message
from lab.stats import RESAMPLES, proportion_interval, ratio_intervals

RULE = (
    "NFKC, case folded, control characters and variation selectors removed, punctuation and white "
    "space part words (# % & @ * and punctuation between two digits stay, an apostrophe within a "
    "word goes); a token is a CJK character, an emoji, or a run of anything else; white space "
    "counts only between two tokens that are not CJK; articles stay"
)
INTERVAL_RULE = (
    "95 %: Wilson for shares of independent items, else the wider of the percentile and the "
    "studentised bootstrap over groups, bounded by Wilson's interval of the groups that deviate "
    "from the commonest rate; none for fewer than two groups"
)
UNITS: Mapping[str, str] = {
    "exact_match": "share",
    "token_f1": "F1, 0 to 1",
    "chrf": "chrF2, 0 to 1",
    "cer": "edits per character",
    "wer": "edits per word",
    "recall_at_k": "share",  # recall_at_1, recall_at_5, ...
}

_SHARES = frozenset({"exact_match", "recall_at_k"})  # of an item 0 or 1
_ERRORS = frozenset({"cer", "wer"})  # lower is better, and more than 1 is possible
_SPACED = frozenset({"en"})  # languages whose words can be told by white space
_ALIKE = str.maketrans({**dict.fromkeys("’‘´`ʼ", "'"), "゛": "\u3099", "゜": "\u309a"})
_CJK = "\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK += "\U00020000-\U0003ffff\u3099\u309a"  # the last two: voiced marks that nothing composes with
_TOKEN = re.compile(rf"[{_CJK}][\u3099\u309a]*|[^\s{_CJK}]+")
_NEXT_TO_CJK = re.compile(rf"(?<=[{_CJK}]) | (?=[{_CJK}])")
_NOT_WORD = re.compile(r"[\W_]+")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_MEANT = frozenset("#%&@*")  # as in lab.normalisation
_LEAST_RESAMPLES = 100
_NAMED = 3  # of the items that break a rule


# --- wording --------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def tokens(text: str) -> tuple[str, ...]:
    """Return the tokens of ``text``, by ``RULE``; none for blank text and bare punctuation.

    The rule of lab.normalisation, but for the white space that English words need. The script
    decides, not a language tag, so that an answer in the wrong language is cut by its own script.
    Latin letters and digits within Chinese or Japanese stay whole: as single characters a wrong
    order number would share most of them with the right one, and a brand would outweigh a sentence.
    """
    plain = _SELECTORS.sub("", text.translate(_ALIKE))
    plain = "".join(c for c in plain if c.isspace() or unicodedata.category(c)[0] != "C")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    parted = unicodedata.normalize("NFKC", _NOT_WORD.sub(_parted, folded))
    return tuple(_TOKEN.findall(parted))


def spelled(text: str) -> str:
    """Return ``text`` as its characters are scored: its tokens, a space between those not CJK."""
    return _NEXT_TO_CJK.sub("", " ".join(tokens(text)))


def _parted(match: re.Match[str]) -> str:
    """Return what stays of a run of characters that are neither letters nor digits."""
    run, text = match[0], match.string
    before, after = (
        text[max(0, match.start() - 1) : match.start()],
        text[match.end() : match.end() + 1],
    )
    if run == "'" and before.isalpha() and after.isalpha():
        return ""
    if before.isdigit() and after.isdigit() and not any(map(str.isspace, run)):
        return run
    return "".join(map(_kept, run))


def _kept(char: str) -> str:
    category = unicodedata.category(char)
    if char in _MEANT or (category[0] not in "PZ" and category != "So"):
        return char
    return f" {char} " if category == "So" else " "


# --- scores of one item ---------------------------------------------------------------------------


class Score(NamedTuple):
    """One item's share of a figure, which is the sum of numerators over that of denominators.

    A mean has denominators of 1; an error rate has edits over the length of the reference.
    """

    numerator: float
    denominator: float = 1.0


@dataclass(frozen=True)
class Item:
    """What one configuration scored on one item.

    Attributes:
        id: the same in every configuration that is compared.
        group: items that hang together, such as the language versions of one question.
        language: such as ``zh``.
        query: kind of query, such as ``speech``.
        scores: metric -> score; metrics are the keys of ``UNITS``, and ``recall_at_5`` and so on.
    """

    id: str
    group: str
    language: str
    query: str
    scores: Mapping[str, Score]


def score_text(reference: str, answer: str, *, language: str) -> dict[str, Score]:
    """Return every score of a text: WER only where white space parts words (en).

    An answer that never came (time-out, out of memory) is scored as an empty one, not left out.
    """
    scores = {
        "exact_match": Score(float(exact_match(reference, answer))),
        "token_f1": Score(token_f1(reference, answer)),
        "chrf": Score(chrf(reference, answer)),
        "cer": cer(reference, answer),
    }
    return scores | {"wer": wer(reference, answer)} if language in _SPACED else scores


def exact_match(reference: str, answer: str) -> bool:
    """Whether the two have the same tokens in the same order; then every other score is perfect."""
    return tokens(reference) == tokens(answer)


def token_f1(reference: str, answer: str) -> float:
    """Return the F1 of the two multisets of tokens, [0, 1] (Rajpurkar et al. 2016, 1606.05250).

    Two empty texts score 1, one empty text 0. Unlike SQuAD's script, articles count.
    """
    ours, theirs = Counter(tokens(reference)), Counter(tokens(answer))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def chrf(reference: str, answer: str) -> float:
    """Return chrF2 by sacrebleu, [0, 1]: n-grams of 1 to 6 characters (Popović 2015, W15-3049).

    White space is not counted. Two empty texts score 1, one empty text 0.
    """
    from sacrebleu.metrics import CHRF

    ours, theirs = spelled(reference), spelled(answer)
    if not ours or not theirs:
        return float(ours == theirs)
    return CHRF().sentence_score(theirs, [ours]).score / 100


def cer(reference: str, answer: str) -> Score:
    """Return edits (substituted, deleted, inserted) over the characters of the reference.

    Characters are code points after ``RULE``. Against an empty reference every character is an
    insertion over a length of 0: it counts in the rate of a whole, and has no rate of its own.
    """
    from jiwer import process_characters

    out = process_characters(spelled(reference), spelled(answer))
    return Score(out.substitutions + out.deletions + out.insertions, len(spelled(reference)))


def wer(reference: str, answer: str) -> Score:
    """Return edits over the words of the reference; else as `cer`. Means little but for en."""
    from jiwer import process_words

    out = process_words(" ".join(tokens(reference)), " ".join(tokens(answer)))
    return Score(out.substitutions + out.deletions + out.insertions, len(tokens(reference)))


def recall_at_k(similarity: ArrayLike, relevant: ArrayLike, *, k: int) -> NDArray[np.bool_]:
    """Whether each query has a relevant candidate among its k most similar.

    For the other direction pass both transposed. The worst case is taken: an equally similar
    candidate that is not relevant comes first, and so does one whose similarity is NaN (as
    torch.topk ranks it); a relevant one with NaN is never found.

    Args:
        similarity: (queries, candidates), higher is closer.
        relevant: (queries, candidates), bool; at least one per query.
        k: 1 to the number of candidates.
    Returns: (queries,).
    Raises: ShapeError if the shapes differ; ParameterError if k is out of range, relevant is not
        bool or a query has nothing relevant.
    """
    close, right = np.asarray(similarity), np.asarray(relevant)
    if close.ndim != 2 or close.shape != right.shape:
        got = f"{close.shape} and {right.shape}"
        raise ShapeError(message("similarity and relevant must have one 2-D shape", got=got))
    if not 1 <= k <= close.shape[1]:
        raise ParameterError(message(f"k must be between 1 and {close.shape[1]} candidates", got=k))
    if right.dtype != bool:
        raise ParameterError(message("relevant must be bool", got=right.dtype))
    if not right.any(axis=1).all():
        bare = np.flatnonzero(~right.any(axis=1))
        place = f"{len(bare)} without, the first are listed"
        rule = "each query needs a relevant candidate"
        raise ParameterError(message(rule, got=bare[:_NAMED].tolist(), place=place))
    known = right & ~np.isnan(close)
    best = np.where(known, close, -np.inf).max(axis=1, keepdims=True)  # (queries, 1)
    ahead = (~right & ~(close < best)).sum(axis=1)
    return known.any(axis=1) & (ahead < k)


# --- summaries and comparisons --------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """One figure with its interval, by ``INTERVAL_RULE``.

    Attributes:
        metric: as in `Item.scores`.
        query: kind of query; None for all.
        language: None for all; items weigh as many as there are of each.
        value: sum of numerators over sum of denominators; NaN if the references are all empty.
        unit: of the value.
        higher_is_better: the direction of the metric, in a difference too.
        n: items that have the metric.
        groups: groups they fall into.
        interval: 95 %; None if there are fewer than two groups, or so many empty references that
            a resample may consist of them.
    """

    metric: str
    query: str | None
    language: str | None
    value: float
    unit: str
    higher_is_better: bool
    n: int
    groups: int
    interval: tuple[float, float] | None

    @property
    def ci(self) -> tuple[float, float]:
        """The interval for lab.slo, where None means a census: (nan, nan) if there is none."""
        return self.interval or (math.nan, math.nan)


@dataclass(frozen=True)
class Difference(Estimate):
    """Candidate minus baseline, over the same items; ``value`` is the difference."""

    baseline: float
    candidate: float


def summarise(
    items: Iterable[Item], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Estimate, ...]:
    """Return each metric for every kind of query and language, and over all of either and both.

    Args:
        items: in any order.
        seed: of the bootstrap; every figure starts from it.
        resamples: of the bootstrap, at least 100.
    Raises: ParameterError if resamples is too small, an id occurs twice, a metric is unknown or a
        score out of its range; every such problem is listed.
    """
    ordered = _checked(items, "items", resamples)
    return _estimates(ordered, None, seed=seed, resamples=resamples)


def compare(
    baseline: Iterable[Item], candidate: Iterable[Item], *, seed: int, resamples: int = RESAMPLES
) -> tuple[Difference, ...]:
    """Return how the candidate differs from the baseline, paired per item, as `summarise` does.

    Args:
        baseline: in any order.
        candidate: the same ids, each with the same group, language, query, metrics and
            denominators (the length of its reference).
        seed: as for `summarise`.
        resamples: as for `summarise`.
    Raises: ParameterError as `summarise` does, and if the items cannot be paired.
    """
    before = _checked(baseline, "baseline", resamples)
    after = _checked(candidate, "candidate", resamples)
    _check_pairs(before, after)
    return _estimates(after, before, seed=seed, resamples=resamples)


def _estimates(
    items: Sequence[Item], baseline: Sequence[Item] | None, *, seed: int, resamples: int
) -> tuple[Any, ...]:
    """Return every figure; as differences if there is a baseline, whose items are in one order."""
    metrics = sorted({metric for item in items for metric in item.scores})
    tops, bottoms = _columns(items, metrics)
    before = None if baseline is None else _columns(baseline, metrics)[0]
    lowest = 0.0 if before is None else -1.0
    found: list[Estimate] = []
    for (query, language), rows in _cells(items).items():
        together = defaultdict(list)  # metrics of the same items share the draws
        for column in range(len(metrics)):
            together[tuple(rows[~np.isnan(tops[rows, column])].tolist())].append(column)
        together.pop((), None)
        for picked, columns in together.items():
            cell, groups = np.ix_(picked, columns), [items[row].group for row in picked]
            top, bottom = tops[cell], bottoms[cell]
            change = top if before is None else top - before[cell]
            intervals = ratio_intervals(
                change, bottom, groups, lowest=lowest, seed=seed, resamples=resamples
            )
            for at, column in enumerate(columns):
                family, n = _family(metrics[column]), len(picked)
                figure = Estimate(
                    metric=metrics[column],
                    query=query,
                    language=language,
                    value=_ratio(change[:, at], bottom[:, at]),
                    unit=UNITS[family],
                    higher_is_better=family not in _ERRORS,
                    n=n,
                    groups=len(set(groups)),
                    interval=intervals[at],
                )
                if before is not None:
                    was = _ratio(before[cell][:, at], bottom[:, at])
                    now = _ratio(top[:, at], bottom[:, at])
                    figure = Difference(**vars(figure), baseline=was, candidate=now)
                elif family in _SHARES and figure.groups == n > 1:
                    wilson = proportion_interval(int(top[:, at].sum()), n)
                    figure = replace(figure, interval=wilson)
                found.append(figure)
    return tuple(sorted(found, key=_place))


def _cells(items: Sequence[Item]) -> dict[tuple[str | None, str | None], NDArray[np.intp]]:
    """Return the rows of every kind of query and language; None stands for all."""
    cells = defaultdict(list)
    for row, item in enumerate(items):
        for cell in product((item.query, None), (item.language, None)):
            cells[cell].append(row)
    return {cell: np.array(rows) for cell, rows in cells.items()}


def _columns(items: Sequence[Item], metrics: Sequence[str]) -> NDArray[np.float64]:
    """Return numerators and denominators, (2, items, metrics); NaN where an item has none."""
    none = (math.nan, math.nan)
    rows = [[item.scores.get(metric, none) for metric in metrics] for item in items]
    return np.moveaxis(np.array(rows, dtype=float).reshape(len(items), len(metrics), 2), 2, 0)


def _ratio(tops: NDArray[np.float64], bottoms: NDArray[np.float64]) -> float:
    total = float(bottoms.sum())
    return float(tops.sum()) / total if total else math.nan


def _place(figure: Estimate) -> tuple[bool, str, bool, str, str]:
    """Sort by kind of query, language and metric; what is over all comes last."""
    query, language = figure.query, figure.language
    return (query is None, query or "", language is None, language or "", figure.metric)


def _family(metric: str) -> str:
    """Return the key of ``UNITS``: ``recall_at_k`` for ``recall_at_5``."""
    return re.sub(r"^recall_at_[1-9][0-9]*$", "recall_at_k", metric)


# --- what is refused ------------------------------------------------------------------------------


def _checked(items: Iterable[Item], what: str, resamples: int) -> list[Item]:
    """Return the items by id, if they can be counted."""
    if resamples < _LEAST_RESAMPLES:
        rule = f"resamples must be at least {_LEAST_RESAMPLES}"
        raise ParameterError(message(rule, got=resamples))
    ordered = sorted(items, key=lambda item: item.id)
    problems: dict[str, list[str]] = defaultdict(list)
    for item, following in zip_longest(ordered, ordered[1:]):
        if following and item.id == following.id:
            problems["an id must occur once"].append(item.id)
        for metric, (numerator, denominator) in item.scores.items():
            family = _family(metric)
            if family not in UNITS:
                problems[f"a metric must be one of {', '.join(UNITS)}"].append(metric)
            if not (0 <= numerator < math.inf and 0 <= denominator < math.inf):
                problems["a score must be finite and at least 0"].append(f"{item.id}: {metric}")
            elif family in _SHARES and (numerator not in (0, 1) or denominator != 1):
                problems["a share must be 0 or 1, over 1"].append(f"{item.id}: {metric}")
            elif family not in _ERRORS and numerator > denominator:
                problems["a score must be at most 1"].append(f"{item.id}: {metric}")
    _refuse(problems, place=what)
    return ordered


def _check_pairs(baseline: Sequence[Item], candidate: Sequence[Item]) -> None:
    """Refuse items that cannot be paired."""
    old, new = ({item.id: _frame(item) for item in items} for items in (baseline, candidate))
    problems = {
        "the candidate must have every item of the baseline": [
            id_ for id_ in old if id_ not in new
        ],
        "the baseline must have every item of the candidate": [
            id_ for id_ in new if id_ not in old
        ],
        "an item must have the same group, language, query, metrics and denominators in both": [
            id_ for id_ in old if old[id_] != new.get(id_, old[id_])
        ],
    }
    _refuse(problems, place="baseline and candidate", remedy="score the same items with both")


def _frame(item: Item) -> tuple[object, ...]:
    """Return what two configurations share of an item."""
    bottoms = {metric: score[1] for metric, score in item.scores.items()}
    return (item.group, item.language, item.query, bottoms)


def _refuse(problems: Mapping[str, Sequence[str]], *, place: str, remedy: str = "") -> None:
    """Raise one ParameterError that lists the rules that are broken, with the first offenders."""
    lines = [
        message(rule, got=names[:_NAMED], place=f"{place}, {len(names)} in all", remedy=remedy)
        for rule, names in problems.items()
        if names
    ]
    if lines:
        raise ParameterError("\n".join(lines))
