"""Anchors of the version chains: made once, kept on IPFS and in S3, and what they find that the chains cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from hls_pipeline import audit, clock, tables
from hls_pipeline.assets.version_anchor import version_anchor
from hls_pipeline.cli import app
from hls_pipeline.definitions import defs
from hls_pipeline.errors import Corruption, Outage
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import anchors
from hls_pipeline.upkeep.anchors import Anchor
from tests.services import MEDIA, World, cutting_proxy
from tests.test_metadata_store import after, held, published


@pytest.fixture
def history(world: World) -> World:
    """A video with two revisions: four versions."""
    published(world.store, 1, at=12)
    published(world.store, 2, at=30)
    return world


def anchored(world: World, at: float = 100) -> Anchor:
    return anchors.make(world.store, world.objects, world.nodes, world.settings, after(at))


def newest(world: World) -> Anchor | None:
    return anchors.newest(world.store, world.objects, world.nodes, world.settings)


def rewrite(store: MetadataStore, statement: str) -> None:
    """As somebody with full rights on the database would."""
    with store.writing() as db:
        for trigger in ("version_refuses_update", "version_refuses_delete"):
            db.execute(sa.text(f"DROP TRIGGER IF EXISTS {trigger}"))
        db.execute(sa.text(statement))


def cut_off(store: MetadataStore) -> None:
    """The last two versions never were, and every chain holds."""
    rewrite(store, "DELETE FROM version WHERE n > 2")
    rewrite(store, "UPDATE video SET versions = 2, current_version = 2")


def test_an_anchor_lies_on_ipfs_and_in_s3_and_names_every_head(history: World) -> None:
    made = anchored(history)
    heads = audit.heads(audit.on_record(history.store))
    assert made.heads == heads == {"v": (4, heads["v"][1])}
    assert history.nodes[0].pinned(Cid.parse(made.root))
    document = json.loads(history.from_gateway(f"{made.root}/anchor.json"))
    assert document == json.loads(history.read(made.key)) == made.document.model_dump(mode="json")
    known = anchors.recorded(history.store)
    assert known
    assert (known.root, known.key, known.videos) == (made.root, made.key, 1)


def test_the_next_anchor_names_the_one_before_and_without_news_there_is_none(history: World) -> None:
    first = anchored(history)
    assert anchored(history, at=200) == first
    published(history.store, 3, at=300)
    second = anchored(history, at=400)
    assert (second.document.previous, newest(history)) == (first.root, second)


def test_an_anchor_is_found_in_one_place_when_the_other_is_lost(history: World) -> None:
    made = anchored(history)
    rewrite(history.store, "DELETE FROM anchor")
    assert newest(history) == made  # S3 knows it
    assert anchored(history, at=200) == made
    known = anchors.recorded(history.store)
    assert known
    assert known.root == made.root  # and now the database again
    history.empty_buckets()
    assert newest(history) == made  # from IPFS


def test_an_anchor_that_somebody_wrote_over_is_not_believed(history: World) -> None:
    made = anchored(history)
    other = made.document.model_copy(update={"heads": {}})
    history.objects.put(MEDIA, made.key, other.bytes(), "application/json")
    assert newest(history) == made
    with pytest.raises(Corruption, match="as it was"):
        anchors.read(made.root, history.objects, (), history.settings, made.key)


def test_a_truncated_history_whose_chain_holds_is_found_and_not_anchored(history: World) -> None:
    made = anchored(history)
    cut_off(history.store)
    assert audit.verify(audit.on_record(history.store)).holds
    verdict = audit.verify(audit.on_record(history.store), made.heads)
    assert verdict.first_break == audit.Break("v", 2, "the anchor knows version 4 of it")
    with pytest.raises(Corruption, match="version 4 is not what it was"):
        anchored(history, at=200)


def test_receipts_cut_off_at_their_end_are_missed_and_not_anchored(history: World, command: Any) -> None:
    """Their chain holds without the last one: on it S3 copies were removed."""
    upload = history.store.current_upload("v")
    assert upload
    lease = held(history.store, upload)
    for n in range(3):
        history.store.add_receipts(lease, "proof", [{"answered": str(n)}], after(40 + n))
    made = anchored(history)
    assert len(made.receipts["v"]) == 2  # of both uploads
    assert command("audit", "verify").exit_code == 0
    history.store.add_receipts(lease, "proof", [{"answered": "later"}], after(50))
    assert command("audit", "verify").exit_code == 0
    rewrite(history.store, "DELETE FROM receipt WHERE id >= (SELECT max(id) - 1 FROM receipt)")
    assert command("audit", "verify", "--no-anchor").exit_code == 0
    found = command("audit", "verify")
    assert (found.exit_code, "video v, version 4: a receipt is gone that the anchor knows" in found.stdout) == (1, True)
    with pytest.raises(Corruption, match="video v: a receipt is gone"):
        anchored(history, at=200)
    assert command("audit", "anchor", "--restored").exit_code == 0
    assert command("audit", "verify").exit_code == 0


def test_an_anchor_from_before_receipts_were_in_it_keeps_its_address() -> None:
    document = anchors.Document(
        profile="unixfs-v1-2025", time="2026-01-05T12:00:00.000Z", previous=None, heads={"v": (1, "h")}
    )
    assert b"receipts" not in document.bytes()
    assert anchors.Document.model_validate_json(document.bytes()) == document


def test_after_a_restore_somebody_accepts_the_loss_and_it_stays_visible(history: World) -> None:
    made = anchored(history)
    cut_off(history.store)
    now = after(200)
    again = anchors.make(history.store, history.objects, history.nodes, history.settings, now, restored=True)
    assert again.document.previous == made.root
    assert audit.verify(audit.on_record(history.store), again.heads).holds
    assert not audit.verify(audit.on_record(history.store), made.heads).holds
    assert anchored(history, at=300) == again


def test_nothing_is_anchored_when_a_place_cannot_be_asked(history: World) -> None:
    anchored(history)
    endpoint = history.settings.s3_endpoint
    assert endpoint
    with cutting_proxy(endpoint, 0) as nowhere, pytest.raises(Outage):
        newest(history.having(s3_endpoint=nowhere))


# ---- from a shell and from Dagster --------------------------------------------------------------------------------


@pytest.fixture
def command(history: World, as_environment: Callable[[Settings], None]) -> Callable[..., Any]:
    as_environment(history.settings)
    return lambda *words: CliRunner().invoke(app, words)


def test_audit_verify_compares_with_the_newest_anchor(history: World, command: Any, tmp_path: Path) -> None:
    assert "nothing is missing since" not in command("audit", "verify").stdout
    made = json.loads(command("audit", "anchor", "--json").stdout)
    verified = command("audit", "verify").stdout
    assert verified.startswith("all 4 versions of 1 videos hold, and nothing is missing since")
    assert made["root"] in verified
    export = tmp_path / "export.jsonl"
    assert command("audit", "export", str(export)).exit_code == 0
    assert json.loads(export.read_text().splitlines()[-1]) == {"end": 4, "anchor": made["root"]}
    assert command("audit", "verify", str(export), "--anchor", made["root"]).exit_code == 0
    cut_off(history.store)
    found = command("audit", "verify")
    assert (found.exit_code, found.stdout.splitlines()[0]) == (
        1,
        "video v, version 2: the anchor knows version 4 of it; 2 held before it",
    )
    assert command("audit", "verify", "--no-anchor").exit_code == 0
    assert command("audit", "anchor").exit_code == 1
    assert command("audit", "anchor", "--restored").exit_code == 0
    assert command("audit", "verify").exit_code == 0


def test_the_asset_anchors_and_says_where(history: World, as_environment: Callable[[Settings], None]) -> None:
    as_environment(history.settings)
    resources = dict(defs().resources or {})
    resources["s3"] = resources["s3"].model_copy(update={"endpoint_url": history.settings.s3_endpoint})
    done = dg.materialize([version_anchor], resources=resources)
    (event,) = done.get_asset_materialization_events()
    found = newest(history)
    assert found
    assert event.materialization.metadata["anchor"].value == found.root
    with history.store.reading() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(tables.anchor)).scalar() == 1
    assert clock.parse(found.document.time) <= clock.now()
