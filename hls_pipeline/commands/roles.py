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
            help="A host name people use to come here, besides loopback; may be repeated. Anybody who "
            "reaches the page can change things: put an authenticating proxy in front."
        ),
    ] = None,
) -> None:
    """Serve the Dagster UI, behind a guard against requests from other sites. Needs DAGSTER_HOME."""
    from hls_pipeline import ui as web

    web.run(workspace.absolute(), host, port, allow_host or ())


def code_server(
    host: Annotated[str, typer.Option(help="Address to listen on; whoever reaches it can run code.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 4000,
    location: Annotated[str, typer.Option(help="Part of every run key's identity: never change it.")] = "hls_pipeline",
) -> None:
    """Serve the definitions to Dagster and start runs from warm processes. Needs DAGSTER_HOME."""
    from hls_pipeline.queue import code_server as role

    role.run(host, port, location)


def daemon(workspace: WorkspaceOption = Path("workspace.yaml")) -> None:
    """Run the Dagster daemon: it watches the inbox and starts the runs. Exactly one. Needs DAGSTER_HOME."""
    from hls_pipeline.queue import daemon as role

    role.run(workspace.absolute())


def ipfs_node(
    repo: Annotated[Path, typer.Option(help="Folder of the blocks and pins.")],
    rpc: Annotated[
        str, typer.Option(help="HOST:PORT of the RPC; it has no password, keep it on loopback.")
    ] = "127.0.0.1:5001",
    gateway: Annotated[str, typer.Option(help="HOST:PORT of the gateway.")] = "127.0.0.1:8080",
) -> None:
    """Run the embedded IPFS node: a verified, durable store of blocks that talks to no peers."""
    from hls_pipeline.local.ipfs_node import run

    run(repo, rpc, gateway)
