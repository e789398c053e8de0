"""Tests of lab.stations: what is told and when, who is heard, and what stays afterwards."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import threading
import time
import weakref

import pytest
from conftest import ROOT

from lab import checkpoints, stations
from lab.errors import ClusterError, LabError, ModelError, PathError
from lab.requests import Drawn
from lab.stations import Event, Station, Work
from lab.studies import Study
from lab.trials import Setting, Trial

TRIAL = Trial(tenant="medical", kind="text", suite="demo", items=2, seed=0, turns=2)
STUDY = Study((TRIAL,))
WORK = Work(STUDY, Setting("data", {}, "code", "hardware"), {}, {}, threads=1)
NOTHING = Drawn((), ())
VLM = ROOT / "params" / "models" / "demo" / "vlm"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stations.tempfile, "gettempdir", lambda: str(tmp_path))


@pytest.fixture
def left():
    return []


@pytest.fixture
def make(left):
    def make(silent_s=60.0, idle_s=60.0):
        return Station(device="cpu", threads=2, silent_s=silent_s, idle_s=idle_s, leave=left.append)

    return make


def measuring(monkeypatch, measure):
    monkeypatch.setattr(stations.studies, "measure", measure)


def hear_all(station, owner, after=0):
    """Return all events up to the last, as a driver hears them."""
    heard = []
    while not heard or heard[-1].kind not in ("results", "failed"):
        heard += station.hear(owner, after + len(heard), 5.0)
    return heard


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_what_is_in_work_is_known_before_it_is_begun(make, monkeypatch):
    begun = threading.Event()

    def measure(study, drawn, *, working, progress, **more):
        progress("asking", 0, 3)
        working(TRIAL)
        begun.set()
        return []

    measuring(monkeypatch, measure)
    station = make()
    assert station.begin("one", WORK, NOTHING)
    heard = []
    while len(heard) < 2:
        heard += station.hear("one", len(heard), 5.0)
    assert heard == [Event("progress", ("asking", 0, 3)), Event("working", 0)]
    assert not begun.wait(0.2)  # the second is told, and nobody said that it arrived
    assert hear_all(station, "one", 2) == [Event("results", [])]
    assert begun.is_set()


def test_one_owner_at_a_time(make, monkeypatch):
    measuring(monkeypatch, lambda *_, **__: [])
    station = make()
    assert station.begin("one", WORK, NOTHING)
    assert station.begin("one", WORK, NOTHING)  # asked twice, begun once
    assert not station.begin("two", WORK, NOTHING)
    with pytest.raises(ClusterError, match="heard by its owner"):
        station.hear("two", 0, 0.0)
    station.end("two")
    assert [event.kind for event in hear_all(station, "one")] == ["results"]
    station.end("one")
    assert station.begin("two", WORK, NOTHING)


@pytest.mark.parametrize("error", [ModelError("no"), ZeroDivisionError("0"), MemoryError()])
def test_an_error_comes_as_it_was(make, monkeypatch, error):
    def fail(*_, **__):
        raise error

    measuring(monkeypatch, fail)
    station = make()
    station.begin("one", WORK, NOTHING)
    (event,) = hear_all(station, "one")
    packed, words = event.value
    told = pickle.loads(packed)
    assert (type(told), told.args) == (type(error), error.args)
    assert "in fail" in words


def test_an_error_that_cannot_be_sent_comes_in_words(make, monkeypatch):
    class OwnError(Exception):
        pass

    def fail(*_, **__):
        raise OwnError("why")

    measuring(monkeypatch, fail)
    station = make()
    station.begin("one", WORK, NOTHING)
    (event,) = hear_all(station, "one")
    assert str(pickle.loads(event.value[0])) == "OwnError: why"


def test_nothing_of_a_tenant_stays(make, monkeypatch):
    measuring(monkeypatch, lambda study, drawn, **more: [])
    station = make()
    drawn = Drawn((), ())
    seen = weakref.ref(drawn)
    station.begin("one", WORK, drawn)
    hear_all(station, "one")
    station.end("one")
    del drawn
    gc.collect()
    assert seen() is None


def test_who_lost_its_owner_leaves(make, left, monkeypatch):
    over = threading.Event()
    measuring(monkeypatch, lambda *_, **__: over.wait(20) and [])
    station = make(silent_s=1.0)
    station.begin("one", WORK, NOTHING)
    for _ in range(15):
        station.ping("one")
        time.sleep(0.1)
    assert not left
    station.ping("two")  # another's sign does not help
    assert wait_for(lambda: left == [1])
    over.set()


def test_who_has_no_work_leaves(make, left, monkeypatch):
    make(idle_s=0.2)
    assert wait_for(lambda: left == [0])


def test_only_the_idle_retire(make, left, monkeypatch):
    measuring(monkeypatch, lambda *_, **__: [])
    station = make()
    station.begin("one", WORK, NOTHING)
    station.retire()
    assert not left
    hear_all(station, "one")
    station.end("one")
    station.retire()
    assert left == [0]


@pytest.mark.parametrize(("asked", "threads"), [(None, 2), (1, 1), (9, 2)])
def test_a_station_uses_no_more_threads_than_it_has(make, asked, threads):
    about = make().about(asked)
    assert about.threads == threads
    assert about.hardware.endswith(f"cpu, {threads} threads")


class TestCheckpoints:
    digest = checkpoints.digest(VLM)

    def lacking(self, make, folder):
        return make().lacking({"vlm": str(folder)}, {"vlm": self.digest})

    def test_one_that_is_here_is_not_asked_for(self, make, tmp_path):
        assert self.lacking(make, VLM) == []
        assert self.lacking(make, tmp_path / "elsewhere") == ["vlm"]

    def test_one_that_was_sent_is_kept_and_found(self, make, tmp_path):
        make().receive(self.digest, stations.packed(VLM))
        assert self.lacking(make, tmp_path / "elsewhere") == []
        make().receive(self.digest, stations.packed(VLM))
        (kept,) = (one for one in tmp_path.rglob("*") if one.name == self.digest[7:])
        assert checkpoints.digest(kept) == self.digest

    def test_a_checkpoint_that_nobody_asks_for_any_more_goes_when_another_comes(
        self, make, tmp_path
    ):
        kept = stations.keep(self.digest, stations.packed(VLM))
        lately, long_ago = kept.with_name("a" * 64), kept.with_name("b" * 64)
        for folder, age_s in ((lately, 0), (long_ago, stations.KEPT_S + 60), (kept, 10**8)):
            folder.mkdir(exist_ok=True)
            os.utime(folder, (time.time() - age_s,) * 2)
        # What is asked for is in use, however long ago it came.
        assert self.lacking(make, tmp_path / "elsewhere") == []
        shutil.copytree(VLM, tmp_path / "other")
        (tmp_path / "other" / "added.json").write_text("{}")
        other = checkpoints.digest(tmp_path / "other")
        stations.keep(other, stations.packed(tmp_path / "other"))
        assert (kept.is_dir(), lately.is_dir(), long_ago.is_dir()) == (True, True, False)

    def test_one_that_was_changed_is_not_used(self, make, tmp_path):
        kept = stations.keep(self.digest, stations.packed(VLM))
        (kept / "config.json").write_text("{}")
        assert self.lacking(make, tmp_path / "elsewhere") == ["vlm"]
        make().receive(self.digest, stations.packed(VLM))
        assert self.lacking(make, tmp_path / "elsewhere") == []

    def test_a_folder_of_another_content_is_not_used(self, make, tmp_path):
        shutil.copytree(VLM, tmp_path / "vlm")
        (tmp_path / "vlm" / "config.json").write_text("{}")
        assert self.lacking(make, tmp_path / "vlm") == ["vlm"]

    def test_a_hubs_snapshot_is_found_where_this_machine_keeps_them(
        self, make, tmp_path, monkeypatch
    ):
        parts = ("models--team--vlm", "snapshots", "0" * 40)
        shutil.copytree(VLM, tmp_path.joinpath("hub", *parts))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        assert self.lacking(make, tmp_path.joinpath("driver", *parts)) == []

    @pytest.mark.parametrize(
        ("files", "error"),
        [
            ({"config.json": b"{}"}, ModelError),
            ({"../config.json": b"{}"}, PathError),
            ({"/config.json": b"{}"}, PathError),
        ],
        ids=["another", "above", "absolute"],
    )
    def test_what_must_not_be_kept_leaves_nothing(self, make, tmp_path, files, error):
        with pytest.raises(LabError) as caught:
            make().receive(self.digest, files)
        assert type(caught.value) is error
        assert [one for one in tmp_path.rglob("*") if one.is_file()] == []
