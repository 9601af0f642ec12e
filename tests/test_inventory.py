"""The table of all files: what it says of where they lie and when that was proven, and the files it is written to."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.errors import UsageError
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.reports import inventory
from hls_pipeline.settings import Settings
from tests.services import World, package
from tests.test_metadata_store import after, held, published, received, staged


def rows(store: MetadataStore, settings: Settings | None = None, at: float = 12) -> list[dict[str, Any]]:
    found = pa.Table.from_batches(inventory.batches(store, settings or Settings(), after(at)), inventory.schema())
    return found.to_pylist()


def test_a_published_package_is_listed_with_where_it_lies_and_who_proved_it(
    world: World, request: pytest.FixtureRequest
) -> None:
    upload = world.publish_package("v", package(request.node.name))
    now = clock.now() + timedelta(days=3)
    listed = pa.Table.from_batches(inventory.batches(world.store, world.settings, now)).to_pylist()
    files = world.store.inventory(upload.upload_id)
    assert [(row["path"], row["size"], row["cid"], row["role"]) for row in listed] == [
        (file.path, file.size, file.cid, file.role) for file in files
    ]
    assert {(row["video_id"], row["revision"], row["state"], row["root"], row["nodes"]) for row in listed} == {
        ("v", 1, "published", upload.root, 1)
    }
    assert all(2.99 < row["proof_age_days"] < 3.01 and row["published_at"] < now for row in listed)
    in_s3 = {row["s3"].removeprefix("s3://media/") for row in listed if row["s3"]}
    assert in_s3
    assert in_s3 <= world.media()
    world.walk(upload, "clear_temp_storage", holder="path:clear")
    cleared = pa.Table.from_batches(inventory.batches(world.store, world.settings, now)).to_pylist()
    assert {(row["state"], row["s3"]) for row in cleared} == {("cleared", None)}


def test_a_later_round_of_proof_and_a_second_node_count(store: MetadataStore) -> None:
    published(store)
    assert [(row["nodes"], row["proven_at"]) for row in rows(store)] == [(1, after(11))]
    again = {"root": "bafyroot", "peer_id": "q", "proven_at": after(100)}
    with store.writing() as db:
        db.execute(sa.insert(tables.replica_proof).values(**again))
    assert [(row["nodes"], row["proven_at"]) for row in rows(store)] == [(2, after(100))]


def test_nothing_is_left_out_between_two_slices(store: MetadataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_UPLOADS_AT_ONCE", 2)
    monkeypatch.setattr(inventory, "_ROWS_AT_ONCE", 1)
    for number in range(1, 4):
        published(store, number, at=10 * number)
    staged(store, held(store, received(store, "w")))
    received(store, "x")
    listed = rows(store)
    assert sorted((row["video_id"], row["revision"]) for row in listed) == [("v", 1), ("v", 2), ("v", 3), ("w", 1)]
    assert [row["proven_at"] for row in listed if row["video_id"] == "w"] == [None]


def test_an_empty_store_makes_an_empty_table(store: MetadataStore, tmp_path: Path) -> None:
    found = inventory.batches(store, Settings(), after(0))
    assert inventory.write_parquet(found, tmp_path / "t") == inventory.Written(0, 0)
    assert pq.read_table(tmp_path / "t").schema.names == inventory.schema().names


def test_the_export_of_a_day_lies_in_s3(world: World, request: pytest.FixtureRequest) -> None:
    world.publish_package("v", package(request.node.name))
    key, written = inventory.export(world.store, world.objects, world.settings, after(0))
    assert key == "_inventory/2026-01-05.parquet"
    table = pq.read_table(io.BytesIO(world.read(key)))
    assert (table.num_rows, sum(table.column("size").to_pylist())) == (written.files, written.bytes)


def test_a_spreadsheet_takes_no_path_for_a_formula(sqlite_url: str, tmp_path: Path) -> None:
    store = MetadataStore(sqlite_url)
    published(store)
    with store.writing() as db:
        db.execute(sa.update(tables.inventory).values(path='=HYPERLINK("http://x"),1\n'))
    inventory.write_csv(inventory.batches(store, Settings(), after(12)), tmp_path / "t.csv")
    (text,) = pyarrow.csv.read_csv(
        tmp_path / "t.csv", parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
    ).column("path")
    assert text.as_py() == '\'=HYPERLINK("http://x"),1\n'


def test_a_file_that_cannot_be_written_is_named(sqlite_url: str, tmp_path: Path) -> None:
    found = inventory.batches(MetadataStore(sqlite_url), Settings(), after(0))
    with pytest.raises(UsageError, match="nowhere/t"):
        inventory.write_parquet(found, tmp_path / "nowhere" / "t")
