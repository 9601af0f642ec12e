"""`hls-pipeline doctor`: is every configured service there, and fit for the work?

A check asks what the pipeline itself will ask, leaves nothing behind, and raises when the answer is no; what it
returns is shown. Add one when the pipeline comes to depend on something new.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import typer

from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.dagster_client import DagsterClient
from hls_pipeline.errors import Outage, PipelineError, ServiceError, ServiceRefused
from hls_pipeline.settings import Settings

_FREE_BYTES = 1 << 30
_GIB = 1 << 30
_PROBE_KEY = "_doctor"  # never becomes an object: the upload that names it is given up
_DAGSTER = """{
  workspaceOrError {__typename ... on Workspace {locationEntries {name locationOrLoadError {
    __typename ... on PythonError {message}}}}}
  instance {daemonHealth {allDaemonStatuses {daemonType required healthy}}}
}"""


@dataclass(frozen=True)
class Health:
    service: str
    ok: bool
    detail: str
    advice: str = ""


def doctor(data: DataOption = None, as_json: JsonOption = False) -> None:
    """Check every configured service; say what is wrong and what to do. Exit 3 if anything is wrong."""
    found: list[Health] = []
    for health in check_all(data):
        found.append(health)
        if not as_json:
            _print(health)
    ok = all(health.ok for health in found)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(health) for health in found]}, one_line=True)
    if not ok:
        raise typer.Exit(ServiceError.exit_code)


def check_all(data: Path | None) -> Iterator[Health]:
    """Each service in turn, as soon as it has answered."""
    try:
        settings = configured(data)
    except PipelineError as error:
        yield Health("configuration", False, str(error), "start the stack, or set the HLS_… variables")
        return
    for service, check, advice in _checks(settings):
        yield _asked(service, check, advice)
    yield from _judged(settings)


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[], str], str]]:
    from hls_pipeline.local.data_folder import running

    yield "package rules", partial(_rules, settings), "check HLS_KEYS, HLS_S3_KEYS, HLS_KEY_SERVICE_URL, HLS_SEVERITIES"
    for bucket in filter(None, (settings.s3_inbox, settings.s3_media, settings.s3_keys)):
        yield (
            f"S3 bucket {bucket}",
            partial(_bucket, settings, bucket),
            ("is S3 running? check HLS_S3_ENDPOINT, the keys and their rights (list, read, write, delete)"),
        )
    yield "IPFS configuration", partial(_nodes, settings), "check HLS_IPFS_RPC_URLS, …_GATEWAY_URLS and …_QUORUM"
    for number, service in enumerate(settings.pinning_services):
        check = partial(_pinning_service, settings, number)
        yield f"pinning service {service.name}", check, "check its endpoint and token in HLS_PINNING_SERVICES"
    yield (
        "metadata store",
        partial(_database, settings.database_url),
        ("is the database running? check HLS_DATABASE_URL; `hls-pipeline setup` brings it up to date"),
    )
    if settings.broker_url:
        yield (
            "queue",
            partial(_queue, settings),
            "is the broker running? check HLS_BROKER_URL; start `hls-pipeline worker`",
        )
    stack = running(settings.data)
    of_stack = stack is not None and stack["database"] == settings.database_url
    if settings.dagster_url:
        where = f"the logs are in {settings.data / 'logs'}" if of_stack else "check HLS_DAGSTER_URL and HLS_UI_KEY"
        yield "Dagster", partial(_dagster, settings), f"are ui, code-server and daemon running? {where}"
    if of_stack:
        yield "free disk", partial(_disk, settings.data), "free some space, or give the stack another --data"


def _asked(service: str, check: Callable[[], str], advice: str) -> Health:
    try:
        return Health(service, True, check())
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
        return Health(service, False, str(error) or type(error).__name__, advice)


def _rules(settings: Settings) -> str:
    policy = settings.policy()
    return f"clear keys: {policy.keys}; {len(policy.severities)} severities other than in findings.md"


def _bucket(settings: Settings, bucket: str) -> str:
    """Reads the list, and begins an upload without ending it: proof of the right to write that leaves no object."""
    from hls_pipeline import object_store

    s3 = object_store.client(settings)
    s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
    begun = s3.create_multipart_upload(Bucket=bucket, Key=_PROBE_KEY)
    s3.abort_multipart_upload(Bucket=bucket, Key=_PROBE_KEY, UploadId=begun["UploadId"])
    works = f"reads and writes at {settings.s3_endpoint or 'AWS'}"
    if bucket != settings.s3_inbox or object_store.connect(settings).keeps_versions(bucket):
        return works
    return f"{works}; keeps no versions, so what is sent again while it is taken out may be lost: `hls-pipeline setup`"


def _nodes(settings: Settings) -> str:
    from hls_pipeline import replicas

    return f"{len(replicas.connect(settings))} node(s), {settings.ipfs_quorum} must hold the content"


def _pinning_service(settings: Settings, number: int) -> str:
    """Asks for something that nobody has asked to pin."""
    from hls_pipeline import pinning
    from hls_pipeline.ipfs.cid import NO_ROOT

    pinning.connect(settings)[number].find(NO_ROOT)
    return "answers; its word alone never counts as proof"


def _judged(settings: Settings) -> Iterator[Health]:
    """What `ipfs.doctor` says of each node, and whether each is a node of its own."""
    from hls_pipeline import replicas
    from hls_pipeline.ipfs import doctor

    try:
        nodes = replicas.connect(settings)
    except PipelineError:
        return  # the finding on the configuration says why
    known: dict[str, str] = {}
    for node, url in zip(nodes, settings.ipfs_rpc_urls, strict=True):
        try:
            first = known.setdefault(node.peer_id(), url)
            if first != url:
                advice = "name each node once in HLS_IPFS_RPC_URLS: it counts once towards the quorum"
                yield Health(f"IPFS node {url}, identity", False, f"it is the same node as {first}", advice)
            for finding in doctor.judge(node, settings.ipfs_profile):
                yield Health(f"IPFS node {url}, {finding.about}", finding.ok, finding.detail, finding.advice)
        except PipelineError as error:
            advice = "is the node running? check HLS_IPFS_RPC_URLS and _AUTH"
            yield Health(f"IPFS node {url}", False, str(error), advice)


def _database(database_url: str) -> str:
    """Also whether its schema is the one of this code."""
    import sqlalchemy as sa
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from hls_pipeline import metadata_store

    metadata_store.connect(database_url).ping()
    wanted = ScriptDirectory(str(metadata_store.MIGRATIONS)).get_heads()
    with sa.create_engine(database_url).connect() as connection:
        found = MigrationContext.configure(connection).get_current_heads()
    if set(found) != set(wanted):
        raise ServiceRefused(f"its schema is {', '.join(found) or 'missing'}, this program needs {', '.join(wanted)}")
    return f"answers, schema {', '.join(found)}"


def _queue(settings: Settings) -> str:
    """Also whether anybody takes runs out of it."""
    from hls_pipeline.queue import broker

    found = [queue for queue in broker.connect(settings).states() if queue.name in broker.QUEUES]
    if deserted := [queue.name for queue in found if queue.consumers == 0]:
        raise Outage(f"the broker answers, but no worker takes runs from {', '.join(deserted)}")
    return "; ".join(f"{queue.name}: {queue.ready} waiting" for queue in found)


def _dagster(settings: Settings) -> str:
    client = DagsterClient.of(settings)
    assert client is not None
    answer = client.ask(_DAGSTER)
    for location in answer["workspaceOrError"].get("locationEntries", []):
        loaded = location["locationOrLoadError"] or {}
        if loaded.get("__typename") != "RepositoryLocation":
            raise Outage(f"code location {location['name']} is not loaded: {loaded.get('message', 'still loading')}")
    silent = [
        daemon["daemonType"]
        for daemon in answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        if daemon["required"] and not daemon["healthy"]
    ]
    if silent:
        raise Outage(f"its daemon has not reported for a while: {', '.join(silent)}")
    return f"web app, code and daemon work, {client.url}"


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise ServiceRefused(f"only {free / _GIB:.2f} GiB free in {folder}")
    return f"{free / _GIB:.1f} GiB free in {folder}"


def _print(health: Health) -> None:
    mark = typer.style("✓", fg="green") if health.ok else typer.style("✗", fg="red")
    typer.echo(f"{mark} {health.service}: {health.detail}")
    if health.advice:
        typer.echo(f"  → {health.advice}")
