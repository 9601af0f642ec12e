"""Sending a package through the gateway: a list of files, presigned addresses straight to S3, then `complete`.

Files go in parallel, large ones in parts; what has arrived is not sent again, neither after a failure nor after Ctrl-C,
because the upload's id is kept in a folder of the user's until it is complete. What the API means is in
`docs/reference/api.md`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from hls_pipeline.errors import NotFound, Outage, PackageRefused, PipelineError, ServiceRefused, UserError
from hls_pipeline.hls.findings import Report, refusal
from hls_pipeline.hls.sources import Source
from hls_pipeline.submission import metadata_of, named_video_id
from hls_pipeline.uploads import IN_WORK, TAKEN_IN, State

_SECONDS = (5, 120)
"""To connect; between two bytes of an answer."""
_COMPLETION_SECONDS = (5, 3600)
"""A package is checked and copied before `complete` is answered."""
_POLL_SECONDS = 0.3
_PAUSES = (0.5, 1, 2, 4, 8, 8)
"""Seconds between questions that a service cannot answer just now."""
_PARALLEL = 6
_TRIES = 3


@dataclass(frozen=True)
class GatewayClient:
    url: str
    api_key: str = field(repr=False)
    state: Path
    """Folder where the ids of unfinished uploads are kept."""

    def send(
        self,
        source: Source,
        video_id: str | None,
        progress: Callable[[int], None],
        *,
        written: Callable[[], int] = lambda: 0,
    ) -> dict[str, Any]:
        """The temporary document, or the current one when nothing is new. Raises PackageRefused with the reasons.

        `written` says when the package was last written to: what was sent of it before then is not gone on with, and
        what is written to while it is sent is not completed."""
        before, sizes = written(), source.sizes()
        metadata = metadata_of(source, sizes)
        request = {
            "files": [{"path": path, "size": size} for path, size in sizes.items()],
            "video_id": named_video_id(video_id, metadata),
        }
        remembered = self._remembered(request, before, metadata)
        upload = self._begun(remembered) or self._ask("POST", "/v1/uploads", json=request)
        _remember(remembered, upload["id"])
        progress(sum(sizes.values()) - _left(upload))
        self._send_all(upload, source, progress)
        if written() != before:
            raise UserError("the package was written to while it was sent; send it again once it is complete")
        try:
            document = self._complete(upload["id"])
        except PackageRefused:
            _forget(remembered)
            raise
        _forget(remembered)
        return document

    def wait(self, sent: dict[str, Any]) -> dict[str, Any]:
        """The final document of what `send` sent. Raises PackageRefused or UserError when it comes to another end."""
        while (status := self._status(sent["video_id"]))["state"] in IN_WORK:
            time.sleep(_POLL_SECONDS)
        if status["state"] == State.REJECTED:
            raise PackageRefused(refusal("the package", status["report"]["errors"]), Report(None, ()))
        if status["state"] not in TAKEN_IN:
            raise UserError(f"video {sent['video_id']}: {status['state']}; `hls-pipeline status` tells why")
        return self._patiently("GET", f"/v1/videos/{sent['video_id']}")

    def _status(self, video_id: str) -> dict[str, Any]:
        return self._patiently("GET", f"/v1/videos/{video_id}/status")

    def _send_all(self, upload: dict[str, Any], source: Source, progress: Callable[[int], None]) -> None:
        """What failed is tried again, at new addresses: those we have end some time. Raises Outage when nothing
        arrives several times in a row."""
        fruitless = 0
        while upload["files"]:
            failure = Outage(f"upload {upload['id']}: S3 does not have what was sent; run the command again")
            try:
                _send_files(upload, source, progress)
            except Outage as error:
                failure = error
            left = self._patiently("GET", f"/v1/uploads/{upload['id']}")
            fruitless = 0 if _left(left) < _left(upload) else fruitless + 1
            if fruitless == _TRIES:
                raise failure
            time.sleep(fruitless)
            upload = left

    def _complete(self, upload_id: str) -> dict[str, Any]:
        """A large package takes the gateway long; one that a run before this began to complete is waited for."""
        while True:
            try:
                return self._patiently("POST", f"/v1/uploads/{upload_id}/complete", timeout=_COMPLETION_SECONDS)
            except _Completing:
                time.sleep(_POLL_SECONDS)

    def _begun(self, remembered: Path) -> dict[str, Any] | None:
        """An upload of the same files that was cut off, if the gateway still knows it; also one that was completed
        after we had gone, unless it has come to a bad end since."""
        with contextlib.suppress(OSError, ValueError, NotFound):
            found = self._ask("GET", f"/v1/uploads/{json.loads(remembered.read_text())['id']}")
            if not found["complete"] or self._status(found["video_id"])["state"] in IN_WORK | TAKEN_IN:
                return found
        return None

    def _remembered(self, request: dict[str, Any], written: int, metadata: bytes | None) -> Path:
        """Where the id of an unfinished upload of just these files to just this gateway is kept."""
        what = json.dumps([self.url, request, written, (metadata or b"").hex()], sort_keys=True)
        return self.state / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"

    def _patiently(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """Through a restart of the gateway or of S3, too."""
        for pause in _PAUSES:
            with contextlib.suppress(Outage):
                return self._ask(method, path, **more)
            time.sleep(pause)
        return self._ask(method, path, **more)

    def _ask(self, method: str, path: str, *, timeout: tuple[int, int] = _SECONDS, **more: Any) -> dict[str, Any]:
        what = f"{method} {self.url}{path}"
        headers = {"Authorization": f"Bearer {self.api_key}"}
        try:
            answer = requests.request(method, self.url + path, headers=headers, timeout=timeout, **more)
            body = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise Outage(f"{what}: {_why(error)}; is the gateway running? sending goes on where it stopped") from error
        if answer.ok:
            return dict(body)
        raise _problem(what, answer.status_code, body)


def _problem(what: str, status: int, body: dict[str, Any]) -> PipelineError:
    detail = str(body.get("detail") or body.get("title") or status)
    if errors := body.get("report", {}).get("errors"):
        return PackageRefused(refusal("the package", errors), Report(None, ()))
    if body.get("code") == "completing":
        return _Completing(f"{what}: {detail}")
    if status == 404:
        return NotFound(f"{what}: {detail}")
    if status >= 500 or status == 429:
        return Outage(f"{what}: {detail}; try again later")
    return ServiceRefused(f"{what}: {detail}") if status in (401, 403) else UserError(f"{what}: {detail}")


def _why(error: Exception) -> str:
    """In words of ours: those of `requests` repeat the address, and with a presigned one anybody may write."""
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"{answer.status_code} {answer.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"that is no gateway ({type(error).__name__})"


class _Completing(UserError):
    """The upload is being completed already."""


class _Stopped(Exception):
    """The command ends; what is under way is cut off."""


def _remember(place: Path, upload_id: str) -> None:
    """As far as that is possible; without it, what is cut off begins anew."""
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.write_text(json.dumps({"id": upload_id}))


def _forget(place: Path) -> None:
    with contextlib.suppress(OSError):
        place.unlink()


def _left(upload: dict[str, Any]) -> int:
    """Bytes that are still to be sent."""
    return sum(part["size"] for file in upload["files"] for part in file["urls"])


def _send_files(upload: dict[str, Any], source: Source, progress: Callable[[int], None]) -> None:
    """Every missing part, some files at a time. After a failure none is begun, after Ctrl-C none is ended."""
    stopped = threading.Event()

    def told(size: int) -> None:
        if stopped.is_set():
            raise _Stopped
        progress(size)

    with ThreadPoolExecutor(_PARALLEL) as pool:
        sending = [pool.submit(_send_file, file, upload["part_size"], source, told) for file in upload["files"]]
        try:
            for each in as_completed(sending):
                each.result()
        except BaseException as error:
            if not isinstance(error, Outage):
                stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _send_file(file: dict[str, Any], part_size: int, source: Source, progress: Callable[[int], None]) -> None:
    """The missing parts of one file, read once from front to back."""
    stream, at = _Stream(source.read(file["path"])), 0
    for part in file["urls"]:
        start = (part["part"] - 1) * part_size
        stream.skip(start - at)
        at = start + part["size"]
        body = _Part(file["path"], stream, part["size"], progress)
        try:
            answer = requests.put(part["url"], data=body, timeout=_SECONDS)
            answer.raise_for_status()
        except requests.RequestException as error:
            progress(-body.sent)
            raise Outage(
                f"sending {file['path']} to S3: {_why(error)}; run the command again, it goes on there"
            ) from error


class _Stream:
    """Bytes in the order of the file, as many at a time as somebody wants."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")  # a view: blocks of the network are small, pieces are not

    def read(self, size: int) -> memoryview:
        while size and not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def skip(self, size: int) -> None:
        while size > 0 and (piece := self.read(size)):
            size -= len(piece)


class _Part:
    """A part as the body of a request; its length is signed, so it must be known."""

    def __init__(self, path: str, stream: _Stream, size: int, progress: Callable[[int], None]) -> None:
        self._path, self._stream, self._progress = path, stream, progress
        self._left = self._size = size

    def __len__(self) -> int:
        return self._size

    @property
    def sent(self) -> int:
        return self._size - self._left

    def read(self, size: int = -1) -> bytes:
        """Raises UserError when the file has become shorter: S3 would wait for the rest."""
        piece = bytes(self._stream.read(self._left if size < 0 else min(size, self._left)))
        self._left -= len(piece)
        if not piece and self._left:
            raise UserError(f"{self._path} became shorter while it was sent; send the package once it is complete")
        if piece:  # at the end of what is sent there is nothing to stop any more
            self._progress(len(piece))
        return piece
