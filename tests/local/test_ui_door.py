"""The key of the Dagster UI: who gets past the door, over a page that is always there."""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket

from hls_pipeline import ui
from hls_pipeline.errors import UsageError

KEY = "a kéy: with a colon"


async def page(_: object) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()


APP = ui.Door(Starlette(routes=[Route("/{path:path}", page), WebSocketRoute("/graphql", socket)]), KEY)


def ask(path: str = "/", kind: str = "http", **headers: str) -> list[Message]:
    """What the door or the page behind it answers."""
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"}

    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": kind, "method": "GET", "path": path, "query_string": b"", "headers": sent}
    with ThreadPoolExecutor(1) as pool:  # the browser of other tests has a loop in this thread
        pool.submit(asyncio.run, APP(scope, receive, send)).result()
    return said


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any name:{password}".encode()).decode()


def header(answer: Message, name: bytes) -> str | None:
    return next((value.decode() for key, value in answer["headers"] if key == name), None)


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", basic(KEY)])
def test_who_has_the_key_comes_in(authorization: str) -> None:
    assert ask(authorization=authorization)[0]["status"] == 200


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer wrong", basic("wrong"), basic(""), "Basic ???", "Digest x", KEY]
)
def test_who_has_it_not_is_asked_for_it(authorization: str) -> None:
    (answer, _) = ask(authorization=authorization)
    assert answer["status"] == 401
    assert (header(answer, b"www-authenticate") or "").startswith("Basic ")
    assert header(answer, b"set-cookie") is None


def test_a_browser_that_knew_the_key_opens_sockets_with_its_cookie() -> None:
    cookie = header(ask(authorization=basic(KEY))[0], b"set-cookie") or ""
    ticket, *attributes = cookie.split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert KEY not in cookie
    assert ask("/graphql", "websocket", cookie=f"a=b; {ticket}")[0]["type"] == "websocket.accept"
    assert ask("/graphql", "websocket")[0]["type"] == "websocket.close"
    assert ask("/graphql", "websocket", cookie=ticket[:-1])[0]["type"] == "websocket.close"


def test_the_health_check_needs_no_key_and_nothing_else_is_open() -> None:
    assert ask("/server_info")[0]["status"] == 200
    assert ask("/server_info/")[0]["status"] == 401
    assert ask("/graphql")[0]["status"] == 401


@pytest.mark.parametrize(("host", "names"), [("0.0.0.0", []), ("127.0.0.1", ["ui.example"])])
def test_without_key_and_without_proxy_it_serves_nobody_but_this_machine(host: str, names: list[str]) -> None:
    with pytest.raises(UsageError, match="HLS_UI_KEY"):
        ui.run(Path("workspace.yaml"), host, 3000, names)
