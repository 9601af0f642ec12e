"""Holding a video: the heartbeat, what becomes of an upload whose step fails, and when somebody else may go on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from hls_pipeline import clock, work
from hls_pipeline.errors import (
    Conflict,
    Corruption,
    DropChanged,
    LeaseLost,
    ObjectMissing,
    Outage,
    PipelineError,
    ProofMissing,
    ServiceRefused,
)
from hls_pipeline.metadata_store import PATH, MetadataStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import State, Upload
from tests.services import wait_until
from tests.test_metadata_store import REPORT, accepted, drop, finalized, pinned

RUN = PATH + "run"
SETTINGS = Settings(lease_seconds=60, max_attempts=3, retry_seconds=10)


@pytest.fixture
def upload(store: MetadataStore) -> Upload:
    return store.receive(drop(), clock.now())


def failing(store: MetadataStore, upload: Upload, error: Exception, settings: Settings = SETTINGS) -> Upload:
    """One try that ends with `error`; the upload afterwards."""
    with pytest.raises(type(error)), work.holding(upload, RUN, store, settings):
        raise error
    return store.upload(upload.upload_id)


def wait_of(upload: Upload, failed_after: datetime) -> float:
    """Seconds between a moment before it failed and the next try; a little longer than it waits."""
    assert upload.not_before is not None
    return (upload.not_before - failed_after).total_seconds()


# ---- the heartbeat ------------------------------------------------------------------------------------------------


def test_a_step_that_takes_longer_than_a_lease_keeps_the_video(
    store: MetadataStore, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on only when the lease was renewed, however long that takes on a busy machine."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    with work.holding(upload, RUN, store, SETTINGS.model_copy(update={"lease_seconds": 1.2})):
        for _ in range(3):
            now += timedelta(seconds=1)
            almost_over = now + timedelta(seconds=1.1)
            wait_until(lambda: store.is_held("v", almost_over), "the lease to be renewed")  # noqa: B023
            with pytest.raises(LeaseLost):
                store.take_lease(upload, "other", now, 60)
            assert store.ready_to_run(now) == ()


def test_the_video_of_a_dead_holder_is_free_again_after_a_lease(store: MetadataStore, upload: Upload) -> None:
    now = clock.now()
    store.take_lease(upload, RUN, now, 1.2)  # and then the process died
    assert store.ready_to_run(now + timedelta(seconds=1)) == ()
    wait_until(lambda: store.ready_to_run(clock.now()), "the lease to run out")
    with work.holding(upload, PATH + "next", store, SETTINGS) as lease:
        assert lease.fence == 2
    assert store.upload(upload.upload_id).attempts == 2


def test_between_two_steps_of_a_run_nobody_else_gets_the_video(store: MetadataStore, upload: Upload) -> None:
    with work.holding(upload, RUN, store, SETTINGS) as first:
        accepted(store, first)
    with pytest.raises(LeaseLost), work.holding(upload, PATH + "other", store, SETTINGS):
        pass
    with work.holding(upload, RUN, store, SETTINGS) as second:
        assert second.fence == first.fence


def test_after_the_last_step_the_video_is_free(store: MetadataStore, upload: Upload) -> None:
    with work.holding(upload, RUN, store, SETTINGS, last=True) as lease:
        accepted(store, lease)
    with work.holding(upload, "other", store, SETTINGS):
        pass


@pytest.mark.parametrize("end", ["rejected", "unchanged", "incomplete"])
def test_a_video_whose_upload_goes_no_further_is_free_at_once(store: MetadataStore, upload: Upload, end: str) -> None:
    """It was once held until the lease ran out, and the creator's correction waited for that."""
    with work.holding(upload, RUN, store, SETTINGS) as lease:
        if end == "rejected":
            store.reject(lease, REPORT, clock.now())
        elif end == "unchanged":
            store.unchanged(lease, clock.now())
        else:
            store.wait_for_files(lease, REPORT, clock.now() + timedelta(hours=1))
    with work.holding(upload, "other", store, SETTINGS):
        pass


def test_a_worker_that_lost_the_video_leaves_no_trace(store: MetadataStore, upload: Upload) -> None:
    def lose_it() -> Iterator[None]:
        with work.holding(upload, RUN, store, SETTINGS) as lease:
            later = clock.now() + timedelta(minutes=1)
            store.take_lease(upload, "other", later, 60)
            yield
            accepted(store, lease)

    with pytest.raises(LeaseLost, match="another run took over"):
        list(lose_it())
    known = store.upload(upload.upload_id)
    assert (known.revision, known.error, known.not_before) == (None, None, None)
    with pytest.raises(LeaseLost, match="other is at work"):
        store.take_lease(upload, "third", clock.now(), 60)


# ---- a try that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ProofMissing("p"), ObjectMissing("m"), ServiceRefused("r"), ValueError("ours")])
def test_failures_are_counted_waited_for_longer_and_longer_and_then_the_upload_failed(
    store: MetadataStore, upload: Upload, error: Exception
) -> None:
    began = clock.now()
    first = failing(store, upload, error)
    assert (first.state, first.attempts, first.error) == (State.RECEIVED, 1, str(error))
    between = clock.now()
    second = failing(store, upload, error)
    assert wait_of(first, began) >= 20
    assert wait_of(second, between) >= 40
    third = failing(store, upload, error)
    assert (third.state, third.failed_in, third.error) == (State.FAILED, State.RECEIVED, str(error))
    assert store.ready_to_run(clock.now() + timedelta(days=1)) == ()


def test_an_outage_never_makes_an_upload_fail(store: MetadataStore, upload: Upload) -> None:
    for _ in range(SETTINGS.max_attempts + 2):
        before = clock.now()
        known = failing(store, upload, Outage("S3 is down"))
        assert (known.state, known.attempts, known.error) == (State.RECEIVED, 0, "S3 is down")
        assert wait_of(known, before) >= 10 >= wait_of(known, clock.now()), "the wait does not grow"


def test_a_failed_try_gives_the_video_free(store: MetadataStore, upload: Upload) -> None:
    failing(store, upload, Outage("S3 is down"))
    with work.holding(upload, "other", store, SETTINGS):
        pass


def test_corruption_is_not_tried_again(store: MetadataStore, upload: Upload) -> None:
    known = failing(store, upload, Corruption("two things differ"))
    assert (known.state, known.attempts, known.error) == (State.FAILED, 1, "two things differ")


def test_an_upload_whose_tries_all_die_without_a_word_is_failed_when_the_next_begins(
    store: MetadataStore, upload: Upload
) -> None:
    for number in range(SETTINGS.max_attempts):
        store.take_lease(upload, f"{PATH}killed-{number}", clock.now(), seconds=-1)
    with pytest.raises(Conflict, match="3 tries ended without a word"), work.holding(upload, RUN, store, SETTINGS):
        raise AssertionError("it must not be tried again")
    known = store.upload(upload.upload_id)
    assert known.state is State.FAILED
    assert "hls-pipeline retry" in (known.error or "")
    store.resume(upload.upload_id, clock.now())
    with work.holding(upload, RUN, store, SETTINGS):
        pass


def test_a_failed_upload_that_is_resumed_has_all_its_tries_again(store: MetadataStore, upload: Upload) -> None:
    for _ in range(SETTINGS.max_attempts):
        failing(store, upload, ProofMissing("p"))
    store.resume(upload.upload_id, clock.now())
    for _ in range(SETTINGS.max_attempts - 1):
        assert failing(store, upload, ProofMissing("p")).state is State.RECEIVED
    assert failing(store, upload, ProofMissing("p")).state is State.FAILED


def test_a_published_upload_never_fails_whatever_its_clean_up_finds(store: MetadataStore, upload: Upload) -> None:
    with work.holding(upload, RUN, store, SETTINGS) as lease:
        pinned(store, lease)
        finalized(store, lease)
    for _ in range(SETTINGS.max_attempts + 2):
        before = clock.now()
        known = failing(store, upload, Corruption("somebody replaced it"))
    assert (known.state, known.error) == (State.PUBLISHED, "somebody replaced it")
    assert wait_of(known, before) > 10


def test_a_path_cut_off_behind_its_final_document_goes_on_until_its_last_step(
    store: MetadataStore, upload: Upload
) -> None:
    """Each step gave the video free, and counted as a try: one killed in between was forgotten, Dagster never told."""
    lease = store.take_lease(upload, RUN, clock.now(), 60)
    pinned(store, lease)
    finalized(store, lease)
    store.cut_off(lease)
    for last in (False, False, True):
        assert [cut.upload_id for cut in store.ready_to_run(clock.now() + timedelta(minutes=2))] == [upload.upload_id]
        with work.holding(upload, PATH + "next", store, SETTINGS, last=last):
            pass
    assert store.ready_to_run(clock.now() + timedelta(minutes=2)) == ()
    assert store.upload(upload.upload_id).attempts == 1


def test_a_drop_that_changed_gives_way_and_is_no_failure(store: MetadataStore, upload: Upload) -> None:
    known = failing(store, upload, DropChanged("it was written to"))
    assert (known.state, known.error) == (State.SUPERSEDED, "it was written to")


def test_an_error_without_words_still_says_what_it_was(store: MetadataStore, upload: Upload) -> None:
    assert failing(store, upload, KeyError()).error == "KeyError()"


def test_a_null_character_in_an_error_does_not_stop_the_bookkeeping(store: MetadataStore, upload: Upload) -> None:
    """PostgreSQL has no U+0000 in texts, and error texts quote strangers."""
    assert failing(store, upload, PipelineError("it said a\0b")).error == "it said a\ufffdb"
