"""How a command finds the services: those of the environment, or of the local stack that `--data` names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hls_pipeline import metadata_store, settings
from hls_pipeline.local.data_folder import settings_of

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the local stack; HLS_DATA and then .local otherwise.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output, nothing else.")]


def configured(data: Path | None) -> settings.Settings:
    """The settings with all addresses. Raises Outage when no stack runs and none is configured."""
    return settings_of(settings.load(data=data) if data else settings.load())


def opened(data: Path | None) -> metadata_store.MetadataStore:
    return metadata_store.connect(configured(data).database_url)


def print_json(value: Mapping[str, Any], *, one_line: bool) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=None if one_line else 2))
