"""Looking at videos from a shell, and taking up a failed one again."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hls_pipeline import clock, documents
from hls_pipeline.commands.services import DataOption, JsonOption, opened, print_json
from hls_pipeline.errors import NotFound
from hls_pipeline.metadata_store import MetadataStore, Version
from hls_pipeline.uploads import Upload

VideoArgument = Annotated[str, typer.Argument(metavar="ID", help="The video id.")]


def list_videos(
    data: DataOption = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(help="At most so many videos.", min=1)] = 100,
    after: Annotated[str, typer.Option(help="Only ids that sort after this one.")] = "",
) -> None:
    """List the videos and how far the newest arrival of each has come; with --json one line per video."""
    uploads = opened(data).videos(limit, after)
    if as_json:
        for upload in uploads:
            print_json(_about(upload), one_line=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("video", "revision", "state", "since", "bytes", box=None)
    for upload in uploads:
        revision = f"r{upload.revision}" if upload.revision else ""
        size = f"{upload.size:,}" if upload.size else ""
        table.add_row(upload.video_id, revision, str(upload.state), clock.seconds_text(upload.updated_at), size)
    Console().print(table if uploads else "no videos yet; drop a package into the inbox or use `hls-pipeline submit`")


def status(video_id: VideoArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show how far a video has come, what it waits for, and the current document."""
    store = opened(data)
    upload = _latest(store, video_id)
    current = store.current(video_id)
    about = _about(upload)
    about["history"] = [
        {"state": str(state), "since": clock.text(since), "run_id": run_id}
        for state, since, run_id in store.history(upload.upload_id)
    ]
    about["report"] = upload.report
    about["document"] = json.loads(current.document) if current else None
    if as_json:
        print_json(about, one_line=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{video_id}[/]  {upload.state}" + (f", revision {upload.revision}" if upload.revision else ""))
    for step in about["history"]:
        console.print(f"  {step['since']}  {step['state']}")
    for finding in (upload.report or {}).get("errors", []):
        console.print(f"  {finding['code']} {finding['path']}:{finding['line'] or ''} {finding['message']}", markup=False)
    if upload.error:
        console.print(f"  last error: {upload.error}", markup=False)
    if upload.not_before and upload.not_before > clock.now():
        console.print(f"  tried again at {clock.seconds_text(upload.not_before)}")
    if about["document"]:
        console.print_json(data=about["document"])


def versions(
    video_id: VideoArgument,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every state the metadata of a video ever had: who, when, why, and the run that made it."""
    found = opened(data).versions(video_id)
    if as_json:
        print_json({"video_id": video_id, "versions": [_version(version) for version in found]}, one_line=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for version in found:
        about = _version(version)
        console.print(f"[bold]version {version.n}[/]  revision {version.revision}  {about['time']}")
        console.print(f"  {version.reason} by {version.actor}, run {version.run_id}", markup=False)
        console.print(f"  hash {version.hash}" + ("" if about["hash_holds"] else "  [red]does not hold[/]"))
        console.print_json(data=about["document"])


def retry(video_id: VideoArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Take up a failed upload again where it stopped."""
    store = opened(data)
    upload = store.resume(_latest(store, video_id).upload_id, clock.now())
    if as_json:
        print_json(_about(upload), one_line=True)
    else:
        typer.echo(f"{video_id}: {upload.state} again; the inbox sensor takes it up within seconds")


def _latest(store: MetadataStore, video_id: str) -> Upload:
    upload = store.latest_upload(video_id)
    if upload is None:
        raise NotFound(f"video {video_id}: not known here; `hls-pipeline list` shows what is")
    return upload


def _about(upload: Upload) -> dict[str, Any]:
    return {
        "video_id": upload.video_id,
        "state": str(upload.state),
        "revision": upload.revision,
        "upload_id": upload.upload_id,
        "received_at": clock.text(upload.created_at),
        "updated_at": clock.text(upload.updated_at),
        "bytes": upload.size,
        "ipfs_directory": upload.root,
        "attempts": upload.attempts,
        "next_try": upload.not_before and clock.text(upload.not_before),
        "error": upload.error,
    }


def _version(version: Version) -> dict[str, Any]:
    expected = documents.chain_hash(
        n=version.n,
        video_id=version.video_id,
        document_sha256=documents.sha256(version.document),
        previous_hash=version.previous_hash,
        actor=version.actor,
        reason=version.reason,
        run_id=version.run_id,
        time=clock.text(version.time),
    )
    return {
        "n": version.n,
        "revision": version.revision,
        "document": json.loads(version.document),
        "document_sha256": version.document_sha256,
        "previous_hash": version.previous_hash,
        "hash": version.hash,
        "hash_holds": version.hash == expected,
        "actor": version.actor,
        "reason": version.reason,
        "run_id": version.run_id,
        "time": clock.text(version.time),
    }
