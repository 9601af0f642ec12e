"""What the gateway keeps, in both databases, when many ask in the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TypeVar

from hls_pipeline import clock
from hls_pipeline.gateway.records import ApiKey, Records
from hls_pipeline.metadata_store import MetadataStore
from tests.test_metadata_store import received

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
