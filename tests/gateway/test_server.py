"""`hls-pipeline gateway` as a process of its own, with nothing but its environment: started, asked, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from hls_pipeline.gateway import server
from hls_pipeline.gateway.followers import Followers
from hls_pipeline.settings import Settings
from tests.gateway.conftest import Gateway, serving
from tests.gateway.test_intake import head, open_socket
from tests.services import World, free_ports, media_playlist, ts, wait_until


def test_requests_under_way_finish_when_it_is_told_to_stop(
    world: World, gateway_with: Callable[..., Gateway], as_environment: Callable[[Settings], None], tmp_path: Path
) -> None:
    as_environment(world.settings)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    gateway = replace(gateway_with(), url=url)  # as far as its key goes, they are the same
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "hls_pipeline.cli", "gateway", "--port", str(port)]
        process = subprocess.Popen(command, env=os.environ | {"HLS_PUBLIC_READ": "1"}, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"{url}/readyz"), "the gateway")
        body = form({"master.m3u8": media_playlist("s0.ts"), "s0.ts": ts("s0")})
        with open_socket(gateway) as client:
            client.sendall(head(gateway, gateway.key, len(body)).replace(b"/videos ", b"/videos?video_id=film "))
            client.sendall(body[:300])
            wait_until(lambda: "hls_gateway_uploads 1.0" in gateway.get("/metrics").text, "the upload to begin")
            ended = threading.Thread(target=process.wait)
            process.send_signal(signal.SIGTERM)
            ended.start()
            wait_until(lambda: not answers(f"{url}/healthz"), "the door to be shut")
            assert ended.is_alive()
            client.sendall(body[300:])
            assert client.recv(4096).startswith(b"HTTP/1.1 202 ")
        ended.join(60)
        assert process.returncode in (0, -signal.SIGTERM), (tmp_path / "log").read_text()
        assert world.document("film")["status"] == "processing"
    finally:
        process.kill()
        process.wait()


def test_a_gateway_that_stops_sends_followers_away(world: World) -> None:
    """A stream of events never ends by itself; waiting for it would hold up the stop for half a minute."""
    world.publish_package("film", {"master.m3u8": media_playlist("s0.ts"), "s0.ts": ts("s0")})
    with serving(world) as gateway:
        stream = gateway.ask("GET", "/v1/videos/film/events", stream=True)
        lines = stream.iter_lines(chunk_size=1)
        assert any(line.startswith(b"data:") for line in lines), "the first look is awaited; how long it takes is open"
    assert [line for line in lines if line.startswith(b"data:")] == [], "it ended, and was not cut off"


def test_who_begins_to_follow_while_the_gateway_stops_is_sent_away_too() -> None:
    """A request that was accepted just before would otherwise follow a gateway that waits for it."""

    async def follow() -> str:
        followers = Followers()
        await followers.end()
        async with followers.following("film", lambda: "news") as channel:
            return await channel.next("seen")

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
        assert pool.submit(asyncio.run, follow()).result() == "seen"


def test_who_finds_all_connections_taken_is_told_to_come_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server, "_CONNECTIONS", 0)
        answer = gateway.get("/healthz")
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("5", "close")
    assert gateway.get("/healthz").status_code == 200


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def form(files: dict[str, bytes]) -> bytes:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (path.encode(), data)
        for path, data in files.items()
    ]
    return b"".join([*parts, b"--b--\r\n"])
