"""The database beside S3, the IPFS nodes and Dagster: what one has and the other does not know, or has otherwise.

`reconcile` streams through all of it in phases, a page at a time, and notes after each page how far it came, so that a
look that was cut off goes on where it was. It reports; with `apply` it also does what is safe. What the database does
not know may be the only copy of what a restored backup has forgotten: it is never removed from IPFS, and from S3 only
with `remove_unknown`, when it is old. The phases are in the order of `_phases`.
"""

from __future__ import annotations

import re
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, keys, rehydration, steps, tables, work
from hls_pipeline.errors import ObjectMissing, PipelineError
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import anchors, drift, key_bucket
from hls_pipeline.upkeep.catalogue import Ledger
from hls_pipeline.upkeep.drift import Report
from hls_pipeline.upkeep.looking import Look, Seen, pages
from hls_pipeline.uploads import IN_WORK, ON_RECORD, READY, DropObject, State, Upload

_SETTLING = timedelta(minutes=5)
"""What was written later than this before the look began is not judged: it may just be on its way."""
_KEY = re.compile(rf"({keys.VIDEO_ID.pattern})/(?:r([0-9]+)/(media|original|s3|unreferenced)/.|{keys.METADATA}$)")
_PIN = re.compile(rf"({keys.VIDEO_ID.pattern}) (?:r([0-9]+)|record)")

Partitions = Callable[[], Iterator[str]]


def reconcile(
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
    *,
    apply: bool = False,
    remove_unknown: bool = False,
    partitions: Partitions | None = None,
) -> Report:
    """Looks at everything, from where the last look was cut off. `partitions` are Dagster's, where it can be asked.

    Raises Outage when S3 or the database does not answer; the next look goes on from there. Raises Corruption,
    before it looks at anything, when the unknown is to be removed and the newest anchor knows more than the database.
    """
    name = "reconcile" + " --apply" * apply + " --remove-unknown" * remove_unknown
    if remove_unknown:
        anchors.goes_on(store, objects, nodes, settings)
    mark = drift.resumed(store, name)
    with Seen() as seen:
        settled = clock.parse(mark.report.began) - _SETTLING
        look = _Stores(objects, nodes, store, settings, apply, remove_unknown, settled, mark, seen)
        for phase, through in _phases(look, partitions):
            if phase in mark.done:
                continue
            for after in through(mark.after if mark.phase == phase else ""):
                mark.phase, mark.after = phase, after
                drift.note(store, name, mark)
            mark.done.append(phase)
            drift.note(store, name, mark)
    drift.forget(store, name)
    return mark.report


def _phases(look: _Stores, partitions: Partitions | None) -> Iterator[tuple[str, Callable[[str], Iterator[str]]]]:
    """Each goes through its things behind a given one, and yields the last one of each page."""
    yield "objects", look.objects_of_s3
    yield "rows", look.rows
    yield "documents", look.documents
    if look.settings.s3_keys:
        yield "private keys", partial(key_bucket.stored_keys, look)
        yield "uploads with keys", partial(key_bucket.uploads_with_keys, look)
    yield "parts", _at_once(look.parts)
    yield "uploads", look.uploads
    yield "pins", _at_once(look.pins)
    if partitions:
        yield "partitions", _at_once(lambda: look.partitions(partitions()))


def _at_once(phase: Callable[[], None]) -> Callable[[str], Iterator[str]]:
    """A phase of one page: cut off, it begins anew, and nothing of what it found was noted."""

    def through(_: str) -> Iterator[str]:
        phase()
        return iter(())

    return through


# ---- the phases -----------------------------------------------------------------------------------------------------


class _Stores(Look):
    # S3 → database

    def objects_of_s3(self, after: str) -> Iterator[str]:
        media = self.settings.s3_media
        for page in pages(self.objects.listing(media, after=after)):
            self.mark.report.objects += len(page)
            self._judge(page)
            yield page[-1].key

    def _judge(self, page: Sequence[DropObject]) -> None:
        parsed = {item.key: _KEY.match(item.key) for item in page}
        # Keys like `_uploads/…` are no videos; the gateway removes what is forgotten there.
        self.mark.report.foreign_objects += sum(
            match is None and not key.startswith("_") for key, match in parsed.items()
        )
        ours = {item.key: (item, match) for item in page if (match := parsed[item.key])}
        rows = self._rows_of(ours)
        revisions = self.revisions({match[1] for _, match in ours.values()})
        counts: dict[str, int] = defaultdict(int)
        orphans: dict[str, list[DropObject]] = defaultdict(list)
        for key, (item, match) in ours.items():
            video_id, number, folder = match.groups()
            if number is None:
                counts[f"document {video_id}"] += 1
                known = video_id in revisions
            elif row := rows.get(key):
                counts[row.upload_id] += row.etag is not None
                self._compare(item, row)
                known = True
            else:
                known = self._explained(revisions.get(video_id, {}).get(int(number)), folder)
            if not known and item.modified < self.settled:
                orphans[keys.revision(video_id, int(number)) if number else key].append(item)
        self.seen.add(counts)
        for subject, items in orphans.items():
            self._orphans(subject, items, revisions)

    def _rows_of(self, wanted: Iterable[str]) -> dict[str, sa.Row[Any]]:
        table, start = tables.temp_storage, keys.s3_uri(self.settings.s3_media, "")
        query = sa.select(table).where(table.c.cid.in_([start + key for key in wanted]))
        with self.store.reading() as db:
            return {row.cid.removeprefix(start): row for row in db.execute(query)}

    def _explained(self, revision: sa.Row[Any] | None, folder: str) -> bool:
        """Whether an object without a row of its own belongs there: extras of a revision do, and what is on its way."""
        if revision is None:
            return False
        if revision.state == State.WITHDRAWN:  # a row for the whole folder stands for what is still to be removed
            return bool(self.store.temp_objects(revision.upload_id))
        return folder == "unreferenced" or revision.state in IN_WORK

    def _compare(self, item: DropObject, row: sa.Row[Any]) -> None:
        if row.etag is None or (row.etag, row.size) == (item.etag, item.size):
            return
        media = self.settings.s3_media
        try:
            now = self.objects.head(media, item.key)
        except ObjectMissing:
            return  # it has just been removed
        if (now.etag, now.size) != (row.etag, row.size) and self._rows_of([item.key]).get(item.key) == row:
            detail = f"{now.size} bytes with ETag {now.etag}; on record are {row.size} bytes with ETag {row.etag}"
            done = self._brought_back(row.upload_id) if row.due_at is None else None
            self.found("changed_objects", keys.s3_uri(media, item.key), detail, bytes=now.size, done=done)

    def _orphans(self, subject: str, items: Sequence[DropObject], revisions: Mapping[str, Any]) -> None:
        newest = max(item.modified for item in items)
        video_id, number = subject.split("/")[0], subject.split("/")[1].removeprefix("r")
        detail = f"video {video_id} is not in the database; was it restored from a backup?"
        state, done = None, None
        if (known := revisions.get(video_id)) is not None:
            detail = f"revision {number} of the video is not in the database; was it restored from a backup?"
            row = known.get(int(number)) if number.isdigit() else None
            if row is not None:
                state = row.state
                detail = f"the revision is {state}, and nothing on record says that these are there"
            if row is not None and state == State.WITHDRAWN:
                done = self.doing("handed to the clean-up", partial(self._sweep, [row.upload_id]))
        unneeded = self.remove_unknown and state != State.FAILED  # a retry may need them
        if done is None and unneeded and newest < clock.now() - timedelta(days=self.settings.orphan_days):
            wanted = [(item.key, item.etag, None) for item in items]
            done = self.doing("removed", partial(self.objects.delete, self.settings.s3_media, wanted))
        size, newest_text = sum(item.size for item in items), clock.seconds_text(newest)
        self.found(
            "orphan_objects", subject, f"{detail}; newest of {newest_text}", count=len(items), bytes=size, done=done
        )

    def _sweep(self, upload_ids: Iterable[str]) -> None:
        for upload_id in upload_ids:
            self.store.sweep_again(upload_id, self.settings.s3_media, clock.now())

    # database → S3

    def rows(self, after: str) -> Iterator[str]:
        table = tables.temp_storage
        query = (
            sa.select(table.c.upload_id, sa.func.count().label("there"))
            .where(table.c.etag.is_not(None))
            .group_by(table.c.upload_id)
            .order_by(table.c.upload_id)
        )
        while page := self.page(query.where(table.c.upload_id > after)):
            for row in page:
                if self.seen.count(row.upload_id) < row.there:
                    self._missing(self.store.upload(row.upload_id))
            yield (after := page[-1].upload_id)

    def _missing(self, upload: Upload) -> None:
        media = self.settings.s3_media
        folder = keys.revision(upload.video_id, upload.revision or 0)
        there = {keys.s3_uri(media, item.key) for item in self.objects.listing(media, folder)}
        # Rows are read after the listing: what the clean-up removed meanwhile has none any more.
        gone = [item for item in self.store.temp_objects(upload.upload_id) if item.etag and item.cid not in there]
        if not gone:
            return
        done = None
        if upload.state in READY:
            detail = "IPFS has them, and the clean-up forgets them once that is proven again"
            if any(item.due_at is None for item in gone):
                detail, done = "they were to stay in S3", self._brought_back(upload.upload_id)
        elif upload.state in IN_WORK or upload.state is State.FAILED:
            detail = f"the upload is {upload.state} and cannot go on without them; the package must be sent again"
        else:
            detail = f"the upload is {upload.state}; the clean-up forgets them"
        size = sum(item.size for item in gone)
        self.found("missing_objects", folder, detail, count=len(gone), bytes=size, done=done)

    def _brought_back(self, upload_id: str) -> str | None:
        def deed() -> None:
            upload = self.store.upload(upload_id)
            with work.holding(upload, f"hand:{uuid.uuid4()}", self.store, self.settings, last=True) as lease:
                rehydration.rehydrate(upload, lease, self.objects, self.nodes, self.store, self.settings)

        return self.doing("brought back from IPFS", deed)

    def documents(self, after: str) -> Iterator[str]:
        video = tables.video
        upload = tables.upload
        on_record = sa.exists().where(upload.c.video_id == video.c.video_id, upload.c.state.in_(ON_RECORD))
        query = sa.select(video.c.video_id).where(video.c.mirrored_version == video.c.current_version, on_record)
        while page := self.page(query.where(video.c.video_id > after).order_by(video.c.video_id)):
            unseen = [row.video_id for row in page if not self.seen.count(f"document {row.video_id}")]
            for video_id, there in zip(unseen, self.objects.each(self._has_document, unseen), strict=True):
                if not there:
                    done = self.doing("written again", partial(self._mirror, video_id))
                    subject = keys.s3_uri(self.settings.s3_media, keys.current_document(video_id))
                    self.found("missing_document", subject, "its creator does not find it", done=done)
            yield (after := page[-1].video_id)

    def _has_document(self, video_id: str) -> bool:
        try:
            self.objects.head(self.settings.s3_media, keys.current_document(video_id))
        except ObjectMissing:
            return False
        return True

    def _mirror(self, video_id: str) -> None:
        with self.store.writing() as db:
            db.execute(sa.update(tables.video).filter_by(video_id=video_id).values(mirrored_version=None))
        upload = self.store.current_upload(video_id) or self.store.latest_upload(video_id)
        assert upload is not None
        with work.holding(upload, f"hand:{uuid.uuid4()}", self.store, self.settings, last=True) as lease:
            steps.mirror_document(lease, self.objects, self.store, self.settings)

    # uploads in parts, and in work

    def parts(self) -> None:
        old = clock.now() - timedelta(days=self.settings.orphan_days)
        for bucket in (self.settings.s3_inbox, self.settings.s3_media):
            for key, parts_id, since in self.objects.unfinished(bucket):
                if since >= self.settled - timedelta(seconds=self.settings.stuck_seconds) or key.startswith("_"):
                    continue  # those of the gateway have their own sweep
                done = None
                if since < old:
                    done = self.doing("given up", partial(self.objects.give_up_parts, bucket, key, parts_id))
                self.found("dangling_parts", keys.s3_uri(bucket, key), f"since {clock.seconds_text(since)}", done=done)

    def uploads(self, after: str) -> Iterator[str]:
        upload, lease = tables.upload, tables.video_lease
        still = self.settled - timedelta(seconds=self.settings.stuck_seconds)
        held = sa.exists().where(
            lease.c.video_id == upload.c.video_id, lease.c.holder.is_not(None), lease.c.expires_at > clock.now()
        )
        stuck = upload.c.state.in_(IN_WORK) & (sa.func.coalesce(upload.c.not_before, upload.c.updated_at) < still)
        query = sa.select(upload).where((stuck & ~held) | (upload.c.state == State.FAILED))
        while page := self.page(query.where(upload.c.upload_id > after).order_by(upload.c.upload_id)):
            for row in page:
                kind = "failed_upload" if row.state == State.FAILED else "stuck_upload"
                since = f"{row.state} since {clock.seconds_text(row.updated_at)}"
                advice = (
                    f"`hls-pipeline retry {row.video_id}`" if row.state == State.FAILED else "is the daemon running?"
                )
                self.found(kind, f"video {row.video_id}, upload {row.upload_id}", f"{since}: {row.error or advice}")
            yield (after := page[-1].upload_id)

    # database ↔ IPFS

    def pins(self) -> None:
        with Ledger() as ledger:
            ledger.read_catalogue(self.store)
            for node in self.nodes:
                self._pins_of(node, ledger)
            for wanted in ledger.not_claimed():
                done = self.doing("claimed", partial(self._claim, wanted.root, wanted.upload_id))
                self.found("missing_claim", f"video {wanted.video_id}: {wanted.root}", "is published", done=done)
            for page in pages(ledger.unclaimed()):
                ours = [(root, match, on) for root, name, on in page if (match := _PIN.fullmatch(name))]
                self.mark.report.foreign_pins += len(page) - len(ours)
                known = self.revisions({match[1] for _, match, _ in ours})
                for root, match, on in ours:
                    self._unclaimed(root, match, on, known.get(match[1]))

    def _pins_of(self, node: Kubo, ledger: Ledger) -> None:
        try:
            peer_id = node.peer_id()
            ledger.read_pins(peer_id, node)
        except PipelineError as error:
            self.found("not_looked_at", f"node {node.name}", str(error))
            return
        if count := ledger.missing_count(peer_id):
            self.found("missing_pins", f"node {node.name}", "`hls-pipeline repin` mends it", count=count)

    def _claim(self, root: str, upload_id: str) -> None:
        upload = self.store.upload(upload_id)
        with work.holding(upload, f"hand:{uuid.uuid4()}", self.store, self.settings, last=True) as lease:
            if self.store.upload(upload_id).state in READY:
                self.store.claim(lease, root)

    def _unclaimed(self, root: str, name: re.Match[str], on: int, revisions: Mapping[int, sa.Row[Any]] | None) -> None:
        number, done = name[2], None
        detail = "the video is not in the database; was it restored from a backup?"
        if revisions is not None:
            detail = f"revision {number} is not in the database; was it restored from a backup?"
            own = [row for n, row in revisions.items() if number is None or n == int(number)]
            if own:
                detail = f"the revision is {', '.join(sorted({row.state for row in own}))}; nobody claims the pin"
            withdrawn = [row for row in own if row.state == State.WITHDRAWN and root in (row.root, row.record)]
            if withdrawn:
                deed = partial(self._sweep, [row.upload_id for row in withdrawn])
                done = self.doing("handed to the clean-up", deed)
        self.found("unclaimed_pins", f"{root}, named {name[0]!r}", f"on {on} node(s): {detail}", done=done)

    # Dagster → database

    def partitions(self, names: Iterator[str]) -> None:
        for page in pages(names):
            known = self.revisions(page)
            for name in page:
                if name not in known:
                    self.found("unknown_partitions", name, "its video is not in the database")
