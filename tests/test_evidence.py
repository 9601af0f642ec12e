"""The proof of a video: what it says, that it can be checked with nothing else at hand, and that no change passes."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hls_pipeline import evidence
from hls_pipeline.cli import app
from hls_pipeline.errors import Conflict, NotFound, UserError
from hls_pipeline.evidence import Evidence
from tests.services import World, media_playlist, package, ts

Document = dict[str, Any]


@pytest.fixture
def proven(world: World, request: pytest.FixtureRequest) -> Evidence:
    upload = world.publish_package("v", files_of(request.node.name))
    world.step("clear_temp_storage", upload, "hand:clear")
    return evidence.collect("v", world.store)


def files_of(seed: str) -> dict[str, bytes]:
    """One playlist goes to IPFS in another spelling than it was sent in."""
    files = package(seed)
    return {**files, "v/index.m3u8": media_playlist("s0.ts", "../v/s1.ts", "s2.ts", comment=seed)}


def changed(proof: Evidence, change: Callable[[Document], None]) -> Evidence:
    document = json.loads(proof.text())
    change(document)
    return evidence.parse(json.dumps(document).encode())


def on_disk(folder: Path, files: Mapping[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_a_proof_holds_and_names_files_receipts_and_every_version(proven: Evidence) -> None:
    assert list(evidence.problems(proven)) == []
    assert [file.path for file in proven.files][:2] == ["master.m3u8", "v/index.m3u8"]
    assert {item["kind"] for item in proven.receipts} == {"proof", "deletion"}
    assert [json.loads(version.document)["status"] for version in proven.versions] == ["processing", "ready"]


def test_it_is_checked_from_its_file_without_a_single_connection(
    proven: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    document = tmp_path / "proof.json"
    document.write_text(proven.text())
    folder = on_disk(tmp_path / "package", files_of(request.node.name))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("checking must not need anybody")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("HLS_DATABASE_URL", "HLS_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert run("proof", "--check", document)[0] == 0
    code, said = run("proof", "--check", document, "--package", folder, "--json")
    assert (code, json.loads(said)["holds"]) == (0, True)

    (folder / "v/s1.ts").write_bytes(ts("another"))
    (folder / "v/s2.ts").unlink()
    code, said = run("proof", "--check", document, "--package", folder, "--json")
    problems = json.loads(said)["problems"]
    assert code == 1
    assert [problem.split(":")[0] for problem in problems] == ["v/s1.ts", "v/s2.ts"]


def test_a_package_is_compared_under_the_settings_of_the_day_it_was_accepted(
    world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    files = files_of(request.node.name)
    files["v/index.m3u8"] = files["v/index.m3u8"].replace(b"../v/s1.ts", b"/v/s1.ts")
    world.having(root_relative=True).publish_package("v", files)
    (tmp_path / "proof.json").write_text(evidence.collect("v", world.store).text())
    folder = on_disk(tmp_path / "package", files)
    assert run("proof", "--check", tmp_path / "proof.json", "--package", folder)[0] == 0


@pytest.mark.parametrize("found", [7, {"key_service_url": 7}, {"key_service_url": "ftp://x"}])
def test_settings_in_a_proof_that_are_none_are_a_problem(proven: Evidence, tmp_path: Path, found: Any) -> None:
    forged = changed(proven, lambda document: document["facts"].update(accepted_under=found))
    (tmp_path / "proof.json").write_text(forged.text())
    assert run("proof", "--check", tmp_path / "proof.json", "--package", on_disk(tmp_path / "p", {"a": b""}))[0] == 1


def test_the_published_directory_itself_passes_as_the_package(proven: Evidence, world: World, tmp_path: Path) -> None:
    files = {file.path: world.from_gateway(f"{proven.root}/{file.path}") for file in proven.files}
    (tmp_path / "proof.json").write_text(proven.text())
    folder = on_disk(tmp_path / "package", files)
    assert run("proof", "--check", tmp_path / "proof.json", "--package", folder)[0] == 0


def _document(found: Document, number: int, **fields: Any) -> None:
    version = found["versions"][number]
    version["document"] = json.dumps({**json.loads(version["document"]), **fields})


def _proof(found: Document) -> Document:
    """The first receipt on which it was published."""
    return next(receipt for receipt in found["receipts"] if receipt["kind"] == "proof")


CHANGES: dict[str, tuple[Callable[[Document], None], str]] = {
    "a title": (lambda d: _document(d, 1, title="other"), "version 2: the document is not"),
    "an actor": (lambda d: d["versions"][0].update(actor="nobody"), "version 1: its hash"),
    "a time": (lambda d: d["versions"][1].update(time="2020-01-01T00:00:00.000Z"), "version 2: its hash"),
    "a lost version": (lambda d: d["versions"].pop(0), "version 1 is missing"),
    "the video": (lambda d: d.update(video_id="w"), "version 1: its hash"),
    "a size": (lambda d: d["files"][3].update(size=1), "1 bytes do not make"),
    "a path": (lambda d: d["files"][3].update(path="v/s9.ts"), "makes the directory"),
    "a path outside": (lambda d: d["files"][3].update(path="../s9.ts"), "makes no directory"),
    "a content id": (lambda d: d["files"][3].update(cid=d["files"][2]["cid"]), "makes the directory"),
    "no content id": (lambda d: d["files"][3].update(cid="bafy"), "makes no directory"),
    "a lost file": (lambda d: d["files"].pop(), "makes the directory"),
    "a file twice": (lambda d: d["files"].append(d["files"][0]), "a path twice"),
    "the root": (lambda d: d.update(root=d["files"][0]["cid"]), "makes the directory"),
    "the record": (lambda d: d.update(record=d["root"]), "ipfs_record"),
    "the order": (lambda d: d["files"].reverse(), "segments"),
    "the playlist": (lambda d: d.update(playlist="v/index.m3u8"), "playlist of the newest"),
    "the receipts": (lambda d: d.update(receipts=[]), "0 node(s) proved"),
    "odd receipts": (lambda d: d.update(receipts=[{"root": 1}]), "node(s) proved"),
    "a role": (lambda d: d["files"][3].update(role="key"), "the files' roles, the facts or"),
    "a content type": (lambda d: d["files"][3].update(content_type="text/html"), "the files' roles, the facts or"),
    "a fact": (lambda d: d["facts"].update(segments=1000), "the files' roles, the facts or"),
    "a receipt's node": (lambda d: _proof(d).update(peer_id="another"), "receipts are not those"),
    "a receipt's answer": (lambda d: _proof(d).update(answered="9 blocks of 9 bytes"), "receipts are not those"),
    "a receipt's time": (lambda d: _proof(d).update(at="2020-01-01T00:00:00.000Z"), "receipts are not those"),
    "a receipt's level": (lambda d: _proof(d).update(level="read_back"), "receipts are not those"),
    "a receipt beyond numbers": (lambda d: _proof(d).update(answered=2**60), "receipts are not those"),
    "a lost receipt": (lambda d: d["receipts"].remove(_proof(d)), "receipts are not those"),
    "the seal": (lambda d: d["versions"][1].update(reason="published"), "version 2: its hash"),
    "broken receipts": (lambda d: d.update(receipts=[{"kind": "proof"}]), "a receipt is none"),
}


def test_nothing_in_it_can_be_changed_unseen(proven: Evidence) -> None:
    for what, (change, expected) in CHANGES.items():
        found = list(evidence.problems(changed(proven, change)))
        assert any(expected in problem for problem in found), (what, found)


def test_a_number_beyond_what_json_agrees_on_is_proven_too(world: World, request: pytest.FixtureRequest) -> None:
    files = files_of(request.node.name)
    master = files["master.m3u8"].replace(b"BANDWIDTH=1000", b"BANDWIDTH=18446744073709551615")
    world.publish_package("v", {**files, "master.m3u8": master})
    proof = evidence.collect("v", world.store)
    assert list(evidence.problems(evidence.parse(proof.text().encode()))) == []


def test_proofs_that_came_later_are_no_change(proven: Evidence, world: World) -> None:
    """The nightly check adds receipts to a video that was published long ago."""
    later = changed(proven, lambda d: d["receipts"].append({**_proof(d), "at": "2040-01-01T00:00:00.000Z"}))
    assert list(evidence.problems(later)) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"format":"hls-pipeline-proof/2"}',
        b'{"format":"hls-pipeline-proof/1","video_id":"../x"}',
    ],
)
def test_what_is_no_proof_is_the_callers_fault(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        evidence.parse(data)


def test_a_video_without_a_revision_has_nothing_to_prove(world: World) -> None:
    with pytest.raises(NotFound):
        evidence.collect("nobody", world.store)
    world.drop("v", package("x"))
    with pytest.raises(Conflict):
        evidence.collect("v", world.store)


def test_the_command_writes_it_and_the_check_takes_it(
    proven: Evidence, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.settings.model_dump(include={"database_url", "s3_endpoint"}).items():
        monkeypatch.setenv(f"HLS_{name.upper()}", value)
    for name in ("ipfs_rpc_urls", "ipfs_gateway_urls"):
        monkeypatch.setenv(f"HLS_{name.upper()}", json.dumps(getattr(world.settings, name)))
    file = tmp_path / "proof.json"
    assert run("proof", "v", "-o", file)[0] == 0
    assert evidence.parse(file.read_bytes()) == proven
    code, said = run("proof", "v", "--json")
    assert (code, evidence.parse(said.encode())) == (0, proven)
    assert run("proof", "--check", file)[0] == 0
