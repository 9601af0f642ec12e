"""`hls-pipeline audit`: whether the recorded history still holds. What is checked is in `audit.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import audit
from hls_pipeline.commands.services import DataOption, JsonOption, opened, print_json
from hls_pipeline.errors import UsageError

app = typer.Typer(help="Check the history of all metadata, or write it down elsewhere.", no_args_is_help=True)


@app.command()
def verify(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]…", help="Exports to check instead of the database.")
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option(help="An earlier export: the history must go on from it.", dir_okay=False)
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Write what is checked to this file as well.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute all chains of versions and name the first break. Exit code 1 if there is one."""
    links = chain.from_iterable(map(_read, files)) if files else audit.on_record(opened(data))
    verdict = audit.verify(_copied(links, export) if export else links, audit.heads(_read(anchor)) if anchor else None)
    found = verdict.first_break
    if as_json:
        broken = found and {"video_id": found.video_id, "version": found.version, "what": found.what}
        about = {"holds": verdict.holds, "videos": verdict.videos, "versions": verdict.versions, "first_break": broken}
        print_json(about, one_line=True)
    elif found:
        typer.echo(
            f"video {found.video_id}, version {found.version}: {found.what}; {verdict.versions:,} held before it"
        )
    else:
        typer.echo(f"all {verdict.versions:,} versions of {verdict.videos:,} videos hold")
    if found:
        raise typer.Exit(1)


@app.command("export")
def write(
    file: Annotated[Path, typer.Argument(help="Where to; JSON lines, one per version.")],
    data: DataOption = None,
) -> None:
    """Write all versions to a file that `audit verify FILE` checks without the database."""
    count = sum(1 for _ in _copied(audit.on_record(opened(data)), file))
    typer.echo(f"{count:,} versions written to {file}")


def _read(path: Path) -> Iterator[audit.Link]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from audit.imported(lines, str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _copied(links: Iterable[audit.Link], path: Path) -> Iterator[audit.Link]:
    try:
        with path.open("w", encoding="utf-8") as file:
            yield from audit.exported(links, file)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
