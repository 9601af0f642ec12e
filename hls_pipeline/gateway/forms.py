"""A multipart body read as it arrives: events for the parts, never a whole part in memory.

Reading is limited in every direction: silence, time, bytes, headers. RFC 7578; file names as the WHATWG form algorithm
writes them.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.gateway.problems import Refused

_Model = TypeVar("_Model", bound=BaseModel)

_FORM_OVERHEAD = 8 << 20
"""Bytes that headers and boundaries may add to the files of one body."""
_HEARD = 1024
"""Bytes that end a silence: one now and then does not keep a place."""
_CUT = re.compile(rb'filename="?(?:.:\\|\\\\)')
"""Of such a name `parse_options_header` keeps what is behind the last backslash; it is to be refused like any other
with one."""


@dataclass(frozen=True)
class Part:
    """The head of a part; `filename` is None for a plain field."""

    name: str
    filename: str | None


@dataclass(frozen=True)
class PartEnd:
    pass


Event = Part | bytes | PartEnd


def boundary_of(request: Request) -> bytes:
    """Raises Refused (415) for anything but a multipart form."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        raise Refused(415, "unsupported_media_type", "send the package as multipart/form-data")
    return boundary


def check_length(request: Request, most: int) -> None:
    """Refuses a body that says it is too large before any of it is read."""
    given = request.headers.get("content-length")
    if given is not None and int(given) > most + _FORM_OVERHEAD:
        raise Refused(413, "too_large", f"at most {most:,} bytes are taken at once")


async def body(request: Request, settings: GatewaySettings) -> AsyncIterator[bytes]:
    """The body in pieces. Raises Refused: 408 for a client that falls silent or takes too long, 413 for one that sends
    too much, 400 for one that leaves."""
    pieces, until, received = request.stream(), time.monotonic() + settings.upload_seconds, 0
    most = settings.upload_bytes + _FORM_OVERHEAD
    silent, heard = 0.0, 0  # seconds that we waited, and what came meanwhile
    while True:
        began = time.monotonic()
        wait = min(settings.body_silence_seconds - silent, until - began)
        try:
            async with asyncio.timeout(wait):  # wait_for would make a task for each piece
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Refused(
                408, "too_slow", "the upload fell silent or took too long", {"Connection": "close"}
            ) from error
        except ClientDisconnect as error:
            raise Refused(400, "client_gone", "the client went away during the upload") from error
        received, heard, silent = received + len(piece), heard + len(piece), silent + time.monotonic() - began
        if heard >= _HEARD:
            silent, heard = 0.0, 0
        if received > most:
            raise Refused(413, "too_large", f"at most {settings.upload_bytes:,} bytes are taken")
        yield piece


async def small_body(request: Request, settings: GatewaySettings, most: int) -> bytes:
    """A body that is JSON. Raises Refused: 413 when it is longer than `most` bytes."""
    data = bytearray()
    async for piece in body(request, settings):
        data += piece
        if len(data) > most:
            raise Refused(413, "too_large", f"at most {most:,} bytes are taken here")
    return bytes(data)


async def json_body(request: Request, settings: GatewaySettings, model: type[_Model], most: int) -> _Model:
    """Raises Refused: 400 for what does not fit the model, 413 when it is longer than `most` bytes."""
    return parsed(await small_body(request, settings, most), model)


def parsed(data: bytes, model: type[_Model]) -> _Model:
    """Raises Refused (400) for what does not fit the model, or has a name twice: we would take the last, and another
    reader perhaps the first."""
    try:
        found = model.model_validate_json(data, strict=True)
        json.loads(data, object_pairs_hook=_each_once)
        return found
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise Refused(400, "bad_request", f"{place or 'body'}: {fault['msg']}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused(400, "bad_request", "a name stands twice in one object")


class Form:
    """Turns pieces of a body into events."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._field, self._value, self._disposition = b"", b"", b""
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._head,
                "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
                "on_part_end": lambda: self._events.append(PartEnd()),
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> list[Event]:
        """Raises Refused (400) for what is no form."""
        self._events = []
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise Refused(400, "bad_form", f"the body is no multipart form: {error}") from error
        return self._events

    def check_complete(self) -> None:
        if not self._complete:
            raise Refused(400, "bad_form", "the body ends before the form does")

    def _begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _head(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, filename = options.get(b"name", b""), options.get(b"filename")
        if filename is not None and _CUT.search(self._disposition):
            filename = b"\\" + filename
        self._events.append(Part(_text(name), None if filename is None else _file_name(filename)))

    def _end(self) -> None:
        self._complete = True


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, "bad_form", "a name in the form is not UTF-8") from error


def _file_name(value: bytes) -> str:
    """Browsers escape exactly these three (WHATWG HTML, multipart/form-data encoding algorithm)."""
    text = _text(value)
    for escaped, plain in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        text = text.replace(escaped, plain)
    return text
