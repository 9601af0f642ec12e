"""The second net under the clean-up: rules by which S3 itself removes what nobody came back for.

`apply` is safe to repeat and leaves rules of other people alone. Nothing that a revision still needs may match a rule:
what clean-up removes, it removes by itself and only on proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hls_pipeline import keys
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings

OURS = "hls-"
"""What the ids of our rules start with."""

CLEARED_TAG = ("hls", "cleared")
"""On objects that the clean-up would have removed but for a legal hold."""

_Rule = Mapping[str, Any]


def apply(objects: ObjectStore, settings: Settings) -> tuple[str, ...]:
    """Afterwards both buckets have our rules, as they are today. Answers the buckets that had others."""
    wanted = {settings.s3_inbox: inbox_rules(settings), settings.s3_media: media_rules(settings)}
    changed = []
    for bucket, rules in wanted.items():
        known = objects.lifecycle(bucket)
        ours = [rule for rule in known if rule.get("ID", "").startswith(OURS)]
        if [_essence(rule) for rule in ours] != [_essence(rule) for rule in rules]:
            objects.set_lifecycle(bucket, [*(rule for rule in known if rule not in ours), *rules])
            changed.append(bucket)
    return tuple(changed)


def inbox_rules(settings: Settings) -> Sequence[_Rule]:
    """Packages that were never taken up, and what versioning keeps of those that were."""
    return (
        _rule("unfinished-uploads", "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
        _rule("forgotten-packages", "", Expiration={"Days": settings.inbox_keep_days}),
        _rule("old-versions", "", NoncurrentVersionExpiration={"NoncurrentDays": 1}),
        _rule("delete-markers", "", Expiration={"ExpiredObjectDeleteMarker": True}),
    )


def media_rules(settings: Settings) -> Sequence[_Rule]:
    """Uploads that were never completed, and what was cleared but for a hold. Old versions of documents go too; those
    of media do only after a time in which somebody would have noticed that they were written over."""
    name, value = CLEARED_TAG
    return (
        _rule("unfinished-uploads", "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
        _rule("forgotten-packages", keys.PRESIGNED, Expiration={"Days": settings.inbox_keep_days}),
        _rule("old-inventories", keys.INVENTORIES, Expiration={"Days": 90}),
        {
            "ID": f"{OURS}cleared",
            "Status": "Enabled",
            "Filter": {"Tag": {"Key": name, "Value": value}},
            "Expiration": {"Days": 1},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
        },
        _rule("old-versions", "", NoncurrentVersionExpiration={"NoncurrentDays": settings.inbox_keep_days}),
        _rule("delete-markers", "", Expiration={"ExpiredObjectDeleteMarker": True}),
    )


def _rule(name: str, prefix: str, **action: Mapping[str, Any]) -> _Rule:
    return {"ID": OURS + name, "Status": "Enabled", "Filter": {"Prefix": prefix}, **action}


def _essence(rule: _Rule) -> _Rule:
    """A rule without what a server adds to it: an empty filter may come back without its prefix."""
    return {**rule, "Filter": rule.get("Filter") or {"Prefix": rule.get("Prefix", "")}}
