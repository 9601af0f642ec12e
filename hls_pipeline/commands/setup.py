"""`hls-pipeline setup`: what the configured services need before the first package. Safe to repeat."""

from __future__ import annotations

import os

import typer

from hls_pipeline import lifecycle, metadata_store, object_store
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import ObjectMissing
from hls_pipeline.settings import Settings


def setup(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Make the buckets that are missing, bring the databases to the newest schema (Dagster's too, where DAGSTER_HOME
    names its instance) and the lifecycle rules of the buckets to what they should be."""
    settings = configured(data)
    made = [bucket for bucket in (settings.s3_inbox, settings.s3_media) if _make_bucket(bucket, settings)]
    metadata_store.migrate(settings.database_url)
    dagster = "DAGSTER_HOME" in os.environ
    if dagster:
        from hls_pipeline.queue.instance import migrate

        migrate()
    changed = lifecycle.apply(object_store.connect(settings), settings)
    if as_json:
        print_json({"made": made, "changed": list(changed), "dagster": dagster}, one_line=True)
        return
    for bucket in made:
        typer.echo(f"bucket {bucket}: made")
    typer.echo("the database has the newest schema")
    typer.echo("Dagster's database too" if dagster else "Dagster's database: left alone, DAGSTER_HOME is not set")
    for bucket in (settings.s3_inbox, settings.s3_media):
        typer.echo(f"bucket {bucket}: lifecycle rules {'set' if bucket in changed else 'are as they should be'}")


def _make_bucket(bucket: str, settings: Settings) -> bool:
    """Whether it was missing."""
    client = object_store.client(settings)
    try:
        with object_store.border(f"looking for bucket {bucket}"):
            client.head_bucket(Bucket=bucket)
    except ObjectMissing:
        with object_store.border(f"making bucket {bucket}"):
            if settings.s3_region == "us-east-1":  # the one region that must not be named (S3 CreateBucket)
                client.create_bucket(Bucket=bucket)
            else:
                where = {"LocationConstraint": settings.s3_region}
                client.create_bucket(Bucket=bucket, CreateBucketConfiguration=where)  # type: ignore[arg-type]
        return True
    return False
