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

from hls_pipeline.hls.content_types import IMAGES, extension
from hls_pipeline.hls.findings import Severity, shown
from hls_pipeline.hls.media import is_active
from hls_pipeline.hls.model import Reference, SideFile
from hls_pipeline.hls.policy import Limits
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.uris import folder_of, resolve

SideKind = Literal["asset_list", "chapters", "thumbnails"]

_DEPTH = 64
_JSON = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}:,]|[^\s\[\]{}:,"]++')
_WORD = re.compile(r"(?<![^\r\n])([^\s#]++)(#\S*+)?[ \t]*+(?![^\r\n])")
"""A line of one word, without and with fragment."""
_NAMES_FILE = re.compile(r"uri|url|href|src", re.IGNORECASE)


class _Place(NamedTuple):
    """A URI inside a side file: what it says and which characters say it."""

    kind: str
    uri: str
    start: int
    end: int
    line: int
    sure: bool = True
    """Whether this is meant to name a file; a line of a subtitle may just look like it."""


class _String(NamedTuple):
    path: tuple[str | int, ...]
    value: str
    start: int
    end: int


def parse_side_file(context: Context, data: bytes, kind: SideKind, spoken: bool = False) -> SideFile | None:
    """The side file with its references, or None where it cannot be read. Broken rules go to the findings. `spoken`:
    a WebVTT that is used as a subtitle, whose lines are what people say."""
    limits = context.policy.limits
    limit = size_limit(limits, kind)
    if len(data) > limit:
        context.findings.add("HLS_TOO_LARGE", context.path, None, f"the side file is larger than {limit:,} bytes")
        return None
    try:
        text = data.decode("utf-8")
        places = _cues(text, spoken) if kind == "thumbnails" else _uris(text, kind, context)
    except (ValueError, RecursionError) as error:
        if data and not is_active(data):  # those two are found when the file itself is looked at
            mild: Severity | None = None if kind == "asset_list" else "warning"  # only ads are needed to play
            message = f"it cannot be read: {shown(str(error))}"
            context.findings.add("SIDE_FILE_BROKEN", context.path, None, message, severity=mild)
        return None
    if len(places) >= limits.references:
        message = f"the side file has {len(places):,} references; fewer than {limits.references:,} are allowed"
        context.findings.add("HLS_TOO_LARGE", context.path, None, message)
        return None
    return SideFile(context.path, data, kind, tuple(_reference(context, text, place) for place in places))


def size_limit(limits: Limits, kind: SideKind) -> int:
    return limits.thumbnails_size if kind == "thumbnails" else limits.json_size


def scan_side_file(data: bytes, kind: SideKind) -> list[str]:
    """The raw URIs of a side file, for comparing two forms of it. Raises ValueError where it cannot be read."""
    text = data.decode("utf-8")
    places = _cues(text) if kind == "thumbnails" else _uris(text, kind)
    return [text[place.start : place.end] for place in places]


def names_images(data: bytes) -> bool:
    """Whether a WebVTT file is a thumbnail track."""
    return bool(_cues(data.decode("utf-8", "replace")))


def _cues(text: str, spoken: bool = False) -> list[_Place]:
    """Lines of WebVTT that name a picture and nothing else."""
    places, lines = [], _Lines(text)
    for word in _WORD.finditer(text):
        name, part = word[1], "#xywh=" in (word[2] or "")
        if part or (extension(name.partition("?")[0]) in IMAGES and "-->" not in name):
            places.append(_Place("image", name, word.start(1), word.end(1), lines.at(word.start()), part or not spoken))
    return places


def _uris(text: str, kind: SideKind, context: Context | None = None) -> list[_Place]:
    """What is known to name a file. What only seems to is a finding, where somebody collects them."""
    places, lines = [], _Lines(text)
    for string in _strings(text):
        known = _known(string.path, kind)
        if known:
            places.append(_Place(known, string.value, string.start, string.end, lines.at(string.start)))
        elif context is not None:
            _flag(context, string, lines)
    return places


class _Lines:
    """Line numbers of places that are asked for in order; each character is counted once."""

    def __init__(self, text: str) -> None:
        self._text, self._place, self._line = text, 0, 1

    def at(self, place: int) -> int:
        self._line += self._text.count("\n", self._place, place)
        self._place = place
        return self._line


def _known(path: tuple[str | int, ...], kind: SideKind) -> str | None:
    if kind == "asset_list":
        return "asset" if len(path) == 3 and path[0] == "ASSETS" and path[2] == "URI" else None
    return "image" if len(path) == 4 and path[1] == "images" and path[3] == "url" else None


def _flag(context: Context, string: _String, lines: _Lines) -> None:
    name = next((part for part in reversed(string.path) if isinstance(part, str)), "")
    if _NAMES_FILE.search(name) and not context.findings.is_full("SIDE_FILE_OPAQUE", context.path):
        message = f"{shown(name, 60)} with {shown(string.value, 120)} stays as it is"
        context.findings.add("SIDE_FILE_OPAQUE", context.path, lines.at(string.start), message)


def _strings(text: str) -> Iterator[_String]:
    """Every string value of a JSON text with its path and the place of its characters between the quotes.

    Raises ValueError or RecursionError unless the text is JSON of bearable depth. That is asked first: over a text
    whose strings do not end, the pattern would look for their ends again and again.
    """
    json.loads(text.removeprefix("\ufeff"))  # which browsers pass over too
    path: list[str | int] = []
    expects_key: list[bool] = []
    for match in _JSON.finditer(text):
        piece = match.group()
        if piece in "{[":
            path.append(0 if piece == "[" else "")
            expects_key.append(piece == "{")
            if len(path) > _DEPTH:
                raise ValueError(f"nested deeper than {_DEPTH}")
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
                path[-1], expects_key[-1] = _value(piece), False
            else:
                yield _String(tuple(path), _value(piece), match.start() + 1, match.end() - 1)


def _value(piece: str) -> str:
    return json.loads(piece) if "\\" in piece else piece[1:-1]


def _reference(context: Context, text: str, place: _Place) -> Reference:
    resolution = resolve(place.uri, folder_of(context.path), context.files)
    for code, message in resolution.problems:
        # A picture on some web server is nobody's danger; an advertisement that is fetched from there is missing.
        outside = place.kind == "image" and code == "URI_ABSOLUTE_HTTP"
        mild: Severity | None = "warning" if outside or not place.sure else None
        context.findings.add(code, context.path, place.line, message, severity=mild)
    return Reference(
        place.line, "", None, place.kind, text[place.start : place.end], place.start, place.end, None,
        resolution.target, place.uri, quoted=True,
    )  # fmt: skip
