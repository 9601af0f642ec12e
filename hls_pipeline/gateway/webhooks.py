"""`/v1/webhooks`: who wants to be told what, and the log of what was sent."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from hls_pipeline import clock, keys
from hls_pipeline.errors import NotFound, UsageError
from hls_pipeline.gateway import forms, outbound
from hls_pipeline.gateway import webhook_shapes as shapes
from hls_pipeline.gateway.access import Caller, Writer
from hls_pipeline.gateway.openapi import json_body, refusals
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.routing import Router
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.shapes import UploadWebhook
from hls_pipeline.gateway.webhook_records import Webhook, WebhookRecords

router = Router(prefix="/v1/webhooks", tags=["webhooks"])

_MOST_BYTES = 16 << 10
_PER_KEY = 50


@router.post(
    "",
    status_code=201,
    summary="Be told of changes",
    description="The answer holds the `secret` that signs deliveries; it is shown this one time.",
    response_model=shapes.WebhookMade,
    responses=refusals(408, 409, 413, _409="the key has too many webhooks"),
    openapi_extra=json_body(shapes.WebhookRequest),
)
async def make(request: Request, services: ServicesDep, caller: Writer) -> Response:
    wanted = await forms.json_body(request, services.settings, shapes.WebhookRequest, _MOST_BYTES)
    check_url(services, wanted.url)
    if wanted.video_id is not None and not keys.is_video_id(wanted.video_id):
        raise Refused(400, "bad_video_id", "this is no video id")
    hook = await run_in_threadpool(_make, services, caller, wanted)
    return JSONResponse({**_about(hook), "secret": hook.secret}, 201)


def of_upload(services: Services, key_id: str, wanted: UploadWebhook) -> Webhook:
    """As `arrivals.take_in` adds it to the upload. Raises Refused (400)."""
    check_url(services, wanted.url)
    return Webhook("", key_id, None, wanted.url, wanted.secret, tuple(wanted.events), clock.now())


def check_url(services: Services, url: str) -> None:
    """Raises Refused (400)."""
    try:
        outbound.check_url(url, private=services.settings.webhook_private)
    except UsageError as error:
        raise Refused(400, "bad_webhook", str(error)) from error


def _make(services: Services, caller: Caller, wanted: shapes.WebhookRequest) -> Webhook:
    records = WebhookRecords(services.store)
    assert caller.key_id is not None
    if len(records.of_key(caller.key_id)) >= _PER_KEY:
        raise Refused(409, "conflict", f"a key has at most {_PER_KEY} webhooks")
    hook = Webhook(
        webhook_id=secrets.token_hex(16),
        key_id=caller.key_id,
        video_id=wanted.video_id,
        url=wanted.url,
        secret=secrets.token_hex(32),
        events=tuple(wanted.events),
        created_at=clock.now(),
    )
    records.add(hook)
    return hook


@router.get("", summary="The webhooks of this key; not those of single uploads", response_model=shapes.Webhooks)
def list_webhooks(services: ServicesDep, caller: Writer) -> dict[str, Any]:
    return {"webhooks": [_about(hook) for hook in WebhookRecords(services.store).of_key(caller.key_id or "")]}


@router.delete("/{webhook_id}", status_code=204, summary="Be told no more", responses=refusals(404))
def remove(webhook_id: str, services: ServicesDep, caller: Writer) -> Response:
    WebhookRecords(services.store).remove(_own(services, caller, webhook_id).webhook_id)
    return Response(status_code=204)


@router.get(
    "/{webhook_id}/deliveries",
    summary="What was sent, newest first",
    response_model=shapes.Deliveries,
    responses=refusals(404),
)
def deliveries(
    webhook_id: str,
    services: ServicesDep,
    caller: Writer,
    limit: Annotated[int, Query(ge=1, le=1000, description="at most so many")] = 100,
    after: Annotated[str, Query(max_length=32, description="`next` of the page before")] = "",
) -> dict[str, Any]:
    hook = _own(services, caller, webhook_id)
    found = WebhookRecords(services.store).deliveries(hook.webhook_id, limit, after)
    return {
        "next": found[-1].delivery_id if len(found) == limit else None,
        "deliveries": [
            {
                "id": item.delivery_id,
                "event": item.event,
                "body": item.body,
                "created_at": clock.text(item.created_at),
                "attempts": item.attempts,
                "next_try": item.due_at and clock.text(item.due_at),
                "delivered_at": item.delivered_at and clock.text(item.delivered_at),
                "answer": item.answer,
            }
            for item in found
        ],
    }


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/resend",
    status_code=202,
    summary="Send it again now",
    response_model=shapes.Resent,
    responses=refusals(404),
)
def resend(webhook_id: str, delivery_id: str, services: ServicesDep, caller: Writer) -> dict[str, str]:
    hook = _own(services, caller, webhook_id)
    WebhookRecords(services.store).resend(hook.webhook_id, delivery_id[:32], clock.now())
    return {"id": delivery_id[:32], "state": "due"}


def _own(services: Services, caller: Caller, webhook_id: str) -> Webhook:
    """Raises NotFound, also for the webhooks of others."""
    hook = WebhookRecords(services.store).webhook(webhook_id[:32])
    if hook.key_id != caller.key_id:
        raise NotFound("there is no such webhook")
    return hook


def _about(hook: Webhook) -> dict[str, Any]:
    return {
        "id": hook.webhook_id,
        "url": hook.url,
        "events": list(hook.events),
        "video_id": hook.video_id,
        "created_at": clock.text(hook.created_at),
    }
