"""The jobs that sensors and people start."""

import dagster as dg

from hls_pipeline.queue import broker, requests

ingest = dg.define_asset_job(
    requests.INGEST,
    selection=list(requests.PATH_ASSETS),
    run_tags={broker.QUEUE_TAG: broker.IPFS},  # the sensor names another for small packages
    description="One package from the inbox to its final JSON.",
)

clear = dg.define_asset_job(
    requests.CLEAR,
    selection=["s3_cleanup"],
    run_tags={broker.QUEUE_TAG: broker.LIGHT},
    description="Proves again that IPFS has a revision, then removes its S3 copies.",
)

repin = dg.define_asset_job(
    "repin",
    selection=["pin_health"],
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
    description="Compares every IPFS node with the catalogue, mends what is missing, proves a share of it again.",
)

report = dg.define_asset_job(
    "report",
    selection=["inventory"],
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
    description="Writes down every published file, and draws what the pipeline did.",
)

anchor = dg.define_asset_job(
    "anchor",
    selection=["version_anchor"],
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
    description="Writes the newest hash of every video to IPFS and S3.",
)

reconcile = dg.define_asset_job(
    "reconcile",
    selection=["reconciliation"],
    run_tags={broker.QUEUE_TAG: broker.UPKEEP},
    description="Compares the database with S3, the IPFS nodes and Dagster, and reports; it changes nothing.",
)
