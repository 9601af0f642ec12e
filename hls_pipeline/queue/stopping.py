"""Ending when asked to: what the roles that are Dagster's own loops need for it.

Dagster lets everything under way finish first, which may take a minute. What such a role leaves unfinished is taken up
again when it starts, so it need not wait that long. The web app, the gateway and the worker look after themselves.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

STOP_SECONDS = 7.0


def stop_in_time(seconds: float = STOP_SECONDS) -> None:
    """SIGTERM and SIGINT end this process within so many seconds. Call it first, from the main thread."""
    # Dagster treats SIGTERM as it finds SIGINT, and a shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    # The number of each signal is written there, whatever handlers Dagster sets later.
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)

    def watch(_: socket.socket) -> None:
        while reading.recv(1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        time.sleep(seconds)
        os._exit(0)

    threading.Thread(target=watch, args=(writing,), name="stop-in-time", daemon=True).start()
