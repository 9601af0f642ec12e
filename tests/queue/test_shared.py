"""What a worker's processes tell each other through memory: when to stop, and who may work on how much."""

from __future__ import annotations

import os
import threading
import time

from hls_pipeline.queue.health import Pulse
from hls_pipeline.queue.shared import Budget, Flag


def test_large_packages_wait_for_those_that_came_before_them() -> None:
    budget = Budget(10, 3)
    for child, size in enumerate((6, 6, 3)):
        budget.ask(child, size)
    assert [budget.granted(child) for child in range(3)] == [True, False, False]
    budget.give_back(0)
    assert [budget.granted(child) for child in (1, 2)] == [True, True]


def test_a_package_over_the_limit_works_alone() -> None:
    budget = Budget(10, 2)
    budget.ask(0, 3)
    budget.ask(1, 50)
    assert not budget.granted(1)
    budget.give_back(0)
    assert budget.granted(1)
    budget.ask(0, 1)
    assert not budget.granted(0)


def test_children_see_what_is_set_and_what_others_have_taken() -> None:
    budget, stop = Budget(10, 2), Flag()
    child = os.fork()
    if child == 0:
        budget.ask(1, 10)
        while not stop.is_set():
            time.sleep(0.01)
        os._exit(0)
    while not any(ticket for ticket, _ in budget._slots()):
        time.sleep(0.01)
    budget.ask(0, 1)
    assert not budget.granted(0)
    stop.set_in(0)
    assert os.waitpid(child, 0)[1] == 0
    budget.give_back(1)  # as the child that takes its place does
    assert budget.granted(0)


def test_the_first_to_say_when_to_stop_is_heard_without_a_thread() -> None:
    """A signal handler says it: one that started a timer waited for ever for what the interrupted thread held."""
    stop, before = Flag(), threading.active_count()
    stop.set_in(3600)
    assert threading.active_count() == before
    assert not stop.is_set()
    stop.set_in(0)
    assert not stop.is_set()


def test_a_worker_that_never_reached_the_broker_is_not_well() -> None:
    pulse = Pulse()
    assert not pulse.beats()
    pulse.beat()
    assert pulse.beats()
