"""`hls-pipeline up`: the whole pipeline on one machine from a shell. What it does is in `local/stack.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import settings
from hls_pipeline.commands.services import DataOption

ProductionOption = Annotated[
    bool,
    typer.Option(
        "--production",
        help="With PostgreSQL, RabbitMQ, two IPFS nodes and two workers, in a folder `production` of its own.",
    ),
]


def up(data: DataOption = None, production: ProductionOption = False) -> None:
    """Run the whole pipeline on this machine: S3, IPFS, databases and Dagster. Ctrl-C stops all of it."""
    from rich.console import Console

    from hls_pipeline.local.production import ProductionStack
    from hls_pipeline.local.stack import Stack
    from hls_pipeline.local.stack import up as run

    found = settings.load(data=data_folder(data, production=production))
    run(found, Console(), ProductionStack if production else Stack)


def data_folder(data: Path | None, *, production: bool) -> Path:
    """Where the stack keeps everything: the two kinds never share a folder, unless one says so."""
    default = settings.load().data
    return data or (default / "production" if production else default)
