"""The processes of an installation, one command each. What they do is in `ui.py`, `queue/` and `local/ipfs_node/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", help="Dagster's workspace file, which names the code servers.")
]


def ui(
    workspace: WorkspaceOption = Path("workspace.yaml"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A host name people use to come here, besides loopback; may be repeated. Then it must be known "
            "who asks: by HLS_UI_KEY, or with --behind-proxy."
        ),
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy in front asks who comes; no key is needed here.")
    ] = False,
) -> None:
    """Serve the Dagster UI, behind a guard against requests from other sites. Needs DAGSTER_HOME."""
    from hls_pipeline import settings
    from hls_pipeline import ui as web

    key = settings.load().ui_key
    secret = key.get_secret_value() if key else None
    web.run(workspace.absolute(), host, port, allow_host or (), secret, behind_proxy=behind_proxy)


def code_server(
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it can run code.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 4000,
    location: Annotated[str, typer.Option(help="Part of every run key's identity: never change it.")] = "hls_pipeline",
) -> None:
    """Serve the definitions to Dagster and start runs from warm processes. Needs DAGSTER_HOME."""
    from hls_pipeline.queue import code_server as role
    from hls_pipeline.queue.stopping import stop_in_time

    stop_in_time()
    role.run(host, port, location)


def daemon(workspace: WorkspaceOption = Path("workspace.yaml")) -> None:
    """Run the Dagster daemon: it watches the inbox and starts the runs. Exactly one. Needs DAGSTER_HOME."""
    from hls_pipeline.queue import daemon as role
    from hls_pipeline.queue.stopping import stop_in_time

    stop_in_time()
    role.run(workspace.absolute())


def worker(
    queues: Annotated[str, typer.Option(help="Queues to take runs from, separated by commas.")] = "ipfs,light,upkeep",
    concurrency: Annotated[int, typer.Option(min=1, help="Runs at once of each queue.")] = 1,
    health_port: Annotated[
        int | None,
        typer.Option(help="Answer GET /healthz on this port of loopback: 200 while it listens to the broker."),
    ] = None,
) -> None:
    """Execute runs from the queues. As many as you like, on any machines. Needs DAGSTER_HOME and HLS_BROKER_URL."""
    from hls_pipeline.queue import worker as role

    role.run(queues.split(","), concurrency, health_port)


def ipfs_node(
    repo: Annotated[Path, typer.Option(help="Folder of the blocks and pins.")],
    rpc: Annotated[
        str, typer.Option(help="HOST:PORT of the RPC; it has no password, keep it on loopback.")
    ] = "127.0.0.1:5001",
    gateway: Annotated[str, typer.Option(help="HOST:PORT of the gateway.")] = "127.0.0.1:8080",
    gc_grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which garbage collection spares blocks that nobody pinned yet.")
    ] = 0,
) -> None:
    """Run the embedded IPFS node: a verified, durable store of blocks that talks to no peers."""
    from hls_pipeline.local.ipfs_node import run

    run(repo, rpc, gateway, gc_grace)
