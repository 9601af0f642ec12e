"""`hls-pipeline queue`: what waits in the message broker, and messages that no worker could handle.

How each broker answers is in `queue/`. A dead letter holds no package and no state: its upload is started again by the
sensor whatever becomes of it, so looking is for finding out why, and re-driving is for messages of runs by hand.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hls_pipeline import settings
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import NotFound, UsageError

if TYPE_CHECKING:
    from hls_pipeline.queue.broker import Broker, DeadLetter

app = typer.Typer(help="Look at the queues in which runs wait for a worker.", no_args_is_help=True)

_LIMIT = 100


@app.command()
def status(data: DataOption = None, as_json: JsonOption = False) -> None:
    """How many runs wait in each queue, how many are with workers, and how many messages are dead."""
    states = _broker(data).states()
    if as_json:
        print_json({"queues": [asdict(state) for state in states]}, one_line=True)
        return
    typer.echo(f"{'queue':8}{'waiting':>10}{'at work':>10}{'consumers':>11}")
    for state in states:
        at_work, consumers = ("?" if count is None else count for count in (state.unacknowledged, state.consumers))
        typer.echo(f"{state.name:8}{state.ready:>10}{at_work:>10}{consumers:>11}")


@app.command()
def dead(
    message_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this one in full.")] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the oldest messages that no worker could handle, or show one."""
    letters = _broker(data).dead_letters(_LIMIT)
    if message_id is not None:
        letters = [letter for letter in letters if letter.message_id == message_id]
        if not letters:
            raise NotFound(f"dead letter {message_id}: not among the {_LIMIT} oldest; `hls-pipeline queue dead` lists")
    if as_json:
        print_json({"dead_letters": [asdict(letter) for letter in letters]}, one_line=True)
        return
    for letter in letters:
        typer.echo(_line(letter) if message_id is None else f"{_line(letter)}\n{letter.body}")
    if not letters:
        typer.echo("no dead letters")


@app.command()
def redrive(
    message_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="Dead letters.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    data: DataOption = None,
) -> None:
    """Send dead letters back to their queue. A message whose run is over is dropped there without harm."""
    if bool(message_ids) == everything:
        raise UsageError("name dead letters, or say --all; `hls-pipeline queue dead` lists them")
    typer.echo(f"{_broker(data).redrive(message_ids)} sent back")


def _line(letter: DeadLetter) -> str:
    return f"{letter.message_id}  queue {letter.queue}  {letter.reason}  run {letter.run_id or 'unknown'}"


def _broker(data: Path | None) -> Broker:
    from hls_pipeline.queue import broker

    found = settings.load()
    return broker.connect(found if found.broker_url else configured(data))
