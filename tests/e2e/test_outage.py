"""A service that is down: the upload waits, and goes on by itself when the service is back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from hls_pipeline.uploads import State
from tests.e2e.conftest import CORPUS, Pipeline, folder
from tests.stack_fixture import wait_until


@contextlib.contextmanager
def kept_dead(pipeline: Pipeline, word: str) -> Iterator[None]:
    """Kills the part whose command has `word` in it, again and again; the stack restarts it each time."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for pid in pipeline.stack.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(pid)
                    if any(word in part for part in process.cmdline()):
                        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


@contextlib.contextmanager
def runs_held_back(pipeline: Pipeline) -> Iterator[None]:
    """What is asked for does not begin before the end of the block."""
    children = pipeline.stack.part("code-server").children()
    (forks_them,) = (child for child in children if any("forkserver" in word for word in child.cmdline()))
    forks_them.suspend()
    try:
        yield
    finally:
        forks_them.resume()


@pytest.mark.parametrize("word", ["ipfs_node", "weed"])
def test_an_upload_waits_for_a_dead_service_and_goes_on_by_itself(pipeline: Pipeline, word: str) -> None:
    video_id = f"patient-{word}"
    with contextlib.ExitStack() as outage:
        with runs_held_back(pipeline):
            pipeline.drop(video_id, folder(CORPUS / "ffmpeg" / "ts-byterange"))
            pipeline.wait(video_id, State.RECEIVED)
            outage.enter_context(kept_dead(pipeline, word))
        wait_until(lambda: error_of(pipeline, video_id), 60, lambda: "the failed try to be noted")
        time.sleep(1)
        waiting = pipeline.store.latest_upload(video_id)
        assert waiting is not None
        assert waiting.state in (State.RECEIVED, State.STAGED)
    upload = pipeline.wait(video_id, State.CLEARED, seconds=120)
    assert upload.revision == 1
    assert len(pipeline.store.versions(video_id)) == 2


def error_of(pipeline: Pipeline, video_id: str) -> str | None:
    upload = pipeline.store.latest_upload(video_id)
    return upload.error if upload else None
