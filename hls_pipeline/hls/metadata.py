"""The creator's metadata.json: read strictly, limited in every direction, kept as it was sent.

`CreatorFields` are the fields we know; any other is kept untouched. The names that our own documents use are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError

from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.policy import Limits
from hls_pipeline.keys import VIDEO_ID

RESERVED = frozenset({
    "revision", "status", "s3_manifest", "play", "estimated_completion", "completed_at", "replicas", "video_assets",
})  # fmt: skip
"""Names in our own documents (`documents.py`), which a creator's metadata may not use."""
_LARGEST = (1 << 53) - 1
"""Beyond this, JSON numbers differ between programs (RFC 7493 section 2.2), and so would our hashes."""


class CreatorFields(BaseModel):
    """The fields of metadata.json that mean something to us. All are optional."""

    model_config = ConfigDict(extra="allow", frozen=True, regex_engine="python-re")

    video_id: Annotated[StrictStr, Field(pattern=rf"\A{VIDEO_ID.pattern}\Z")] | None = None
    playlist: Annotated[StrictStr, Field(min_length=1, max_length=1024)] | None = None
    """Package path of the root playlist, where more than one could be it."""
    title: Annotated[StrictStr, Field(max_length=1000)] | None = None
    description: Annotated[StrictStr, Field(max_length=20_000)] | None = None
    language: Annotated[StrictStr, Field(max_length=100)] | None = None


class _TooLarge(ValueError):
    pass


def read_metadata(path: str, data: bytes, limits: Limits, findings: Findings) -> Mapping[str, Any]:
    """The fields as they were sent; empty, with findings, where they cannot be accepted."""
    if len(data) > limits.metadata_size:
        findings.add("META_TOO_LARGE", path, None, f"more than {limits.metadata_size:,} bytes")
        return {}
    try:
        fields = _parse(data)
        _check_limits(fields, limits)
    except _TooLarge as error:
        findings.add("META_TOO_LARGE", path, None, str(error))
        return {}
    except ValueError as error:
        findings.add("META_NOT_JSON", path, getattr(error, "lineno", None), shown(str(error)))
        return {}
    return fields if check_fields(path, fields, findings) else {}


def check_fields(path: str, fields: Mapping[str, Any], findings: Findings) -> bool:
    """Names and types of parsed metadata. True if there is nothing to complain about."""
    fine = True
    for name in sorted(RESERVED & fields.keys()):
        fine = False
        findings.add("META_RESERVED_NAME", path, None, f"the name {shown(name)} belongs to the pipeline")
    try:
        CreatorFields.model_validate(dict(fields))
    except ValidationError as error:
        fine = False
        for fault in error.errors(include_url=False, include_input=False)[:20]:
            place = ".".join(str(part) for part in fault["loc"])
            findings.add("META_BAD_VALUE", path, None, f"{shown(place, 80)}: {shown(fault['msg'], 110)[1:-1]}")
    return fine


def _parse(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_pairs, parse_constant=_no_constant)
    except RecursionError as error:
        raise _TooLarge("nested very deep") from error
    if not isinstance(fields, dict):
        raise ValueError("the top is no JSON object")
    return fields


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_limits(fields: dict[str, Any], limits: Limits) -> None:
    """Raises ValueError for values that other programs could not read, _TooLarge for too many or too deep ones."""
    pending: list[tuple[Any, int]] = [(fields, 1)]
    count = 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > limits.metadata_depth:
            raise _TooLarge(f"nested deeper than {limits.metadata_depth} levels")
        if count > limits.metadata_values:
            raise _TooLarge(f"more than {limits.metadata_values:,} values")
        if isinstance(value, dict):
            pending += ((item, depth + 1) for item in value.values())
            pending += ((name, depth) for name in value)
        elif isinstance(value, list):
            pending += ((item, depth + 1) for item in value)
        else:
            _check_scalar(value, limits)


def _check_scalar(value: Any, limits: Limits) -> None:
    if isinstance(value, str):
        if len(value) > limits.metadata_text:
            raise _TooLarge(f"a text longer than {limits.metadata_text:,} characters")
        value.encode("utf-8")  # a lone surrogate has no UTF-8
    elif isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError("an integer beyond 2^53 is read differently by different programs")
    elif isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
