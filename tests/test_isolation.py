"""Tests of lab.isolation: leaks planted in every place, in every way that text is written."""

from __future__ import annotations

import html
import json
from dataclasses import replace

import pytest
from conftest import trial_result

from lab import corpus, isolation, params
from lab.ledger import Ledger
from lab.slo import Limit
from lab.tenants import Tenant
from lab.trials import Trial

WORDS = '周四上午的"体检"报告 & <结果> 何时能取？'
ALL = Limit(">=", 1)


@pytest.fixture
def places(tmp_path):
    """Two tenants without a word of each other."""
    owner, other = Tenant("medical", tmp_path), Tenant("education", tmp_path)
    for one in (owner, other):
        one.reports.mkdir(parents=True)
        one.cache.mkdir(parents=True)
        (one.reports / "01_data_analysis.html").write_text("<p>nothing</p>", "utf-8")
    return owner, other


@pytest.fixture
def probe(places, tmp_path):
    def probe(*strings):
        owner, other = places
        with Ledger("sqlite:///ledger.db", root=tmp_path) as ledger:
            others = {other: tmp_path / "data" / "education"}
            return isolation.probe(strings, owner=owner, others=others, ledger=ledger)

    return probe


def test_nothing_is_found_where_nothing_is(probe):
    found = probe(WORDS, "another string of this tenant")
    assert (found.strings, found.places, found.leaks) == (2, 2, ())
    metric = found.metric(ALL)
    assert (metric.value, metric.n, metric.ci, metric.verdict) == (1.0, 4, None, "pass")


@pytest.mark.parametrize(
    "written",
    [
        WORDS,
        html.escape(WORDS),
        html.escape(WORDS, quote=False),
        json.dumps(WORDS),
        json.dumps(WORDS, ensure_ascii=False),
    ],
    ids=["plain", "HTML", "HTML text", "JSON", "JSON in UTF-8"],
)
@pytest.mark.parametrize("folder", ["reports", "cache"])
def test_a_leak_is_found_however_it_is_written(places, probe, folder, written):
    _, other = places
    place = getattr(other, folder) / "deep" / "file.bin"
    place.parent.mkdir()
    place.write_bytes(b"\x00\xff" + written.encode() + b"\x00")
    (leak,) = probe("not there at all", WORDS).leaks
    assert (leak.owner, leak.tenant, leak.string) == ("medical", "education", WORDS)
    assert leak.place.endswith("deep/file.bin")
    metric = probe(WORDS).metric(ALL)
    assert metric.value < 1
    assert metric.verdict == "fail"


def test_a_leak_across_two_parts_of_a_large_file_is_found(places, probe, monkeypatch):
    monkeypatch.setattr(isolation, "_PART", 16)
    (places[1].reports / "large.html").write_text("x" * 10 + WORDS + "y" * 100, "utf-8")
    assert len(probe(WORDS).leaks) == 1


def test_a_leak_in_the_ledger_is_found(places, probe, tmp_path):
    trial = Trial(tenant="education", kind="text", suite="demo", items=1, seed=0)
    with Ledger("sqlite:///ledger.db", root=tmp_path) as ledger:
        ledger.add(replace(trial_result(trial), environment={"note": WORDS}))
    (leak,) = probe(WORDS).leaks
    assert leak.place == "ledger"


def test_what_the_other_says_in_its_own_data_is_no_leak(places, probe, tmp_path):
    _, other = places
    (other.reports / "01_data_analysis.html").write_text(WORDS, "utf-8")
    assert len(probe(WORDS).leaks) == 1
    data = tmp_path / "data" / "education"
    data.mkdir(parents=True)
    (data / "faq.json").write_text(json.dumps([{"question": WORDS}]), "utf-8")
    assert probe(WORDS).leaks == ()


def test_ones_own_places_are_not_looked_into(places, probe):
    (places[0].reports / "01_data_analysis.html").write_text(WORDS, "utf-8")
    assert probe(WORDS).leaks == ()


def test_links_are_not_followed(places, probe, tmp_path):
    (tmp_path / "private.txt").write_text(WORDS, "utf-8")
    (places[1].reports / "link.html").symlink_to(tmp_path / "private.txt")
    assert probe(WORDS).leaks == ()


def test_strings_are_long_different_and_the_same_for_a_seed(sound_project):
    data = corpus.load(params.load("medical", root=sound_project))
    some = isolation.canaries(data, seed=0)
    assert len(some) == len(set(some)) == isolation.CANARIES
    assert min(map(len, some)) >= isolation.LEAST_CHARS
    assert some == isolation.canaries(data, seed=0) != isolation.canaries(data, seed=1)
    assert isolation.canaries(data, seed=0, most=3) == some[:3]
