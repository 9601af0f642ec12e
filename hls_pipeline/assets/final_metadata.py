"""The final document, current from one transaction on."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.ipfs_manifest import ipfs_manifest
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(deps=[ipfs_manifest], partitions_def=videos, group_name="path", kinds={"json"}, code_version="1")
def final_metadata(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, metadata: MetadataResource
) -> dg.MaterializeResult[None]:
    """The final JSON is the current version of the metadata; playback comes from IPFS."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.finalize(upload, lease, s3.object_store(), store, config),
        last=True,
    )
    return result(upload, store, upload.manifest or "", **show.document(store.newest_version(upload)))
