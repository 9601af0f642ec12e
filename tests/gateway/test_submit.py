"""`hls-pipeline submit --via gateway`, as a creator's shell runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hls_pipeline.errors import Outage, PackageRefused
from hls_pipeline.gateway_client import GatewayClient
from hls_pipeline.hls.sources import open_source
from tests.gateway.conftest import Gateway
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
        client.send(source, None, "film", cut_off)
    total = sum(len(data) for data in package("film", segments=6).values())
    rest: list[int] = []
    with open_source(folder) as source:
        document = client.send(source, None, "film", rest.append)
    assert document["status"] == "processing"
    assert 0 < sum(rest) < total
    assert len(gateway.world.store.uploads_of("film")) == 1


def test_a_refused_package_is_an_error_that_names_file_line_and_code(client: GatewayClient, tmp_path: Path) -> None:
    files = package("film") | {
        "v/index.m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:nan,\ns0.ts\n#EXT-X-ENDLIST\n"
    }
    with open_source(written(tmp_path / "film", files)) as source, pytest.raises(PackageRefused) as refused:
        client.send(source, None, "film", lambda _: None)
    assert "HLS_BAD_EXTINF v/index.m3u8:3" in str(refused.value)


def test_a_gateway_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    nowhere = GatewayClient("http://127.0.0.1:1", "key", tmp_path / "state")
    with open_source(written(tmp_path / "film", package("film"))) as source, pytest.raises(Outage):
        nowhere.send(source, None, "film", lambda _: None)
