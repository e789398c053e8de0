"""A sweep of batch sizes: measured in rounds, each around what the one before found.

Owns the rounds, the record of what is known of each kind of query, its figures and its telling in
words. Knows nothing of how a trial is measured or kept, nor of how two batch sizes are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab import batching, comparisons, models, requests, sweeps
from lab.batching import ORDERS, Choice, Frontier, Point, Replay, Rule, Top
from lab.comparisons import Comparisons, Standing
from lab.errors import CorpusError, ParameterError, message
from lab.slo import Limit, Metric
from lab.stats import Interval
from lab.studies import Progress, Study
from lab.trials import Kind, TrialResult

if TYPE_CHECKING:
    import pandas as pd

    from lab.corpus import Corpus
    from lab.designs import Design
    from lab.params import Resolved, Settings, Slo

IN_WORDS: tuple[Kind, ...] = ("text", "image_text")  # their prompts are known before anything runs
_PADDED = 8  # times as many queries as are asked, if there are, tell of padding
Ask = Callable[[Study], Sequence[TrialResult]]


# --- one kind of query ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """What is known of one kind of query.

    Attributes:
        kind: of the queries.
        study: all rounds, batch size 1 first.
        points: by batch size, smallest first.
        latency: limit of the 95th percentile, s.
        enough: limit of the throughput, requests/s.
        choice: the best within the latency limit.
        knee: where throughput over latency is largest.
        frontier: of the memory.
        replay: what the article's rule would have done.
        rule_gain: throughput of the best within the limit over that of the rule's choice.
    """

    kind: Kind
    study: Comparisons
    points: tuple[Point, ...]
    latency: Limit
    enough: Limit
    choice: Choice
    knee: Top | None
    frontier: Frontier
    replay: Replay
    rule_gain: Interval | None

    @property
    def batch_sizes(self) -> list[int]:
        """Those that were measured, smallest first."""
        return [one.batch_size for one in self.points]

    @property
    def judged(self) -> int:
        """The batch size held against the limits: the best, or else the one that comes closest."""
        if self.choice.best:
            return self.choice.best.batch_size
        return min(self.points, key=_slowness).batch_size

    def metrics(self) -> list[Metric]:
        """Return the figures of each batch size that ran; one of them held against the limits."""
        return [
            one if one.labels["batch_size"] == self.judged else _without_limit(one)
            for standing in self.study.standings
            for one in self._figures(standing)
        ]

    def _figures(self, standing: Standing) -> Iterator[Metric]:
        """Yield a batch size's figures; how fast it is, is told by throughput.

        A batch takes longer than a single query, so that latencies would call it slower.
        """
        first, result = self.study.baseline.result, standing.result
        for one in standing.metrics:
            if one.name != "speedup":
                yield one
                continue
            ratio = batching.gain(first, result, batching.throughput, seed=first.trial.seed)
            if not math.isnan(ratio.value):
                unit = "times the throughput of batch size 1"
                yield replace(one, value=ratio.value, ci=ratio[1:], unit=unit)

    def sentences(self) -> list[str]:
        """Return what follows, in words."""
        told = [_best_in_words(self), _knee_in_words(self), _rule_in_words(self)]
        return [f"{_name(self.kind)}: {one}" for one in (*told, *_rest_in_words(self))]


def sweep(
    ask: Ask, first: Study, *, limits: Slo, refinements: int = 1, rule: Rule | None = None
) -> Sweep:
    """Measure batch sizes, then those around the knee and the limit that are still worth it.

    Args:
        ask: measures a study.
        first: its first round, batch size 1 as the baseline.
        limits: the tenant's.
        refinements: further rounds; each halves the gaps beside the knee, beside the largest batch
            size that may be within the limit, and where memory ends; the first measures what the
            rule needs as well.
        rule: that is replayed; None: the article's.
    Raises: ParameterError if refinements is below 0, and as of `weigh`; whatever ``ask`` raises.
    """
    if isinstance(refinements, bool) or not isinstance(refinements, int) or refinements < 0:
        rule_ = "refinements must be a whole number of at least 0"
        raise ParameterError(message(rule_, got=refinements, place="refinements"))
    rule, base = rule or Rule(), first.trials[0]
    results = [*ask(first)]
    found = weigh(results, limits=limits, seed=base.seed, rule=rule)
    for _ in range(refinements):
        if not (wanted := _worth_it(found, rule)):
            break
        further = Study((base, *(replace(base, batch_size=size) for size in wanted)))
        results += ask(further)[1:]  # the baseline is known
        found = weigh(results, limits=limits, seed=base.seed, rule=rule)
    return found


def weigh(
    results: Sequence[TrialResult], *, limits: Slo, seed: int, rule: Rule | None = None
) -> Sweep:
    """Hold the results of a sweep against each other.

    Args:
        results: batch size 1 first.
        limits: the tenant's.
        seed: of the bootstraps.
        rule: as of `sweep`.
    Raises: ParameterError if there is no batch size 1 at the beginning, or one is there twice.
    """
    study = comparisons.compare(results, limits=limits, seed=seed)
    found = batching.points(study)
    choice = batching.choose(results, found, latency=limits.latency_p95, seed=seed)
    replayed = batching.replay(found, enough=limits.throughput, rule=rule)
    by_size = {one.trial.batch_size: one for one in results}
    ratio = None
    if choice.best and replayed.ends_with:
        ends, best = by_size[replayed.ends_with], by_size[choice.best.batch_size]
        ratio = batching.gain(ends, best, batching.throughput, seed=seed)
    return Sweep(
        kind=results[0].trial.kind,
        study=study,
        points=tuple(found),
        latency=limits.latency_p95,
        enough=limits.throughput,
        choice=choice,
        knee=batching.top(results, batching.power, seed=seed),
        frontier=batching.frontier(found),
        replay=replayed,
        rule_gain=ratio,
    )


def _worth_it(found: Sweep, rule: Rule) -> list[int]:
    """Return batch sizes worth a further round: around the knee, the limit, the memory's end."""
    hopeful = [
        one.batch_size
        for one in found.points
        if one.status == "ok" and found.latency.holds(one.latency_p95.value)
    ]
    edges = {found.knee.batch_size} if found.knee else set()
    edges |= {max(hopeful)} if hopeful else set()
    if found.frontier.largest and found.frontier.smallest_beyond:
        edges.add(found.frontier.largest)
    known = {one.batch_size for one in found.points}
    beyond = found.frontier.smallest_beyond or math.inf
    needed = {size for size in rule.sizes if size < beyond}
    return sorted((needed | set(batching.between(found.points, around=[*edges]))) - known)


def _at(found: Sweep, size: int) -> Point:
    return next(one for one in found.points if one.batch_size == size)


def _name(kind: Kind) -> str:
    return kind.replace("_", " and ").capitalize()


def _without_limit(metric: Metric) -> Metric:
    return replace(metric, limit=None, verdict=None, needed=None)


def _slowness(point: Point) -> tuple[float, int]:
    p95 = point.latency_p95.value
    return (math.inf if math.isnan(p95) else p95, point.batch_size)


def _best_in_words(found: Sweep) -> str:
    choice, limit = found.choice, f"the latency limit (p95 {found.latency} s)"
    ran, study = [one for one in found.points if one.status == "ok"], found.study
    if not ran:
        return f"no batch size could be measured: {study.baseline.result.problem}."
    if not any(one.batches for one in ran):
        return (
            f"nothing can be said of {limit}: of {study.measured} blocks {study.disturbed} were "
            "disturbed by other work. Measure again when the machine is quiet."
        )
    judged = _at(found, found.judged)
    size, p95 = judged.batch_size, _figure(judged.latency_p95, "s")
    too_few = ""
    if judged.needed:
        too_few = f"; {judged.needed} batches are needed, {judged.batches} were timed"
    if choice.best is None:
        if choice.verdict == "fail":
            return f"no batch size is within {limit}; batch size {size} takes {p95}."
        return (
            f"whether any batch size is within {limit} is open{too_few}. By its figures none is: "
            f"batch size {size} takes {p95}."
        )
    speed = f"{_figure(judged.throughput, 'requests/s')} at p95 {p95}"
    told = f"{speed}{_rivals(choice.best)}. {_capacity(found)}"
    if choice.verdict == "pass":
        most = f"the largest within it is {choice.largest}"
        return f"batch size {size} answers most within {limit}, {most}: {told}"
    return (
        f"whether any batch size is within {limit} is open{too_few}. By its figures batch size "
        f"{size} would answer most: {told}"
    )


def _capacity(found: Sweep) -> str:
    """Say whether the judged batch size meets the throughput limit."""
    verdict = next(one.verdict for one in found.metrics() if one.name == "throughput" and one.limit)
    word = {"pass": "meets", "fail": "misses"}.get(str(verdict), "cannot be told from")
    return f"That {word} the throughput limit ({found.enough} requests/s)."


def _knee_in_words(found: Sweep) -> str:
    if found.knee is None:
        return "there is no knee without an undisturbed block."
    size = found.knee.batch_size
    point = _at(found, size)
    edge = ""
    if size == found.batch_sizes[-1]:
        edge = ". That is the largest that was measured: the knee may lie beyond it"
    return (
        f"the knee is at batch size {size}{_rivals(found.knee)}, with "
        f"{_figure(point.throughput, 'requests/s')} and a median of "
        f"{_figure(point.latency_p50, 's')}{edge}."
    )


def _rule_in_words(found: Sweep) -> str:
    replayed = found.replay
    tried = ", ".join(map(str, replayed.tried)) or "nothing"
    if replayed.ends_with is None:
        return f"the article's rule cannot be replayed to its end (tries {tried}): {replayed.why}."
    point = _at(found, replayed.ends_with)
    start = (
        f"the article's rule tries {tried} and stays with {replayed.ends_with}, for "
        f"{replayed.why}: "
        f"{_figure(point.throughput, 'requests/s')} at p95 {_figure(point.latency_p95, 's')}"
    )
    if not found.latency.holds(point.latency_p95.value):
        start += ", beyond the latency limit"
    if found.choice.best is None or found.rule_gain is None:
        return f"{start}."
    best = found.choice.best.batch_size
    if best == replayed.ends_with:
        return f"{start}. That is the best within the limit as well."
    more = _figure(found.rule_gain, "times as much")
    return f"{start}. The best within the limit, {best}, answers {more}."


def _rest_in_words(found: Sweep) -> list[str]:
    edge = found.frontier
    ends = (
        f"it runs out at {edge.smallest_beyond}"
        if edge.smallest_beyond
        else "its limit was not reached"
    )
    slope = Interval(*(one / 1e6 for one in edge.bytes_per_query))
    grows = ""
    if slope.low > 0:
        grows = f"; each further query takes {_figure(slope, 'MB')}"
    elif not math.isnan(slope.value):
        grows = f"; that more queries take more cannot be told: {_figure(slope, 'MB')} for each"
    told = [f"memory holds batch size {edge.largest or 0}, {ends}{grows}."]
    compared = [one for one in found.points if one.same_answers is not None and one.batch_size > 1]
    other = [one for one in compared if not one.same_answers]
    if other:
        worst = max(other, key=lambda one: one.changed.value)
        sizes = ", ".join(str(one.batch_size) for one in other)
        share = Interval(*(100 * one for one in worst.changed))
        told.append(
            f"answers differ from those of batch size 1 at {sizes}; at {worst.batch_size} "
            f"{_figure(share, '%')} of {worst.items} items score otherwise."
        )
    elif compared:
        items = compared[0].items
        told.append(f"every answer ({items} items) is the same at all {len(compared) + 1} sizes.")
    return told


def _rivals(best: Top) -> str:
    if not best.rivals:
        return ""
    return f", which cannot be told from {', '.join(map(str, best.rivals))}"


def _figure(interval: Interval, unit: str) -> str:
    """Return a figure with its interval, of three digits; of what is not known nothing."""
    value, low, high = interval
    told = f"{value:.3g} {unit}"
    if math.isfinite(low) and math.isfinite(high):
        return f"{told} (95 % {low:.3g} to {high:.3g})"
    if math.isfinite(low):
        return f"{told} (95 % at least {low:.3g})"
    return f"{told} (95 % at most {high:.3g})" if math.isfinite(high) else told


# --- kinds of query -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What is known of a tenant's kinds of query.

    Attributes:
        sweeps: one per kind that could be asked.
        padding: query, batch_size, queries, drawn, characters, sorted, ideal; of kinds that are
            asked in words.
        left_out: a sentence for each kind that could not be asked.
    """

    sweeps: tuple[Sweep, ...]
    padding: pd.DataFrame
    left_out: tuple[str, ...]

    @property
    def curve(self) -> pd.DataFrame:
        """A row for each kind and batch size, as lab.batching.curve, with the limits."""
        import pandas as pd

        frames = [
            batching.curve(one.points).assign(
                query=one.kind,
                latency_limit=one.latency.bound,
                throughput_limit=one.enough.bound,
            )
            for one in self.sweeps
        ]
        whole = pd.concat(frames, ignore_index=True)
        return whole[["query", *whole.columns.drop("query")]]

    @property
    def overview(self) -> pd.DataFrame:
        """The same for people: n are batches, in brackets are 95 % intervals."""
        import pandas as pd

        curve = self.curve

        def with_ends(name: str) -> list[str]:
            ends = curve[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
            return [_in_cell(Interval(*one)) for one in ends]

        return pd.DataFrame(
            {
                "query": curve["query"],
                "batch": curve["batch_size"],
                "status": curve["status"],
                "n": curve["batches"],
                "requests/s": with_ends("throughput"),
                "p95 (s)": with_ends("latency_p95"),
                "p95 limit": curve["within the limit"],
                "quality holds": curve["quality holds"],
                "p50 (s)": curve["latency_p50"],
                "peak (MB)": curve["peak_bytes"] / 1e6,
                "answers as alone": curve["same answers"],
                "scored otherwise": [
                    f"{one:.1%} of {n}" if n else "–"
                    for one, n in curve[["changed", "items"]].itertuples(index=False)
                ],
            }
        )

    @property
    def studies(self) -> list[Comparisons]:
        """The comparisons with batch size 1 behind the sweeps."""
        return [one.study for one in self.sweeps]

    @property
    def metrics(self) -> list[Metric]:
        """Figures of every batch size; those of the chosen one are held against the limits."""
        return [metric for one in self.sweeps for metric in one.metrics()]

    @property
    def chosen(self) -> list[Metric]:
        """Figures of the batch size of each kind that is held against the limits."""
        of = {one.kind: one.judged for one in self.sweeps}
        return [one for one in self.metrics if one.labels["batch_size"] == of[one.labels["query"]]]

    def conclusion(self) -> list[str]:
        """Return the answer in sentences."""
        told = []
        for one in self.sweeps:
            told += [*one.sentences(), *_padding_in_words(one, self.padding)]
        return [*told, *self.left_out]


def _in_cell(interval: Interval) -> str:
    value, low, high = ("?" if not math.isfinite(one) else f"{one:.3g}" for one in interval)
    return (
        f"{value}\N{NO-BREAK SPACE}({low}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high})"
        if value != "?"
        else "–"
    )


def run(
    design: Design, resolved: Resolved, *, corpus: Corpus, refinements: int, progress: Progress
) -> Outcome:
    """Sweep the batch sizes of each kind of query that can be asked.

    Args:
        design: the first round of each kind.
        resolved: the tenant's settings.
        corpus: the tenant's; a kind without its table, or with too few rows, is left out.
        refinements: as of `sweep`.
        progress: called with (stage, done, total).
    Raises: CorpusError if no kind can be asked, and as `sweep` and lab.sweeps.run_design do.
    """
    import pandas as pd

    def ask(study: Study) -> list[TrialResult]:
        one = replace(design, studies=(study,))
        return sweeps.run_design(one, resolved, corpus=corpus, progress=progress)[0]

    found, padded, left_out = [], [], [*design.left_out]
    for first in design.studies:
        kind, settings = first.trials[0].kind, resolved.settings
        try:
            found.append(sweep(ask, first, limits=settings.slo, refinements=refinements))
        except CorpusError as error:
            left_out.append(f"Queries of kind {kind} are not measured: {error}.")
            continue
        if kind in IN_WORDS:
            padded.append(_padding(found[-1], corpus, settings, design.folders["vlm"]))
    if not found:
        raise CorpusError(" ".join(left_out))
    columns = ["query", "batch_size", "queries", *ORDERS]
    padding = pd.concat(padded, ignore_index=True) if padded else pd.DataFrame(columns=columns)
    return Outcome(tuple(found), padding[columns], tuple(left_out))


def _padding(found: Sweep, corpus: Corpus, settings: Settings, folder: Path) -> pd.DataFrame:
    """Return the shares of padding, over more queries than are asked: no model has to answer."""
    base = found.study.baseline.result.trial
    there = requests.available(corpus, base.kind, languages=settings.languages)
    items = min(there, _PADDED * base.items)
    drawn = requests.draw(corpus, base.kind, items=items, settings=settings, seed=base.seed)
    queries = [one.query for one in drawn.measured]
    orders = {
        "characters": [len(one.text) for one in queries],
        "sorted": models.sizes(folder, queries),
    }
    counts = models.token_counts(folder, queries)
    sizes = [one for one in found.batch_sizes if one <= len(queries)]
    return batching.padding_by_order(counts, orders, sizes).assign(query=found.kind)


def _padding_in_words(found: Sweep, padding: pd.DataFrame) -> list[str]:
    rows = padding[padding["query"] == found.kind]
    if rows.empty:
        return []
    best = found.choice.best.batch_size if found.choice.best else rows["batch_size"].max()
    row = rows.iloc[(rows["batch_size"] - best).abs().argmin()]
    return [
        f"{_name(found.kind)}: in batches of {row['batch_size']}, {100 * row['drawn']:.3g} % of "
        f"positions are padding as the queries come, which is how they are timed, "
        f"{100 * row['characters']:.3g} % sorted by characters, {100 * row['sorted']:.3g} % sorted "
        f"by tokens, as the lab does it with queries that are there together "
        f"({row['queries']} queries)."
    ]
