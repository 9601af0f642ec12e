"""Playlists rewritten to ipfs://, kept on IPFS with the originals and the inventory."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.ipfs_cids import ipfs_cids
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(
    deps=[ipfs_cids],
    partitions_def=videos,
    group_name="path",
    kinds={"ipfs"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec("on_quorum", asset="ipfs_manifest", description="Enough nodes proved the record complete.")
    ],
)
def ipfs_manifest(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation, and only bare
    """The record directory: `ipfs://` playlists, original playlists, inventory; pinned and proven."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.write_ipfs_manifest(
            upload, lease, s3.object_store(), ipfs.nodes(), store, config
        ),
    )
    record, receipts = upload.record or "", store.receipts(upload.upload_id, "proof")
    shown = show.proof(receipts, record, "")
    return result(upload, store, record, checks=[show.on_quorum(receipts, record)], **shown)
