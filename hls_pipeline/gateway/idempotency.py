"""`Idempotency-Key`: a request that is sent again gets the answer of the first, and nothing happens twice.

Answers that will not change are kept for a day; a request that failed for other reasons may simply be sent again.
After draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Annotated

from fastapi import Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from hls_pipeline import clock
from hls_pipeline.errors import PipelineError
from hls_pipeline.gateway import problems
from hls_pipeline.gateway.access import Caller
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.records import Records, Remembered
from hls_pipeline.gateway.services import Services

_FINAL = frozenset({200, 201, 202, 422})
_REPEATED = ("Location", "Upload-Id")
"""Headers that belong to an answer; all others belong to its sending."""
_BEAT_SECONDS = 10
_STALE = timedelta(seconds=6 * _BEAT_SECONDS)
"""A request that was not heard of for so long died with its gateway: the next with its key is the first again."""


Key = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=255, description="a repeat gets the first answer")
]


def fingerprint(request: Request, body: bytes | None = None) -> str:
    """What tells one request from another; of a body that is still to be read, its length."""
    about = hashlib.sha256(body).hexdigest() if body else request.headers.get("content-length", "unknown")
    return f"{request.method} {request.url.path}?{request.url.query} {about}"


async def once(
    services: Services,
    caller: Caller,
    key: str | None,
    asked: str,
    work: Callable[[], Awaitable[Response]],
    content: Callable[[], Awaitable[str | None]] | None = None,
) -> Response:
    """The answer of `work`, or of the first request with this key. Raises Refused: 409 while that one is under way, 422
    when it asked for something else. `content` tells what `work` has read, or in its place would have; None where it
    did not come to the end."""
    if key is None:
        return await work()
    if not key.isprintable() or not key:
        raise Refused(400, "bad_request", "Idempotency-Key has characters that cannot be seen")
    assert caller.key_id is not None
    records, owner = services.records, caller.key_id
    first = await run_in_threadpool(records.begin, owner, key, asked, clock.now(), _STALE)
    if first is not None:
        if first.request != asked:
            raise _mismatch()
        if first.status is None:
            raise Refused(
                409, "idempotency_in_progress", "the first request with this key is under way", {"Retry-After": "2"}
            )
        return await _again(first, content)
    kept = False
    try:
        async with _under_way(records, owner, key):
            try:
                answer = await work()
            except PipelineError as error:
                if problems.status_of(error) not in _FINAL:
                    raise
                answer = problems.answer(error)
        packed = _packed(answer, await content() if content else None)
        await run_in_threadpool(records.remember, owner, key, answer.status_code, packed)
        kept = True
        return answer
    finally:
        if not kept:
            await run_in_threadpool(records.forget, owner, key)


def _mismatch() -> Refused:
    return Refused(422, "idempotency_mismatch", "this Idempotency-Key belongs to another request")


@asynccontextmanager
async def _under_way(records: Records, owner: str, key: str) -> AsyncIterator[None]:
    """Lets others know that the request is still being worked on."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            with suppress(PipelineError):
                await run_in_threadpool(records.still_under_way, owner, key, clock.now())

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


def _packed(answer: Response, content: str | None) -> str:
    headers = {name: answer.headers[name] for name in _REPEATED if name in answer.headers}
    known = [] if content is None else [content]
    return json.dumps([headers, bytes(answer.body).decode(), *known], ensure_ascii=False)


async def _again(first: Remembered, content: Callable[[], Awaitable[str | None]] | None) -> Response:
    assert first.status is not None and first.body is not None
    headers, body, *known = json.loads(first.body)
    if content is not None and known and [await content()] != known:
        raise _mismatch()
    kind = problems.MEDIA_TYPE if first.status >= 400 else "application/json"
    return Response(body, first.status, {**headers, "Idempotency-Replayed": "true"}, media_type=kind)
