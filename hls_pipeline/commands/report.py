"""`hls-pipeline report`: what the pipeline did, as a page, as numbers, or as the table of all files behind them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import clock
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import UsageError
from hls_pipeline.whole_file import whole_file


def report(
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write the page, one file that needs no other.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write every published file as CSV.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Write every published file as Parquet.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=36_500, help="How far back the report looks.")] = 30,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write down volume, time per stage, throughput, promises, storage, proof and failures."""
    from hls_pipeline import metadata_store
    from hls_pipeline.reports import figures, inventory, page

    if not (html or csv or parquet or as_json):
        raise UsageError("say what to write: --html FILE, --csv FILE, --parquet FILE or --json")
    settings = configured(data)
    store, now = metadata_store.connect(settings.database_url), clock.now()
    for path, write in ((csv, inventory.write_csv), (parquet, inventory.write_parquet)):
        if path:
            table = write(inventory.batches(store, settings, now), path)
            typer.echo(f"{path}: {table.files:,} files of {page.size(table.bytes)}", err=True)
    if not (html or as_json):
        return
    found = figures.make(store, settings, now - timedelta(days=days), now)
    if html:
        with whole_file(html) as written:
            written.write_text(page.html(found), encoding="utf-8")
        typer.echo(f"{html}: open it in a browser", err=True)
    if as_json:
        print_json(found.to_json(), one_line=True)
