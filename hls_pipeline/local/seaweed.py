"""SeaweedFS as the local S3: one `weed mini` process, everything on loopback, nothing reported to anybody.

S3 is guarded by generated credentials; the master, volume and filer servers behind it speak HTTP too, so their doors
are locked with a key only this process knows (security.toml; `weed scaffold -config=security`). Requests to S3 are
made in `object_store.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hls_pipeline.object_store import client, connect
from hls_pipeline.settings import Settings

PORTS = (
    "s3",
    "s3_grpc",
    "master",
    "master_grpc",
    "volume",
    "volume_grpc",
    "filer",
    "filer_grpc",
    "weed_admin",
)
COMPANIONS = {"weed_admin": 10000}
"""The maintenance worker looks for the admin server's gRPC port this much higher and cannot be told otherwise."""

_SECURITY = "".join(
    f'[{section}]\nkey = "{{key}}"\n'
    for section in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
)
_LOGS = "logs"
_MEMORY = "400MiB"
"""Go collects its garbage harder near this. Under a burst of requests it stays below 250 MiB resident then, without any
limit it comes to 350; with 256MiB here it did little else than collect and took four times the processor time."""


def prepare(folder: Path, internal_key: str) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / _LOGS).mkdir(mode=0o700, exist_ok=True)
    path = folder / "security.toml"
    path.touch(mode=0o600)
    path.write_text(_SECURITY.format(key=internal_key))


def command(folder: Path, ports: dict[str, int], buckets: tuple[str, ...]) -> tuple[str, ...]:
    """To be run in `folder`, where it finds its security.toml."""
    return (
        str(Path(sys.executable).with_name("weed")),
        f"-logdir={folder / _LOGS}",  # else in the machine's temporary folder
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={','.join(buckets)}",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3_grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master_grpc']}",
        "-master.telemetry=false",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume_grpc']}",
        "-volume.preStopSeconds=0",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer_grpc']}",
        f"-admin.port={ports['weed_admin']}",
        "-admin.ui=false",
        "-webdav=false",
    )


def environment(access_key: str, secret_key: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "GOMEMLIMIT": _MEMORY}


def buckets_are_ready(settings: Settings) -> bool:
    """Whether S3 answers and both buckets are there; `weed` makes them a moment after it listens. From then on the
    inbox keeps versions, as `hls-pipeline setup` has it in production."""
    try:
        names = {bucket["Name"] for bucket in client(settings).list_buckets()["Buckets"]}
        if not {settings.s3_inbox, settings.s3_media} <= names:
            return False
        connect(settings).keep_versions(settings.s3_inbox)
    except Exception:  # noqa: BLE001  # whatever it is, it is not ready
        return False
    return True
