"""`/openapi.json` against the running gateway: what it says is answered is what is answered, whoever asks whatever.

schemathesis makes requests from the description, those that fit it and those that do not. Which ones differs a little
from process to process: Hypothesis draws from the constants of all modules that are loaded. So that good answers are
looked at too, some name things that are there, and the examples of the description are among them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks

from tests.gateway.conftest import Gateway
from tests.services import package

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.ignored_auth,
]
"""All but the one that wants every request of the right form to be taken: a package may break other rules."""
NEVER_GOOD = {
    "POST /v1/videos",
    "POST /v1/uploads/{upload_id}/complete",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
}
"""Operations that need a whole package, or something that happened; other tests see their good answers."""
REFUSED = [400, 401, 404, 409, 413, 415, 422]
"""What a request that does not fit is answered with."""
VIDEOS = ("video_123", "staged", "refused")
ENDLESS = "/v1/videos/{video_id}/events"


@pytest.fixture
def busy(gateway_with: Callable[..., Gateway]) -> Gateway:
    """A gateway that knows a published, a staged and a refused video."""
    gateway = gateway_with(webhook_private=True, requests_per_minute=10**6, public_read=False)
    world = gateway.world
    world.publish_package("video_123", package("film"))
    world.walk(world.drop("staged", package("staged")), "stage", "write_s3_manifest")
    world.walk(world.drop("refused", {"master.m3u8": b"#EXTM3U\nmissing.m3u8\n"}), "stage")
    return gateway


def things(gateway: Gateway) -> dict[str, Any]:
    """Path parameters that lead to something."""
    hook = {"url": f"{gateway.url}/healthz", "events": ["video.ready"]}
    webhook = gateway.ask("POST", "/v1/webhooks", json=hook, headers=gateway.bearer).json()["id"]
    announced = {"files": [{"path": "a.ts", "size": 1}], "video_id": "announced"}
    upload = gateway.ask("POST", "/v1/uploads", json=announced, headers=gateway.bearer).json()["id"]
    return {"upload_id": upload, "webhook_id": webhook, "path": "v/s1.ts", "n": 1}


def test_every_answer_is_as_described(busy: Gateway) -> None:
    config = SchemathesisConfig.from_dict(
        {
            "checks": {"negative_data_rejection": {"expected-statuses": REFUSED}},
            "generation": {"allow-extra-parameters": False},  # what nobody knows is passed over, as the web has it
        }
    )
    schema = schemathesis.openapi.from_url(f"{busy.url}/openapi.json", config=config).exclude(path=ENDLESS)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    known = things(busy)
    statuses: dict[str, set[int]] = {}
    for operation in sorted(found, key=lambda one: one.method == "delete"):  # what is deleted, is deleted last
        seen = statuses[operation.label] = asking(busy, operation.as_strategy())
        for example in operation.get_strategies_from_examples():
            seen |= asking(busy, example)
        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong where nothing is said
            seen |= asking(busy, operation.as_strategy(GenerationMode.NEGATIVE))
        for video_id in VIDEOS:
            here = known | {"video_id": video_id}
            fixed = {item.name: here[item.name] for item in operation.path_parameters if item.name in here}
            if fixed:
                seen |= asking(busy, operation.as_strategy(path_parameters=fixed))
    assert len(statuses) == 21
    assert {label for label, seen in statuses.items() if min(seen) >= 300} == NEVER_GOOD


def asking(gateway: Gateway, cases: SearchStrategy[Any]) -> set[int]:
    """The statuses of the answers, all of which are as described."""
    seen = set()

    @settings(max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def ask(case: Any) -> None:
        answer = case.call_and_validate(base_url=gateway.url, headers=gateway.bearer, checks=CHECKS, timeout=60)
        seen.add(answer.status_code)

    ask()
    return seen


def test_every_operation_says_what_goes_in_and_comes_out_with_an_example_that_fits(gateway: Gateway) -> None:
    found = gateway.get("/openapi.json").json()
    for operation in operations(found):
        assert operation["summary"], operation
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [answer.get("content", {}) for status, answer in operation["responses"].items() if status < "300"]
        for content in filter(None, contents):
            assert any(examples(found, media) for media in content.values()), operation["summary"]
            for media in content.values():
                for example in examples(found, media):
                    schema = {**media.get("schema", {}), "components": found["components"]}
                    jsonschema_rs.validate(schema, example)


def test_every_refusal_is_a_problem_document(gateway: Gateway) -> None:
    found = gateway.get("/openapi.json").json()
    refusals = [
        (operation["summary"], status, list(answer["content"]))
        for operation in operations(found)
        for status, answer in operation["responses"].items()
        if status >= "400"
    ]
    assert len(refusals) > 100
    others = [item for item in refusals if item[2] != ["application/problem+json"]]
    assert others == [("Every service behind it answers", "503", ["application/json"])]


def operations(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(path.values() for path in found["paths"].values())


def examples(found: dict[str, Any], media: dict[str, Any]) -> list[Any]:
    """Those beside the schema, or those of the model it names."""
    name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
    model = found["components"]["schemas"].get(name, {})
    return [media["example"]] if "example" in media else model.get("examples", [])
