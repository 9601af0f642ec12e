"""Processes we own: how they are started, recognised as ours, and ended with everything they started.

A process is ours when its environment carries the random id of our data folder: children of children inherit it, a
recycled process number does not have it. Nothing is ever ended by its name. Which processes to start, and when, is
decided in `supervisor.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

MARK = "HLS_STACK_ID"
"""The environment variable that says to which data folder a process belongs."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def start(command: tuple[str, ...], environment: Mapping[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process that leads its own group, writes to `log`, and dies when this one does. Raises OSError."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),  # we start from the main thread only
        )


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has; then the rest of its group is ended too, before the group's number can belong to another."""
    if process.returncode is not None:
        return True
    if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        return False
    signal_group(process, signal.SIGKILL)
    process.wait()
    return True


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Only while the process is not reaped: until then its group's number is certainly still its own."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def signal_first(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the process alone. Not by `Popen.send_signal`, which reaps one that has just ended: nobody could end the rest
    of its group any more."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def belonging_to(stack_id: str) -> list[int]:
    """Process numbers that carry the id, without this process. Knows Linux's /proc; elsewhere it finds none."""
    entry = f"{MARK}={stack_id}".encode()
    return [pid for pid in _processes() if pid != os.getpid() and _carries(pid, entry)]


def end_all(stack_id: str, grace: float) -> int:
    """End every process that carries the id: politely, and after `grace` seconds for certain. Says how many."""
    found = belonging_to(stack_id)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for pid in belonging_to(stack_id):
            _signal_if_ours(pid, stack_id, number)
        deadline = time.monotonic() + patience
        while belonging_to(stack_id) and time.monotonic() < deadline:
            time.sleep(0.05)
    return len(found)


def _signal_if_ours(pid: int, stack_id: str, number: signal.Signals) -> None:
    """Through a handle taken before the look, so that the number cannot change hands in between."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, f"{MARK}={stack_id}".encode()):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _processes() -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _carries(pid: int, entry: bytes) -> bool:
    try:
        return entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it ended, or it is somebody else's
        return False


def die_with_parent() -> None:
    """Has the kernel end this process when the one that started it ends."""
    tell_kernel = _dying_with(os.getppid())
    if tell_kernel is not None:
        tell_kernel()


def _dying_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: between fork and exec little is safe

    def tell_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)

    return tell_kernel
