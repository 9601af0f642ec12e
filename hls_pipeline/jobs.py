"""The jobs that sensors and people start."""

import dagster as dg

ingest = dg.define_asset_job(
    "ingest",
    selection=["s3_segments", "s3_manifest", "ipfs_cids", "ipfs_manifest", "final_metadata"],
    description="One package from the inbox to its final JSON.",
)

clear = dg.define_asset_job(
    "clear",
    selection=["s3_cleanup"],
    description="Proves again that IPFS has a revision, then removes its S3 copies.",
)
