"""The ledger on SQLite and on a real PostgreSQL: nothing lost, nothing doubled, nothing leaked."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from lab import ledger
from lab.errors import LedgerError, ParameterError
from lab.ledger import Ledger
from lab.trials import Block, Setting, Trial, TrialResult, key

SETTING = Setting(data="sha256:aa", models={}, code="1", hardware="cpu")

KILLS = int(os.environ.get("LAB_KILLS", "10"))  # `make chaos` asks for more

pytestmark = pytest.mark.xdist_group("ledger")  # one PostgreSQL for all


def result(seed=0, tenant="medical", finished="2026-11-25T03:00:00Z", value=0.1):
    trial = Trial(tenant=tenant, kind="text", suite="demo", items=20, seed=seed)
    return TrialResult(
        key=key(trial, SETTING),
        trial=trial,
        setting=SETTING,
        status="ok",
        finished=finished,
        blocks=(Block(0, (value,) * 50, 1.0),),
    )


def programs() -> Path | None:
    """Return the folder of PostgreSQL's own programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """Run a PostgreSQL of our own, and give the URL of its socket."""
    bin_ = programs()
    if bin_ is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt install postgresql)")
    folder = tmp_path_factory.mktemp("pg")
    become: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        become = ["runuser", "-u", "postgres", "--"]
        for place in (folder, *folder.parents[:3]):
            place.chmod(place.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres")

    def call(*words: str) -> None:
        subprocess.run([*become, *words], check=True, capture_output=True, timeout=60, cwd="/")

    data = str(folder / "data")
    call(str(bin_ / "initdb"), "-D", data, "-A", "trust", "-U", "lab", "-E", "UTF8", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    call(str(bin_ / "pg_ctl"), "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
    yield f"postgresql+psycopg://lab@/postgres?host={folder}"
    # Not by pg_ctl: another pytest that was started since has closed our folder to that user.
    os.kill(int(Path(data, "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """Return the URL of an empty ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/reports/ledger.db"
    base = request.getfixturevalue("server")
    name = f"lab_{time.monotonic_ns()}"
    engine = sql.create_engine(base, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sql.text(f"create database {name}"))
    engine.dispose()
    return base.replace("/postgres?", f"/{name}?")


@pytest.fixture
def opened(url, tmp_path) -> Iterator[Ledger]:
    """Open that ledger."""
    with Ledger(url, root=tmp_path) as book:
        yield book


def test_what_was_added_is_there(opened, url, tmp_path):
    one, two = result(1), result(2)
    assert opened.add(one)
    assert opened.add(two)
    with Ledger(url, root=tmp_path) as other:
        assert other.find([two.key, one.key], tenant="medical") == {one.key: one, two.key: two}


def test_finishing_a_trial_twice_changes_nothing(opened):
    assert opened.add(result(value=0.1))
    assert not opened.add(result(value=0.9))
    (kept,) = opened.of_tenant("medical")
    assert kept.blocks[0].latencies_s[0] == 0.1


def test_only_what_is_missing_is_told_in_its_order_and_once(opened):
    keys = [result(seed).key for seed in range(1_200)]
    for seed in (3, 700, 1_199):
        opened.add(result(seed))
    asked = [keys[5], *keys, keys[5]]
    known = {keys[3], keys[700], keys[1_199]}
    assert opened.missing(asked) == [
        keys[5],
        *(one for one in keys if one not in known | {keys[5]}),
    ]
    assert opened.missing([]) == []


def test_results_are_counted_by_tenant_and_status(opened):
    assert opened.statuses() == {}
    for one in (result(1), result(2), result(1, "education")):
        opened.add(one)
    trial = Trial(tenant="medical", kind="text", suite="demo", items=20, seed=3)
    when = "2026-11-25T03:00:00Z"
    slow = TrialResult(key(trial, SETTING), trial, SETTING, "timeout", when, problem="60 s")
    opened.add(slow)
    assert opened.statuses() == {"education": {"ok": 1}, "medical": {"ok": 2, "timeout": 1}}


def test_results_come_one_at_a_time_of_a_tenant_or_of_all(opened):
    added = [result(seed, tenant) for seed in range(60) for tenant in ("medical", "education")]
    for one in added:
        opened.add(one)
    assert {one.key for one in opened.results()} == {one.key for one in added}
    assert {one.trial.tenant for one in opened.results("medical")} == {"medical"}
    first = next(opened.results())  # the rest is not asked for
    assert opened.find([first.key], tenant=first.trial.tenant) == {first.key: first}


def test_tenants_do_not_see_each_others_results(opened):
    ours, theirs = result(tenant="medical"), result(tenant="education")
    opened.add(ours)
    opened.add(theirs)
    assert opened.of_tenant("medical") == [ours]
    assert opened.find([ours.key, theirs.key], tenant="education") == {theirs.key: theirs}
    assert opened.of_tenant("' or 1=1 --") == []
    assert opened.counts() == {"medical": 1, "education": 1}


def test_results_come_in_the_order_they_were_finished(opened):
    times = ["2026-11-25T03:00:02Z", "2026-11-25T03:00:01Z", "2026-11-25T03:00:03Z"]
    for seed, finished in enumerate(times):
        opened.add(result(seed, finished=finished))
    assert [one.finished for one in opened.of_tenant("medical")] == sorted(times)


def test_a_ledger_of_an_older_lab_is_brought_up_to_date_and_keeps_its_results(
    opened, url, tmp_path, monkeypatch
):
    opened.add(result())

    def note(connection):
        connection.execute(sql.text("alter table results add column note varchar(9) default 'old'"))

    monkeypatch.setattr(ledger, "_STEPS", (*ledger._STEPS, note))
    for _ in range(2):
        with Ledger(url, root=tmp_path) as newer:
            assert newer.of_tenant("medical") == [result()]
            with newer._engine.connect() as connection:
                assert connection.execute(sql.text("select note from results")).scalar() == "old"


def test_a_new_ledger_has_what_an_upgraded_one_has(url, tmp_path, monkeypatch):
    def note(connection):
        connection.execute(sql.text("alter table results add column note varchar(9)"))

    # The table as today's code knows it has the column already.
    names = [*ledger._RESULTS.c.keys(), "note"]
    kinds = {"result": sql.LargeBinary}
    columns = (sql.Column(name, kinds.get(name, sql.String)) for name in names)
    table = sql.Table("results", sql.MetaData(), *columns)
    monkeypatch.setattr(ledger, "_RESULTS", table)
    monkeypatch.setattr(ledger, "_STEPS", (*ledger._STEPS, note))
    with Ledger(url, root=tmp_path) as new:
        assert new.add(result())
        columns = {one["name"] for one in sql.inspect(new._engine).get_columns("results")}
    assert columns == {"key", "tenant", "status", "finished", "result", "note"}


def test_a_result_that_cannot_be_read_is_named(opened):
    opened.add(result(1))
    with opened._engine.begin() as connection:
        connection.execute(sql.update(ledger._RESULTS).values(result=b"spoilt"))
    with pytest.raises(LedgerError, match=f"result {result(1).key} of .* cannot be read"):
        opened.of_tenant("medical")
    with pytest.raises(LedgerError, match=f"result {result(1).key} of .* cannot be read"):
        opened.find([result(1).key], tenant="medical")


def test_an_upgrade_that_fails_leaves_the_ledger_as_it_was(opened, url, tmp_path, monkeypatch):
    opened.add(result())

    def note(connection):
        connection.execute(sql.text("alter table results add column note varchar(9)"))
        connection.execute(sql.text("no such statement"))

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_STEPS", (*ledger._STEPS, note))
        with pytest.raises(LedgerError, match="could not open the ledger"):
            Ledger(url, root=tmp_path)
    with Ledger(url, root=tmp_path) as again:
        assert again.of_tenant("medical") == [result()]
        columns = sql.inspect(again._engine).get_columns("results")
    assert "note" not in {one["name"] for one in columns}


def test_a_ledger_of_a_newer_lab_is_refused(opened, url, tmp_path):
    with opened._engine.begin() as connection:
        connection.execute(sql.text("update lab_schema set version = 99"))
    with pytest.raises(LedgerError, match=r"or older, got 99 .*; use the lab that wrote it"):
        Ledger(url, root=tmp_path)


# --- several processes, and their deaths ----------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
from tests.test_ledger import result
from lab.ledger import Ledger
url, first, last, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with Ledger(url, root=Path(".")) as book:
    mine = {one.key: one for one in map(result, range(first, last))}
    for name in book.missing(mine):
        added = book.add(mine[name])
        print(name if added else "again", flush=True)
        time.sleep(pause)
"""


def writer(url: str, root: Path, first: int, last: int, pause: float = 0.0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(first), str(last), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    )


def test_writers_that_overlap_lose_and_double_nothing(url, root, tmp_path):
    # None of the tables is there yet: they race for making them as well.
    writers = [writer(url, root, first, first + 60) for first in (0, 20, 40)]
    told = [process.communicate(timeout=60) for process in writers]
    assert [process.returncode for process in writers] == [0, 0, 0], told
    added = [line for out, _ in told for line in out.split() if line != "again"]
    wanted = {result(seed).key for seed in range(100)}
    assert len(added) == len(set(added)) == 100
    with Ledger(url, root=tmp_path) as book:
        assert {one.key for one in book.of_tenant("medical")} == wanted == set(added)


@pytest.mark.timeout(300 + 10 * KILLS)
def test_writers_killed_at_any_moment_lose_and_double_nothing(url, root, tmp_path):
    rng = random.Random(4)
    results = 20 * KILLS  # more than they come to write before they are killed
    told: list[str] = []
    for _ in range(KILLS):
        process = writer(url, root, 0, results, pause=0.002)
        first = process.stdout.readline()  # from here on it is writing
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate(timeout=20)
        # The last line may be cut off by the kill.
        told += [line for line in (first + out).splitlines(keepends=True) if line[-1] == "\n"]
    assert KILLS <= len(told) < results
    out, err = writer(url, root, 0, results).communicate(timeout=60 + KILLS)
    assert not err
    told += out.splitlines(keepends=True)
    with Ledger(url, root=tmp_path) as book:
        kept = book.of_tenant("medical")
    wanted = {one.key: one for one in map(result, range(results))}
    keys = [one.key for one in kept]
    lost = len(({line.strip() for line in told} | set(wanted)) - set(keys))
    doubled = len(keys) - len(set(keys))
    repeated = len(told) - len(set(told))  # told to be safe, and done again
    print(f"{url.partition(':')[0]}, {KILLS} kills, {results} results:", end=" ")
    print(f"{lost} lost, {doubled} doubled, {repeated} repeated")
    assert (lost, doubled, repeated) == (0, 0, 0)
    assert {one.key: one for one in kept} == wanted


# --- what goes wrong ------------------------------------------------------------------------------


def add_many(book):
    for seed in range(1, 500):
        book.add(result(seed, value=random.Random(seed).random()))


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path):
    url = "sqlite:///ledger.db"
    with Ledger(url, root=tmp_path) as book:
        book.add(result(0))
        with book._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
        with pytest.raises(LedgerError, match=r"could not keep a result, got .*full"):
            add_many(book)
    with Ledger(url, root=tmp_path) as book:
        kept = book.of_tenant("medical")
        assert result(0) in kept
        assert book.add(result(1_000))


def test_a_file_that_is_no_ledger_is_told_and_not_touched(tmp_path):
    (tmp_path / "ledger.db").write_text("not a database, but somebody's notes" * 100)
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(
        LedgerError, match="could not open the ledger, got 'file is not a database'"
    ):
        Ledger("sqlite:///ledger.db", root=tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == before


@pytest.mark.parametrize("url", ["lab:s3cret@/x?host={}", "/x?host={}&password=s3cret"])
def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path, url):
    with pytest.raises(LedgerError) as caught:
        Ledger("postgresql+psycopg://" + url.format(tmp_path), root=tmp_path)
    assert "could not open the ledger" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_url_names_environment_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", str(tmp_path / "50% of + @ ${HOME}"))
    monkeypatch.setenv("LAB_LEDGER", "sqlite:///whole.db")
    for url in ("sqlite:///${PLACE}/a.db", "${LAB_LEDGER}"):
        with Ledger(url, root=tmp_path) as book:
            book.add(result())
    assert (tmp_path / "50% of + @ ${HOME}" / "a.db").is_file()
    assert (tmp_path / "whole.db").is_file()


def test_a_password_from_the_environment_is_never_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PW", "s3cret@/?:")
    for url in ("postgresql+psycopg://lab:${PW}@/x?host=/nowhere", "${PW}", "${PW}://"):
        with pytest.raises((LedgerError, ParameterError)) as caught:
            Ledger(url, root=tmp_path)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch, value):
    monkeypatch.delenv("PW", raising=False)
    if value is not None:
        monkeypatch.setenv("PW", value)
    with pytest.raises(ParameterError, match=r"must be set, got .*PW.*; export PW="):
        Ledger("postgresql+psycopg://lab:${PW}@/x", root=tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(LedgerError, match="the ledger needs a folder, got 'File exists'"):
        Ledger("sqlite:///reports/ledger.db", root=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ledger.db",
        "mysql://u:s3cret@host/x",
        "sqlite",
        "://",
        "postgresql+nope://u:s3cret@host/x",
        "sqlite+aiosqlite:///x.db",
    ],
)
def test_a_url_of_another_kind_is_refused_without_its_password(url, tmp_path):
    with pytest.raises(ParameterError, match="must begin with sqlite:///") as caught:
        Ledger(url, root=tmp_path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_ledger_in_memory_is_refused(url, tmp_path):
    with pytest.raises(ParameterError, match="must outlive its process"):
        Ledger(url, root=tmp_path)


def test_importing_the_records_does_not_load_the_database():
    script = "import sys, lab.trials; print('sqlalchemy' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "False"
