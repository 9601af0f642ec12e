"""The metadata store: what is known of every video, in SQLite or PostgreSQL.

Each method is one transaction and says what is true after it. Whatever changes an upload takes a `Lease`, and the
transaction checks its fence first, so a worker that wakes up late changes nothing. Versions are only ever added; the
database itself refuses to change them. Add a method here for each new thing that must become true at once; decisions
belong in `uploads.py` and `steps.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from hls_pipeline import claims, clock, keys, tables, versions
from hls_pipeline.errors import Conflict, LeaseLost, NotFound, Outage
from hls_pipeline.uploads import IN_WORK, MOVES, Drop, State, Upload, check_move
from hls_pipeline.versions import Version as Version

_Row = TypeVar("_Row", "InventoryFile", "TempObject")

PATH = "path:"
"""Start of a lease holder's name that walks the whole path; cut off, it is started again."""

_LAUNCH_SECONDS = 30
"""How long a requested run may take to show up before it is requested again."""


@dataclass(frozen=True)
class Lease:
    """The right to work on one video for one upload, until another fence is handed out."""

    video_id: str
    upload_id: str
    holder: str
    """Kind of work and run id: `path:…`, `hand:…`, `gateway:…`."""
    fence: int

    @property
    def run_id(self) -> str:
        return self.holder.partition(":")[2] or self.holder


@dataclass(frozen=True)
class InventoryFile:
    """One published file: what it is, what IPFS calls it, where its bytes lie in S3."""

    position: int
    path: str
    role: str
    content_type: str
    size: int  # bytes, as published
    cid: str
    dag_size: int  # bytes of its DAG
    dag_blocks: int
    key: str | None  # in the media bucket
    source_key: str | None  # in the inbox

    @property
    def is_playlist(self) -> bool:
        return self.role == "playlist"


@dataclass(frozen=True)
class TempObject:
    """One S3 object that waits to be removed; `cid` is its `s3://` address."""

    cid: str
    size: int
    content_id: str | None
    etag: str | None = None
    version_id: str | None = None
    due_at: datetime | None = None


def migrate(database_url: str) -> None:
    """Brings the database to the newest schema; safe to call at every start."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _border("migrating the metadata store"), _engine(database_url).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


class MetadataStore:
    def __init__(self, database_url: str) -> None:
        self._engine = _engine(database_url)

    def ping(self) -> None:
        """Raises Outage when the database does not answer or has no schema."""
        with self._read() as db:
            db.execute(sa.select(tables.video.c.video_id).limit(1))

    # ---- arrivals ---------------------------------------------------------------------------------------------

    def receive(self, drop: Drop, now: datetime) -> Upload:
        """A frozen drop is an upload. Said twice, it stays one; an incomplete one of the video gives way."""
        with self._write() as db:
            insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[db.dialect.name](tables.video)
            db.execute(insert.values(video_id=drop.video_id, created_at=now, versions=0).on_conflict_do_nothing())
            _lock_video(db, drop.video_id)
            if found := db.execute(_uploads().where(tables.upload.c.upload_id == drop.upload_id)).first():
                return _upload(found)
            given_way = sa.select(tables.upload.c.upload_id).where(
                tables.upload.c.video_id == drop.video_id,
                tables.upload.c.state == State.RECEIVED,
                tables.upload.c.revision.is_(None),
                tables.upload.c.report.is_not(None),
            )
            for upload_id in db.execute(given_way).scalars().all():
                _move(db, upload_id, State.SUPERSEDED, now, None, error="the creator went on writing")
            db.execute(
                sa.insert(tables.upload).values(
                    upload_id=drop.upload_id,
                    video_id=drop.video_id,
                    state=State.RECEIVED,
                    drop=drop.to_json(),
                    created_at=now,
                    updated_at=now,
                    launches=0,
                    attempts=0,
                )
            )
            _note_state(db, drop.upload_id, State.RECEIVED, now, None)
            return _get_upload(db, drop.upload_id)

    def upload(self, upload_id: str) -> Upload:
        with self._read() as db:
            return _get_upload(db, upload_id)

    def latest_upload(self, video_id: str) -> Upload | None:
        """The newest arrival of a video, whatever became of it."""
        rows = _uploads().where(tables.upload.c.video_id == video_id)
        with self._read() as db:
            found = db.execute(
                rows.order_by(tables.upload.c.created_at.desc(), tables.upload.c.upload_id.desc()).limit(1)
            ).first()
        return _upload(found) if found else None

    def current_upload(self, video_id: str) -> Upload | None:
        """The upload behind the current revision."""
        query = _uploads().join(
            tables.video,
            (tables.video.c.video_id == tables.upload.c.video_id)
            & (tables.video.c.current_revision == tables.upload.c.revision),
        )
        with self._read() as db:
            found = db.execute(query.where(tables.video.c.video_id == video_id)).first()
        return _upload(found) if found else None

    def uploads_of(self, video_id: str) -> tuple[Upload, ...]:
        """All arrivals of a video, oldest first."""
        query = _uploads().where(tables.upload.c.video_id == video_id).order_by(tables.upload.c.created_at)
        with self._read() as db:
            return tuple(_upload(row) for row in db.execute(query))

    def videos(self, limit: int = 100, after: str = "") -> tuple[Upload, ...]:
        """The newest upload of each video, by video id, `limit` at a time; `after` is the last id seen."""
        newer = tables.upload.alias("newer")
        query = (
            _uploads()
            .where(
                tables.upload.c.video_id > after,
                ~sa.exists().where(
                    newer.c.video_id == tables.upload.c.video_id,
                    sa.tuple_(newer.c.created_at, newer.c.upload_id)
                    > sa.tuple_(tables.upload.c.created_at, tables.upload.c.upload_id),
                ),
            )
            .order_by(tables.upload.c.video_id)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(_upload(row) for row in db.execute(query))

    def history(self, upload_id: str) -> tuple[tuple[State, datetime, str | None], ...]:
        """(state, since, run id) of an upload, in order."""
        changes = tables.state_change
        query = sa.select(changes).where(changes.c.upload_id == upload_id).order_by(changes.c.id)
        with self._read() as db:
            return tuple((State(row.state), row.time, row.run_id) for row in db.execute(query))

    def recent_publications(self, limit: int) -> tuple[tuple[int, float], ...]:
        """(bytes, seconds from staged to published) of the newest published uploads."""
        staged, published = tables.state_change.alias(), tables.state_change.alias()
        query = (
            sa.select(tables.upload.c.size, staged.c.time.label("began"), published.c.time.label("ended"))
            .join(published, published.c.upload_id == tables.upload.c.upload_id)
            .join(staged, staged.c.upload_id == tables.upload.c.upload_id)
            .where(published.c.state == State.PUBLISHED, staged.c.state == State.STAGED)
            .order_by(published.c.id.desc())
            .limit(limit)
        )
        with self._read() as db:
            return tuple((row.size, (row.ended - row.began).total_seconds()) for row in db.execute(query))

    def bytes_in_work(self, before: Upload) -> int:
        """Bytes of staged uploads that arrived earlier and are not on IPFS yet."""
        query = sa.select(sa.func.sum(tables.upload.c.size)).where(
            tables.upload.c.state == State.STAGED, tables.upload.c.created_at < before.created_at
        )
        with self._read() as db:
            return db.execute(query).scalar() or 0

    # ---- who works on what ------------------------------------------------------------------------------------

    def request_run(self, upload_id: str, now: datetime) -> int:
        """Counts a run that is about to be asked for; the number makes its run key new. Until it shows up, or
        `_LAUNCH_SECONDS` are over, the upload is not offered again."""
        with self._write() as db:
            db.execute(
                sa.update(tables.upload)
                .where(tables.upload.c.upload_id == upload_id)
                .values(launches=tables.upload.c.launches + 1, not_before=now + timedelta(seconds=_LAUNCH_SECONDS))
            )
            return _get_upload(db, upload_id).launches

    def ready_to_run(self, now: datetime, limit: int = 50) -> tuple[Upload, ...]:
        """Uploads whose path should go on now: in work or cut off, held by nobody, and not told to wait."""
        lease = tables.video_lease
        held = sa.exists().where(
            lease.c.video_id == tables.upload.c.video_id,
            lease.c.holder.is_not(None),
            lease.c.expires_at > now,
        )
        cut_off = sa.exists().where(
            lease.c.upload_id == tables.upload.c.upload_id,
            lease.c.holder.startswith(PATH),
            lease.c.expires_at <= now,
        )
        query = (
            _uploads()
            .where(
                tables.upload.c.state.in_(IN_WORK) | ((tables.upload.c.state == State.PUBLISHED) & cut_off),
                ~held,
                tables.upload.c.not_before.is_(None) | (tables.upload.c.not_before <= now),
            )
            .order_by(tables.upload.c.created_at)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(_upload(row) for row in db.execute(query))

    def take_lease(self, upload: Upload, holder: str, now: datetime, seconds: float) -> Lease:
        """The video is ours, or LeaseLost names who has it. The same holder gets the same fence again.

        A try counts when it begins, so that one that dies without a word has counted too.
        """
        table, expires = tables.video_lease, now + timedelta(seconds=seconds)
        with self._write() as db:
            _lock_video(db, upload.video_id)  # there may be no lease yet that could be locked
            row = db.execute(sa.select(table).filter_by(video_id=upload.video_id).with_for_update()).first()
            if row and row.holder not in (None, holder) and row.expires_at > now:
                raise LeaseLost(f"video {upload.video_id}: {row.holder} is at work on it; try again when it has ended")
            goes_on = row is not None and row.holder == holder and row.upload_id == upload.upload_id
            fence = (row.fence if row else 0) + (not goes_on)
            values = {"upload_id": upload.upload_id, "holder": holder, "fence": fence, "expires_at": expires}
            if row:
                db.execute(sa.update(table).filter_by(video_id=upload.video_id).values(**values))
            else:
                db.execute(sa.insert(table).values(video_id=upload.video_id, **values))
            if not goes_on:
                _set(db, upload.upload_id, attempts=tables.upload.c.attempts + 1)
        return Lease(upload.video_id, upload.upload_id, holder, fence)

    def renew(self, lease: Lease, now: datetime, seconds: float) -> None:
        with self._write(lease) as db:
            db.execute(
                sa.update(tables.video_lease)
                .filter_by(video_id=lease.video_id)
                .values(expires_at=now + timedelta(seconds=seconds))
            )

    def release(self, lease: Lease) -> None:
        """Gives the video free. Nothing happens if another run has it by now."""
        with self._write() as db:
            db.execute(
                sa.update(tables.video_lease)
                .filter_by(video_id=lease.video_id, fence=lease.fence, holder=lease.holder)
                .values(holder=None)
            )

    def release_all(self) -> int:
        """Ends every lease and gives its try back; for a stack on one machine that starts after it was killed."""
        lease, upload = tables.video_lease, tables.upload
        held = sa.select(lease.c.upload_id).where(lease.c.holder.is_not(None))
        complete = upload.c.report.is_(None) | upload.c.revision.is_not(None)
        with self._write() as db:
            db.execute(
                sa.update(upload)
                .where(upload.c.upload_id.in_(held), upload.c.attempts > 0)
                .values(attempts=upload.c.attempts - 1)
            )
            db.execute(sa.update(upload).where(upload.c.state.in_(IN_WORK), complete).values(not_before=None))
            return db.execute(
                sa.update(lease)
                .where(lease.c.holder.is_not(None))
                .values(expires_at=clock.parse("1970-01-01T00:00:00.000Z"))
            ).rowcount

    # ---- outcomes of a try ------------------------------------------------------------------------------------

    def postpone(self, lease: Lease, error: str, until: datetime, *, uses_attempt: bool) -> None:
        """The try failed; the sensor starts the upload again at `until`."""
        with self._write(lease) as db:
            attempts = tables.upload.c.attempts - int(not uses_attempt)
            _set(db, lease.upload_id, error=error, not_before=until, attempts=attempts)

    def wait_for_files(self, lease: Lease, report: Mapping[str, Any], until: datetime) -> None:
        """A folder that nobody marked ready misses files: it may be completed until `until`."""
        with self._write(lease) as db:
            _set(db, lease.upload_id, report=dict(report), not_before=until, attempts=0)

    def fail(self, lease: Lease, error: str, now: datetime) -> None:
        """Tries are used up. `resume` takes it up again where it stopped."""
        with self._write(lease) as db:
            state = _get_upload(db, lease.upload_id).state
            _move(db, lease.upload_id, State.FAILED, now, lease.run_id, error=error, failed_in=state)

    def resume(self, upload_id: str, now: datetime) -> Upload:
        """A failed upload starts again where it failed, with all its attempts."""
        with self._write() as db:
            upload = _get_upload(db, upload_id)
            if upload.state is not State.FAILED or upload.failed_in is None:
                raise Conflict(f"upload {upload_id}: is {upload.state}; only a failed upload can be retried")
            _move(db, upload_id, upload.failed_in, now, None, attempts=0, failed_in=None)
            return _get_upload(db, upload_id)

    def reject(self, lease: Lease, report: Mapping[str, Any], now: datetime) -> None:
        with self._write(lease) as db:
            _move(db, lease.upload_id, State.REJECTED, now, lease.run_id, report=dict(report))

    def supersede(self, lease: Lease, reason: str, now: datetime) -> None:
        """Something newer took this upload's place; what it holds in S3 is due for removal."""
        with self._write(lease) as db:
            _move(db, lease.upload_id, State.SUPERSEDED, now, lease.run_id, error=reason)
            _mark_due(db, lease.upload_id, now)

    # ---- stage ------------------------------------------------------------------------------------------------

    def unchanged(self, lease: Lease, now: datetime) -> None:
        with self._write(lease) as db:
            _move(db, lease.upload_id, State.UNCHANGED, now, lease.run_id)

    def next_revision(self, video_id: str) -> int:
        with self._read() as db:
            return _next_revision(db, video_id)

    def accept(
        self,
        lease: Lease,
        *,
        revision: int,
        facts: Mapping[str, Any],
        files: Sequence[InventoryFile],
        objects: Sequence[TempObject],
        **columns: Any,
    ) -> Upload:
        """The package is accepted as `revision`; every object is on record before it is put."""
        with self._write(lease) as db:
            if _next_revision(db, lease.video_id) != revision:
                raise Conflict(f"upload {lease.upload_id}: revision {revision} is taken")
            _set(db, lease.upload_id, revision=revision, facts=dict(facts), **columns)
            db.execute(
                sa.insert(tables.inventory),
                [{"upload_id": lease.upload_id, **_values(item)} for item in files],
            )
            _add_objects(db, lease.upload_id, objects)
            return _get_upload(db, lease.upload_id)

    def expect_objects(self, lease: Lease, objects: Sequence[TempObject]) -> None:
        """More objects are about to be put."""
        with self._write(lease) as db:
            _add_objects(db, lease.upload_id, objects)

    def objects_put(self, lease: Lease, objects: Iterable[TempObject]) -> None:
        """ETag and version id of objects that are now there."""
        with self._write(lease) as db:
            for item in objects:
                db.execute(
                    sa.update(tables.temp_storage)
                    .filter_by(cid=item.cid)
                    .values(etag=item.etag, version_id=item.version_id)
                )

    def take_back(self, lease: Lease) -> None:
        """An acceptance that could not be carried out: the revision number is free again."""
        with self._write(lease) as db:
            for table in (tables.inventory, tables.temp_storage):
                db.execute(sa.delete(table).where(table.c.upload_id == lease.upload_id))
            _set(db, lease.upload_id, revision=None)

    def inventory(self, upload_id: str) -> tuple[InventoryFile, ...]:
        """The published files in the order of the playlists: playlists and media, as the creator's player meets
        them."""
        table = tables.inventory
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.position)
        with self._read() as db:
            return tuple(_build(InventoryFile, row) for row in db.execute(query))

    def staged(self, lease: Lease, document: Mapping[str, Any], **about: Any) -> Version:
        """The temporary document is a version, and the current one unless a ready revision is shown."""
        with self._write(lease) as db:
            revision = _get_upload(db, lease.upload_id).revision
            assert revision is not None
            shown = _get_video(db, lease.video_id).current_revision is None
            version = versions.add(db, lease.video_id, revision, document, shown=shown, **about)
            _move(db, lease.upload_id, State.STAGED, version.time, lease.run_id, error=None)
            return version

    # ---- publish ----------------------------------------------------------------------------------------------

    def claim(self, lease: Lease, root: str) -> None:
        """This upload needs `root`; said before looking for the pin, so that nobody unpins it meanwhile. Raises Outage
        while somebody does."""
        with self._write(lease) as db:
            claims.add(db, root, lease.upload_id, clock.now())

    def add_receipts(self, lease: Lease, kind: str, contents: Iterable[Mapping[str, Any]], now: datetime) -> None:
        with self._write(lease) as db:
            _add_receipts(db, lease, kind, contents, now)

    def receipts(self, upload_id: str, kind: str | None = None) -> tuple[dict[str, Any], ...]:
        """Receipts of an upload, oldest first."""
        table = tables.receipt
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.id)
        if kind:
            query = query.where(table.c.kind == kind)
        with self._read() as db:
            return tuple({**row.content, "kind": row.kind, "time": clock.text(row.time)} for row in db.execute(query))

    def pinned(self, lease: Lease, receipts: Iterable[Mapping[str, Any]], now: datetime) -> None:
        with self._write(lease) as db:
            _add_receipts(db, lease, "proof", receipts, now)
            if _get_upload(db, lease.upload_id).state is State.STAGED:
                _move(db, lease.upload_id, State.PINNED, now, lease.run_id, error=None)

    def record_published(
        self, lease: Lease, record: str, manifest: str, receipts: Iterable[Mapping[str, Any]], now: datetime
    ) -> None:
        """The record directory is proven; `manifest` is the `ipfs://` root playlist in it."""
        with self._write(lease) as db:
            _set(db, lease.upload_id, record=record, manifest=manifest)
            _add_receipts(db, lease, "proof", receipts, now)

    # ---- finalize and clean-up --------------------------------------------------------------------------------

    def finalize(self, lease: Lease, document: Mapping[str, Any], due_at: datetime, **about: Any) -> Version:
        """One transaction: the final document is a version, the upload is published, its S3 objects are due at
        `due_at`; it is current unless a higher revision is. Revisions it overtook are superseded. Said again, nothing
        changes."""
        with self._write(lease) as db:
            upload = _get_upload(db, lease.upload_id)
            assert upload.revision is not None
            if upload.state in (State.PUBLISHED, State.CLEARED):
                done = versions.newest_of_revision(db, lease.video_id, upload.revision)
                assert done is not None
                return done
            shown = upload.revision >= (_get_video(db, lease.video_id).current_revision or 0)
            version = versions.add(db, lease.video_id, upload.revision, document, shown=shown, **about)
            _move(db, lease.upload_id, State.PUBLISHED, version.time, lease.run_id, error=None, attempts=0)
            if shown:
                _set_video(db, lease.video_id, current_revision=upload.revision)
            _mark_due(db, lease.upload_id, due_at)
            for upload_id in _overtaken(db, upload):
                _move(db, upload_id, State.SUPERSEDED, version.time, lease.run_id, error="a newer revision is ready")
                _mark_due(db, upload_id, version.time)
            return version

    def newest_ready_revision(self, video_id: str) -> int:
        """0 when no revision was ever ready."""
        with self._read() as db:
            return _get_video(db, video_id).current_revision or 0

    def due(self, now: datetime, limit: int = 50) -> tuple[Upload, ...]:
        """Uploads with S3 objects that are due for removal, held by nobody."""
        lease = tables.video_lease
        held = sa.exists().where(
            lease.c.video_id == tables.upload.c.video_id,
            lease.c.holder.is_not(None),
            lease.c.expires_at > now,
        )
        is_due = sa.select(tables.temp_storage.c.upload_id).where(tables.temp_storage.c.due_at <= now)
        query = (
            _uploads()
            .where(
                tables.upload.c.upload_id.in_(is_due),
                ~held,
                tables.upload.c.not_before.is_(None) | (tables.upload.c.not_before <= now),
            )
            .order_by(tables.upload.c.updated_at)
            .limit(limit)
        )
        with self._read() as db:
            return tuple(_upload(row) for row in db.execute(query))

    def temp_objects(self, upload_id: str) -> tuple[TempObject, ...]:
        table = tables.temp_storage
        query = sa.select(table).where(table.c.upload_id == upload_id).order_by(table.c.cid)
        with self._read() as db:
            return tuple(_build(TempObject, row) for row in db.execute(query))

    def objects_removed(self, lease: Lease, cids: Sequence[str], receipt: Mapping[str, Any], now: datetime) -> None:
        """The objects are gone: their rows go too, and the receipt stays. A published upload of which nothing is due
        any more is cleared: without a due row nobody would look at it again."""
        with self._write(lease) as db:
            _add_receipts(db, lease, "deletion", [receipt], now)
            _forget_objects(db, cids)
            _clear_if_done(db, lease, now)

    def objects_stay(self, lease: Lease, cids: Iterable[str], until: datetime | None, now: datetime) -> None:
        """The objects are not to be removed before `until`; None: not until somebody says so. As above, the upload may
        be cleared with that."""
        with self._write(lease) as db:
            for cid in cids:
                db.execute(sa.update(tables.temp_storage).filter_by(cid=cid).values(due_at=until))
            _clear_if_done(db, lease, now)

    def objects_due(self, lease: Lease, now: datetime) -> None:
        """Everything the upload has in S3 is due for removal."""
        with self._write(lease) as db:
            _mark_due(db, lease.upload_id, now)

    # ---- withdraw ---------------------------------------------------------------------------------------------

    def withdraw(
        self, video_id: str, document: Callable[[int], Mapping[str, Any]], media: str, **about: Any
    ) -> tuple[Version, tuple[Upload, ...]]:
        """One transaction: `document(revision)` is the current version, no arrival of the video goes any further, and
        what they have in the bucket `media` or in the inbox is due for removal. Whoever holds the video loses it.
        Answers that version and the uploads of which something is left; said again, only what is left changes.

        Raises NotFound for an unknown video, Conflict when none of its packages was ever accepted.
        """
        with self._write() as db:
            _lock_video(db, video_id)
            current = versions.get(db, video_id, _get_video(db, video_id).current_version)
            arrivals = _uploads().where(tables.upload.c.video_id == video_id).order_by(tables.upload.c.created_at)
            found = [_upload(row) for row in db.execute(arrivals)]
            going = [upload for upload in found if State.WITHDRAWN in MOVES[upload.state]]
            if going:
                revision = current.revision if current else 0
                current = versions.add(db, video_id, revision, document(revision), shown=True, **about)
                _set_video(db, video_id, current_revision=None, mirrored_version=current.n)
                _take_away_lease(db, video_id)
                for upload in going:
                    _add_left_over(db, upload, media)
                    _mark_due(db, upload.upload_id, current.time)
                    _move(db, upload.upload_id, State.WITHDRAWN, current.time, about["run_id"], error=None)
            elif current is None or all(upload.state is not State.WITHDRAWN for upload in found):
                raise Conflict(f"video {video_id}: no package of it was ever accepted, so there is nothing to withdraw")
            left = sa.select(tables.temp_storage.c.upload_id).where(tables.temp_storage.c.due_at.is_not(None))
            unfinished = arrivals.where(tables.upload.c.state == State.WITHDRAWN, tables.upload.c.upload_id.in_(left))
            return current, tuple(_upload(row) for row in db.execute(unfinished))

    def sweep_again(self, upload_id: str, media: str, now: datetime) -> None:
        """A run lost the video in the middle of something. If that was because it was withdrawn, what the run did
        since then is removed too."""
        with self._write() as db:
            upload = _get_upload(db, upload_id)
            if upload.state is not State.WITHDRAWN:
                return
            _add_left_over(db, upload, media)
            _mark_due(db, upload_id, now)
            for root in filter(None, (upload.root, upload.record)):
                claims.owe(db, root, upload_id)

    def claims(self, upload_id: str) -> tuple[str, ...]:
        """The roots that an upload still claims."""
        with self._read() as db:
            return claims.of(db, upload_id)

    def release_claim(self, lease: Lease, root: str) -> bool:
        """Whether `root` is to be unpinned, since nobody else needs it; say then `unpinned` or `still_claimed`."""
        with self._write(lease) as db:
            return claims.release(db, root, lease.upload_id, clock.now())

    def still_claimed(self, lease: Lease, root: str) -> None:
        """It could not be unpinned everywhere."""
        with self._write(lease) as db:
            claims.keep(db, root, lease.upload_id)

    def unpinned(self, lease: Lease, root: str) -> None:
        with self._write(lease) as db:
            claims.remove(db, root, lease.upload_id)

    # ---- documents --------------------------------------------------------------------------------------------

    def versions(self, video_id: str) -> tuple[Version, ...]:
        """All versions of a video, oldest first. Raises NotFound for an unknown video."""
        with self._read() as db:
            _get_video(db, video_id)
            return versions.of(db, video_id)

    def current(self, video_id: str) -> Version | None:
        """The version readers get, None before the first. Raises NotFound for an unknown video."""
        with self._read() as db:
            return versions.get(db, video_id, _get_video(db, video_id).current_version)

    def as_of(self, video_id: str, moment: datetime) -> Version:
        """The version readers got at `moment`. Raises NotFound for an unknown video, or before its first document."""
        with self._read() as db:
            _get_video(db, video_id)
            found = versions.as_of(db, video_id, moment)
        if found is None:
            raise NotFound(f"video {video_id}: had no document at {clock.text(moment)}")
        return found

    def unmirrored(self, video_id: str) -> Version | None:
        """The current version, if S3 does not have it yet."""
        current = self.current(video_id)
        with self._read() as db:
            mirrored = _get_video(db, video_id).mirrored_version
        return current if current and current.n != mirrored else None

    def mirrored(self, version: Version) -> None:
        with self._write() as db:
            _set_video(db, version.video_id, mirrored_version=version.n)

    # ---- plumbing ---------------------------------------------------------------------------------------------

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

    # ---- for stores of their own over the same database ---------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that reads. Raises Outage when the database does not answer."""
        with self._read() as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; nothing of it stays when the block raises."""
        with self._write() as db:
            yield db


@functools.cache
def connect(database_url: str) -> MetadataStore:
    """One store, with its connection pool, per process and database."""
    return MetadataStore(database_url)


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


def _uploads() -> sa.Select[Any]:
    return sa.select(tables.upload)


def _upload(row: sa.Row[Any]) -> Upload:
    values = {field.name: getattr(row, field.name) for field in fields(Upload) if field.name != "drop"}
    values["state"] = State(values["state"])
    values["failed_in"] = values["failed_in"] and State(values["failed_in"])
    return Upload(**values, drop=Drop.from_json(row.drop))


def _build(kind: type[_Row], row: sa.Row[Any]) -> _Row:
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


def _values(item: Any) -> dict[str, Any]:
    return {field.name: getattr(item, field.name) for field in fields(item)}


def _get_upload(db: sa.Connection, upload_id: str) -> Upload:
    row = db.execute(_uploads().where(tables.upload.c.upload_id == upload_id)).first()
    if row is None:
        raise NotFound(f"upload {upload_id}: not known here")
    return _upload(row)


def _get_video(db: sa.Connection, video_id: str) -> sa.Row[Any]:
    row = db.execute(sa.select(tables.video).filter_by(video_id=video_id)).first()
    if row is None:
        raise NotFound(f"video {video_id}: not known here; `hls-pipeline list` shows what is")
    return row


def _lock_video(db: sa.Connection, video_id: str) -> None:
    db.execute(sa.select(tables.video.c.video_id).filter_by(video_id=video_id).with_for_update())


def _set(db: sa.Connection, upload_id: str, **values: Any) -> None:
    values.setdefault("updated_at", clock.now())
    db.execute(sa.update(tables.upload).filter_by(upload_id=upload_id).values(**values))


def _set_video(db: sa.Connection, video_id: str, **values: Any) -> None:
    db.execute(sa.update(tables.video).filter_by(video_id=video_id).values(**values))


def _move(db: sa.Connection, upload_id: str, state: State, now: datetime, run_id: str | None, **values: Any) -> None:
    check_move(upload_id, _get_upload(db, upload_id).state, state)
    values.setdefault("not_before", None)
    _set(db, upload_id, state=state, updated_at=now, **values)
    _note_state(db, upload_id, state, now, run_id)


def _note_state(db: sa.Connection, upload_id: str, state: State, now: datetime, run_id: str | None) -> None:
    values = {"upload_id": upload_id, "state": state, "time": now, "run_id": run_id}
    db.execute(sa.insert(tables.state_change).values(**values))


def _next_revision(db: sa.Connection, video_id: str) -> int:
    newest = sa.select(sa.func.max(tables.upload.c.revision)).where(tables.upload.c.video_id == video_id)
    return (db.execute(newest).scalar() or 0) + 1


def _add_objects(db: sa.Connection, upload_id: str, objects: Sequence[TempObject]) -> None:
    known = set(db.execute(sa.select(tables.temp_storage.c.cid).filter_by(upload_id=upload_id)).scalars())
    new = {item.cid: {"upload_id": upload_id, **_values(item)} for item in objects if item.cid not in known}
    if new:
        db.execute(sa.insert(tables.temp_storage), list(new.values()))


def _forget_objects(db: sa.Connection, cids: Sequence[str]) -> None:
    if cids:
        gone = tables.temp_storage.c.cid == sa.bindparam("gone")
        db.execute(sa.delete(tables.temp_storage).where(gone), [{"gone": cid} for cid in cids])


def _clear_if_done(db: sa.Connection, lease: Lease, now: datetime) -> None:
    due = sa.select(tables.temp_storage.c.cid).where(
        tables.temp_storage.c.upload_id == lease.upload_id, tables.temp_storage.c.due_at <= now
    )
    if _get_upload(db, lease.upload_id).state is State.PUBLISHED and not db.execute(due.limit(1)).first():
        _move(db, lease.upload_id, State.CLEARED, now, lease.run_id, error=None)


def _mark_due(db: sa.Connection, upload_id: str, due_at: datetime) -> None:
    db.execute(sa.update(tables.temp_storage).filter_by(upload_id=upload_id).values(due_at=due_at))


def _add_receipts(
    db: sa.Connection, lease: Lease, kind: str, contents: Iterable[Mapping[str, Any]], now: datetime
) -> None:
    for content in contents:
        values = {"upload_id": lease.upload_id, "kind": kind, "time": now, "run_id": lease.run_id}
        db.execute(sa.insert(tables.receipt).values(content=dict(content), **values))


def _overtaken(db: sa.Connection, ready: Upload) -> Sequence[str]:
    """Lower revisions of the video that are still on their way, or failed on it."""
    query = sa.select(tables.upload.c.upload_id).where(
        tables.upload.c.video_id == ready.video_id,
        tables.upload.c.revision < ready.revision,
        tables.upload.c.state.in_({*IN_WORK, State.FAILED}),
    )
    return db.execute(query).scalars().all()


def _add_left_over(db: sa.Connection, upload: Upload, media: str) -> None:
    """Rows for what a withdrawn upload may have in S3 without one: its drop in the inbox, and the folder of its
    revision, which stands for everything in it and leaves last."""
    left = []
    if State.RECEIVED in (upload.state, upload.failed_in):
        bucket = upload.drop.bucket
        left = [TempObject(keys.s3_uri(bucket, item.key), item.size, None, item.etag) for item in upload.drop.objects]
        _forget_objects(db, [item.cid for item in left])  # of an older drop into the same folder
    if upload.revision is not None:
        left.append(TempObject(keys.s3_uri(media, keys.revision(upload.video_id, upload.revision)), 0, None))
    _add_objects(db, upload.upload_id, left)


def _take_away_lease(db: sa.Connection, video_id: str) -> None:
    lease = tables.video_lease
    db.execute(sa.update(lease).filter_by(video_id=video_id).values(fence=lease.c.fence + 1, holder=None))


def _check_fence(db: sa.Connection, lease: Lease) -> None:
    _lock_video(db, lease.video_id)  # always the video before its lease, or two transactions wait for each other
    table = tables.video_lease
    row = db.execute(sa.select(table).filter_by(video_id=lease.video_id).with_for_update()).first()
    if row is None or row.fence != lease.fence or row.holder != lease.holder:
        raise LeaseLost(f"upload {lease.upload_id}: another run took over video {lease.video_id}; this one stops")
