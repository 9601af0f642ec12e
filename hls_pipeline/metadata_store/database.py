"""The connection to SQLite or PostgreSQL, the schema, and what a transaction is here.

A foreign exception becomes one of ours here and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.errors import Conflict, LeaseLost, Outage
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.rows import Lease

MIGRATIONS = Path(__file__).parents[1] / "migrations"
_MIGRATION_LOCK = 0x686C7300
"""Any number that no other program on the same database takes."""


def migrate(database_url: str) -> None:
    """Brings the database to the newest schema; safe to call at every start, also by several at once: one does it, the
    others wait. Raises Conflict for the schema of a newer program."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with (
        _border("migrating the metadata store"),
        _engine(database_url).connect().execution_options(hls_write=True) as connection,
        connection.begin(),
    ):
        if connection.dialect.name == "postgresql":  # SQLite has its one lock from here on
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise Conflict(f"the metadata store has the schema of a newer program: {error}; run that one") from error


@functools.cache
def _newest_revision() -> str:
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


class Database:
    """What the groups of methods have in common: a pool of connections, and transactions over it."""

    def __init__(self, database_url: str) -> None:
        self._engine = _engine(database_url)

    def ping(self) -> None:
        """Raises Outage when the database does not answer, has no schema, or has one from before this program."""
        try:
            with self._read() as db:
                db.execute(sa.select(tables.video.c.video_id).limit(1))
                found = db.execute(
                    sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))
                ).scalar()
        except sa.exc.ProgrammingError as error:  # SQLite calls it an OperationalError
            raise Outage("the metadata store has no tables; `hls-pipeline setup` makes them") from error
        if str(found) < _newest_revision():
            raise Outage(f"the metadata store has schema {found}; `hls-pipeline setup` brings it to ours")

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _border("reading the metadata store"), self._engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def _write(self, lease: Lease | None = None) -> Iterator[sa.Connection]:
        with (
            _border("writing to the metadata store"),
            self._engine.connect().execution_options(hls_write=True) as db,
            db.begin(),
        ):
            if lease:
                _check_fence(db, lease)
            yield db

    # ---- for stores of their own over the same database -------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads. Raises Outage when the database does not answer."""
        with self._read() as db:
            yield db

    @contextmanager
    def writing(self, lease: Lease | None = None) -> Iterator[sa.Connection]:
        """A transaction that writes, as the holder of `lease` where there is one; nothing of it stays when the block
        raises."""
        with self._write(lease) as db:
            yield db


def _engine(database_url: str) -> sa.Engine:
    url = sa.make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later fails when another wrote in between: take the lock at once.
        write = connection.get_execution_options().get("hls_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def _border(doing: str) -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise Outage(f"{doing}: {cause}; the work goes on by itself once the database answers") from error


def _check_fence(db: sa.Connection, lease: Lease) -> None:
    rows.lock_video(db, lease.video_id)  # always the video before its lease, or two transactions wait for each other
    table = tables.video_lease
    row = db.execute(sa.select(table).filter_by(video_id=lease.video_id).with_for_update()).first()
    if row is None or row.fence != lease.fence or row.holder != lease.holder:
        raise LeaseLost(f"upload {lease.upload_id}: another run took over video {lease.video_id}; this one stops")
