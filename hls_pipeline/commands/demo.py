"""`make demo`: the sample package on its way from the inbox to its final JSON, on a stack of its own.

It does what a person would do with `hls-pipeline up` in one terminal and `hls-pipeline submit --wait` in another.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hls_pipeline import metadata_store, submission
from hls_pipeline.commands.services import DataOption, configured, print_json
from hls_pipeline.commands.submit import raise_unless_well, send_folder
from hls_pipeline.errors import Outage
from hls_pipeline.local.data_folder import running
from hls_pipeline.settings import Settings, load

_STOP_SECONDS = 20.0


def demo(
    package: Annotated[Path, typer.Argument(help="The package to send.")] = Path("examples/sample"),
    data: DataOption = None,
) -> None:
    """Start the local stack, send the sample package, show its way to the final JSON and where to look at it."""
    folder = load(data=data).data if data else load().data
    with _stack(folder) as started:
        settings = configured(folder)
        document = _publish(package, settings)
        _print_addresses(document, settings, running(folder) or {})
        if started and sys.stdout.isatty():
            typer.echo("\nThe stack stays up until Ctrl-C.")
            _wait(started)


def _publish(package: Path, settings: Settings) -> dict[str, Any]:
    store = metadata_store.connect(settings.database_url)
    began = time.monotonic()
    typer.echo(f"\nsending {package} to s3://{settings.s3_inbox}/")
    sent = send_folder(package, None, None, settings, quiet=False)
    for upload in submission.follow(sent, store):
        typer.echo(f"  {time.monotonic() - began:5.1f} s  {upload.video_id} is {upload.state}")
        raise_unless_well(upload)
    document: dict[str, Any] = json.loads(submission.documents(store, upload)[-1].document)
    typer.echo("")
    print_json(document, one_line=False)
    return document


def _print_addresses(document: dict[str, Any], settings: Settings, stack: dict[str, Any]) -> None:
    assets = document["video_assets"]
    root = assets["ipfs_directory"].removeprefix("ipfs://")
    typer.echo(f"\nplay     {settings.ipfs_gateway_urls[0]}/ipfs/{root}/{assets['playlist']}")
    typer.echo(f"page     {stack['gateway']}/videos/{document['video_id']}")
    typer.echo(f"Dagster  {stack['dagster']}/assets/final_metadata?partition={document['video_id']}")


@contextmanager
def _stack(folder: Path) -> Iterator[subprocess.Popen[bytes] | None]:
    """The stack that runs there already, or one that ends with us."""
    if running(folder):
        typer.echo(f"using the stack that runs on {folder}")
        yield None
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen([sys.executable, "-m", "hls_pipeline.cli", "up", "--data", str(folder)])
    try:
        while not running(folder):
            if process.poll() is not None:
                raise Outage("the stack did not start; what it said above tells why")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C reaches the stack too; then it has begun to stop."""
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait(_STOP_SECONDS)
