"""`hls-pipeline export` and `hls-pipeline import`: a video leaves and enters by one file."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import PackageRefused, UsageError

FileArgument = Annotated[Path, typer.Argument(metavar="FILE.car", help="The archive.")]


def export(
    video_id: Annotated[str, typer.Argument(metavar="ID", help="The video id.")],
    file: FileArgument,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a published video, with its proof and all its versions, to one CAR file."""
    from hls_pipeline import archive, metadata_store, replicas

    settings = configured(data)
    store, nodes = metadata_store.connect(settings.database_url), replicas.connect(settings)
    root, size = archive.export(video_id, file, store, nodes), file.stat().st_size
    if as_json:
        print_json({"video_id": video_id, "file": str(file), "root": str(root), "bytes": size}, one_line=True)
    else:
        typer.echo(f"{file}: {video_id}, {size:,} bytes, root {root}")


def import_(file: FileArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Publish the video in an archive here, after checking all of it; its old versions stay readable as provenance."""
    from hls_pipeline import archive, metadata_store, object_store, replicas, steps, work

    settings = configured(data)
    store, nodes = metadata_store.connect(settings.database_url), replicas.connect(settings)
    try:
        with open(file, "rb") as opened:
            upload = archive.import_(opened, nodes, store, settings)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except PackageRefused as refusal:
        for finding in refusal.report.errors:
            typer.echo(f"{finding.code} {finding.path}: {finding.message}", err=True)
        raise
    with work.holding(upload, f"hand:{uuid.uuid4()}", store, settings, last=True) as lease:
        steps.mirror_document(lease, object_store.connect(settings), store, settings)
    about = {"video_id": upload.video_id, "revision": upload.revision, "state": str(upload.state), "root": upload.root}
    if as_json:
        print_json(about, one_line=True)
    else:
        typer.echo(f"{upload.video_id} r{upload.revision}: {upload.state}, ipfs://{upload.root}")
