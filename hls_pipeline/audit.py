"""Whether the recorded history still holds: every chain of versions recomputed, from the database or from an export.

`verify` reads links one after the other and keeps one of them, so it takes any number. What a hash covers is decided in
`documents.py`; here is only what is done with many of them. `changes` says in words how one document differs from the
one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal, NamedTuple, TextIO, get_type_hints

import sqlalchemy as sa

from hls_pipeline import clock, documents, receipts, tables
from hls_pipeline.errors import UsageError
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.versions import Version

_AT_ONCE = 1000  # rows held in memory


class Link(NamedTuple):
    """One version as it is on record, and what its video says of all of them."""

    video_id: str
    n: int
    revision: int
    document: str
    document_sha256: str
    previous_hash: str | None
    hash: str
    actor: str
    reason: str
    run_id: str | None
    time: str
    shown: bool
    versions: int
    """How many its video has."""
    current: int | None
    """Number of the one that readers get."""


@dataclass(frozen=True)
class Break:
    """The first thing that does not hold."""

    video_id: str
    version: int
    what: str


@dataclass(frozen=True)
class Verdict:
    videos: int
    versions: int
    first_break: Break | None

    @property
    def holds(self) -> bool:
        return self.first_break is None


Heads = Mapping[str, tuple[int, str]]
"""The last version of each video and its hash, as they were once."""
ReceiptHeads = Mapping[str, list[str]]
"""Of each video the hash of the last receipt of each upload, in the order of the uploads, as they were once."""


def verify(links: Iterable[Link], anchor: Heads | None = None) -> Verdict:
    """Recomputes every hash, video by video, up to the first break. With `anchor`, each chain must also still contain
    what was its head then: only that shows a history that was rewritten from its beginning."""
    missing = dict(anchor or {})
    videos = versions = 0
    for video_id, chain in groupby(links, key=attrgetter("video_id")):
        n, what = 0, None
        known_n, known_hash = missing.pop(video_id, (0, ""))
        previous: Link | None = None
        shown: int | None = None
        for link in chain:
            n = link.n or 0
            what = flaw(link, previous)
            if what is None and n == known_n and link.hash != known_hash:
                what = "it is not the version that was here when the anchor was made"
            if what:
                return Verdict(videos, versions, Break(video_id, n, what))
            versions += 1
            previous, shown = link, link.n if link.shown else shown
        assert previous is not None
        if what := _ends_badly(previous, shown, known_n):
            return Verdict(videos, versions, Break(video_id, n, what))
        videos += 1
    if missing:
        video_id, (n, _) = min(missing.items())
        return Verdict(videos, versions, Break(video_id, n, "the video is gone; the anchor knows it"))
    return Verdict(videos, versions, None)


def flaw(link: Link, previous: Link | None) -> str | None:
    """What does not hold of one version, given the one before it in the same chain."""
    expected = previous.n + 1 if previous else 1
    if link.n != expected:
        return f"version {expected} is missing"
    if link.document_sha256 != documents.sha256(link.document):
        return "the document is not the one that was written"
    if link.previous_hash != (previous.hash if previous else None):
        return "it does not name the hash of the version before it"
    recomputed = documents.chain_hash(
        n=link.n,
        video_id=link.video_id,
        document_sha256=link.document_sha256,
        previous_hash=link.previous_hash,
        actor=link.actor,
        reason=link.reason,
        run_id=link.run_id,
        time=link.time,
    )
    return None if recomputed == link.hash else "its hash does not cover its number, actor, reason, run and time"


def broken_receipt(store: MetadataStore, anchor: ReceiptHeads) -> Break | None:
    """The first receipt on record that is not the one that was written, video by video, else one of `anchor` that is
    gone: on such receipts S3 copies were removed. Those from before there were hashes have none."""
    receipt, upload, video = tables.receipt, tables.upload, tables.video
    missing = {(video_id, link) for video_id, links in anchor.items() for link in links}
    query = (
        sa.select(upload.c.video_id, video.c.versions, receipt)
        .join(upload, receipt.c.upload_id == upload.c.upload_id)
        .join(video, upload.c.video_id == video.c.video_id)
        .order_by(upload.c.video_id, receipt.c.upload_id, receipt.c.id)
    )
    with store.reading() as db:
        rows = db.execute(query, execution_options={"yield_per": _AT_ONCE})
        for _, chain in groupby(rows, key=attrgetter("upload_id")):
            previous = None
            for row in chain:
                found = receipts.chain_hash(
                    upload_id=row.upload_id,
                    kind=row.kind,
                    content=row.content,
                    run_id=row.run_id,
                    time=clock.text(row.time),
                    previous=previous,
                )
                if row.hash != found and (row.hash or previous):
                    what = f"receipt {row.id} ({row.kind}) of upload {row.upload_id} is not what was written"
                    return Break(row.video_id, row.versions, f"{what}, or one before it is missing")
                missing.discard((row.video_id, row.hash))
                previous = row.hash
        if missing:
            video_id = min(missing)[0]
            versions = db.execute(sa.select(video.c.versions).filter_by(video_id=video_id)).scalar() or 0
            return Break(video_id, versions, "a receipt is gone that the anchor knows")
    return None


def _ends_badly(last: Link, shown: int | None, known: int) -> str | None:
    if last.n != last.versions:
        return f"the video has {last.versions} versions, the last one here is {last.n}"
    if last.n < known:
        return f"the anchor knows version {known} of it"
    if last.current != shown:
        return f"readers get version {last.current}, on record as shown is {shown}"
    return None


# ---- where links come from ---------------------------------------------------------------------------------------


def on_record(store: MetadataStore) -> Iterator[Link]:
    """Every version in the database, video by video, as of one moment. A video that lost all of them has one without
    number."""
    version, video = tables.version, tables.video
    stored: dict[str, Any] = {name: version.c.get(name) for name in Link._fields}
    stored["video_id"], stored["versions"], stored["current"] = (
        video.c.video_id,
        video.c.versions,
        video.c.current_version,
    )
    stored["time"] = sa.type_coerce(version.c.time, sa.String)  # as it was hashed
    query = (
        sa.select(*stored.values())
        .select_from(video)
        .outerjoin(version, video.c.video_id == version.c.video_id)
        .where((video.c.versions > 0) | version.c.n.is_not(None))
        .order_by(video.c.video_id, version.c.n)
    )
    with store.reading() as db:
        for part in db.execute(query, execution_options={"yield_per": _AT_ONCE}).partitions():
            yield from map(Link._make, part)


def links_of(versions: Iterable[Version]) -> list[Link]:
    """All versions of one video, oldest first, as links."""
    found = list(versions)
    current = max((version.n for version in found if version.shown), default=None)
    return [
        Link(**{**vars(version), "time": clock.text(version.time)}, versions=len(found), current=current)
        for version in found
    ]


# ---- exports: JSON lines, one per version, and a last one that counts them ----------------------------------------


def exported(links: Iterable[Link], file: TextIO, anchor: str | None = None) -> Iterator[Link]:
    """The same links, each written to `file` on its way, and the root of the newest anchor with the last line. A file
    whose links were not all asked for has no end, and `imported` refuses it."""
    count = 0
    for link in links:
        file.write(json.dumps(link._asdict(), ensure_ascii=False) + "\n")
        count += 1
        yield link
    file.write(json.dumps({"end": count} | ({"anchor": anchor} if anchor else {})) + "\n")


def imported(lines: Iterable[str], name: str) -> Iterator[Link]:
    """Raises UsageError, naming the export, when it is none or is not whole."""
    count, end = 0, None
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if end is not None:
                raise ValueError("something follows its end")
            if "end" in fields and fields.keys() <= {"end", "anchor"}:
                end = fields["end"]
                continue
            link = _checked(Link(**fields))
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{name}, line {number}: this is no export of versions ({error})") from error
        count += 1
        yield link
    if end != count:
        raise UsageError(f"{name}: the export is not whole; it has {count} versions, its end says {end}")


def _checked(link: Link) -> Link:
    for value, kind in zip(link, _KINDS, strict=True):
        if not isinstance(value, kind):
            raise TypeError(f"{value!r:.50} is of another type")
        if isinstance(value, str):
            value.encode()  # lone surrogates have no hash
    return link


_KINDS = tuple(get_type_hints(Link).values())


def heads(links: Iterable[Link]) -> Heads:
    """The last version of each video, in memory: about 200 bytes each."""
    return {link.video_id: (link.n, link.hash) for link in links}


# ---- how documents differ ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One place where two documents differ; `path` is spelled like `video_assets.segments[3]`."""

    path: str
    kind: Literal["added", "removed", "changed"]
    old: Any
    new: Any


def changes(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Every place where `new` differs from `old`, in the order of the names."""
    if isinstance(old, dict) and isinstance(new, dict):
        dot = "." if path else ""
        for name in sorted(old.keys() | new.keys()):
            yield from _place(f"{path}{dot}{name}", name in old, name in new, old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list):
        for i in range(max(len(old), len(new))):
            has_old, has_new = i < len(old), i < len(new)
            yield from _place(
                f"{path}[{i}]", has_old, has_new, old[i] if has_old else None, new[i] if has_new else None
            )
    elif old != new or type(old) is not type(new):
        yield Change(path, "changed", old, new)


def _place(path: str, in_old: bool, in_new: bool, old: Any, new: Any) -> Iterator[Change]:
    if in_old and in_new:
        yield from changes(old, new, path)
    else:
        yield Change(path, "added" if in_new else "removed", old, new)
