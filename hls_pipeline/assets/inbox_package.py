"""The left edge: a complete package in the inbox. Creators make it, the sensor reports it, nothing here computes it."""

import dagster as dg

from hls_pipeline.assets.frame import videos

inbox_package = dg.AssetSpec(
    "inbox_package",
    partitions_def=videos,
    group_name="path",
    kinds={"s3"},
    description="A package that a creator dropped into `s3://inbox/{video_id}/`, marked `_READY`.",
)
