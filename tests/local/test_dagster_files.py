"""The Dagster files that we ship and write, as Dagster itself reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths

from hls_pipeline.local import dagster_home

PROJECT = Path(__file__).parents[2]
ONLY_PRODUCTION = {"storage", "run_launcher"}


def test_the_production_instance_is_valid() -> None:
    settings, _ = dagster_instance_config(str(PROJECT))
    assert settings["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"


def test_the_local_instance_is_valid_and_differs_only_where_it_must(tmp_path: Path) -> None:
    dagster_home.write(tmp_path / "dagster", 4000)
    local, _ = dagster_instance_config(str(tmp_path / "dagster"))
    production = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    assert yaml.safe_load(dagster_home.INSTANCE) == {k: v for k, v in production.items() if k not in ONLY_PRODUCTION}
    assert "storage" not in local


def test_both_workspaces_name_the_one_code_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_CODE_SERVER_HOST", "code.internal")
    monkeypatch.setenv("HLS_CODE_SERVER_PORT", "4000")
    for workspace in (PROJECT / "workspace.yaml", dagster_home.write(tmp_path / "dagster", 4000)):
        (origin,) = location_origins_from_yaml_paths([str(workspace)])
        assert origin.location_name == "hls_pipeline"
