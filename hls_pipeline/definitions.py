"""Everything Dagster is told: assets, jobs, sensors, schedules, and one list of resources for every installation.

Loading this opens no connection; resources read the settings when a run or a tick asks for them.
"""

from __future__ import annotations

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    from hls_pipeline import jobs, schedules
    from hls_pipeline.assets.final_metadata import final_metadata
    from hls_pipeline.assets.inbox_package import inbox_package
    from hls_pipeline.assets.inventory import inventory
    from hls_pipeline.assets.ipfs_cids import ipfs_cids
    from hls_pipeline.assets.ipfs_manifest import ipfs_manifest
    from hls_pipeline.assets.pin_health import pin_health
    from hls_pipeline.assets.reconciliation import reconciliation
    from hls_pipeline.assets.s3_cleanup import s3_cleanup
    from hls_pipeline.assets.s3_manifest import s3_manifest
    from hls_pipeline.assets.s3_segments import s3_segments
    from hls_pipeline.assets.version_anchor import version_anchor
    from hls_pipeline.resources.ipfs import IpfsResource
    from hls_pipeline.resources.metadata import MetadataResource
    from hls_pipeline.resources.s3 import ObjectStoreResource
    from hls_pipeline.sensors.alerts import failed_jobs, health
    from hls_pipeline.sensors.cleanup import cleanup
    from hls_pipeline.sensors.inbox import inbox

    return dg.Definitions(
        assets=[
            inbox_package,
            s3_segments,
            s3_manifest,
            ipfs_cids,
            ipfs_manifest,
            final_metadata,
            s3_cleanup,
            pin_health,
            inventory,
            version_anchor,
            reconciliation,
        ],
        jobs=[jobs.ingest, jobs.clear, jobs.repin, jobs.reconcile, jobs.report, jobs.anchor],
        sensors=[inbox, cleanup, health, failed_jobs],
        schedules=schedules.ALL,
        resources={
            "s3": ObjectStoreResource(),
            "ipfs": IpfsResource(),
            "metadata": MetadataResource(),
        },
        executor=dg.in_process_executor,  # one run is one process; the assets of a run follow each other
    )
