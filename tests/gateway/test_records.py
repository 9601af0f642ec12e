"""What the gateway keeps, in both databases, when many ask in the same moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TypeVar

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.gateway import access
from hls_pipeline.gateway.access import Scope
from hls_pipeline.gateway.records import ApiKey, Records
from hls_pipeline.gateway.webhook_records import Webhook, WebhookRecords
from hls_pipeline.metadata_store import MetadataStore
from tests.test_metadata_store import published, received

_Result = TypeVar("_Result")


def at_once(work: Callable[[str], _Result]) -> list[_Result]:
    """`work` for six keys, all let go together."""
    gate = threading.Barrier(6)

    def wait_and_work(key_id: str) -> _Result:
        gate.wait()
        return work(key_id)

    with ThreadPoolExecutor(6) as pool:
        return list(pool.map(wait_and_work, [f"key{n}" for n in range(6)]))


def test_a_video_has_one_owner_however_many_use_it_first(store: MetadataStore) -> None:
    """On PostgreSQL all but one got a 500, or several were told that it is theirs."""
    records = Records(store)
    for n in range(10):
        received(store, f"inbox{n}")
        for video_id in (f"new{n}", f"inbox{n}"):
            owners = at_once(lambda key_id, video_id=video_id: records.claim_video(video_id, key_id, clock.now()))
            assert set(owners) == {records.owner(video_id)}


def test_one_of_many_requests_with_a_key_is_the_first(store: MetadataStore) -> None:
    """On PostgreSQL the others got a 500 instead of being told that it is under way."""
    records, now = Records(store), clock.now()
    records.add_key(ApiKey("sender", "", "", (), now, None, None, None))
    for n in range(10):
        found = at_once(lambda _, n=n: records.begin("sender", f"once{n}", "POST", now, timedelta(minutes=1)))
        assert sorted(each is None for each in found) == [False] * 5 + [True]


# ---- webhooks ---------------------------------------------------------------------------------------------------


def hook(store: MetadataStore, webhook_id: str, key_id: str, when: datetime | None = None) -> None:
    url, events, when = "https://example.com/", ("video.ready",), when or clock.now()
    WebhookRecords(store).add(Webhook(webhook_id, key_id, None, url, "secret", events, when))


def waiting(store: MetadataStore, webhook_id: str, count: int) -> None:
    """Deliveries that are due, the first since long ago."""
    began = clock.now() - timedelta(days=1)
    rows = [
        {
            "delivery_id": f"{webhook_id}-{n:05}",
            "webhook_id": webhook_id,
            "state_change": n,
            "event": "video.ready",
            "body": "{}",
            "created_at": began,
            "attempts": 0,
            "due_at": began + timedelta(seconds=n),
        }
        for n in range(count)
    ]
    with store.writing() as db:
        db.execute(sa.insert(tables.delivery), rows)


def test_keys_and_their_webhooks_take_turns_whatever_waits_for_a_receiver_who_is_away(store: MetadataStore) -> None:
    """The oldest went first: what waited for a receiver who was away for a day held up everybody else for hours."""
    records, now = WebhookRecords(store), clock.now()
    for key_id, hooks in (("a", ("away", "there", "also")), ("b", ("other",))):
        Records(store).add_key(ApiKey(key_id, "", "", ("write",), now, None, None, None))
        for webhook_id in hooks:
            hook(store, webhook_id, key_id)
    waiting(store, "away", 100)
    for webhook_id in ("there", "also", "other"):
        waiting(store, webhook_id, 1)
    claimed = [delivery.delivery_id for _, delivery in records.claim_due(now, timedelta(minutes=2), 8)]
    assert set(claimed[:2]) == {"away-00000", "other-00000"}, "keys take turns"
    assert set(claimed[:4]) == {"away-00000", "other-00000", "there-00000", "also-00000"}, "and so do their webhooks"
    assert claimed[4:] == [f"away-{n:05}" for n in range(1, 5)], "what is left of its time is for who waits most"


def test_gateways_side_by_side_send_each_delivery_once(store: MetadataStore) -> None:
    records, now = WebhookRecords(store), clock.now()
    Records(store).add_key(ApiKey("a", "", "", ("write",), now, None, None, None))
    hook(store, "one", "a")
    waiting(store, "one", 100)
    found: list[str] = []
    while True:
        rounds = at_once(lambda _: records.claim_due(now, timedelta(minutes=2), 16))
        if not any(rounds):
            break
        found += [delivery.delivery_id for claimed in rounds for _, delivery in claimed]
    assert sorted(found) == [f"one-{n:05}" for n in range(100)]


def test_a_webhook_is_told_what_happens_after_it_was_made_whatever_clocks_say(store: MetadataStore) -> None:
    """A clock that was set back, or a worker's that was behind, cost the webhook its news for good."""
    records = WebhookRecords(store)
    key_id = access.make_key(Records(store), "studio", frozenset({Scope.ADMIN}), clock.now()).split("_")[1]
    published(store, 1)
    hook(store, "one", key_id, when=clock.now() + timedelta(days=365))
    published(store, 2)
    assert records.enqueue(clock.now()) == 1
    (delivery,) = records.deliveries("one")
    assert json.loads(delivery.body)["revision"] == 2


def test_all_webhooks_share_one_look_and_each_is_told_its_own(store: MetadataStore) -> None:
    """Each took a look and a transaction of its own, so that a few hundred webhooks kept the disk busy for seconds."""
    records, now = WebhookRecords(store), clock.now()
    for key_id, scope in (("owner", "write"), ("other", "write"), ("operator", "admin")):
        Records(store).add_key(ApiKey(key_id, "", "", (scope,), now, None, None, None))
    published(store, 1)
    Records(store).claim_video("v", "owner", now)
    for webhook_id, key_id, video_id, event in (
        ("own", "owner", None, "video.ready"),
        ("own-video", "owner", "v", "video.processing"),
        ("own-other-video", "owner", "w", "video.ready"),
        ("foreign", "other", None, "video.ready"),
        ("all", "operator", None, "video.ready"),
    ):
        records.add(Webhook(webhook_id, key_id, video_id, "https://example.com/", "secret", (event,), now))
    published(store, 2)
    changed: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *said: changed.append(said[2].split()[0]))
    assert records.enqueue(now) == 3
    assert changed.count("UPDATE") == 1
    told = {item.webhook_id: item.event for item, *_ in map(records.deliveries, ("own", "own-video", "all"))}
    assert told == {"own": "video.ready", "own-video": "video.processing", "all": "video.ready"}
    assert records.enqueue(now) == 0


def test_the_log_of_deliveries_is_read_page_by_page(store: MetadataStore) -> None:
    records = WebhookRecords(store)
    Records(store).add_key(ApiKey("a", "", "", ("write",), clock.now(), None, None, None))
    hook(store, "one", "a")
    waiting(store, "one", 5)
    first = records.deliveries("one", 3)
    rest = records.deliveries("one", 3, first[-1].delivery_id)
    assert [item.delivery_id for item in (*first, *rest)] == [f"one-{n:05}" for n in (4, 3, 2, 1, 0)]
