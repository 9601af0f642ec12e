"""What made tries fail, counted by error code, and what to do about each code.

`note` keeps one row per upload, state and code, so an outage that lasts all night stays one row. Alerts, reports and
`docs/reference/errors.md` read `ADVICE`; a new error class needs its line there. What becomes of the upload is decided
in `work.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import tables
from hls_pipeline.errors import PipelineError
from hls_pipeline.metadata_store import MetadataStore, rows
from hls_pipeline.uploads import Upload

UNEXPECTED = "unexpected"
"""The code of an exception that is none of ours: a mistake in the program."""


@dataclass(frozen=True)
class Advice:
    meaning: str
    action: str


ADVICE = {
    "error": Advice("Something went wrong that has no class of its own.", "Read the message; it names the next step."),
    "bad_request": Advice("The request cannot be carried out as it is.", "Correct the request as the message says."),
    "package_refused": Advice(
        "The package breaks rules.", "Correct the files that the report names and send the package again."
    ),
    "not_found": Advice("There is no such video, upload or version.", "`hls-pipeline list` shows what there is."),
    "conflict": Advice("The request contradicts what is already so.", "Look at `hls-pipeline status ID` first."),
    "usage": Advice("Arguments or settings are wrong.", "Correct the setting or argument that the message names."),
    "service_error": Advice("A service did not do its part.", "Run `hls-pipeline doctor`; look at the service's log."),
    "service_unavailable": Advice(
        "A service cannot be reached, or says that it is busy.",
        "Nothing, if it is short: work goes on by itself. Otherwise `hls-pipeline doctor` says which service it is.",
    ),
    "service_refused": Advice(
        "A service answered, and its answer will stay no.",
        "Check keys and permissions (`hls-pipeline doctor`), then `hls-pipeline retry ID`.",
    ),
    "proof_missing": Advice(
        "Fewer IPFS nodes than the quorum could prove that they hold the content.",
        "Bring the nodes back (`hls-pipeline doctor`), then `hls-pipeline retry ID`.",
    ),
    "object_missing": Advice(
        "An S3 object that should be there is not.",
        "Find out who deletes from the media bucket; then send the package again.",
    ),
    "object_changed": Advice(
        "An S3 object is not the one that was staged.",
        "Find out who writes to the media bucket; nothing was deleted. Then send the package again.",
    ),
    "drop_changed": Advice(
        "The creator wrote to the folder after it was taken up.", "Nothing: the folder is taken up again once it rests."
    ),
    "lease_lost": Advice("Another run has the video now.", "Nothing: the other run goes on."),
    "corruption": Advice(
        "Two things that must be equal are not.",
        "Somebody must look: compare the files the message names with the creator's; nothing was deleted.",
    ),
    UNEXPECTED: Advice(
        "An exception that the program did not foresee.", "Look at the run's log, and report it with that log."
    ),
}
HOPELESS = frozenset({"object_missing", "object_changed", "corruption"})
"""Codes of what no other try mends: somebody must look, or send the package again."""


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, PipelineError) else UNEXPECTED


def advice(code: str) -> Advice:
    return ADVICE.get(code, ADVICE["error"])


def note(store: MetadataStore, upload: Upload, code: str, message: str, now: datetime) -> None:
    """A try of `upload` failed in the state it is in."""
    table = tables.failure
    key = {"upload_id": upload.upload_id, "state": upload.state, "code": code}
    newest = {"last_at": now, "message": message}
    with store.writing() as db:
        again = {"count": table.c.count + 1, **newest}
        rows.insert_or_update(db, table, key, {"count": 1, "first_at": now, **newest}, again)


def last_code(store: MetadataStore, upload_id: str) -> str:
    """Of the newest failure of an upload; `error` where none is on record."""
    table = tables.failure
    query = sa.select(table.c.code).where(table.c.upload_id == upload_id).order_by(table.c.last_at.desc()).limit(1)
    with store.reading() as db:
        return db.execute(query).scalar() or "error"


@dataclass(frozen=True)
class Count:
    code: str
    uploads: int
    tries: int
    last_at: datetime
    example: str


def by_code(store: MetadataStore, since: datetime) -> Iterator[Count]:
    """What made tries fail since then, the most frequent first."""
    table = tables.failure
    newest = sa.func.max(table.c.last_at)
    query = (
        sa.select(
            table.c.code,
            sa.func.count(sa.distinct(table.c.upload_id)).label("uploads"),
            sa.func.sum(table.c.count).label("tries"),
            sa.type_coerce(newest, table.c.last_at.type).label("last_at"),
            sa.func.max(table.c.message).label("example"),
        )
        .where(table.c.last_at >= since)
        .group_by(table.c.code)
        .order_by(sa.func.sum(table.c.count).desc(), table.c.code)
    )
    with store.reading() as db:
        for row in db.execute(query):
            yield Count(row.code, row.uploads, int(row.tries), row.last_at, row.example)
