"""Every file of the package checked, content-addressed and stored in S3 under its content id."""

from collections.abc import Iterator

import dagster as dg

from hls_pipeline import remaking, steps
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import result, run_step, videos
from hls_pipeline.assets.inbox_package import inbox_package
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.uploads import ON_RECORD, State


@dg.asset(
    deps=[inbox_package],
    partitions_def=videos,
    group_name="path",
    kinds={"s3"},
    code_version="1",
    output_required=False,
    check_specs=[dg.AssetCheckSpec("package_rules", asset="s3_segments", description="The package breaks no rule.")],
)
def s3_segments(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Files at `s3://media/{video_id}/r{n}/media/{cid}{.ext}`; the inbox folder is empty again."""
    store = metadata.store()
    upload = run_step(
        context,
        store,
        lambda upload, lease, config: steps.stage(upload, lease, s3.object_store(), ipfs.nodes(), store, config),
        remake=lambda upload, holder, config: remaking.begin(
            upload, holder, s3.object_store(), ipfs.nodes(), store, config
        ),
    )
    if upload.report:
        yield show.package_rules(upload)
    if upload.revision is not None and (upload.state is State.RECEIVED or upload.state in ON_RECORD):
        yield result(upload, store, upload.root or "", **show.inventory(upload, store.inventory(upload.upload_id)))
    else:
        context.log.info("upload %s is %s: it goes no further", upload.upload_id, upload.state)
