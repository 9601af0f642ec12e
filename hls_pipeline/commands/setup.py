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
    names its instance) and the lifecycle rules of the buckets to what they should be; the inbox keeps versions."""
    settings = configured(data)
    made = [bucket for bucket in (settings.s3_inbox, settings.s3_media) if _make_bucket(bucket, settings)]
    metadata_store.migrate(settings.database_url)
    dagster = "DAGSTER_HOME" in os.environ
    if dagster:
        from hls_pipeline.queue.instance import migrate

        migrate()
    objects = object_store.connect(settings)
    changed = lifecycle.apply(objects, settings)
    versioned = not objects.keeps_versions(settings.s3_inbox)
    if versioned:
        objects.keep_versions(settings.s3_inbox)
    if as_json:
        print_json({"made": made, "changed": list(changed), "versioned": versioned, "dagster": dagster}, one_line=True)
        return
    for bucket in made:
        typer.echo(f"bucket {bucket}: made")
    typer.echo("the database has the newest schema")
    typer.echo("Dagster's database too" if dagster else "Dagster's database: left alone, DAGSTER_HOME is not set")
    for bucket in (settings.s3_inbox, settings.s3_media):
        typer.echo(f"bucket {bucket}: lifecycle rules {'set' if bucket in changed else 'are as they should be'}")
    typer.echo(f"bucket {settings.s3_inbox}: {'keeps versions from now on' if versioned else 'keeps versions'}")


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
