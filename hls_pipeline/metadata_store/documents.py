"""What readers get: the metadata documents, now and as of a time.

A document is written by the transaction that makes it true, in `publication.py` or `withdrawals.py`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from hls_pipeline import clock, tables, versions
from hls_pipeline.errors import NotFound
from hls_pipeline.metadata_store import rows
from hls_pipeline.metadata_store.database import Database
from hls_pipeline.metadata_store.rows import Lease
from hls_pipeline.uploads import Upload
from hls_pipeline.versions import Version


class Documents(Database):
    def versions(self, video_id: str) -> tuple[Version, ...]:
        """All versions of a video, oldest first. Raises NotFound for an unknown video."""
        with self._read() as db:
            rows.get_video(db, video_id)
            return versions.of(db, video_id)

    def version(self, video_id: str, n: int) -> Version:
        """The `n`-th version. Raises NotFound for an unknown video, or when it has none of that number."""
        with self._read() as db:
            rows.get_video(db, video_id)
            found = versions.get(db, video_id, n)
        if found is None:
            raise NotFound(f"video {video_id} has no version {n}")
        return found

    def document_cids(self, video_id: str) -> dict[int, str]:
        """Number → content id of the versions whose documents were put on IPFS."""
        copy = tables.document_copy
        with self._read() as db:
            return {row.n: row.cid for row in db.execute(sa.select(copy).filter_by(video_id=video_id))}

    def current(self, video_id: str) -> Version | None:
        """The version readers get, None before the first. Raises NotFound for an unknown video."""
        with self._read() as db:
            return versions.get(db, video_id, rows.get_video(db, video_id).current_version)

    def as_of(self, video_id: str, moment: datetime) -> Version:
        """The version readers got at `moment`. Raises NotFound for an unknown video, or before its first document."""
        with self._read() as db:
            rows.get_video(db, video_id)
            found = versions.as_of(db, video_id, moment)
        if found is None:
            raise NotFound(f"video {video_id}: had no document at {clock.text(moment)}")
        return found

    def newest_version(self, upload: Upload) -> Version | None:
        """The newest document of an upload's revision, None before the first."""
        with self._read() as db:
            return versions.newest_of_revision(db, upload.video_id, upload.revision)

    def unmirrored(self, video_id: str) -> Version | None:
        """The current version, if S3 does not have it yet."""
        with self._read() as db:
            video = rows.get_video(db, video_id)
            current = versions.get(db, video_id, video.current_version)
        return current if current and current.n != video.mirrored_version else None

    def mirrored(self, lease: Lease, version: Version) -> None:
        """S3 has that version. Raises LeaseLost, also where it was withdrawn meanwhile: it must go again then."""
        with self._write(lease) as db:
            rows.set_video(db, version.video_id, mirrored_version=version.n)
