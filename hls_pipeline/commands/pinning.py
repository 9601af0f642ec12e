"""`hls-pipeline pinning`: how far the pinning services are with their copies of a video."""

from __future__ import annotations

from typing import Annotated

import typer

from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import Conflict


def pinning(
    video_id: Annotated[str, typer.Argument(metavar="ID", help="The video id.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask every service of HLS_PINNING_SERVICES how far it is. What they say is no proof: nothing is deleted on it."""
    from hls_pipeline import metadata_store
    from hls_pipeline import pinning as services

    settings = configured(data)
    store = metadata_store.connect(settings.database_url)
    store.versions(video_id)  # an unknown video is not found
    upload = store.current_upload(video_id)
    if upload is None:
        raise Conflict(f"video {video_id}: is not published yet")
    states = services.states(upload, settings)
    if as_json:
        print_json({"video_id": video_id, "services": states}, one_line=True)
        return
    for state in states:
        typer.echo(f"{state['service']}: {state['status']} {state['root']} {state.get('reason', '')}".rstrip())
    if not states:
        typer.echo("no pinning service is configured; see HLS_PINNING_SERVICES")
