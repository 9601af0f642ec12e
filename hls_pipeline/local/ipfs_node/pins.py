"""Which DAGs must stay: pins in a small SQLite database (WAL, every commit synced).

A pin is written only after its DAG was walked, in one statement that also replaces the name of an older pin: there is
no moment at which a pin that stood before is gone. The order of walking and writing, and what garbage collection may
take, is described in `blocks`. Kubo keeps its pins in the datastore; only what it answers is imitated.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hls_pipeline.errors import ServiceError, UserError
from hls_pipeline.ipfs.cid import Cid

Mode = Literal["recursive", "direct"]
LONGEST_NAME = 255
"""Bytes, as in Kubo."""


@dataclass(frozen=True, slots=True)
class Pin:
    cid: Cid
    mode: Mode
    name: str


class Pins:
    def __init__(self, repo: Path) -> None:
        """Open or create the pins of a repository. ServiceError if the database is unusable."""
        self._lock = threading.Lock()
        with _as_ours("opened"):
            self._database = sqlite3.connect(repo / "pins.sqlite", isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS pin (cid BLOB PRIMARY KEY, mode TEXT NOT NULL, name TEXT NOT NULL) STRICT"
            )

    def close(self) -> None:
        self._database.close()

    def get(self, cid: Cid) -> Pin | None:
        with self._lock, _as_ours("read"):
            row = self._database.execute("SELECT cid, mode, name FROM pin WHERE cid = ?", (bytes(cid),)).fetchone()
        return row and _pin(row)

    def all(self) -> list[Pin]:
        with self._lock, _as_ours("read"):
            rows = self._database.execute("SELECT cid, mode, name FROM pin ORDER BY cid").fetchall()
        return [_pin(row) for row in rows]

    def put(self, pin: Pin, instead_of: Cid | None = None) -> None:
        """Add a pin or replace the one on the same content id; the pin of `instead_of` goes in the same transaction."""
        with self._lock, _as_ours("written"), self._transaction():
            self._database.execute("REPLACE INTO pin VALUES (?, ?, ?)", (bytes(pin.cid), pin.mode, pin.name))
            if instead_of is not None:
                self._database.execute("DELETE FROM pin WHERE cid = ?", (bytes(instead_of),))

    def remove(self, cid: Cid) -> None:
        with self._lock, _as_ours("written"):
            self._database.execute("DELETE FROM pin WHERE cid = ?", (bytes(cid),))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def checked_name(name: str) -> str:
    """A pin's name. UserError if it is too long."""
    length = len(name.encode())
    if length > LONGEST_NAME:
        raise UserError(f"pin name is {length} bytes (max {LONGEST_NAME} bytes)")
    return name


def _pin(row: tuple[bytes, Mode, str]) -> Pin:
    return Pin(Cid.from_bytes(row[0]), row[1], row[2])


@contextmanager
def _as_ours(done: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ServiceError(f"the pins could not be {done}: {error}") from error
