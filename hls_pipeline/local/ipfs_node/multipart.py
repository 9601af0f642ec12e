"""The files of a `multipart/form-data` body, one after the other, as streams.

`python-multipart` finds the boundaries and bounds the headers; this turns its callbacks around, so that a file can be
read like any other stream and nothing is spooled. Names are read as Kubo reads them: percent-decoded, `+` meaning a
blank, and cleaned so that no path leaves its directory.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from urllib.parse import unquote_plus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hls_pipeline.errors import UserError
from hls_pipeline.local.ipfs_node.server import Request


class Part:
    """One file of the body. What is not read before the next one is asked for is skipped."""

    def __init__(self, pump: Callable[[], None]) -> None:
        self.headers: dict[str, str] = {}
        self.pieces: deque[memoryview] = deque()
        self.ended = False
        self._pump = pump

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def path(self) -> str:
        """Where the file belongs, relative and without `.` or `..`; empty if it has no name. UserError."""
        _, options = parse_options_header(self.headers.get("content-disposition", ""))
        name = unquote_plus(options.get(b"filename", b"").decode("utf-8", "replace"))
        if "\0" in name:
            raise UserError("a file name contains a zero byte")
        return posixpath.normpath("/" + name).lstrip("/")

    def read(self, n: int) -> bytes:
        """At most `n` bytes of the file, none at its end. UserError if the body ends or breaks before."""
        while not self.pieces and not self.ended:
            self._pump()
        if not self.pieces:
            return b""
        piece = self.pieces[0]
        if len(piece) > n:
            self.pieces[0] = piece[n:]
            return bytes(piece[:n])
        self.pieces.popleft()
        return bytes(piece)


def parts(request: Request) -> Iterator[Part]:
    """The parts of a request's body in their order. UserError if it is no multipart body, or broken."""
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UserError("the request has no multipart body")
    parser = _Parser(request, boundary)
    while part := parser.next_part():
        yield part
        while part.read(1 << 20):
            pass


class _Parser:
    """The push parser, driven by whoever reads. One pump feeds it one read of the body, so little is buffered."""

    def __init__(self, request: Request, boundary: bytes) -> None:
        self._body = request.body
        self._ready: deque[Part] = deque()
        self._done = False
        self._latest = Part(self._pump)
        self._name, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": lambda: self._ready.append(self._latest),
                "on_part_data": lambda data, start, end: self._latest.pieces.append(memoryview(data)[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def next_part(self) -> Part | None:
        while not self._ready and not self._done:
            self._pump()
        return self._ready.popleft() if self._ready else None

    def _pump(self) -> None:
        data = self._body.read()
        if not data:
            raise UserError("unexpected EOF in the multipart body")
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise UserError(f"the multipart body is malformed: {error}") from error
        if self._done:
            while self._body.read():  # what follows the last boundary, so that the connection can be used again
                pass

    def _begin_part(self) -> None:
        self._latest = Part(self._pump)

    def _end_header(self) -> None:
        name = self._name.decode("latin-1").lower()
        self._latest.headers[name] = self._value.decode("utf-8", "replace")
        self._name.clear()
        self._value.clear()

    def _end_part(self) -> None:
        self._latest.ended = True

    def _end(self) -> None:
        self._done = True
