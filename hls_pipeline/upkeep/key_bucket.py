"""The bucket of private keys beside the database: keys that no revision has, revisions whose keys are gone.

Both are reported and nothing else: each key may be the only one that opens a video.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from hls_pipeline import keys, tables
from hls_pipeline.upkeep.looking import Look, pages
from hls_pipeline.uploads import ON_RECORD, PRIVATE_KEYS, DropObject, State

_KEY = re.compile(rf"({keys.VIDEO_ID.pattern})/r([0-9]+)/.")


def stored_keys(look: Look, after: str) -> Iterator[str]:
    for page in pages(look.objects.listing(look.settings.s3_keys or "", after=after)):
        parsed = [(item, match) for item in page if (match := _KEY.match(item.key))]
        look.mark.report.foreign_objects += len(page) - len(parsed)
        revisions = look.revisions({match[1] for _, match in parsed})
        folders: dict[tuple[str, int], list[DropObject]] = defaultdict(list)
        for item, match in parsed:
            folders[match[1], int(match[2])].append(item)
        look.seen.add({f"keys {keys.revision(*folder)}": len(items) for folder, items in folders.items()})
        for (video_id, n), items in folders.items():
            orphans = [item for item in items if item.modified < look.settled]
            if orphans and not _has_keys(look, revisions.get(video_id, {}).get(n)):
                subject = keys.s3_uri(look.settings.s3_keys or "", keys.revision(video_id, n))
                detail = "no revision that can be watched has them; if the database was restored, it may be newer"
                size = sum(item.size for item in orphans)
                look.found("orphan_keys", subject, detail, count=len(orphans), bytes=size)
        yield page[-1].key


def _has_keys(look: Look, revision: sa.Row[Any] | None) -> bool:
    """Those of a revision that was given up go with the rest of it."""
    if revision is None:
        return False
    if revision.state in (State.WITHDRAWN, State.SUPERSEDED):
        return bool(look.store.temp_objects(revision.upload_id))
    return True


def uploads_with_keys(look: Look, after: str) -> Iterator[str]:
    upload, bucket = tables.upload, look.settings.s3_keys or ""
    some = sa.type_coerce(upload.c.facts, sa.Text).contains(f'"{PRIVATE_KEYS}":{{"', autoescape=True)
    query = sa.select(upload.c.upload_id).where(upload.c.state.in_(ON_RECORD), some).order_by(upload.c.upload_id)
    while page := look.page(query.where(upload.c.upload_id > after)):
        for one in (look.store.upload(row.upload_id) for row in page):
            folder = keys.revision(one.video_id, one.revision or 0)
            if look.seen.count(f"keys {folder}") < len(one.private_keys):
                there = {item.key for item in look.objects.listing(bucket, folder)}
                gone = [path for path in one.private_keys if folder + path not in there]
                if gone:
                    detail = f"{gone[0]} and others" if len(gone) > 1 else gone[0]
                    look.found("missing_keys", keys.s3_uri(bucket, folder), detail, count=len(gone))
        yield (after := page[-1].upload_id)
