"""What the gateway can be told beside the common settings: `HLS_…` variables like all others.

Add a field when two gateways may rightly differ; defaults are those of a gateway that strangers can reach.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationError

from hls_pipeline.errors import UsageError
from hls_pipeline.settings import Settings


class GatewaySettings(Settings):
    public_read: bool = Field(False, description="reading and playing need no key")
    play: Literal["proxy", "redirect"] = Field(
        "proxy", description="media through the gateway, or by redirect to presigned S3 and IPFS gateway addresses"
    )
    public_ipfs_gateway: str | None = Field(
        None, description="IPFS gateway that viewers are sent to; the first of the nodes' otherwise"
    )
    public_s3_endpoint: str | None = Field(
        None, description="address of S3 in presigned addresses, where senders and viewers reach it by another one"
    )
    presign_seconds: int = Field(3600, ge=60, le=604_800, description="how long a presigned address is good")
    page_key: SecretStr | None = Field(
        None, description="key the pages use for visitors from this machine; for a local stack only"
    )

    trusted_proxies: tuple[str, ...] = Field(
        (), description="addresses or networks of proxies in front, whose word on clients and on https is taken"
    )
    upload_bytes: int = Field(64 << 30, ge=1, description="largest package, bytes")
    upload_files: int = Field(5000, ge=1, description="most files in one multipart upload")
    upload_seconds: float = Field(6 * 3600, gt=0, description="longest time one upload may take")
    head_seconds: float = Field(10, gt=0, description="a client whose request head is not there by then is cut off")
    body_silence_seconds: float = Field(
        30, gt=0, description="a client that sends less than a kilobyte for so long is cut off"
    )
    answer_silence_seconds: float = Field(
        60, gt=0, description="a client that takes nothing of an answer for so long is cut off"
    )
    closing_seconds: float = Field(
        30, gt=0, description="what requests under way get to finish once the gateway is told to stop"
    )
    uploads_per_key: int = Field(8, ge=1, description="uploads one key may send at once")
    uploads_at_once: int = Field(32, ge=1, description="uploads all keys together may send at once")
    queue_length: int = Field(
        1000, ge=1, description="no more packages are taken while so many wait for the pipeline or are in work"
    )
    requests_per_minute: int = Field(
        6000, ge=1, description="requests of one key (or one address, or IPv6 network, without key)"
    )
    bytes_per_hour: int = Field(1 << 40, ge=1, description="bytes one key may upload within an hour")

    webhook_private: bool = Field(
        False, description="webhooks may go to loopback and private addresses, but never to link-local ones"
    )
    delivery_keep_days: float = Field(
        30, gt=0, description="the log of what webhooks were sent, and webhooks of single uploads at rest, go then"
    )


def load(**overrides: object) -> GatewaySettings:
    """The settings from the environment; keyword arguments win. Raises UsageError naming the bad variable."""
    try:
        return GatewaySettings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "HLS_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"setting {name}: {first['msg']}; correct it in the environment") from error
