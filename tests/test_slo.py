import math

import pytest

from lab.errors import ParameterError
from lab.slo import MIME, Conclusion, Limit, Metric, judge, overall


@pytest.mark.parametrize(
    ("text", "sign", "bound"),
    [("< 0.4", "<", 0.4), ("<=2", "<=", 2.0), (" > 100 ", ">", 100.0), (">= 1e-3", ">=", 0.001)],
)
def test_a_limit_is_read(text, sign, bound):
    assert Limit.parse(text) == Limit(sign, bound)


@pytest.mark.parametrize(
    "text", ["", "0.4", "== 1", "< x", "< nan", "< 1e999", "<< 1", 5, None, "< 1 2"]
)
def test_what_is_no_limit_is_refused_with_its_value(text):
    with pytest.raises(ParameterError, match="a limit must be"):
        Limit.parse(text)


@pytest.mark.parametrize(
    ("limit", "value", "ci", "verdict"),
    [
        ("< 0.4", 0.3, (0.25, 0.35), "pass"),
        ("< 0.4", 0.3, (0.25, 0.40), "insufficient"),  # the bound itself does not meet <
        ("<= 0.4", 0.3, (0.25, 0.40), "pass"),
        ("< 0.4", 0.5, (0.45, 0.55), "fail"),
        ("< 0.4", 0.5, (0.39, 0.55), "insufficient"),
        ("> 100", 120, (101, 140), "pass"),
        ("> 100", 120, (99, 140), "insufficient"),
        ("> 100", 90, (80, 100), "fail"),
        ("< 0.4", 0.3, None, "pass"),
        ("< 0.4", 0.5, None, "fail"),
        ("< 0.4", math.nan, None, "insufficient"),
        ("< 0.4", 0.3, (math.nan, 0.5), "insufficient"),
        ("< 0.4", math.inf, (0.1, math.inf), "insufficient"),
        ("< 0.4", math.inf, (math.inf, math.inf), "fail"),
    ],
)
def test_the_whole_interval_decides(limit, value, ci, verdict):
    assert judge(Limit.parse(limit), value=value, ci=ci) == verdict


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([], None),
        ([None, None], None),
        (["pass", None], "pass"),
        (["pass", "insufficient"], "insufficient"),
        (["insufficient", "fail", "pass"], "fail"),
    ],
)
def test_the_worst_verdict_is_that_of_the_whole(verdicts, whole):
    assert overall(verdicts) == whole


def test_needed_is_kept_only_where_more_samples_would_settle_it():
    limit = Limit.parse("< 0.4")
    passed = Metric.judged("x", 0.3, unit="s", n=9, ci=(0.2, 0.3), limit=limit, needed=99)
    open_ = Metric.judged("x", 0.3, unit="s", n=9, ci=(0.2, 0.5), limit=limit, needed=99)
    assert (passed.needed, open_.needed) == (None, 99)
    assert "needed" not in passed.record()


def test_a_record_holds_nothing_that_json_lacks():
    record = Metric("x", math.nan, unit="s", n=0, ci=(-math.inf, 1.0)).record()
    assert record["value"] is None
    assert record["ci"] == [None, 1.0]


def test_a_conclusion_carries_its_metrics_by_mime_type():
    bundle = Conclusion([Metric("x", 1.0, unit="s", n=1, verdict="pass")])._repr_mimebundle_()
    assert bundle[MIME]["metrics"][0]["name"] == "x"
    assert bundle["text/plain"] == "1 figures: 1 pass, 0 fail, 0 insufficient"
