"""From the URI in a playlist to a path in the package, and back (level L3).

Nothing is resolved over the network: what is not a file of the package is a finding. Percent-encoding is undone once;
where no such file exists the raw spelling is looked up too, because ffmpeg and others write raw names.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Container, Mapping
from functools import cached_property
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from hls_pipeline.hls.findings import shown
from hls_pipeline.hls.tokens import make_tuple

VARIABLE = re.compile(r"\{\$([A-Za-z0-9_-]+)\}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PLAIN = re.compile(
    r"[A-Za-z0-9_~!$&'()*+,;=@-][A-Za-z0-9_.~!$&'()*+,;=@-]*(?:/[A-Za-z0-9_~!$&'()*+,;=@-][A-Za-z0-9_.~!$&'()*+,;=@-]*)*"
)
"""A relative path without dot segments or anything encoded: most URIs, which need no closer look."""
_SPLIT = re.compile(r"([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_UNENCODED = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]")
_UNPRINTABLE = re.compile(r"[^!-~]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEPARATOR = re.compile(r"%(?:2f|5c|00)", re.IGNORECASE)
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Half a surrogate pair, which JSON can spell, belongs to no character and has no UTF-8."""
_SAFE = "/!$&'()*+,;=@~"

_SCHEMES = {
    "http": "URI_ABSOLUTE_HTTP",
    "https": "URI_ABSOLUTE_HTTP",
    "file": "URI_FILE_SCHEME",
    "data": "URI_DATA_SCHEME",
}


class FileNames(dict[str, int]):
    """The files of a package with their sizes."""

    @cached_property
    def folded(self) -> Mapping[str, str]:
        """Case-folded name → name, for guesses."""
        return {name.casefold(): name for name in self}


class Problem(NamedTuple):
    code: str
    message: str


class Resolution(NamedTuple):
    target: str | None
    problems: tuple[Problem, ...] = ()


def resolve(uri: str, base: str, files: Container[str], root_relative: bool = False) -> Resolution:
    """The file that `uri`, standing in a playlist of folder `base` ('' is the top), names."""
    if _PLAIN.fullmatch(uri):
        target = f"{base}/{uri}" if base else uri
        if target in files:
            return make_tuple(Resolution, (target, ()))
    forbidden = _forbidden(uri, root_relative)
    return Resolution(None, (forbidden,)) if forbidden else _look_up(uri, base, files)


def _forbidden(uri: str, root_relative: bool) -> Problem | None:
    """What makes a URI impossible whatever files there are."""
    if not uri:
        return Problem("URI_EMPTY", "the URI is empty")
    if _INVISIBLE.search(uri):
        return Problem("URI_CONTROL_CHAR", f"{shown(uri)} holds a control character")
    scheme = _SCHEME.match(uri)
    if scheme:
        return Problem(
            _SCHEMES.get(scheme.group(1).lower(), "URI_SCHEME_FORBIDDEN"), f"{shown(uri)} is not a file of this package"
        )
    path = _SPLIT.match(uri).group(1)  # type: ignore[union-attr]
    if "\\" in path:
        return Problem("URI_BACKSLASH", f"{shown(uri)} holds a backslash")
    if path.startswith("//"):
        return Problem("URI_NETWORK_PATH", f"{shown(uri)} names another host")
    if path.startswith("/") and not root_relative:
        return Problem("URI_ROOT_RELATIVE", f"{shown(uri)} starts at a root that nobody knows")
    if _SEPARATOR.search(path):
        return Problem("URI_ENCODED_SEPARATOR", f"{shown(uri)} hides a separator or NUL")
    if _INVISIBLE.search(unquote_to_bytes(path).decode("utf-8", "replace")):
        return Problem("URI_CONTROL_CHAR", f"{shown(uri)} hides a control character")
    return None


def _look_up(uri: str, base: str, files: Container[str]) -> Resolution:
    path, query, fragment = _SPLIT.match(uri).groups()  # type: ignore[union-attr]
    if not path:
        return Resolution(None, (Problem("URI_EMPTY", f"{shown(uri)} names no file"),))
    decoded = _join(base, _decode(path))
    if decoded is None or _join(base, path) is None:
        return Resolution(None, (Problem("URI_TRAVERSAL", f"{shown(uri)} climbs out of the package"),))
    raw = _join(base, path)
    whole = _join(base, uri)
    found = [p for p in dict.fromkeys((decoded, raw)) if p is not None and p in files]
    if len(found) > 1:
        return Resolution(
            None,
            (Problem("URI_AMBIGUOUS", f"{shown(uri, 60)} is both {shown(found[0], 60)} and {shown(found[1], 60)}"),),
        )
    if found:
        return Resolution(found[0], tuple(_remarks(uri, path, query, fragment, found[0] == decoded)))
    for other in (whole, *(unicodedata.normalize(form, decoded) for form in ("NFC", "NFD"))):
        if other is not None and other in files:
            return Resolution(other, (Problem("URI_NOT_ENCODED", f"{shown(uri)} is found only as it is spelled"),))
    return Resolution(None, (Problem("URI_MISSING_FILE", f"{shown(uri, 110)} is not in the package"),))


def near_miss(uri: str, base: str, files: Container[str]) -> str | None:
    """A file whose name differs in case only: the usual reason why one is missing."""
    wanted = _join(base, unencoded(uri))
    return files.folded.get(wanted.casefold()) if wanted is not None and isinstance(files, FileNames) else None


def _remarks(uri: str, path: str, query: str | None, fragment: str | None, as_decoded: bool) -> list[Problem]:
    remarks = []
    if query:
        remarks.append(Problem("URI_QUERY", f"the query of {shown(uri)} is ignored"))
    if fragment:
        remarks.append(Problem("URI_FRAGMENT", f"the fragment of {shown(uri)} is ignored"))
    if _BAD_PERCENT.search(path):
        remarks.append(Problem("URI_BAD_PERCENT", f"{shown(uri)} holds a % that encodes nothing"))
    if _UNENCODED.search(path) or not as_decoded or _hides_bytes(path):
        remarks.append(Problem("URI_NOT_ENCODED", f"{shown(uri)} is not percent-encoded"))
    return remarks


def _decode(path: str) -> str:
    """Percent-decoded once; '+' is no blank. Where that gives no UTF-8 the raw spelling is all there is."""
    try:
        return unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return path


def _hides_bytes(path: str) -> bool:
    """Whether it decodes to no UTF-8. A file can only be called so as it is spelled, where servers look for bytes."""
    return "%" in path and "\ufffd" in unquote_to_bytes(path).decode("utf-8", "replace")


def _join(base: str, path: str) -> str | None:
    """The package path, or None where it leaves the package (RFC 3986 section 5.2.4, but climbing out is no right)."""
    parts = [] if path.startswith("/") or not base else base.split("/")
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) + ("/" if part in ("", ".", "..") else "")


def unencoded(uri: str) -> str:
    """The path that a URI means, without query and fragment, decoded once, dot segments kept."""
    return _decode(_SPLIT.match(uri).group(1))  # type: ignore[union-attr]


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def relative_uri(target: str, base: str) -> str:
    """The correctly encoded relative URI of `target` as seen from the folder `base`."""
    return quote(posixpath.relpath("/" + target, "/" + base), safe=_SAFE)


def repaired(uri: str, base: str, target: str) -> str | None:
    """None where `uri` is a correct relative reference to `target`; else the one to write in its place."""
    if _PLAIN.fullmatch(uri) and (f"{base}/{uri}" if base else uri) == target:
        return None
    path, query, fragment = _SPLIT.match(uri).groups()  # type: ignore[union-attr]
    tail = (query or "") + (fragment or "")
    clean = not (
        _UNENCODED.search(path)
        or _BAD_PERCENT.search(path)
        or _hides_bytes(path)
        or path.startswith("/")
        or "//" in path
    )
    if clean and not _UNPRINTABLE.search(tail) and _join(base, _decode(path)) == target:
        return None
    if _join(base, _decode(path)) != target and _join(base, path) != target:
        tail = ""  # found by its whole spelling: '?' and '#' belong to the name
    return relative_uri(target, base) + quote(tail, safe="?#%/:[]" + _SAFE)
