"""`hls-pipeline submit`: a package to the pipeline, and what becomes of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import metadata_store, object_store, submission
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import PackageRefused, ServiceError, UserError
from hls_pipeline.hls.findings import Report, refusal
from hls_pipeline.local.data_folder import gateway_of
from hls_pipeline.settings import Settings, load
from hls_pipeline.uploads import State, Upload


class Door(StrEnum):
    inbox = "inbox"
    gateway = "gateway"


def submit(
    package: Annotated[Path, typer.Argument(help="Folder, zip or tar with playlists and media.")],
    metadata: Annotated[Path | None, typer.Option(help="metadata.json, instead of the package's own.")] = None,
    video_id: Annotated[str | None, typer.Option(help="Under which id it is published.")] = None,
    via: Annotated[Door, typer.Option(help="Through which door.")] = Door.inbox,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the final JSON.")] = False,
    as_json: JsonOption = False,
    data: DataOption = None,
) -> None:
    """Send a package; print its temporary JSON and, with --wait, the final one."""
    if via is Door.gateway:
        _through_gateway(package, metadata, video_id, data, wait=wait, as_json=as_json)
        return
    settings = configured(data)
    store = metadata_store.connect(settings.database_url)
    sent = send_folder(package, metadata, video_id, settings, quiet=as_json)
    shown: set[int] = set()
    for upload in submission.follow(sent, store):
        if not as_json:
            typer.echo(f"{upload.video_id}: {upload.state}", err=True)
        for version in submission.documents(store, upload):
            if version.n not in shown:
                print_json(json.loads(version.document), one_line=as_json)
                shown.add(version.n)
        raise_unless_well(upload)
        if upload.state is State.STAGED and not wait:
            return


def _through_gateway(
    package: Path, metadata: Path | None, video_id: str | None, data: Path | None, *, wait: bool, as_json: bool
) -> None:
    from hls_pipeline.gateway_client import GatewayClient

    settings = load(data=data) if data else load()
    client = GatewayClient(*gateway_of(settings), settings.state.expanduser())
    with submission.opened(package, metadata) as source, _bar(sum(source.sizes().values()), as_json) as progress:
        try:
            sent = client.send(source, video_id, progress, written=lambda: submission.last_written(package))
        except KeyboardInterrupt:
            typer.echo("stopped; the same command again goes on from here", err=True)
            raise
    print_json(sent, one_line=as_json)
    if wait and sent.get("status") != "ready":
        print_json(client.wait(sent), one_line=as_json)


def send_folder(
    package: Path, metadata: Path | None, video_id: str | None, settings: Settings, *, quiet: bool
) -> submission.Sent:
    """Puts a package into the inbox, with a progress bar on a terminal."""
    with submission.opened(package, metadata) as source, _bar(sum(source.sizes().values()), quiet) as progress:
        objects = object_store.connect(settings)
        return submission.send(source, video_id, objects, settings.s3_inbox, progress)


def raise_unless_well(upload: Upload) -> None:
    """Raises the error that says how an upload ended, unless it goes on or ended well."""
    if upload.state is State.REJECTED:
        errors = (upload.report or {}).get("errors", [])
        raise PackageRefused(refusal(f"the package of {upload.video_id}", errors), Report(None, ()))
    if upload.state is State.FAILED:
        raise ServiceError(f"upload {upload.upload_id}: {upload.error}; `hls-pipeline retry {upload.video_id}` resumes")
    if upload.state in (State.SUPERSEDED, State.WITHDRAWN):
        raise UserError(f"upload {upload.upload_id}: {upload.state}; {upload.error or ''}")


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[submission.Progress]:
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("sending", total=total)
        yield lambda sent: bar.advance(task, sent)
