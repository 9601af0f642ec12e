"""A node that speaks Kubo's RPC and has a gateway: Kubo itself, or our embedded node.

Blocks go in by `dag/import`, come back as CAR from the gateway, and every claim in between is checked:
statistics against what was sent, trailers after a 200, blocks against their hashes. A method either returns
what is so or raises Outage, ServiceRefused, ProofMissing, Corruption or ServiceError. What the answers prove
belongs to `proof`. Source: kubo core/commands; what was learnt about it is in the docstrings of the calls.
"""

from __future__ import annotations

import base64
import copy
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from hls_pipeline.errors import Corruption, Outage, ProofMissing, ServiceError, UsageError, UserError
from hls_pipeline.ipfs import car
from hls_pipeline.ipfs.border import border, refusal
from hls_pipeline.ipfs.cid import NO_ROOT, Cid
from hls_pipeline.ipfs.control import Control, multiaddr
from hls_pipeline.ipfs.unixfs import Extent, walk
from hls_pipeline.ipfs.wire import Exchange, Limits, Response, duration

_CONTROL_SECONDS = 60
_LONG = 6 * 3600
"""The total limit, in seconds, of calls whose length depends on the caller's data."""
_LATE_SECONDS = 60.0
"""How long nobody waits for a node that was given up."""
_SLOWEST_WALK = 50_000_000
"""Bytes per second below which a node that walks a DAG counts as stuck."""
_SETTLE = 2
"""Seconds, beyond its walk, that a pin which was just made may be missing."""
_PIECE = 256 * 1024
_ONLY_ITS_OWN = {"Cache-Control": "only-if-cached"}
"""Asks a gateway not to fetch from its peers what it lacks itself."""
_ALREADY_UNPINNED = "not pinned"


@dataclass(frozen=True, slots=True)
class Pin:
    """A recursive pin."""

    cid: Cid
    name: str


@dataclass(frozen=True, slots=True)
class RepoStat:
    bytes: int
    limit: int
    """Bytes at which the node would collect garbage."""
    objects: int
    version: str


class Kubo:
    """One node. Safe to use from several threads; each bulk call has a connection of its own."""

    def __init__(
        self,
        rpc_url: str,
        gateway_url: str,
        *,
        auth: str | None = None,
        connect_seconds: float = 5,
        stall_seconds: float = 60,
    ) -> None:
        """`auth` is `bearer:TOKEN` or `basic:USER:PASSWORD`, for the RPC alone. UsageError for a bad address."""
        multiaddr(gateway_url)
        self.name, self.gateway = _place(rpc_url), _place(gateway_url)
        self._rpc_url = rpc_url.rstrip("/")
        self._gateway_url = gateway_url.rstrip("/")
        self._headers = _authorization(auth)
        self._connect, self._stall = connect_seconds, stall_seconds
        self._control = Control(rpc_url, self._headers, self._limits(_CONTROL_SECONDS))
        self._over = threading.Event()
        self.late = 0.0
        """Until then (monotonic seconds) nobody waits for it who has what he needs from others."""

    @property
    def is_late(self) -> bool:
        return time.monotonic() < self.late

    def note_late(self) -> None:
        """It was given up, or did not answer."""
        self.late = time.monotonic() + _LATE_SECONDS

    def __repr__(self) -> str:
        return f"Kubo({self.name})"

    def __enter__(self) -> Kubo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._control.close()

    def until(self, over: threading.Event) -> Kubo:
        """The same node for one attempt: once `over` is set, the next call, or the next block sent, is an Outage. So
        whoever gave the attempt up need not fear that it pins something much later."""
        lent = copy.copy(self)
        lent._over = over
        return lent

    # who it is

    def version(self) -> str:
        return self._name("version", lambda client: client.version()["Version"])

    def peer_id(self) -> str:
        return self._name("id", lambda client: client.id()["ID"])

    def repo_stat(self) -> RepoStat:
        answer = self._ask("repo/stat", lambda client: client.repo.stat())
        with border(self._what("repo/stat")):
            size, limit, objects = (int(answer[key]) for key in ("RepoSize", "StorageMax", "NumObjects"))
            return RepoStat(size, limit, objects, str(answer["Version"]))

    def tell(self, call: str) -> dict[str, Any]:
        """The one object that a call without arguments answers: `config/show`, `diag/sys`. ServiceRefused where the
        node does not have it or does not allow it."""
        what = self._what(call)
        with self._exchange(call, {}, _CONTROL_SECONDS) as exchange, border(what):
            exchange.start("POST")
            (answer,) = self._answers(exchange, what)
            return answer

    def command_line(self) -> tuple[str, ...]:
        """How the daemon was started, from Go's profiler on the RPC port. ServiceRefused where there is none."""
        what = self._what("debug/pprof/cmdline")
        self._go_on(what)
        url = f"{self._rpc_url}/debug/pprof/cmdline"
        with Exchange(url, self._limits(_CONTROL_SECONDS), self._headers) as exchange, border(what):
            exchange.start("GET")
            response = exchange.answer()
            if response.status != 200:
                raise refusal(what, response.status, exchange.error_text())
            return tuple(response.read(_PIECE).decode("utf-8", "replace").split("\0"))

    # blocks in

    def import_blocks(self, blocks: Iterable[car.Block], seconds: float = _LONG) -> Extent:
        """Send blocks as they come, and answer how many the node says it has written: exactly those sent.

        Nothing is pinned, so that no existing pin is touched; a node that collects garbage by itself may drop
        the blocks before `pin`. Errors of `blocks` itself pass through and end the import. Repeated blocks count
        each time.
        """
        what = self._what("dag/import")
        boundary = secrets.token_hex(16)
        parameters = {"pin-roots": "false", "stats": "true", "fast-provide-root": "false"}
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        with self._exchange("dag/import", parameters, seconds, headers) as exchange:
            with border(what):
                exchange.start("POST", chunked=True)
                wanted = exchange.send([_part_head(boundary), car.header([NO_ROOT])])
            count = size = 0
            for cid, data in blocks:
                self._go_on(what)
                with border(what):
                    wanted = wanted and exchange.send(car.frame(cid, data))
                if not wanted:
                    break
                count, size = count + 1, size + len(data)
            with border(what):
                wanted = wanted and exchange.send([f"\r\n--{boundary}--\r\n".encode()])
                if wanted:
                    exchange.end_body()
                answers = list(self._answers(exchange, what))
                if not wanted:
                    raise ValueError("it says done before everything was sent")
                return _import_statistics(what, answers, Extent(count, size))

    # pins

    def pin(self, cid: Cid, name: str, size: int) -> Pin:
        """Pin recursively, unless it is pinned already (under whatever name). `size` in bytes sets the time limit.

        An existing pin is never put at risk: Kubo's `pin/add` first removes it, and loses it if the walk then fails
        (boxo pinning/pinner/dspinner/pin.go). ProofMissing if the node lacks a block.
        """
        what = self._what(f"pin/add {cid}")
        if (present := self.pinned(cid)) is not None:
            return present
        parameters = {"arg": str(cid), "name": name, "recursive": "true", "progress": "true"}
        done: list[object] = []
        with self._exchange("pin/add", parameters, 120 + size / _SLOWEST_WALK) as exchange, border(what):
            exchange.start("POST")
            for answer in self._answers(exchange, what):
                done = answer.get("Pins") or done
        if done != [str(cid)]:
            raise ServiceError(f"{what}: the node did not say that it is done")
        end = time.monotonic() + _SETTLE + size / _SLOWEST_WALK
        while (present := self.pinned(cid)) is None:
            # Another worker's `pin/add` of the same root takes the pin away for the time of its walk.
            if time.monotonic() > end:
                raise ProofMissing(f"{what}: the node said done, but the pin is not there")
            time.sleep(0.1)
        return present

    def pinned(self, cid: Cid) -> Pin | None:
        """The recursive pin of `cid`, if there is one. `type=recursive` is a look-up; `all` would walk every pin."""
        try:
            answer = self._ask(
                f"pin/ls {cid}",
                lambda client: client.pin.ls(str(cid), type="recursive", opts={"names": "true"}),
            )
        except ProofMissing:
            return None
        with border(self._what(f"pin/ls {cid}")):
            found = answer["Keys"][str(cid)]
            if found["Type"] != "recursive":
                raise ValueError(f"a pin of type {found['Type']!r}")
            return Pin(cid, str(found.get("Name", "")))

    def unpin(self, cid: Cid) -> bool:
        """Remove the recursive pin; False if there was none."""
        if self.pinned(cid) is None:
            return False
        try:
            self._ask(f"pin/rm {cid}", lambda client: client.pin.rm(str(cid)))
        except ServiceError as error:
            if _ALREADY_UNPINNED not in str(error):
                raise
            return False
        return True

    def pins(self) -> Iterator[Pin]:
        """Every recursive pin, from one streamed call. Raises, if the list breaks off, after what came before."""
        what = self._what("pin/ls")
        parameters = {"type": "recursive", "stream": "true", "names": "true"}
        with self._exchange("pin/ls", parameters, _LONG) as exchange:
            with border(what):
                exchange.start("POST")
            answers = self._answers(exchange, what, empty=True)
            while True:
                with border(what):
                    answer = next(answers, None)
                    if answer is None:
                        return
                    pin = Pin(_cid(answer["Cid"]), str(answer.get("Name") or ""))
                yield pin

    # proof

    def has(self, cid: Cid) -> bool:
        """Whether the node holds this one block, without asking its peers."""
        try:
            answer = self._ask(
                f"block/stat {cid}",
                lambda client: client.block.stat(str(cid), opts={"offline": "true"})["Key"],
            )
        except ProofMissing:
            return False
        return bool(answer == str(cid))

    def dag_stat(self, cid: Cid, size: int = 0) -> Extent:
        """Distinct blocks of the DAG and their bytes, all read from the node's own disk. ProofMissing if one lacks.

        `size`, the bytes expected, is added to the stall limit: the node is silent while it walks.
        """
        what = self._what(f"dag/stat {cid}")
        parameters = {"arg": str(cid), "progress": "false", "offline": "true"}
        walk = size / _SLOWEST_WALK
        with self._exchange("dag/stat", parameters, 120 + walk, silence=walk) as exchange, border(what):
            exchange.start("POST")
            (answer,) = self._answers(exchange, what)
            (of_root,) = answer["DagStats"]
            if _cid(of_root["Cid"]) != cid:
                raise ValueError(f"statistics of {of_root['Cid']}")
            return Extent(int(of_root["NumBlocks"]), int(of_root["Size"]))

    def read_back(self, cid: Cid, seconds: float = _LONG) -> Extent:
        """Read the whole DAG from the gateway and answer its distinct blocks: exactly those that `cid` names.
        ProofMissing as for `blocks`."""
        count = size = 0
        for _, data in self.blocks(cid, seconds):
            count, size = count + 1, size + len(data)
        return Extent(count, size)

    def blocks(self, cid: Cid, seconds: float = _LONG) -> Iterator[car.Block]:
        """The blocks of a DAG from the gateway, parents first, each once: every one hashed, every link followed,
        nothing else accepted.

        ProofMissing for a block that is missing, wrong or foreign, also when the status was 200, and also after good
        blocks (specs.ipfs.tech/http-gateways/trustless-gateway: clients must verify completeness).
        """
        what = f"reading {cid} back from the gateway of {self.name}"
        query = urlencode({"format": "car", "dag-scope": "all", "car-order": "dfs", "car-dups": "n"})
        headers = {"Accept": "application/vnd.ipld.car", **_ONLY_ITS_OWN}
        with self._get(f"/ipfs/{cid}?{query}", headers, what, seconds) as response, border(what):
            try:
                yield from walk([cid], car.read_car(response))
            except Corruption as error:
                raise ProofMissing(f"{what}: {error}") from error

    def block(self, cid: Cid) -> bytes:
        """One block from the gateway, hashed. ProofMissing if it is missing or wrong."""
        what = f"reading block {cid} from the gateway of {self.name}"
        headers = {"Accept": "application/vnd.ipld.raw", **_ONLY_ITS_OWN}
        with self._get(f"/ipfs/{cid}?format=raw", headers, what, _CONTROL_SECONDS) as response, border(what):
            data = response.read(car.MAX_BLOCK)
            response.require_end()
        if not cid.verifies(data):
            raise ProofMissing(f"{what}: its bytes hash to something else")
        return data

    def read(
        self, path: Cid | str, start: int = 0, end: int | None = None, patience: float | None = None
    ) -> Iterator[bytes]:
        """A file's bytes from the gateway, as players get them: `CID` or `CID/path`. Not checked against hashes.
        `patience` is how many seconds of silence are borne, where others have the file too."""
        what = f"reading {path} from the gateway of {self.name}"
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        with self._get(f"/ipfs/{quote(str(path))}", headers, what, _LONG, patience) as response:
            while True:
                with border(what):
                    piece = response.read(_PIECE)
                    if not piece:
                        response.require_end()
                        return
                yield piece

    # how it is asked

    def _limits(self, total: float, silence: float = 0) -> Limits:
        return Limits(self._connect, self._stall + silence, total)

    def _what(self, call: str) -> str:
        return f"{call} at {self.name}"

    def _go_on(self, what: str) -> None:
        if self._over.is_set():
            raise Outage(f"{what}: given up, because it took longer than the others")

    def _ask(self, call: str, question: Any) -> Any:
        self._go_on(self._what(call))
        return self._control.ask(self._what(call), question)

    def _name(self, call: str, question: Any) -> str:
        name = self._ask(call, question)
        if not isinstance(name, str) or not name:
            raise ServiceError(f"{self._what(call)}: the node answered {name!r}")
        return name

    def _exchange(
        self,
        call: str,
        parameters: Mapping[str, str],
        seconds: float,
        headers: Mapping[str, str] | None = None,
        silence: float = 0,
    ) -> Exchange:
        """An RPC call that streams. The node gets the limit too, so that it does not go on when we have left."""
        self._go_on(self._what(call))
        query = urlencode({**parameters, "timeout": duration(seconds)})
        url = f"{self._rpc_url}/api/v0/{call}?{query}"
        return Exchange(url, self._limits(seconds + 30, silence), {**self._headers, **(headers or {})})

    def _answers(self, exchange: Exchange, what: str, empty: bool = False) -> Iterator[dict[str, Any]]:
        """The values of the answer, up to its clean end. An empty one is an error unless `empty` allows it."""
        response = exchange.answer()
        if response.status != 200:
            raise refusal(what, response.status, exchange.error_text())
        nothing = True
        for value in exchange.json_lines():
            nothing = False
            if value.get("Type") == "error":
                raise refusal(what, 500, str(value.get("Message")))
            yield value
        if (trailer := exchange.trailer("X-Stream-Error")) is not None:
            raise refusal(what, 500, trailer)
        # An empty list has this header; the empty 200 for a `timeout` that Kubo cannot read has not.
        if nothing and not (empty and response.getheader("X-Chunked-Output")):
            raise ValueError("it is empty")

    @contextmanager
    def _get(
        self, target: str, headers: Mapping[str, str], what: str, seconds: float, patience: float | None = None
    ) -> Iterator[Response]:
        self._go_on(what)
        limits = self._limits(seconds)
        if patience is not None:
            limits = replace(limits, stall=min(patience, limits.stall))
        with Exchange(self._gateway_url + target, limits, headers) as exchange:
            with border(what):
                exchange.start("GET")
                response = exchange.answer()
                if response.status != (206 if "Range" in headers else 200):
                    raise _gateway_refusal(what, response.status, exchange.error_text())
            yield response


def _place(url: str) -> str:
    """`host:port`, with the path behind it where several nodes share one."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def _authorization(auth: str | None) -> dict[str, str]:
    if not auth:
        return {}
    kind, _, secret = auth.partition(":")
    if kind == "bearer" and secret:
        return {"Authorization": f"Bearer {secret}"}
    if kind == "basic" and ":" in secret:
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    raise UsageError("HLS_IPFS_AUTH must be bearer:TOKEN or basic:USER:PASSWORD")


def _part_head(boundary: str) -> bytes:
    return (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="blocks.car"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def _import_statistics(what: str, answers: Iterable[Mapping[str, Any]], sent: Extent) -> Extent:
    """The one line of statistics, if it agrees. Kubo reports a failed pin under a 200 (dag/import.go)."""
    found = []
    for answer in answers:
        if problem := (answer.get("Root") or {}).get("PinErrorMsg"):
            raise refusal(what, 500, str(problem))
        if "Stats" in answer:
            found.append(Extent(int(answer["Stats"]["BlockCount"]), int(answer["Stats"]["BlockBytesCount"])))
    if found != [sent]:
        raise ProofMissing(f"{what}: sent {sent.blocks} blocks of {sent.bytes} bytes, the node took {found}")
    return sent


def _gateway_refusal(what: str, status: int, text: str) -> ServiceError:
    """A gateway says that it does not have something with any of these."""
    if status in (404, 410, 412, 500, 504):
        return ProofMissing(f"{what}: it answered {status}: {' '.join(text.split())[:500]}")
    return refusal(what, status, text)


def _cid(text: object) -> Cid:
    try:
        return Cid.parse(str(text))
    except UserError as error:
        raise ValueError(str(error)) from error
