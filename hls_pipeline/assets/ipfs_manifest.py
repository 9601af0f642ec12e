"""Playlists rewritten to ipfs://, kept on IPFS with the originals and the inventory."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.ipfs_cids import ipfs_cids
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(deps=[ipfs_cids], partitions_def=videos, group_name="path", kinds={"ipfs"}, code_version="1")
def ipfs_manifest(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult[None]:
    """The record directory: `ipfs://` playlists, original playlists, inventory; pinned and proven."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.write_ipfs_manifest(
            upload, lease, s3.object_store(), ipfs.nodes(), store, config
        ),
    )
    return result(
        upload, upload.record or "", **show.proof(store.receipts(upload.upload_id, "proof"), upload.record or "")
    )
