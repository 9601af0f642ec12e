"""`/openapi.json`: what FastAPI knows of the routes, made true for what they have in common.

Every refusal is a problem document; who may call what is read from the routes' dependencies. A status that only one
route answers with is declared there, with `refusals` where it is a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from hls_pipeline.gateway import access, problems, shapes, webhook_shapes

_REFUSALS = {
    400: "the request does not fit",
    401: "a key is needed, or the one given is none",
    403: "the key may not do this",
    404: "there is no such thing here",
    408: "the body came too slowly",
    409: "it contradicts what is already so",
    410: "the video was withdrawn",
    412: "it is not, or no longer, what `If-Match` names",
    413: "too large",
    415: "the body must be multipart/form-data",
    416: "the file has no such range",
    422: "the package breaks rules: `report` names each",
    429: "too much at once; `Retry-After` says when to come back",
    500: "something went wrong here",
    502: "a service behind the gateway did not do its part",
    503: "a service behind the gateway does not answer now",
}
_BEHIND = (500, 502, 503)
_KEY = "key"
_SCHEMAS = "#/components/schemas/{model}"
_READ_BY_ROUTES = (shapes.Problem, shapes.UploadRequest, shapes.UploadWebhook, webhook_shapes.WebhookRequest)
"""Models that FastAPI does not see, because routes read or write them themselves."""

Responses = dict[int | str, dict[str, Any]]


def refusals(*statuses: int, **own: str) -> Responses:
    """Declares statuses that a route refuses with; `own={"_409": "…"}` words one of its own way."""
    return {status: {"description": own.get(f"_{status}", _REFUSALS[status])} for status in statuses}


def example(value: Any) -> dict[str, Any]:
    """The `content` of a JSON answer, beside its model."""
    return {"content": {"application/json": {"example": value}}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself. The model is one of `_READ_BY_ROUTES`."""
    content = {"application/json": {"schema": {"$ref": _SCHEMAS.format(model=model.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def install(app: FastAPI, routers: Sequence[APIRouter], *, public_read: bool) -> None:
    """Makes `/openapi.json` ours; it is written at the first request."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app, routes, public_read)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(app: FastAPI, routes: Sequence[APIRoute], public_read: bool) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=routes)
    schemas: dict[str, Any] = found["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for model in _READ_BY_ROUTES:
        schema = model.model_json_schema(ref_template=_SCHEMAS)
        schemas |= {**schema.pop("$defs", {}), model.__name__: schema}
    for name, model in (vars(shapes) | vars(webhook_shapes)).items():  # FastAPI takes every null out of examples
        extra = getattr(model, "model_config", {}).get("json_schema_extra")
        if name in schemas and extra:
            schemas[name]["examples"] = extra["examples"]
    found["components"]["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer", "description": "an API key"}}
    for route in routes:
        for method in (route.methods or ()) if route.include_in_schema else ():
            _complete(route, found["paths"][route.path_format][method.lower()], public_read)
    return found


def _complete(route: APIRoute, operation: dict[str, Any], public_read: bool) -> None:
    guards = {dependency.call for dependency in route.dependant.dependencies}
    writes, reads = access.writer in guards, access.reader in guards
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]  # what FastAPI would answer this to, we answer 400 to; routes declare it
    statuses = [400, *((401, 429) if reads or writes else ()), *((403,) if writes else ()), *_BEHIND]
    for status in statuses:
        responses.setdefault(str(status), {"description": _REFUSALS[status]})
    for status, response in responses.items():
        if int(status) >= 400:
            kind = {"schema": {"$ref": _SCHEMAS.format(model="Problem")}}
            response.setdefault("content", {})
            if "application/json" not in response["content"]:
                response["content"][problems.MEDIA_TYPE] = kind
    operation["responses"] = dict(sorted(responses.items()))
    if writes or reads:
        operation["security"] = [{_KEY: []}] if writes or not public_read else [{}, {_KEY: []}]
