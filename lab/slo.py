"""Limits, and the three-valued verdict of a measured figure against one.

Owns the meaning of pass, fail and insufficient, and the record of one figure (``Metric``). Knows
nothing of how a figure was measured.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from lab.errors import ParameterError, message

Verdict = Literal["pass", "fail", "insufficient"]
MIME = "application/vnd.tuning-lab.metrics+json"

_LIMIT = re.compile(r"(<=|>=|<|>)\s*([0-9.eE+-]+)")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Limit:
    """One bound, such as ``< 0.4``; the unit is that of the metric it is held against."""

    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read ``"< 0.4"``, ``"<= 2"``, ``"> 100"`` or ``">= 0.9"``.

        Raises: ParameterError if the text is anything else or the bound is not finite.
        """
        match = _LIMIT.fullmatch(text.strip()) if isinstance(text, str) else None
        try:
            if match and math.isfinite(float(match[2])):
                return cls(match[1], float(match[2]))
        except ValueError:
            pass
        raise ParameterError(
            message("a limit must be <, <=, > or >= and a number", got=text, remedy='write "< 0.4"')
        )

    def holds(self, value: float) -> bool:
        """Whether ``value`` itself meets the bound; NaN never does."""
        return _OPERATORS[self.sign](value, self.bound)

    @property
    def is_upper(self) -> bool:
        """True for ``<`` and ``<=``: smaller is better."""
        return self.sign.startswith("<")

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


def judge(limit: Limit, *, value: float, ci: tuple[float, float] | None) -> Verdict:
    """Judge a figure by its whole 95 % interval.

    pass: every value of the interval meets the limit. fail: none does. insufficient: the limit
    lies inside the interval, or the value is NaN, so that more samples are needed. Without an
    interval (a census: nothing was sampled) the value alone decides.
    """
    if math.isnan(value) or (ci is not None and any(math.isnan(end) for end in ci)):
        return "insufficient"
    low, high = ci if ci is not None else (value, value)
    if limit.holds(low) and limit.holds(high):
        return "pass"
    if not limit.holds(low) and not limit.holds(high):
        return "fail"
    return "insufficient"


def overall(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the verdict of a whole: fail if any fails, else insufficient if any is, else pass.

    None stands for a figure without a limit and decides nothing; None if all are.
    """
    present = [verdict for verdict in verdicts if verdict is not None]
    for worst in ("fail", "insufficient", "pass"):
        if worst in present:
            return worst
    return None


@dataclass(frozen=True)
class Metric:
    """One figure as it stands in ``metrics.json``: value, unit, n, 95 % interval, limit, verdict.

    ``needed`` is the n that would settle an insufficient verdict, where that can be told.
    """

    name: str
    value: float
    unit: str
    n: int
    ci: tuple[float, float] | None = None
    labels: Mapping[str, str | int | float] = field(default_factory=dict)
    limit: str | None = None
    verdict: Verdict | None = None
    needed: int | None = None

    @classmethod
    def judged(
        cls,
        name: str,
        value: float,
        *,
        unit: str,
        n: int,
        ci: tuple[float, float] | None,
        limit: Limit,
        labels: Mapping[str, str | int | float] | None = None,
        needed: int | None = None,
    ) -> Metric:
        """Make a metric and its verdict in one go, so that the two cannot disagree."""
        verdict = judge(limit, value=value, ci=ci)
        return cls(
            name=name,
            value=value,
            unit=unit,
            n=n,
            ci=ci,
            labels=dict(labels or {}),
            limit=str(limit),
            verdict=verdict,
            needed=needed if verdict == "insufficient" else None,
        )

    def record(self) -> dict[str, object]:
        """Return the figure as JSON can hold it: NaN and infinities become null."""
        record = asdict(self)
        if not math.isfinite(self.value):
            record["value"] = None
        if self.ci is not None:
            record["ci"] = [end if math.isfinite(end) else None for end in self.ci]
        if self.needed is None:
            del record["needed"]
        return record


class Conclusion:
    """What a notebook's last cell shows: its metrics, handed to the report by MIME type.

    Also the sign that the notebook came to its end: a run whose notebook shows none has failed,
    whatever its cells say.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.metrics = tuple(metrics)

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        verdicts = [metric.verdict for metric in self.metrics]
        text = ", ".join(
            f"{verdicts.count(kind)} {kind}" for kind in ("pass", "fail", "insufficient")
        )
        return {
            "text/plain": f"{len(self.metrics)} figures: {text}",
            MIME: {"schema": 1, "metrics": [metric.record() for metric in self.metrics]},
        }
