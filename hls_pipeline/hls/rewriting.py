"""The other half of reading: the same playlist with other URIs, and not one other character changed.

Always from the creator's original bytes, never from an earlier form. After each rewrite the result is scanned again and
must show the same skeleton and exactly the expected URIs, so that a bug fails the run instead of a playlist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from hls_pipeline.errors import Corruption, UsageError
from hls_pipeline.hls.collector import collector_paused
from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.model import Playlist, Reference, SideFile
from hls_pipeline.hls.paths import NO_UTF8
from hls_pipeline.hls.side_files import scan_side_file
from hls_pipeline.hls.tokens import Spot, spots, tokenize
from hls_pipeline.hls.uris import folder_of, repaired

Document = Playlist | SideFile

_UNFIT = re.compile(r'["\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^#|^\s|\s$|\{\$')


def rewrite(document: Document, rename: Callable[[Reference], str | None]) -> bytes:
    """The document with the URI of each reference replaced by what `rename` says; None keeps it.

    References without target are passed to `rename` too, except those to DRM systems. Raises UsageError
    for a new URI that cannot stand there, Corruption if the result does not read as intended.
    """

    def choose(reference: Reference) -> str | None:
        if reference.replacement is not None:
            return reference.replacement
        return None if reference.kind == "drm" else rename(reference)

    return _replace(document, [choose(reference) for reference in document.references])


def relative(document: Document) -> bytes:
    """The form for a directory with the package's own paths: the original bytes, save for URIs that need repair."""
    base = folder_of(document.path)

    def repair(reference: Reference) -> str | None:
        if reference.target is None or reference.replacement is not None:
            return reference.replacement
        return repaired(reference.uri, base, reference.target)

    return _replace(document, [repair(reference) for reference in document.references])


@collector_paused()
def _replace(document: Document, wanted: Sequence[str | None]) -> bytes:
    text = document.data.decode("utf-8")
    pieces: list[str] = []
    expected: list[str] = []
    at = 0
    for reference, new in zip(document.references, wanted, strict=True):
        spelled = reference.raw if new is None else _fit(document, reference, new)
        pieces += (text[at : reference.start], spelled)
        expected.append(spelled)
        at = reference.end
    pieces.append(text[at:])
    result = "".join(pieces)
    _verify(document, text, result, expected)
    return result.encode("utf-8")


def _fit(document: Document, reference: Reference, new: str) -> str:
    """`new` as it is spelled at this place. Raises UsageError where it would end the line or the value."""
    in_json = isinstance(document, SideFile) and document.kind != "thumbnails"
    bare = reference.attr is not None and not reference.quoted
    if not new or (NO_UTF8 if in_json else _UNFIT).search(new) or (bare and re.search(r"[,\s]", new)):
        raise UsageError(f"{document.path} line {reference.line}: {shown(new)} cannot stand as a URI there")
    if in_json:
        return json.dumps(new, ensure_ascii=False)[1:-1]
    if isinstance(document, SideFile) and re.search(r"[\s#]", new):
        raise UsageError(f"{document.path} line {reference.line}: {shown(new)} cannot stand in a cue")
    return new


def _verify(document: Document, before: str, after: str, expected: list[str]) -> None:
    """Raises Corruption unless `after` differs from `before` in the expected URIs only."""
    if isinstance(document, SideFile):
        if scan_side_file(after.encode("utf-8"), document.kind) != expected:
            raise Corruption(f"rewriting {document.path} gave a file that names other files than intended")
        return
    old, new = document.references, list_spots(after, document.kind == "multivariant")
    if [_place(reference) for reference in old] != [_place(spot) for spot in new]:
        raise Corruption(f"rewriting {document.path} moved or changed its references")
    if [spot.raw for spot in new] != expected:
        raise Corruption(f"rewriting {document.path} gave other references than intended")
    if skeleton(before, old) != skeleton(after, new):
        raise Corruption(f"rewriting {document.path} changed more than its references")


def list_spots(text: str, multivariant: bool) -> list[Spot]:
    """Every place of a URI, read from nothing but the text."""
    places: list[Spot] = []
    for token in tokenize("", text, Findings()):
        places += spots(token, multivariant)
    return places


def _place(spot: Spot | Reference) -> tuple[int, str, str | None, bool]:
    return spot.line, spot.tag, spot.attr, spot.quoted


def skeleton(text: str, places: Sequence[Spot | Reference]) -> list[str]:
    """All that is not a URI."""
    pieces, at = [], 0
    for spot in places:
        pieces.append(text[at : spot.start])
        at = spot.start + len(spot.raw)
    return [*pieces, text[at:]]
