"""A whole local stack for tests: `hls-pipeline up` as a process of its own, in a folder of its own.

`running_stack` starts it, waits until it is ready, and at the end stops it and asserts that nothing is left.
"""

from __future__ import annotations

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

from hls_pipeline.local import processes
from hls_pipeline.local.data_folder import DataFolder, running

READY_SECONDS = 60
STOP_SECONDS = 10


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

    def wait_until_said(self, text: str, seconds: float = 30, after: int = 0) -> None:
        """`after`: only what it said behind so many characters counts."""
        wait_until(lambda: text in self.said()[after:], seconds, lambda: f"{text!r} in:\n{self.said()}")

    def processes(self) -> list[int]:
        return processes.belonging_to(DataFolder(self.data).identity().stack_id)


def start(data: Path, environment: Mapping[str, str] | None = None) -> RunningStack:
    """`hls-pipeline up` without waiting for it."""
    output = data.with_name(data.name + ".out")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hls_pipeline.cli", "up", "--data", str(data)],
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


def stop(stack: RunningStack) -> float:
    """SIGTERM; the seconds it took. Asserts that every process is gone."""
    began = time.monotonic()
    stack.process.send_signal(signal.SIGTERM)
    stack.process.wait(STOP_SECONDS)
    took = time.monotonic() - began
    assert stack.processes() == []
    assert not (stack.data / "stack.json").exists()
    return took


@contextmanager
def running_stack(data: Path, environment: Mapping[str, str] | None = None) -> Iterator[RunningStack]:
    stack = start(data, environment)
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
