"""The heads of all version chains, outside the database: once a day."""

import dagster as dg

from hls_pipeline import clock, keys, settings
from hls_pipeline.assets import show
from hls_pipeline.assets.frame import as_failure
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.upkeep import anchors


@dg.asset(group_name="operations", kinds={"ipfs", "s3"}, code_version="1")
def version_anchor(
    s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult[None]:
    """The number and hash of every video's last version; `hls-pipeline audit verify` compares the database with it."""
    config = settings.load()
    with as_failure():
        anchor = anchors.make(metadata.store(), s3.object_store(), ipfs.nodes(), config, clock.now())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(anchor.root),
        metadata={
            "anchor": anchor.root,
            "anchor before": anchor.document.previous or "",
            "videos": len(anchor.heads),
            "in S3": dg.MetadataValue.path(keys.s3_uri(config.s3_media, anchor.key)),
            "open": show.gateway_link(f"{anchor.root}/{anchors.FILE}"),
        },
    )
