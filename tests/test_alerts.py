"""Who hears of what, and when: over a real webhook receiver and a real mail server."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_string
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from hls_pipeline import clock, failures, work
from hls_pipeline.cli import app
from hls_pipeline.definitions import defs
from hls_pipeline.errors import Outage, ProofMissing, ServiceRefused, UsageError
from hls_pipeline.metadata_store import MetadataStore
from hls_pipeline.sensors.alerts import failed_jobs, health
from hls_pipeline.settings import Settings
from hls_pipeline.upkeep import alert_channels, alerts, watch
from hls_pipeline.upkeep.alerts import Message, Problem
from hls_pipeline.uploads import State
from tests.services import World, free_ports, package
from tests.test_metadata_store import held, received

NOW = datetime.fromisoformat("2026-01-05T12:00:00Z")


def later(**time: float) -> datetime:
    return NOW + timedelta(**time)


# ---- receivers ----------------------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """What arrived; `status` is what the webhook answers."""

    url: str = ""
    port: int = 0
    status: int = 200
    posts: list[dict[str, Any]] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return Settings(
            alert_webhook_url=SecretStr(self.url),
            alert_mail_to=("ops@example.org", "boss@example.org"),
            alert_mail_from="hls@example.org",
            smtp_host="127.0.0.1",
            smtp_port=self.port,
            smtp_tls="none",
        )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 test\r\n")
            while line := self.rfile.readline():
                verb = line[:4].upper()
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    found.mails.append(b"".join(lines).decode())
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    web, mail = ThreadingHTTPServer(("127.0.0.1", 0), Post), socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp)
    mail.daemon_threads = True
    threads = [threading.Thread(target=server.serve_forever) for server in (web, mail)]
    for thread in threads:
        thread.start()
    found.url, found.port = f"http://127.0.0.1:{web.server_port}/hook", mail.server_address[1]
    yield found
    for server, thread in zip((web, mail), threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def failed(video_id: str, cause: str = "S3 said no", action: str = "Ask S3.") -> Problem:
    title = f"The upload of video {video_id} failed"
    return Problem(f"upload_failed:{video_id}", "upload_failed", title, cause, action, f"https://x/videos/{video_id}")


DOWN = Problem("service_down:n", "service_down", "IPFS node n does not answer", "refused", "Start it.")


def settle(store: MetadataStore, receiver: Receiver, at: datetime, *found: Problem) -> int:
    settings = receiver.settings
    return alerts.settle(store, found, alert_channels.of(settings), settings, at)


# ---- what is told -------------------------------------------------------------------------------------------------


def test_problems_found_together_are_one_message_to_each_channel_with_cause_action_and_link(
    store: MetadataStore, receiver: Receiver
) -> None:
    settle(store, receiver, NOW, failed("a"), failed("b", cause="S3 said later"))
    (post,), (mail,) = receiver.posts, receiver.mails
    assert post["text"].startswith("[hls-pipeline] Uploads failed (2)")
    assert [problem["key"] for problem in post["problems"]] == ["upload_failed:a", "upload_failed:b"]
    for text in (post["text"], mail):
        for part in ("video a failed", "cause: S3 said no", "S3 said later", "next: Ask S3.", "https://x/videos/b"):
            assert part in text
        assert text.count("Ask S3.") == 1  # what several have in common stands once
    assert "To: ops@example.org, boss@example.org" in mail
    assert "Subject: [hls-pipeline] Uploads failed (2)" in mail
    headers = message_from_string(mail)
    assert parsedate_to_datetime(headers["Date"]) <= clock.now()  # without the two a mail is taken for spam
    assert headers["Message-ID"].strip().endswith("@example.org>")


def test_what_is_known_is_told_again_a_day_later_and_not_before(store: MetadataStore, receiver: Receiver) -> None:
    for hours in (0, 1, 23):
        settle(store, receiver, later(hours=hours), failed("a"))
    assert (len(receiver.posts), len(receiver.mails)) == (1, 1)
    settle(store, receiver, later(hours=24), failed("a"), failed("b"))
    assert len(receiver.posts[1]["problems"]) == 2


def test_nobody_is_told_of_an_outage_that_is_over_within_the_limit(store: MetadataStore, receiver: Receiver) -> None:
    assert settle(store, receiver, NOW, DOWN) == 1
    assert settle(store, receiver, later(seconds=299), DOWN) == 1
    assert settle(store, receiver, later(seconds=310)) == 0
    settle(store, receiver, later(hours=1), DOWN)  # another one: it is counted anew
    assert receiver.posts == receiver.mails == []


def test_a_longer_outage_is_told_once_and_so_is_its_end(store: MetadataStore, receiver: Receiver) -> None:
    for seconds in (0, 301, 400):
        settle(store, receiver, later(seconds=seconds), DOWN)
    settle(store, receiver, later(seconds=500))
    told, over = receiver.posts
    assert "IPFS node n does not answer" in told["text"]
    assert told["problems"][0]["since"] == clock.text(NOW)
    assert (over["problems"], [each["key"] for each in over["resolved"]]) == ([], ["service_down:n"])
    assert "Subject: [hls-pipeline] Over: IPFS node n does not answer" in receiver.mails[1]


def test_a_full_node_that_goes_away_is_not_called_better(store: MetadataStore, receiver: Receiver) -> None:
    """It could not be looked at, and people were told that it had room again."""
    full = Problem("node_full:n", "node_full", "IPFS node n is 90 % full", "c", "a")
    for seconds in (0, 301):
        settle(store, receiver, later(seconds=seconds), full)
    assert settle(store, receiver, later(seconds=330), DOWN) == 2
    assert [post["resolved"] for post in receiver.posts] == [[]]
    assert settle(store, receiver, later(seconds=360)) == 0
    assert [each["key"] for each in receiver.posts[1]["resolved"]] == ["node_full:n"]


def test_the_end_of_what_a_job_closed_is_told_to_each_channel_that_heard_of_it_even_if_it_was_away(
    store: MetadataStore, receiver: Receiver
) -> None:
    """The re-pin closed its own problem, and nobody was told that the videos are back."""
    short = Problem(alerts.PINS_SHORT, alerts.PINS_SHORT, "2 of 9 directories are short", "x", "y")
    alerts.open_(store, short, NOW)
    settle(store, receiver, later(seconds=30))
    alerts.close(store, alerts.PINS_SHORT, later(hours=1))
    receiver.status = 500
    settle(store, receiver, later(hours=1, seconds=30))
    receiver.status = 200
    for seconds in (60, 90):
        settle(store, receiver, later(hours=1, seconds=seconds))
    assert [[each["key"] for each in post["resolved"]] for post in receiver.posts] == [
        [],
        ["pins_short"],
        ["pins_short"],
    ]
    assert ["Over: 2 of 9" in mail for mail in receiver.mails] == [False, True]


def test_an_upload_that_was_taken_up_again_is_closed_without_a_word(store: MetadataStore, receiver: Receiver) -> None:
    settle(store, receiver, NOW, failed("a"))
    assert settle(store, receiver, later(seconds=60)) == 0
    assert len(receiver.posts) == 1
    settle(store, receiver, later(seconds=120), failed("a"))
    assert len(receiver.posts) == 2


def test_a_channel_that_fails_is_tried_again_and_the_other_is_not_told_twice(
    store: MetadataStore, receiver: Receiver
) -> None:
    receiver.status = 500
    settle(store, receiver, NOW, failed("a"))
    receiver.status = 200
    settle(store, receiver, later(seconds=30), failed("a"))
    settle(store, receiver, later(seconds=60), failed("a"))
    assert (len(receiver.posts), len(receiver.mails)) == (2, 1)


def test_a_message_about_hundreds_stays_short_and_no_name_breaks_out_of_it() -> None:
    message = Message([failed(str(n)) for n in range(300)])
    assert (message.subject, "and 280 more" in message.text) == ("[hls-pipeline] Uploads failed (300)", True)
    assert len(message.text) < 5000


def test_a_name_with_line_breaks_makes_no_mail_header(receiver: Receiver) -> None:
    (mail,) = (channel for channel in alert_channels.of(receiver.settings) if channel.name == "mail")
    mail.send("a\r\nBcc: everybody@example.org", "text", {})
    assert "\nBcc:" not in receiver.mails[0]


def test_a_receiver_that_refuses_or_is_away_is_named(receiver: Receiver) -> None:
    (port,) = free_ports(1)
    receiver.status = 404
    webhook, _ = alert_channels.of(receiver.settings)
    with pytest.raises(ServiceRefused, match="answered 404"):
        webhook.send("s", "t", {})
    receiver.port = port
    _, mail = alert_channels.of(receiver.settings)
    with pytest.raises(Outage, match="could not be mailed by 127"):
        mail.send("s", "t", {})
    with pytest.raises(UsageError, match="HLS_SMTP_HOST"):
        alert_channels.of(Settings(alert_mail_to=("a@b",)))


# ---- what is found ------------------------------------------------------------------------------------------------


def look(world: World, at: datetime | None = None, **changes: Any) -> dict[str, Problem]:
    settings = world.settings.model_copy(update={"disk_full_percent": 100.0, **changes})
    found = watch.look(world.store, world.objects, world.nodes, settings, at or clock.now())
    return {problem.kind: problem for problem in found}


def test_a_healthy_installation_has_no_problem_and_neither_has_a_try_that_is_repeated(
    world: World, request: pytest.FixtureRequest
) -> None:
    upload = world.drop("v", package(request.node.name))
    assert look(world) == {}
    with pytest.raises(ProofMissing), work.holding(upload, "path:x", world.store, world.settings):
        raise ProofMissing("not yet")
    assert look(world) == {}
    assert world.walk(upload).state is State.PUBLISHED
    assert look(world) == {}


def test_an_upload_whose_tries_are_used_up_is_a_problem_with_its_next_action(world: World) -> None:
    settings = world.settings.model_copy(update={"max_attempts": 1, "gateway_url": "https://g/"})
    upload = received(world.store)
    with pytest.raises(ProofMissing), work.holding(upload, "path:x", world.store, settings):
        raise ProofMissing("no node has it")
    problem = look(world, gateway_url="https://g/")["upload_failed"]
    assert (problem.cause, problem.link) == ("no node has it", "https://g/videos/v")
    assert "Bring the nodes back" in problem.action
    assert problem.action.endswith("It is tried again by itself.")
    failures.note(world.store, upload, "object_missing", "somebody removed it", clock.now())
    assert look(world)["upload_failed"].action.endswith("It is not tried again by itself.")
    world.store.resume(upload.upload_id, clock.now())
    assert look(world) == {}


def test_an_upload_that_nobody_moves_is_stuck_and_one_that_is_worked_on_is_not(world_on_each_database: World) -> None:
    world = world_on_each_database
    upload = received(world.store)
    hours = clock.now() + timedelta(hours=2)
    assert look(world, hours)["upload_stuck"].key == f"upload_stuck:{upload.upload_id}"
    world.store.take_lease(upload, "path:x", hours, 60)
    assert look(world, hours) == {}


def test_s3_copies_that_are_long_due_are_a_problem(
    world_on_each_database: World, request: pytest.FixtureRequest
) -> None:
    world = world_on_each_database
    world.publish_package("v", package(request.node.name))
    assert look(world) == {}
    assert "object(s) of video v" in look(world, clock.now() + timedelta(hours=2))["cleanup_stuck"].title


def test_what_waits_for_a_service_that_is_away_is_not_called_stuck(world: World) -> None:
    received(world.store)
    (port,) = free_ports(1)
    away = world.having(s3_endpoint=f"http://127.0.0.1:{port}")
    found = watch.look(away.store, away.objects, away.nodes, away.settings, clock.now() + timedelta(hours=2))
    assert {problem.kind for problem in found} == {"service_down"}
    assert [problem.title for problem in found] == [
        "S3 bucket inbox does not answer",
        "S3 bucket media does not answer",
    ]


def test_what_waited_for_a_service_is_not_called_stuck_in_the_moment_that_it_is_back(world: World) -> None:
    received(world.store)
    hours = clock.now() + timedelta(hours=2)
    alerts.settle(world.store, [DOWN], (), world.settings, hours)
    alerts.settle(world.store, [], (), world.settings, hours)
    assert look(world, hours + timedelta(minutes=9)) == {}
    assert "upload_stuck" in look(world, hours + timedelta(minutes=11))


def test_a_message_broker_that_is_away_is_a_problem_before_any_upload_is_stuck(world: World) -> None:
    (port,) = free_ports(1)
    received(world.store)
    url = SecretStr(f"amqp://user:password@127.0.0.1:{port}//")
    found = look(world, clock.now() + timedelta(hours=2), broker_url=url)
    assert {kind: problem.title for kind, problem in found.items()} == {
        "service_down": "The message broker does not answer"
    }


def test_nodes_and_disks_that_fill_up_are_found_by_their_thresholds(world: World, tmp_path: Path) -> None:
    found = look(world, node_full_percent=1e-9, disk_full_percent=1e-9, disk_paths=(tmp_path, tmp_path / "missing"))
    assert world.nodes[0].name in found["node_full"].title
    assert "docs/how-to/add-a-node.md" in found["node_full"].action
    assert str(tmp_path) in found["disk_full"].title


# ---- the sensors and the command ----------------------------------------------------------------------------------


@pytest.fixture
def environment(world: World, receiver: Receiver, as_environment: Callable[[Settings], None],
                monkeypatch: pytest.MonkeyPatch) -> World:  # fmt: skip
    as_environment(world.settings)
    own = receiver.settings
    monkeypatch.setenv("HLS_ALERT_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("HLS_ALERT_MAIL_TO", json.dumps(own.alert_mail_to))
    for name in ("alert_mail_from", "smtp_host", "smtp_port", "smtp_tls"):
        monkeypatch.setenv(f"HLS_{name.upper()}", str(getattr(own, name)))
    monkeypatch.setenv("HLS_DISK_FULL_PERCENT", "100")
    monkeypatch.setenv("HLS_ALERT_AFTER_SECONDS", "0")
    monkeypatch.setenv("HLS_DAGSTER_URL", "https://dagster.example")
    return world


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str | None]:
    """What the sensor says, and its next cursor."""
    resources = dict(defs().resources or {})
    resources["s3"] = resources["s3"].model_copy(update={"endpoint_url": None})
    with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs()) as context:
        found = health(context, **{name: resources[name] for name in health.required_resource_keys})
        return found.skip_reason.skip_message, found.cursor


def test_the_sensor_tells_of_a_failed_upload(environment: World, receiver: Receiver) -> None:
    upload = received(environment.store)
    lease = held(environment.store, upload)
    failures.note(environment.store, upload, "service_refused", "no", NOW)
    environment.store.fail(lease, "no", NOW)
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(instance)[0] == "1 problem(s) are open"
        assert tick(instance)[0] == "1 problem(s) are open"
    assert len(receiver.posts) == len(receiver.mails) == 1
    listed = CliRunner().invoke(app, ["alerts", "--json"])
    assert json.loads(listed.stdout)["key"] == f"upload_failed:{upload.upload_id}"
    sent = CliRunner().invoke(app, ["alerts", "--test"])
    assert sent.stdout == "sent by webhook\nsent by mail\n"
    assert len(receiver.mails) == 2
    assert "Nothing is wrong" in receiver.mails[1]
    assert "Subject: [hls-pipeline] a test" in receiver.mails[1]


def test_the_sensors_look_twice_a_minute_and_the_jobs_run_each_day_from_the_start() -> None:
    for sensor in (health, failed_jobs):
        assert (sensor.minimum_interval_seconds, sensor.default_status) == (30, dg.DefaultSensorStatus.RUNNING)
        assert defs().resolve_sensor_def(sensor.name) is not None
    for name, job in (("daily_report", "report"), ("daily_anchor", "anchor")):
        schedule = defs().resolve_schedule_def(name)
        assert (schedule.job_name, schedule.default_status) == (job, dg.DefaultScheduleStatus.RUNNING)


def test_a_database_that_is_away_is_told_all_the_same(
    environment: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with monkeypatch.context() as away:
            away.setenv("HLS_DATABASE_URL", f"sqlite:///{tmp_path / 'no' / 'database'}")
            _, cursor = tick(instance)
            _, cursor = tick(instance, cursor)
        assert [problem["key"] for problem in receiver.posts[0]["problems"]] == ["service_down:database"]
        assert len(receiver.posts) == 1
        _, cursor = tick(instance, cursor)
    assert receiver.posts[1]["resolved"][0]["key"] == "service_down:database"
    assert not cursor


@dg.op(config_schema={"fails": bool})
def work_hard(context) -> None:  # Dagster reads annotations, and only real ones
    if context.op_config["fails"]:
        raise dg.Failure("the heads do not match", metadata={"code": "corruption"})


@dg.job
def nightly_thing() -> None:
    work_hard()


def run(instance: dg.DagsterInstance, fails: bool, **tags: str) -> dg.ExecuteInProcessResult:
    config = {"ops": {"work_hard": {"config": {"fails": fails}}}}
    return nightly_thing.execute_in_process(config, instance=instance, raise_on_error=False, tags=tags)


def test_a_job_that_failed_is_told_with_its_run_until_it_succeeds(environment: World, receiver: Receiver) -> None:
    def notice(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
        context = dg.build_run_status_sensor_context(
            "failed_jobs",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=instance,
            dagster_run=result.dagster_run,
        ).for_run_failure()
        failed_jobs(context, metadata=(defs().resources or {})["metadata"])

    with dg.DagsterInstance.ephemeral() as instance:
        notice(run(instance, True, **{"dagster/partition": "v"}), instance)
        notice(run(instance, True, **{"dagster/will_retry": "true"}), instance)
        assert tick(instance)[0] == "nothing is wrong"
        failing = run(instance, True)
        notice(failing, instance)
        tick(instance)
        (problem,) = receiver.posts[0]["problems"]
        assert (problem["title"], problem["cause"]) == ("The job nightly_thing failed", "the heads do not match")
        assert problem["link"] == f"https://dagster.example/runs/{failing.run_id}"
        assert problem["action"] == failures.advice("corruption").action
        assert run(instance, False).success
        assert tick(instance)[0] == "nothing is wrong"
    assert [problem["title"] for problem in receiver.posts[1]["resolved"]] == ["The job nightly_thing failed"]
