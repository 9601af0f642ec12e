"""`make demo` and `make demo-production`: packages on their way from the inbox to their final JSON, on a stack of their
own.

It does what a person would do with `hls-pipeline up` in one terminal and `hls-pipeline submit --wait` in another.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from hls_pipeline import metadata_store, object_store, submission
from hls_pipeline.commands.services import DataOption, configured, print_json
from hls_pipeline.commands.stack import ProductionOption, data_folder
from hls_pipeline.commands.submit import raise_unless_well
from hls_pipeline.errors import Outage
from hls_pipeline.hls.sources import Source, open_source
from hls_pipeline.local.data_folder import running
from hls_pipeline.settings import Settings

_STOP_SECONDS = 20.0
_AT_ONCE = 5  # packages, with --production


def demo(
    package: Annotated[Path, typer.Argument(help="The package to send.")] = Path("examples/sample"),
    data: DataOption = None,
    production: ProductionOption = False,
) -> None:
    """Start the local stack, send the sample package, show its way to the final JSON and where to look at it.

    With --production it is production's stack, and the package and four variations of it are sent at once.
    """
    folder = data_folder(data, production=production)
    with _stack(folder, production=production) as started:
        settings = configured(folder)
        documents = _publish(package, _AT_ONCE if production else 1, settings)
        for document in documents:
            typer.echo("")
            print_json(document, one_line=False)
        for document in documents:
            _print_addresses(document, settings, running(folder) or {})
        if started and sys.stdout.isatty():
            typer.echo("\nThe stack stays up until Ctrl-C.")
            _wait(started)


@dataclass(frozen=True)
class _Variation:
    """The same package with a remark at the end of each playlist: other bytes, so another root."""

    source: Source
    number: int

    def sizes(self) -> Mapping[str, int]:
        return {path: size + len(self._remark(path)) for path, size in self.source.sizes().items()}

    def read(self, path: str, limit: int | None = None) -> Iterator[bytes]:
        yield from self.source.read(path, limit)
        yield self._remark(path)

    def _remark(self, path: str) -> bytes:
        return f"\n# variation {self.number}\n".encode() if self.number and path.endswith(".m3u8") else b""


def _publish(package: Path, count: int, settings: Settings) -> list[dict[str, Any]]:
    """The final documents of the package and its variations."""
    store, objects = metadata_store.connect(settings.database_url), object_store.connect(settings)
    began = time.monotonic()
    typer.echo(f"\nsending {package}{f' and {count - 1} variations' if count > 1 else ''} to s3://{settings.s3_inbox}/")
    with open_source(package) as source, ThreadPoolExecutor(count) as pool:
        sent = list(
            pool.map(lambda n: submission.send(_Variation(source, n), None, objects, settings.s3_inbox), range(count))
        )
    documents = []
    for one in sent:
        for upload in submission.follow(one, store):
            typer.echo(f"  {time.monotonic() - began:5.1f} s  {upload.video_id} is {upload.state}")
            raise_unless_well(upload)
        documents.append(json.loads(submission.documents(store, upload)[-1].document))
    return documents


def _print_addresses(document: dict[str, Any], settings: Settings, stack: dict[str, Any]) -> None:
    assets = document["video_assets"]
    root = assets["ipfs_directory"].removeprefix("ipfs://")
    typer.echo("")
    for gateway in settings.ipfs_gateway_urls:
        typer.echo(f"play     {gateway}/ipfs/{root}/{assets['playlist']}")
    typer.echo(f"page     {stack['gateway']}/videos/{document['video_id']}")
    typer.echo(f"Dagster  {stack['dagster']}/assets/final_metadata?partition={document['video_id']}")


@contextmanager
def _stack(folder: Path, *, production: bool) -> Iterator[subprocess.Popen[bytes] | None]:
    """The stack that runs there already, or one that ends with us."""
    if running(folder):
        typer.echo(f"using the stack that runs on {folder}")
        yield None
        return
    process: subprocess.Popen[bytes] | None = None
    asked = False

    def stop(number: int, _: FrameType | None) -> None:
        """While the stack is being started there is nothing yet that could be ended: it is once it has begun."""
        nonlocal asked
        asked = True
        if process is not None:
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    kind = ["--production"] if production else []
    try:
        process = subprocess.Popen([sys.executable, "-m", "hls_pipeline.cli", "up", "--data", str(folder), *kind])
        while not running(folder):
            if asked:
                sys.exit(128 + signal.SIGTERM)
            if process.poll() is not None:
                raise Outage("the stack did not start; what it said above tells why")
            time.sleep(0.1)
        yield process
    finally:
        if process is not None:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C reaches the stack too; then it has begun to stop."""
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait(_STOP_SECONDS)
