"""What webhooks, their requests and their deliveries look like: as `shapes.py`, of which this is a part."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from hls_pipeline.gateway.shapes import TIME, UPLOAD, Event, example
from hls_pipeline.uploads import State


class WebhookRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"url": "https://example.com/hooks/video", "events": ["video.ready", "video.failed"]}]
        },
    )

    url: str = Field(max_length=2000)
    events: list[Event] = Field(default_factory=lambda: list(get_args(Event)), min_length=1)
    video_id: str | None = Field(None, description="only this video; all of the key otherwise")


_WEBHOOK: dict[str, Any] = {
    "id": "5d41402abc4b2a76b9719d911017c592",
    "url": "https://example.com/hooks/video",
    "events": ["video.ready", "video.failed"],
    "video_id": None,
    "created_at": TIME,
}


class WebhookItem(BaseModel):
    model_config = example(**_WEBHOOK)

    id: str
    url: str
    events: list[str]
    video_id: str | None
    created_at: str


class WebhookMade(WebhookItem):
    model_config = example(**_WEBHOOK | {"secret": "4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a"})

    secret: str = Field(description="signs the deliveries; shown this one time")


class Webhooks(BaseModel):
    model_config = example(webhooks=[_WEBHOOK])

    webhooks: list[WebhookItem]


class DeliveryItem(BaseModel):
    id: str
    event: str
    body: str
    created_at: str
    attempts: int
    next_try: str | None
    delivered_at: str | None
    answer: str | None


class Deliveries(BaseModel):
    model_config = example(
        next=None,
        deliveries=[
            {
                "id": "7d793037a0760186574b0282f2f435e7",
                "event": "video.ready",
                "body": '{"id":"7d793037a0760186574b0282f2f435e7","event":"video.ready","video_id":"video_123"}',
                "created_at": TIME,
                "attempts": 1,
                "next_try": None,
                "delivered_at": "2026-01-05T15:04:13.001Z",
                "answer": "answered 204",
            }
        ],
    )

    deliveries: list[DeliveryItem] = Field(description="newest first")
    next: str | None = Field(description="`after` of the next page; null at the end")


class WebhookEvent(BaseModel):
    """The body of a delivery."""

    model_config = example(
        id="7d793037a0760186574b0282f2f435e7",
        event="video.ready",
        video_id="video_123",
        upload_id=UPLOAD,
        revision=1,
        state="published",
        time=TIME,
    )

    id: str = Field(description="of the delivery; the same when it is sent again")
    event: Event
    video_id: str
    upload_id: str
    revision: int | None
    state: State
    time: str


class Resent(BaseModel):
    model_config = example(id="7d793037a0760186574b0282f2f435e7", state="due")

    id: str
    state: Literal["due"]
