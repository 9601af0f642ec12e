"""The one place where our errors become HTTP answers: problem documents of RFC 9457 with a stable `code`.

`STATUS` is the table; an error is looked up along its classes, most specific first. A gateway's own refusals are
`Refused`, with code and status where they are raised. What went wrong behind the gateway is logged, never shown:
such messages name internal addresses.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from hls_pipeline import errors
from hls_pipeline.errors import PackageRefused, PipelineError, UserError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[PipelineError], int] = {
    errors.PackageRefused: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.UserError: 400,
    errors.UsageError: 400,
    errors.LeaseLost: 409,
    errors.DropChanged: 409,
    errors.Outage: 503,
    errors.ObjectMissing: 503,
    errors.ObjectChanged: 503,
    errors.ServiceError: 502,
    errors.PipelineError: 500,
}

_HIDDEN = {
    500: "something went wrong here; the log has it under this request id",
    502: "a service behind this one did not do its part; try again later",
    503: "a service behind this one does not answer now; try again in a moment",
}
_RETRY_SECONDS = 5
METHODS = ("GET", "HEAD", "POST", "DELETE")
"""All that are routed anywhere."""


class Refused(UserError):
    """A request that the gateway itself turns down."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """`more` are further members of the problem document, such as `report`."""
        super().__init__(message)
        self.status, self.code, self.headers, self.more = status, code, dict(headers or {}), more


def install(app: FastAPI) -> None:
    app.add_exception_handler(PipelineError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_framework)


def answer(error: PipelineError, request_id: str = "") -> JSONResponse:
    status = status_of(error)
    detail = _HIDDEN.get(status) or str(error)
    headers = dict(error.headers) if isinstance(error, Refused) else {}
    more = error.more if isinstance(error, Refused) else {}
    if status == 503:
        headers.setdefault("Retry-After", str(_RETRY_SECONDS))
    if isinstance(error, PackageRefused):
        more = {"report": error.report.to_json()}
    return problem(status, error.code, detail, request_id, headers, **more)


def status_of(error: PipelineError) -> int:
    if isinstance(error, Refused):
        return error.status
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    status: int,
    code: str,
    detail: str,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    content = {
        "type": f"urn:hls-pipeline:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
        **{name: value for name, value in more.items() if value is not None},
    }
    return JSONResponse(
        content, status, headers={"Cache-Control": "no-store", **(headers or {})}, media_type=MEDIA_TYPE
    )


def request_id(request: Request) -> str:
    return str(request.scope.get("hls.request_id", ""))


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PipelineError)
    if status_of(error) >= 500:
        log.warning("%s: %s", error.code, error)
    return answer(error, request_id(request))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"place": ".".join(str(part) for part in fault["loc"]), "message": str(fault["msg"])}
        for fault in error.errors()[:20]
    ]
    detail = f"{faults[0]['place']}: {faults[0]['message']}" if faults else "the request does not fit"
    return problem(400, "bad_request", detail, request_id(request), errors=faults)


async def _of_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    detail = "there is nothing at this address" if error.status_code == 404 else str(error.detail)
    headers = {"Allow": ", ".join(_allowed(request))} if "Allow" in (error.headers or {}) else error.headers
    return problem(error.status_code, code, detail, request_id(request), headers)


def _allowed(request: Request) -> list[str]:
    """Of all routes at the address (RFC 9110, section 15.5.6); the framework knows those of the first alone."""
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def unforeseen(request_id: str) -> JSONResponse:
    """For what no other answer fits: a mistake of ours."""
    return problem(500, "error", _HIDDEN[500], request_id)
