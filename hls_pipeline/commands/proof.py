"""`hls-pipeline proof`: one document with which anybody can check a video offline, and that check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import evidence, settings
from hls_pipeline.commands.services import DataOption, JsonOption, opened, print_json
from hls_pipeline.errors import UsageError, UserError
from hls_pipeline.whole_file import whole_file


def proof(
    video_id: Annotated[str | None, typer.Argument(metavar="ID", help="The video id.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write the document to.")] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Check this document instead; no service needed.")
    ] = None,
    package: Annotated[
        Path | None, typer.Option("--package", help="With --check: folder, zip or tar to compare with the document.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all that is needed to check a video without us: files, content ids, receipts, versions. Or check it."""
    if (video_id is None) == (check is None) or (package and not check) or (output and check):
        raise UsageError("proof needs either an ID, with -o FILE if you like, or --check FILE, with --package DIR")
    if check:
        _check(check, package, as_json)
        return
    assert video_id
    found = evidence.collect(video_id, opened(data))
    if output:
        with whole_file(output) as written:
            written.write_text(found.text() + "\n", encoding="utf-8")
        typer.echo(f"{output}: {len(found.files)} files, {len(found.versions)} versions of {video_id}", err=as_json)
    if as_json:
        print_json(found.model_dump(), one_line=True)
    elif not output:
        typer.echo(found.text())


def _check(path: Path, package: Path | None, as_json: bool) -> None:
    try:
        with open(path, "rb") as file:
            found = evidence.parse(file.read(evidence.MAX_SIZE + 1))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    problems = list(evidence.problems(found))
    if package:
        problems += _compared(found, package)
    if as_json:
        about = {"video_id": found.video_id, "revision": found.revision, "root": found.root}
        print_json({**about, "holds": not problems, "problems": problems}, one_line=True)
    else:
        for problem in problems:
            typer.echo(f"✗ {problem}")
        if not problems:
            files = f"{len(found.files)} files" + (", all of them in the package" if package else "")
            typer.echo(f"✓ {found.video_id} r{found.revision}: {files}, {len(found.versions)} versions, {found.root}")
    if problems:
        raise typer.Exit(UserError.exit_code)


def _compared(found: evidence.Evidence, package: Path) -> list[str]:
    from hls_pipeline.hls.sources import open_source

    if not package.exists():
        raise UsageError(f"{package}: there is no such folder, zip or tar")
    policy = settings.load().policy()
    with open_source(package, policy.limits) as source:
        return list(evidence.compare(found, source, policy))
