"""The ledger: every result that ever came back, once, in SQLite or PostgreSQL.

Owns the tables, their version, and what it means that a result is safe: it is committed, and synced
to the disk, before anybody is told. Knows nothing of how results are measured or what they mean.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from lab.errors import LedgerError, ParameterError, message
from lab.trials import TrialResult

_TABLES = sql.MetaData()
_VERSION = sql.Table(
    "lab_schema", _TABLES, sql.Column("version", sql.Integer, primary_key=True, autoincrement=False)
)
_RESULTS = sql.Table(
    "results",
    _TABLES,
    sql.Column("key", sql.String(71), primary_key=True),
    sql.Column("tenant", sql.String(64)),
    sql.Column("status", sql.String(16)),
    sql.Column("finished", sql.String(32)),
    sql.Column("result", sql.LargeBinary),
)
_INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
_BUSY_MS = 60_000  # another writer is waited for so long
_ASKED_TOGETHER = 500  # keys; databases bound the length of a statement
_HELD = 50  # results that are in memory at a time when all are read
_LOCK = 7_283_001  # any number that no other program's advisory lock has
_REFERENCE = re.compile(r"\$\{(\w+)\}")


def _first(connection: Connection) -> None:
    # As it was in this version, not as `_RESULTS` is today.
    table = sql.Table(
        "results",
        sql.MetaData(),
        sql.Column("key", sql.String(71), primary_key=True),
        sql.Column("tenant", sql.String(64), nullable=False, index=True),
        sql.Column("status", sql.String(16), nullable=False),
        sql.Column("finished", sql.String(32), nullable=False),
        sql.Column("result", sql.LargeBinary, nullable=False),
    )
    table.create(connection)


# The n-th step brings the tables of version n to version n + 1; none is ever changed.
_STEPS: tuple[Callable[[Connection], None], ...] = (_first,)


class Ledger:
    """An open ledger; use it as a context manager.

    Several processes may have the same one open, and may write to it at the same time.
    """

    def __init__(self, url: str, *, root: Path) -> None:
        """Open a ledger, and make or upgrade its tables if need be.

        Args:
            url: as SQLAlchemy writes it: ``sqlite:///reports/ledger.db``,
                ``postgresql+psycopg://user:${NAME}@host/name``, where ``${NAME}`` stands for an
                environment variable, or for the whole URL if there is nothing else.
            root: project folder, which the path of a SQLite file is relative to.
        Raises: ParameterError if the URL is of neither kind or names a variable that is not set,
            LedgerError if the ledger cannot be opened or was written by a newer lab.
        """
        place = _parsed(url, root)
        # What follows a question mark may hold a password as well.
        self._place = place.set(query={}).render_as_string(hide_password=True)
        try:
            self._engine = _engine(place)
        except ImportError as error:  # the driver of a URL
            raise LedgerError(
                message(
                    "the ledger's database needs its driver",
                    got=place.drivername,
                    remedy="install tuning-lab[postgres]",
                )
            ) from error
        try:
            with self._told("open the ledger"):
                self._upgrade()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database; what was added stays."""
        self._engine.dispose()

    def add(self, result: TrialResult) -> bool:
        """Put a result in; return False if one of this key was there, which stays as it is.

        Raises: LedgerError if it could not be kept; the ledger is then as it was.
        """
        row = {
            "key": result.key,
            "tenant": result.trial.tenant,
            "status": result.status,
            "finished": result.finished,
            "result": result.pack(),
        }
        insert = _INSERTS[self._engine.dialect.name]
        with self._told("keep a result"), self._writing() as connection:
            once = insert(_RESULTS).values(row).on_conflict_do_nothing().returning(_RESULTS.c.key)
            return connection.execute(once).first() is not None

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return those keys that have no result, each once, in their order."""
        wanted = list(dict.fromkeys(keys))
        known: set[str] = set()
        with self._told("read the ledger"), self._engine.connect() as connection:
            for some in _parts(wanted):
                found = connection.execute(
                    sql.select(_RESULTS.c.key).where(_RESULTS.c.key.in_(some))
                )
                known.update(found.scalars())
        return [one for one in wanted if one not in known]

    def find(self, keys: Iterable[str], *, tenant: str) -> dict[str, TrialResult]:
        """Return a tenant's results by key; keys that are unknown, or another tenant's, are not in.

        Raises: LedgerError if it cannot be read.
        """
        found: dict[str, TrialResult] = {}
        with self._told("read the ledger"), self._engine.connect() as connection:
            for some in _parts(list(dict.fromkeys(keys))):
                chosen = _RESULTS.c.key.in_(some) & (_RESULTS.c.tenant == tenant)
                rows = connection.execute(
                    sql.select(_RESULTS.c.key, _RESULTS.c.result).where(chosen)
                )
                found |= {name: self._unpacked(name, packed) for name, packed in rows}
        return found

    def of_tenant(self, tenant: str) -> list[TrialResult]:
        """Return all the results of a tenant, in the order in which they were finished."""
        return list(self.results(tenant))

    def results(self, tenant: str | None = None) -> Iterator[TrialResult]:
        """Give a tenant's results, or all, one at a time, in the order they were finished.

        Raises: LedgerError if one cannot be read.
        """
        wanted = sql.select(_RESULTS.c.key, _RESULTS.c.result)
        if tenant is not None:
            wanted = wanted.where(_RESULTS.c.tenant == tenant)
        wanted = wanted.order_by(_RESULTS.c.finished, _RESULTS.c.key)
        with (
            self._told("read the ledger"),
            self._engine.connect().execution_options(yield_per=_HELD) as connection,
            connection.execute(wanted) as rows,
        ):
            for name, packed in rows:
                yield self._unpacked(name, packed)

    def counts(self) -> Mapping[str, int]:
        """Return how many results each tenant has."""
        with self._told("read the ledger"), self._engine.connect() as connection:
            rows = connection.execute(
                sql.select(_RESULTS.c.tenant, sql.func.count()).group_by(_RESULTS.c.tenant)
            )
            return {tenant: count for tenant, count in rows}

    def statuses(self) -> Mapping[str, Mapping[str, int]]:
        """Return how many results each tenant has of each status; both in alphabetical order."""
        columns = (_RESULTS.c.tenant, _RESULTS.c.status)
        found: dict[str, dict[str, int]] = {}
        with self._told("read the ledger"), self._engine.connect() as connection:
            rows = connection.execute(sql.select(*columns, sql.func.count()).group_by(*columns))
            for tenant, status, count in sorted(rows):
                found.setdefault(tenant, {})[status] = count
        return found

    def _unpacked(self, name: str, packed: bytes) -> TrialResult:
        try:
            return TrialResult.unpack(packed)
        except (ParameterError, TypeError) as error:  # TypeError: fields that are not known here
            raise LedgerError(f"result {name} of {self._place} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Give a connection that nobody else writes beside until its work is committed."""
        connection = self._engine.connect().execution_options(lab_writes=True)
        with connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the database says into one message, without the URL's password."""
        try:
            yield
        except DBAPIError as error:
            said = str(error.orig).strip().splitlines()
            raise LedgerError(
                message(
                    f"could not {what}",
                    got=said[0] if said else type(error.orig).__name__,
                    place=self._place,
                    remedy="see whether the database is there, whole, and has room",
                )
            ) from error

    def _upgrade(self) -> None:
        with self._engine.connect() as connection:
            if self._version(connection) == len(_STEPS):
                return  # without waiting for who is writing
        with self._writing() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
            version = self._version(connection)
            _VERSION.create(connection, checkfirst=True)
            for step in _STEPS[version:]:
                step(connection)
            connection.execute(sql.delete(_VERSION))
            connection.execute(sql.insert(_VERSION).values(version=len(_STEPS)))

    def _version(self, connection: Connection) -> int:
        """Return the version of the tables, 0 if there are none yet."""
        if not sql.inspect(connection).has_table(_VERSION.name):
            return 0
        version = connection.execute(sql.select(_VERSION.c.version)).scalar() or 0
        if version > len(_STEPS):
            raise LedgerError(
                message(
                    f"the ledger must be of version {len(_STEPS)} or older",
                    got=version,
                    place=self._place,
                    remedy="use the lab that wrote it, or a newer one",
                )
            )
        return version


def _parsed(url: str, root: Path) -> URL:
    """Return a URL of a kind that is known, its SQLite file in the project; make its folder."""
    filled = _filled(url)
    try:
        place = make_url(filled)
        known = place.drivername in _DRIVERS
    except (ArgumentError, ValueError):
        known = False
    if not known:
        # The URL itself may hold a password.
        raise ParameterError(
            message(
                "the ledger's url must begin with sqlite:/// or postgresql+psycopg://",
                got=url.partition(":")[0],
                place="ledger",
            )
        )
    if place.get_backend_name() == "sqlite":
        if not place.database or place.database == ":memory:":
            raise ParameterError(
                message(
                    "the ledger must outlive its process",
                    got=url,
                    place="ledger",
                    remedy="name a file: sqlite:///reports/ledger.db",
                )
            )
        file = root / place.database
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                message("the ledger needs a folder", got=error.strerror, place=str(file.parent))
            ) from error
        place = place.set(database=str(file))
    return place


def _filled(url: str) -> str:
    """Return a URL with the environment variables that it names in their places."""

    def value(found: re.Match[str]) -> str:
        given = os.environ.get(found[1])
        if not given:
            raise ParameterError(
                message(
                    "the ledger's url names an environment variable that must be set",
                    got=f"none of the name {found[1]}",
                    place="ledger",
                    remedy=f"export {found[1]}=...",
                )
            )
        # A password may hold what has a meaning in a URL.
        return given if found[0] == url else quote(given, safe="")

    return _REFERENCE.sub(value, url)


def _engine(place: URL) -> Engine:
    engine = sql.create_engine(place, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # else sqlite3 begins and commits as it sees fit
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    connection.execute("PRAGMA synchronous=FULL")
    deadline = time.monotonic() + _BUSY_MS / 1000
    while True:
        # Two that turn a new file to WAL at a time are told "locked" at once, whatever the timeout.
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and then writes is refused, not queued, if another wrote
    # in between; one that says so at once waits for its turn.
    writes = connection.get_execution_options().get("lab_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(keys), _ASKED_TOGETHER):
        yield keys[first : first + _ASKED_TOGETHER]
