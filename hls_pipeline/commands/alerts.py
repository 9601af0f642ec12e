"""`hls-pipeline alerts`: what is wrong now, as the health sensor left it, and whether a message would arrive."""

from __future__ import annotations

from typing import Annotated

import typer

from hls_pipeline import clock
from hls_pipeline.commands.services import DataOption, JsonOption, configured, opened, print_json
from hls_pipeline.errors import UsageError
from hls_pipeline.upkeep import alert_channels
from hls_pipeline.upkeep import alerts as problems


def alerts(
    test: Annotated[bool, typer.Option("--test", help="Send a test message to every channel instead.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List open problems with cause and next action; the sensor `health` looks for them twice a minute."""
    settings = configured(data)
    if test:
        channels = alert_channels.of(settings)
        if not channels:
            raise UsageError("no channel is configured: set HLS_ALERT_WEBHOOK_URL or HLS_ALERT_MAIL_TO")
        subject, text = "[hls-pipeline] a test", "Alerts arrive here. Nothing is wrong: `hls-pipeline alerts --test`."
        for channel in channels:
            channel.send(subject, text, {"text": f"{subject}\n\n{text}", "problems": [], "resolved": []})
            typer.echo(f"sent by {channel.name}")
        return
    found = problems.known(opened(data))
    for problem in found:
        if as_json:
            print_json(problems.about(problem), one_line=True)
        else:
            since = clock.seconds_text(problem.since or clock.now())
            typer.echo(
                f"{since}  {problem.title}\n  cause: {problem.cause}\n  next: {problem.action}\n  {problem.link}"
            )
    if not found and not as_json:
        typer.echo("nothing is wrong")
