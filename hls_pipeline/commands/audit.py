"""`hls-pipeline audit`: whether the recorded history still holds. What is checked is in `audit.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from hls_pipeline import audit
from hls_pipeline.commands.services import DataOption, JsonOption, configured, opened, print_json
from hls_pipeline.errors import Outage, ServiceError, UsageError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.whole_file import whole_file

if TYPE_CHECKING:
    from hls_pipeline.upkeep import anchors

app = typer.Typer(help="Check the history of all metadata, or write it down elsewhere.", no_args_is_help=True)


@app.command()
def verify(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]…", help="Exports to check instead of the database.")
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|CID",
            help="The history must go on from this earlier export or anchor; otherwise, for the database, from the "
            "newest anchor.",
        ),
    ] = None,
    no_anchor: Annotated[bool, typer.Option("--no-anchor", help="Check the chains alone; needs no S3.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write what is checked to this file as well.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute all chains of versions, and of receipts in the database, and name the first break. Exit code 1 if there
    is one."""
    links = chain.from_iterable(map(_read, files)) if files else audit.on_record(opened(data))
    known = None if no_anchor else _given(anchor, data) if anchor else None if files else _newest(data)
    with _whole_export(export) if export else nullcontext() as copy:
        if copy is not None:
            links = audit.exported(links, copy, None if files else _recorded(data))
        verdict = audit.verify(links, known.heads if known else None)
        if verdict.holds and not files:
            verdict = replace(verdict, first_break=audit.broken_receipt(opened(data), known.receipts if known else {}))
        if not verdict.holds:  # of that there is no export
            _tell(verdict, known, as_json=as_json)
            raise typer.Exit(1)
    _tell(verdict, known, as_json=as_json)


def _tell(verdict: audit.Verdict, known: _Known | None, *, as_json: bool) -> None:
    found = verdict.first_break
    if as_json:
        broken = found and {"video_id": found.video_id, "version": found.version, "what": found.what}
        about = {"holds": verdict.holds, "videos": verdict.videos, "versions": verdict.versions, "first_break": broken}
        print_json(about | ({"anchor": known.name} if known else {}), one_line=True)
    elif found:
        typer.echo(
            f"video {found.video_id}, version {found.version}: {found.what}; {verdict.versions:,} held before it"
        )
    else:
        since = f", and nothing is missing since {known.name}" if known and known.is_anchor else ""
        typer.echo(f"all {verdict.versions:,} versions of {verdict.videos:,} videos hold{since}")


@app.command("export")
def write(
    file: Annotated[Path, typer.Argument(help="Where to; JSON lines, one per version.")],
    data: DataOption = None,
) -> None:
    """Write all versions to a file that `audit verify FILE` checks without the database."""
    with _whole_export(file) as copy:
        count = sum(1 for _ in audit.exported(audit.on_record(opened(data)), copy, _recorded(data)))
    typer.echo(f"{count:,} versions written to {file}")


@app.command("anchor")
def make_anchor(
    restored: Annotated[
        bool, typer.Option("--restored", help="The database came from a backup: accept that it lost what was newer.")
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the newest hash of every video to IPFS and S3, where nobody rewrites it with the database. A schedule does
    this daily."""
    from hls_pipeline import clock, object_store, replicas
    from hls_pipeline.upkeep import anchors

    settings = configured(data)
    objects, nodes = object_store.connect(settings), replicas.connect(settings)
    made = anchors.make(opened(data), objects, nodes, settings, clock.now(), restored=restored)
    if as_json:
        about = {"root": made.root, "key": made.key, "time": made.document.time, "videos": len(made.heads)}
        print_json(about, one_line=True)
    else:
        typer.echo(f"{len(made.heads):,} video(s) are anchored in {made.root}; keep this name somewhere else as well")


@dataclass(frozen=True)
class _Known:
    """What the history must go on from."""

    name: str
    heads: audit.Heads
    receipts: audit.ReceiptHeads
    is_anchor: bool = True


def _newest(data: Path | None) -> _Known | None:
    """An installation without anchors may have no S3 either: that is said, and no error."""
    from hls_pipeline import object_store, replicas
    from hls_pipeline.upkeep import anchors

    settings, store = configured(data), opened(data)
    try:
        found = anchors.newest(store, object_store.connect(settings), replicas.connect(settings), settings)
    except ServiceError as error:
        if anchors.recorded(store):
            raise Outage(f"{error}; `--no-anchor` checks the chains alone") from error
        typer.echo(f"not compared with any anchor: {error}", err=True)
        return None
    return _named(found) if found else None


def _given(anchor: str, data: Path | None) -> _Known:
    from hls_pipeline import object_store, replicas
    from hls_pipeline.upkeep import anchors

    if Path(anchor).is_file():
        return _Known(anchor, audit.heads(_read(Path(anchor))), {}, is_anchor=False)
    Cid.parse(anchor)
    settings = configured(data)
    return _named(anchors.read(anchor, object_store.connect(settings), replicas.connect(settings), settings))


def _named(anchor: anchors.Anchor) -> _Known:
    return _Known(f"{anchor.document.time} ({anchor.root})", anchor.heads, anchor.receipts)


def _recorded(data: Path | None) -> str | None:
    from hls_pipeline.upkeep import anchors

    found = anchors.recorded(opened(data))
    return found.root if found else None


def _read(path: Path) -> Iterator[audit.Link]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from audit.imported(lines, str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


@contextmanager
def _whole_export(path: Path) -> Iterator[TextIO]:
    with whole_file(path) as written, written.open("w", encoding="utf-8") as file:
        yield file
