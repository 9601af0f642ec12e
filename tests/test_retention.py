"""Dagster's records of long ago: runs and logs go, what happened to assets stays readable, in both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.storage.runs.schema import RunTagsTable

from hls_pipeline import clock
from hls_pipeline.local import dagster_home
from hls_pipeline.upkeep import retention
from tests.services import Postgres

PRODUCTION = Path(__file__).parents[1] / "dagster.yaml"
POSTGRES = """
storage:
  postgres:
    postgres_url: {url}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in a folder of its own; in-process runs need no more of it."""
    quiet = "telemetry: {enabled: false}\n"
    if request.param == "sqlite":
        (tmp_path / "dagster.yaml").write_text(quiet)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            yield instance
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.new_database("template0") as url:
        plain = url.replace("postgresql+psycopg2", "postgresql")
        (tmp_path / "dagster.yaml").write_text(quiet + POSTGRES.format(url=plain))
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            yield instance


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]), check_specs=[dg.AssetCheckSpec("ok", asset="made")])
def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    context.log.info("something that nobody reads after a month")
    context.log_event(dg.AssetObservation("made", partition=context.partition_key))
    return dg.MaterializeResult(
        metadata={"of": context.partition_key},
        data_version=dg.DataVersion(f"version of {context.partition_key}"),
        check_results=[dg.AssetCheckResult(passed=True, check_name="ok")],
    )


def materialize(instance: dg.DagsterInstance, partition: str) -> str:
    return dg.materialize([made], instance=instance, partition_key=partition, tags={"our": "tag"}).run_id


def known(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What a person sees of the asset."""
    key = dg.AssetKey("made")
    records = instance.fetch_materializations(key, limit=10, ascending=True).records
    return {
        "materializations": [
            (record.partition_key, record.asset_materialization and record.asset_materialization.metadata["of"].value)
            for record in records
        ],
        "observations": len(instance.fetch_observations(key, limit=10).records),
        "partitions": instance.get_materialized_partitions(key),
        "data version": instance.get_latest_data_version_record(key, partition_key="a") is not None,
        "checks": len(instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(key, "ok"), 10)),
    }


def test_old_runs_go_and_what_they_materialized_stays(instance: dg.DagsterInstance) -> None:
    old, young = materialize(instance, "a"), materialize(instance, "b")
    before = known(instance)
    assert before["materializations"] == [("a", "a"), ("b", "b")]
    logged = len(instance.all_logs(old))
    assert logged > 10
    cut = clock.now() - timedelta(days=30)
    assert retention.thin(instance, cut) == 0
    with instance.run_storage.connect() as db:  # type: ignore[attr-defined]
        db.execute(sa.text("UPDATE runs SET update_timestamp = '2020-01-01' WHERE run_id = :run"), {"run": old})
    assert retention.thin(instance, cut) == 1
    assert known(instance) == before
    assert instance.get_run_by_id(old) is None
    assert len(instance.all_logs(old)) <= 3 < logged
    assert instance.get_run_by_id(young) is not None
    assert len(instance.all_logs(young)) == logged
    with instance.run_storage.connect() as db:  # type: ignore[attr-defined]
        assert set(db.execute(sa.select(RunTagsTable.c.run_id)).scalars()) == {young}
    assert retention.thin(instance, cut) == 0
    materialize(instance, "a")
    assert [partition for partition, _ in known(instance)["materializations"]] == ["a", "b", "a"]


@pytest.mark.parametrize("text", [dagster_home.INSTANCE, PRODUCTION.read_text()], ids=["local", "production"])
def test_dagster_thins_its_ticks_itself(text: str) -> None:
    kept = yaml.safe_load(text)["retention"]
    assert kept["sensor"]["purge_after_days"]["skipped"] == 1
    assert kept["schedule"]["purge_after_days"] == 30
