"""The services the tests talk to, and a pipeline over them without Dagster.

Each service is a process of its own on free loopback ports, in a folder that goes with it, and is stopped by its
process handle. `World` is what an asset has in its hands: settings, S3, IPFS nodes, metadata store; it drops packages
and walks steps as a run does. Packages small enough to read on the screen are built here too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg2

from hls_pipeline import clock, drops, keys, metadata_store, object_store, replicas, steps, work
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.local import ports, processes, seaweed
from hls_pipeline.metadata_store import PATH, Lease, MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings, load
from hls_pipeline.uploads import IN_WORK, State, Upload

SAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sample"
INBOX, MEDIA = "inbox", "media"
Files = Mapping[str, bytes]


# ---- services -----------------------------------------------------------------------------------------------------


_held = deque[contextlib.ExitStack]()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on. Other tests get others, also in processes beside this one."""
    tokens = contextlib.ExitStack()
    _held.append(tokens)
    if len(_held) > 50:  # whoever asked so long ago has been listening for long
        _held.popleft().close()
    return list(tokens.enter_context(ports.held(map(str, range(count)))).values())


def wait_until(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    """`seconds` is there for what hangs; a busy machine is slow."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


@contextmanager
def service(
    command: tuple[str, ...], folder: Path, ready: Callable[[], object], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ready; at the end it and everything it started are gone, at once: nobody needs its data."""
    log = folder / "log"
    process = processes.start(command, {**os.environ, **(environment or {})}, folder, log)

    def ready_or_dead() -> object:
        assert process.poll() is None, f"{command[0]} ended at once:\n{log.read_text()}"
        return ready()

    try:
        wait_until(ready_or_dead, f"{command[0]}:\n{log.read_text()}")
        yield process
    finally:
        processes.signal_group(process, signal.SIGKILL)
        process.wait()


@contextmanager
def running_s3(folder: Path) -> Iterator[Settings]:
    """SeaweedFS with the buckets `inbox` and `media`; the settings that reach it."""
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    seaweed.prepare(folder, secrets.token_hex(32))
    with ports.held(seaweed.PORTS, seaweed.COMPANIONS) as chosen:
        settings = load(
            s3_endpoint=f"http://127.0.0.1:{chosen['s3']}",
            s3_access_key=access,
            s3_secret_key=secret,
            s3_inbox=INBOX,
            s3_media=MEDIA,
        )
        command = seaweed.command(folder, chosen, (INBOX, MEDIA))
        with service(command, folder, lambda: seaweed.buckets_are_ready(settings), seaweed.environment(access, secret)):
            yield settings


@dataclass(frozen=True)
class Postgres:
    """A server of ours; `template1` holds the newest schema, so that a new database is ready at once."""

    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg2://hls:{self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> Any:
        return psycopg2.connect(self.url(database).replace("+psycopg2", ""), connect_timeout=5)

    def say(self, statement: str) -> None:
        connection = self.connect("postgres")
        connection.autocommit = True
        connection.cursor().execute(statement)
        connection.close()

    def take_down(self, database: str) -> None:
        """Whoever is connected to it is cut off, and nobody gets in until `bring_up`."""
        self.say(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        self.say(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def bring_up(self, database: str) -> None:
        self.say(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    @contextmanager
    def new_database(self, template: str = "template1") -> Iterator[str]:
        """The URL of an empty one, or of a copy, which is gone afterwards, whoever is still connected."""
        name = f"test_{secrets.token_hex(6)}"
        self.say(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield self.url(name)
        finally:
            self.say(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Debian's PostgreSQL. It refuses to run as root, and needs a folder that its own user can reach."""
    binaries = _postgres_binaries()
    postgres = Postgres(*free_ports(1), secrets.token_hex(16))
    folder = Path(tempfile.mkdtemp(prefix="hls-postgres-"))
    try:
        (folder / "password").write_text(postgres.password)
        as_user = _as_postgres_user(folder)
        data = str(folder / "data")
        subprocess.run(
            (
                *(*as_user, str(binaries / "initdb"), "-D", data, "-U", "hls", "-A", "scram-sha-256", "-E", "UTF8"),
                *("--locale=C", "--no-sync", "--no-instructions", f"--pwfile={folder / 'password'}"),
            ),
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        command = (*as_user, str(binaries / "postgres"), "-D", data, "-p", str(postgres.port), "-k", "")
        command += ("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=250")
        with service(command, folder, lambda: _answers(postgres)) as process:
            try:
                metadata_store.migrate(postgres.url("template1"))
                # A database that a pool is connected to cannot be copied.
                postgres.say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'template1'")
                yield postgres
            finally:
                process.send_signal(signal.SIGQUIT)  # its children lead groups of their own, and write until they end
                process.wait(60)
    finally:
        shutil.rmtree(folder)


def _postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    assert found or on_path, "PostgreSQL's initdb is missing; `make test` installs it (package postgresql)"
    return found[-1].parent if found else Path(on_path or "").parent


def _as_postgres_user(folder: Path) -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, "postgres", "postgres")
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL", "--")


def _answers(postgres: Postgres) -> bool:
    try:
        postgres.connect("postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


def migrated_sqlite(path: Path) -> Path:
    metadata_store.migrate(f"sqlite:///{path}")
    return path


def copy_sqlite(template: Path, target: Path) -> str:
    """A database with the schema of `template`; its URL."""
    with contextlib.closing(sqlite3.connect(template)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return f"sqlite:///{target}"


@contextmanager
def cutting_proxy(target: str, answer_bytes: int) -> Iterator[str]:
    """An address in front of `target` (`http://host:port`) that hangs up after so many bytes of an answer."""
    host, port = target.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=pass_on, args=(client,), daemon=True).start()

    def pass_on(client: socket.socket) -> None:
        with client, socket.create_connection((host, int(port))) as server, contextlib.suppress(OSError):
            server.sendall(client.recv(65536))
            left = answer_bytes
            while left > 0 and (data := server.recv(min(left, 65536))):
                client.sendall(data)
                left -= len(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


# ---- packages -----------------------------------------------------------------------------------------------------


def ts(seed: str, packets: int = 5) -> bytes:
    """A transport stream of its own for each seed: packets of 188 bytes that start with 0x47."""
    filling = hashlib.shake_256(seed.encode()).digest(187 * packets)
    return b"".join(b"\x47" + filling[187 * n : 187 * (n + 1)] for n in range(packets))


def media_playlist(*segments: str, comment: str = "") -> bytes:
    lines = ["#EXTM3U", f"# {comment}", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:6"]
    for segment in segments:
        lines += ["#EXTINF:6.0,", segment]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()


def package(seed: str, segments: int = 3) -> dict[str, bytes]:
    """A master, a rendition `v`, and metadata; every file has bytes that only this seed has."""
    names = [f"s{n}.ts" for n in range(segments)]
    master = f'#EXTM3U\n# {seed}\n#EXT-X-STREAM-INF:BANDWIDTH=1000,CODECS="avc1.4d400c"\nv/index.m3u8\n'
    return {
        "master.m3u8": master.encode(),
        "v/index.m3u8": media_playlist(*names, comment=seed),
        **{f"v/{name}": ts(f"{seed} {name}") for name in names},
        "metadata.json": b'{"title": "' + seed.encode() + b'"}',
    }


def sample() -> dict[str, bytes]:
    """The package that is shipped in `examples/`."""
    found = (path for path in sorted(SAMPLE.rglob("*")) if path.is_file())
    return {str(path.relative_to(SAMPLE)): path.read_bytes() for path in found}


def doubled(settings: Settings) -> dict[str, Any]:
    """The only node under two addresses: it is still one node."""
    return {
        name: (url, url.replace("127.0.0.1", "localhost"))
        for name, (url,) in settings.model_dump(include={"ipfs_rpc_urls", "ipfs_gateway_urls"}).items()
    }


def published(files: Files) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path != keys.METADATA}


# ---- the path without Dagster -------------------------------------------------------------------------------------

Step = Callable[["World", Upload, Lease], Upload]

STEPS: dict[str, Step] = {
    "stage": lambda w, u, lease: steps.stage(u, lease, w.objects, w.nodes, w.store, w.settings),
    "write_s3_manifest": lambda w, u, lease: steps.write_s3_manifest(u, lease, w.objects, w.store, w.settings),
    "publish": lambda w, u, lease: steps.publish(u, lease, w.objects, w.nodes, w.store, w.settings),
    "write_ipfs_manifest": lambda w, u, lease: steps.write_ipfs_manifest(
        u, lease, w.objects, w.nodes, w.store, w.settings
    ),
    "finalize": lambda w, u, lease: steps.finalize(u, lease, w.objects, w.store, w.settings),
    "clear_temp_storage": lambda w, u, lease: steps.clear_temp_storage(
        u, lease, w.objects, w.nodes, w.store, w.settings
    ),
}
TO_FINAL = ("stage", "write_s3_manifest", "publish", "write_ipfs_manifest", "finalize")


@dataclass(frozen=True)
class World:
    settings: Settings
    store: MetadataStore
    objects: ObjectStore
    nodes: tuple[Kubo, ...]

    @classmethod
    def of(cls, settings: Settings) -> World:
        return cls(
            settings,
            metadata_store.connect(settings.database_url),
            object_store.connect(settings),
            replicas.connect(settings),
        )

    def having(self, **changes: Any) -> World:
        """The same world with other settings."""
        return World.of(self.settings.model_copy(update=changes))

    def over(self, database_url: str) -> World:
        """The same S3 and nodes with another database, and a pool of its own for it."""
        settings = self.settings.model_copy(update={"database_url": database_url})
        return replace(self, settings=settings, store=MetadataStore(database_url))

    # the creator

    def put(self, video_id: str, files: Files) -> None:
        for path, data in files.items():
            self.objects.put(INBOX, keys.inbox(video_id, path), data, "application/octet-stream")

    def mark(self, video_id: str) -> None:
        self.put(video_id, {keys.READY: b""})

    def drop(self, video_id: str, files: Files) -> Upload:
        """A package marked ready, and taken up. S3 tells times in whole seconds: the same bytes marked twice within
        one are one arrival, so a second drop waits for the next."""
        self.put(video_id, files)
        self.mark(video_id)
        latest = self.store.latest_upload(video_id)
        while latest and drops.folder(self.objects, INBOX, video_id).freeze().ready == latest.drop.ready:
            time.sleep(0.05)
            self.mark(video_id)
        return self.take_up()

    # the pipeline

    def receive(self, now: datetime | None = None) -> tuple[list[Upload], list[str]]:
        return drops.receive(self.objects, self.store, self.settings, now or clock.now())

    def take_up(self) -> Upload:
        """The one upload that the inbox gives now."""
        arrived, waiting = self.receive()
        assert len(arrived) == 1, waiting
        return arrived[0]

    def step(self, name: str, upload: Upload, holder: str = PATH + "run") -> Upload:
        """One step as a run does it: from what the store says now, under the lease."""
        upload = self.store.upload(upload.upload_id)
        last = name in ("finalize", "clear_temp_storage")
        with work.holding(upload, holder, self.store, self.settings, last=last) as lease:
            return STEPS[name](self, upload, lease)

    def walk(self, upload: Upload, *names: str, holder: str = PATH + "run") -> Upload:
        """Steps one after the other, as far as the upload goes; without names, to the final document."""
        for name in names or TO_FINAL:
            upload = self.step(name, upload, holder)
            if upload.revision is None or upload.state not in {*IN_WORK, State.PUBLISHED}:
                break
        return upload

    def publish_package(self, video_id: str, files: Files) -> Upload:
        return self.walk(self.drop(video_id, files))

    # what is there

    def inbox(self) -> set[str]:
        return {item.key for item in self.objects.listing(INBOX)}

    def media(self) -> set[str]:
        return {item.key for item in self.objects.listing(MEDIA)}

    def read(self, key: str) -> bytes:
        return self.objects.read_all(MEDIA, key)

    def from_gateway(self, path: str, node: int = 0) -> bytes:
        """What a player gets of `CID/path`."""
        return b"".join(self.nodes[node].read(path))

    def document(self, video_id: str) -> dict[str, Any]:
        current = self.store.current(video_id)
        assert current is not None
        found: dict[str, Any] = json.loads(current.document)
        return found

    def on_ipfs(self, data: bytes) -> bool:
        """Whether the first node holds these bytes (of at most one block)."""
        return self.nodes[0].has(Cid.of(data))

    def empty_buckets(self) -> None:
        for bucket in (INBOX, MEDIA):
            self.objects.delete_versions(bucket, "")


CopiesOf = Callable[[World], Iterator[World]]
