"""What the gateway keeps in the metadata store beside the videos: keys, idempotency, open presigned uploads.

Each method is one transaction, as in `metadata_store/`. Webhooks have `webhook_records.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from hls_pipeline import keys, tables
from hls_pipeline.errors import NotFound
from hls_pipeline.metadata_store import InventoryFile, MetadataStore, rows
from hls_pipeline.uploads import IN_WORK, READY, State


@dataclass(frozen=True)
class ApiKey:
    key_id: str
    name: str
    secret_sha256: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    session_of: str | None
    last_used_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


_WERE_PUBLISHED = READY | {State.WITHDRAWN}


@dataclass(frozen=True)
class Playable:
    """Where a revision of a video has a file."""

    upload_id: str
    state: State
    revision: int
    root: str
    file: InventoryFile
    as_stored: bool
    """Whether S3 holds it as it is published; playlists may have been repaired."""


@dataclass(frozen=True)
class Shown:
    """What readers of a video get: the newest arrival's state, and the current document, if there is one yet."""

    state: State
    upload_revision: int | None
    report: dict[str, Any] | None
    document: str | None
    document_sha256: str | None
    revision: int | None


@dataclass(frozen=True)
class PresignedFile:
    """A file that its sender puts to S3 itself; `parts_id` is the S3 upload of one that goes up in parts."""

    path: str
    size: int
    parts_id: str | None = None


@dataclass(frozen=True)
class Presigned:
    """An upload that is sent straight to S3."""

    id: str
    key_id: str
    video_id: str
    files: tuple[PresignedFile, ...]
    created_at: datetime
    expires_at: datetime
    completed_at: datetime | None = None
    upload_id: str | None = None
    webhook: dict[str, Any] | None = None
    """As `shapes.UploadWebhook` has it."""


@dataclass(frozen=True)
class Remembered:
    """What was answered to the first request with an idempotency key; `status` is None while it is under way. The body
    is with the headers that belong to it and a hash of what was sent, as `idempotency.py` packs them."""

    request: str
    status: int | None
    body: str | None


class Records:
    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    # ---- keys -------------------------------------------------------------------------------------------------

    def add_key(self, key: ApiKey) -> None:
        with self._store.writing() as db:
            db.execute(
                sa.delete(tables.api_key).where(
                    tables.api_key.c.session_of.is_not(None), tables.api_key.c.expires_at < key.created_at
                )
            )
            db.execute(sa.insert(tables.api_key).values(**{**asdict(key), "scopes": list(key.scopes)}))

    def key(self, key_id: str) -> ApiKey | None:
        """A session is revoked with the key it acts for, and may do what that key may do now."""
        own, parent = tables.api_key, tables.api_key.alias("parent")
        query = (
            sa.select(own, parent.c.revoked_at.label("parent_revoked"), parent.c.expires_at.label("parent_expires"))
            .add_columns(parent.c.scopes.label("parent_scopes"))
            .outerjoin(parent, parent.c.key_id == own.c.session_of)
            .where(own.c.key_id == key_id)
        )
        with self._store.reading() as db:
            row = db.execute(query).first()
        if row is None:
            return None
        ends = [moment for moment in (row.expires_at, row.parent_expires) if moment]
        key = _key(row)
        scopes = key.scopes if row.parent_scopes is None else tuple(row.parent_scopes)
        revoked = row.revoked_at or row.parent_revoked
        return replace(key, scopes=scopes, revoked_at=revoked, expires_at=min(ends, default=None))

    def all_keys(self) -> tuple[ApiKey, ...]:
        """All keys, sessions apart, oldest first."""
        table = tables.api_key
        query = sa.select(table).where(table.c.session_of.is_(None)).order_by(table.c.created_at, table.c.key_id)
        with self._store.reading() as db:
            return tuple(_key(row) for row in db.execute(query))

    def change_key(self, key_id: str, **values: Any) -> None:
        """Raises NotFound for a key that is none or was revoked."""
        with self._store.writing() as db:
            _change_key(db, key_id, **values)

    def revoke_key(self, key_id: str, now: datetime) -> None:
        """Raises NotFound."""
        self.change_key(key_id, revoked_at=now)

    def rotate_key(self, key_id: str, secret_sha256: str, now: datetime) -> None:
        """Another secret; what began with the old one ends. Raises NotFound."""
        with self._store.writing() as db:
            _change_key(db, key_id, secret_sha256=secret_sha256)
            db.execute(sa.update(tables.api_key).filter_by(session_of=key_id, revoked_at=None).values(revoked_at=now))

    def note_use(self, seen: Mapping[str, datetime]) -> None:
        """Key → when it was used."""
        table = tables.api_key
        with self._store.writing() as db:
            for key_id, moment in sorted(seen.items()):
                db.execute(sa.update(table).filter_by(key_id=key_id).values(last_used_at=moment))

    # ---- videos -----------------------------------------------------------------------------------------------

    def claim_video(self, video_id: str, key_id: str, now: datetime) -> str:
        """The key that the video belongs to: `key_id` if it was nobody's."""
        table = tables.video
        with self._store.writing() as db:
            rows.insert_new(db, table, video_id=video_id, owner=key_id, created_at=now, versions=0)
            db.execute(sa.update(table).filter_by(video_id=video_id, owner=None).values(owner=key_id))
            return str(db.execute(sa.select(table.c.owner).filter_by(video_id=video_id)).scalar_one())

    def owner(self, video_id: str) -> str | None:
        """The key that the video belongs to; None where it came by the inbox. Raises NotFound."""
        with self._store.reading() as db:
            row = db.execute(sa.select(tables.video.c.owner).filter_by(video_id=video_id)).first()
        if row is None:
            raise NotFound(f"video {video_id}: not known here")
        return str(row.owner) if row.owner else None

    def playable(self, video_id: str, path: str, bucket: str, revision: int | None = None) -> Playable:
        """Where a revision has `path`: the current one, one that was published, or what S3 still has of
        one that was overtaken. Raises NotFound."""
        video, version, upload, file = tables.video, tables.version, tables.upload, tables.inventory
        temp = tables.temp_storage
        wanted = upload.c.revision == version.c.revision
        if revision is not None:
            overtaken = (upload.c.state == State.SUPERSEDED) & temp.c.cid.is_not(None)
            wanted = (upload.c.revision == revision) & (wanted | upload.c.state.in_(_WERE_PUBLISHED) | overtaken)
        query = (
            sa.select(file, upload.c.state, upload.c.revision, upload.c.root, temp.c.content_id)
            .select_from(video)
            .join(version, (version.c.video_id == video.c.video_id) & (version.c.n == video.c.current_version))
            .join(upload, upload.c.video_id == video.c.video_id)
            .join(file, file.c.upload_id == upload.c.upload_id)
            .outerjoin(temp, temp.c.cid == sa.literal(keys.s3_uri(bucket, "")) + file.c.key)
            .where(video.c.video_id == video_id, file.c.path == path, wanted)
        )
        with self._store.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(f"video {video_id} has no such file to play")
        found = InventoryFile(**{field.name: getattr(row, field.name) for field in fields(InventoryFile)})
        return Playable(row.upload_id, State(row.state), row.revision, row.root, found, row.content_id == found.cid)

    def shown(self, video_id: str) -> Shown:
        """In one look, because it is asked for again and again. Raises NotFound."""
        video, version, upload = tables.video, tables.version, tables.upload
        current = (version.c.video_id == video.c.video_id) & (version.c.n == video.c.current_version)
        query = (
            sa.select(upload.c.state, upload.c.revision.label("upload_revision"), upload.c.report)
            .add_columns(version.c.document, version.c.document_sha256, version.c.revision)
            .select_from(video)
            .join(upload, upload.c.video_id == video.c.video_id)
            .outerjoin(version, current)
            .where(video.c.video_id == video_id)
            .order_by(upload.c.created_at.desc(), upload.c.upload_id.desc())
            .limit(1)
        )
        with self._store.reading() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(f"video {video_id}: not known here")
        return Shown(State(row.state), *row[1:])

    def current_version(self, video_id: str) -> int | None:
        """The number of the document readers get."""
        with self._store.reading() as db:
            return db.execute(sa.select(tables.video.c.current_version).filter_by(video_id=video_id)).scalar()

    def first_document(self, video_id: str, revision: int) -> str | None:
        """The temporary document of a revision, as it was answered; None before there is one."""
        table = tables.version
        query = sa.select(table.c.document).filter_by(video_id=video_id, revision=revision).order_by(table.c.n).limit(1)
        with self._store.reading() as db:
            return db.execute(query).scalar()

    def in_work(self) -> int:
        """Uploads that wait for the pipeline or are being worked on; not those that wait for their creator."""
        upload = tables.upload
        for_files = upload.c.report.is_not(None) & upload.c.revision.is_(None)
        query = sa.select(sa.func.count()).select_from(upload).where(upload.c.state.in_(IN_WORK), ~for_files)
        with self._store.reading() as db:
            return db.execute(query).scalar() or 0

    # ---- presigned uploads ------------------------------------------------------------------------------------

    def add_presigned(self, presigned: Presigned) -> None:
        files = [[file.path, file.size, file.parts_id] for file in presigned.files]
        values = {field.name: getattr(presigned, field.name) for field in fields(Presigned)}
        with self._store.writing() as db:
            db.execute(sa.insert(tables.presigned_upload).values(**{**values, "files": files}))

    def presigned(self, presigned_id: str) -> Presigned:
        """Raises NotFound."""
        with self._store.reading() as db:
            row = db.execute(sa.select(tables.presigned_upload).filter_by(id=presigned_id)).first()
        if row is None:
            raise NotFound("there is no such upload; it may have expired")
        return _presigned(row)

    def open_presigned(self, key_id: str, now: datetime) -> int:
        """How many uploads the key has begun and not completed."""
        table = tables.presigned_upload
        query = sa.select(sa.func.count()).select_from(table).where(table.c.expires_at > now, table.c.key_id == key_id)
        with self._store.reading() as db:
            return db.execute(query.where(table.c.upload_id.is_(None))).scalar() or 0

    def begin_completion(self, presigned_id: str, now: datetime, stale: timedelta) -> bool:
        """Whether the caller is the one to complete it; somebody who began `stale` ago counts for nothing."""
        table = tables.presigned_upload
        free = table.c.completed_at.is_(None) | (table.c.completed_at < now - stale)
        query = sa.update(table).where(table.c.id == presigned_id, table.c.upload_id.is_(None), free)
        with self._store.writing() as db:
            return bool(db.execute(query.values(completed_at=now)).rowcount)

    def end_completion(self, presigned_id: str, upload_id: str | None) -> None:
        """It became this upload, or came to nothing and may be tried again."""
        values = {"upload_id": upload_id} if upload_id else {"completed_at": None}
        with self._store.writing() as db:
            db.execute(sa.update(tables.presigned_upload).filter_by(id=presigned_id).values(**values))

    def expired(self, now: datetime, stale: timedelta) -> tuple[Presigned, ...]:
        """Without those that somebody began to complete, less than `stale` ago."""
        table = tables.presigned_upload
        began = table.c.completed_at.is_not(None) & (table.c.completed_at >= now - stale)
        query = sa.select(table).where(table.c.expires_at < now, ~(began & table.c.upload_id.is_(None)))
        with self._store.reading() as db:
            return tuple(_presigned(row) for row in db.execute(query))

    def drop_presigned(self, presigned_id: str) -> None:
        with self._store.writing() as db:
            db.execute(sa.delete(tables.presigned_upload).filter_by(id=presigned_id))

    def waiting(self, arrival_id: str) -> bool:
        """Whether what waits under this id is still needed."""
        upload, table = tables.upload, tables.presigned_upload
        frozen = sa.select(upload.c.upload_id).where(
            upload.c.state.in_(IN_WORK | {State.FAILED}), sa.cast(upload.c.drop, sa.Text).contains(arrival_id)
        )
        with self._store.reading() as db:
            return bool(db.execute(frozen).first() or db.execute(sa.select(table).filter_by(id=arrival_id)).first())

    # ---- idempotency ------------------------------------------------------------------------------------------

    def begin(
        self, key_id: str, idempotency_key: str, request: str, now: datetime, stale: timedelta
    ) -> Remembered | None:
        """None when this request is the first with its key, which is then taken; otherwise what is known of the
        first. One that was not heard of since `stale` ago counts for nothing."""
        table = tables.idempotency
        own = {"key_id": key_id, "idempotency_key": idempotency_key}
        with self._store.writing() as db:
            db.execute(sa.delete(table).where(table.c.created_at < now - timedelta(days=1)))
            db.execute(
                sa.delete(table).filter_by(**own).where(table.c.status.is_(None), table.c.created_at < now - stale)
            )
            if rows.insert_new(db, table, **own, request=request, created_at=now):
                return None
            row = db.execute(sa.select(table).filter_by(**own)).first()
        return Remembered(row.request, row.status, row.body) if row else Remembered(request, None, None)

    def still_under_way(self, key_id: str, idempotency_key: str, now: datetime) -> None:
        own = {"key_id": key_id, "idempotency_key": idempotency_key}
        with self._store.writing() as db:
            db.execute(sa.update(tables.idempotency).filter_by(**own).values(created_at=now))

    def remember(self, key_id: str, idempotency_key: str, status: int, body: str) -> None:
        table = tables.idempotency
        with self._store.writing() as db:
            db.execute(
                sa.update(table)
                .filter_by(key_id=key_id, idempotency_key=idempotency_key)
                .values(status=status, body=body)
            )

    def forget(self, key_id: str, idempotency_key: str) -> None:
        """The first request came to nothing; the next with its key is the first again."""
        with self._store.writing() as db:
            db.execute(sa.delete(tables.idempotency).filter_by(key_id=key_id, idempotency_key=idempotency_key))


def _change_key(db: sa.Connection, key_id: str, **values: Any) -> None:
    if not db.execute(sa.update(tables.api_key).filter_by(key_id=key_id, revoked_at=None).values(**values)).rowcount:
        raise NotFound(f"key {key_id}: there is no such key in use; `hls-pipeline keys list` shows them")


def _key(row: sa.Row[Any]) -> ApiKey:
    values = {field.name: getattr(row, field.name) for field in fields(ApiKey)}
    return ApiKey(**{**values, "scopes": tuple(row.scopes)})


def _presigned(row: sa.Row[Any]) -> Presigned:
    values = {field.name: getattr(row, field.name) for field in fields(Presigned)}
    return Presigned(**{**values, "files": tuple(PresignedFile(*file) for file in row.files)})
