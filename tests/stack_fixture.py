"""A whole local stack for tests: `hls-pipeline up` as a process of its own, in a folder of its own.

`running_stack` starts it, waits until it is ready, and at the end stops it and asserts that nothing is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hls_pipeline.local import processes
from hls_pipeline.local.data_folder import DataFolder, running

READY_SECONDS = 120
STOP_SECONDS = 60


@dataclass(frozen=True)
class RunningStack:
    data: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def addresses(self) -> dict[str, Any]:
        """`stack.json`."""
        answer: dict[str, Any] = json.loads((self.data / "stack.json").read_text())
        return answer

    def said(self) -> str:
        return self.output.read_text()

    def wait_until_said(self, text: str, seconds: float = 60, after: int = 0) -> None:
        """`after`: only what it said behind so many characters counts."""
        wait_until(lambda: text in self.said()[after:], seconds, lambda: f"{text!r} in:\n{self.said()}")

    def part(self, name: str) -> psutil.Process:
        """The running part that writes to the log of that name."""
        log = self.data / "logs" / f"{name}.log"
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(OSError):  # one that has just ended writes nowhere
                if Path(f"/proc/{child.pid}/fd/1").readlink() == log:
                    return child
        raise AssertionError(f"{name} is not running")

    def processes(self) -> list[int]:
        return processes.belonging_to(DataFolder(self.data).identity().stack_id)


def start(data: Path, environment: Mapping[str, str] | None = None, *options: str) -> RunningStack:
    """`hls-pipeline up` without waiting for it."""
    output = data.with_name(data.name + ".out")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hls_pipeline.cli", "up", "--data", str(data), *options],
            env={**os.environ, **(environment or {})},
            cwd=data.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return RunningStack(data, process, output)


def wait_until_ready(stack: RunningStack) -> None:
    def ready_or_dead() -> bool:
        assert stack.process.poll() is None, f"the stack ended while starting:\n{stack.said()}"
        return running(stack.data) is not None and "ready;" in stack.said()  # not what a killed one left

    wait_until(ready_or_dead, READY_SECONDS, lambda: f"a ready stack:\n{stack.said()}")


def stop(stack: RunningStack) -> None:
    """SIGTERM. Asserts that every process is gone; how long it took is for the log."""
    began = time.monotonic()
    stack.process.send_signal(signal.SIGTERM)
    stack.process.wait(STOP_SECONDS)
    print(f"the stack stopped in {time.monotonic() - began:.1f} s")
    assert stack.processes() == []
    assert not (stack.data / "stack.json").exists()


@contextmanager
def running_stack(data: Path, environment: Mapping[str, str] | None = None, *options: str) -> Iterator[RunningStack]:
    stack = start(data, environment, *options)
    try:
        wait_until_ready(stack)
        yield stack
        stop(stack)
    finally:
        if stack.process.poll() is None:
            stack.process.terminate()
            stack.process.wait(STOP_SECONDS)


def wait_until(condition: Any, seconds: float, wanted: Any) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {wanted()}"
        time.sleep(0.05)
