"""`python -m hls_pipeline.local.ipfs_node`: the node as a process of its own."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from hls_pipeline.errors import PipelineError
from hls_pipeline.local.ipfs_node import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="ipfs-node", description="The embedded IPFS node. It talks to no peers.")
    parser.add_argument("--repo", type=Path, required=True, help="folder of the blocks and pins")
    parser.add_argument("--rpc", default="127.0.0.1:5001", help="HOST:PORT of the RPC; keep it on loopback")
    parser.add_argument("--gateway", default="127.0.0.1:8080", help="HOST:PORT of the gateway")
    parser.add_argument(
        "--gc-grace", type=float, default=0, metavar="S", help="repo/gc spares blocks younger than this"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run(options.repo, options.rpc, options.gateway, options.gc_grace)
    except PipelineError as error:
        print(f"ipfs-node: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
