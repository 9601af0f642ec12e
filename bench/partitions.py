"""What an upload costs beside 100,000 that were there before it, against the same in an installation that is new.

Real packages go through an `hls-pipeline up --production`; then one of them is copied inside both databases as often as
wanted, with all that grows with uploads: partition keys, runs and their tags, materializations and checks, ticks, and
every table of ours. The logs of old runs are left out, `HLS_HISTORY_DAYS` has thinned them by then. Afterwards as many
real packages go through again. Root or sudo, PostgreSQL and RabbitMQ are needed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from bench.queueing import IN_FLIGHT, Feed, Share, measured, one_by_one, processes_of, production
from hls_pipeline import tables
from tests.services import World

DAGSTER_TABLES = ("dynamic_partitions", "runs", "run_tags", "event_logs", "asset_check_executions")
KEPT_EVENTS = ("ASSET_MATERIALIZATION", "ASSET_MATERIALIZATION_PLANNED", "ASSET_CHECK_EVALUATION", "ASSET_OBSERVATION")
TICKS = 200_000
"""Two sensors that look every second leave no more than these: those that found nothing are forgotten after a day."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--existing", type=int, default=100_000)
    parser.add_argument("--packages", type=int, default=120, help="measured before, and again afterwards")
    parser.add_argument("--single", type=int, default=10, help="dropped one by one, before and afterwards")
    chosen = parser.parse_args()
    with production() as (world, data, description):
        feed = Feed(world)
        feed.until(IN_FLIGHT)
        few = look(world, feed, data, chosen.packages, chosen.single)
        began = time.monotonic()
        fill(description["database"], chosen.existing)
        print(f"{chosen.existing} uploads copied in {time.monotonic() - began:.0f} s", flush=True)
        restart_gateway(data)
        feed = Feed(world)
        feed.until(IN_FLIGHT)
        many = look(world, feed, data, chosen.packages, chosen.single)
    compare(few, many, chosen.existing)


def look(world: World, feed: Feed, data: Path, packages: int, single: int) -> tuple[Share, float]:
    """The costs of packages, many at once, and the seconds to the final document of each dropped alone."""
    share = measured(feed, data, packages, math.inf)
    assert share
    feed.drain()
    return share, statistics.median(one_by_one(world, single))


def compare(few: tuple[Share, float], many: tuple[Share, float], existing: int) -> None:
    (before, alone), (after, beside) = few, many
    print(f"a package costs              when new   beside {existing}")
    lines = [("s of a core, all roles", sum(before.cores.values()), sum(after.cores.values()))]
    lines += [(f"s of a core, {role}", spent, after.cores[role]) for role, spent in sorted(before.cores.items())]
    lines += [("s of the clock, in a crowd", before.clock, after.clock), ("s of the clock, alone", alone, beside)]
    for what, early, late in lines:
        if early >= 0.01 or late >= 0.01:
            print(f"  {what:26} {early:8.3f} {late:13.3f} {100 * (late / max(early, 0.001) - 1):+6.0f} %")


def restart_gateway(data: Path) -> None:
    """To it all that was copied is news, which it would note one by one; it begins with what is newest at its start."""
    for role, process in processes_of(data):
        if role == "gateway":
            process.kill()


# ---- filling -----------------------------------------------------------------------------------------------------


def fill(database: str, count: int) -> None:
    """Copies the newest cleared upload, with everything that names it, under other names."""
    address = database.replace("+psycopg2", "")
    with closing(psycopg2.connect(address)) as ours, ours, ours.cursor() as cursor:
        cursor.execute(
            "SELECT video_id, upload_id, root, record, manifest FROM upload WHERE state = 'cleared' "
            "ORDER BY created_at DESC LIMIT 1"
        )
        names = dict(zip(("video", "upload", "root", "record", "manifest"), cursor.fetchone(), strict=True))
        cursor.execute("SELECT DISTINCT run_id FROM state_change WHERE upload_id = %s", (names["upload"],))
        runs = [row[0] for row in cursor.fetchall() if row[0]]
        for table in tables.metadata.sorted_tables:
            copy(cursor, table.name, names, runs, count)
    with closing(psycopg2.connect(address.rpartition("/")[0] + "/dagster")) as dagster, dagster.cursor() as cursor:
        for table in DAGSTER_TABLES:
            copy(cursor, table, names, runs, count)
        cursor.execute(
            """
            INSERT INTO asset_event_tags (asset_key, key, value, event_timestamp, event_id)
            SELECT tag.asset_key, tag.key, tag.value, tag.event_timestamp, made.id
            FROM event_logs made
            JOIN event_logs first ON first.partition = %s
                AND (first.asset_key, first.dagster_event_type) = (made.asset_key, made.dagster_event_type)
            JOIN asset_event_tags tag ON tag.event_id = first.id
            WHERE made.partition LIKE 'old-%%'
            """,
            (names["video"],),
        )
        ticks = columns(cursor, "job_ticks")
        cursor.execute(
            sql.SQL("INSERT INTO job_ticks ({0}) SELECT {0} FROM job_ticks, generate_series(1, %s) LIMIT %s").format(
                sql.SQL(", ").join(map(sql.Identifier, ticks))
            ),
            (TICKS, TICKS),
        )
        dagster.commit()
    for url in (address, address.rpartition("/")[0] + "/dagster"):
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            connection.cursor().execute("VACUUM ANALYZE")  # as autovacuum has done long before there are so many


def copy(cursor: Any, table: str, names: Mapping[str, str], runs: Sequence[str], count: int) -> None:
    """The rows of a table that name the upload, its video or its runs, `count` times, with other names in them."""
    types = columns(cursor, table)
    texts = [column for column, kind in types.items() if kind in ("text", "character varying")]
    named = [*names.values(), *runs]
    mine = sql.SQL(" OR ").join(sql.SQL("{} = ANY(%(named)s)").format(sql.Identifier(column)) for column in texts)
    if table == "event_logs":
        mine = sql.SQL("({}) AND dagster_event_type = ANY(%(kept)s)").format(mine)
    if not texts:
        return
    values = [renamed(column, names, runs) if column in texts else sql.Identifier(column) for column in types]
    query = sql.SQL(
        "INSERT INTO {table} ({columns}) SELECT {values} FROM {table}, generate_series(1, %(count)s) the_copy"
        " WHERE {mine}"
    )
    cursor.execute(
        query.format(
            table=sql.Identifier(table),
            columns=sql.SQL(", ").join(map(sql.Identifier, types)),
            values=sql.SQL(", ").join(values),
            mine=mine,
        ),
        {"named": named, "kept": list(KEPT_EVENTS), "count": count},
    )


def renamed(column: str, names: Mapping[str, str], runs: Sequence[str]) -> sql.Composable:
    """The column's text with each name of the original replaced by one of the n-th copy, of the same length."""
    text: sql.Composable = sql.Identifier(column)
    for name in (names["upload"], names["root"], names["record"], names["manifest"], *runs):
        other = sql.SQL("left({0}, length({0}) - 9) || lpad(the_copy::text, 9, '0')").format(sql.Literal(name))
        text = sql.SQL("replace({}, {}, {})").format(text, sql.Literal(name), other)
    video = sql.SQL("'old-' || lpad(the_copy::text, 9, '0')")
    return sql.SQL("replace({}, {}, {})").format(text, sql.Literal(names["video"]), video)


def columns(cursor: Any, table: str) -> dict[str, str]:
    """Name and type of each but for numbers that the database gives itself."""
    cursor.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s "
        "AND table_schema = 'public' AND (column_default IS NULL OR column_default NOT LIKE 'nextval%%')",
        (table,),
    )
    return dict(cursor.fetchall())


if __name__ == "__main__":
    main()
