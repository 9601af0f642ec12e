"""`hls-pipeline submit --via gateway`, as a creator's shell runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hls_pipeline import gateway_client
from hls_pipeline.errors import Conflict, Outage, PackageRefused, UserError
from hls_pipeline.gateway_client import GatewayClient
from hls_pipeline.hls.sources import open_source
from hls_pipeline.submission import last_written, opened
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import leftovers
from tests.services import Files, package, published


def written(folder: Path, files: Files) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def client(gateway: Gateway, tmp_path: Path) -> GatewayClient:
    return GatewayClient(gateway.url, gateway.key, tmp_path / "state")


def test_a_folder_is_sent_and_its_temporary_json_printed(gateway: Gateway, tmp_path: Path) -> None:
    folder = written(tmp_path / "film", package("film"))
    environment = os.environ | {"HLS_GATEWAY_URL": gateway.url, "HLS_API_KEY": gateway.key, "HLS_STATE": str(tmp_path)}
    command = [sys.executable, "-m", "hls_pipeline.cli", "submit", str(folder), "--via", "gateway", "--json"]
    done = subprocess.run(
        [*command, "--video-id", "film"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["video_id"], document["status"], document["title"]) == ("film", "processing", "film")
    for path, data in published(package("film")).items():
        assert gateway.play("film", path).content == data


def test_what_was_cut_off_goes_on_where_it_stopped(gateway: Gateway, client: GatewayClient, tmp_path: Path) -> None:
    folder = written(tmp_path / "film", package("film", segments=6))
    sent: list[int] = []

    def cut_off(size: int) -> None:
        sent.append(size)
        if sum(sent) > 2000:
            raise KeyboardInterrupt

    with open_source(folder) as source, pytest.raises(KeyboardInterrupt):
        client.send(source, "film", cut_off)
    total = sum(len(data) for data in package("film", segments=6).values())
    rest: list[int] = []
    with open_source(folder) as source:
        document = client.send(source, "film", rest.append)
    assert document["status"] == "processing"
    assert 0 < rest[0] < sum(rest) == total, "what had arrived is counted at once, and not sent again"
    assert len(gateway.world.store.uploads_of("film")) == 1


def test_a_package_that_was_written_to_since_is_sent_anew(
    gateway: Gateway, client: GatewayClient, tmp_path: Path
) -> None:
    """Files of the same names and sizes were taken for those that had arrived: two packages became a mixture."""

    sent: list[int] = []

    def cut_off(size: int) -> None:
        sent.append(size)
        if sum(sent) > 2000:
            raise KeyboardInterrupt

    folder = tmp_path / "film"
    for seed, stop in (("film one", cut_off), ("film two", lambda _: None)):
        written(folder, package(seed))
        with open_source(folder) as source, suppress(KeyboardInterrupt):
            client.send(source, "film", stop, written=lambda: last_written(folder))
    for path, data in published(package("film two")).items():
        assert gateway.play("film", path).content == data


@pytest.mark.parametrize("change", [b"and more", b""], ids=["grows", "shrinks"])
def test_a_file_that_is_written_to_while_it_is_sent_is_not_taken(
    gateway: Gateway, client: GatewayClient, tmp_path: Path, change: bytes
) -> None:
    """What it had when it was listed was sent, and taken for all of it; one that shrank was waited for by S3."""
    folder = written(tmp_path / "film", package("film"))

    def encoder(_: int) -> None:
        with (folder / "v" / "s2.ts").open("ab" if change else "wb") as file:
            file.write(change)

    with open_source(folder) as source, pytest.raises(UserError, match="while it was sent"):
        client.send(source, "film", encoder, written=lambda: last_written(folder))
    assert gateway.world.store.uploads_of("film") == ()


def test_a_copy_with_the_old_time_of_writing_is_another_package(tmp_path: Path) -> None:
    folder = written(tmp_path / "film", package("film"))
    before = last_written(folder)
    copy = tmp_path / "copy"
    copy.write_bytes(b"other")
    os.utime(copy, (0, 0))
    copy.replace(folder / "v" / "s1.ts")
    assert last_written(folder) > before


def test_what_was_completed_after_we_had_gone_is_not_sent_again(
    gateway: Gateway, client: GatewayClient, tmp_path: Path
) -> None:
    """Ctrl-C while a large package was checked: the next run sent all of it once more."""

    class LeavesEarly(GatewayClient):
        def _complete(self, upload_id: str) -> dict[str, Any]:
            super()._complete(upload_id)
            raise KeyboardInterrupt

    folder, counted = written(tmp_path / "film", package("film")), []
    with open_source(folder) as source, pytest.raises(KeyboardInterrupt):
        LeavesEarly(client.url, client.api_key, client.state).send(source, "film", lambda _: None)
    with open_source(folder) as source:
        document = client.send(source, "film", counted.append)
    assert (document["status"], len(counted)) == ("processing", 1)
    assert len(gateway.world.store.uploads_of("film")) == 1


def test_the_metadata_of_a_package_names_its_video(gateway: Gateway, client: GatewayClient, tmp_path: Path) -> None:
    """It was published under a name made up by the gateway."""
    folder = written(tmp_path / "film", package("film") | {"metadata.json": b'{"video_id": "named"}'})
    with open_source(folder) as source:
        with pytest.raises(Conflict):
            client.send(source, "another", lambda _: None)
        assert client.send(source, None, lambda _: None)["video_id"] == "named"


def test_metadata_given_beside_the_package_is_judged_like_its_own(client: GatewayClient, tmp_path: Path) -> None:
    """What was no JSON ended in a traceback."""
    folder, other = written(tmp_path / "film", package("film")), tmp_path / "other.json"
    other.write_bytes(b'{"title": ')
    with opened(folder, other) as source, pytest.raises(PackageRefused, match=r"META_NOT_JSON metadata\.json"):
        client.send(source, "film", lambda _: None)


def test_ctrl_c_ends_what_waits_and_what_is_under_way(gateway: Gateway, client: GatewayClient, tmp_path: Path) -> None:
    """All other files were sent first, however many there were."""
    told: list[int] = []

    def interrupted_once(size: int) -> None:
        told.append(size)
        if len(told) == 2:
            raise KeyboardInterrupt
        time.sleep(1 if len(told) > 2 else 0)  # nobody is done before the interrupt is noticed

    files = package("film", segments=40)
    with open_source(written(tmp_path / "film", files)) as source, pytest.raises(KeyboardInterrupt):
        client.send(source, "film", interrupted_once)
    assert len(leftovers(gateway)) < len(files) / 2


class SpoiltClient(GatewayClient):
    """Its first address for a segment has ended, as all do after an hour."""

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = super()._ask(method, path, **more)
        if path == "/v1/uploads":
            (segment,) = (file for file in answer["files"] if file["path"] == "v/s1.ts")
            segment["urls"][0]["url"] += "0"
        return answer


def test_a_file_whose_address_has_ended_is_sent_to_a_new_one(gateway: Gateway, tmp_path: Path) -> None:
    client, counted, files = SpoiltClient(gateway.url, gateway.key, tmp_path / "state"), [], package("film")
    with open_source(written(tmp_path / "film", files)) as source:
        client.send(source, "film", counted.append)
    assert sum(counted) == sum(map(len, files.values()))
    assert gateway.play("film", "v/s1.ts").content == files["v/s1.ts"]


class BarredClient(GatewayClient):
    """S3 takes nothing from it."""

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = super()._ask(method, path, **more)
        for file in answer["files"]:
            file["urls"][0]["url"] += "0"
        return answer


def test_no_message_holds_an_address_with_which_one_may_write(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood in the logs of those who send from a job, with its signature."""
    monkeypatch.setattr(gateway_client, "_TRIES", 1)
    client = BarredClient(gateway.url, gateway.key, tmp_path / "state")
    with open_source(written(tmp_path / "film", package("film"))) as source, pytest.raises(Outage) as told:
        client.send(source, "film", lambda _: None)
    assert "403" in str(told.value)
    assert "Signature" not in str(told.value)


class InterruptedClient(GatewayClient):
    """Every other of its requests meets a gateway that is just being restarted, after the first."""

    asked: ClassVar[list[str]] = []

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        self.asked.append(path)
        if len(self.asked) % 2 == 0:
            raise Outage(f"{method} {path}: connection refused")
        return super()._ask(method, path, **more)


def test_a_gateway_that_is_restarted_meanwhile_is_waited_for(gateway: Gateway, tmp_path: Path) -> None:
    client = InterruptedClient(gateway.url, gateway.key, tmp_path / "state")
    with open_source(written(tmp_path / "film", package("film"))) as source:
        assert client.send(source, "film", lambda _: None)["status"] == "processing"


@pytest.mark.parametrize(
    ("changes", "error"), [({"v/s1.ts": None}, PackageRefused), ({}, UserError)], ids=["refused", "withdrawn"]
)
def test_waiting_ends_with_an_error_when_the_package_comes_to_a_bad_end(
    gateway: Gateway, client: GatewayClient, changes: dict[str, None], error: type[Exception]
) -> None:
    """It waited for ever for what was refused after the first answer, because another run held the video."""
    files = {path: data for path, data in package("film").items() if path not in changes}
    upload = gateway.world.walk(gateway.world.drop("film", files), "stage", "write_s3_manifest")
    if not changes:
        gateway.ask("DELETE", "/v1/videos/film", headers=gateway.bearer).raise_for_status()
    with pytest.raises(error):
        client.wait({"video_id": "film", "upload_id": upload.upload_id, "status": "received"})


def test_a_refused_package_is_an_error_that_names_file_line_and_code(client: GatewayClient, tmp_path: Path) -> None:
    files = package("film") | {
        "v/index.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:nan,\ns0.ts\n#EXT-X-ENDLIST\n"
    }
    with open_source(written(tmp_path / "film", files)) as source, pytest.raises(PackageRefused) as refused:
        client.send(source, "film", lambda _: None)
    assert "HLS_BAD_EXTINF v/index.m3u8:3" in str(refused.value)


def test_where_nothing_can_be_remembered_a_package_is_sent_all_the_same(gateway: Gateway, tmp_path: Path) -> None:
    """All of it was there and taken in, and the command ended with a stack trace."""
    (tmp_path / "state").write_bytes(b"no folder")
    client = GatewayClient(gateway.url, gateway.key, tmp_path / "state")
    with open_source(written(tmp_path / "film", package("film"))) as source:
        assert client.send(source, "film", lambda _: None)["status"] == "processing"


def test_a_gateway_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    nowhere = GatewayClient("http://127.0.0.1:1", "key", tmp_path / "state")
    with open_source(written(tmp_path / "film", package("film"))) as source, pytest.raises(Outage):
        nowhere.send(source, "film", lambda _: None)
