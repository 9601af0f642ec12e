"""The S3 copies removed, after IPFS gave back every block of both directories."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.final_metadata import final_metadata
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(deps=[final_metadata], partitions_def=videos, group_name="path", kinds={"s3"}, code_version="1")
def s3_cleanup(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult[None]:
    """No temporary object of the revision is left in S3; the receipt says on whose evidence."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.clear_temp_storage(
            upload, lease, s3.object_store(), ipfs.nodes(), store, config
        ),
        last=True,
    )
    return result(upload, store, upload.root or "", **show.deletion(store.receipts(upload.upload_id, "deletion")))
