"""Every block of the package on a quorum of IPFS nodes, pinned and confirmed."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.s3_manifest import s3_manifest
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(
    deps=[s3_manifest],
    partitions_def=videos,
    group_name="path",
    kinds={"ipfs"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec("on_quorum", asset="ipfs_cids", description="Enough nodes proved the package complete.")
    ],
)
def ipfs_cids(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation, and only bare
    """The package as one UnixFS directory; the nodes confirm the content ids computed at staging."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.publish(upload, lease, s3.object_store(), ipfs.nodes(), store, config),
    )
    root, receipts = upload.root or "", store.receipts(upload.upload_id, "proof")
    shown = show.proof(receipts, root, upload.playlist or "")
    return result(upload, store, root, checks=[show.on_quorum(receipts, root)], **shown)
