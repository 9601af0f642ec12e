"""What senders left behind: uploads that were begun and never completed, packages a gateway died over, old deliveries.

A refused or broken request cleans up after itself at once; this is for what could not.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import groupby

from hls_pipeline import clock, keys
from hls_pipeline.gateway.presigned import COMPLETION
from hls_pipeline.gateway.services import Services
from hls_pipeline.gateway.webhook_records import WebhookRecords

_ABANDONED = timedelta(days=1)


def sweep(services: Services, now: datetime | None = None) -> None:
    """Removes what expired, and what nobody has written to for a day, or for as long as an upload may take, and
    no upload needs."""
    now = now or clock.now()
    abandoned = now - max(_ABANDONED, timedelta(seconds=services.settings.upload_seconds))
    bucket = services.settings.s3_media
    for presigned in services.records.expired(now, COMPLETION):
        services.records.drop_presigned(presigned.id)
        if not services.records.waiting(presigned.id):
            services.objects.remove_all(bucket, keys.presigned(presigned.id))
    for folder in (keys.ARRIVALS, keys.PRESIGNED):
        found = services.objects.listing(bucket, folder)
        for arrival_id, group in groupby(found, key=lambda item: item.key.split("/")[1]):
            newest = max(item.modified for item in group)
            if newest < abandoned and not services.records.waiting(arrival_id):
                services.objects.remove_all(bucket, f"{folder}{arrival_id}/")
        services.objects.abort_parts(bucket, folder, older_than=abandoned)
    WebhookRecords(services.store).thin(now - timedelta(days=services.settings.delivery_keep_days))
