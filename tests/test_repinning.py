"""Nodes that lost something: each is whole again afterwards, or the report says precisely what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hls_pipeline import clock, replicas, withdrawal
from hls_pipeline.cli import app
from hls_pipeline.errors import UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.upkeep import alerts, catalogue, repinning
from hls_pipeline.upkeep.catalogue import Ledger
from hls_pipeline.upkeep.repinning import Health
from hls_pipeline.uploads import State, Upload
from tests.contract import nodes
from tests.contract.nodes import IpfsNode
from tests.services import World, free_ports, package, published, ts


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[IpfsNode, IpfsNode]]:
    """Two nodes; the first may be asked for by its kind."""
    with ExitStack() as running:
        made = []
        for kind in (getattr(request, "param", "embedded"), "embedded"):
            repo = tmp_path_factory.mktemp("node") / "repo"
            made.append(running.enter_context(nodes.running(kind, repo)))
        yield made[0], made[1]


def at(world: World, *those: IpfsNode, **changes: Any) -> World:
    return world.having(
        ipfs_rpc_urls=tuple(node.rpc_url for node in those),
        ipfs_gateway_urls=tuple(node.gateway_url for node in those),
        **changes,
    )


@pytest.fixture
def both(world: World, pair: tuple[IpfsNode, IpfsNode]) -> World:
    return at(world, *pair, ipfs_quorum=2)


@pytest.fixture
def files(request: pytest.FixtureRequest) -> dict[str, bytes]:
    """With a segment of two blocks."""
    return {**package(request.node.name), "v/s2.ts": ts(request.node.name, 7000)}


@pytest.fixture
def cleared(both: World, files: dict[str, bytes]) -> Upload:
    return both.step("clear_temp_storage", both.publish_package("v", files), "hand:clear")


def check(world: World, **options: Any) -> Health:
    return repinning.check(world.objects, world.nodes, world.store, world.settings, **options)


def forget_proofs(world: World) -> None:
    """As if all was published long ago, and never given back since."""
    with world.store.writing() as db:
        db.exec_driver_sql("UPDATE state_change SET time = '2020-01-01T00:00:00.000Z'")
        db.exec_driver_sql("DELETE FROM replica_proof")


def assert_whole(world: World, upload: Upload, files: dict[str, bytes]) -> None:
    for n, node in enumerate(world.nodes):
        for root in (upload.root, upload.record):
            assert node.pinned(Cid.parse(root or ""))
            replicas.read_back(node, root or "")
        for path, data in published(files).items():
            assert world.from_gateway(f"{upload.root}/{path}", n) == data


def roots(upload: Upload) -> list[str]:
    return [upload.root or "", upload.record or ""]


def test_nothing_is_done_where_nothing_is_wrong(both: World, cleared: Upload) -> None:
    pins = [node.pinned(Cid.parse(cleared.root or "")) for node in both.nodes]
    found = check(both)
    assert found.healthy
    assert found.wanted == 2
    assert [(node.missing, node.damaged, node.mended, node.left) for node in found.nodes] == [(0, 0, 0, 0)] * 2
    assert [node.pinned(Cid.parse(cleared.root or "")) for node in both.nodes] == pins


def test_a_pin_removed_on_one_node_is_set_again(both: World, cleared: Upload, files: dict[str, bytes]) -> None:
    both.nodes[0].unpin(Cid.parse(cleared.root or ""))
    looked = check(both, dry_run=True)
    assert (looked.healthy, looked.short, looked.lost) == (False, 1, 0)
    assert both.nodes[0].pinned(Cid.parse(cleared.root or "")) is None
    found = check(both)
    assert found.healthy
    assert [(node.missing, node.mended) for node in found.nodes] == [(1, 1), (0, 0)]
    assert_whole(both, cleared, files)
    levels = {item["level"] for item in both.store.receipts(cleared.upload_id, "proof")[-3:]}
    assert levels == {"pinned", "complete", "read_back"}
    assert check(both).nodes[0].missing == 0


def test_pins_removed_on_both_nodes_are_set_again(both: World, cleared: Upload, files: dict[str, bytes]) -> None:
    for node in both.nodes:
        for root in roots(cleared):
            node.unpin(Cid.parse(root))
    assert check(both, dry_run=True).lost == 2
    assert check(both).healthy
    assert_whole(both, cleared, files)


@pytest.mark.parametrize("pair", nodes.KINDS, indirect=True)
@pytest.mark.parametrize(("damage", "pinned"), [("deleted", True), ("corrupted", True), ("deleted", False)])
def test_a_damaged_block_file_is_found_and_mended_from_the_other_node(
    both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes], damage: str, pinned: bool
) -> None:
    path = pair[0].block_file(files["v/s1.ts"])
    data = path.read_bytes()
    path.chmod(0o600)
    path.unlink()
    if damage == "corrupted":
        path.write_bytes(bytes(len(data)))
    if not pinned:
        both.nodes[0].unpin(Cid.parse(cleared.root or ""))
    forget_proofs(both)
    found = check(both)
    assert found.healthy, found.problems
    assert (found.nodes[0].missing, found.nodes[0].damaged, found.nodes[0].mended) == (not pinned, pinned, 1)
    assert found.nodes[1].proven == 2
    assert_whole(both, cleared, files)


def test_nodes_that_lack_different_blocks_mend_each_other(
    both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes]
) -> None:
    for node, name in zip(pair, ("v/s0.ts", "v/s1.ts"), strict=True):
        node.block_file(files[name]).unlink()
    forget_proofs(both)
    assert check(both).healthy
    assert_whole(both, cleared, files)


def test_what_no_node_has_comes_from_s3_as_long_as_it_is_there(
    both: World, pair: tuple[IpfsNode, IpfsNode], files: dict[str, bytes]
) -> None:
    upload = both.publish_package("v", files)
    for node in pair:
        node.block_file(files["v/s1.ts"]).unlink()
    forget_proofs(both)
    assert check(both).healthy
    assert_whole(both, upload, files)


def test_what_is_nowhere_any_more_is_named_and_the_rest_stays_as_it_is(
    both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes]
) -> None:
    for node in pair:
        node.block_file(files["v/s1.ts"]).unlink()
    forget_proofs(both)
    found = check(both)
    assert not found.healthy
    assert (found.short, found.lost) == (1, 1)
    assert [node.left for node in found.nodes] == [1, 1]
    assert any("video v" in problem and str(cleared.root) in problem for problem in found.problems)
    for node in both.nodes:
        assert node.pinned(Cid.parse(cleared.root or ""))
        replicas.read_back(node, cleared.record or "")


def test_people_are_told_of_what_no_node_can_mend_until_it_is_whole_again(
    both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes]
) -> None:
    """Only the page of the asset said so; the job that found a lost video had ended well."""
    lost = [node.block_file(files["v/s1.ts"]) for node in pair]
    kept = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    forget_proofs(both)
    check(both, dry_run=True)
    assert alerts.known(both.store) == []
    check(both)
    alerts.settle(both.store, (), (), both.settings, clock.now())  # a look twice a minute does not see it
    (problem,) = alerts.known(both.store)
    assert problem.title.startswith("1 of 2 published directories are on fewer than 2 nodes, 1 on none")
    assert "video v" in problem.cause
    for path, data in zip(lost, kept, strict=True):
        path.write_bytes(data)
    check(both)
    assert alerts.known(both.store) == []


def test_a_node_replaced_by_an_empty_one_is_filled_up(
    world: World, both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes], tmp_path: Path
) -> None:
    with nodes.running("embedded", tmp_path / "new") as new:
        replaced = at(world, pair[1], new, ipfs_quorum=2)
        found = check(replaced)
        assert found.healthy
        assert (found.nodes[1].missing, found.nodes[1].mended) == (2, 2)
        assert_whole(replaced, cleared, files)


def test_a_node_joins_before_another_leaves(
    world: World, both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload, files: dict[str, bytes], tmp_path: Path
) -> None:
    """What the others did not prove lately they give back; nothing is removed from the one that goes."""
    leaving = both.nodes[0].name
    with pytest.raises(UsageError, match="fewer nodes than HLS_IPFS_QUORUM"):
        check(both, leave=leaving)
    with nodes.running("embedded", tmp_path / "new") as new:
        three = at(world, *pair, new, ipfs_quorum=2)
        with pytest.raises(UsageError, match="none of the nodes"):
            check(three, join="127.0.0.1:1")
        joined = check(three, join=three.nodes[2].name)
        assert joined.healthy
        assert [node.mended for node in joined.nodes] == [0, 0, 2]
        found = check(three, leave=leaving)
        assert found.healthy
        assert [(node.node, node.proven) for node in found.nodes] == [
            (three.nodes[1].name, 2),
            (three.nodes[2].name, 0),
        ]
        assert_whole(three, cleared, files)


def test_a_node_that_does_not_answer_is_no_empty_one(
    both: World, pair: tuple[IpfsNode, IpfsNode], cleared: Upload
) -> None:
    port = free_ports(1)[0]
    down = Kubo(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
    found = repinning.check(both.objects, (both.nodes[0], down), both.store, both.settings)
    assert not found.answering
    assert found.nodes[0].unreachable is None
    assert found.nodes[1].unreachable
    assert (found.nodes[1].missing, found.nodes[1].mended, found.lost) == (0, 0, 0)


def test_what_was_withdrawn_is_not_pinned_again(both: World, cleared: Upload, files: dict[str, bytes]) -> None:
    """Also where the catalogue was read just before."""
    with Ledger() as ledger:
        ledger.read_catalogue(both.store)
        health = repinning._look(both.nodes[0], ledger, repinning._Problems())
        services = {"objects": both.objects, "nodes": both.nodes, "store": both.store, "settings": both.settings}
        withdrawal.withdraw("v", actor="test", reason="a test", **services)  # type: ignore[arg-type]
        ledger.is_damaged(health.peer_id or "", cleared.root or "")
        keeper = repinning._Keeper(ledger, both.nodes, both.objects, both.store, both.settings, repinning._Problems())
        keeper.whole(both.nodes[0], health, leaving=False)
    assert [node.pinned(Cid.parse(root)) for node in both.nodes for root in roots(cleared)] == [None] * 4
    assert both.store.claims(cleared.upload_id) == ()
    assert both.store.upload(cleared.upload_id).state is State.WITHDRAWN
    assert check(both).wanted == 0


def test_a_video_that_somebody_works_on_waits_for_the_next_time(both: World, cleared: Upload) -> None:
    both.nodes[0].unpin(Cid.parse(cleared.root or ""))
    lease = both.store.take_lease(cleared, "hand:somebody", clock.now(), 60)
    found = check(both)
    assert (found.healthy, found.nodes[0].left) == (False, 1)
    assert any("hand:somebody is at work on it" in problem for problem in found.problems)
    both.store.release(lease)
    assert check(both).healthy


# ---- the rotating share ---------------------------------------------------------------------------------------------


def test_everything_is_given_back_once_within_the_days_and_no_day_is_much_busier() -> None:
    with Ledger() as ledger:
        ledger._fill("wanted", iter((f"root-{n:03}", "u", "v", 0, "2026-01-01T00:00:00.000Z") for n in range(100)))
        ledger._fill("pin", iter(("peer", f"root-{n:03}", "") for n in range(100)))
        begin, given = clock.parse("2026-01-01T02:30:00.000Z"), list[str]()
        for day in range(9):
            now = begin + timedelta(days=day)
            today = [wanted.root for wanted in ledger.due("peer", now, 10)]
            assert len(today) == 10
            for root in today:
                ledger.is_there("peer", root, now + timedelta(minutes=5))
            given += today
            again = ledger.due("peer", now + timedelta(hours=1), 10)
            assert list(again) == [], "a second look in the same night gives back nothing more"
        late = ledger.due("peer", begin + timedelta(days=20), 10)
        assert len(list(late)) == 100, "after a long pause all of it is overdue"
        assert len(set(given)) == 90


def test_what_was_just_published_waits_for_its_turn(both: World, cleared: Upload) -> None:
    assert [node.proven for node in check(both).nodes] == [1, 1], "of two roots, the share of a day is one"
    assert [node.proven for node in check(both).nodes] == [0, 0]


def test_proofs_of_what_is_gone_are_forgotten(both: World, cleared: Upload) -> None:
    catalogue.note_proof(both.store, "peer", "bafygone", clock.now())
    check(both)
    with both.store.reading() as db:
        assert {row[0] for row in db.exec_driver_sql("SELECT root FROM replica_proof")} <= set(roots(cleared))


# ---- from a shell ---------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_wrong_and_mends_it(both: World, cleared: Upload, as_environment: Any) -> None:
    as_environment(both.settings)
    both.nodes[0].unpin(Cid.parse(cleared.root or ""))
    looked = CliRunner().invoke(app, ["repin", "--dry-run"])
    assert looked.exit_code == 3
    assert "1 missing" in looked.stdout
    done = CliRunner().invoke(app, ["repin", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    about = json.loads(done.stdout)
    assert about["healthy"] is True
    assert [(node["node"], node["mended"]) for node in about["nodes"]] == [
        (both.nodes[0].name, 1),
        (both.nodes[1].name, 0),
    ]
    assert both.media() == {"v/metadata.json"}
