"""The supervisor with small parts of our own: order, restarts, failures and the end."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hls_pipeline.errors import Outage
from hls_pipeline.local import processes
from hls_pipeline.local.supervisor import Part, Supervisor
from tests.stack_fixture import wait_until

STACK_ID = f"test-supervisor-{secrets.token_hex(4)}"
"""Ours alone: two runs of the tests on one machine see each other's processes."""


class Listener:
    """Hears what the supervisor says, and asks it to stop when `until` is true of that."""

    def __init__(self, until: Callable[[list[str]], bool], act: Callable[[str], None] = lambda _: None) -> None:
        self.heard: list[str] = []
        self._until = until
        self._act = act

    def ready(self, part: Part, seconds: float) -> None:
        self.say(f"{part.name} ready")

    def say(self, text: str) -> None:
        self.heard.append(text)
        self._act(text)
        if self._until(self.heard):
            os.kill(os.getpid(), signal.SIGTERM)

    warn = say

    def waiting_for(self, titles: list[str]) -> None:
        pass


def python(name: str, folder: Path, code: str, **about: object) -> Part:
    """A part that runs `code` and is ready when it has made the file `name`; it can `count` its starts."""
    program = (
        "import os, signal, subprocess, sys, time, pathlib\n"
        f"made = pathlib.Path({str(folder / name)!r})\n"
        "count = len(made.read_text()) if made.exists() else 0\n"
        f"def ready(): made.write_text('x' * (count + 1))\n{code}\n"
    )

    def answers(started: float) -> bool:
        return (folder / name).exists() and (folder / name).stat().st_mtime >= started - 0.01

    return Part(name, name, (sys.executable, "-c", program), answers, **about)  # type: ignore[arg-type]


SERVE = "ready(); time.sleep(600)"


def supervise(parts: list[Part], folder: Path, listener: Listener, on_ready: Callable[[], None] = lambda: None) -> None:
    (folder / "logs").mkdir(exist_ok=True)
    environment = {**os.environ, processes.MARK: STACK_ID}
    Supervisor(tuple(parts), folder, environment, listener).run(on_ready)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> object:
    yield
    assert processes.belonging_to(STACK_ID) == []


def pid_of(name: str, folder: Path) -> int:
    """The running part whose program names its file."""
    wanted = repr(str(folder / name))
    return next(
        pid for pid in processes.belonging_to(STACK_ID) if any(wanted in word for word in psutil.Process(pid).cmdline())
    )


def test_a_part_starts_only_after_what_it_needs_has_answered(tmp_path: Path) -> None:
    late = python("late", tmp_path, "time.sleep(0.5); ready(); time.sleep(600)")
    task = python("task", tmp_path, "time.sleep(0.2); ready()", once=True)
    last = python("last", tmp_path, SERVE, needs=("late", "task"))
    listener = Listener(lambda heard: "last ready" in heard)
    supervise([last, late, task], tmp_path, listener)
    assert sorted(listener.heard[:2]) == ["late ready", "task ready"]
    assert listener.heard[2:] == ["last ready"]


def test_a_part_that_answers_before_its_supervisor_gets_to_look_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it counted as started after it had answered, and was killed a minute later for its silence."""
    start = processes.start

    def slowly(*about: Any) -> subprocess.Popen[bytes]:
        process = start(*about)
        wait_until((tmp_path / "quick").exists, 30, lambda: "the part")
        time.sleep(0.05)
        return process

    monkeypatch.setattr(processes, "start", slowly)
    monkeypatch.setattr("hls_pipeline.local.supervisor.START_SECONDS", 2)
    supervise([python("quick", tmp_path, SERVE)], tmp_path, Listener(lambda heard: "quick ready" in heard))


def test_a_part_that_dies_is_restarted_together_with_those_that_follow_it(tmp_path: Path) -> None:
    parts = [python("main", tmp_path, SERVE), python("follower", tmp_path, SERVE, follows=("main",))]
    backs: set[str] = set()

    def until(heard: list[str]) -> bool:
        backs.update(name for name in ("main", "follower") if any(text.startswith(f"{name} is back") for text in heard))
        return len(backs) == 2

    listener = Listener(until)
    supervise(parts, tmp_path, listener, lambda: os.kill(pid_of("main", tmp_path), signal.SIGKILL))
    assert any(text.startswith("main was ended by SIGKILL; starting it again") for text in listener.heard)
    assert (tmp_path / "follower").read_text() == "xx"


def test_a_part_that_keeps_dying_is_restarted_more_and_more_slowly(tmp_path: Path) -> None:
    times: list[float] = []
    seen = tmp_path / "seen"  # it ends only after it was found ready
    ending = python(
        "ending", tmp_path, f"ready()\nwhile not os.path.exists({str(seen)!r}): time.sleep(0.01)\nsys.exit(7)"
    )
    listener = Listener(
        lambda heard: sum("exit code 7" in text for text in heard) == 4,
        lambda text: times.append(time.monotonic()) if "exit code 7" in text else None,
    )
    supervise([ending], tmp_path, listener, seen.touch)
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert all(pause >= 0.25 * 2**n for n, pause in enumerate(pauses))


def test_a_part_that_cannot_start_ends_everything_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    parts = [python("good", tmp_path, SERVE), python("bad", tmp_path, "print('the disk is full'); sys.exit(3)")]
    with pytest.raises(Outage, match=r"(?s)bad did not start \(ended with exit code 3\).*the disk is full"):
        supervise(parts, tmp_path, Listener(lambda _: False))


def test_a_program_that_does_not_exist_is_an_outage_with_advice(tmp_path: Path) -> None:
    part = Part("gone", "gone", ("/nowhere/at-all",), lambda _: True)
    with pytest.raises(Outage, match=r"gone could not be started: .*make setup"):
        supervise([part], tmp_path, Listener(lambda _: False))


def test_a_part_that_ignores_sigterm_and_its_children_are_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hls_pipeline.local.supervisor.STOP_SECONDS", 0.5)
    stubborn = python(
        "stubborn",
        tmp_path,
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n" + SERVE,
    )
    supervise([stubborn], tmp_path, Listener(lambda heard: "stubborn ready" in heard))


def test_a_part_ends_only_after_those_that_need_it_have_put_their_work_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STOP_SECONDS", "ALL_STOP_SECONDS"):
        monkeypatch.setattr(f"hls_pipeline.local.supervisor.{name}", 60)
    last_words = (
        "def end(*_):\n    time.sleep({seconds})\n"
        f"    with open({str(tmp_path / 'ended')!r}, 'a') as file: print('{{name}}', file=file)\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "ready()\nwhile True: time.sleep(0.05)"  # a signal in the instant before a sleep is heard after it
    )
    base = python("base", tmp_path, last_words.format(seconds=0, name="base"))
    task = python("task", tmp_path, "ready()", once=True, needs=("base",))
    user = python("user", tmp_path, last_words.format(seconds=0.5, name="user"), needs=("task",))
    supervise([base, task, user], tmp_path, Listener(lambda heard: "user ready" in heard))
    assert (tmp_path / "ended").read_text() == "user\nbase\n"


def test_the_children_of_a_part_that_died_do_not_outlive_it(tmp_path: Path) -> None:
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    parent = python("parent", tmp_path, f"if count == 0: {child}{SERVE}")

    def kill() -> None:
        assert len(processes.belonging_to(STACK_ID)) == 2
        os.kill(pid_of("parent", tmp_path), signal.SIGKILL)

    def one_left(text: str) -> None:
        if "is back" in text:
            assert len(processes.belonging_to(STACK_ID)) == 1

    supervise([parent], tmp_path, Listener(lambda heard: "is back" in heard[-1], one_left), kill)


def test_the_children_of_a_part_that_ends_just_when_it_is_asked_to_do_not_outlive_it(tmp_path: Path) -> None:
    """Asking it reaped it, and with that the number of its group was gone."""
    command = ("sh", "-c", "sleep 600 & exit 0")
    process = processes.start(command, {**os.environ, processes.MARK: STACK_ID}, tmp_path, tmp_path / "log")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    supervisor = Supervisor((python("part", tmp_path, SERVE),), tmp_path, {}, Listener(lambda _: False))
    state = supervisor._states["part"]
    state.process = process
    supervisor._end(state, {}, set(), at_once=False)
    assert processes.has_ended(process)
    wait_until(lambda: not processes.belonging_to(STACK_ID), 60, lambda: "the child's end")


def test_a_part_that_never_answers_is_a_failure_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hls_pipeline.local.supervisor.START_SECONDS", 0.5)
    mute = python("mute", tmp_path, "time.sleep(600)")
    with pytest.raises(Outage, match=r"(?s)mute did not start .*did not answer within"):
        supervise([mute], tmp_path, Listener(lambda _: False))


def test_the_log_of_the_last_life_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    talking = python("talking", tmp_path, "print('start', count, flush=True); ready(); time.sleep(600)")
    for _ in range(2):
        supervise([talking], tmp_path, Listener(lambda heard: "talking ready" in heard))
    assert (tmp_path / "logs" / "talking.log.1").read_text() == "start 0\n"
    assert (tmp_path / "logs" / "talking.log").read_text() == "start 1\n"
