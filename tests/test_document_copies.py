"""Version documents on IPFS: each once, under a content id that stands beside its version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from hls_pipeline import clock
from hls_pipeline.cli import app
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.upkeep import anchors, document_copies
from tests.services import World, package


def put(world: World) -> int:
    return document_copies.put(world.store, world.nodes, world.settings, clock.now())


def test_every_version_is_put_once_and_its_content_id_is_that_of_its_text(
    world_on_each_database: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_on_each_database
    monkeypatch.setattr(document_copies, "_AT_ONCE", 3)
    for name in ("v", "w"):
        world.publish_package(name, package(f"copied {name}"))
    assert (put(world), put(world)) == (4, 0)
    world.publish_package("v", package("copied next"))
    assert put(world) == 2
    cids = world.store.document_cids("v")
    assert cids.keys() == {1, 2, 3, 4}
    for version in world.store.versions("v"):
        assert cids[version.n] == str(Cid.of(version.document.encode()))
        assert world.from_gateway(cids[version.n]) == version.document.encode()


def test_documents_go_with_the_anchor_where_the_setting_says_so_and_are_shown(
    world: World, as_environment: Any
) -> None:
    world.publish_package("v", package("with the anchor"))
    anchors.make(world.store, world.objects, world.nodes, world.settings, clock.now())
    assert world.store.document_cids("v") == {}
    asked = world.having(documents_on_ipfs=True)
    anchors.make(asked.store, asked.objects, asked.nodes, asked.settings, clock.now())
    as_environment(world.settings)
    shown = json.loads(CliRunner().invoke(app, ["versions", "v", "--json"], catch_exceptions=False).stdout)
    cids = world.store.document_cids("v")
    assert [version["cid"] for version in shown["versions"]] == [cids[1], cids[2]]
