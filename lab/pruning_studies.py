"""Pruning studied from the first sparsity to the configuration that goes on: notebook 03.

Owns the order: measure every method and sparsity, choose one, measure it again on other items with
quantization, try each layer alone; and what is concluded. Knows nothing of how a configuration is
measured, of statistics, or of how results are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, get_args

from lab import (
    layers,
    measurement,
    quality,
    quantization,
    sensitivity,
    slimming,
    sparsity,
    workloads,
)
from lab.errors import ModelError, ParameterError, message
from lab.queries import Generation
from lab.requests import Request
from lab.sensitivity import Sensitivity
from lab.services import Service
from lab.slo import Metric
from lab.sparsity import Choice, Gain, Point, Reach, Replay
from lab.studies import Study
from lab.trials import Pruning, Trial, TrialResult
from lab.workloads import Saved, Workload

if TYPE_CHECKING:
    import pandas as pd
    import torch


METHODS = tuple(one for one in get_args(Pruning) if one != "none")
_SLIM = {"structured": "neurons", "heads": "heads"}  # methods that take away, and what
_COUNTED = 4  # queries over which multiplications are counted
_WORDS = {"zh": "Chinese", "en": "English", "ja": "Japanese"}
Progress = Callable[[str, int, int], None]


# --- which configurations -------------------------------------------------------------------------


def grid(base: Trial, methods: Sequence[str], sparsities: Sequence[float]) -> tuple[Trial, ...]:
    """Return the dense trial, and one of every method at every sparsity above 0, in their order.

    Raises: ParameterError if there is no such method, or no sparsity above 0.
    """
    if not methods or not any(one > 0 for one in sparsities):
        got = f"{[*methods]} and {[*sparsities]}"
        raise ParameterError(message("there must be a method and a sparsity above 0", got=got))
    shares = sorted({float(one) for one in sparsities} - {0.0})
    return (
        base,
        *(
            replace(base, pruning=method, sparsity=share)
            for method in dict.fromkeys(methods)
            for share in shares
        ),
    )


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
        results: of the dense model, and of every method and sparsity.
        curve: quality of each, by language.
        reaches: how far each method can go.
        gains: what each promised, and what was measured.
        replay: the article's rule.
        choice: what went on; None if everything does harm.
        again: on other items the dense model, the choice, the quantization, and both; empty
            without a choice.
        sensitivities: what each layer is worth.
        alone: sparsity to which each was pruned for that.
        skipped: configurations that were not measured, with the reason.
        tolerance: of quality.
        unit: of quality.
    """

    results: tuple[TrialResult, ...]
    curve: tuple[Point, ...]
    reaches: tuple[Reach, ...]
    gains: tuple[Gain, ...]
    replay: Replay
    choice: Choice | None
    again: tuple[TrialResult, ...]
    sensitivities: tuple[Sensitivity, ...]
    alone: float
    skipped: Mapping[Trial, str]
    tolerance: float
    unit: str

    def conclusion(self) -> list[str]:
        """Return the answer in sentences."""
        return [
            *(_reached(one, self.tolerance, self.unit) for one in self.reaches),
            *_gained(self.gains),
            f"The article's rule: {self.replay.says}.",
            _went_on(self.choice),
            *_worth_most(self.sensitivities, self.alone),
            *(
                f"{one.pruning} {one.sparsity:g} {why}: it was not measured."
                for one, why in self.skipped.items()
            ),
        ]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """How far each method can go; figures of single configurations are lab.comparisons'."""
        return tuple(
            Metric(
                "largest_sparsity",
                one.sparsity,
                unit="share",
                n=sum(point.n for point in self.curve if point.method == one.method),
                labels={"pruning": one.method},
            )
            for one in self.reaches
        )

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Return what tables and figures show: curve, reaches, gains and layers."""
        import pandas as pd

        points = [_flat(one, "change") for one in self.curve]
        gains = [{**_flat(one, "time"), "says": one.says} for one in self.gains]
        layers = [_flat(one, "perplexity") for one in self.sensitivities]
        return {
            "curve": pd.DataFrame(points, columns=_columns(Point, "change")),
            "reaches": pd.DataFrame([vars(one) for one in self.reaches]),
            "gains": pd.DataFrame(gains, columns=[*_columns(Gain, "time"), "says"]),
            "layers": pd.DataFrame(layers, columns=_columns(Sensitivity, "perplexity")),
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
    base: Trial,
    measure: Callable[[Study], Sequence[TrialResult]],
    load: Callable[[], Service],
    asked: Sequence[Request],
    *,
    methods: Sequence[str],
    sparsities: Sequence[float],
    quantized: str,
    metric: str,
    tolerance: float,
    alone: float,
    progress: Progress,
) -> Pruned:
    """Prune a service by every method to every sparsity, and go on with the best.

    Args:
        base: the dense trial.
        measure: returns the results of a study, in the order of its trials.
        load: returns the dense service; it is let go before anything is measured.
        asked: what layers are tried and multiplications counted with, none of it measured.
        methods: of METHODS.
        sparsities: 0 is the dense model.
        quantized: method of lab.quantization, with which the choice is combined.
        metric: of lab.quality.
        tolerance: how much worse is still as good, in the metric's unit.
        alone: sparsity to which each layer alone is pruned, (0, 1).
        progress: called with (stage, done, total).
    Raises: ParameterError as of `grid`, `sparsity.points` and `sensitivity.of_layers`.
    """
    every = grid(base, methods, sparsities)
    quantization.method(quantized)  # told now, not after the measuring
    seen = _look(load(), every, asked, alone=alone, progress=progress)
    results = tuple(measure(Study(tuple(one for one in every if one not in seen.idle))))
    curve = sparsity.points(results, metric=metric, tolerance=tolerance, seed=base.seed)
    reaches = sparsity.reaches(curve)
    gains = _gains(results, seen.promises, seed=base.seed)
    choice = sparsity.choose(curve, gains, far=reaches)
    again = () if choice is None else tuple(measure(_second(base, choice, quantized)))
    return Pruned(
        results,
        curve,
        reaches,
        gains,
        sparsity.article(results, curve),
        choice,
        again,
        seen.sensitivities,
        alone,
        seen.idle,
        tolerance,
        quality.UNITS[metric],
    )


@dataclass(frozen=True)
class _Seen:
    """What the dense model shows before anything is measured."""

    idle: Mapping[Trial, str]
    promises: Mapping[Trial, Saved]
    sensitivities: tuple[Sensitivity, ...]


def _look(
    service: Service,
    trials: Sequence[Trial],
    asked: Sequence[Request],
    *,
    alone: float,
    progress: Progress,
) -> _Seen:
    import torch

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


def _second(base: Trial, choice: Choice, quantized: str) -> Study:
    """Return the study of the choice with quantization.

    Of other items: what looks best of many looks better than it is.
    """
    dense = replace(base, seed=base.seed + 1)
    pruned = replace(dense, pruning=choice.method, sparsity=choice.sparsity)
    runtime = replace(base.runtime, dtype=quantization.method(quantized).dtype)
    method = quantized if quantized in quantization.QUANTIZED else quantization.NONE
    smaller = {"quantization": method, "runtime": runtime}
    return Study((dense, pruned, replace(dense, **smaller), replace(pruned, **smaller)))


def _promise(workload: Workload, whole: torch.nn.Module, trial: Trial) -> Saved:
    try:
        shares = left(whole, trial)
    except ModelError:
        return Saved(workload.stored_bytes, 1.0)
    return (workload.with_fewer if trial.pruning in _SLIM else workload.with_zeros)(shares)


def _gains(
    results: Sequence[TrialResult], promises: Mapping[Trial, Saved], *, seed: int
) -> tuple[Gain, ...]:
    dense = results[0]
    floor = measurement.floor_of(dense.blocks, dense.baseline, seed=seed)
    return tuple(
        sparsity.gain(
            dense,
            one,
            promised=promises[one.trial],
            comparison=measurement.compare(one.baseline, one.blocks, floor=floor, seed=seed),
        )
        for one in results[1:]
    )


# --- in words -------------------------------------------------------------------------------------


def _reached(reach: Reach, tolerance: float, unit: str) -> str:
    within = f"within {tolerance:g} {unit.split(',')[0]} of the dense model in every language"
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
        else (f"about {reach.needed} items of a language would tell")
    )
    start = f"{far}; " if reach.sparsity else f"{reach.method}: "
    return f"{start}from {reach.stopped:g} on it is open in {languages}: {needed}.{beyond}"


def _gained(gains: Sequence[Gain]) -> list[str]:
    """Return what each method's largest sparsity promises, and what came of it."""
    largest = {one.method: one for one in sorted(gains, key=lambda one: one.sparsity)}
    return [
        f"{one.method} {one.sparsity:g} promises {1 - one.promised_bytes:.0%} fewer bytes and "
        f"{1 - one.promised_time:.0%} fewer multiplications; it {one.says}."
        for one in largest.values()
    ]


def _went_on(choice: Choice | None) -> str:
    if choice is None:
        return "Everything that was tried does harm: nothing goes on to be quantized."
    name = f"{choice.method} {choice.sparsity:g}"
    if choice.settled:
        return f"{name} goes on, and is measured on other items with quantization."
    return f"{name} goes on for want of one that is shown to do no harm: it is the least harmful."


def _worth_most(found: Sequence[Sensitivity], alone: float) -> list[str]:
    shown = [one for one in found if one.perplexity.low > 1]
    if not shown:
        return [f"No layer is shown to matter if it alone is pruned to {alone:g}."]
    worst = max(shown, key=lambda one: one.perplexity.value)
    return [
        f"Of {len(found)} layers {len(shown)} are shown to matter if pruned alone to {alone:g}, "
        f"{worst.layer} most: the perplexity of the right answers is "
        f"{worst.perplexity.value:.2f} times as high."
    ]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
