"""The folder of one local stack: its lock, what is remembered from start to start, and `stack.json`.

Everything in it is readable by its owner only. Remembered are the credentials, made once at random, and the ports,
kept as long as nobody else took them. Other commands read `stack.json` through `running` and `settings_of`; it exists
exactly while every part answers.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import SecretStr

from hls_pipeline.errors import Outage, UsageError
from hls_pipeline.local import ports
from hls_pipeline.settings import Settings

_LOCK_SECONDS = 3.0
"""For whom `running` looks just now, and is interrupted in that on a busy machine."""


@dataclass(frozen=True)
class Identity:
    """Made at the first start of a data folder. `stack_id` marks the processes that belong to it."""

    stack_id: str
    s3_access_key: str
    s3_secret_key: str
    s3_internal_key: str

    def password(self, service: str) -> str:
        """One for each further service, the same at every start."""
        return hmac.new(self.s3_internal_key.encode(), service.encode(), "sha256").hexdigest()


@dataclass(frozen=True)
class DataFolder:
    path: Path

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def stack_file(self) -> Path:
        return self.path / "stack.json"

    @property
    def api_key_file(self) -> Path:
        """Written by the gateway at its first start."""
        return self.path / "api_key"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises UsageError naming the process that holds it already."""
        _make(self.path)
        with (self.path / "up.lock").open("a+") as lock:
            if not _lock(lock, fcntl.LOCK_EX, _LOCK_SECONDS):
                lock.seek(0)
                raise UsageError(
                    f"a stack is already running on {self.path} (process {lock.read().strip() or 'unknown'}); "
                    "stop it first, or give this one another folder with --data"
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def identity(self) -> Identity:
        """Raises UsageError when the file was damaged."""
        path = self.path / "identity.json"
        if not path.exists():
            made = Identity(*(secrets.token_hex(size) for size in (16, 10, 20, 32)))
            write_private(path, made.__dict__)
        try:
            return Identity(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is damaged ({error}); put it back or start with another --data") from error

    @contextmanager
    def ports(self, names: tuple[str, ...], companions: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """A free port for each name: last time's when it is free. See `ports.py`."""
        path = self.path / "ports.json"
        with ports.held(names, companions, _remembered(path)) as chosen:
            write_private(path, chosen)
            yield chosen


def running(data: Path) -> dict[str, Any] | None:
    """What `stack.json` of the stack in `data` says; None when no stack is ready there. A file that a killed stack
    left counts for nothing. Raises Outage when the file cannot be read."""
    path = data / "stack.json"
    try:
        with (data / "up.lock").open() as lock:
            if _lock(lock, fcntl.LOCK_SH, 0):
                return None
        answer = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Outage(f"reading {path}: {error}; start the stack again") from error
    return answer if isinstance(answer, dict) else None


def settings_of(settings: Settings) -> Settings:
    """The settings with the addresses of the stack running in `settings.data`. An environment that names its own
    database is a complete one and stays as it is. Raises Outage when neither is there."""
    if settings.database_url:
        return settings
    stack = running(settings.data)
    if stack is None:
        raise Outage(
            f"no stack is running on {settings.data}, and HLS_DATABASE_URL is not set; start one with "
            "`hls-pipeline up`, or name its folder with --data"
        )
    return settings.model_copy(
        update={
            "database_url": stack["database"],
            "s3_endpoint": stack["s3"],
            "s3_access_key": stack["s3_access_key"],
            "s3_secret_key": SecretStr(stack["s3_secret_key"]),
            "s3_inbox": stack["buckets"]["inbox"],
            "s3_media": stack["buckets"]["media"],
            "ipfs_rpc_urls": tuple(stack["ipfs_rpc"]),
            "ipfs_gateway_urls": tuple(stack["ipfs_gateways"]),
            "ipfs_quorum": stack["ipfs_quorum"],
            "broker_url": stack["broker"] and SecretStr(stack["broker"]),
            "dagster_url": stack["dagster"],
            "ui_key": None,
        }
    )


def gateway_of(settings: Settings) -> tuple[str, str]:
    """Address of the gateway and a key for it: those of the environment, else of the stack running in
    `settings.data`. Raises Outage when neither is there."""
    if settings.gateway_url and settings.api_key:
        return settings.gateway_url.rstrip("/"), settings.api_key.get_secret_value()
    stack = running(settings.data)
    if stack is None:
        raise Outage(
            f"no stack is running on {settings.data}, and HLS_GATEWAY_URL and HLS_API_KEY are not both set; "
            "start one with `hls-pipeline up`, or name its folder with --data"
        )
    return stack["gateway"], stack["api_key"]


def write_private(path: Path, content: Mapping[str, Any]) -> None:
    """JSON for its owner alone, visible at once and whole."""
    waiting = path.with_name(path.name + ".new")
    waiting.unlink(missing_ok=True)
    with open(os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    waiting.replace(path)


def _make(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / "logs").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the data folder {path} cannot be made: {error.strerror}; choose another --data") from error


def _lock(file: TextIO, kind: int, seconds: float) -> bool:
    """Whether the lock was had within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _remembered(path: Path) -> dict[str, int]:
    try:
        return {str(name): int(port) for name, port in dict(json.loads(path.read_text())).items()}
    except (OSError, ValueError, TypeError):  # none, or damaged: they are only a convenience
        return {}
