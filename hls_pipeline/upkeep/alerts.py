"""Problems that a person must hear of: opened once, told once to each channel, repeated daily, closed when over.

`settle` compares what is wrong now with what was known. Nobody is told of what heals by itself: a problem that `heals`
is told only when it is older than HLS_ALERT_AFTER_SECONDS. What is looked for is in `watch.py`, how a message gets out
in `alert_channels.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from hls_pipeline import clock, tables
from hls_pipeline.errors import PipelineError
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep.alert_channels import Channel

log = logging.getLogger(__name__)

KINDS = {
    "pins_short": "Published videos are not on enough IPFS nodes",
    "upload_failed": "Uploads failed",
    "upload_stuck": "Uploads do not move",
    "cleanup_stuck": "S3 copies are not removed",
    "service_down": "Services do not answer",
    "node_full": "IPFS nodes are filling up",
    "disk_full": "Disks are filling up",
    "run_failed": "Jobs failed",
}
RUN_FAILED, PINS_SHORT, SERVICE_DOWN = "run_failed", "pins_short", "service_down"
HEALING = frozenset({SERVICE_DOWN, "node_full", "disk_full"})
"""Kinds that may pass by themselves, which nobody is told of at once."""
_OPENED_BY_JOBS = frozenset({RUN_FAILED, PINS_SHORT})
"""Kinds that a look twice a minute does not find: not finding them says nothing."""
_END_IS_TOLD = HEALING | _OPENED_BY_JOBS
"""Of uploads it is not: one that is taken up again may fail again, and one that waits for a service is not stuck."""
_SHOWN = 20  # problems of a kind that a message lists


@dataclass(frozen=True)
class Problem:
    key: str
    """What is wrong with what, `kind:subject`: the same problem has the same key, however often it is found."""
    kind: str
    title: str
    cause: str
    action: str
    link: str = ""
    since: datetime | None = None

    @property
    def subject(self) -> str:
        return self.key.partition(":")[2]

    @property
    def heals(self) -> bool:
        return self.kind in HEALING


@dataclass(frozen=True)
class Message:
    """What goes to a channel at once."""

    problems: Sequence[Problem]
    gone: Sequence[Problem] = ()

    @property
    def subject(self) -> str:
        what = ", ".join(map(_count, _by_kind(self.problems)))
        if not what:
            what = _gone(self.gone[0]) if len(self.gone) == 1 else f"{len(self.gone)} problems are over"
        return f"[hls-pipeline] {what}"

    @property
    def text(self) -> str:
        return "\n\n".join([*map(_section, _by_kind(self.problems)), *map(_gone, self.gone)])

    def to_json(self) -> dict[str, Any]:
        """`text` is what Slack, Mattermost and their like show."""
        return {
            "text": f"{self.subject}\n\n{self.text}",
            "problems": [about(problem) for problem in self.problems],
            "resolved": [about(problem) for problem in self.gone],
        }


def about(problem: Problem) -> dict[str, Any]:
    return {**asdict(problem), "since": problem.since and clock.text(problem.since)}


def _by_kind(problems: Iterable[Problem]) -> list[list[Problem]]:
    order = list(KINDS)
    ordered = sorted(problems, key=lambda problem: order.index(problem.kind))
    return [list(group) for _, group in groupby(ordered, key=lambda problem: problem.kind)]


def _count(group: Sequence[Problem]) -> str:
    return group[0].title if len(group) == 1 else f"{KINDS[group[0].kind]} ({len(group)})"


def _section(group: Sequence[Problem]) -> str:
    """One kind of problem; causes and actions that several share stand once."""
    lines = [f"{KINDS[group[0].kind]} ({len(group)})"]
    shown = sorted(group[:_SHOWN], key=lambda problem: problem.action)
    for action, alike in groupby(shown, key=lambda problem: problem.action):
        for problem in alike:
            since = f", since {clock.seconds_text(problem.since)}" if problem.since else ""
            lines += [f"- {problem.title}{since}", f"  cause: {problem.cause}"]
            lines += [f"  {problem.link}"] if problem.link else []
        lines.append(f"  next: {action}")
    more = len(group) - len(shown)
    return "\n".join(lines + ([f"- and {more} more"] if more else []))


def _gone(problem: Problem) -> str:
    return f"Over: {problem.title}"


# ---- what is known -----------------------------------------------------------------------------------------------


def open_(store: MetadataStore, problem: Problem, now: datetime) -> None:
    """The problem is on record; one that was closed is open again, as a new one."""
    with store.writing() as db:
        _open(db, problem, now)


def close(store: MetadataStore, key: str, now: datetime) -> None:
    """The problem is over; the next look tells those who heard of it."""
    with store.writing() as db:
        _close(db, key, now)


def _close(db: sa.Connection, key: str, now: datetime) -> None:
    table = tables.alert
    db.execute(sa.update(table).filter_by(key=key).where(table.c.closed_at.is_(None)).values(closed_at=now))


def _open(db: sa.Connection, problem: Problem, now: datetime) -> None:
    table = tables.alert
    values = {name: getattr(problem, name) for name in ("kind", "title", "cause", "action", "link")}
    known = db.execute(sa.select(table.c.closed_at).filter_by(key=problem.key)).first()
    fresh: dict[str, Any] = {"opened_at": now, "closed_at": None, "told": {}}
    if known is None:
        db.execute(sa.insert(table).values(key=problem.key, **values, **fresh))
    else:
        changed = values | (fresh if known.closed_at else {})
        db.execute(sa.update(table).filter_by(key=problem.key).values(**changed))


def known(store: MetadataStore) -> list[Problem]:
    """All that are open, the oldest first."""
    with store.reading() as db:
        return [problem for problem, _ in _known(db)]


def _known(db: sa.Connection) -> list[tuple[Problem, dict[str, str]]]:
    return _which(db, tables.alert.c.closed_at.is_(None))


def _ended(db: sa.Connection, since: datetime) -> list[tuple[Problem, dict[str, str]]]:
    """Those whose end is news to whoever was told of them."""
    table = tables.alert
    return _which(db, table.c.closed_at > since, table.c.kind.in_(_END_IS_TOLD))


def was_open(store: MetadataStore, kind: str, since: datetime) -> bool:
    """Whether a problem of a kind is open, or was since then."""
    table = tables.alert
    open_then = table.c.closed_at.is_(None) | (table.c.closed_at >= since)
    with store.reading() as db:
        return db.execute(sa.select(sa.exists().where(table.c.kind == kind, open_then))).scalar_one()


def _which(db: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[tuple[Problem, dict[str, str]]]:
    table = tables.alert
    rows = db.execute(sa.select(table).where(*conditions).order_by(table.c.opened_at, table.c.key))
    return [
        (Problem(row.key, row.kind, row.title, row.cause, row.action, row.link, row.opened_at), row.told)
        for row in rows
    ]


def settle(
    store: MetadataStore,
    found: Collection[Problem],
    channels: Sequence[Channel],
    settings: Settings,
    now: datetime,
) -> int:
    """What was found is on record, what is no longer found is closed, and each channel is told what it does not know:
    problems that are due, and the end of those it heard of. What jobs opened stays open until it is closed, and what is
    wrong with a service for as long as the service does not answer. Says how many problems are open."""
    keys = {problem.key for problem in found}
    away = {problem.subject for problem in found if problem.kind == SERVICE_DOWN}
    with store.writing() as db:
        for problem in found:
            _open(db, problem, now)
        for problem, _ in _known(db):
            if not (problem.kind in _OPENED_BY_JOBS or problem.key in keys or problem.subject in away):
                _close(db, problem.key, now)
        still, gone = _known(db), _ended(db, now - timedelta(hours=settings.alert_repeat_hours))
    for channel in channels:
        due = [problem for problem, told in still if _is_due(problem, told.get(channel.name), settings, now)]
        past = [problem for problem, told in gone if channel.name in told]
        if (due or past) and _sent(channel, Message(due, past)):
            _note_told(store, channel.name, due, past, now)
    return len(still)


def _is_due(problem: Problem, told: str | None, settings: Settings, now: datetime) -> bool:
    assert problem.since is not None
    if told is not None:
        return now - clock.parse(told) >= timedelta(hours=settings.alert_repeat_hours)
    return not problem.heals or now - problem.since >= timedelta(seconds=settings.alert_after_seconds)


def _sent(channel: Channel, message: Message) -> bool:
    """A channel that fails is tried again at the next look; the others do not wait for it."""
    try:
        channel.send(message.subject, message.text, message.to_json())
    except PipelineError as error:
        log.warning("alerts: %s", error)
        return False
    return True


def _note_told(
    store: MetadataStore, channel: str, due: Sequence[Problem], past: Sequence[Problem], now: datetime
) -> None:
    """A channel that knows the end of a problem has nothing to hear of it any more."""
    table = tables.alert
    with store.writing() as db:
        for problem in (*due, *past):
            before = db.execute(sa.select(table.c.told).filter_by(key=problem.key)).scalar_one()
            told = {name: time for name, time in before.items() if name != channel}
            if problem in due:
                told[channel] = clock.text(now)
            db.execute(sa.update(table).filter_by(key=problem.key).values(told=told))


# ---- the one problem that the database cannot remember -----------------------------------------------------------


@dataclass(frozen=True)
class Silence:
    """The metadata store does not answer: since when, and whether the channels know."""

    since: datetime
    told: bool = False

    def next(self, error: PipelineError, channels: Sequence[Channel], settings: Settings, now: datetime) -> Silence:
        if self.told or now - self.since < timedelta(seconds=settings.alert_after_seconds):
            return self
        problem = database_down(str(error), self.since)
        sent = [_sent(channel, Message([problem])) for channel in channels]
        return replace(self, told=any(sent))

    def over(self, channels: Sequence[Channel]) -> None:
        if self.told:
            for channel in channels:
                _sent(channel, Message([], [database_down("", self.since)]))


def database_down(cause: str, since: datetime) -> Problem:
    return Problem(
        f"{SERVICE_DOWN}:database",
        SERVICE_DOWN,
        "The metadata store does not answer",
        cause,
        "Start the database; work goes on by itself. `hls-pipeline doctor` checks the address.",
        since=since,
    )
