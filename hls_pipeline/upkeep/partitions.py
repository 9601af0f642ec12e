"""The partitions that Dagster has on record, for those who compare them with the videos that there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path

from dagster import DagsterInstance, DagsterInvalidConfigError
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.error import DagsterError

from hls_pipeline.errors import Outage
from hls_pipeline.queue.requests import VIDEOS

_AT_ONCE = 500  # keys held in memory


def pages(instance: DagsterInstance) -> Iterator[Sequence[str]]:
    """The key of every video that is listed, some at a time."""
    cursor, more = None, True
    while more:
        page = instance.get_paginated_dynamic_partitions(VIDEOS, _AT_ONCE, ascending=True, cursor=cursor)
        yield page.results
        cursor, more = page.cursor, page.has_more


def names(instance: DagsterInstance) -> Iterator[str]:
    return chain.from_iterable(pages(instance))


def _opened(folder: Path) -> AbstractContextManager[DagsterInstance | None]:
    if not (folder / "dagster.yaml").is_file():
        return nullcontext()
    try:
        return DagsterInstance.from_config(str(folder))
    except DagsterInvalidConfigError:
        return nullcontext()


@contextmanager
def instance_at(home: Path) -> Iterator[DagsterInstance | None]:
    """The Dagster instance of DAGSTER_HOME, else of the local stack's `home`; None where neither is there, or where
    the variables that it names are not. Raises Outage when its storage does not answer."""
    folder = Path(os.environ.get("DAGSTER_HOME", home))
    try:
        with _opened(folder) as instance:
            yield instance
    except (DagsterError, DagsterPostgresException) as error:
        raise Outage(f"opening the Dagster instance in {folder}: {error}") from error
