"""`/session`: a browser signs in with a key and out again. The cookie is for same-site requests of pages alone."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from hls_pipeline import clock
from hls_pipeline.gateway import access
from hls_pipeline.gateway.problems import Refused
from hls_pipeline.gateway.services import ServicesDep

router = APIRouter(include_in_schema=False)

_MOST_BYTES = 4096


@router.post("/session")
async def sign_in(request: Request, services: ServicesDep) -> Response:
    """A form with the field `key`, from a page of ours."""
    access.require_same_origin(request)
    services.limits.count_sign_in(access.address_of(request))
    if int(request.headers.get("content-length") or _MOST_BYTES + 1) > _MOST_BYTES:
        raise Refused(413, "too_large", "this is no key")
    async with request.form(max_files=0, max_fields=4) as form:
        text = str(form.get("key", "")).strip()
    session = await run_in_threadpool(access.open_session, services.records, text, clock.now())
    if session is None:
        return RedirectResponse("/?refused=1", 303)
    answer = RedirectResponse("/", 303)
    set_cookie(answer, session, secure=request.url.scheme == "https")
    return answer


@router.post("/session/end")
async def sign_out(request: Request, services: ServicesDep) -> Response:
    access.require_same_origin(request)
    text = request.cookies.get(access.COOKIE, "")
    key = await run_in_threadpool(access.find_key, services.records, text, clock.now())
    if key is not None and key.session_of:
        await run_in_threadpool(services.records.revoke_key, key.key_id, clock.now())
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(access.COOKIE, httponly=True, samesite="strict")
    return answer


def set_cookie(answer: Response, session: str, *, secure: bool) -> None:
    seconds = int(access.SESSION.total_seconds())
    answer.set_cookie(access.COOKIE, session, max_age=seconds, httponly=True, samesite="strict", secure=secure)
