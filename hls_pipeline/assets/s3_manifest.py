"""Playlists rewritten to s3://, and the temporary document a creator gets within seconds."""

import dagster as dg

from hls_pipeline import steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.s3_segments import s3_segments
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource


@dg.asset(deps=[s3_segments], partitions_def=videos, group_name="path", kinds={"s3"}, code_version="1")
def s3_manifest(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, metadata: MetadataResource
) -> dg.MaterializeResult[None]:
    """Playlists at `s3://media/{video_id}/r{n}/s3/{path}`; the temporary JSON is a version of the metadata."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.write_s3_manifest(upload, lease, s3.object_store(), store, config),
    )
    return result(upload, store, upload.root or "", **show.document(store.newest_version(upload)))
