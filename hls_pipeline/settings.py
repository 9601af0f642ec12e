"""The environment, read once, as one frozen `Settings`.

Every variable starts with `HLS_`. Add a field here when something must differ between two installations; give it a
default that is right for the local stack, and say its unit. Nothing else in the package reads the environment.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from hls_pipeline.errors import UsageError

if TYPE_CHECKING:
    from hls_pipeline.hls.policy import Policy


class PinningServiceSettings(BaseModel):
    """One element of HLS_PINNING_SERVICES."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    endpoint: str
    token: SecretStr


def _items(value: Any) -> Any:
    """A JSON object as something that can be hashed."""
    return tuple(value.items()) if isinstance(value, dict) else value


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="HLS_", frozen=True, extra="ignore", env_ignore_empty=True)

    data: Path = Field(Path(".local"), description="folder of the local stack")

    database_url: str = Field("", description="SQLAlchemy URL of the metadata store")

    s3_endpoint: str | None = Field(None, description="S3 endpoint; empty means AWS")
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    s3_inbox: str = Field("inbox", description="bucket where creators drop packages")
    s3_media: str = Field("media", description="bucket where revisions wait for IPFS")
    s3_parallel: int = Field(8, ge=1, le=64, description="objects read or copied at once by one step")
    s3_grace_seconds: float = Field(0, ge=0, description="how long S3 copies outlive finalize, seconds")

    s3_keep: tuple[str, ...] = Field(
        (), description="shell patterns of keys in the media bucket that clean-up leaves there (JSON list)"
    )

    inbox_quiet_seconds: float = Field(30, ge=0, description="a folder without _READY starts after this silence")
    inbox_abandon_seconds: float = Field(
        3600, ge=0, description="a folder without _READY that does not resolve by then is refused"
    )
    inbox_keep_days: int = Field(30, ge=1, description="lifecycle rule: what lies in the inbox for longer goes")

    ipfs_rpc_urls: tuple[str, ...] = Field((), description="Kubo RPC addresses, one per node (JSON list)")
    ipfs_gateway_urls: tuple[str, ...] = Field(
        (), description="gateway of each node, in the order of the RPC addresses (JSON list)"
    )
    ipfs_auth: SecretStr | None = Field(
        None,
        description="'bearer:TOKEN' or 'basic:USER:PASSWORD' for the RPC of all nodes, or one for each, in the order "
        'of the RPC addresses (JSON list; "" for none)',
    )
    ipfs_quorum: int = Field(1, ge=1, description="nodes that must prove they hold the content")
    ipfs_grace_seconds: float = Field(
        5, ge=0, description="what nodes beyond the quorum get to finish before they are filled up later"
    )
    proof_sample: int = Field(
        0, ge=0, description="read back so many random blocks of larger packages instead of all; 0 means all"
    )
    proof_days: float = Field(30, gt=0, description="every node gives everything back in full at least this often")
    documents_on_ipfs: bool = Field(
        False, description="the daily anchor also puts every version's document on IPFS, where it stays"
    )
    pinning_services: tuple[PinningServiceSettings, ...] = Field(
        (), description="IPFS pinning services that are asked for extra copies (JSON list of name, endpoint, token)"
    )
    ipfs_streams: int = Field(2, ge=1, le=16, description="import streams per node")
    ipfs_ahead_bytes: int = Field(
        16 << 20, ge=0, description="files that are read from S3 while others are sent, bytes per node"
    )
    ipfs_profile: Literal["unixfs-v1-2025", "unixfs-v0-2015"] = "unixfs-v1-2025"
    ipfs_stall_seconds: float = Field(60, gt=0, description="a node silent for this long counts as down")

    keys: Literal["reject", "publish", "external"] = Field(
        "reject",
        description="clear AES keys inside a package: refuse, publish unprotected, or hand to a key service",
    )

    key_service_url: str | None = Field(
        None,
        description="https address that playlists name for keys in mode external, with {video_id} and {path} of the "
        "key; without them both stand at its end",
    )
    s3_keys: str | None = Field(None, description="private bucket for keys in mode external")
    allow_external_keys: bool = Field(
        False, description="accept, with a warning, playlists that name keys by https addresses of their own"
    )
    root_relative: bool = Field(False, description="/x in a playlist means x at the top of the package, else an error")
    severities: Annotated[tuple[tuple[str, Literal["error", "warning"]], ...], BeforeValidator(_items)] = Field(
        (), description="rules with another severity than in findings.md (JSON object of code and error or warning)"
    )

    max_attempts: int = Field(5, ge=1, description="failed tries before an upload is failed; outages do not count")
    retry_seconds: float = Field(5, gt=0, description="first back-off; doubles with each try, at most 300")
    stuck_seconds: float = Field(3600, gt=0, description="an upload on which nobody worked for this long is stuck")
    history_days: float = Field(30, ge=1, description="Dagster's runs and logs are thinned when they are this old")
    orphan_days: float = Field(
        30,
        ge=1,
        description="`reconcile --apply` gives up uploads in parts, and with --remove-unknown objects, so old",
    )
    lease_seconds: float = Field(20, gt=1, description="a run that has not renewed its lease for this long is dead")

    broker_url: SecretStr | None = Field(
        None, description="where runs wait for a worker: amqp://… or sqs://…; empty: Dagster starts them itself"
    )
    sqs_region: str = Field("us-east-1", description="region of an sqs:// broker")
    queue_prefix: str = Field("", pattern="^[A-Za-z0-9_-]{0,40}$", description="start of every queue's name")
    s3_events_url: SecretStr | None = Field(
        None,
        description="queue that S3 sends notifications of the inbox to: an SQS queue's address (https://…), or "
        "amqp://…/VHOST?queue=NAME; empty: the whole inbox is listed each second",
    )
    inbox_look_seconds: float = Field(
        30, gt=0, description="with such notifications, the whole inbox is listed only this often"
    )
    light_bytes: int = Field(64 << 20, ge=0, description="packages up to this size wait in queue light, others in ipfs")
    worker_bytes: int = Field(
        8 << 30, ge=0, description="packages of queue ipfs at work at once in one worker; a larger one works alone"
    )
    worker_stop_seconds: float = Field(
        8, ge=0, description="what a stopping worker gives its runs to finish before it hands them back"
    )

    partition_keep_days: float = Field(
        30, ge=0, description="Dagster lists a cleared video as a partition for so long after the last work on it"
    )

    dagster_url: str | None = Field(None, description="address of `hls-pipeline ui`, where the gateway asks for runs")
    ui_key: SecretStr | None = Field(None, description="key that the Dagster UI asks for, and is asked with")

    gateway_url: str | None = Field(None, description="gateway that `submit --via gateway` sends to, and links lead to")
    api_key: SecretStr | None = Field(None, description="key for that gateway")

    state: Path = Field(
        Path("~/.local/state/hls-pipeline"), description="where `submit --via gateway` remembers what was cut off"
    )

    alert_webhook_url: SecretStr | None = Field(
        None, description="address that alerts are posted to, as JSON with a text that Slack and its like show"
    )
    alert_mail_to: tuple[str, ...] = Field((), description="addresses that alerts are mailed to (JSON list)")
    alert_mail_from: str | None = Field(None, description="sender of those mails")
    smtp_host: str | None = Field(None, description="mail server for alerts")
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    alert_after_seconds: float = Field(
        300, ge=0, description="nobody is told of an outage that is shorter than this, or of a peak"
    )
    alert_repeat_hours: float = Field(24, gt=0, description="a problem that stays open is told again after this time")
    node_full_percent: float = Field(85, gt=0, description="part of its limit at which an IPFS node counts as full")
    disk_full_percent: float = Field(90, gt=0, description="part of its size at which a disk counts as full")
    disk_paths: tuple[Path, ...] = Field(
        (), description="folders whose disks the daemon's host watches (JSON list); empty: that of HLS_DATA"
    )

    metrics_host: str = Field("127.0.0.1", description="address on which daemon and worker answer Prometheus")
    daemon_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of the daemon's metrics; empty: none"
    )
    worker_metrics_port: int | None = Field(
        None, ge=1, le=65535, description="port of a worker's (and the code server's) metrics; empty: none"
    )
    otlp_endpoint: str | None = Field(
        None, description="http address of an OpenTelemetry collector (such as http://localhost:4318); empty: no traces"
    )

    local_ipfs: Literal["auto", "kubo", "embedded"] = Field("auto", description="IPFS node of the local stack")

    def policy(self) -> Policy:
        """What a package may be. Raises UsageError when mode external lacks its bucket or its key service, and for a
        severity that a rule cannot have."""
        from hls_pipeline.hls.policy import Policy

        if self.keys == "external" and not (self.s3_keys and self.key_service_url):
            raise UsageError("HLS_KEYS=external needs HLS_S3_KEYS (a private bucket) and HLS_KEY_SERVICE_URL (https)")
        return Policy(
            keys=self.keys,
            key_service_url=self.key_service_url,
            severities=dict(self.severities),
            root_relative=self.root_relative,
            allow_external_keys=self.allow_external_keys,
        )


def load(**overrides: object) -> Settings:
    """The settings from the environment; keyword arguments win. Raises UsageError naming the bad variable."""
    if overrides:
        return _read(**overrides)
    return _of(frozenset(item for item in os.environ.items() if item[0].upper().startswith("HLS_")))


@functools.lru_cache(maxsize=1)
def _of(environment: frozenset[tuple[str, str]]) -> Settings:
    """Reading it takes 1.6 ms, and a package asks some thirty times: an eighth of a small one's processor time."""
    return _read()


def _read(**overrides: object) -> Settings:
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except SettingsError as error:
        raise UsageError(f"{error}; lists are JSON, correct it in the environment") from error
    except ValidationError as error:
        first = error.errors()[0]
        name = "HLS_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(f"setting {name}: {first['msg']}; correct it in the environment") from error
