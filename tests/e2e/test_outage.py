"""A service that is down: the upload waits, and goes on by itself when the service is back."""

from __future__ import annotations

import time

from hls_pipeline.uploads import State
from tests.e2e.conftest import CORPUS, Pipeline, folder
from tests.stack_fixture import wait_until


def test_an_upload_waits_for_a_dead_service_and_goes_on_by_itself(pipeline: Pipeline) -> None:
    package = folder(CORPUS / "ffmpeg" / "ts-byterange")
    with pipeline.stack.paused("ipfs"):
        pipeline.drop("patient", package)
        pipeline.wait("patient", State.STAGED, seconds=60)
        wait_until(lambda: latest(pipeline).error, 60, lambda: "the failed try to be noted")
        assert latest(pipeline).state is State.STAGED
        time.sleep(1)
    upload = pipeline.wait("patient", State.CLEARED, seconds=90)
    assert upload.revision == 1
    assert len(pipeline.store.versions("patient")) == 2


def latest(pipeline: Pipeline):  # type: ignore[no-untyped-def]
    upload = pipeline.store.latest_upload("patient")
    assert upload is not None
    return upload
