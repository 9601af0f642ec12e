"""`hls-pipeline setup`: what the configured services need before the first package. Safe to repeat."""

from __future__ import annotations

import typer

from hls_pipeline import lifecycle, metadata_store, object_store
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json


def setup(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Bring the database to the newest schema and the lifecycle rules of the buckets to what they should be."""
    settings = configured(data)
    metadata_store.migrate(settings.database_url)
    changed = lifecycle.apply(object_store.connect(settings), settings)
    if as_json:
        print_json({"changed": list(changed)}, one_line=True)
        return
    typer.echo("the database has the newest schema")
    for bucket in (settings.s3_inbox, settings.s3_media):
        typer.echo(f"bucket {bucket}: lifecycle rules {'set' if bucket in changed else 'are as they should be'}")
