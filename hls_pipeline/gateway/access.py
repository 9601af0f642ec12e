"""Who may do what: API keys with scopes, and the browser session that acts for a key.

A key is `hls_{id}_{secret}`; only the SHA-256 of the secret is stored, which is enough because secrets are random and
long. A session is a short-lived key of its own in a same-site cookie; whatever a page changes with it must come from
our own origin. Limits per key are in `limits.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from hls_pipeline import clock
from hls_pipeline.errors import UsageError
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.records import ApiKey, Records
from hls_pipeline.metadata_store import MetadataStore

COOKIE = "hls_session"
SESSION = timedelta(hours=12)
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


_IMPLIES: dict[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.WRITE: frozenset({Scope.READ, Scope.WRITE}),
    Scope.ADMIN: frozenset(Scope),
}


@dataclass(frozen=True)
class Caller:
    """Whose request it is. `key_id` is None for somebody without key, who may read where reading is public."""

    key_id: str | None
    scopes: frozenset[Scope]
    limit_key: str
    """What limits are counted under."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


# ---- keys -------------------------------------------------------------------------------------------------------


def make_key(
    records: Records,
    name: str,
    scopes: frozenset[Scope],
    now: datetime,
    *,
    expires_at: datetime | None = None,
    session_of: str | None = None,
) -> str:
    """A new key. The answer is the only time its secret is seen."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    records.add_key(ApiKey(key_id, name[:200], _hash(secret), tuple(sorted(scopes)), now, expires_at, None, session_of))
    return f"hls_{key_id}_{secret}"


def rotate_key(records: Records, key_id: str, now: datetime) -> str:
    """The key with another secret: it keeps its videos and webhooks. The old one is none any more, nor are its browser
    sessions. Raises NotFound."""
    secret = secrets.token_urlsafe(32)
    records.rotate_key(key_id, _hash(secret), now)
    return f"hls_{key_id}_{secret}"


def find_key(records: Records, text: str, now: datetime) -> ApiKey | None:
    """The key that `text` is, unless it was revoked or has expired."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != "hls" or not (key_id.isascii() and key_id.isalnum() and len(key_id) <= 16):
        return None
    key = records.key(key_id)
    given = _hash(secret)  # also for unknown ids: the answer takes as long
    if key is None or not hmac.compare_digest(key.secret_sha256, given) or not key.valid(now):
        return None
    return key


def ensure_local_key(store: MetadataStore, path: Path) -> str:
    """The key of the local stack, made at its first start and kept in `path`, readable by its owner only. A new one
    takes its place when the file is lost or the key was revoked."""
    records, now = Records(store), clock.now()
    if path.exists():
        text = path.read_text().strip()
        if find_key(records, text, now):
            return text
    text = make_key(records, "local stack", frozenset({Scope.ADMIN}), now)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return text


def parse_scopes(names: str) -> frozenset[Scope]:
    """`read,write` as scopes. Raises UsageError for anything else."""
    try:
        return frozenset(Scope(name.strip()) for name in names.split(","))
    except ValueError as error:
        raise UsageError(f"{names!r}: scopes are read, write and admin, separated by commas") from error


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


# ---- who asks ---------------------------------------------------------------------------------------------------


async def identify(request: Request) -> Caller:
    """The caller. Raises Refused (401) for a key that is none, and 429 when the caller asks too often."""
    services = request.app.state.services
    stranger = f"address {address_of(request)}"
    text, by_cookie = _presented(request)
    if text is None:
        caller = Caller(None, frozenset(), stranger)
    else:
        key = await run_in_threadpool(find_key, services.records, text, clock.now())
        if key is None and not by_cookie:
            services.limits.count_request(stranger)
            raise Refused(401, "bad_key", "this key is unknown, revoked or expired", _CHALLENGE)
        if key is None:
            caller = Caller(None, frozenset(), stranger)
        else:
            if by_cookie and request.method in _UNSAFE:
                require_same_origin(request)
            owner = key.session_of or key.key_id
            caller = Caller(owner, _scopes(key), f"key {owner}")
            services.last_use.note(owner)
    request.scope["hls.caller"] = caller.limit_key
    services.limits.count_request(caller.limit_key)
    return caller


def _scopes(key: ApiKey) -> frozenset[Scope]:
    return frozenset().union(*(_IMPLIES[Scope(scope)] for scope in key.scopes))


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="hls-pipeline"'}


def address_of(request: Request) -> str:
    """What a client without key is known by; of IPv6 the network, because one client has all addresses of a /64."""
    text = request.client.host if request.client else "unknown"
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return text
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address.packed[:8].ljust(16, b"\0"), 64)))


def _presented(request: Request) -> tuple[str | None, bool]:
    """The key in the request and whether a browser sent it by itself."""
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, text = header.partition(" ")
        return (text.strip() if scheme.lower() == "bearer" else ""), False
    cookie = request.cookies.get(COOKIE)
    return cookie, cookie is not None


def require_same_origin(request: Request) -> None:
    """Raises Refused (403) unless a page of ours sent this; browsers always say the origin of such requests."""
    origin = urlsplit(request.headers.get("origin", ""))
    if origin.scheme not in ("http", "https") or origin.netloc.lower() != request.headers.get("host", "").lower():
        raise Refused(403, "foreign_origin", "this request comes from a page of another site")


CallerDep = Annotated[Caller, Depends(identify)]


def _need(caller: Caller, scope: Scope) -> None:
    if caller.may(scope):
        return
    if caller.key_id is None:
        raise Refused(401, "key_required", f"this needs a key with scope {scope}", _CHALLENGE)
    raise Refused(403, "scope_missing", f"this key lacks scope {scope}")


async def reader(request: Request, caller: CallerDep) -> Caller:
    if not request.app.state.services.settings.public_read:
        _need(caller, Scope.READ)
    return caller


async def writer(caller: CallerDep) -> Caller:
    _need(caller, Scope.WRITE)
    return caller


Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]


def require_owner(records: Records, caller: Caller, video_id: str, now: datetime) -> None:
    """The video is the caller's, now if it was nobody's. Raises Refused (403) when it is another key's."""
    assert caller.key_id is not None
    owner = records.claim_video(video_id, caller.key_id, now)
    if owner != caller.key_id and not caller.may(Scope.ADMIN):
        raise Refused(403, "foreign_video", f"video {video_id} belongs to another key")


def require_still_writer(records: Records, caller: Caller) -> None:
    """Raises Refused (401, or 403) when the key was revoked since the request began, or lost the scope to write. One
    that has expired meanwhile may finish what it began."""
    assert caller.key_id is not None
    key = records.key(caller.key_id)
    if key is None or key.revoked_at is not None:
        raise Refused(401, "bad_key", "this key was revoked meanwhile", _CHALLENGE)
    _need(replace(caller, scopes=_scopes(key)), Scope.WRITE)


def still_reads(request: Request) -> bool:
    """Whether who sent the request may still read; for answers that go on for hours."""
    services = request.app.state.services
    if services.settings.public_read:
        return True
    text, _ = _presented(request)
    key = find_key(services.records, text or "", clock.now())
    return key is not None and Scope.READ in _scopes(key)


def require_owned(records: Records, caller: Caller, video_id: str) -> None:
    """Like `require_owner` for a video that must exist. Raises NotFound."""
    if records.owner(video_id) != caller.key_id and not caller.may(Scope.ADMIN):
        raise Refused(403, "foreign_video", f"video {video_id} belongs to another key")


# ---- browser sessions -------------------------------------------------------------------------------------------


def session_for_visitor(request: Request) -> str | None:
    """A new session for somebody who opens a page of the local stack from this machine; None for anybody else.

    The name in `Host` must be loopback too, so that no other site's name can be bent to this address.
    """
    services = request.app.state.services
    page_key = services.settings.page_key
    local = (request.client.host if request.client else "") in _LOOPBACK and request.url.hostname in _LOOPBACK
    if page_key is None or not local or "x-forwarded-for" in request.headers:
        return None
    now = clock.now()
    current = request.cookies.get(COOKIE)
    if current and find_key(services.records, current, now):
        return None
    return open_session(services.records, page_key.get_secret_value(), now)


def open_session(records: Records, text: str, now: datetime) -> str | None:
    """A session that may do what the key may do; None when `text` is no key."""
    key = find_key(records, text, now)
    if key is None or key.session_of:
        return None
    scopes = frozenset(Scope(scope) for scope in key.scopes)
    return make_key(records, "browser", scopes, now, expires_at=now + SESSION, session_of=key.key_id)
