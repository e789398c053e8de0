"""Pruning studied from the first sparsity to the configuration that goes on: notebook 03.

Owns the order: try each layer alone, measure every method and sparsity, choose one, measure it with
quantization on items drawn anew; and what is concluded. Knows nothing of how a configuration is
measured, of statistics, or of how results are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from lab import (
    comparisons,
    designs,
    layers,
    quality,
    quantization,
    requests,
    sensitivity,
    services,
    slimming,
    sparsity,
    sweeps,
    workloads,
)
from lab.comparisons import Comparisons
from lab.designs import Design
from lab.errors import ModelError
from lab.queries import Generation
from lab.requests import Request
from lab.sensitivity import Sensitivity
from lab.slo import Limit, Metric
from lab.sparsity import Choice, Gain, Point, Reach, Replay
from lab.studies import Study
from lab.trials import Trial
from lab.workloads import Saved, Workload

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lab.corpus import Corpus
    from lab.params import Resolved


_SLIM = {"structured": "neurons", "heads": "heads"}  # methods that take away, and what
ALONE = 0.7  # sparsity to which each layer is pruned alone: the most that is asked of all together
_COUNTED = 4  # queries over which multiplications are counted
_WORDS = {"zh": "Chinese", "en": "English", "ja": "Japanese"}
_MOST_ITEMS = 100_000  # more are not counted: nobody has them
_BY_CHANCE = 0.025  # share of intervals that lie above the truth
RULES = {
    "how far": sparsity.ORDER_RULE,
    "promised bytes": workloads.FORMAT,
    "worth of a layer": sensitivity.RULE,
}
Progress = Callable[[str, int, int], None]


# --- which configurations -------------------------------------------------------------------------


def left(module: torch.nn.Module, trial: Trial) -> dict[str, float]:
    """Return the share of its weights that pruning would leave each layer of a dense model.

    Raises: ModelError if the model has nothing of the kind that shall go.
    """
    if trial.pruning in _SLIM:
        return slimming.shares_left(module, **{_SLIM[trial.pruning]: trial.sparsity})
    return dict.fromkeys(layers.linear(module), 1 - trial.sparsity)


def idle(module: torch.nn.Module, trials: Sequence[Trial]) -> dict[Trial, str]:
    """Return the trials that would measure nothing new, with the reason.

    A model admits only some numbers of neurons and heads: of four heads none goes for a fifth.
    """
    seen: dict[tuple[object, ...], float] = {}
    found = {}
    for trial in trials:
        if trial.pruning not in _SLIM:
            continue
        try:
            shares = tuple(left(module, trial).values())
        except ModelError:
            continue  # it is measured: that it cannot be pruned so is a result
        before = seen.setdefault((trial.pruning, shares), trial.sparsity)
        if set(shares) == {1.0}:
            found[trial] = f"takes no {_SLIM[trial.pruning]} from this model"
        elif before != trial.sparsity:
            found[trial] = f"takes as many {_SLIM[trial.pruning]} as {before:g}"
    return found


# --- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    """What came of pruning a tenant's service.

    Attributes:
        study: the dense model, and every method and sparsity.
        curve: quality of each, by language.
        reaches: how far each method can go.
        gains: what each promised, and what was measured.
        replay: the article's rule.
        choice: what went on; None if everything does harm.
        again: on items drawn anew the dense model, the choice, the quantization, and both; None
            without a choice.
        sensitivities: what each layer is worth.
        alone: sparsity to which each was pruned for that.
        skipped: configurations that were not measured, with the reason.
        limit: of the change of quality.
        unit: of the quality.
    """

    study: Comparisons
    curve: tuple[Point, ...]
    reaches: tuple[Reach, ...]
    gains: tuple[Gain, ...]
    replay: Replay
    choice: Choice | None
    again: Comparisons | None
    sensitivities: tuple[Sensitivity, ...]
    alone: float
    skipped: Mapping[Trial, str]
    limit: Limit
    unit: str

    def conclusion(self) -> list[str]:
        """Return the answer in sentences."""
        return [
            *(_reached(one, self.limit, self.unit) for one in self.reaches),
            *_gained(self.gains),
            f"The article's rule, {self.replay.says}.",
            _went_on(self.choice, tried=bool(self.curve)),
            *_told_again(self.again),
            *_worth_most(self.sensitivities, self.alone),
            *(
                f"{one.pruning} {one.sparsity:g} {why}: it was not measured."
                for one, why in self.skipped.items()
            ),
        ]

    @property
    def studies(self) -> list[Comparisons]:
        """The study, and the one of the choice if there is one."""
        return [self.study, *([self.again] if self.again else [])]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """How far each method can go, and every figure of every configuration."""
        reached = (
            Metric(
                "largest_sparsity",
                one.sparsity,
                unit="share",
                n=sum(point.n for point in self.curve if point.method == one.method),
                labels={"pruning": one.method},
            )
            for one in self.reaches
        )
        figures = comparisons.metrics([self.study])
        return (*reached, *figures, *_marked(self.again))

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Return what tables and figures show: curve, reaches, gains and layers."""
        import pandas as pd

        points = [_flat(one, "change") for one in self.curve]
        gains = [{**_flat(one, "time"), "says": one.says} for one in self.gains]
        layers = [_flat(one, "perplexity") for one in self.sensitivities]
        return {
            "curve": pd.DataFrame(points, columns=_columns(Point, "change")),
            "reaches": pd.DataFrame([_row(one) for one in self.reaches]),
            "gains": pd.DataFrame(gains, columns=[*_columns(Gain, "time"), "says"]),
            "layers": pd.DataFrame(layers, columns=_columns(Sensitivity, "perplexity")),
        }


def _marked(again: Comparisons | None) -> list[Metric]:
    """Return the second study's figures, told from the first's by a label."""
    found = comparisons.metrics([again] if again else [])
    return [replace(one, labels={**one.labels, "items": "drawn anew"}) for one in found]


def _row(reach: Reach) -> dict[str, object]:
    return {
        "method": reach.method,
        "largest within": reach.sparsity,
        "verdict": reach.verdict,
        "stops at": math.nan if reach.stopped is None else reach.stopped,
        "which is": {"fail": "worse", "insufficient": "open"}.get(reach.why or "", ""),
        "in": ", ".join(reach.languages),
        "passes beyond": ", ".join(f"{one:g}" for one in reach.beyond),
        "items needed": reach.needed,
    }


def _flat(one: object, name: str) -> dict[str, object]:
    """Return a record with the ends of an interval beside its value."""
    interval = getattr(one, name)
    return {**vars(one), name: interval.value, "low": interval.low, "high": interval.high}


def _columns(kind: type, name: str) -> list[str]:
    """Return the columns of such records, the ends of the interval behind its value."""
    found = [one.name for one in fields(kind)]
    at = found.index(name) + 1
    return [*found[:at], "low", "high", *found[at:]]


def run(
    design: Design,
    resolved: Resolved,
    *,
    corpus: Corpus,
    combined: str,
    layer_items: int,
    progress: Progress,
) -> Pruned:
    """Prune a tenant's service by every method to every sparsity, and go on with the best.

    Args:
        design: as of lab.designs.of_pruning.
        resolved: the tenant's settings.
        corpus: the tenant's.
        combined: method of lab.quantization, with which the choice is measured again.
        layer_items: queries with which each layer is tried alone, none of them measured.
        progress: called with (stage, done, total).
    Raises: ParameterError as of lab.sensitivity.of_layers, and if there is no such quantization;
        as lab.sweeps.run_design.
    """
    quantization.method(combined)  # told now, not after the measuring
    settings, every = resolved.settings, design.studies[0].trials
    base = every[0]
    asked = requests.draw(
        corpus,
        base.kind,
        items=base.items,
        settings=settings,
        seed=base.seed,
        calibration=layer_items,
    ).calibration
    seen = _look(design, asked, alone=ALONE, progress=progress)

    def measure(*trials: Trial) -> Comparisons:
        once = replace(design, studies=(Study(trials),))
        (results,) = sweeps.run_design(once, resolved, corpus=corpus, progress=progress)
        return comparisons.compare(results, limits=settings.slo, seed=base.seed)

    study = measure(*(one for one in every if one not in seen.idle))
    curve = sparsity.points(study)
    reaches = sparsity.reaches(curve)
    gains = tuple(
        sparsity.gain(study.baseline.result, one, promised=seen.promises[one.result.trial])
        for one in study.standings[1:]
    )
    choice = sparsity.choose(curve, gains, far=reaches)
    return Pruned(
        study,
        curve,
        reaches,
        gains,
        sparsity.article(study, curve),
        choice,
        None if choice is None else measure(*_second(base, choice, combined)),
        seen.sensitivities,
        ALONE,
        seen.idle,
        settings.slo.quality_delta,
        quality.UNITS[comparisons.JUDGED_BY[base.kind][0]],
    )


@dataclass(frozen=True)
class _Seen:
    """What the dense model shows before anything is measured."""

    idle: Mapping[Trial, str]
    promises: Mapping[Trial, Saved]
    sensitivities: tuple[Sensitivity, ...]


def _look(design: Design, asked: Sequence[Request], *, alone: float, progress: Progress) -> _Seen:
    """Look at the dense model, which is let go of before anything is measured."""
    import torch

    trials = design.studies[0].trials
    service = services.load(trials[0], design.folders)
    progress("counting", 0, 1)
    engines = {role: model.engine for role, model in service.models.items()}
    whole = torch.nn.ModuleDict({role: engine.module for role, engine in engines.items()})
    tried = engines["asr" if trials[0].kind == "speech" else "vlm"]

    def answer() -> None:
        for one in asked[:_COUNTED]:  # one at a time: padding would count too
            service.ask([one.query], batch_size=1, generation=Generation())

    workload = workloads.count(
        whole,
        answer,
        stored_bytes=service.stored_bytes,
        bits=8 * getattr(torch, tried.checkpoint.dtypes[0]).itemsize,
    )
    return _Seen(
        idle(whole, trials),
        {one: _promise(workload, whole, one) for one in trials},
        sensitivity.of_layers(
            tried, asked, method="l1", sparsity=alone, seed=trials[0].seed, progress=progress
        ),
    )


def _second(base: Trial, choice: Choice, combined: str) -> tuple[Trial, ...]:
    """Return the dense trial, the choice, the quantization, and both.

    Of items drawn anew: what looks best of many looks better than it is.
    """
    dense = replace(base, seed=base.seed + 1)
    pruned = replace(dense, pruning=choice.method, sparsity=choice.sparsity)
    return (dense, pruned, designs.stored(dense, combined), designs.stored(pruned, combined))


def _promise(workload: Workload, whole: torch.nn.Module, trial: Trial) -> Saved:
    try:
        shares = left(whole, trial)
    except ModelError:
        return Saved(workload.stored_bytes, 1.0)
    return (workload.with_fewer if trial.pruning in _SLIM else workload.with_zeros)(shares)


# --- in words -------------------------------------------------------------------------------------


def _reached(reach: Reach, limit: Limit, unit: str) -> str:
    within = (
        f"within {abs(limit.bound):g} {unit.split(',')[0]} of the dense model in every language"
    )
    far = f"{reach.method}: {within} up to a sparsity of {reach.sparsity:g}"
    if reach.stopped is None:
        return f"{far}, the largest that was tried."
    languages = _and([_WORDS.get(one, one) for one in reach.languages])
    beyond = ", ".join(f"{one:g}" for one in reach.beyond)
    beyond = f" That {beyond} passes does not count." if beyond else ""
    if reach.why == "fail":
        start = far if reach.sparsity else f"{reach.method}: no sparsity is {within}"
        return f"{start}; at {reach.stopped:g} {languages} is worse.{beyond}"
    needed = (
        "more items would not tell"
        if reach.needed is None
        else f"{_about(reach.needed)} items of a language would tell"
    )
    start = f"{far}; " if reach.sparsity else f"{reach.method}: "
    return f"{start}from {reach.stopped:g} on it is open in {languages}: {needed}.{beyond}"


def _about(count: int) -> str:
    """Return a number of items; one beyond all reach comes of a change close to the limit."""
    return f"about {count:,}" if count <= _MOST_ITEMS else f"more than {_MOST_ITEMS:,}"


def _gained(gains: Sequence[Gain]) -> list[str]:
    """Return what each method's largest sparsity promises, and what came of it."""
    largest = {one.method: one for one in sorted(gains, key=lambda one: one.sparsity)}
    return [
        f"{one.method} {one.sparsity:g} promises {1 - one.promised_bytes:.0%} fewer bytes and "
        f"{1 - one.promised_time:.0%} fewer multiplications; it {one.says}."
        for one in largest.values()
    ]


def _went_on(choice: Choice | None, *, tried: bool) -> str:
    if not tried:
        return "None of what was asked for takes anything from this model: nothing was pruned."
    if choice is None:
        return "Everything that was tried does harm: nothing goes on to be quantized."
    name = f"{choice.method} {choice.sparsity:g}"
    if choice.settled:
        return f"{name} goes on, and is measured with quantization on items drawn anew."
    return f"{name} goes on for want of one that is shown to do no harm: it is the least harmful."


def _told_again(again: Comparisons | None) -> list[str]:
    if again is None:
        return []
    about = f"{again.about.capitalize()}: "
    told = [one.removeprefix(about) for one in comparisons.conclusion([again])]
    return [f"With quantization, on items drawn anew: {one}" for one in told]


def _worth_most(found: Sequence[Sensitivity], alone: float) -> list[str]:
    """Say which layer stands out; of many some do by chance."""
    worst = max(found, key=lambda one: one.perplexity.value)
    shown = sum(one.perplexity.low > 1 for one in found)
    return [
        f"Each layer alone pruned by size to {alone:g}: the interval of the perplexity lies above "
        f"the whole model's for {shown} of {len(found)} layers, and would for "
        f"{len(found) * _BY_CHANCE:.0f} by chance; highest is {worst.layer}, "
        f"{worst.perplexity.value:.2f} times as high."
    ]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
