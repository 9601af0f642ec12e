"""Holding a video while a step works on it, and what becomes of the upload when the step does not succeed.

A lease says who works on a video; a thread renews it for as long as the process lives, so a dead worker's video is
free again after `lease_seconds`. A failed try is put off, an upload whose tries are used up is `failed`. Steps raise;
only this module turns what they raise into the upload's next state.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hls_pipeline import clock, failures
from hls_pipeline.errors import Conflict, Corruption, DropChanged, LeaseLost, PipelineError
from hls_pipeline.metadata_store import PATH, Lease, MetadataStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import IN_WORK, State, Upload, back_off

log = logging.getLogger(__name__)


@contextmanager
def holding(
    upload: Upload, holder: str, store: MetadataStore, settings: Settings, *, last: bool = False
) -> Iterator[Lease]:
    """Holds the video for `holder` while the block runs, and gives it free afterwards if this was its `last` step or
    the upload goes no further; otherwise the same holder goes on with its next step. Raises LeaseLost when another
    holder has it, and whatever the block raises."""
    lease = store.take_lease(upload, holder, clock.now(), settings.lease_seconds)
    _end_what_kills_its_workers(lease, store, settings)
    try:
        with _noting_failure(lease, store, settings), _renewing(lease, store, settings.lease_seconds):
            yield lease
    except LeaseLost:
        store.sweep_again(upload.upload_id, settings.s3_media, clock.now())
        raise
    reached = store.upload(upload.upload_id)
    if last or reached.incomplete or not (reached.state in IN_WORK or _is_at_its_end(lease, store)):
        store.release(lease)


def _end_what_kills_its_workers(lease: Lease, store: MetadataStore, settings: Settings) -> None:
    """A try that dies without a word has counted when it began, but nobody was left to draw the conclusion."""
    upload, now = store.upload(lease.upload_id), clock.now()
    if upload.state not in IN_WORK or upload.attempts <= settings.max_attempts:
        return
    error = Conflict(
        f"upload {upload.upload_id}: {settings.max_attempts} tries ended without a word, as if their worker had been "
        f"killed; look at the workers' memory and logs, then `hls-pipeline retry {upload.video_id}`"
    )
    failures.note(store, upload, error.code, str(error), now)
    store.fail(lease, str(error), now)
    store.release(lease)
    raise error


@contextmanager
def _noting_failure(lease: Lease, store: MetadataStore, settings: Settings) -> Iterator[None]:
    try:
        yield
    except LeaseLost:
        raise
    except DropChanged as error:
        store.supersede(lease, str(error), clock.now())
        store.release(lease)
        raise
    except Exception as error:
        _put_off(lease, error, store, settings)
        if isinstance(error, PipelineError) and error.retryable and _is_at_its_end(lease, store):
            store.cut_off(lease)  # nothing else would mirror its last document, and tell Dagster of it
        else:
            store.release(lease)
        raise


def _is_at_its_end(lease: Lease, store: MetadataStore) -> bool:
    """Whether a path has its final document and could not end all the same."""
    return lease.holder.startswith(PATH) and store.upload(lease.upload_id).state is State.PUBLISHED


def _put_off(lease: Lease, error: Exception, store: MetadataStore, settings: Settings) -> None:
    upload, now = store.upload(lease.upload_id), clock.now()
    counts = error.uses_attempt if isinstance(error, PipelineError) else True
    hopeless = isinstance(error, Corruption) or (counts and upload.attempts >= settings.max_attempts)
    message = (str(error) or repr(error)).replace("\0", "\ufffd")  # PostgreSQL has no U+0000 in texts
    failures.note(store, upload, failures.code_of(error), message, now)
    if hopeless and upload.state in IN_WORK:
        store.fail(lease, message, now)
        return
    wait = back_off(upload.attempts if counts else 0, settings.retry_seconds)
    store.postpone(lease, message, now + wait, uses_attempt=counts)


@contextmanager
def _renewing(lease: Lease, store: MetadataStore, seconds: float) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds / 4):
            try:
                store.renew(lease, clock.now(), seconds)
            except LeaseLost:
                return  # the step's next transaction finds out and stops it
            except PipelineError as error:
                log.warning("lease of video %s not renewed: %s", lease.video_id, error)

    thread = threading.Thread(target=beat, name=f"lease-{lease.video_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
