"""The folder of a stack: ports, credentials, and what other commands read from it."""

from __future__ import annotations

import fcntl
import json
import socket
import threading
from pathlib import Path

import pytest

from hls_pipeline.errors import Outage, UsageError
from hls_pipeline.local.data_folder import DataFolder, running, settings_of, write_private
from hls_pipeline.settings import Settings

NAMES = ("s3", "admin")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path)


def ports_of(folder: DataFolder, **companions: int) -> dict[str, int]:
    """What a start with this folder would get."""
    with folder.ports(NAMES, companions) as ports:
        return ports


def test_ports_are_kept_from_start_to_start(folder: DataFolder) -> None:
    assert ports_of(folder) == ports_of(folder)


def test_a_busy_port_is_replaced_and_the_others_stay(folder: DataFolder) -> None:
    first = ports_of(folder)
    with socket.create_server(("127.0.0.1", first["s3"])):
        second = ports_of(folder)
    assert second["s3"] != first["s3"]
    assert second["admin"] == first["admin"]


def test_a_port_is_busy_too_when_its_companion_is(folder: DataFolder) -> None:
    first = ports_of(folder, admin=10000)
    with socket.create_server(("127.0.0.1", first["admin"] + 10000)):
        assert ports_of(folder, admin=10000)["admin"] != first["admin"]


def test_stacks_that_start_at_once_get_ports_of_their_own(folder: DataFolder) -> None:
    """Nobody listens yet on what the first has chosen."""
    with folder.ports(NAMES, {}) as first:
        assert not set(first.values()) & set(ports_of(folder).values())


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"s3": "many"}', '{"s3": 99999999}', '{"s3": -1, "admin": null}'])
def test_a_damaged_port_file_is_written_anew(folder: DataFolder, text: str) -> None:
    (folder.path / "ports.json").write_text(text)
    ports = ports_of(folder)
    assert json.loads((folder.path / "ports.json").read_text()) == ports
    assert all(20000 <= port < 32000 for port in ports.values())


def test_credentials_are_random_and_kept(tmp_path: Path) -> None:
    one, other = (DataFolder(tmp_path / name) for name in ("one", "other"))
    for each in (one, other):
        each.path.mkdir()
    assert one.identity() == one.identity()
    assert one.identity().s3_secret_key != other.identity().s3_secret_key


def test_damaged_credentials_are_not_replaced_silently(folder: DataFolder) -> None:
    (folder.path / "identity.json").write_text("{}")
    with pytest.raises(UsageError, match="damaged"):
        folder.identity()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"), DataFolder(tmp_path / "file" / "data").locked():
        pass


def test_somebody_who_looks_does_not_keep_a_stack_from_starting(folder: DataFolder) -> None:
    """It was refused, as if another one ran here, when a look took half a second on a busy machine."""
    with (folder.path / "up.lock").open("a+") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(1, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with folder.locked():
            pass


def test_the_lock_is_released_at_the_end(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hls_pipeline.local.data_folder._LOCK_SECONDS", 0.1)
    for _ in range(2):
        with folder.locked(), pytest.raises(UsageError, match="already running"), folder.locked():
            pass


def test_settings_come_from_the_running_stack_unless_the_environment_is_complete(tmp_path: Path) -> None:
    stack = {
        "s3": "http://127.0.0.1:1",
        "s3_access_key": "a",
        "s3_secret_key": "b",
        "buckets": {"inbox": "in", "media": "out"},
        "ipfs_rpc": ["http://127.0.0.1:2"],
        "ipfs_gateways": ["http://127.0.0.1:3"],
        "ipfs_quorum": 1,
        "broker": None,
        "dagster": "http://127.0.0.1:4",
        "database": "sqlite:////x",
    }
    with DataFolder(tmp_path).locked():
        write_private(tmp_path / "stack.json", stack)
        found = settings_of(Settings(data=tmp_path))
    assert running(tmp_path) is None, "the file alone, left by a killed stack, is no running stack"
    assert (found.s3_endpoint, found.s3_inbox, found.database_url) == ("http://127.0.0.1:1", "in", "sqlite:////x")
    complete = Settings(data=tmp_path, database_url="postgresql://db/hls")
    assert settings_of(complete) is complete


def test_without_a_stack_the_advice_is_to_start_one(tmp_path: Path) -> None:
    assert running(tmp_path) is None
    with pytest.raises(Outage, match="hls-pipeline up"):
        settings_of(Settings(data=tmp_path))
