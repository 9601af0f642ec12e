"""What the doctor says of a node: of the real ones as we set them up, and of ones that are set up badly."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hls_pipeline.errors import Outage
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.doctor import Finding, judge
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.local import kubo
from tests.contract import nodes
from tests.contract.faults import listening, plain

SCRIPT = Path(__file__).parents[2] / "deploy" / "kubo.sh"
MARK = "By this block the gateway of the IPFS node peer is told from others.\n"


@pytest.mark.parametrize("kind", nodes.KINDS)
def test_a_node_as_we_set_it_up_is_well(kind: str, tmp_path: Path) -> None:
    with nodes.running(kind, tmp_path / "repo") as node, node.client() as client:
        findings = judge(client)
        assert [finding for finding in findings if not finding.ok] == []
        looked_at = {finding.about for finding in findings}
        assert {"version", "gateway", "space"} <= looked_at
        if kind == "kubo":
            assert {"durability", "NoFetch", "profile", "garbage collection", "disk"} <= looked_at
        assert client.pinned(Cid.of(b"anything")) is None


def test_the_gateway_of_another_node_is_found_out(tmp_path: Path) -> None:
    with nodes.running("embedded", tmp_path / "one") as one, nodes.running("embedded", tmp_path / "two") as two:
        first, *_ = judge(Kubo(one.rpc_url, two.gateway_url))
    assert (first.about, first.ok) == ("gateway", False)
    assert "in the order of HLS_IPFS_RPC_URLS" in first.detail


GOOD: dict[str, Any] = {
    "version": {"Version": "0.43.1"},
    "repo/stat": {"RepoSize": 1, "StorageMax": 10 << 30, "NumObjects": 1, "Version": "18"},
    "diag/sys": {"diskinfo": {"free_space": 20 << 30, "total_space": 100 << 30}},
    "config/show": {
        "Datastore": {
            "BlockKeyCacheSize": 0,
            "Spec": {"type": "mount", "mounts": [{"type": "measure", "child": {"type": "flatfs", "sync": True}}]},
        },
        "Gateway": {"NoFetch": True},
        "Import": {
            "CidVersion": 1,
            "UnixFSRawLeaves": True,
            "UnixFSChunker": "size-1048576",
            "UnixFSFileMaxLinks": 1024,
        },
    },
    "cmdline": "ipfs\0daemon",
    "/api/v0/id": {"ID": "peer"},
    "block/stat": {"Key": str(Cid.of(MARK.encode())), "Size": len(MARK)},
    "dag/import": {"Stats": {"BlockCount": 1, "BlockBytesCount": len(MARK)}},
    "format=raw": MARK,
}


@contextmanager
def saying(changes: dict[str, Any]) -> Iterator[Kubo]:
    """A node with these answers; None is a refusal."""
    answers = {**GOOD, **changes}

    def serve(connection: Any) -> None:
        asked = connection.recv(65536).split(b" ")[1].decode()
        answer = next(value for call, value in answers.items() if call in asked)
        if answer is None:
            connection.sendall(plain(b"403 - Forbidden", "403 Forbidden"))
        else:
            text = answer if isinstance(answer, str) else json.dumps(answer) + "\n"
            connection.sendall(plain(text.encode()))

    with listening(serve) as address, Kubo(f"http://{address}", f"http://{address}", stall_seconds=5) as node:
        yield node


def said(changes: dict[str, Any]) -> list[Finding]:
    with saying(changes) as node:
        return judge(node)


def _config(**changes: Any) -> dict[str, Any]:
    return {"config/show": {**GOOD["config/show"], **changes}}


def test_a_good_node_gets_no_advice() -> None:
    assert [finding for finding in said({}) if finding.advice or not finding.ok] == []


@pytest.mark.parametrize(
    ("changes", "about", "advice"),
    [
        ({"version": {"Version": "0.43.0"}}, "version", "0.43.1"),
        ({"version": {"Version": "0.9.1-dev"}}, "version", "0.43.1"),
        (_config(Datastore={"Spec": {"mounts": [{"type": "flatfs", "sync": False}]}}), "durability", '"sync": true'),
        (_config(Datastore={"Spec": {"mounts": [{"type": "flatfs"}]}}), "durability", '"sync": true'),
        (_config(Gateway={"NoFetch": False}), "NoFetch", "Gateway.NoFetch"),
        (_config(Gateway=None), "NoFetch", "Gateway.NoFetch"),
        ({"cmdline": "ipfs\0daemon\0--enable-gc"}, "garbage collection", "--enable-gc"),
        ({"cmdline": "ipfs\0daemon\0--enable-gc=true"}, "garbage collection", "--enable-gc"),
        ({"format=raw": None}, "gateway", "HLS_IPFS_GATEWAY_URLS"),
        ({"format=raw": "some page"}, "gateway", "HLS_IPFS_GATEWAY_URLS"),
        ({"repo/stat": {**GOOD["repo/stat"], "RepoSize": (10 << 30) - 5}}, "space", "StorageMax"),
        ({"diag/sys": {"diskinfo": {"free_space": 5, "total_space": 100 << 30}}}, "disk", "room"),
    ],
)
def test_what_is_wrong_comes_first_and_with_advice(changes: dict[str, Any], about: str, advice: str) -> None:
    first, *rest = said(changes)
    assert (first.about, first.ok) == (about, False)
    assert advice in first.advice
    assert all(finding.ok for finding in rest)


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"config/show": None}, "configuration"),
        ({"cmdline": None}, "garbage collection"),
        (_config(Import={"CidVersion": None}), "profile"),
        (_config(Datastore={"BlockKeyCacheSize": 65536}), "mending"),
        (_config(Datastore={}), "mending"),
        ({"diag/sys": {**GOOD["diag/sys"], "runtime": {"numcpu": 16}}}, "batches"),
        ({"diag/sys": {"diskinfo": {"free_space": 5 << 30, "total_space": 100 << 30}}}, "disk"),
    ],
)
def test_what_could_be_better_or_cannot_be_seen_is_advice_and_no_fault(changes: dict[str, Any], about: str) -> None:
    first, *rest = said(changes)
    assert (first.about, first.ok) == (about, True)
    assert first.advice
    assert not any(finding.advice for finding in rest)


def test_the_profile_asked_for_is_the_one_that_is_set() -> None:
    for changes in (_config(Import={}), _config(Import={"CidVersion": 0, "UnixFSChunker": "size-262144"})):
        with saying(changes) as node:
            about = {finding.about: finding for finding in judge(node, "unixfs-v0-2015")}
        assert (about["profile"].detail, about["profile"].advice) == ("unixfs-v0-2015", "")


if "kubo" in nodes.KINDS:

    def test_a_kubo_that_collects_garbage_by_itself_is_seen(tmp_path: Path) -> None:
        with nodes.running("kubo", tmp_path / "repo", "--enable-gc") as node, node.client() as client:
            first, *rest = judge(client)
        assert (first.about, first.ok) == ("garbage collection", False)
        assert all(finding.ok for finding in rest)

    def test_a_kubo_as_deploy_sets_it_up_is_well(tmp_path: Path) -> None:
        """The doctor reads the configuration that the script leaves behind, said once or twice."""
        environment = kubo.environment(tmp_path / "repo")
        commands = (["ipfs", "init", "--profile=server,unixfs-v1-2025"], *[[str(SCRIPT)]] * 2)
        for command in commands:
            subprocess.run(command, env=environment, check=True, capture_output=True)
        config = json.loads((tmp_path / "repo" / "config").read_text())
        assert config["Datastore"]["StorageMax"] == "1TB"
        assert [finding for finding in said({"config/show": config}) if finding.advice or not finding.ok] == []


def test_a_node_that_is_down_is_an_outage() -> None:
    with pytest.raises(Outage):
        judge(Kubo("http://127.0.0.1:1", "http://127.0.0.1:1"))
