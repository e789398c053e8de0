"""Consistency studied: every pair of accounts, for every configuration, and what spoils it: 05.

Owns the order: ask each configuration everything, put the accounts side by side, find who is to
blame, and conclude. Knows nothing of how models are asked, of similarities, or of how results are
shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import (
    accounts,
    consistency,
    designs,
    forms,
    locks,
    machine,
    models,
    pairings,
    quality,
    quantization,
    slo,
    stats,
)
from lab.accounts import Accounts, Progress
from lab.consistency import PAIRS, Agreement, Detection, Pair
from lab.errors import LabError, ParameterError, message, printable
from lab.forms import Item
from lab.pairings import KINDS, Paired
from lab.remedies import NEEDS, REMEDIES, Gain, Name, attempt
from lab.roles import Role
from lab.slo import Limit, Metric, Verdict
from lab.yardsticks import Yardstick

if TYPE_CHECKING:
    import pandas as pd

    from lab.corpus import Corpus
    from lab.params import Resolved, Slo

# What each pair needs: roles of the suite beside the encoder, and tables of the corpus.
_NEEDS: Mapping[Pair, tuple[tuple[Role, ...], tuple[forms.Table, ...]]] = {
    "speech_input": (("asr",), ("speech",)),
    "speech_output": (("asr", "vlm"), ("speech",)),
    "image_input": (("clip",), ("images",)),
    "image_output": (("vlm",), ("joint", "images")),
    "joint": (("asr", "vlm"), ("joint",)),
    "languages": (("vlm",), ("faq",)),
    "batch": (("vlm",), ("faq",)),
    "baseline": (("vlm",), ("faq",)),
}
_WORST = 20
_LEVELS = 3  # lengths are told in thirds
_LEAST_ITEMS = 3  # of a failure mode


@dataclass(frozen=True)
class Plan:
    """What is asked of whom.

    Attributes:
        methods: of storing weights; the first is the baseline.
        pairs: that are compared.
        left_out: a sentence for whatever was asked for and cannot be had.
        folders: checkpoint by role.
        digests: of those.
        items: of each table.
        batch_size: queries answered at a time.
        alone: items that are asked alone too, to be held against the batch.
        remedies: that are tried on the baseline.
        seed: of items, near misses, plants and intervals.
        device: cpu, cuda or cuda:N.
    """

    methods: tuple[str, ...]
    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...]
    folders: Mapping[Role, Path]
    digests: Mapping[Role, str]
    items: int
    batch_size: int
    alone: int
    remedies: tuple[Name, ...]
    seed: int
    device: str = "cpu"


def plan(
    resolved: Resolved,
    *,
    methods: Sequence[str],
    pairs: Sequence[str],
    items: int,
    batch_size: int,
    alone: int,
    seed: int,
    remedies: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    device: str | None = None,
) -> Plan:
    """Return what can be asked of a tenant's suite.

    Args:
        resolved: the tenant's settings.
        methods: of lab.quantization.METHODS, at least one; the first is the baseline.
        pairs: of lab.consistency.PAIRS; none: all.
        items: of each table, at least 2.
        batch_size: queries answered at a time.
        alone: items that are asked alone too, at least 2.
        seed: of every choice.
        remedies: of lab.remedies.REMEDIES, which are tried on the baseline.
        scenarios: that `Outcome.scenarios` will be asked for: refused now, not once all is asked.
        device: cpu, cuda or cuda:N; None: what there is.
    Raises: ParameterError that lists what is wrong; UsageError, MissingError and ModelError of the
        suite.
    """
    device = device or machine.device()
    designs.check(methods, "methods", quantization.METHODS)
    pairs = tuple(PAIRS) if list(pairs) == [] else pairs
    designs.check(pairs, "pairs", PAIRS)
    for text in scenarios:
        _scenario(text)
    if list(remedies) != []:
        designs.check(remedies, "remedies", REMEDIES)
    for name, value, least in (
        ("items", items, 2),
        ("batch_size", batch_size, 1),
        ("alone", alone, 2),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            rule = f"{name} must be a whole number of at least {least}"
            raise ParameterError(message(rule, got=value))
    obstacles = {name: quantization.obstacle(name, device=device) for name in methods}
    if obstacles[methods[0]]:
        rule = f"the first of methods is the baseline and must run on {device}"
        raise ParameterError(message(rule, got=methods[0], remedy=obstacles[methods[0]]))
    folders, digests = designs.located(resolved)
    if "encoder" not in folders:
        rule = "consistency needs a suite with an encoder, which compares what is said"
        raise ParameterError(message(rule, got="none", place=str(resolved.settings.suite)))
    lacking = {name: [role for role in _NEEDS[name][0] if role not in folders] for name in pairs}
    told = [f"{name} is not tried: {why}." for name, why in obstacles.items() if why]
    told += [
        f"{name} is not compared: the suite {resolved.settings.suite} has no {' and no '.join(no)}."
        for name, no in lacking.items()
        if no
    ]
    able = tuple(name for name in methods if not obstacles[name])
    tried = tuple(name for name in remedies if all(role in folders for role in NEEDS[name]))
    told += [
        f"{name} is not tried: the suite lacks a role." for name in remedies if name not in tried
    ]
    return Plan(
        methods=able,
        pairs=tuple(name for name in pairs if not lacking[name]),
        left_out=tuple(told),
        folders=folders,
        digests=digests,
        items=items,
        batch_size=batch_size,
        alone=alone,
        remedies=tried,
        seed=seed,
        device=device,
    )


@dataclass(frozen=True, eq=False)
class Tried:
    """A configuration, and how far its accounts agree.

    Attributes:
        method: of storing weights.
        accounts: what it said.
        paired: the accounts side by side.
        agreements: in the same order.
        changes: (pair, language) -> change of the score against the baseline, and its verdict;
            none of the baseline itself.
        eligible: pass if every pair holds in every language and none lost more than may be; fail
            also if it could not be asked.
        problem: why it could not be asked; empty if it was.
    """

    method: str
    accounts: Accounts
    paired: tuple[Paired, ...]
    agreements: tuple[Agreement, ...]
    changes: Mapping[tuple[Pair, str], tuple[stats.Interval, Verdict]]
    eligible: Verdict
    problem: str = ""


@dataclass(frozen=True)
class Blame:
    """Whose fault wrong answers to words, image and speech together are, in one language.

    Attributes:
        language: of the items.
        asked: items.
        wrong: of them.
        speech: of the wrong ones, right once the recording is replaced by what it says.
        image: right once the image is replaced by its description, and not by the former.
        model: wrong all the same.
    """

    language: str
    asked: int
    wrong: int
    speech: int
    image: int
    model: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of it, for the notebook.

    Attributes:
        plan: what was asked.
        items: that were asked, by id.
        tried: configurations, the baseline first.
        detections: of what was planted into the baseline's accounts.
        blames: by language.
        gains: of the remedies that were tried on the baseline.
        limits: the tenant's.
    """

    plan: Plan
    items: Mapping[str, Item]
    tried: tuple[Tried, ...]
    detections: tuple[Detection, ...]
    blames: tuple[Blame, ...]
    gains: tuple[Gain, ...]
    limits: Slo

    @property
    def metrics(self) -> list[Metric]:
        """Every figure, with the limit where it has one."""
        found = []
        for one in self.tried:
            of = {"quantization": one.method, "batch_size": self.plan.batch_size}
            for agreement in one.agreements:
                found += _metrics(agreement, of, self.limits.consistency)
            for (pair, language), (value, verdict) in one.changes.items():
                found.append(
                    Metric(
                        "consistency_delta",
                        value.value,
                        unit="share",
                        n=next(
                            len(a.scores)
                            for a in one.agreements
                            if (a.sample.pair, a.sample.language) == (pair, language)
                        ),
                        ci=value[1:],
                        labels=_labels(pair, language) | of,
                        limit=str(self.limits.quality_delta),
                        verdict=verdict,
                    )
                )
        for one in self.detections:
            found.append(
                Metric(
                    "detection_auc",
                    one.auc.value,
                    unit="share",
                    n=one.n,
                    ci=one.auc[1:],
                    labels=_labels(one.pair, one.language) | {"planted": one.planted},
                )
            )
        return found

    @property
    def matrix(self) -> pd.DataFrame:
        """Return a row for each configuration, pair and language."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "configuration": one.method,
                    "pair": a.sample.pair,
                    "language": a.sample.language,
                    "score": a.score.value,
                    "low": a.score.low,
                    "high": a.score.high,
                    "n": len(a.scores),
                    "verdict": a.verdict,
                    "sees details": a.sample.sees_details,
                    "other subject": a.subject,
                    "near miss": a.detail,
                    "separation": a.separation,
                    "cosine": a.cosine.value,
                    "cosine low": a.cosine.low,
                    "cosine high": a.cosine.high,
                    "article": slo.judge(
                        self.limits.consistency, value=a.cosine.value, ci=a.cosine[1:]
                    ),
                }
                for one in self.tried
                for a in one.agreements
            ]
        )

    @property
    def similarities(self) -> pd.DataFrame:
        """Return the similarities of the baseline: pair, language, of (matched, near, other)."""
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "pair": a.sample.pair,
                    "language": a.sample.language,
                    "of": name,
                    "similarity": getattr(a.sample, name),
                }
            )
            for a in self.tried[0].agreements
            for name in ("matched", "near", "other")
        ]
        return pd.concat(parts, ignore_index=True)

    @property
    def spread(self) -> pd.DataFrame:
        """Return how these similarities spread: percentiles, and how many there are."""
        import pandas as pd

        rows = [
            (*name, *some.quantile([0.05, 0.5, 0.95]), len(some))
            for name, some in self.similarities.groupby(["pair", "language", "of"], sort=False)[
                "similarity"
            ]
        ]
        return pd.DataFrame(rows, columns=["pair", "language", "of", "p5", "p50", "p95", "n"])

    @property
    def power(self) -> pd.DataFrame:
        """Return how surely each plant is seen."""
        import pandas as pd

        columns = ["pair", "language", "planted", "auc", "low", "high", "caught", "n"]
        return pd.DataFrame(
            [(o.pair, o.language, o.planted, *o.auc, o.caught, o.n) for o in self.detections],
            columns=columns,
        )

    @property
    def blame(self) -> pd.DataFrame:
        """Return whose fault the baseline's wrong joint answers are."""
        import pandas as pd

        return pd.DataFrame([vars(one) for one in self.blames])

    @property
    def gained(self) -> pd.DataFrame:
        """Return what each remedy gained, by pair and language."""
        import pandas as pd

        columns = ["remedy", "pair", "language", "before", "after", "gain", "low", "high", "n"]
        return pd.DataFrame(
            [
                (
                    one.remedy,
                    _name(one.pair),
                    one.language,
                    one.before,
                    one.after,
                    *one.gain,
                    one.n,
                    one.verdict,
                    one.cost,
                )
                for one in self.gains
            ],
            columns=[*columns, "verdict", "cost"],
        )

    @property
    def remedies(self) -> dict[str, str]:
        """Return what each remedy that was tried is."""
        return {name: REMEDIES[name] for name in self.plan.remedies}

    @property
    def modes(self) -> pd.DataFrame:
        """Return where the baseline agrees least: pair, by, level, score, interval, n."""
        import pandas as pd

        columns = ["pair", "by", "level", "score", "low", "high", "n"]
        rows = [
            row for pair in self.plan.pairs for row in _modes(self.tried[0], pair, self.plan.seed)
        ]
        found = pd.DataFrame(rows, columns=columns)
        return found.sort_values("score", kind="stable").head(_WORST).reset_index(drop=True)

    @property
    def worst(self) -> pd.DataFrame:
        """Return the items of the baseline that agree least, with what was said."""
        import pandas as pd

        rows = []
        for paired, agreement in zip(self.tried[0].paired, self.tried[0].agreements, strict=True):
            if agreement.sample.pair in ("batch", "baseline"):
                continue
            for at, score in enumerate(agreement.scores):
                two = paired.twos[at] if paired.twos else None
                item = paired.items[at]
                rows.append(
                    {
                        "score": float(score),
                        "cosine": float(agreement.sample.matched[at]),
                        "pair": _name(agreement.sample.pair),
                        "one account": two.left if two else "(the image)",
                        "the other": two.right if two else item.description,
                        "asked": item.text or item.said,
                        "heard": self.tried[0].accounts.heard.get(item.id, ""),
                        "wanted": item.wanted,
                        "language": item.language,
                        "row": item.id,
                        "image": item.image,
                        "audio": item.audio,
                    }
                )
        rows.sort(key=lambda row: (row["score"], row["cosine"]))
        return pd.DataFrame(rows[:_WORST])

    def scenarios(self, asked: Sequence[str]) -> pd.DataFrame:
        """Return the verdict of each configuration in each scenario.

        Args:
            asked: such as ``speech ja`` or ``joint``: a kind of query, in a language or in all.
        Raises: ParameterError for anything else.
        """
        import pandas as pd

        rows = []
        for number, text in enumerate(asked, 1):
            kind, language = _scenario(text)
            row: dict[str, Any] = {"scenario": number, "query": kind, "language": language or "all"}
            for one in self.tried:
                about = [
                    a
                    for a in one.agreements
                    if KINDS[a.sample.pair] == kind
                    and (not language or language in a.sample.language.split("-"))
                ]
                row[one.method] = slo.overall([a.verdict for a in about]) or "not measured"
            rows.append(row)
        return pd.DataFrame(rows)

    def conclusion(self) -> list[str]:
        """Return the answer in sentences."""
        return list(_sentences(self))


def run(asked: Plan, resolved: Resolved, *, corpus: Corpus, progress: Progress) -> Outcome:
    """Ask every configuration everything, and put its accounts side by side.

    One process at a time asks models on a device: whoever times others there is not disturbed.

    Args:
        asked: what.
        resolved: the tenant's settings.
        corpus: the tenant's.
        progress: called with (stage, done, total).
    Raises: CorpusError, MediaError, PathError, ModelError; ParameterError if no pair can be
        compared.
    """
    settings = resolved.settings
    items = _draw(asked, corpus, settings)
    with locks.measuring(asked.device, waiting=lambda stage: progress(stage, 0, 1)):
        yardstick = Yardstick(
            models.load("encoder", asked.folders["encoder"], device=asked.device),
            progress=progress,
        )
        tried: list[Tried] = []
        for method in asked.methods:

            def named(stage: str, done: int, total: int, method: str = method) -> None:
                progress(f"{method}: {stage}", done, total)

            try:
                told, alone = _ask(asked, method, items, corpus, settings, named)
            except (MemoryError, RuntimeError, AssertionError) as error:
                if not tried or isinstance(error, LabError):
                    raise
                # A kernel that is not there, or no memory: that is a result.
                words = (str(error).strip().splitlines() or [type(error).__name__])[0]
                tried.append(Tried(method, Accounts(), (), (), {}, "fail", words))
                continue
            tried.append(_try(asked, method, items, told, alone, tried, yardstick, settings.slo))
        gains = attempt(
            asked.remedies,
            items,
            tried[0].accounts,
            method=asked.methods[0],
            folders=asked.folders,
            corpus=corpus,
            settings=settings,
            yardstick=yardstick,
            batch_size=asked.batch_size,
            seed=asked.seed,
            device=asked.device,
            progress=progress,
        )
    if not tried[0].agreements:
        rule = "there must be a pair of accounts to compare"
        raise ParameterError(
            message(rule, got=", ".join(asked.pairs), place=str(corpus.folder), remedy="add rows")
        )
    return Outcome(
        plan=asked,
        items={one.id: one for one in items},
        tried=tuple(tried),
        detections=tuple(one for some in tried[0].paired for one in some.detections),
        blames=tuple(_blame(items, tried[0].accounts)),
        gains=tuple(gains),
        limits=settings.slo,
    )


def _draw(asked: Plan, corpus: Corpus, settings: Any) -> tuple[Item, ...]:
    tables = dict.fromkeys(table for pair in asked.pairs for table in _NEEDS[pair][1])
    return tuple(
        item
        for table in tables
        for item in forms.draw(corpus, table, items=asked.items, settings=settings, seed=asked.seed)
    )


def _ask(
    asked: Plan,
    method: str,
    items: Sequence[Item],
    corpus: Corpus,
    settings: Any,
    progress: Progress,
) -> tuple[Accounts, Accounts | None]:
    """Return what a configuration says in batches, and of some items what it says alone."""
    roles = tuple(dict.fromkeys(role for pair in asked.pairs for role in _NEEDS[pair][0]))
    given = accounts.load(method, asked.folders, roles, device=asked.device)
    shared = {"corpus": corpus, "settings": settings, "progress": progress}
    told = accounts.tell(items, given, batch_size=asked.batch_size, **shared)
    if "batch" not in asked.pairs:
        return told, None
    words = {role: model for role, model in given.items() if role == "vlm"}
    return told, accounts.tell(
        _in_turns(items)[: asked.alone], words, batch_size=1, heard={}, **shared
    )


def _in_turns(items: Sequence[Item]) -> list[Item]:
    """Return those that can be asked, so that the first are some of each table and language."""
    turns: Counter[tuple[str, str]] = Counter()

    def turn(one: Item) -> int:
        of = (one.id.partition(":")[0], one.language)
        turns[of] += 1
        return turns[of]

    return sorted((one for one in items if accounts.forms_of(one, hears=False)), key=turn)


def _try(
    asked: Plan,
    method: str,
    items: Sequence[Item],
    told: Accounts,
    alone: Accounts | None,
    before: Sequence[Tried],
    yardstick: Yardstick,
    limits: Slo,
) -> Tried:
    paired: list[Paired] = []
    for which in asked.pairs:
        against = {"batch": alone, "baseline": before[0].accounts if before else None}.get(which)
        if which in ("batch", "baseline") and against is None:
            continue
        paired += pairings.pair(
            which,
            items,
            told,
            against=against,
            yardstick=yardstick,
            seed=asked.seed,
            plants=not before,
        )
    agreements = [
        consistency.agree(one.sample, limit=limits.consistency, seed=asked.seed) for one in paired
    ]
    earlier = {
        (a.sample.pair, a.sample.language): a for a in (before[0].agreements if before else ())
    }
    changes = {
        place: consistency.change(earlier[place], a, limit=limits.quality_delta, seed=asked.seed)
        for a in agreements
        if (place := (a.sample.pair, a.sample.language)) in earlier
    }
    verdicts = [a.verdict for a in agreements] + [verdict for _, verdict in changes.values()]
    return Tried(
        method=method,
        accounts=told,
        paired=tuple(paired),
        agreements=tuple(agreements),
        changes=changes,
        eligible=slo.overall(verdicts) or "insufficient",
    )


# --- figures --------------------------------------------------------------------------------------


def _labels(pair: Pair, language: str) -> dict[str, str]:
    found = {"pair": pair, "language": language}
    return found | ({"query": KINDS[pair]} if KINDS[pair] else {})


def _metrics(agreement: Agreement, of: Mapping[str, Any], limit: Limit) -> Iterator[Metric]:
    sample, n = agreement.sample, len(agreement.scores)
    labels = _labels(sample.pair, sample.language) | of
    yield Metric(
        "consistency",
        agreement.score.value,
        unit="share",
        n=n,
        ci=agreement.score[1:],
        labels=labels,
        limit=str(limit),
        verdict=agreement.verdict,
        needed=agreement.needed,
    )
    yield Metric(
        "cosine", agreement.cosine.value, unit="cosine", n=n, ci=agreement.cosine[1:], labels=labels
    )


# --- whose fault ----------------------------------------------------------------------------------


def _blame(items: Sequence[Item], told: Accounts) -> Iterator[Blame]:
    """Replace one input of each wrong joint answer by its truth, and see what repairs it."""
    joint = told.answers.get("joint", {})

    def is_right(item: Item, form: accounts.Form) -> bool:
        answer = told.answers.get(form, {}).get(item.id, "")
        return quality.exact_match(item.wanted, answer)

    for language in sorted({one.language for one in items if one.id in joint}):
        some = [one for one in items if one.id in joint and one.language == language]
        wrong = [one for one in some if not is_right(one, "joint")]
        speech = [one for one in wrong if is_right(one, "text+image")]
        image = [one for one in wrong if one not in speech and is_right(one, "description")]
        yield Blame(
            language,
            len(some),
            len(wrong),
            len(speech),
            len(image),
            len(wrong) - len(speech) - len(image),
        )


def _modes(tried: Tried, pair: Pair, seed: int) -> Iterator[tuple[Any, ...]]:
    """Yield the mean score of each language, subject and length of a pair."""
    found = [
        (item, score)
        for paired, agreement in zip(tried.paired, tried.agreements, strict=True)
        if agreement.sample.pair == pair
        for item, score in zip(paired.items, agreement.scores, strict=True)
    ]
    if not found:
        return
    lengths = [len(one.said or one.text or one.description) for one, _ in found]
    ends = np.quantile(lengths, [k / _LEVELS for k in range(1, _LEVELS)])
    names = ("short", "middling", "long")
    for by, level_of in (
        ("language", lambda item, _: item.language),
        ("subject", lambda item, _: item.subject),
        ("length", lambda _, length: names[int(np.searchsorted(ends, length))]),
    ):
        levels: dict[str, list[tuple[Item, float]]] = {}
        for (item, score), length in zip(found, lengths, strict=True):
            levels.setdefault(level_of(item, length), []).append((item, float(score)))
        for level, some in levels.items():
            if len(some) >= _LEAST_ITEMS:
                scores = np.array([score for _, score in some])
                groups = [item.group for item, _ in some]
                average = consistency.mean(scores, groups, lowest=0.0, seed=seed)
                yield (pair, by, level, *average, len(some))


# --- in words -------------------------------------------------------------------------------------


def _scenario(text: str) -> tuple[str, str]:
    """Return kind of query and language of a scenario, the latter empty for all."""
    kinds = sorted({kind for kind in KINDS.values() if kind})
    kind, _, language = str(text).partition(" ")
    if kind not in kinds or (language and language not in ("zh", "en", "ja")):
        raise ParameterError(
            message(
                f"a scenario must be one of {', '.join(kinds)}, then nothing or zh, en or ja",
                got=text,
            )
        )
    return kind, language


def _sentences(found: Outcome) -> Iterator[str]:
    limit = found.limits.consistency
    for one in found.tried:
        if one.problem:
            yield f"{one.method} could not be asked: {printable(one.problem)}."
        if one.accounts.problems:
            where, why = next(iter(one.accounts.problems.items()))
            count = len(one.accounts.problems)
            yield (
                f"{one.method}: {count} of the queries could not be answered and count as silence, "
                f"such as {printable(where)}: {printable(why)}."
            )
        for verdict, words in (
            ("fail", f"misses {limit}"),
            ("insufficient", "is open"),
            ("pass", f"is {limit}"),
        ):
            if some := [a for a in one.agreements if a.verdict == verdict]:
                yield f"{one.method}: consistency {words} in {_listed(some)}."
        lost = [
            f"{_name(pair)} ({language}) by {-value.value:.2f}"
            for (pair, language), (value, verdict) in one.changes.items()
            if verdict == "fail"
        ]
        if lost:
            yield f"{one.method} loses against {found.tried[0].method}: {', '.join(lost)}."
    every = found.tried[0].agreements
    if blind := [a for a in every if not a.sample.sees_subjects]:
        yield f"The encoder cannot tell what agrees from other subjects in {_places(blind)}."
    if coarse := [a for a in every if a.sample.sees_subjects and not a.sample.sees_details]:
        yield (
            f"In {_places(coarse)} the encoder cannot see details: even right answers are hardly "
            "closer than near misses, and the score is about subjects alone."
        )
    yield from _blamed(found.blames)
    yield from _cured(found.gains)
    compared = {a.sample.pair for one in found.tried for a in one.agreements}
    for pair in found.plan.pairs:
        if pair == "baseline" and len(found.tried) == 1:
            yield "baseline is not compared: there is no other configuration."
        elif pair not in compared:
            yield (
                f"{_name(pair)} is not compared: in no language are there two items about "
                "different subjects that have both accounts."
            )
    yield from found.plan.left_out


def _blamed(blames: Sequence[Blame]) -> Iterator[str]:
    asked, wrong = sum(one.asked for one in blames), sum(one.wrong for one in blames)
    if not asked:
        return
    if not wrong:
        yield f"All {asked} joint questions are answered rightly."
        return
    parts = {
        "the recording": sum(one.speech for one in blames),
        "the image": sum(one.image for one in blames),
        "neither, but the answering model": sum(one.model for one in blames),
    }
    most = ", ".join(f"{name} {count} times" for name, count in parts.items() if count)
    yield f"Of {asked} joint questions {wrong} are answered wrongly; to blame is {most}."


def _cured(gains: Sequence[Gain]) -> Iterator[str]:
    for name in dict.fromkeys(one.remedy for one in gains):
        for verdict in ("helps", "harms"):
            some = [
                f"{_name(one.pair)} ({one.language}) by {abs(one.gain.value):.2f}"
                for one in gains
                if (one.remedy, one.verdict) == (name, verdict)
            ]
            if some:
                yield f"The remedy {_name(name)} {verdict} {', '.join(some)}."
        if all(one.verdict == "open" for one in gains if one.remedy == name):
            yield f"Of the remedy {_name(name)} no gain or harm was seen."


def _listed(some: Sequence[Agreement]) -> str:
    """Return the scores by pair: ``image input (en 0.98, ja 0.97)``."""
    by_pair: dict[Pair, list[str]] = {}
    for a in some:
        value = f"{a.sample.language} {a.score.value:.2f}"
        by_pair.setdefault(a.sample.pair, []).append(value)
    return ", ".join(f"{_name(pair)} ({', '.join(values)})" for pair, values in by_pair.items())


def _places(some: Sequence[Agreement]) -> str:
    by_pair: dict[Pair, list[str]] = {}
    for a in some:
        by_pair.setdefault(a.sample.pair, []).append(a.sample.language)
    return ", ".join(f"{_name(pair)} ({', '.join(names)})" for pair, names in by_pair.items())


def _name(pair: str) -> str:
    return pair.replace("_", " ")
