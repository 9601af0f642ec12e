"""`hls-pipeline up`: the local stack from a shell. What it does is in `local/stack.py`."""

from __future__ import annotations

from hls_pipeline import settings
from hls_pipeline.commands.services import DataOption


def up(data: DataOption = None) -> None:
    """Run the whole pipeline on this machine: S3, IPFS, databases and Dagster. Ctrl-C stops all of it."""
    from rich.console import Console

    from hls_pipeline.local import stack

    stack.up(settings.load(data=data) if data else settings.load(), Console())
