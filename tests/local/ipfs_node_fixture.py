"""The embedded IPFS node as a process of its own, raw HTTP to it, and small packages to send.

Only the standard library's client is used: what is tested is what goes over the wire.
"""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.car import Block
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, FileBuilder, build_directory

SMALL_CHUNKS = replace(PROFILES["unixfs-v1-2025"], chunk_size=1000)
"""So that files of a few kilobytes have several blocks."""
ABSENT = Cid.of(b"a block that no test stores")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    trailers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def message(self) -> str:
        """What Kubo's error object says."""
        assert self.status == 500
        error = self.json
        assert error == {"Message": error["Message"], "Code": 0, "Type": "error"}
        return str(error["Message"])


class _WithTrailers(http.client.HTTPResponse):
    trailers: Mapping[str, str] = {}

    def _read_and_discard_trailer(self) -> None:
        self.trailers = dict(http.client.parse_headers(self.fp))


@dataclass(frozen=True)
class EmbeddedNode:
    process: subprocess.Popen[str]
    rpc: str
    gateway: str

    def call(self, command: str, files: Iterable[tuple[str, bytes]] = (), **options: str | list[str]) -> Answer:
        """POST a command of the RPC; files are (name as it goes into the header, content)."""
        query = "&".join(
            f"{name.replace('_', '-')}={value}"
            for name, values in options.items()
            for value in ([values] if isinstance(values, str) else values)
        )
        parts = list(files)
        headers = {"Content-Type": "multipart/form-data; boundary=XyZ"} if parts else {}
        return ask(self.rpc, "POST", f"/api/v0/{command}?{query}", headers, multipart(parts) if parts else None)

    def load(self, *cars: bytes, **options: str) -> Answer:
        """`dag/import` of CARs."""
        return self.call("dag/import", [(f"{n}.car", data) for n, data in enumerate(cars)], **options)

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask the gateway."""
        return ask(self.gateway, method, path, {name.replace("_", "-"): value for name, value in headers.items()})

    def holds(self, cid: Cid) -> bool:
        return self.call("block/stat", arg=str(cid)).status == 200

    def names_of_pins(self) -> dict[str, str]:
        keys = self.call("pin/ls", type="recursive", names="true").json.get("Keys", {})
        return {cid: pin["Name"] for cid, pin in keys.items()}


@contextmanager
def running(repo: Path, *arguments: str, before: Callable[[], None] | None = None) -> Iterator[EmbeddedNode]:
    """A node on free ports; stopped at the end, and it must stop cleanly unless the test has killed it."""
    command = [sys.executable, "-m", "hls_pipeline.local.ipfs_node", "--repo", str(repo)]
    command += ["--rpc", "127.0.0.1:0", "--gateway", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=before)
    assert process.stdout
    try:
        words = process.stdout.readline().split()
        assert words[::2][:2] == ["RPC", "gateway"], f"the node did not start: {words}"
        yield EmbeddedNode(process, words[1].removeprefix("http://"), words[3].removeprefix("http://"))
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(address: str, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.response_class = _WithTrailers
    try:
        connection.request(method, path, body, dict(headers), encode_chunked=False)
        response = connection.getresponse()
        data = response.read()
        assert isinstance(response, _WithTrailers)
        return Answer(response.status, dict(response.headers), data, response.trailers)
    finally:
        connection.close()


def multipart(parts: Iterable[tuple[str, bytes]]) -> bytes:
    pieces = []
    for name, content in parts:
        head = f'--XyZ\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join((*pieces, b"--XyZ--\r\n"))


@dataclass(frozen=True)
class Package:
    root: Cid
    blocks: dict[Cid, bytes]
    cids: dict[str, Cid]

    @property
    def car(self) -> bytes:
        return b"".join(car.write_car([self.root], self.blocks.items()))

    @property
    def size(self) -> int:
        return sum(map(len, self.blocks.values()))


def package(files: Mapping[str, bytes]) -> Package:
    """A directory with these files, root first."""
    nodes, blocks = {}, dict[Cid, bytes]()
    for path, content in files.items():
        builder = FileBuilder(SMALL_CHUNKS)
        blocks.update(builder.feed(content))
        nodes[path], rest = builder.finish()
        blocks.update(rest)
    directory = build_directory(nodes, SMALL_CHUNKS)
    cids = {path: node.cid for path, node in directory.nodes.items()}
    return Package(directory.root.cid, {**dict(reversed(directory.blocks)), **blocks}, cids)


def block_file(repo: Path, cid: Cid) -> Path:
    """Where the node keeps a block."""
    return repo / "blocks" / cid.digest.hex()[:2] / cid.digest.hex()


def blocks_of(data: bytes) -> list[Block]:
    """The blocks of a CAR, verified."""
    import io

    return list(car.read_car(io.BytesIO(data)))
