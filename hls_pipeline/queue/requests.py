"""The run that an upload gets next: its key, its partition and its tags, the same whoever asks Dagster for it.

The sensors ask for what is due; the gateway asks for what it has just taken in, so that it need not wait for them.
Whoever counts the run first in the metadata store is the one who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.queue import broker
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import Upload

INGEST, CLEAR = "ingest", "clear"
"""The jobs."""

PATH_ASSETS = ("s3_segments", "s3_manifest", "ipfs_cids", "ipfs_manifest", "final_metadata")
"""What job ingest materializes, in this order."""

INBOX = "inbox"
"""The sensor whose runs walk the whole path."""

VIDEOS = "videos"
"""The name of Dagster's set of partitions."""

UPLOAD_TAG = "hls/upload_id"
"""Run tag naming the upload; without it a run means the current revision of its partition."""

NO_RETRIES_TAG = "dagster/max_retries"
"""Run tag that, with "0", keeps Dagster's run retries away: two who start an upload again would get in each other's
way."""

RUN_KEY_TAG, SENSOR_TAG, PARTITION_TAG = "dagster/run_key", "dagster/sensor_name", "dagster/partition"


@dataclass(frozen=True)
class RunRequest:
    key: str
    video_id: str
    tags: dict[str, str]

    def tags_of(self, sensor: str) -> dict[str, str]:
        """All tags that Dagster gives a run that this sensor asked for: the run counts as one of the sensor's."""
        return {**self.tags, RUN_KEY_TAG: self.key, SENSOR_TAG: sensor, PARTITION_TAG: self.video_id}


def next_run(upload: Upload, store: MetadataStore, config: Settings, now: datetime) -> RunRequest | None:
    """None when somebody else has asked for it. Small packages wait for no large one. Raises Outage."""
    number = store.request_run(upload.upload_id, now)
    if number is None:
        return None
    small = upload.drop.bytes <= config.light_bytes
    tags = {
        UPLOAD_TAG: upload.upload_id,
        broker.QUEUE_TAG: broker.LIGHT if small else broker.IPFS,
        broker.BYTES_TAG: str(upload.drop.bytes),
        NO_RETRIES_TAG: "0",
    }
    return RunRequest(f"{upload.upload_id}:{number}", upload.video_id, tags)
