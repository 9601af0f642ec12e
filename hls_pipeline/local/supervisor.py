"""Keeps a list of parts running: starts them as soon as what they need is there, restarts what dies, stops them all.

One thread and one loop, because a child dies with the thread that started it. A part is a value (`Part`); this module
knows nothing of S3 or Dagster. What is started is decided in `stack.py`, how a process is ended in `processes.py`,
how it looks on the screen in `narrator.py`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from hls_pipeline.errors import Outage
from hls_pipeline.local import processes

START_SECONDS = 60.0
"""A part that has not answered by then has failed to start."""
STOP_SECONDS = 5.0
"""Between asking a part to end and ending it."""
ALL_STOP_SECONDS = 7.0
"""After that long nothing is waited for any more."""

_TICK = 0.05  # seconds between two looks
_FIRST_DELAY = 0.25  # seconds before a restart; doubles each time
_LONGEST_DELAY = 15.0
_STEADY_SECONDS = 30.0  # a part that lived so long starts again with the first delay
_LOG_LINES = 15


@dataclass(frozen=True)
class Part:
    name: str
    """One word, for messages and the log file."""
    title: str
    command: tuple[str, ...]
    answers: Callable[[float], bool]
    """Is it ready? Called often, so it gives up within a second; gets the time (epoch) at which the part started."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what every part gets."""
    folder: Path | None = None
    """Where it runs, if not in the data folder."""
    needs: tuple[str, ...] = ()
    """Parts that must have answered before this one starts."""
    follows: tuple[str, ...] = ()
    """Parts whose restart restarts this one too."""
    once: bool = False
    """A task: done when it ends well."""
    stop: signal.Signals = signal.SIGTERM
    """What asks it to end; its first process gets it and tells its children."""
    address: str = ""
    """What a person may want to open."""


class Narrator(Protocol):
    def waiting_for(self, titles: list[str]) -> None: ...
    def ready(self, part: Part, seconds: float) -> None: ...
    def say(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


@dataclass
class _State:
    """Where one part is: `process` runs, or the part waits until `not_before`, or it is `done`."""

    part: Part
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    not_before: float = 0.0
    failures: int = 0
    ready: bool = False
    was_ready: bool = False
    done: bool = False


class Supervisor:
    def __init__(
        self, parts: tuple[Part, ...], folder: Path, environment: Mapping[str, str], narrator: Narrator
    ) -> None:
        self._folder = folder
        self._environment = environment
        self._narrator = narrator
        self._states = {part.name: _State(part, folder / "logs" / f"{part.name}.log") for part in parts}
        self._stop_asked = False
        self._interrupts = 0

    def run(self, on_ready: Callable[[], None]) -> None:
        """Until a signal asks to stop. `on_ready` is called once, when every part has answered.

        Raises Outage, after stopping everything, when a part cannot be started in the first place.
        """
        for state in self._states.values():
            _rotate(state.log)
        with self._signals():
            try:
                self._until_ready()
                if not self._stop_asked:
                    on_ready()
                while not self._stop_asked:
                    self._look()
                    time.sleep(_TICK)
            finally:
                self._stop()

    # ---- running ----------------------------------------------------------------------------------------------

    def _until_ready(self) -> None:
        while not self._stop_asked:
            self._look()
            late = [state.part.title for state in self._states.values() if not state.was_ready]
            self._narrator.waiting_for(late)
            if not late:
                return
            time.sleep(_TICK)

    def _look(self) -> None:
        for state in self._states.values():
            if state.done or self._stop_asked:
                continue
            if state.process is None:
                self._start_if_due(state)
            elif processes.has_ended(state.process):
                self._ended(state, state.process.returncode)
            elif not state.ready:
                self._check(state)

    def _start_if_due(self, state: _State) -> None:
        if time.time() < state.not_before or not all(self._states[name].was_ready for name in state.part.needs):
            return
        environment = {**self._environment, **state.part.environment}
        folder = state.part.folder or self._folder
        state.started, state.ready = time.time(), False  # before it can have done anything
        try:
            state.process = processes.start(state.part.command, environment, folder, state.log)
        except OSError as error:
            raise Outage(f"{state.part.title} could not be started: {error}; run `make setup` again") from error

    def _check(self, state: _State) -> None:
        if not state.part.once and state.part.answers(state.started):
            self._answered(state)
        elif time.time() - state.started > START_SECONDS and state.process is not None:
            with state.log.open("a") as log:
                log.write(f"did not answer within {START_SECONDS:.0f} s, ended by its supervisor\n")
            processes.signal_group(state.process, signal.SIGKILL)

    def _answered(self, state: _State) -> None:
        seconds = time.time() - state.started
        if state.was_ready:
            self._narrator.say(f"{state.part.title} is back after {seconds:.1f} s")
        else:
            self._narrator.ready(state.part, seconds)
        state.ready = state.was_ready = True

    def _ended(self, state: _State, code: int) -> None:
        state.process = None
        if state.part.once and code == 0:
            state.done = True
            self._answered(state)
        elif state.was_ready:
            self._restart_later(state, code)
        else:
            raise Outage(
                f"{state.part.title} did not start ({_how(code)}). The end of {state.log}:\n\n{_tail(state.log)}\n\n"
                "Correct what it says and start the stack again; `hls-pipeline doctor` checks every service."
            )

    def _restart_later(self, state: _State, code: int) -> None:
        lived = time.time() - state.started
        state.failures = 0 if lived > _STEADY_SECONDS else state.failures + 1
        delay = min(_FIRST_DELAY * 2 ** max(0, state.failures - 1), _LONGEST_DELAY)
        state.not_before = time.time() + delay
        self._narrator.warn(f"{state.part.title} {_how(code)}; starting it again (its log: {state.log})")
        for other in self._states.values():
            if state.part.name in other.part.follows and other.process is not None:
                processes.signal_group(other.process, signal.SIGKILL)

    # ---- stopping ---------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """What others need ends after them, so that work is put down while its services still answer."""
        asked: dict[str, float] = {}
        began = time.monotonic()
        while living := [state for state in self._states.values() if _is_running(state)]:
            needed = {name for state in living for name in self._all_needs(state.part)}
            at_once = self._interrupts > 1 or time.monotonic() - began > ALL_STOP_SECONDS
            for state in living:
                self._end(state, asked, needed, at_once=at_once)
            time.sleep(_TICK)

    def _end(self, state: _State, asked: dict[str, float], needed: set[str], *, at_once: bool) -> None:
        assert state.process is not None
        name, now = state.part.name, time.monotonic()
        if at_once or now - asked.get(name, now) > STOP_SECONDS:
            processes.signal_group(state.process, signal.SIGKILL)
        elif name not in asked and name not in needed:
            asked[name] = now
            processes.signal_first(state.process, state.part.stop)

    def _all_needs(self, part: Part) -> set[str]:
        """Also those of tasks that are done."""
        return {*part.needs, *(name for need in part.needs for name in self._all_needs(self._states[need].part))}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP ask to stop; a second Ctrl-C means at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop_asked = True
            self._interrupts += number == signal.SIGINT

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, ask) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def _is_running(state: _State) -> bool:
    return state.process is not None and not processes.has_ended(state.process)


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _rotate(log: Path) -> None:
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
