"""The part of Kubo's RPC that we use: what a call looks like, what its answers and errors look like.

A command is a generator of what Kubo would emit: objects become lines of JSON, bytes are sent as they are. An error
before the first one is a 500 with Kubo's error object; after it, a stream of objects ends with the `X-Stream-Error`
trailer, and a stream of bytes is cut off. Commands live in `commands` and `adding`; put a new one there and its name
below. Anything a browser may have sent is refused: there is no password on this port. Options that we do not know
are read over, as Kubo does. Sources: go-ipfs-cmds 0.16 http, docs.ipfs.tech/reference/kubo/rpc.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hls_pipeline.errors import PipelineError, ServiceError, UserError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.local.ipfs_node.node import Node
from hls_pipeline.local.ipfs_node.server import App, Request, Response

PREFIX = "/api/v0/"
_TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_EXPOSED = "X-Stream-Output, X-Chunked-Output, X-Content-Length"
_COMMON = {
    "Access-Control-Allow-Headers": _EXPOSED,
    "Access-Control-Expose-Headers": _EXPOSED,
    "Trailer": "X-Stream-Error",
    "Vary": "Origin",
}
_BOOLEANS = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)
"""Go's strconv.ParseBool."""
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class BadCall(UserError):
    """The call itself is wrong: 400, in plain text."""


@dataclass(frozen=True)
class Call:
    """One call of a command: its arguments, its options as Kubo parses them, and what it may take."""

    node: Node
    request: Request
    deadline: float | None
    """Monotonic seconds."""

    @property
    def arguments(self) -> list[str]:
        return self.request.query.get("arg", [])

    def text(self, name: str, default: str = "") -> str:
        values = self.request.query.get(name, [default])
        if len(values) > 1:
            raise BadCall(f"expected key {name} to have only a single value, received {values}")
        return values[0]

    def flag(self, name: str, default: bool = False) -> bool:
        text = self.text(name, str(default))
        if text not in _BOOLEANS:
            raise BadCall(f'could not convert value "{text[:80]}" to type "bool" (for option "-{name}")')
        return _BOOLEANS[text]

    def number(self, name: str, default: int) -> int:
        text = self.text(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise BadCall(f'could not convert value "{text[:80]}" to type "int" (for option "-{name}")')
        return int(text)

    def check_time(self) -> None:
        """ServiceError once the call's `timeout` is over."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise ServiceError("context deadline exceeded")

    def load(self, cid: Cid) -> bytes:
        """A block of the store, while there is time."""
        self.check_time()
        return self.node.store.read(cid)


Command = Callable[[Call], Iterator[Mapping[str, Any] | bytes]]


@dataclass(frozen=True)
class Entry:
    """How a command is called and how it answers."""

    run: Command
    arguments: tuple[str, ...] = ()
    """Names of the arguments it must have."""
    files: bool = False
    single: bool = False
    """Whether it answers one object, rather than a line for each."""
    content_type: str = "application/json"


def app(node: Node, commands: Mapping[str, Entry]) -> App:
    def answer(request: Request) -> Response:
        return _refusal(request) or _run(node, commands, request)

    return App(answer, _error)


def _refusal(request: Request) -> Response | None:
    if request.method == "OPTIONS":
        return Response(204, {"Allow": "OPTIONS, POST"})
    if request.method != "POST":
        return Response(405, {"Allow": "OPTIONS, POST", **_TEXT}, b"405 - Method Not Allowed\n")
    headers = request.headers
    agent = headers.get("User-Agent", "")
    if headers.get("Origin") or headers.get("Referer") or agent.startswith("Mozilla"):
        return Response(403, _TEXT, b"403 - Forbidden\n")
    return None


def _run(node: Node, commands: Mapping[str, Entry], request: Request) -> Response:
    entry = commands.get(request.path.removeprefix(PREFIX)) if request.path.startswith(PREFIX) else None
    if entry is None:
        return Response(404, _TEXT, b"404 page not found\n")
    call = Call(node, request, _deadline(request))
    if len(call.arguments) < len(entry.arguments):
        raise BadCall(f'argument "{entry.arguments[len(call.arguments)]}" is required')
    if entry.files and not request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        raise BadCall("file argument 'path' is required")
    headers = {"Content-Type": entry.content_type, **_COMMON}
    if entry.content_type != "application/json":
        headers["X-Stream-Output"] = "1"
    elif not entry.single:
        headers["X-Chunked-Output"] = "1"
    return Response(200, headers, _encoded(entry.run(call)), error_trailer=entry.content_type == "application/json")


def _encoded(emitted: Iterator[Mapping[str, Any] | bytes]) -> Iterator[bytes]:
    for item in emitted:
        yield item if isinstance(item, bytes) else _json(item)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _error(error: PipelineError) -> Response:
    if isinstance(error, BadCall):
        return Response(400, _TEXT, f"{error}\n".encode())
    body = _json({"Message": str(error), "Code": 0, "Type": "error"})
    return Response(500, {"Content-Type": "application/json", **_COMMON}, body)


def _deadline(request: Request) -> float | None:
    """When the call's `timeout` ends. BadCall if it is no Go duration (Kubo then answers 200 and nothing)."""
    text = request.query.get("timeout", [""])[0]
    if not text or text == "0":
        return None
    pieces = _DURATION.findall(text)
    if "".join(number + unit for number, unit in pieces) != text:
        raise BadCall(f'invalid timeout "{text[:80]}"; write for example 90s or 1h30m')
    return time.monotonic() + sum(float(number) * _UNITS[unit] for number, unit in pieces)
