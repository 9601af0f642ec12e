"""One run in a worker's child: whether to execute it, the execution, and how it is stopped from outside.

`Executor` holds what a child keeps open between runs. While a run executes, a thread looks every second whether it was
terminated or the worker stops, and interrupts it; nothing else ends a run.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from billiard.process import current_process
from celery.exceptions import Reject
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._cli.api import _execute_run_command_body
from dagster._utils.interrupts import capture_interrupts
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import InterfaceError, OperationalError

from hls_pipeline import clock, metadata_store, object_store
from hls_pipeline.errors import Outage
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.queue import broker, leases
from hls_pipeline.queue.instance import BEGUN, fail_lost_run, keep_connections
from hls_pipeline.queue.requests import UPLOAD_TAG
from hls_pipeline.queue.shared import Budget, Flag
from hls_pipeline.settings import Settings

_log = logging.getLogger(__name__)

_ENDED_FROM_OUTSIDE = frozenset({DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE})
_LOOK_SECONDS = 1.0
_TAKEN = timedelta(seconds=30)
DATABASE_IS_AWAY = (Outage, OperationalError, InterfaceError, DagsterPostgresException)


@dataclass(frozen=True)
class Executor:
    settings: Settings
    instance: DagsterInstance
    store: MetadataStore
    stopping: Flag
    budget: Budget
    child: int
    """Number of this process among its siblings; one that takes another's place has the same."""

    @classmethod
    def open(cls, settings: Settings, stopping: Flag, budget: Budget) -> Executor:
        child = current_process().index
        budget.give_back(child)  # of one that died here
        object_store.connect(settings)  # the first one takes longer to make than a small package's run
        instance = DagsterInstance.get()
        keep_connections(instance)
        return cls(settings, instance, metadata_store.connect(settings.database_url), stopping, budget, child)

    def handle(self, run_id: str, queue: str, looked: bool) -> None:
        """A message came; `looked`: its run had begun elsewhere when it came before. Afterwards it can be forgotten:
        its run is over, or another message is on its way."""
        try:
            self._handle(run_id, queue, looked)
        except DATABASE_IS_AWAY as error:
            _log.warning("run %s: a database is away, it is looked at again later: %s", run_id, error)
            self._look_again(run_id, queue)

    def _handle(self, run_id: str, queue: str, looked: bool) -> None:
        run = self.instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            leases.hide(self.store, run_id)
            return
        if run.status not in BEGUN:
            with self._room(run, queue):
                watch = _Watch(self, run)
                if watch.claim() and self.status(run_id) is run.status:
                    self._execute(watch)
                else:
                    self._look_again(run_id, queue)
        elif looked and not leases.at_work(self.store, run_id, clock.now()):
            self._bury(run)
        else:
            self._look_again(run_id, queue)

    def status(self, run_id: str) -> DagsterRunStatus | None:
        run = self.instance.get_run_by_id(run_id)
        return run.status if run else None

    @contextmanager
    def _room(self, run: DagsterRun, queue: str) -> Iterator[None]:
        """Waits until the large packages at work here leave room for this one; meanwhile it stays taken."""
        if queue != broker.IPFS:
            yield
            return
        self.budget.ask(self.child, int(run.tags.get(broker.BYTES_TAG, 0)))
        try:
            for tries in itertools.count():
                if self.budget.granted(self.child):
                    break
                if self.stopping.is_set():
                    raise Reject(requeue=True)
                if tries % 10 == 0:
                    leases.wait(self.store, [run.tags.get(UPLOAD_TAG, "")], clock.now() + _TAKEN)
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            self.budget.give_back(self.child)

    def _execute(self, watch: _Watch) -> None:
        run_id = watch.run.run_id
        with _interruptible(), watch:
            _execute_run_command_body(run_id, self.instance, lambda _: None, set_exit_code_on_failure=True)
        if watch.interrupted:
            leases.hand_back(self.store, run_id)
            raise SystemExit  # a process that was interrupted anywhere ends; its message comes back and finds the end

    def _look_again(self, run_id: str, queue: str) -> None:
        """Another worker has the run, or nobody can tell: the message comes again when its lease must be over."""
        options = broker.connect(self.settings).later(queue, self.settings.lease_seconds)
        try:
            broker.send(self.settings, run_id, looked=True, **{"queue": queue, **options})
        except Outage as outage:
            _log.warning("run %s: its message goes back as it is: %s", run_id, outage)
            time.sleep(_LOOK_SECONDS)
            raise Reject(requeue=True) from outage

    def _bury(self, run: DagsterRun) -> None:
        if run.status is DagsterRunStatus.CANCELING:
            self.instance.report_run_canceled(run)
        else:
            fail_lost_run(self.instance, run)
        leases.hide(self.store, run.run_id)


@dataclass
class _Watch:
    """Looks after a run from beside it and interrupts the main thread at most once."""

    executor: Executor
    run: DagsterRun
    interrupted: bool = False
    _worker: str = field(default_factory=lambda: str(uuid.uuid4()))
    _over: threading.Event = field(default_factory=threading.Event)

    def claim(self) -> bool:
        """Whether the run is ours, and stays so for the time of a lease."""
        seconds = self.executor.settings.lease_seconds
        return leases.claim(self.executor.store, self.run.run_id, self._worker, clock.now(), seconds)

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._look, name=f"watch-{self.run.run_id}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        leases.hide(self.executor.store, self.run.run_id)

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            try:
                if self._must_end():
                    self.interrupted = True
                    os.kill(os.getpid(), signal.SIGINT)
                    return
            except DATABASE_IS_AWAY as error:
                _log.warning("run %s: cannot look whether it was terminated: %s", self.run.run_id, error)

    def _must_end(self) -> bool:
        if not self.claim():
            os._exit(1)  # frozen for longer than a lease: whatever this process would still say of the run is wrong
        status = self.executor.status(self.run.run_id)
        if status is DagsterRunStatus.STARTED and self.executor.stopping.is_set():
            if UPLOAD_TAG in self.run.tags:  # others count as failed when they are interrupted, which is retried
                self.executor.instance.report_run_canceling(self.run, "The worker stops; another run goes on.")
            return True
        return status in _ENDED_FROM_OUTSIDE


@contextmanager
def _interruptible() -> Iterator[None]:
    """Dagster takes SIGINT while a run executes; what it gives back is not what it took."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with capture_interrupts():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
