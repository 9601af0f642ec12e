"""Whatever the path, the sensors and the readers say to the database finds its rows by an index, in both databases.

`bench/metadata.py` measures the same with 100,000 videos; this notices at once when a statement would read them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.uploads import Upload
from tests.services import Postgres
from tests.test_metadata_store import held, published, temp

READS_ALL = {
    "sqlite": ("EXPLAIN QUERY PLAN ", re.compile(r"SCAN (?!.*USING)")),
    "postgresql": ("EXPLAIN ", re.compile(r"Seq Scan")),
}
BACKWARDS = "ORDER BY state_change_3.id DESC"
"""The newest publications: SQLite walks back from the end and stops after twenty."""


@contextmanager
def statements(store: MetadataStore) -> Iterator[dict[str, Any]]:
    """Text → values of everything that is said meanwhile and looks for rows."""
    said: dict[str, Any] = {}

    def note(_: Any, __: Any, text: str, values: Any, ___: Any, many: bool) -> None:
        if text.startswith(("SELECT", "UPDATE", "DELETE")) and "advisory" not in text:
            said.setdefault(text, values[0] if many else values)

    sa.event.listen(store._engine, "before_cursor_execute", note)
    yield said
    sa.event.remove(store._engine, "before_cursor_execute", note)


def test_no_statement_reads_a_whole_table(store: MetadataStore) -> None:
    with statements(store) as said:
        upload = published(store)
        sensors(store, upload)
        readers(store, upload)
        lease = held(store, upload, "hand:clear")
        store.objects_removed(lease, [temp(1).cid], {}, clock.now())
        store.release(lease)
    assert len(said) > 30
    explain, reads_all = READS_ALL[store._engine.dialect.name]
    with store._engine.connect() as db:
        if store._engine.dialect.name == "postgresql":
            db.exec_driver_sql("SET enable_seqscan = off")  # small tables are read whole unless it is forbidden
        for text, values in said.items():
            plan = "\n".join(row[-1] for row in db.exec_driver_sql(explain + text, values))
            assert BACKWARDS in text or not reads_all.search(plan), f"{text}\n\n{plan}"


def test_a_page_of_the_list_is_read_from_where_it_begins(postgres: Postgres) -> None:
    """In a large table PostgreSQL merges uploads with newer uploads, and read the second from the first video on."""
    with postgres.new_database() as url:
        store = MetadataStore(url)
        with statements(store) as said:
            store.videos(10, "a")
        ((text, values),) = said.items()
        with store._engine.connect() as db:
            for other in ("nestloop", "hashjoin", "seqscan", "bitmapscan", "sort"):
                db.exec_driver_sql(f"SET enable_{other} = off")
            plan = "\n".join(row[0] for row in db.exec_driver_sql(f"EXPLAIN {text}", values))
        store._engine.dispose()
    assert "Merge Anti Join" in plan
    assert plan.count("Index Cond: ((video_id)::text > 'a'::text)") == 2, plan


def sensors(store: MetadataStore, upload: Upload) -> None:
    now = clock.now()
    store.request_run(upload.upload_id, now)
    store.ready_to_run(now)
    store.due(now)
    store.settled([upload.video_id], now)
    store.bytes_in_work(upload)
    store.recent_publications(20)


def readers(store: MetadataStore, upload: Upload) -> None:
    for by_video in (store.current, store.versions, store.unmirrored, store.current_upload, store.latest_upload):
        by_video(upload.video_id)
    for by_upload in (store.history, store.inventory, store.temp_objects, store.receipts, store.claims):
        by_upload(upload.upload_id)
    store.as_of(upload.video_id, clock.now())
    store.version(upload.video_id, 1)
    store.newest_version(upload)
    store.videos(10, "a")
    store.newest_videos(10, upload.upload_id)
