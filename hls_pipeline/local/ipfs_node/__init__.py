"""The embedded IPFS node: a content-addressed store behind the part of Kubo's RPC that we use, and an HTTP gateway.

It lets the pipeline run where no Kubo is installed, with the same promises: blocks are verified, and durable before
an answer says so. It talks to no peers. `server` speaks HTTP, `rpc` and `commands` Kubo's RPC, `gateway` the gateway,
`node` pins and walks, `blocks` and `pins` keep; the scheme that keeps blocks safe from crashes and from garbage
collection is explained in `blocks`.
"""

from hls_pipeline.local.ipfs_node.process import run

__all__ = ["run"]
