"""What the gateway logs: one line for each request that can be told from all others, and nobody's secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from requests.exceptions import ChunkedEncodingError

from hls_pipeline.errors import Outage
from hls_pipeline.gateway import logs
from hls_pipeline.gateway.s3 import GatewayStore
from tests.gateway.conftest import Gateway
from tests.gateway.test_intake import as_files, open_socket, post
from tests.gateway.test_presigned import begin, complete, put_all
from tests.services import package, published, ts, wait_until


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Everything that is logged, as a gateway of its own process writes it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonLines())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_an_answer_that_breaks_off_in_an_outage_is_one_line_and_no_trace(
    gateway: Gateway, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_range = GatewayStore.read_range

    def half(
        self: GatewayStore, bucket: str, key: str, start: int, end: int, etag: str | None = None
    ) -> Iterator[bytes]:
        if start == 0:
            yield next(read_range(self, bucket, key, start, end, etag))
        raise Outage("S3 went away")

    files = {**package("film"), "v/s1.ts": ts("large", 3000)}
    assert post(gateway, as_files(files), "?video_id=film").status_code == 202
    monkeypatch.setattr(GatewayStore, "read_range", half)
    with pytest.raises(ChunkedEncodingError, match="IncompleteRead"):
        gateway.play("film", "v/s1.ts")
    wait_until(lambda: "without completing" in written.getvalue(), "the end of it")
    assert "an answer broke off: S3 went away" in written.getvalue()
    assert "Traceback" not in written.getvalue()


def requests(written: io.StringIO) -> list[dict[str, Any]]:
    return [line for line in lines(written) if line["message"] == "request"]


def test_a_request_is_logged_with_its_id_its_video_and_its_run(gateway: Gateway, written: io.StringIO) -> None:
    answer = post(gateway, as_files(package("film")), "?video_id=film", X_Request_ID="mine")
    gateway.get("/v1/videos/film?secret=query")
    wait_until(lambda: len(requests(written)) == 2, "the lines, which are written after the answer")
    sent, asked = requests(written)
    assert sent["request_id"] == answer.headers["X-Request-ID"] == "mine"
    assert (sent["method"], sent["route"], sent["status"]) == ("POST", "/v1/videos", 202)
    assert (sent["video_id"], sent["run_id"]) == ("film", answer.headers["Upload-Id"])
    (version,) = gateway.get("/v1/videos/film/versions").json()["versions"]
    assert version["run_id"] == sent["run_id"], "the run of the log is the run of the history"
    assert (asked["route"], asked["video_id"]) == ("/v1/videos/{video_id}", "film")
    assert asked["seconds"] >= 0


def test_no_key_and_no_presigned_address_is_logged(
    gateway_with: Callable[..., Gateway], written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = gateway_with(play="redirect", s3_grace_seconds=3600, presign_seconds=600)
    files = published(package("film"))
    begun = begin(gateway, files, video_id="film").json()
    put_all(begun, files)
    assert complete(gateway, begun["id"]).status_code == 202
    address = gateway.play("film", "v/s1.ts").headers["Location"]
    gateway.ask("GET", f"/v1/videos?key={gateway.key}", headers={"Authorization": f"Bearer {gateway.key}x"})
    gateway.ask("POST", "/session", data={"key": gateway.key}, headers={"Origin": gateway.url})

    def broken(*_: object) -> None:
        raise RuntimeError(f"it went wrong with {gateway.key} at {address}")

    monkeypatch.setattr("hls_pipeline.gateway.records.Records.shown", broken)
    mistake = gateway.get("/v1/videos/film", X_Request_ID="a-mistake")
    assert (mistake.status_code, mistake.json()["request_id"]) == (500, "a-mistake")
    assert "RuntimeError" in written.getvalue(), "what went wrong is there to be read"
    assert {line["request_id"] for line in lines(written) if "trace" in line} == {"a-mistake"}
    secret, signature = gateway.key.split("_", 2)[2], address.partition("X-Amz-Signature=")[2].partition("&")[0]
    assert gateway.settings.s3_secret_key is not None
    for hidden in (secret, signature, gateway.settings.s3_secret_key.get_secret_value()):
        assert len(hidden) > 16
        assert hidden not in written.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://user:pass@host/db", "at postgresql://user:***@host/db"),
        ("at amqp://user:p@ss/w:rd@host:5672/v", "at amqp://user:***@host:5672/v"),
        ("at redis://:secret@host", "at redis://:***@host"),
        ("http://127.0.0.1:8333/media does not answer", "http://127.0.0.1:8333/media does not answer"),
        ("?x-amz-signature=abc&b=1", "?x-amz-signature=***&b=1"),
        ("X-Amz-Signature%3Dabc", "X-Amz-Signature%3D***"),
    ],
)
def test_of_an_address_its_password_and_its_signature_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    """The port and the path went too, so that a line about an outage did not say what was away."""
    record = logging.LogRecord("test", logging.INFO, "", 0, text, None, None)
    assert json.loads(logs.JsonLines().format(record))["message"] == shown


def test_who_is_refused_all_day_does_not_fill_the_log(
    gateway_with: Callable[..., Gateway], written: io.StringIO
) -> None:
    gateway = gateway_with(requests_per_minute=20)
    for _ in range(100):
        assert gateway.get("/nothing").status_code == 404
        with open_socket(gateway) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert 20 <= len(lines(written)) < 40
    assert gateway.ask("GET", "/v1/videos", headers=gateway.bearer).status_code == 200
    wait_until(lambda: requests(written)[-1]["status"] == 200, "the line of a caller who did not ask too often")
    assert requests(written)[-1]["unlogged"] > 60, "what was left out is told"
