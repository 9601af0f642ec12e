"""A process that takes its time to end ends in time all the same, however it was started."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SLOW = """
import signal, sys, time
from hls_pipeline.queue.stopping import stop_in_time
stop_in_time(1)
signal.signal(signal.SIGINT, lambda *_: print("heard", flush=True))
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # as Dagster does it
print("ready", flush=True)
while True:
    time.sleep(0.05)  # a signal in the instant before a sleep is heard after it
"""
PROMPT = """
import signal, time
from hls_pipeline.queue.stopping import stop_in_time
stop_in_time()
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    print("ended by itself", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_does_not_end_by_itself_is_ended(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"heard\n"
        assert process.wait(60) == 0


def test_a_background_job_of_a_shell_ends_by_itself_on_sigterm() -> None:
    """Its code server ignored SIGTERM: the shell had it ignore SIGINT, and Dagster copies that."""
    ignoring = f"import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{PROMPT}"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.read() == b"ended by itself\n"
