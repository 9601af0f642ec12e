"""Files besides playlists that name files: asset lists, chapters, thumbnail tracks.

Understood: `ASSETS[].URI` of an asset list (bis appendix D.5), `images[].url` of chapters, image cues of WebVTT.
Whatever else looks like a reference is flagged, so that nothing breaks in silence. Only the characters of a URI are
ever replaced, here as in playlists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from hls_pipeline.hls.findings import Severity, shown
from hls_pipeline.hls.model import Reference, SideFile
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.uris import folder_of, resolve

SideKind = Literal["asset_list", "chapters", "thumbnails"]

_DEPTH = 64
_JSON = re.compile(r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')
_IMAGE_CUE = re.compile(
    r"(?m)^(?!.*-->)([^\s#]+\.(?:jpe?g|png|webp|gif|avif)(?:\?[^\s#]*)?)(?:#\S*)?[ \t]*\r?$", re.IGNORECASE
)
_NAMES_FILE = re.compile(r"uri|url|href|src", re.IGNORECASE)


class _Place(NamedTuple):
    """A URI inside a side file: what it says and which characters say it."""

    kind: str
    uri: str
    start: int
    end: int


class _String(NamedTuple):
    path: tuple[str | int, ...]
    value: str
    start: int
    end: int


def parse_side_file(context: Context, data: bytes, kind: SideKind) -> SideFile | None:
    """The side file with its references, or None where it cannot be read. Broken rules go to the findings."""
    places = _places(context, data, kind)
    if places is None:
        return None
    text = data.decode("utf-8")
    return SideFile(context.path, data, kind, tuple(_reference(context, text, place) for place in places))


def scan_side_file(data: bytes, kind: SideKind) -> list[str]:
    """The raw URIs of a side file, for comparing two forms of it. Raises ValueError where it cannot be read."""
    text = data.decode("utf-8")
    return [text[place.start : place.end] for place in _scan(text, kind)]


def _scan(text: str, kind: SideKind) -> list[_Place]:
    if kind == "thumbnails":
        return [_Place("image", m.group(1), m.start(1), m.end(1)) for m in _IMAGE_CUE.finditer(text)]
    return [
        _Place(known, string.value, string.start, string.end)
        for string in _strings(text)
        if (known := _known(string.path, kind))
    ]


def _places(context: Context, data: bytes, kind: SideKind) -> list[_Place] | None:
    limit = context.policy.limits.side_file_size
    if len(data) > limit:
        context.findings.add("HLS_TOO_LARGE", context.path, None, f"the side file is larger than {limit:,} bytes")
        return None
    try:
        text = data.decode("utf-8")
        if kind != "thumbnails":
            _flag_unknown(context, text, kind)
        return _scan(text, kind)
    except ValueError as error:
        mild: Severity | None = None if kind == "asset_list" else "warning"  # only ads are needed to play
        text = f"it cannot be read: {shown(str(error))}"
        context.findings.add("SIDE_FILE_BROKEN", context.path, None, text, severity=mild)
        return None


def _known(path: tuple[str | int, ...], kind: SideKind) -> str | None:
    if kind == "asset_list":
        return "asset" if len(path) == 3 and path[0] == "ASSETS" and path[2] == "URI" else None
    return "image" if len(path) == 4 and path[1] == "images" and path[3] == "url" else None


def _flag_unknown(context: Context, text: str, kind: SideKind) -> None:
    for string in _strings(text):
        name = next((part for part in reversed(string.path) if isinstance(part, str)), "")
        if not _known(string.path, kind) and _NAMES_FILE.search(name):
            line = text.count("\n", 0, string.start) + 1
            message = f"{shown(name, 60)} with {shown(string.value, 120)} stays as it is"
            context.findings.add("SIDE_FILE_OPAQUE", context.path, line, message)


def _strings(text: str) -> Iterator[_String]:
    """Every string value of a JSON text with its path and the place of its characters between the quotes."""
    _check_json(text)
    path: list[str | int] = []
    expects_key: list[bool] = []
    for match in _JSON.finditer(text):
        piece = match.group()
        if piece in "{[":
            path.append(0 if piece == "[" else "")
            expects_key.append(piece == "{")
        elif piece in "}]":
            path.pop()
            expects_key.pop()
        elif piece == "," and path:
            last = path[-1]
            expects_key[-1] = isinstance(last, str)
            if isinstance(last, int):
                path[-1] = last + 1
        elif piece[0] == '"':
            if expects_key and expects_key[-1]:
                path[-1], expects_key[-1] = json.loads(piece), False
            else:
                yield _String(tuple(path), json.loads(piece), match.start() + 1, match.end() - 1)


def _check_json(text: str) -> None:
    """Raises ValueError unless the text is JSON of bearable depth."""
    depth = deepest = 0
    for match in _JSON.finditer(text):
        piece = match.group()
        depth += (piece in "{[") - (piece in "}]")
        deepest = max(deepest, depth)
    if deepest > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH}")
    json.loads(text)


def _reference(context: Context, text: str, place: _Place) -> Reference:
    line = text.count("\n", 0, place.start) + 1
    resolution = resolve(place.uri, folder_of(context.path), context.files)
    for code, message in resolution.problems:
        # A picture on some web server is nobody's danger; an advertisement that is fetched from there is missing.
        outside = place.kind == "image" and code == "URI_ABSOLUTE_HTTP"
        context.findings.add(code, context.path, line, message, severity="warning" if outside else None)
    return Reference(
        line, "", None, place.kind, text[place.start : place.end], place.start, place.end, None,
        resolution.target, place.uri, quoted=True,
    )  # fmt: skip


def names_images(data: bytes) -> bool:
    """Whether a WebVTT file is a thumbnail track."""
    return b"#xywh=" in data or bool(_IMAGE_CUE.search(data.decode("utf-8", "replace")))
