"""`POST /v1/videos`: a package in one multipart body, streamed to S3 as it arrives.

A file of at most 8 MiB is buffered and put once, a larger one goes up in parts while the next part is read; only an
archive is spooled to disk, because its directory stands at its end. Whatever goes wrong, nothing is left under
`_arrivals/`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import IO, Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from hls_pipeline import clock, keys
from hls_pipeline.errors import Outage, PackageRefused, UsageError
from hls_pipeline.gateway import arrivals, forms, idempotency, shapes, webhooks
from hls_pipeline.gateway.access import Caller, Writer, require_owner, require_still_writer
from hls_pipeline.gateway.forms import Form, Part, PartEnd
from hls_pipeline.gateway.openapi import refusals
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.s3 import PART, SentPart
from hls_pipeline.gateway.services import Services, ServicesDep
from hls_pipeline.gateway.webhook_records import Webhook
from hls_pipeline.hls.content_types import content_type
from hls_pipeline.hls.findings import Findings, Report, refuse
from hls_pipeline.hls.paths import check_paths, metadata_path, path_fault
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.sources import Source, ZipSource, open_archive
from hls_pipeline.ipfs.unixfs import PROFILES
from hls_pipeline.staging import Reading
from hls_pipeline.submission import choose_video_id
from hls_pipeline.uploads import DropObject

router = APIRouter(prefix="/v1/videos", tags=["upload"])

_SPOOLED_AT_ONCE = 1 << 20
_METADATA_BYTES = Limits().metadata_size
_FIELDS = {"metadata": _METADATA_BYTES, "video_id": 1024, "webhook": 16 << 10}
"""Fields other than files, and the most bytes they may have."""

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "metadata": {"type": "string", "description": "metadata.json, instead of the package's own"},
                        "video_id": {"type": "string", "pattern": shapes.VIDEO_ID},
                        "webhook": {"$ref": "#/components/schemas/UploadWebhook", "description": "as JSON"},
                        "package": {"type": "string", "format": "binary", "description": "a zip, tar or tar.gz"},
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "the files one by one; the file name is the path in the package",
                        },
                    },
                },
                "example": {"video_id": "video_123", "metadata": '{"title": "Aurora"}', "package": "my_video.zip"},
            }
        },
    }
}


@router.post(
    "",
    status_code=202,
    summary="Send a package in one request",
    description="Either `package` (an archive) or `files`, each with its relative path as file name. The answer is the "
    "temporary document; 200 with the current document when the package changes nothing.",
    response_model=shapes.Accepted,
    responses=arrivals.ACCEPTED | refusals(408, 409, 413, 415, 422),
    openapi_extra=_FORM,
)
async def post_video(
    request: Request,
    services: ServicesDep,
    caller: Writer,
    video_id: Annotated[str | None, Query(description="may also be a field of the form or of the metadata")] = None,
    idempotency_key: idempotency.Key = None,
) -> Response:
    boundary = forms.boundary_of(request)
    forms.check_length(request, services.settings.upload_bytes)
    if video_id is not None:
        await run_in_threadpool(check_video, services, caller, video_id)

    sent = _Sent(request, services, caller, boundary, hashed=idempotency_key is not None)

    async def receive() -> Response:
        await run_in_threadpool(arrivals.check_queue, services)
        with services.limits.uploading(caller.limit_key):
            return await _receive(sent, services, caller, video_id)

    asked = idempotency.fingerprint(request)
    return await idempotency.once(services, caller, idempotency_key, asked, receive, sent.content)


async def _receive(sent: _Sent, services: Services, caller: Caller, video_id: str | None) -> Response:
    async with _arriving(services) as arrival:
        async with aclosing(sent.events()) as events:
            async for event in events:
                await arrival.take(event)
        began = time.perf_counter()
        await arrival.finish()
        chosen = await run_in_threadpool(arrival.video_id, video_id)
        webhook = arrival.webhook(caller)
        await run_in_threadpool(require_still_writer, services.records, caller)
        await run_in_threadpool(check_video, services, caller, chosen)
        take_in = partial(
            arrivals.take_in, services, chosen, keys.arrival(arrival.id), arrival.objects, arrival.noted, webhook
        )
        taken = await anyio.to_thread.run_sync(take_in, limiter=services.staging)
        services.metrics.uploads.labels(str(taken.upload.state)).observe(time.perf_counter() - began)
        return arrivals.response(services, taken)


def check_video(services: Services, caller: Caller, video_id: str) -> None:
    if not keys.is_video_id(video_id):
        raise Refused(400, "bad_video_id", "a video id has letters, digits, - and _, at most 64, the first no - or _")
    require_owner(services.records, caller, video_id, clock.now())


class _Sent:
    """The form of a request, which can be read once."""

    def __init__(self, request: Request, services: Services, caller: Caller, boundary: bytes, *, hashed: bool) -> None:
        self._request, self._services, self._caller, self._boundary = request, services, caller, boundary
        self._hash = hashlib.sha256() if hashed else None
        self._begun = self._whole = False

    async def events(self) -> AsyncGenerator[forms.Event]:
        """As it arrives, counted as the caller's: what is announced at once, so that too much is refused early."""
        self._begun, form, services = True, Form(self._boundary), self._services
        owner, limits = self._caller.limit_key, services.limits
        announced, received = int(self._request.headers.get("content-length", 0)), 0
        limits.count_bytes(owner, announced)
        try:
            async for piece in forms.body(self._request, services.settings):
                received += len(piece)
                if received > announced:
                    limits.count_bytes(owner, len(piece))
                services.metrics.upload_bytes.inc(len(piece))
                for event in form.feed(piece):
                    if self._hash is not None:
                        self._hash.update(event if isinstance(event, bytes) else repr(event).encode())
                    yield event
        finally:
            limits.not_sent(owner, max(0, announced - received))
        form.check_complete()
        self._whole = True

    async def content(self) -> str | None:
        """The hash of what it says: a repeat has the same, and another boundary. None of one that was not read to its
        end."""
        assert self._hash is not None
        if not self._begun:
            async with aclosing(self.events()) as events:
                async for _ in events:
                    pass
        return self._hash.hexdigest() if self._whole else None


# ---- one package on its way in ----------------------------------------------------------------------------------


@asynccontextmanager
async def _arriving(services: Services) -> AsyncIterator[_Arriving]:
    """Nothing stays when the block raises: not in S3, not on disk."""
    with tempfile.TemporaryFile(prefix="hls-upload-") as spool:
        arrival = _Arriving(services, spool)
        try:
            yield arrival
        except BaseException:
            with anyio.CancelScope(shield=True):
                await arrival.give_up()
            raise


class _Arriving:
    """Takes the events of a form, puts files to S3, keeps what the fields say."""

    def __init__(self, services: Services, spool: IO[bytes]) -> None:
        self.id = secrets.token_hex(16)
        self.objects: tuple[DropObject, ...] = ()
        self.noted: dict[str, Reading] = {}
        self._services, self._spool, self._spooled = services, spool, False
        self._bucket = services.settings.s3_media
        self._limits = Limits(files=services.settings.upload_files, total_size=services.settings.upload_bytes)
        self._fields: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._part: Part | None = None
        self._buffer = bytearray()
        self._profile = PROFILES[services.settings.ipfs_profile]
        self._reading = Reading(self._profile)
        self._readings: dict[str, tuple[str, Reading]] = {}
        """By key: what S3 called the object when it took it, and what its bytes were."""
        self._parts_id = ""
        self._sent: list[asyncio.Task[SentPart]] = []
        self._running: set[asyncio.Task[Any]] = set()

    async def take(self, event: forms.Event) -> None:
        if isinstance(event, Part):
            self._begin(event)
        elif isinstance(event, PartEnd):
            await self._end()
        else:
            await self._data(event)

    def _begin(self, part: Part) -> None:
        if part.name in _FIELDS:
            if part.name in self._fields:
                raise Refused(400, "bad_form", f"the field {part.name} stands twice in the form")
        elif part.name == "package":
            if self._spooled or self._sizes:
                raise Refused(400, "bad_form", "send either one package or files, not both")
            self._spooled = True
        elif part.name == "files":
            self._begin_file(part.filename or "")
        else:
            raise Refused(
                400, "bad_form", "a form has package or files, metadata, video_id and webhook, and no other field"
            )
        self._part = part

    def _begin_file(self, path: str) -> None:
        if self._spooled:
            raise Refused(400, "bad_form", "send either one package or files, not both")
        fault = path_fault(path, self._limits)
        if fault:
            refuse("PKG_PATH_UNSAFE", path, f"the file name {fault}")
        if path in self._sizes:
            refuse("PKG_DUPLICATE_PATH", path, "it was sent twice")
        if len(self._sizes) >= self._limits.files:
            refuse("PKG_TOO_MANY_FILES", "", f"at most {self._limits.files:,} files are taken in one request")
        self._sizes[path], self._reading = 0, Reading(self._profile)

    async def _data(self, data: bytes) -> None:
        assert self._part is not None
        self._buffer += data
        if self._part.name == "files":
            self._sizes[self._part.filename or ""] += len(data)
            if len(self._buffer) >= PART:
                await self._put_part()
        elif self._part.name == "package":
            if len(self._buffer) >= _SPOOLED_AT_ONCE:
                await self._write_spool()
        elif len(self._buffer) > _FIELDS[self._part.name]:
            raise Refused(413, "too_large", f"the field {self._part.name} is too large")

    async def _end(self) -> None:
        assert self._part is not None
        if self._part.name == "files":
            await self._end_file(self._part.filename or "")
        elif self._part.name == "package":
            await self._write_spool()
        else:
            self._fields[self._part.name] = bytes(self._buffer)
        self._buffer, self._part = bytearray(), None

    # files, straight to S3

    def _key(self, path: str) -> str:
        return keys.arrival(self.id, path)

    async def _put_part(self) -> None:
        assert self._part is not None and self._part.filename is not None
        objects, key = self._services.objects, self._key(self._part.filename)
        if not self._sent:
            kind = content_type(self._part.filename)
            self._parts_id = await run_in_threadpool(objects.begin_parts, self._bucket, key, kind, checked=True)
        data, self._buffer = self._buffer, self._buffer[PART:]
        del data[PART:]  # whole blocks: a reading holds on to what is left over
        number = len(self._sent) + 1
        if self._sent:
            await self._sent[-1]  # one part on its way, one being read
        self._sent.append(await self._start(self._send_part, key, self._parts_id, number, data, self._reading))

    async def _end_file(self, path: str) -> None:
        objects, key = self._services.objects, self._key(path)
        if self._sent:
            if self._buffer:
                await self._put_part()
            sent = [await task for task in self._sent]
            etag = await run_in_threadpool(objects.finish_parts, self._bucket, key, self._parts_id, sent)
            self._reading.finish()
            self._readings[key] = etag, self._reading
        else:
            await self._start(self._send, key, self._buffer, content_type(path), self._reading)
        self._parts_id, self._sent = "", []

    def _send(self, key: str, data: bytes, kind: str, reading: Reading) -> None:
        reading.feed(data)
        reading.finish()
        self._readings[key] = self._services.objects.put(self._bucket, key, data, kind).etag, reading

    def _send_part(self, key: str, parts_id: str, number: int, data: bytes, reading: Reading) -> SentPart:
        reading.feed(data)
        return self._services.objects.put_part(self._bucket, key, parts_id, number, data)

    async def _start(self, work: Any, *arguments: Any) -> asyncio.Task[Any]:
        """Begins to put something, as soon as there is room for it; what failed meanwhile is raised."""
        for task in [task for task in self._running if task.done()]:
            self._running.discard(task)
            task.result()
        room = self._services.buffers
        await room.acquire()

        async def run() -> Any:
            try:
                return await run_in_threadpool(work, *arguments)
            finally:
                room.release()

        task = asyncio.create_task(run())
        self._running.add(task)
        return task

    # an archive, by way of a temporary file

    async def _write_spool(self) -> None:
        if self._buffer:
            data, self._buffer = self._buffer, bytearray()
            await run_in_threadpool(self._spool.write, data)

    def _unpack(self) -> None:
        """Every file of the archive to S3. Raises PackageRefused."""
        self._spool.seek(0)
        source = open_archive(self._spool, self._limits)  # type: ignore[arg-type]
        sizes = source.sizes()
        findings = Findings()
        check_paths(sizes, self._limits, findings)
        if findings.failed:
            raise PackageRefused("the archive breaks rules", Report(None, findings.result()))
        # A tar is one stream, its readers would get in each other's way.
        workers = 4 if isinstance(source, ZipSource) else 1
        with ThreadPoolExecutor(workers, thread_name_prefix="unpack") as pool:
            try:
                for path, size in zip(sizes, pool.map(lambda path: self._unpack_one(source, path), sizes), strict=True):
                    self._sizes[path] = size
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _unpack_one(self, source: Source, path: str) -> int:
        reading, key = Reading(self._profile), self._key(path)
        pieces = reading.passing(source.read(path))
        stored = self._services.objects.put_stream(self._bucket, key, pieces, content_type(path))
        self._readings[key] = stored.etag, reading
        return stored.size

    # the end

    async def finish(self) -> None:
        """Everything is in S3, and S3 says so."""
        while self._running:
            await self._running.pop()
        if self._spooled:
            await anyio.to_thread.run_sync(self._unpack, limiter=self._services.staging)
            if not self._sizes:
                refuse("PKG_NO_PLAYLIST", "", "there is no file in the archive")
        if not self._sizes:
            raise Refused(400, "bad_form", "the form has neither a package nor files")
        metadata = self._fields.get("metadata")
        if metadata is not None:
            key = self._key(keys.METADATA)
            await run_in_threadpool(self._services.objects.put, self._bucket, key, metadata, "application/json")
            self._sizes[keys.METADATA] = len(metadata)
        self.objects = await run_in_threadpool(self._listed)

    def _listed(self) -> tuple[DropObject, ...]:
        found = tuple(self._services.objects.listing(self._bucket, self._key("")))
        if {item.key: item.size for item in found} != {self._key(path): size for path, size in self._sizes.items()}:
            raise Outage(f"upload {self.id}: S3 does not list what was put")
        for item in found:
            etag, reading = self._readings.get(item.key, (None, None))
            if reading is not None and etag == item.etag:
                self.noted[item.key.removeprefix(self._key(""))] = reading
        return found

    def video_id(self, given: str | None) -> str:
        """The one given beside or in the form, or in the metadata; where two are given they must agree."""
        field = self._fields.get("video_id")
        if field is not None:
            text = field.decode("utf-8", "replace").strip()
            if given is not None and given != text:
                raise Refused(409, "conflict", "two different video ids are given")
            given = text
        metadata = self._fields.get("metadata")
        place = metadata_path(self._sizes)
        if metadata is None and place is not None and self._sizes[place] <= _METADATA_BYTES:
            metadata = self._services.objects.read_all(self._bucket, self._key(place))
        try:
            return choose_video_id(given, metadata)
        except UsageError as error:
            raise Refused(400, "bad_video_id", str(error)) from error

    def webhook(self, caller: Caller) -> Webhook | None:
        """Raises Refused (400)."""
        field = self._fields.get("webhook")
        if field is None:
            return None
        assert caller.key_id is not None
        return webhooks.of_upload(self._services, caller.key_id, forms.parsed(field, shapes.UploadWebhook))

    async def give_up(self) -> None:
        await asyncio.gather(*self._running, *self._sent, return_exceptions=True)
        await run_in_threadpool(self._services.objects.remove_all, self._bucket, self._key(""))
