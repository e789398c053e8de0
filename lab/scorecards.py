"""The scorecard of a tenant: four candidates for each kind of query, side by side, and one of them.

Owns how candidates come from the ledger to a study of their own, which one is recommended, and why
in words. Knows nothing of how a candidate is measured, or of how a card is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lab import (
    candidates,
    comparisons,
    designs,
    isolation,
    params,
    requests,
    slo,
    studies,
    sweeps,
    tenants,
)
from lab.candidates import NAMES, Candidate, Step
from lab.comparisons import Comparisons, Standing
from lab.designs import Design
from lab.errors import LabError
from lab.isolation import Probed
from lab.ledger import Ledger
from lab.slo import Metric, Verdict
from lab.studies import Study
from lab.trials import Kind, Trial, TrialResult

if TYPE_CHECKING:
    import pandas as pd

    from lab.corpus import Corpus
    from lab.params import Resolved, Settings, Slo

CONSISTENCY = "05_consistency"  # the notebook that measures it across modalities
FIGURES: Mapping[str, str] = {  # of the article's table
    "latency_p95": "response (p95)",
    "throughput": "throughput",
    "error_rate": "errors",
    "quality_delta": "quality",
    "consistency": "consistency",
    "isolation": "isolation",
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Card:
    """One kind of query.

    Attributes:
        kind: of the queries.
        known: what single techniques gained, from the ledger.
        candidates: in the order of the study.
        study: all of them, measured in turns.
        figures: of each candidate, those of the article's table.
        recommended: number of the candidate; the untuned one if nothing could be timed.
    """

    kind: Kind
    known: tuple[Step, ...]
    candidates: tuple[Candidate, ...]
    study: Comparisons
    figures: tuple[Mapping[str, Metric], ...]
    recommended: int

    @property
    def best(self) -> Standing:
        """The recommended candidate."""
        return self.study.standings[self.recommended]

    @property
    def is_timed(self) -> bool:
        """Whether the recommended candidate was timed undisturbed; else nothing is recommended."""
        found = next(one for one in self.best.metrics if one.name == "throughput")
        return math.isfinite(found.value)

    @property
    def verdict(self) -> Verdict:
        """Of the recommended candidate's figures."""
        some = [one.verdict for one in self.figures[self.recommended].values()]
        return slo.overall(some) or "insufficient"


@dataclass(frozen=True, eq=False)
class Scorecard:
    """What is recommended for a tenant.

    Attributes:
        cards: by kind of query.
        probed: what of the tenant's words was looked for at other tenants'.
        left_out: a sentence for whatever could not be had.
        digests: of the checkpoints.
        limits: the tenant's.
    """

    cards: tuple[Card, ...]
    probed: Probed
    left_out: tuple[str, ...]
    digests: Mapping[str, str]
    limits: Slo

    @property
    def metrics(self) -> list[Metric]:
        """Every figure of every candidate, and the tenant's isolation."""
        found = [self.probed.metric(self.limits.isolation)]
        for card in self.cards:
            for candidate, standing in zip(card.candidates, card.study.standings, strict=True):
                of = {"candidate": "+".join(candidate.names)}
                found += [_labelled(one, of) for one in standing.metrics]
        return found

    @property
    def table(self) -> pd.DataFrame:
        """Return a row for each kind, candidate and figure of the article's table."""
        import pandas as pd

        rows = []
        for card in self.cards:
            for number, candidate in enumerate(card.candidates):
                for name, title in FIGURES.items():
                    metric = card.figures[number].get(name)
                    mark = " *" if number == card.recommended and card.is_timed else ""
                    rows.append(
                        {
                            "query": card.kind.replace("_", " and "),
                            "candidate": f"{' = '.join(candidate.names)}{mark}",
                            "configuration": str(candidate.trial),
                            "figure": title,
                            "value": metric.value if metric else math.nan,
                            "low": metric.ci[0] if metric and metric.ci else math.nan,
                            "high": metric.ci[1] if metric and metric.ci else math.nan,
                            "n": metric.n if metric else 0,
                            "unit": metric.unit if metric else "",
                            "limit": (metric.limit if metric else None) or "",
                            "verdict": (metric.verdict if metric else None) or "not measured",
                        }
                    )
        return pd.DataFrame(rows)

    @property
    def reasons(self) -> pd.DataFrame:
        """Return why each candidate takes part."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "query": card.kind.replace("_", " and "),
                    "candidate": " = ".join(one.names),
                    "configuration": str(one.trial),
                    "why": one.why,
                }
                for card in self.cards
                for one in card.candidates
            ]
        )

    @property
    def techniques(self) -> pd.DataFrame:
        """Return what each technique gained alone, in throughput, as the ledger has it."""
        import pandas as pd

        columns = ["query", "technique", "configuration", "gain", "low", "high", "quality holds"]
        rows = [
            (
                card.kind.replace("_", " and "),
                step.technique,
                str(step.trial),
                *step.gain,
                step.eligible,
                step.latency_s,
                "yes" if step.in_time else "no",
            )
            for card in self.cards
            for step in card.known
        ]
        return pd.DataFrame(rows, columns=[*columns, "p95 (s)", "in time"])

    def conclusion(self) -> list[str]:
        """Return the answer in sentences."""
        return [*(line for card in self.cards for line in _sentences(card)), *self._others()]

    def _others(self) -> Iterator[str]:
        found = self.probed
        if found.leaks:
            some = sorted({one.place for one in found.leaks})
            yield f"Words of this tenant stand in {len(some)} places of others, such as {some[0]}."
        elif found.places:
            yield (
                f"None of {found.strings} strings of this tenant was found in {found.places} files "
                "and ledger views of others."
            )
        yield from self.left_out


def run(
    resolved: Resolved,
    *,
    queries: Sequence[str],
    items: int,
    turns: int,
    seed: int,
    corpus: Corpus,
    progress: Progress,
) -> Scorecard:
    """Measure the candidates of each kind of query in turns, and recommend one.

    The items are drawn anew, with another seed: who was chosen on some is judged on others, but for
    those that a small corpus gives twice.

    Args:
        resolved: the tenant's settings.
        queries: kinds.
        items: different queries that are asked, of each kind; at least 8.
        turns: in which each is timed, an even number.
        seed: of the choice of items, the turns and the intervals.
        corpus: the tenant's.
        progress: called with (stage, done, total).
    Raises: as lab.designs.of_batch_sizes and lab.sweeps.run_design.
    """
    enough, short = _with_rows(queries, corpus, resolved.settings, items)
    design = designs.of_batch_sizes(
        resolved, queries=enough, batch_sizes=[1], items=items, turns=turns, seed=seed + 1
    )
    limits = resolved.settings.slo
    chosen, known = {}, {}
    with Ledger(resolved.settings.ledger, root=resolved.tenant.root) as ledger:
        results = _current(ledger.of_tenant(resolved.tenant.slug), corpus, design)
        for study in design.studies:
            untuned = study.trials[0]
            some = [one for one in results if one.trial.kind == untuned.kind]
            known[untuned.kind] = candidates.steps(some, limits=limits, seed=seed)
            chosen[untuned.kind] = candidates.choose(known[untuned.kind], untuned)
        others = _others(resolved)
        probed = isolation.probe(
            isolation.canaries(corpus, seed=seed),
            owner=resolved.tenant,
            others=others,
            ledger=ledger,
        )
    asked = [Study(tuple(one.trial for one in some)) for some in chosen.values()]
    found = sweeps.run_design(
        Design(tuple(asked), (), design.folders, design.digests),
        resolved,
        corpus=corpus,
        progress=progress,
    )
    across = _across_modalities(resolved)
    cards = [
        card_of(kind, known[kind], some, study, probed, across, limits, seed)
        for (kind, some), study in zip(chosen.items(), found, strict=True)
    ]
    return Scorecard(tuple(cards), probed, (*design.left_out, *short), design.digests, limits)


def _with_rows(
    queries: Sequence[str], corpus: Corpus, settings: Settings, items: int
) -> tuple[list[str], list[str]]:
    """Return the kinds that the corpus has enough rows for, and a sentence for each other.

    All of them if it has enough for none: then the error says what is lacking.
    """
    there = {
        kind: requests.available(corpus, kind, languages=settings.languages)
        for kind in queries
        if kind in get_args(Kind)
    }
    short = [kind for kind in queries if there.get(kind, items) < items]
    if len(short) == len(queries):
        return list(queries), []
    return [kind for kind in queries if kind not in short], [
        f"Queries of kind {kind} are not measured: there are {there[kind]} of {items} rows."
        for kind in short
    ]


def _others(resolved: Resolved) -> dict[tenants.Tenant, Path]:
    """Return the other tenants, and where their data are."""
    root, found = resolved.tenant.root, {}
    for slug in tenants.known_tenants(root):
        if slug != resolved.tenant.slug:
            other = tenants.Tenant(slug, root)
            found[other] = root / "data" / slug
            with suppress(LabError):  # settings of another's that are wrong are that one's matter
                found[other] = params.load(slug, root=root).data_folder
    return found


def _current(results: Sequence[TrialResult], corpus: Corpus, design: Design) -> list[TrialResult]:
    """Return the results about the data, the models and the lab as they are now."""
    code = studies.code_digest()
    return [
        one
        for one in results
        if one.setting.data == corpus.fingerprint
        and one.setting.code == code
        and all(design.digests.get(role) == got for role, got in one.setting.models.items())
    ]


def card_of(
    kind: Kind,
    known: Sequence[Step],
    chosen: Sequence[Candidate],
    results: Sequence[TrialResult],
    probed: Probed,
    across: Sequence[Mapping[str, Any]],
    limits: Slo,
    seed: int,
) -> Card:
    """Return one kind's card from the results of its study.

    Args:
        kind: of the queries.
        known: what single techniques gained.
        chosen: the candidates, in the order of the results.
        results: of the candidates, the untuned one first.
        probed: what of the tenant's words was looked for.
        across: records of ``consistency``, as notebook 05 leaves them.
        limits: the tenant's.
        seed: of the intervals.
    """
    study = comparisons.compare(results, limits=limits, seed=seed)
    figures = []
    for standing in study.standings:
        own = {
            name: worst
            for name in ("latency_p95", "throughput", "error_rate", "quality_delta")
            if (worst := _worst([one for one in standing.metrics if one.name == name])) is not None
        }
        if (agreed := _consistency(across, standing.result.trial, limits)) is not None:
            own["consistency"] = agreed
        if probed.places:
            own["isolation"] = probed.metric(limits.isolation)
        figures.append(own)
    return Card(kind, tuple(known), tuple(chosen), study, tuple(figures), _recommended(study))


def _recommended(study: Comparisons) -> int:
    """Return the number of who has most throughput in time, with answers that are not worse.

    Where nobody is in time it is the fastest. Values decide, for a choice must be made; whether
    they can be told apart stands beside them.
    """

    def rank(standing: Standing) -> tuple[bool, bool, float]:
        found = {one.name: one for one in standing.metrics if "language" not in one.labels}
        p95, throughput = found["latency_p95"], found["throughput"]
        is_sound = standing.result.status == "ok" and standing.eligible != "fail"
        in_time = bool(p95.limit) and slo.Limit.parse(str(p95.limit)).holds(p95.value)
        best = throughput.value if in_time else -p95.value
        return (is_sound, in_time, best if math.isfinite(best) else -math.inf)

    ranks = [rank(one) for one in study.standings]
    return max(range(len(ranks)), key=lambda at: ranks[at])


def _across_modalities(resolved: Resolved) -> list[Mapping[str, Any]]:
    """Return the figures that notebook 05 left, as records; none if it did not run."""
    path = resolved.tenant.reports / f"{CONSISTENCY}.metrics.json"
    try:
        record = json.loads(path.read_text("utf-8"))
        return [one for one in record["metrics"] if one["name"] == "consistency"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _consistency(across: Sequence[Mapping[str, Any]], trial: Trial, limits: Slo) -> Metric | None:
    """Return the least consistent pair of a kind and a way to store weights, of all languages."""
    some = [
        one
        for one in across
        if one["labels"].get("query") == trial.kind
        and one["labels"].get("quantization") == trial.method
        and one["value"] is not None
    ]
    return _worst(
        [
            Metric.judged(
                "consistency",
                one["value"],
                unit=one["unit"],
                n=one["n"],
                ci=tuple(math.nan if end is None else end for end in one["ci"]),
                limit=limits.consistency,
                labels=one["labels"],
            )
            for one in some
        ]
    )


def _worst(some: Sequence[Metric]) -> Metric | None:
    """Return the metric with the worst verdict, of those the one farthest on the wrong side."""
    order = {"fail": 0, "insufficient": 1, "pass": 2}

    def rank(one: Metric) -> tuple[int, float]:
        sign = -1.0 if one.limit and slo.Limit.parse(one.limit).is_upper else 1.0
        value = one.value if math.isfinite(one.value) else math.inf
        return (order.get(one.verdict or "pass", 2), sign * value)

    return min(some, key=rank, default=None)


def _labelled(metric: Metric, more: Mapping[str, str]) -> Metric:
    return replace(metric, labels={**metric.labels, **more})


# --- in words -------------------------------------------------------------------------------------


def _sentences(card: Card) -> Iterator[str]:
    about = card.kind.replace("_", " and ")
    best, candidate = card.best, card.candidates[card.recommended]
    found = {one.name: one for one in best.metrics if "language" not in one.labels}
    p95, throughput = found["latency_p95"], found["throughput"]
    if not card.is_timed:
        yield (
            f"{about}: nothing is recommended: no candidate was timed undisturbed; run it again "
            "while the machine is idle."
        )
        return
    said = f"{candidate.trial} ({' = '.join(candidate.names)})"
    yield (
        f"{about}: {said} is recommended: {throughput.value:.1f} requests/s, "
        f"p95 {p95.value:.3f} s (n = {p95.n}); its limits taken together: {card.verdict}."
    )
    open_ones = [
        title
        for name, title in FIGURES.items()
        if name not in card.figures[card.recommended]
        or card.figures[card.recommended][name].verdict == "insufficient"
    ]
    missed = [
        FIGURES[name]
        for name, one in card.figures[card.recommended].items()
        if one.verdict == "fail"
    ]
    if missed:
        yield f"{about}: it misses the limit of {', '.join(missed)}."
    if open_ones:
        yield f"{about}: not settled, or not measured, of it: {', '.join(open_ones)}."
    if not card.known:
        yield (
            f"{about}: the ledger knows no technique alone; run 02_quantization, 03_pruning and "
            "04_batch_size_sweep for this kind of query."
        )
    given_up = [name for name in NAMES if all(name not in one.names for one in card.candidates)]
    if card.known and given_up:
        yield f"{about}: no technique gains within the limits: there is no {given_up[0]} candidate."
