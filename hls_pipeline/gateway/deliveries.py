"""What happens in the background: webhooks are told of changes, and the metrics of stages and estimates are kept.

A delivery is signed: `HLS-Signature: t=SECONDS,v1=HEX` with HEX = HMAC-SHA256(secret, "SECONDS.BODY"). One that is not
answered by 2xx is sent again with growing pauses, sixteen times within a day; the log of deliveries stays for
`HLS_DELIVERY_KEEP_DAYS`.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from hls_pipeline import clock
from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import outbound, progress
from hls_pipeline.gateway.services import Services
from hls_pipeline.gateway.webhook_records import Delivery, Outcome, StateChange, Webhook, WebhookRecords
from hls_pipeline.uploads import State, back_off

log = logging.getLogger(__name__)

ATTEMPTS = 16
"""With the pauses below these take 23 hours: a receiver may be away for a night."""
_FIRST_PAUSE_SECONDS = 5
_LONGEST_PAUSE_SECONDS = 6 * 3600
_PATIENCE = timedelta(minutes=2)
_AT_ONCE = 8


class Deliverer:
    """Sends what is due, a few at a time, so that it can be told to stop in between."""

    def __init__(self, services: Services) -> None:
        self._services, self._records = services, WebhookRecords(services.store)

    def look(self) -> bool:
        """Whether there may be more to send at once."""
        now = clock.now()
        self._records.enqueue(now)
        due = self._records.claim_due(now, _PATIENCE, _AT_ONCE)
        if due:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as pool:
                self._records.settle(list(pool.map(self._deliver, *zip(*due, strict=True))))
        return len(due) == _AT_ONCE

    def _deliver(self, hook: Webhook, delivery: Delivery) -> Outcome:
        now = clock.now()
        answer, good = self._post(hook, delivery, now)
        self._services.metrics.deliveries.labels("delivered" if good else "failed").inc()
        if good:
            return Outcome(delivery.delivery_id, answer, delivered_at=now)
        if delivery.attempts + 1 >= ATTEMPTS:
            return Outcome(delivery.delivery_id, answer)
        pause = back_off(delivery.attempts, _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        return Outcome(delivery.delivery_id, answer, again=now + pause)

    def _post(self, hook: Webhook, delivery: Delivery, now: datetime) -> tuple[str, bool]:
        """What became of it, for the log, and whether it was taken."""
        body = delivery.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "hls-pipeline-webhook",
            "HLS-Event": delivery.event,
            "HLS-Delivery": delivery.delivery_id,
            "HLS-Signature": signature(hook.secret, body, int(now.timestamp())),
        }
        try:
            status = outbound.post(hook.url, body, headers, private=self._services.settings.webhook_private)
        except PipelineError as error:
            return str(error), False
        except Exception as error:  # a mistake with one must not send the others of its round again and again
            log.exception("delivery %s", delivery.delivery_id)
            return f"it could not be sent: {type(error).__name__}", False
        return f"answered {status}", 200 <= status < 300


def signature(secret: str, body: bytes, seconds: int) -> str:
    signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={signed}"


# ---- metrics ------------------------------------------------------------------------------------------------------


class Observer:
    """Notes how long stages took and how far estimates were off. Every gateway sees all changes, whoever made them."""

    def __init__(self, services: Services) -> None:
        self._services, self._records = services, WebhookRecords(services.store)
        self._seen: int | None = None

    def look(self) -> None:
        if self._seen is None:
            self._seen = self._records.newest_change()
        for change in self._records.changes(self._seen):
            self._note(change)
            self._seen = change.id

    def _note(self, change: StateChange) -> None:
        store, metrics = self._services.store, self._services.metrics
        history = store.history(change.upload_id)
        at = next((n for n, (state, _, _) in enumerate(history) if state is change.state), 0)
        if at:
            before, since, _ = history[at - 1]
            metrics.stages.labels(str(before)).observe((change.time - since).total_seconds())
        if change.state is State.PUBLISHED:
            promised = progress.estimated(store.upload(change.upload_id), store)
            if promised:
                metrics.note_estimate((change.time - promised).total_seconds())
