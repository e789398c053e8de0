"""What a study says: each configuration's figures, held against its baseline and the limits.

Owns the way from raw results to metrics, who is eligible, who is smaller, who is faster, and the
conclusion in words. Knows nothing of how results came about, or of how they are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lab import measurement, quality, quantization, slo, stats
from lab.errors import ParameterError, message
from lab.measurement import LEAST_BLOCKS, Comparison
from lab.slo import Limit, Metric, Verdict
from lab.trials import Block, Kind, TrialResult

if TYPE_CHECKING:
    import pandas as pd

    from lab.params import Slo

# The figure that tells how good answers are, as lab.quality and as the contract name it.
JUDGED_BY: Mapping[Kind, tuple[str, str]] = {
    "text": ("token_f1", "answer_f1"),
    "image_text": ("token_f1", "answer_f1"),
    "speech": ("cer", "cer"),
    "joint": ("token_f1", "answer_f1"),
    "match": ("recall_at_1", "recall"),
}
Here = Literal["smaller", "smaller but slower", "no smaller", ""]
_PERCENTILES = {"latency_p50": 0.5, "latency_p95": 0.95, "latency_p99": 0.99}
_MOST_ITEMS = 10_000  # more is no advice
_UNITS = {"token_f1": "F1", "cer": "errors per character", "recall_at_1": "share"}
_BIT = 1e-9  # share by which sizes may differ and be the same


@dataclass(frozen=True)
class Standing:
    """A configuration, held against its study's baseline.

    Attributes:
        result: what was measured.
        metrics: its figures, by the contract's names.
        speed: against the baseline; None for the baseline, and if it was never timed.
        eligible: pass if quality holds in every language, fail if it does not in one or the
            configuration could not be measured, else insufficient. The baseline passes.
        here: what storing the weights like this comes to on this machine; empty for the baseline
            and whatever could not be measured.
    """

    result: TrialResult
    metrics: tuple[Metric, ...]
    speed: Comparison | None
    eligible: Verdict
    here: Here


@dataclass(frozen=True)
class Comparisons:
    """The standings of a study.

    Attributes:
        standings: in the order of the study's trials, the baseline first.
        floor: least share by which two latencies can be told apart, from the A/A turns; infinite
            with fewer than 10 blocks.
        blocks: that it comes from.
        disturbed: blocks that could not be trusted, of all that were measured.
        measured: all blocks.
    """

    standings: tuple[Standing, ...]
    floor: float
    blocks: int
    disturbed: int
    measured: int

    @property
    def baseline(self) -> Standing:
        """The first."""
        return self.standings[0]

    @property
    def about(self) -> str:
        """What was asked: ``text, batch 8``."""
        trial = self.baseline.result.trial
        return f"{trial.kind.replace('_', ' and ')}, batch {trial.batch_size}"


def compare(results: Sequence[TrialResult], *, limits: Slo, seed: int) -> Comparisons:
    """Hold the results of one study against its baseline and the limits.

    Args:
        results: in the order of the study's trials.
        limits: the tenant's.
        seed: of the bootstraps.
    Raises: ParameterError if there is no result.
    """
    if not results:
        raise ParameterError(message("a comparison must have results", got=0))
    first = results[0]
    floor = measurement.floor_of(first.blocks, first.baseline, seed=seed)
    every = [block for one in results for block in one.blocks] + list(first.baseline)
    return Comparisons(
        standings=tuple(_standing(one, first, limits, floor, seed) for one in results),
        floor=floor,
        blocks=len({block.number for block in _sound(first.baseline)}),
        disturbed=sum(bool(block.disturbed) for block in every),
        measured=len(every),
    )


def metrics(studies: Sequence[Comparisons]) -> list[Metric]:
    """Return every figure of all studies."""
    return [metric for study in studies for one in study.standings for metric in one.metrics]


# --- one configuration ----------------------------------------------------------------------------


def _standing(
    result: TrialResult, first: TrialResult, limits: Slo, floor: float, seed: int
) -> Standing:
    speed = None
    is_baseline = result.key == first.key
    if not is_baseline and result.blocks and result.baseline:
        speed = measurement.compare(result.baseline, result.blocks, floor=floor, seed=seed)
    changes = [] if is_baseline else list(_changes(result, first, limits.quality_delta, seed))
    eligible: Verdict = "pass"
    if result.status != "ok":
        eligible = "fail"
    elif not is_baseline:
        eligible = slo.overall([one.verdict for one in changes]) or "insufficient"
    figures = [
        *_times(result, limits, seed),
        *_sizes(result),
        *_answers(result, seed),
        *changes,
        *_speedup(result, speed),
    ]
    here = "" if is_baseline or result.status != "ok" else _here(result, first, speed)
    return Standing(result, tuple(figures), speed, eligible, here)


def labels(result: TrialResult) -> dict[str, Any]:
    """Return what tells a configuration from the others of its notebook."""
    trial = result.trial
    found = {
        "query": trial.kind,
        "quantization": trial.method,
        "batch_size": trial.batch_size,
    }
    if trial.pruning != "none":
        found |= {"pruning": trial.pruning, "sparsity": trial.sparsity}
    for name in ("compiled", "static_cache"):
        if getattr(trial.runtime, name):
            found[name] = True
    return found


def _times(result: TrialResult, limits: Slo, seed: int) -> Iterator[Metric]:
    """Yield latencies, throughput and error rate; NaN where nothing sound was timed.

    The requests of a batch wait for one another and are one observation of a latency.
    """
    of, blocks = labels(result), _sound(result.blocks)
    calls = [max(some) for block in blocks for some in _batches(block, result.trial.batch_size)]
    for name, share in _PERCENTILES.items():
        found = (
            stats.quantile_interval(calls, share)
            if calls
            else stats.Interval(math.nan, math.nan, math.nan)
        )
        figure = {"unit": "s", "n": len(calls), "ci": found[1:], "labels": of}
        if name == "latency_p95":
            yield Metric.judged(
                name,
                found.value,
                limit=limits.latency_p95,
                needed=max(stats.quantile_needed(share), 2 * len(calls)),
                **figure,
            )
        else:
            yield Metric(name, found.value, **figure)
    rates = [block.throughput for block in blocks]
    mean = stats.Interval(math.nan, math.nan, math.nan)
    if rates and all(0 < one < math.inf for one in rates):
        mean = stats.block_ratio(np.ones(len(rates)), rates, seed=seed)
    yield Metric.judged(
        "throughput",
        mean.value,
        unit="requests/s",
        n=len(rates),
        ci=mean[1:],
        labels=of,
        limit=limits.throughput,
        needed=max(LEAST_BLOCKS, 2 * len(rates)),
    )
    sent = sum(len(block.latencies_s) for block in blocks)
    failed = stats.rare_interval(sum(block.errors for block in blocks), sent)
    bound = limits.error_rate.bound
    yield Metric.judged(
        "error_rate",
        failed.value,
        unit="share",
        n=sent,
        ci=failed[1:],
        labels=of,
        limit=limits.error_rate,
        needed=stats.rare_needed(bound) if 0 < bound < 1 else None,
    )


def _sizes(result: TrialResult) -> Iterator[Metric]:
    """Yield what was counted, so that there is no interval."""
    for name, value in (
        ("model_bytes", result.loaded_bytes),
        ("peak_memory", result.peak_bytes),
    ):
        if value is not None:
            yield Metric(name, value, unit="B", n=1, labels=labels(result))


def _answers(result: TrialResult, seed: int) -> Iterator[Metric]:
    """Yield how good the answers are, and how far they are the baseline's, in each language."""
    metric, name = JUDGED_BY[result.trial.kind]
    for one in _by_language(quality.summarise(_items(result, metric), seed=seed)):
        of = labels(result) | {"language": one.language}
        yield Metric(name, one.value, unit=_UNITS[metric], n=one.n, ci=one.ci, labels=of)
    if all(one.agreement is not None for one in result.quality):
        for one in _by_language(quality.summarise(_items(result, None), seed=seed)):
            of = labels(result) | {"language": one.language, "with": "baseline"}
            # Words agree more or less, choices do or do not.
            unit = "share" if result.trial.kind == "match" else _UNITS["token_f1"]
            yield Metric("consistency", one.value, unit=unit, n=one.n, ci=one.ci, labels=of)


def _changes(result: TrialResult, first: TrialResult, limit: Limit, seed: int) -> Iterator[Metric]:
    """Yield how much better each language's answers are than the baseline's, judged."""
    if not result.quality or not first.quality:
        return
    metric, _ = JUDGED_BY[result.trial.kind]
    found = quality.compare(_items(first, metric), _items(result, metric), seed=seed)
    for one in _by_language(found):
        sign = 1 if one.higher_is_better else -1
        value, ends = sign * one.value, sorted(sign * end for end in one.ci)
        yield Metric.judged(
            "quality_delta",
            value,
            unit=_UNITS[metric],
            n=one.n,
            ci=(ends[0], ends[1]),
            labels=labels(result) | {"language": str(one.language)},
            limit=limit,
            needed=_items_needed(value, ends, limit, one.n),
        )


def _items_needed(value: float, ends: Sequence[float], limit: Limit, n: int) -> int | None:
    """Return how many items of a language would do, if the change stays what it is.

    Where nothing changed the interval shrinks with n, else with its root.
    """
    room = abs(value - limit.bound)
    if not room:
        return None
    half = value - ends[0] if value > limit.bound else ends[1] - value
    least = stats.proportion_needed(0.0, min(0.999, room))
    if value == 0 or not math.isfinite(half):
        return least
    return max(least or 0, math.ceil(n * (half / room) ** 2))


def _speedup(result: TrialResult, speed: Comparison | None) -> Iterator[Metric]:
    if speed is not None and speed.blocks:
        ratio = speed.ratio
        yield Metric(
            "speedup",
            1 / ratio.value,
            unit="times as fast",
            n=speed.blocks,
            ci=(1 / ratio.high, 1 / ratio.low if ratio.low > 0 else math.inf),
            labels=labels(result),
        )


def _here(result: TrialResult, first: TrialResult, speed: Comparison | None) -> Here:
    """Say whether fewer bytes are fewer here, and at what price."""
    if None in (result.loaded_bytes, first.loaded_bytes):
        return ""
    if result.loaded_bytes >= first.loaded_bytes * (1 - _BIT):
        return "no smaller"
    slower = speed is not None and speed.verdict == "slower"
    return "smaller but slower" if slower else "smaller"


def _items(result: TrialResult, metric: str | None) -> list[quality.Item]:
    """Return what lab.quality counts: one score of each answer, or its agreement."""
    return [
        quality.Item(
            id=one.item,
            group=one.group,
            language=one.language,
            query=result.trial.kind,
            scores={metric: quality.Score(*one.scores[metric])}
            if metric
            else {"token_f1": quality.Score(one.agreement or 0.0)},
        )
        for one in result.quality
    ]


def _by_language(estimates: Sequence[quality.Estimate]) -> list[Any]:
    """Return the estimates of each language; the three first, over all kinds once."""
    return [one for one in estimates if one.language is not None and one.query is not None]


def _sound(blocks: Sequence[Block]) -> list[Block]:
    return [block for block in blocks if not block.disturbed]


def _batches(block: Block, size: int) -> Iterator[tuple[float, ...]]:
    for first in range(0, len(block.latencies_s), size):
        yield block.latencies_s[first : first + size]


# --- for people -----------------------------------------------------------------------------------


def table(studies: Sequence[Comparisons]) -> pd.DataFrame:
    """Return a row for each configuration: what matters most, in numbers."""
    import pandas as pd

    rows = []
    for study in studies:
        for one in study.standings:
            result = one.result
            found = {(m.name, m.labels.get("language", "")): m for m in one.metrics}
            speed, p50 = found.get(("speedup", "")), found[("latency_p50", "")]
            size, peak = result.loaded_bytes, result.peak_bytes
            rows.append(
                {
                    "study": study.about,
                    "configuration": result.trial.name,
                    "status": result.status,
                    "quality holds": one.eligible,
                    "consistency": _least_alike(one),
                    "p50 (s)": p50.value,
                    "calls": p50.n,
                    "times as fast": speed.value if speed else math.nan,
                    "low": speed.ci[0] if speed and speed.ci else math.nan,
                    "high": speed.ci[1] if speed and speed.ci else math.nan,
                    "speed": one.speed.verdict if one.speed else "baseline",
                    "model (MB)": size / 1e6 if size is not None else math.nan,
                    "peak (MB)": peak / 1e6 if peak is not None else math.nan,
                    "load (s)": math.nan if result.load_s is None else result.load_s,
                    "first (s)": math.nan
                    if result.first_request_s is None
                    else result.first_request_s,
                    "here": one.here or ("baseline" if result.status == "ok" else result.problem),
                }
            )
    return pd.DataFrame(rows)


def _least_alike(one: Standing) -> float:
    """Return how far the answers are the baseline's, in the language where they are least."""
    found = [metric.value for metric in one.metrics if metric.name == "consistency"]
    return min(found, default=math.nan)


def changes(studies: Sequence[Comparisons]) -> pd.DataFrame:
    """Return the change of quality by configuration and language, with interval and verdict."""
    import pandas as pd

    columns = ("study", "configuration", "language", "change", "low", "high", "n")
    return pd.DataFrame(
        [
            (
                study.about,
                one.result.trial.name,
                metric.labels["language"],
                metric.value,
                *(metric.ci or (math.nan, math.nan)),
                metric.n,
                metric.verdict,
            )
            for study in studies
            for one in study.standings
            for metric in one.metrics
            if metric.name == "quality_delta"
        ],
        columns=[*columns, "verdict"],
    )


def bytes_gained(studies: Sequence[Comparisons]) -> pd.DataFrame:
    """Return what each method's weights take beside what its bits alone would, and what runs.

    In theory every parameter takes the method's bits; embeddings, norms and constants do not.
    """
    import pandas as pd

    rows = {}
    for study in studies:
        base = study.baseline.result
        if base.loaded_bytes is None:
            continue
        parameters = base.loaded_bytes * 8 // quantization.method(base.trial.method).bits
        for one in study.standings:
            result = one.result
            if result.loaded_bytes is None:
                continue
            seen = result.environment.get("operators", ())
            theory = quantization.theoretical_bytes(result.trial.method, parameters=parameters)
            rows.setdefault(
                (result.trial.kind, result.trial.name),
                {
                    "query": result.trial.kind,
                    "configuration": result.trial.name,
                    "model (MB)": result.loaded_bytes / 1e6,
                    "in theory (MB)": theory / 1e6,
                    "times as small": base.loaded_bytes / result.loaded_bytes,
                    "what ran most": ", ".join(
                        f"{top['name'].removeprefix('aten::')} {top['share']:.0%}"
                        for top in seen[:3]
                    ),
                },
            )
    return pd.DataFrame(list(rows.values()))


def effort(studies: Sequence[Comparisons]) -> pd.DataFrame:
    """Return for each study what it took, how much of that was measuring, and its noise floor."""
    import pandas as pd

    rows = []
    for study in studies:
        known = study.baseline.result.environment
        took = known.get("study_s", math.nan)
        rows.append(
            {
                "study": study.about,
                "configurations": len(study.standings),
                "took (s)": took,
                "of it measuring (share)": known.get("measuring_s", math.nan) / took,
                "noise floor (share)": study.floor,
                "blocks": study.blocks,
                "disturbed blocks": study.disturbed,
                "of all": study.measured,
                "tokens while timing": known.get("tokens_while_timing"),
                "threads": known.get("threads"),
            }
        )
    return pd.DataFrame(rows)


def floors(studies: Sequence[Comparisons]) -> dict[str, float]:
    """Return each study's noise floor by what it is about."""
    return {study.about: study.floor for study in studies}


def conclusion(studies: Sequence[Comparisons]) -> list[str]:
    """Return what was found, in sentences, study by study."""
    return [line for study in studies for line in _sentences(study)]


def _sentences(study: Comparisons) -> Iterator[str]:
    about, base = study.about.capitalize(), study.baseline
    if base.result.status != "ok":
        yield f"{about}: the baseline {base.result.trial.name} failed: {base.result.problem}."
        return
    others = study.standings[1:]
    open_ = [one for one in others if one.eligible == "insufficient"]
    able = [one for one in others if one.eligible == "pass"]
    if lost := [one for one in others if one.eligible == "fail" and one.result.status == "ok"]:
        yield f"{about}: not eligible, for quality falls too far: {_list(lost, _where_worse)}."
    for one in others:
        if one.result.status != "ok":
            yield f"{about}: {one.result.trial.name} could not be measured: {one.result.problem}."
    if open_:
        yield f"{about}: whether quality holds is open: {_list(open_, _would_tell)}."
    yield _memory(study, able, about)
    yield _speed(study, able, about)
    if dear := [one for one in others if one.here == "smaller but slower"]:
        yield f"{about}: smaller but slower here: {_list(dear, _times_as_fast)}."


def _memory(study: Comparisons, able: Sequence[Standing], about: str) -> str:
    smaller = [one for one in able if one.here.startswith("smaller")]
    if not smaller:
        return f"{about}: no smaller configuration is shown to keep the quality."
    best = min(smaller, key=lambda one: one.result.loaded_bytes or 0)
    was, now = study.baseline.result.loaded_bytes, best.result.loaded_bytes
    return (
        f"{about}: least memory at the same quality is {best.result.trial.name}, "
        f"{now / 1e6:.3g} MB instead of {was / 1e6:.3g} MB."
    )


def _speed(study: Comparisons, able: Sequence[Standing], about: str) -> str:
    if math.isinf(study.floor):
        return (
            f"{about}: who is faster is open: it takes at least {LEAST_BLOCKS} undisturbed blocks, "
            f"and there are {study.blocks}."
        )
    faster = [one for one in study.standings if one.speed and one.speed.verdict == "faster"]
    floor = f"differences below {study.floor:.1%} are noise"
    if not faster:
        name = study.baseline.result.trial.name
        return f"{about}: nothing is shown to be faster than {name}; {floor}."
    if not (chosen := [one for one in faster if one in able]):
        return (
            f"{about}: faster, but not shown to keep the quality: {_list(faster, _times_as_fast)}."
        )
    best = min(chosen, key=lambda one: one.speed.ratio.value if one.speed else math.inf)
    return (
        f"{about}: fastest at the same quality is {best.result.trial.name}{_times_as_fast(best)}; "
        f"{floor}."
    )


def _list(some: Sequence[Standing], more: Any = lambda _: "") -> str:
    return ", ".join(one.result.trial.name + more(one) for one in some)


def _where_worse(one: Standing) -> str:
    worse = [
        f"{m.labels['language']} {m.value:+.3f}"
        for m in one.metrics
        if m.name == "quality_delta" and m.verdict == "fail"
    ]
    return f" ({', '.join(worse)})"


def _times_as_fast(one: Standing) -> str:
    found = next((m for m in one.metrics if m.name == "speedup"), None)
    if found is None or found.ci is None:
        return ""
    return f" ({found.value:.2f} times as fast, 95 % {found.ci[0]:.2f} to {found.ci[1]:.2f})"


def _would_tell(one: Standing) -> str:
    """Say how many items would do, unless there are too few to guess from."""
    needed = max((m.needed or 0 for m in one.metrics if m.name == "quality_delta"), default=0)
    if not needed:
        return ""
    if needed > _MOST_ITEMS:
        return f" (more than {_MOST_ITEMS:,} items a language would tell)"
    return f" (about {needed:,} items a language would tell)"
