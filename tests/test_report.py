"""The report: its numbers on a history that can be counted by hand, and its page as a browser shows it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser
from typer.testing import CliRunner

from hls_pipeline import clock, failures, tables
from hls_pipeline.assets.inventory import inventory
from hls_pipeline.cli import app
from hls_pipeline.definitions import defs
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.reports import figures
from hls_pipeline.reports import page as report_page
from hls_pipeline.reports.charts import CHARTS
from hls_pipeline.reports.figures import Report
from hls_pipeline.settings import Settings
from tests.services import World, package
from tests.test_metadata_store import REPORT, after, finalized, held, pinned, published, received

TOO_WIDE = """[...document.querySelectorAll("table, svg, .card, body")]
    .filter(each => each.getBoundingClientRect().right > each.parentElement.getBoundingClientRect().right + 1
        || each.scrollWidth > each.clientWidth + 1 && each.tagName !== "svg")
    .map(each => each.outerHTML.slice(0, 200))"""
EVIL = "<script>document.title = 'hacked'</script>"


def made(store: MetadataStore, at: float = 3600) -> Report:
    return figures.make(store, Settings(), after(-3600), after(at))


@pytest.fixture
def busy(sqlite_url: str) -> MetadataStore:
    """Two revisions published in 1 s and 19 s, one of them cleared, a package refused, an upload failed."""
    store = MetadataStore(sqlite_url)
    first = published(store, 1, at=12)
    lease = held(store, first)
    store.objects_removed(lease, [row.cid for row in store.temp_objects(first.upload_id)], {}, after(20))
    store.release(lease)
    published(store, 2, at=30, due_at=10**6)
    refused = held(store, received(store, "w"))
    store.reject(refused, REPORT, after(40))
    failed = held(store, received(store, "x"))
    for _ in range(3):
        failures.note(store, store.upload(failed.upload_id), "proof_missing", EVIL, after(50))
    store.fail(failed, EVIL, after(50))
    return store


def test_the_numbers_are_those_of_the_history(busy: MetadataStore) -> None:
    report = made(busy)
    totals = report.totals
    assert (totals["published"], totals["failed"], totals["refused"]) == (2, 1, 1)
    assert totals["success"] == pytest.approx(2 / 3)
    assert (totals["files"], totals["bytes"], totals["bytes_published"]) == (2, 20, 20)
    assert report.volume[["arrived", "published", "refused", "failed", "bytes"]].sum().tolist() == [4, 2, 1, 1, 20]
    stages = {row["stage"]: (row["uploads"], row["p50"], row["max"]) for row in report.stages.to_dict("records")}
    assert stages == {
        "check and store in S3": (2, 8.5, 9.0),  # received in second 1 and 2, staged in 10
        "add to IPFS and prove": (2, 1.0, 1.0),
        "record and publish": (2, 10.0, 19.0),
        "prove again, clear S3": (1, 8.0, 8.0),
    }
    assert report.replication.to_dict("records") == [{"nodes": 1, "files": 2, "bytes": 20}]
    assert report.storage.iloc[-1][["ipfs_only", "also_s3"]].tolist() == [10, 10]
    (failure,) = report.failures.to_dict("records")
    assert (failure["code"], failure["uploads"], failure["tries"]) == ("proof_missing", 1, 3)
    (refusal,) = report.refusals.to_dict("records")
    assert (refusal["code"], refusal["packages"]) == ("URI_MISSING_FILE", 1)
    assert refusal["meaning"]


def test_a_revision_without_s3_copies_does_not_count_as_still_in_s3(busy: MetadataStore) -> None:
    """One that was made from IPFS is published and never cleared: the plot showed it in S3 for ever."""
    with busy.writing() as db:
        db.execute(sa.delete(tables.temp_storage))
    assert made(busy).storage.iloc[-1][["ipfs_only", "also_s3"]].tolist() == [20, 0]


def test_what_happened_before_does_not_count_but_what_there_is_does(busy: MetadataStore) -> None:
    report = figures.make(busy, Settings(), after(35), after(60))
    assert (report.totals["published"], report.totals["files"]) == (0, 2)
    assert report.storage["ipfs_only"].tolist() == [10]


def test_a_promise_is_measured_against_the_publication(store: MetadataStore) -> None:
    """The document promises whole seconds: 12 was kept to the second, 30 was 5 s too late."""
    published(store, 1, at=12)
    lease = held(store, received(store, "v", 2))
    pinned(store, lease, 2)
    finalized(store, lease, 2, at=30)
    report = made(store)
    assert report.totals["promises_kept"] is None  # these documents promised nothing
    late = [after(12) - after(25), after(30) - after(25)]
    found = figures._promises([each.total_seconds() for each in late])
    assert found[found["uploads"] > 0]["from_seconds"].tolist() == [-60, 3]


def test_an_empty_store_makes_a_report_too(store: MetadataStore) -> None:
    report = made(store)
    assert report.totals["files"] == 0
    page = report_page.html(report)
    assert page.count("nothing yet") == len(CHARTS) - 1  # that of the promises has its classes, all empty
    assert json.dumps(report.to_json())


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(
    busy: MetadataStore, browser: Browser, tmp_path: Path
) -> None:
    with busy.writing() as db:
        db.execute(sa.update(tables.inventory).values(content_type=EVIL))
    file = tmp_path / "report.html"
    file.write_text(report_page.html(made(busy)))
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.title().startswith("hls-pipeline report")
    assert page.locator("svg").count() == len(CHARTS)
    assert all(box and box["width"] > 300 for box in (each.bounding_box() for each in page.locator("svg").all()))
    for width in (1180, 600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(TOO_WIDE) == []
    assert EVIL in page.inner_text("main")
    page.emulate_media(color_scheme="dark")
    shown = "part => getComputedStyle(document.querySelector(part)).backgroundColor"
    assert page.evaluate(shown, "body") == "rgb(18, 22, 26)"
    assert page.evaluate(shown, ".card svg") == "rgb(255, 255, 255)"
    page.close()
    assert asked == [file.as_uri()]


def test_the_command_writes_the_page_the_tables_and_the_numbers(
    world: World, request: pytest.FixtureRequest, as_environment: Callable[[Settings], None], tmp_path: Path
) -> None:
    world.publish_package("v", package(request.node.name))
    as_environment(world.settings)
    files = {name: str(tmp_path / f"report.{name}") for name in ("html", "csv", "parquet")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    done = CliRunner().invoke(app, ["report", *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["totals"]["published"], found["totals"]["promises_kept"]) in ((1, 1.0), (1, 0.0))
    assert {Path(path).stat().st_size > 500 for path in files.values()} == {True}
    assert CliRunner().invoke(app, ["report"]).exit_code != 0


def test_the_asset_writes_the_table_and_shows_the_plots(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish_package("v", package(request.node.name))
    assert world.settings.s3_secret_key
    for name in ("database_url", "s3_endpoint", "s3_access_key"):
        monkeypatch.setenv(f"HLS_{name.upper()}", str(getattr(world.settings, name)))
    monkeypatch.setenv("HLS_S3_SECRET_KEY", world.settings.s3_secret_key.get_secret_value())
    found = dg.materialize([inventory], resources=dict(defs().resources or {}))
    (event,) = found.get_asset_materialization_events()
    shown: dict[str, Any] = dict(event.materialization.metadata)
    day = clock.text(clock.now())[:10]
    assert shown["table"].value == f"s3://media/_inventory/{day}.parquet"
    assert f"_inventory/{day}.parquet" in world.media()
    images = [value.value for value in shown.values() if isinstance(value, dg.MarkdownMetadataValue)]
    assert len(images) == len(CHARTS)
    assert all(re.fullmatch(r"!\[[^]]+\]\(data:image/png;base64,iVBOR[\w+/=]+\)", image) for image in images)
    assert sum(map(len, images)) < 200_000  # they stay in Dagster's event log for ever


def test_what_is_drawn_with_is_imported_only_when_drawing() -> None:
    code = "import sys, hls_pipeline.cli; from hls_pipeline.reports import charts, figures, inventory"
    names = "sorted({'pandas', 'pyarrow', 'matplotlib', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}; print({names})"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_width_of_a_point_in_time_follows_the_span() -> None:
    spans = (timedelta(minutes=5), timedelta(hours=20), timedelta(days=30), timedelta(days=300))
    assert [figures._bucket(span) for span in spans] == ["5min", "h", "D", "W-MON"]
