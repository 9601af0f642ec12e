"""`docs/schema/` has a JSON Schema of everything programs send us or read of us; it is written from the models."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import typer
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typer.testing import CliRunner

from hls_pipeline import clock, documents, work
from hls_pipeline.cli import app
from hls_pipeline.commands.outputs import OUTPUTS
from hls_pipeline.errors import ServiceError, UsageError
from hls_pipeline.gateway import shapes, webhook_shapes
from hls_pipeline.gateway.webhook_records import WebhookRecords
from hls_pipeline.metadata_store import PATH
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import alerts, watch
from tests.gateway.conftest import serving
from tests.services import MEDIA, SAMPLE, World, package
from tests.test_reference_pages import commands

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schema"

MODELS = (
    *(documents.TemporaryDocument, documents.FinalDocument, documents.WithdrawnDocument, shapes.FailedDocument),
    *(shapes.UploadRequest, webhook_shapes.WebhookRequest),
    *(shapes.StatusEvent, webhook_shapes.WebhookEvent),
    *(shapes.OnRecord, shapes.Versions, shapes.VersionItem, shapes.VideoList, shapes.Status, shapes.Proof),
    *(shapes.Withdrawn, shapes.PresignedUpload, shapes.Problem, shapes.Health, shapes.Ready),
    *(webhook_shapes.Webhooks, webhook_shapes.WebhookMade, webhook_shapes.Deliveries, webhook_shapes.Resent),
)


class Generator(GenerateJsonSchema):
    """What always has a value is always there, unless a program may leave it out: then its default is null or made."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return super().field_is_required(field, total) or field["schema"].get("default") is not None


def schemas() -> dict[str, str]:
    """File → its content."""
    named = {_file(model.__name__): model for model in MODELS}
    named |= {f"command-{command.replace(' ', '-')}.json": output for command, output in OUTPUTS.items()}
    return {name: _text(model) for name, model in named.items()}


def _file(model: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", model).lower() + ".json"


def _text(model: Any) -> str:
    schema = TypeAdapter(model).json_schema(schema_generator=Generator)
    for part in (schema, *schema.get("$defs", {}).values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return json.dumps({"$schema": Generator.schema_dialect, **schema}, indent=2, ensure_ascii=False) + "\n"


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in schemas().items():
        (FOLDER / name).write_text(text)


def check(name: str, value: Any) -> None:
    """Fails with the place where `value` is not as the schema says."""
    jsonschema_rs.validate(json.loads((FOLDER / f"{name}.json").read_text()), value)


# ---- the files ----------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_models_say() -> None:
    found = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert found == schemas(), "write them anew: python -m tests.test_schemas"


def test_every_command_with_json_has_a_schema() -> None:
    with_json = {
        name.removeprefix("hls-pipeline ")
        for name, command in commands(typer.main.get_command(app))
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert with_json == set(OUTPUTS)


@pytest.mark.parametrize("name", sorted(schemas()))
def test_each_file_is_a_schema_and_its_examples_fit(name: str) -> None:
    schema = json.loads((FOLDER / name).read_text())
    jsonschema_rs.meta.validate(schema)
    for example in schema.get("examples", ()):
        jsonschema_rs.validate(schema, example)


# ---- what is really written ---------------------------------------------------------------------------------------


def run(*arguments: str, code: int = 0) -> list[Any]:
    """The lines that a command prints, each as its schema says."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == code, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines
    names = {f"command-{'-'.join(arguments[:words])}" for words in (1, 2)}
    (name,) = (name for name in names if (FOLDER / f"{name}.json").exists())
    for line in lines:
        check(name, line)
    return lines


def test_what_needs_no_service_prints_what_its_schema_says(tmp_path: Path) -> None:
    (tmp_path / "master.m3u8").write_text("#EXTM3U\nmissing.m3u8\n")
    run("check", str(SAMPLE))
    (refused,) = run("check", str(tmp_path), code=1)
    assert refused["errors"]
    run("rewrite", str(SAMPLE / "master.m3u8"), "--list")
    result = CliRunner().invoke(app, ["cid", str(SAMPLE), "--json"])
    check("command-cid", json.loads(result.stdout))


@pytest.fixture
def busy(world: World, as_environment: Callable[[Settings], None], request: Any) -> World:
    """A published, a staged and a refused video, and all of it in the environment."""
    as_environment(world.settings)
    world.publish_package("published", package(request.node.name))
    world.walk(world.drop("staged", package(f"{request.node.name} staged")), "stage", "write_s3_manifest")
    world.walk(world.drop("refused", {"master.m3u8": b"#EXTM3U\nmissing.m3u8\n"}), "stage")
    return world


def test_what_shows_videos_prints_what_its_schema_says(busy: World, tmp_path: Path) -> None:
    assert len(run("list")) == 3
    for video_id in ("published", "staged", "refused"):
        run("status", video_id)
    run("versions", "published")
    run("pinning", "published")
    (proof,) = run("proof", "published")
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    assert run("proof", "--check", str(tmp_path / "proof.json"))[0]["holds"]
    run("report")


def test_what_changes_videos_prints_what_its_schema_says(
    busy: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(busy, "staged")
    for problem in watch.look(busy.store, busy.objects, busy.nodes, busy.settings, clock.now()):
        alerts.open_(busy.store, problem, clock.now())
    assert run("alerts")
    run("retry", "staged")
    run("rehydrate", "published")
    run("export", "published", str(tmp_path / "published.car"))
    run("withdraw", "published", "--reason", "why not")
    run("status", "published")
    monkeypatch.setenv("HLS_S3_INBOX", f"new-{secrets.token_hex(4)}")
    monkeypatch.setenv("HLS_S3_MEDIA", f"new-{secrets.token_hex(4)}")
    monkeypatch.setenv("HLS_DATABASE_URL", f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert run("setup")[0]["made"]
    run("import", str(tmp_path / "published.car"))


def fail(world: World, video_id: str) -> None:
    upload = world.store.latest_upload(video_id)
    settings = world.settings.model_copy(update={"max_attempts": 1})
    assert upload
    with pytest.raises(ServiceError), work.holding(upload, PATH + "run", world.store, settings, last=True):
        raise ServiceError("no")


def test_what_looks_after_the_installation_prints_what_its_schema_says(
    busy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("doctor")
    run("keys", "make", "somebody")
    with pytest.raises(UsageError, match="needs a name"):
        CliRunner().invoke(app, ["keys", "make", " "], catch_exceptions=False)
    assert CliRunner().invoke(app, ["keys", "make", "x", "--days", "4000000"]).exit_code == 2  # after the year 9999
    run("keys", "list")
    run("repin", "--dry-run")
    monkeypatch.setenv("HLS_DAGSTER_URL", "http://127.0.0.1:1")  # not asked: nothing is left to do
    assert run("backfill", "--other-profile") == [{"videos": 0, "backfill": None, "link": None}]
    run("audit", "anchor")
    assert run("audit", "verify")[0]["anchor"]
    busy.objects.delete(MEDIA, [(item.key, item.etag, None) for item in busy.objects.listing(MEDIA)])
    assert run("reconcile", code=1)[0]["findings"]


def test_documents_answers_and_events_are_what_their_schemas_say(busy: World) -> None:
    temporary, final = (json.loads(version.document) for version in busy.store.versions("published"))
    check("temporary-document", temporary)
    check("final-document", final)
    for name, document in (("temporary-document", final), ("final-document", temporary)):
        with pytest.raises(jsonschema_rs.ValidationError):
            check(name, document)
    with serving(busy, webhook_private=True) as gateway:
        hook = {"url": f"{gateway.url}/healthz", "events": ["video.withdrawn"]}
        check("webhook-request", hook)
        made = gateway.ask("POST", "/v1/webhooks", json=hook, headers=gateway.bearer).json()
        check("webhook-made", made)
        announced = {"files": [{"path": "a.ts", "size": 1}], "video_id": "announced"}
        check("upload-request", announced)
        check("presigned-upload", gateway.ask("POST", "/v1/uploads", json=announced, headers=gateway.bearer).json())
        for name in ("status", "versions", "proof"):
            check(name, gateway.get(f"/v1/videos/published/{name}").json())
        check("problem", gateway.get("/v1/videos/unknown").json())
        withdrawn = gateway.ask("DELETE", "/v1/videos/staged", headers=gateway.bearer).json()
        check("withdrawn", withdrawn)
        check("withdrawn-document", withdrawn["document"])
        records = WebhookRecords(busy.store)
        records.enqueue(clock.now())
        (delivery,) = records.deliveries(made["id"])
        check("webhook-event", json.loads(delivery.body))
        answer = gateway.ask("GET", "/v1/videos/published/events", stream=True)
        data = next(line for line in answer.iter_lines() if line.startswith(b"data: "))
        check("status-event", json.loads(data.removeprefix(b"data: ")))
        answer.close()


if __name__ == "__main__":
    write()
