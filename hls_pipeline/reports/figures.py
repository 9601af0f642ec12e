"""What the pipeline did, in numbers that one would show to a manager: volume, time, promises kept, what is proven.

`make` reads the metadata store once and keeps aggregates, so it takes any number of files. How they are drawn is in
`charts.py`, how the page is written in `page.py`. A new number is a frame of `Report`, named after its section.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from hls_pipeline import clock, failures, tables
from hls_pipeline.hls.rules import RULES
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.reports import inventory
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import State

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_AT_ONCE = 50_000  # rows held as Python objects
_NEWEST = 2_000  # publications whose promise is looked up
MB = 1e6

STAGES = {
    (State.RECEIVED, State.STAGED): "check and store in S3",
    (State.STAGED, State.PINNED): "add to IPFS and prove",
    (State.PINNED, State.PUBLISHED): "record and publish",
    (State.PUBLISHED, State.CLEARED): "prove again, clear S3",
}
_BUCKETS = ((timedelta(hours=3), "5min"), (timedelta(days=3), "h"), (timedelta(days=120), "D"))
_AGES = ((1, "under a day"), (7, "1 to 7 days"), (30, "7 to 30 days"), (90, "30 to 90 days"), (1e9, "over 90 days"))
NEVER = "never"


@dataclass(frozen=True)
class Report:
    """Each frame is a table of the page; times are UTC, sizes bytes, durations seconds."""

    at: datetime
    since: datetime
    totals: dict[str, float | int | None]
    volume: pd.DataFrame
    """By time: uploads that arrived, were published, refused and failed, and the bytes published."""
    stages: pd.DataFrame
    throughput: pd.DataFrame
    """By time: bytes per second from staged to published, the median and the outer tenths."""
    promises: pd.DataFrame
    """How many publications were so many seconds later than promised (earlier: negative)."""
    storage: pd.DataFrame
    """By time: bytes that lie on IPFS alone, and that also lie in S3."""
    replication: pd.DataFrame
    proof_age: pd.DataFrame
    failures: pd.DataFrame
    refusals: pd.DataFrame
    content: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        import pandas as pd

        def shown(value: Any) -> Any:
            if isinstance(value, datetime):
                return clock.seconds_text(value)
            if isinstance(value, pd.DataFrame):
                return json.loads(value.to_json(orient="records", date_format="iso", date_unit="s"))
            return value

        return {field.name: shown(getattr(self, field.name)) for field in fields(self)}


def make(store: MetadataStore, settings: Settings, since: datetime, now: datetime) -> Report:
    """What happened since `since`; what there is, as of now."""
    changes = _changes(store)
    recent = changes[changes["time"] >= since]
    size = _bucket(now - max(since, recent["time"].min())) if len(recent) else "D"
    files = _Files()
    for batch in inventory.batches(store, settings, now):
        files.add(batch)
    stages, speed, late = _stages(recent), _speeds(recent), _late(store, since)
    return Report(
        at=now,
        since=since,
        totals=_totals(recent, speed, late, files),
        volume=_volume(recent, size),
        stages=stages,
        throughput=_throughput(speed, size),
        promises=_promises(late),
        storage=_storage(changes, since, size),
        replication=files.table("nodes"),
        proof_age=files.by_age(),
        failures=_failures(store, since),
        refusals=_refusals(store, since),
        content=files.table("content_type").sort_values("bytes", ascending=False).head(12),
    )


def _bucket(span: timedelta) -> str:
    """The width of a point in time, as pandas spells it."""
    return next((name for limit, name in _BUCKETS if span <= limit), "W-MON")


# ---- what happened ----------------------------------------------------------------------------------------------


def _changes(store: MetadataStore) -> pd.DataFrame:
    """Every change of state with the one before it: state, time, before, seconds, size, and whether it published what
    has nothing in S3, such as a revision made from IPFS."""
    change, upload, temp = tables.state_change, tables.upload, tables.temp_storage
    order: dict[str, Any] = {"partition_by": change.c.upload_id, "order_by": change.c.id}
    query = sa.select(
        change.c.state,
        sa.type_coerce(change.c.time, sa.String).label("time"),
        sa.func.lag(change.c.state).over(**order).label("before"),
        sa.func.lag(sa.type_coerce(change.c.time, sa.String)).over(**order).label("since"),
        sa.func.coalesce(upload.c.size, 0).label("size"),
        sa.case(
            (
                sa.and_(change.c.state == State.PUBLISHED, upload.c.state == State.PUBLISHED),
                ~sa.exists().where(temp.c.upload_id == upload.c.upload_id),
            ),
            else_=sa.false(),
        ).label("ipfs_only"),
    ).join(upload, upload.c.upload_id == change.c.upload_id)
    frame = _frame(store, query, times=("time", "since"), repeated=("state", "before"))
    frame["seconds"] = (frame["time"] - frame.pop("since")).dt.total_seconds()
    return frame


def _frame(store: MetadataStore, query: sa.Select[Any], times: Sequence[str], repeated: Sequence[str]) -> pd.DataFrame:
    """The rows of a query. Texts that repeat are kept once, times become times, a slice at a time: as Python objects
    all of them would need several times the memory."""
    import pandas as pd

    def slices() -> Iterator[pd.DataFrame]:
        with store.reading() as db:
            result = db.execute(query, execution_options={"yield_per": _AT_ONCE})
            columns = list(result.keys())
            for part in result.partitions():
                frame = pd.DataFrame.from_records(list(map(tuple, part)), columns=columns)
                for name in times:
                    frame[name] = pd.to_datetime(frame[name], format="ISO8601", utc=True)
                for name in repeated:
                    frame[name] = pd.Categorical(frame[name], categories=[str(state) for state in State])
                yield frame

    found = list(slices())
    if found:
        return pd.concat(found, ignore_index=True)
    empty = pd.DataFrame({column.name: [] for column in query.selected_columns})
    return empty.assign(**{name: pd.to_datetime(empty[name], utc=True) for name in times})


def _volume(recent: pd.DataFrame, size: str) -> pd.DataFrame:
    import pandas as pd

    names = {"received": "arrived", "published": "published", "rejected": "refused", "failed": "failed"}
    first = recent[recent["state"].isin(names)]
    if first.empty:
        return pd.DataFrame(columns=["time", *names.values(), "bytes"])
    by_time = pd.Grouper(key="time", freq=size)
    counts = first.groupby([by_time, first["state"].astype(str)]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(names), fill_value=0).rename(columns=names)
    published = first[first["state"] == "published"].groupby(by_time)["size"].sum()
    return counts.assign(bytes=published).fillna({"bytes": 0}).astype("int64").asfreq(size, fill_value=0).reset_index()


def _stages(recent: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for (before, after), title in STAGES.items():
        seconds = recent.loc[(recent["before"] == before) & (recent["state"] == after), "seconds"]
        if len(seconds):
            p50, p90, p99 = seconds.quantile([0.5, 0.9, 0.99])
            rows.append((title, len(seconds), p50, p90, p99, seconds.max()))
    return pd.DataFrame(rows, columns=["stage", "uploads", "p50", "p90", "p99", "max"])


def _speeds(recent: pd.DataFrame) -> pd.DataFrame:
    """Bytes per second of each publication, from its files being in S3 to their being proven on IPFS."""
    pinned = recent[(recent["state"] == "pinned") & (recent["before"] == "staged") & (recent["size"] > 0)]
    return pinned.assign(speed=pinned["size"] / pinned["seconds"].clip(lower=0.001))[["time", "size", "speed"]]


def _throughput(speed: pd.DataFrame, size: str) -> pd.DataFrame:
    import pandas as pd

    if speed.empty:
        return pd.DataFrame(columns=["time", "p10", "median", "p90"])
    found = speed.groupby(pd.Grouper(key="time", freq=size))["speed"].quantile([0.1, 0.5, 0.9]).unstack().dropna()
    return found.set_axis(["p10", "median", "p90"], axis="columns").reset_index()


def _storage(changes: pd.DataFrame, since: datetime, size: str) -> pd.DataFrame:
    """Counted from the beginning of time, shown from `since` on."""
    import pandas as pd

    done = changes[changes["state"].isin(["published", "cleared"])]
    if done.empty:
        return pd.DataFrame(columns=["time", "ipfs_only", "also_s3"])
    done = pd.concat([done, done[done["ipfs_only"].astype(bool)].assign(state="cleared")])
    by_time = [pd.Grouper(key="time", freq=size), done["state"].astype(str)]
    sums = done.groupby(by_time)["size"].sum().unstack(fill_value=0)
    sums = sums.reindex(columns=["published", "cleared"], fill_value=0).asfreq(size, fill_value=0).cumsum()
    found = pd.DataFrame({"ipfs_only": sums["cleared"], "also_s3": (sums["published"] - sums["cleared"]).clip(lower=0)})
    return found[found.index >= pd.Timestamp(since).floor("D")].reset_index()


def _late(store: MetadataStore, since: datetime) -> list[float]:
    """Of the newest publications: seconds between the promised and the real completion."""
    change, upload, version = tables.state_change, tables.upload, tables.version
    query = (
        sa.select(version.c.document, change.c.time)
        .select_from(change)
        .join(upload, upload.c.upload_id == change.c.upload_id)
        .join(version, (version.c.video_id == upload.c.video_id) & (version.c.revision == upload.c.revision))
        .where(change.c.state == State.PUBLISHED, change.c.time >= since, version.c.reason == "staged")
        .order_by(change.c.id.desc())
        .limit(_NEWEST)
    )
    late = []
    with store.reading() as db:
        for document, time in db.execute(query, execution_options={"yield_per": 100}):
            if promised := json.loads(document).get("estimated_completion"):
                late.append((time - clock.parse(promised)).total_seconds())
    return late


def _promises(late: Sequence[float]) -> pd.DataFrame:
    import pandas as pd

    edges = [-1e9, -600, -60, -10, -3, 0, 3, 10, 60, 600, 1e9]
    names = [
        "10 min early",
        "1 min",
        "10 s",
        "3 s",
        "0 to 3 s early",
        "0 to 3 s late",
        "3 s",
        "10 s",
        "1 min",
        "10 min",
    ]
    counts = pd.Series(pd.cut(late, edges, labels=False, right=True)).value_counts().reindex(range(10), fill_value=0)
    return pd.DataFrame({"from_seconds": edges[:-1], "name": names, "uploads": counts.to_numpy()})


def _failures(store: MetadataStore, since: datetime) -> pd.DataFrame:
    import pandas as pd

    rows = [
        (found.code, found.uploads, found.tries, clock.seconds_text(found.last_at), failures.advice(found.code).action)
        for found in failures.by_code(store, since)
    ]
    return pd.DataFrame(rows, columns=["code", "uploads", "tries", "last", "action"])


def _refusals(store: MetadataStore, since: datetime) -> pd.DataFrame:
    """Refused packages by the rules they break; a package counts once for each rule."""
    import pandas as pd

    upload, codes = tables.upload, Counter[str]()
    query = sa.select(upload.c.report).where(upload.c.state == State.REJECTED, upload.c.updated_at >= since)
    with store.reading() as db:
        for (report,) in db.execute(query, execution_options={"yield_per": 100}):
            codes.update({error["code"] for error in (report or {}).get("errors", ())})
    rows = [(code, count, RULES[code].meaning if code in RULES else "") for code, count in codes.most_common()]
    return pd.DataFrame(rows, columns=["code", "packages", "meaning"])


# ---- what there is -----------------------------------------------------------------------------------------------


class _Files:
    """Sums over the inventory, batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[str, Counter[Any]] = {name: Counter() for name in ("nodes", "content_type", "age", "s3")}
        self._files: dict[str, Counter[Any]] = {name: Counter() for name in self._sums}
        self.oldest = 0.0

    def add(self, batch: pa.RecordBatch) -> None:
        import pandas as pd

        frame = batch.select(["nodes", "content_type", "size", "proof_age_days"]).to_pandas()
        ages = frame["proof_age_days"]
        limits = [-1.0, *(limit for limit, _ in _AGES)]
        cut = pd.cut(ages, limits, labels=[name for _, name in _AGES], right=False)
        frame["age"] = cut.cat.add_categories(NEVER).fillna(NEVER)
        frame["s3"] = batch.column("s3").is_valid().to_pandas()
        self.oldest = max(self.oldest, ages.max(skipna=True) if ages.notna().any() else 0.0)
        for name in self._sums:
            found = frame.groupby(name, observed=True)["size"].agg(["sum", "size"])
            self._sums[name].update(found["sum"].to_dict())
            self._files[name].update(found["size"].to_dict())

    def bytes(self, name: str, value: Any) -> int:
        return int(self._sums[name][value])

    @property
    def count(self) -> int:
        return int(self._files["s3"].total())

    @property
    def all_bytes(self) -> int:
        return int(self._sums["s3"].total())

    def table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        values = sorted(self._files[name])
        return pd.DataFrame(
            {
                name: values,
                "files": [int(self._files[name][value]) for value in values],
                "bytes": [self.bytes(name, value) for value in values],
            }
        )

    def by_age(self) -> pd.DataFrame:
        order = {name: n for n, (_, name) in enumerate((*_AGES, (0, NEVER)))}
        return self.table("age").sort_values("age", key=lambda names: names.map(order)).rename(columns={"age": "proof"})


def _totals(
    recent: pd.DataFrame, speed: pd.DataFrame, late: Sequence[float], files: _Files
) -> dict[str, float | int | None]:
    counts = recent["state"].value_counts()
    published, failed = int(counts.get("published", 0)), int(counts.get("failed", 0))
    kept = sum(seconds <= 0 for seconds in late)
    return {
        "published": published,
        "refused": int(counts.get("rejected", 0)),
        "failed": failed,
        "success": published / (published + failed) if published + failed else None,
        "bytes_published": int(recent.loc[recent["state"] == "published", "size"].sum()),
        "bytes_per_second": float(speed["speed"].median()) if len(speed) else None,
        "promises_kept": kept / len(late) if late else None,
        "files": files.count,
        "bytes": files.all_bytes,
        "bytes_in_s3": files.bytes("s3", True),
        "bytes_saved": files.bytes("s3", False),
        "bytes_unproven": files.bytes("age", NEVER),
        "oldest_proof_days": round(float(files.oldest), 2),
    }
