"""The gateway asks Dagster for an upload's run itself; here Dagster is away, or says no. A run that it does start is in
`tests/e2e/test_path.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from hls_pipeline import clock
from hls_pipeline.uploads import State
from tests.contract.faults import answering, plain
from tests.gateway.conftest import Gateway
from tests.services import free_ports, package, wait_until


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a web app that wants a key."""
    with answering(plain(b"", "401 Unauthorized")) as address:
        yield f"http://{address}"


@pytest.mark.parametrize("answers", [True, False])
def test_an_upload_that_dagster_does_not_start_is_left_to_the_sensor_at_once(
    gateway_with: Callable[..., Gateway], refusing: str, tmp_path: Path, *, answers: bool
) -> None:
    gateway = gateway_with(dagster_url=refusing if answers else f"http://127.0.0.1:{free_ports(1)[0]}")
    with ZipFile(tmp_path / "v.zip", "w") as archive:
        for path, data in package("left to the sensor").items():
            archive.writestr(path, data)
    with (tmp_path / "v.zip").open("rb") as file:
        sent = gateway.ask("POST", "/v1/videos?video_id=v", files={"package": file}, headers=gateway.bearer)
    assert (sent.status_code, json.loads(sent.text)["status"]) == (202, "processing")
    store = gateway.world.store
    wait_until(lambda: store.upload(sent.headers["Upload-Id"]).launches == 1, "it to be asked for")
    wait_until(lambda: [due.state for due in store.ready_to_run(clock.now())] == [State.STAGED], "it to be offered")
