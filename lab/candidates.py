"""Candidates for a tenant: what the ledger knows to gain, one technique alone and all together.

Owns which results say what a single technique gains, and the trials that follow from it. Knows
nothing of how a trial is measured, or of who wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lab import batching, comparisons
from lab.designs import stored
from lab.slo import Verdict
from lab.stats import Interval
from lab.trials import Setting, Trial, TrialResult, digest

if TYPE_CHECKING:
    from lab.params import Slo

Technique = Literal["quantization", "pruning", "batch size"]
Name = Literal["untuned", "article", "single", "combined"]
TECHNIQUES: Mapping[Technique, tuple[str, ...]] = {
    "quantization": ("quantization", "runtime"),
    "pruning": ("pruning", "sparsity"),
    "batch size": ("batch_size",),
}
NAMES: Mapping[Name, str] = {
    "untuned": "the models as they are, one query at a time",
    "article": "4-bit weights, a fifth of them pruned before, batches of 8",
    "single": "the technique that gains most by itself",
    "combined": "the best of each technique that gains",
}


@dataclass(frozen=True, eq=False)
class Step:
    """What one technique gained, everything else being equal.

    Attributes:
        technique: which.
        trial: that has it.
        gain: times as much throughput as the baseline of its study, block by block.
        eligible: whether quality held against that baseline.
        latency_s: its p95; NaN if nothing sound was timed.
        in_time: whether that is within the limit.
    """

    technique: Technique
    trial: Trial
    gain: Interval
    eligible: Verdict
    latency_s: float
    in_time: bool

    @property
    def may_be_taken(self) -> bool:
        """Whether it gains, at no price that is known to be too high."""
        return self.gain.value > 1 and self.eligible != "fail" and self.in_time


@dataclass(frozen=True)
class Candidate:
    """A configuration that is measured against the others.

    Attributes:
        names: under which it takes part; two if they come to the same.
        trial: the configuration.
        why: in words.
    """

    names: tuple[Name, ...]
    trial: Trial
    why: str


def steps(results: Sequence[TrialResult], *, limits: Slo, seed: int) -> list[Step]:
    """Return what each technique gained alone, the largest gain first.

    Args:
        results: of one tenant and kind of query.
        limits: the tenant's.
        seed: of the bootstraps.
    """
    baselines = {
        (digest(one.trial), _place(one.setting)): one
        for one in results
        if one.setting.partner == digest(one.trial)
    }
    found = []
    for one in results:
        base = baselines.get((one.setting.partner, _place(one.setting)))
        if base is None or base.key == one.key or one.status != "ok" or base.status != "ok":
            continue
        changed = [
            name for name, some in TECHNIQUES.items() if _differ(base.trial, one.trial, some)
        ]
        if len(changed) == 1:
            found.append(_step(changed[0], base, one, limits, seed))
    return sorted(found, key=lambda step: -step.gain.value)


def choose(known: Sequence[Step], untuned: Trial) -> list[Candidate]:
    """Return the candidates, the untuned one first; each configuration once.

    Args:
        known: what each technique gained, the largest gain first.
        untuned: the models as they are, one query at a time.
    """
    best: dict[Technique, Step] = {}
    for step in known:
        if step.may_be_taken:
            best.setdefault(step.technique, step)
    article = replace(stored(untuned, "nf4"), batch_size=8, pruning="l1", sparsity=0.2)
    asked: list[tuple[Name, Trial, str]] = [
        ("untuned", untuned, NAMES["untuned"]),
        ("article", article, NAMES["article"]),
    ]
    in_order = sorted(best.values(), key=lambda step: -step.gain.value)
    if in_order:
        first = in_order[0]
        asked.append(
            ("single", _with(untuned, [first]), f"{first.technique} alone: {_said(first)}")
        )
        why = "; ".join(f"{step.technique}: {_said(step)}" for step in in_order)
        asked.append(("combined", _with(untuned, in_order), why))
    found: dict[Trial, Candidate] = {}
    for name, trial, why in asked:
        if trial in found:
            found[trial] = replace(found[trial], names=(*found[trial].names, name))
        else:
            found[trial] = Candidate((name,), trial, why)
    return list(found.values())


def _step(
    technique: Technique, base: TrialResult, result: TrialResult, limits: Slo, seed: int
) -> Step:
    standing = comparisons.compare([base, result], limits=limits, seed=seed).standings[1]
    p95 = next(one.value for one in standing.metrics if one.name == "latency_p95")
    return Step(
        technique=technique,
        trial=result.trial,
        gain=batching.gain(base, result, batching.throughput, seed=seed),
        eligible=standing.eligible,
        latency_s=p95,
        in_time=limits.latency_p95.holds(p95),
    )


def _with(untuned: Trial, some: Sequence[Step]) -> Trial:
    """Return the untuned trial with what each step changed."""
    changed = {
        name: getattr(step.trial, name) for step in some for name in TECHNIQUES[step.technique]
    }
    return replace(untuned, **changed)


def _said(step: Step) -> str:
    trial = step.trial
    what = {
        "quantization": trial.method,
        "pruning": f"{trial.pruning} {trial.sparsity:g}",
        "batch size": str(trial.batch_size),
    }[step.technique]
    low, high = step.gain[1:]
    return f"{what} had {step.gain.value:.2f} times the throughput ({low:.2f} to {high:.2f})"


def _differ(one: Trial, other: Trial, names: Sequence[str]) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in names)


def _place(setting: Setting) -> tuple[object, ...]:
    """Return what must be equal for two results to have been timed beside each other."""
    models = tuple(sorted(setting.models.items()))
    return (
        setting.data,
        models,
        setting.code,
        setting.hardware,
        setting.software,
        setting.settings,
    )
