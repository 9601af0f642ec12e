"""Looking at videos from a shell, and doing by hand what the path does not do by itself: retry, withdraw, rehydrate."""

from __future__ import annotations

import getpass
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hls_pipeline import audit, clock, metadata_store, object_store, rehydration, replicas, withdrawal, work
from hls_pipeline.commands.services import DataOption, JsonOption, configured, opened, print_json
from hls_pipeline.errors import NotFound
from hls_pipeline.metadata_store import MetadataStore, Version
from hls_pipeline.uploads import Upload

if TYPE_CHECKING:
    from rich.console import Console

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
    about["in_s3"] = _in_s3(store, upload)
    about["findings"] = list(store.receipts(upload.upload_id, "finding"))
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
        console.print(
            f"  {finding['code']} {finding['path']}:{finding['line'] or ''} {finding['message']}", markup=False
        )
    for finding in about["findings"]:
        subject = finding.get("object") or finding.get("root")
        console.print(f"  {finding['time']}  {finding['finding']}: {subject} {finding['reason']}", markup=False)
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
    diff: Annotated[bool, typer.Option("--diff", help="What changed, instead of the whole documents.")] = False,
    as_of: Annotated[datetime | None, typer.Option(help="Only the one that readers got at that time (UTC).")] = None,
) -> None:
    """Show every state the metadata of a video ever had: who, when, why, and the run that made it."""
    store = opened(data)
    found = _versions(store.versions(video_id), store.document_cids(video_id))
    if as_of:
        n = store.as_of(video_id, as_of.replace(tzinfo=UTC)).n
        found = [about for about in found if about["n"] == n]
    if as_json:
        print_json({"video_id": video_id, "versions": found}, one_line=True)
        return
    from rich.console import Console

    console = Console(highlight=False)
    for about in found:
        console.print(f"[bold]version {about['n']}[/]  revision {about['revision']}  {about['time']}")
        console.print(f"  {about['reason']} by {about['actor']}, run {about['run_id']}", markup=False)
        console.print(f"  hash {about['hash']}" + ("" if about["hash_holds"] else "  [red]does not hold[/]"))
        if about["cid"]:
            console.print(f"  document ipfs://{about['cid']}")
        if diff:
            _print_changes(about["changes"], console)
        else:
            console.print_json(data=about["document"])


def retry(video_id: VideoArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Take up a failed upload again where it stopped."""
    store = opened(data)
    upload = store.resume(_latest(store, video_id).upload_id, clock.now())
    if as_json:
        print_json(_about(upload), one_line=True)
    else:
        typer.echo(f"{video_id}: {upload.state} again; the inbox sensor takes it up within seconds")


def withdraw(
    video_id: VideoArgument,
    reason: Annotated[str, typer.Option(help="Why; it stays in the history of the video.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a video back: unpinned where nobody else needs it, gone from S3, no longer played. The history stays."""
    settings = configured(data)
    done = withdrawal.withdraw(
        video_id,
        actor=_person(),
        reason=reason,
        objects=object_store.connect(settings),
        nodes=replicas.connect(settings),
        store=metadata_store.connect(settings.database_url),
        settings=settings,
    )
    if as_json:
        document = json.loads(done.version.document)
        print_json({"video_id": video_id, "document": document, "left": list(done.left)}, one_line=True)
        return
    typer.echo(f"{video_id}: withdrawn")
    for problem in done.left:
        typer.echo(f"  the clean-up goes on with it: {problem}", err=True)


def rehydrate(
    video_id: VideoArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let the clean-up remove the copies again.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the current revision of a video back to S3 from IPFS, every block verified. It stays there."""
    settings = configured(data)
    store = metadata_store.connect(settings.database_url)
    upload = store.current_upload(video_id) or _latest(store, video_id)
    with work.holding(upload, f"hand:{uuid.uuid4()}", store, settings, last=True) as lease:
        if undo:
            rehydration.give_up(lease, store)
            restored = rehydration.Restored(0, 0)
        else:
            objects, nodes = object_store.connect(settings), replicas.connect(settings)
            restored = rehydration.rehydrate(upload, lease, objects, nodes, store, settings)
    if as_json:
        about = {"video_id": video_id, "restored": restored.objects, "bytes": restored.bytes}
        print_json({**about, "in_s3": _in_s3(store, upload)}, one_line=True)
    elif undo:
        typer.echo(f"{video_id}: the clean-up removes the copies in S3 once IPFS is proven to have them")
    else:
        typer.echo(f"{video_id}: {restored.objects:,} objects of {restored.bytes:,} bytes brought back to S3")


def _person() -> str:
    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"person:{os.getuid()}"


def _in_s3(store: MetadataStore, upload: Upload) -> dict[str, Any]:
    """How much of it is in S3, and when that goes."""
    waiting = store.temp_objects(upload.upload_id)
    due = min((item.due_at for item in waiting if item.due_at), default=None)
    return {
        "objects": len(waiting),
        "bytes": sum(item.size for item in waiting),
        "due_at": due and clock.text(due),
    }


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


def _versions(found: Sequence[Version], cids: Mapping[int, str]) -> list[dict[str, Any]]:
    """Each version, whether its hash holds, and how its document differs from the one before. `cids` are those of
    documents on IPFS."""
    shown, previous, before = [], None, dict[str, Any]()
    for link in audit.links_of(found):
        document = json.loads(link.document)
        changes = [_change(change) for change in audit.changes(before, document)]
        about = {
            name: value for name, value in link._asdict().items() if name not in ("video_id", "versions", "current")
        }
        shown.append(
            {
                **about,
                "document": document,
                "cid": cids.get(link.n),
                "hash_holds": audit.flaw(link, previous) is None,
                "changes": changes,
            }
        )
        previous, before = link, document
    return shown


def _change(change: audit.Change) -> dict[str, Any]:
    values = {"added": ("new",), "removed": ("old",), "changed": ("old", "new")}[change.kind]
    return {"path": change.path, "kind": change.kind, **{name: getattr(change, name) for name in values}}


def _print_changes(changes: Sequence[Mapping[str, Any]], console: Console) -> None:
    """One line for each place; long lists are cut."""
    for name, places in groupby(changes, key=lambda change: re.sub(r"\[\d+\].*", "", change["path"])):
        inside = list(places)
        for change in inside[:_PLACES]:
            old, new = (
                f"{json.dumps(change[key], ensure_ascii=False)}" if key in change else None for key in ("old", "new")
            )
            if old is not None:
                console.print(f"  - {change['path']}: {old}", style="red", markup=False, soft_wrap=True)
            if new is not None:
                console.print(f"  + {change['path']}: {new}", style="green", markup=False, soft_wrap=True)
        if len(inside) > _PLACES:
            console.print(f"    {name}: {len(inside) - _PLACES:,} more", markup=False)


_PLACES = 3
