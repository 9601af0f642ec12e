"""A client of the IPFS Pinning Service API, whichever vendor serves it: ask for a pin, look how far it is.

What a service says is a claim about itself and nothing more; it never counts as proof. Answers are hostile: sizes are
capped, shapes checked, and a pin counts as found only under the content id that was asked for. Source:
ipfs.github.io/pinning-services-api-spec 1.0.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlencode

from hls_pipeline.errors import Outage, ServiceError, ServiceRefused, UserError
from hls_pipeline.ipfs.border import border
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.control import multiaddr
from hls_pipeline.ipfs.wire import Exchange, Limits

_LIMITS = Limits(connect=5, stall=30, total=60)
_MAX_ANSWER = 1024 * 1024
_MAX_NAME = 255


class PinState(StrEnum):
    QUEUED = "queued"
    PINNING = "pinning"
    PINNED = "pinned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PinRequest:
    """A pin as the service reports it."""

    request_id: str
    cid: Cid
    state: PinState
    created: str
    """As the service writes it, RFC 3339."""


class PinningService:
    """One service. `endpoint` is its URL, with the path in front of `/pins`; UsageError for a bad one."""

    def __init__(self, name: str, endpoint: str, token: str, limits: Limits = _LIMITS) -> None:
        multiaddr(endpoint)
        self.name = name
        self._endpoint = endpoint.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        self._limits = limits

    def __repr__(self) -> str:
        return f"PinningService({self.name})"

    def request(self, cid: Cid, name: str) -> PinRequest:
        """Ask for a pin, unless one is there or under way; a failed one is asked for again. Raises Outage,
        ServiceRefused or ServiceError."""
        present = self.find(cid)
        if present and present.state is not PinState.FAILED:
            return present
        body = {"cid": str(cid), "name": name[:_MAX_NAME]}
        if present:  # the old request is replaced, so that failed ones do not pile up
            return self._pin(self._ask("POST", f"/pins/{quote(present.request_id, safe='')}", body), cid)
        return self._pin(self._ask("POST", "/pins", body), cid)

    def find(self, cid: Cid) -> PinRequest | None:
        """The newest request for `cid` that is not known to have failed, else a failed one, else None."""
        found = self._requests(cid)
        good = [pin for pin in found if pin.state is not PinState.FAILED]
        return max(good or found, key=lambda pin: pin.created, default=None)

    def unpin(self, cid: Cid) -> bool:
        """Remove every request for `cid`, and with them the pin; False if there was none."""
        found = self._requests(cid)
        for pin in found:
            self._ask("DELETE", f"/pins/{quote(pin.request_id, safe='')}")
        return bool(found)

    def _requests(self, cid: Cid) -> list[PinRequest]:
        query = urlencode({"cid": str(cid), "status": ",".join(PinState), "limit": 10})
        answer = self._ask("GET", f"/pins?{query}")
        with border(self._what()):
            return [self._pin(result, cid) for result in _list(answer["results"])]

    def _what(self) -> str:
        return f"pinning service {self.name}"

    def _pin(self, answer: Any, cid: Cid) -> PinRequest:
        with border(self._what()):
            try:
                said = Cid.parse(str(answer["pin"]["cid"]))
            except UserError as error:
                raise ValueError(str(error)) from error
            if (said.codec, said.digest) != (cid.codec, cid.digest):
                raise ValueError(f"it speaks of {said}, asked was {cid}")
            created, request_id = str(answer["created"])[:64], answer["requestid"]
            if not isinstance(request_id, str) or not 0 < len(request_id) <= 1024:
                raise ValueError("a request without an id")
            return PinRequest(request_id, cid, PinState(answer["status"]), created)

    def _ask(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Any:
        what = self._what()
        data = json.dumps(body).encode() if body else b""
        headers = {**self._headers, "Content-Type": "application/json"} if body else self._headers
        with Exchange(self._endpoint + target, self._limits, headers) as exchange, border(what):
            exchange.start(method, body=data)
            response = exchange.answer()
            if response.status not in (200, 202):
                raise _refused(what, response.status, response.read(_MAX_ANSWER))
            text = response.read(_MAX_ANSWER + 1)
            if len(text) > _MAX_ANSWER:
                raise ValueError(f"an answer of more than {_MAX_ANSWER} bytes")
            response.require_end()
            if method == "DELETE":
                return None
            answer = json.loads(text)
            if not isinstance(answer, dict):
                raise ValueError("its answer is no object")
            return answer


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("no list where one must be")
    return value


def _refused(what: str, status: int, body: bytes) -> ServiceError:
    try:
        error = json.loads(body)["error"]
        reason = f"{error['reason']} {error.get('details', '')}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason = body[:200].decode("utf-8", "replace")
    message = f"{what}: it answered {status}: {' '.join(reason.split())[:300] or 'nothing more'}"
    if status in (401, 403):
        return ServiceRefused(f"{message}; check its token in HLS_PINNING_SERVICES")
    if status in (408, 429) or status >= 500:
        return Outage(message)
    return ServiceRefused(message)
