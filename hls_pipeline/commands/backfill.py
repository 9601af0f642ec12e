"""`hls-pipeline backfill`: the path walked again for published videos, also those that Dagster lists no longer."""

from __future__ import annotations

from typing import Annotated

import typer

from hls_pipeline import metadata_store
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.dagster_client import DagsterClient
from hls_pipeline.errors import NotFound, UsageError
from hls_pipeline.queue import requests


def backfill(
    video_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="The videos.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every published video.")] = False,
    other_profile: Annotated[
        bool, typer.Option("--other-profile", help="Those whose content ids are not of HLS_IPFS_PROFILE (yet).")
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have Dagster make published videos again, one run each, a few at a time: from S3 while it has them, else from
    IPFS. New versions are added where something changes; the old ones stay."""
    if bool(video_ids) + every + other_profile != 1:
        raise UsageError("say which videos: their ids, --all, or --other-profile")
    settings = configured(data)
    dagster = DagsterClient.of(settings)
    if dagster is None:
        raise UsageError("a backfill is Dagster's: HLS_DAGSTER_URL must name `hls-pipeline ui`")
    store = metadata_store.connect(settings.database_url)
    ready = store.ready_videos(settings.ipfs_profile if other_profile else None)
    if unknown := set(video_ids or ()).difference(ready):
        raise NotFound(f"not published here: {', '.join(sorted(unknown))}; `hls-pipeline list` shows what is")
    wanted = tuple(dict.fromkeys(video_ids or ready))
    started = dagster.backfill(requests.PATH_ASSETS, requests.VIDEOS, wanted) if wanted else None
    link = started and f"{dagster.url}/runs/b/{started}"
    if as_json:
        print_json({"videos": len(wanted), "backfill": started, "link": link}, one_line=True)
    elif started:
        typer.echo(f"backfill {started} of {len(wanted):,} video(s): {link}")
    else:
        typer.echo("no video is left to do")
