"""Webhooks and their deliveries in the metadata store. What is sent, and how, is in `deliveries.py`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.errors import NotFound
from hls_pipeline.metadata_store import MetadataStore, rows
from hls_pipeline.uploads import IN_WORK, State

EVENTS = {
    State.STAGED: "video.processing",
    State.PUBLISHED: "video.ready",
    State.FAILED: "video.failed",
    State.REJECTED: "video.failed",
    State.CLEARED: "video.cleared",
    State.WITHDRAWN: "video.withdrawn",
}

_GOES_ON = IN_WORK | {State.PUBLISHED, State.FAILED}
"""States after which something is sure to be told, or may be."""

_TOGETHER = 500
"""Webhooks that one transaction looks after."""
_LATE_COMMITS = 200
"""State changes that are looked at again: PostgreSQL may show a lower number after a higher one."""


@dataclass(frozen=True)
class Webhook:
    webhook_id: str
    key_id: str
    video_id: str | None
    url: str
    secret: str
    events: tuple[str, ...]
    created_at: datetime
    since: int = 0
    """The newest state change when it was made. It is told of later ones: by number, because the clocks of those who
    write them differ."""
    seen: int = 0
    upload_id: str | None = None
    """Told of this upload alone, whose id it has."""


@dataclass(frozen=True)
class Delivery:
    delivery_id: str
    webhook_id: str
    event: str
    body: str
    created_at: datetime
    attempts: int
    due_at: datetime | None
    delivered_at: datetime | None
    answer: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of one try."""

    delivery_id: str
    answer: str
    delivered_at: datetime | None = None
    again: datetime | None = None
    """When it is tried next; None when it was delivered, or is given up."""


@dataclass(frozen=True)
class StateChange:
    id: int
    upload_id: str
    video_id: str
    owner: str | None
    revision: int | None
    state: State
    time: datetime


class WebhookRecords:
    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    def add(self, webhook: Webhook) -> None:
        """Added again, it stays as it is."""
        with self._store.writing() as db:
            newest = db.execute(sa.select(sa.func.max(tables.state_change.c.id))).scalar() or 0
            values = {**asdict(webhook), "events": list(webhook.events), "since": newest, "seen": newest}
            rows.insert_new(db, tables.webhook, **values)

    def of_key(self, key_id: str) -> tuple[Webhook, ...]:
        """Without those of single uploads."""
        table = tables.webhook
        query = sa.select(table).filter_by(key_id=key_id, upload_id=None).order_by(table.c.created_at)
        with self._store.reading() as db:
            return tuple(_webhook(row) for row in db.execute(query))

    def webhook(self, webhook_id: str) -> Webhook:
        """Raises NotFound."""
        with self._store.reading() as db:
            row = db.execute(sa.select(tables.webhook).filter_by(webhook_id=webhook_id)).first()
        if row is None:
            raise NotFound("there is no such webhook")
        return _webhook(row)

    def remove(self, webhook_id: str) -> None:
        with self._store.writing() as db:
            db.execute(sa.delete(tables.delivery).filter_by(webhook_id=webhook_id))
            db.execute(sa.delete(tables.webhook).filter_by(webhook_id=webhook_id))

    def deliveries(self, webhook_id: str, limit: int = 100, after: str = "") -> tuple[Delivery, ...]:
        """Newest first; those that come after the delivery `after`, if there is one."""
        table = tables.delivery
        query = sa.select(table).filter_by(webhook_id=webhook_id).order_by(table.c.state_change.desc()).limit(limit)
        if after:
            last = sa.select(table.c.state_change).filter_by(webhook_id=webhook_id, delivery_id=after)
            query = query.where(table.c.state_change < last.scalar_subquery())
        with self._store.reading() as db:
            return tuple(_delivery(row) for row in db.execute(query))

    # ---- what happened ----------------------------------------------------------------------------------------

    def newest_change(self) -> int:
        with self._store.reading() as db:
            return db.execute(sa.select(sa.func.max(tables.state_change.c.id))).scalar() or 0

    def changes(self, after: int, limit: int = 500) -> tuple[StateChange, ...]:
        with self._store.reading() as db:
            return _changes(db, after, limit)

    def enqueue(self, now: datetime) -> int:
        """Every change that a webhook wants to hear of has a delivery, due now; how many are new."""
        hook, change, newest = tables.webhook, tables.state_change, self.newest_change()
        own_news = sa.exists().where(change.c.upload_id == hook.c.upload_id, change.c.id > hook.c.seen)
        behind = sa.select(hook).where(_key_in_use(now), hook.c.seen < newest, hook.c.upload_id.is_(None) | own_news)
        with self._store.reading() as db:
            found = [_webhook(row) for row in db.execute(behind.order_by(hook.c.upload_id, hook.c.seen))]
        made = 0
        for _, group in groupby(found, lambda one: (one.upload_id, one.seen)):
            alike = list(group)
            for start in range(0, len(alike), _TOGETHER):
                with self._store.writing() as db:
                    made += _enqueue(db, alike[start : start + _TOGETHER], now)
        return made

    def thin(self, before: datetime) -> int:
        """Deliveries from before that moment which nobody waits for are gone, and webhooks of uploads at rest since
        then; says how many deliveries. What `enqueue` looks at again stays, or it would be told again."""
        delivery, hook, upload = tables.delivery, tables.webhook, tables.upload
        looked_at = sa.select(hook.c.seen - _LATE_COMMITS).where(hook.c.webhook_id == delivery.c.webhook_id)
        at_rest = sa.select(upload.c.upload_id).where(upload.c.state.not_in(_GOES_ON), upload.c.updated_at < before)
        ended = sa.select(hook.c.webhook_id).where(
            hook.c.upload_id.in_(at_rest),
            ~sa.exists().where(delivery.c.webhook_id == hook.c.webhook_id, delivery.c.due_at.is_not(None)),
        )
        old = delivery.c.created_at < before, delivery.c.due_at.is_(None)
        with self._store.writing() as db:
            over = db.execute(ended).scalars().all()
            own = delivery.c.webhook_id.in_(over)
            gone = db.execute(
                sa.delete(delivery).where(own | (delivery.c.state_change <= looked_at.scalar_subquery()), *old)
            ).rowcount
            left = sa.exists().where(delivery.c.webhook_id == hook.c.webhook_id)
            db.execute(sa.delete(hook).where(hook.c.webhook_id.in_(over), ~left))
        return gone

    # ---- sending ----------------------------------------------------------------------------------------------

    def claim_due(self, now: datetime, patience: timedelta, limit: int) -> tuple[tuple[Webhook, Delivery], ...]:
        """Deliveries to be sent now, ours for `patience`; another gateway gets others, a revoked key none. Keys take
        turns, and so do the webhooks of a key: nobody waits for all that waits for a receiver who is away."""
        delivery, hook = tables.delivery, tables.webhook
        turn = sa.func.row_number().over(
            partition_by=hook.c.webhook_id, order_by=(delivery.c.due_at, delivery.c.state_change)
        )
        of_hook = (
            sa.select(delivery.c.delivery_id, delivery.c.due_at, hook.c.key_id, turn.label("turn"))
            .join(hook, hook.c.webhook_id == delivery.c.webhook_id)
            .where(delivery.c.due_at <= now, _key_in_use(now))
            .subquery()
        )
        turn = sa.func.row_number().over(partition_by=of_hook.c.key_id, order_by=(of_hook.c.turn, of_hook.c.due_at))
        query = sa.select(of_hook.c.delivery_id).order_by(turn, of_hook.c.due_at)
        with self._store.reading() as db:
            due = db.execute(query.limit(limit)).scalars().all()
        if not due:
            return ()
        claimed = []
        with self._store.writing() as db:
            for delivery_id in due:
                mine = sa.update(delivery).where(delivery.c.delivery_id == delivery_id, delivery.c.due_at <= now)
                if db.execute(mine.values(due_at=now + patience)).rowcount:
                    row = db.execute(sa.select(delivery).filter_by(delivery_id=delivery_id)).one()
                    owner = db.execute(sa.select(hook).filter_by(webhook_id=row.webhook_id)).one()
                    claimed.append((_webhook(owner), _delivery(row)))
        return tuple(claimed)

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """In one transaction, because each waits for the disk."""
        table = tables.delivery
        with self._store.writing() as db:
            for outcome in outcomes:
                db.execute(
                    sa.update(table)
                    .filter_by(delivery_id=outcome.delivery_id)
                    .values(
                        attempts=table.c.attempts + 1,
                        answer=outcome.answer,
                        delivered_at=outcome.delivered_at,
                        due_at=outcome.again,
                    )
                )

    def resend(self, webhook_id: str, delivery_id: str, now: datetime) -> None:
        """Raises NotFound."""
        table = tables.delivery
        query = sa.update(table).filter_by(webhook_id=webhook_id, delivery_id=delivery_id)
        with self._store.writing() as db:
            if not db.execute(query.values(due_at=now, attempts=0, delivered_at=None)).rowcount:
                raise NotFound("there is no such delivery")


def _key_in_use(now: datetime) -> sa.ColumnElement[bool]:
    """Of a webhook: who may not ask any more is told nothing either."""
    key = tables.api_key
    in_use = key.c.revoked_at.is_(None) & (key.c.expires_at.is_(None) | (key.c.expires_at > now))
    return tables.webhook.c.key_id.in_(sa.select(key.c.key_id).where(in_use))


def _enqueue(db: sa.Connection, hooks: Sequence[Webhook], now: datetime) -> int:
    """For webhooks that have seen the same; they share one look at what is new."""
    table, key = tables.delivery, tables.api_key
    ids, seen, upload_id = [hook.webhook_id for hook in hooks], hooks[0].seen, hooks[0].upload_id
    after = max(0, seen - _LATE_COMMITS)
    found = _changes(db, after, 1000, upload_id)
    told = sa.select(table.c.webhook_id, table.c.state_change)
    known = set(db.execute(told.where(table.c.webhook_id.in_(ids), table.c.state_change > after)).tuples())
    owners = sa.select(key.c.key_id, key.c.scopes).where(key.c.key_id.in_({hook.key_id for hook in hooks}))
    admins = {key_id for key_id, scopes in db.execute(owners) if "admin" in scopes}
    wanted = [
        (hook, change)
        for change in found
        if change.state in EVENTS
        for hook in hooks
        if change.id > hook.since
        and (change.owner == hook.key_id or hook.key_id in admins)
        and hook.video_id in (None, change.video_id)
        and EVENTS[change.state] in hook.events
        and (hook.webhook_id, change.id) not in known
    ]
    made = 0
    for hook, change in wanted:
        delivery_id, event = secrets.token_hex(16), EVENTS[change.state]
        values = {
            "delivery_id": delivery_id,
            "webhook_id": hook.webhook_id,
            "state_change": change.id,
            "event": event,
            "body": _body(delivery_id, event, change),
            "created_at": now,
            "attempts": 0,
            "due_at": now,
        }
        made += rows.insert_new(db, table, **values)  # another gateway may just do the same
    if found and found[-1].id > seen:
        db.execute(sa.update(tables.webhook).where(tables.webhook.c.webhook_id.in_(ids)).values(seen=found[-1].id))
    return made


def _body(delivery_id: str, event: str, change: StateChange) -> str:
    return json.dumps(
        {
            "id": delivery_id,
            "event": event,
            "video_id": change.video_id,
            "upload_id": change.upload_id,
            "revision": change.revision,
            "state": str(change.state),
            "time": clock.text(change.time),
        },
        separators=(",", ":"),
    )


def _changes(db: sa.Connection, after: int, limit: int, upload_id: str | None = None) -> tuple[StateChange, ...]:
    change, upload, video = tables.state_change, tables.upload, tables.video
    query = (
        sa.select(change, upload.c.video_id, upload.c.revision, video.c.owner)
        .join(upload, upload.c.upload_id == change.c.upload_id)
        .join(video, video.c.video_id == upload.c.video_id)
        .where(change.c.id > after)
        .order_by(change.c.id)
        .limit(limit)
    )
    if upload_id:
        query = query.where(change.c.upload_id == upload_id)
    return tuple(
        StateChange(row.id, row.upload_id, row.video_id, row.owner, row.revision, State(row.state), row.time)
        for row in db.execute(query)
    )


def _webhook(row: sa.Row[Any]) -> Webhook:
    values = {field.name: getattr(row, field.name) for field in fields(Webhook)}
    return Webhook(**{**values, "events": tuple(row.events)})


def _delivery(row: sa.Row[Any]) -> Delivery:
    return Delivery(**{field.name: getattr(row, field.name) for field in fields(Delivery)})
