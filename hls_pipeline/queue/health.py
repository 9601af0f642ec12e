"""Whether a worker listens to the broker, for whoever supervises it: `GET /healthz` on loopback, 200 or 503."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PULSE_SECONDS = 1.0
_SILENCE_SECONDS = 15.0


class Pulse:
    """Felt each second by the loop that listens to the broker, and only while it is connected."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def beat(self) -> None:
        self._last = time.monotonic()

    def beats(self) -> bool:
        return time.monotonic() - self._last < _SILENCE_SECONDS


class _Server(ThreadingHTTPServer):
    def handle_error(self, *about: Any) -> None:
        """Who asked may have hung up before the answer came."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*about)


def serve(host: str, port: int, pulse: Pulse, at_work: Callable[[], list[str]]) -> None:
    """In a thread of its own, for as long as the process lives. Raises OSError when the port is taken."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            well = pulse.beats()
            body = json.dumps({"broker": "connected" if well else "not connected", "runs": at_work()}).encode()
            self.send_response(200 if well else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A look every few seconds is no news."""

    server = _Server((host, port), Answer)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
