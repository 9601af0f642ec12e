"""From the files of a package to its playlists: which there are, which is the root, what they reach, in what order.

`Library` reads and remembers documents, `find_root` chooses, `Walk` goes depth first from the root and keeps the order
in which files are mentioned. Rules about single playlists are elsewhere; those about who refers to whom are here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from hls_pipeline.hls.collector import collector_paused
from hls_pipeline.hls.content_types import CONTENT_TYPES, FORBIDDEN, IMAGES, PLAYLISTS, extension
from hls_pipeline.hls.findings import Finding, Findings, refuse, shown
from hls_pipeline.hls.model import Playlist, Reference, SideFile
from hls_pipeline.hls.paths import is_junk
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.side_files import SideKind, names_images, parse_side_file, size_limit
from hls_pipeline.hls.sources import Source
from hls_pipeline.hls.text import looks_like_playlist
from hls_pipeline.hls.tokens import make_tuple
from hls_pipeline.hls.uris import FileNames

_PLAYLIST_KINDS = frozenset({"playlist", "asset", "rendition_report"})
_SIDE_KINDS: Mapping[str, SideKind] = {
    "asset_list": "asset_list",
    "session_data": "chapters",
    "daterange_resource": "chapters",
    "steering": "chapters",
}
_SUBTITLES = frozenset({"segment", "session_data", "raw_data"})
Document = Playlist | SideFile
_Side = tuple[SideFile | None, tuple[Finding, ...]]
_Steps: TypeAlias = "Iterator[_Steps]"
"""What is left to follow in a document; each item is what is left in a document that it refers to."""


@dataclass(frozen=True)
class _Read:
    playlist: Playlist | None
    findings: Findings
    imports: Mapping[str, str] | None
    """What its parent defined; None if it takes no variables from there and reads the same under every one."""


class Library:
    """The documents of a package, each read at most once under one parent."""

    def __init__(self, source: Source, sizes: Mapping[str, int], policy: Policy) -> None:
        self.sizes = FileNames(sizes)
        self.policy = policy
        self._source = source
        self._data: dict[str, bytes] = {}
        self._read: dict[str, _Read] = {}
        self._sides: dict[str, _Side] = {}
        self._tracks: dict[str, str] = {}
        """Playlist → its first WebVTT segment."""
        self._heads: dict[str, bytes] = {}
        self._references = 0
        self._bytes = 0
        self._has_images = any(extension(path) in IMAGES for path in sizes)

    def read_bytes(self, path: str, limit: int) -> bytes:
        return b"".join(self._source.read(path, limit + 1))

    def head(self, path: str) -> bytes:
        if path not in self._heads:
            self._heads[path] = self._data[path][:256] if path in self._data else self.read_bytes(path, 255)
        return self._heads[path]

    def is_playlist(self, path: str, look: bool = True) -> bool:
        """By its name, or by its first bytes (`look`): a playlist may be called anything."""
        if extension(path) in PLAYLISTS:
            return True
        return look and looks_like_playlist(self.head(path))

    def means_playlist(self, path: str) -> bool:
        """Whether there is a tag in the first bytes, in any encoding: other files may be called playlists too."""
        return b"#EXT" in self.head(path).replace(b"\0", b"")

    def playlist(self, path: str, imports: Mapping[str, str] | None = None) -> _Read:
        known = self._read.get(path)
        if known is not None and (known.imports is None or not imports or imports == known.imports):
            return known
        if path not in self._data:
            self._data[path] = self.read_bytes(path, self.policy.limits.playlist_size)
            self._keep(path, size=len(self._data[path]))
        data = self._data[path]
        findings = Findings(self.policy.severities)
        playlist = parse(Context(path, self.sizes, self.policy, findings, imports or {}), data)
        if known is None and playlist is not None:
            self._keep(path, references=len(playlist.references))
        self._read[path] = _Read(playlist, findings, (imports or {}) if b"IMPORT=" in data else None)
        return self._read[path]

    def _keep(self, path: str, *, size: int = 0, references: int = 0) -> None:
        """Counts what documents take. Raises PackageRefused where all of the package together take too much."""
        limits = self.policy.limits
        self._bytes += size
        self._references += references
        for count, limit, what in (
            (self._bytes, 10 * limits.playlist_size, "bytes"),
            (self._references, 5 * limits.references, "references"),
        ):
            if count > limit:
                refuse("HLS_TOO_LARGE", path, f"the playlists and side files have more than {limit:,} {what}")

    def side_file(self, path: str, kind: str, owner: str) -> _Side:
        """The side file at `path` if a reference of this kind, in the document `owner`, leads to one we understand."""
        if path not in self._sides:
            self._sides[path] = self._read_side(path, kind, owner)
        return self._sides[path]

    def side_findings(self) -> tuple[Finding, ...]:
        """Of all side files that were looked at so far."""
        return tuple(finding for _, findings in self._sides.values() for finding in findings)

    def _read_side(self, path: str, kind: str, owner: str) -> _Side:
        webvtt = kind in _SUBTITLES and extension(path) in (".vtt", ".webvtt")
        side = "thumbnails" if webvtt else _SIDE_KINDS.get(kind)
        if side is None or (webvtt and not self._may_name_images(path, kind, owner)):
            return None, ()
        data = self.read_bytes(path, size_limit(self.policy.limits, side))
        if webvtt and not names_images(data):
            return None, ()
        findings = Findings(self.policy.severities)
        read = parse_side_file(Context(path, self.sizes, self.policy, findings), data, side, kind == "segment")
        if read is None or not read.references:
            return None, findings.result()
        self._keep(path, size=len(read.data), references=len(read.references))
        return read, findings.result()

    def _may_name_images(self, path: str, kind: str, owner: str) -> bool:
        """Segments by the thousand need not be read when there is no picture they could name: the first one tells."""
        first = self._tracks.setdefault(owner, path)
        wanted = kind != "segment" or self._has_images or first == path or self._sides[first][0] is not None
        return wanted and self.sizes[path] <= size_limit(self.policy.limits, "thumbnails")


def find_root(library: Library, named: str | None, findings: Findings) -> str | None:
    """The root playlist: the one that is named, else the only one that no other refers to."""
    if named is not None:
        if named in library.sizes:
            return named
        findings.add("PKG_NO_PLAYLIST", "", None, f"the playlist {shown(named)} is not in the package")
        return None
    candidates = [path for path in library.sizes if extension(path) in PLAYLISTS and not is_junk(path)]
    if len(candidates) > library.policy.limits.playlists:
        findings.add("PKG_TOO_MANY_FILES", "", None, f"{len(candidates):,} playlists are too many")
        return None
    candidates += _unnamed_playlists(library, candidates)
    if not candidates:
        findings.add("PKG_NO_PLAYLIST", "", None, "no file of the package is a playlist")
        return None
    return _only_root(library, sorted(candidates), findings)


def _unnamed_playlists(library: Library, named: list[str]) -> list[str]:
    """Playlists that only their first bytes give away. Files that playlists name as media need no look."""
    mentioned = {path for playlist in named for path in _targets(library, playlist)}
    strange = (
        path
        for path in library.sizes
        if (extension(path) not in CONTENT_TYPES or extension(path) == ".txt")
        and extension(path) not in FORBIDDEN
        and path not in mentioned
        and not is_junk(path)
    )
    return [path for path in strange if library.sizes[path] and library.is_playlist(path)]


def _targets(library: Library, path: str) -> Iterator[str]:
    playlist = library.playlist(path).playlist
    return (r.target for r in playlist.references if r.target) if playlist else iter(())


def _only_root(library: Library, candidates: list[str], findings: Findings) -> str | None:
    children = _reached(library, candidates)
    roots = [path for path in candidates if path not in children]
    if not roots:  # circles only: any of them shows the circle
        return next((p for p in candidates if _is_multivariant(library, p)), candidates[0])
    if len(roots) == 1:
        return roots[0]
    meant = [path for path in roots if library.means_playlist(path)]
    # Named as media, which is wrong, or as siblings by rendition reports (bis 4.4.5.4): no children, no second root.
    named = {target for path in (*candidates, *children) for target in _targets(library, path) if target != path}
    alone = [path for path in meant if path not in named]
    doubtful = [path for path in roots if _is_doubtful(library, path)]
    # What is broken may be what should name the others, so it is judged first.
    for choice in (meant, alone, doubtful):
        if len(choice) == 1:
            return choice[0]
    if doubtful:
        for path in doubtful:
            findings.extend(library.playlist(path).findings.result())
        return None
    names = ", ".join(shown(path, 60) for path in roots[:5]) + (" …" if len(roots) > 5 else "")
    findings.add("PKG_ROOT_AMBIGUOUS", "", None, f"{len(roots)} playlists are named by no other: {names}")
    findings.extend(library.side_findings())  # a broken asset list may be what should name them
    return None


def _reached(library: Library, candidates: list[str]) -> set[str]:
    """Every playlist that another one names, read with what its parent defines: its own URIs may depend on it."""
    reached: set[str] = set()
    pending: list[tuple[str, Mapping[str, str]]] = [(path, {}) for path in candidates]
    while pending:
        path, imports = pending.pop()
        playlist = library.playlist(path, imports).playlist
        for child in _children(library, path):
            if child and child != path and child not in reached:
                reached.add(child)
                pending.append((child, playlist.variables if playlist else {}))
    return reached


def _is_doubtful(library: Library, path: str) -> bool:
    """Whether errors may hide which playlists this one names."""
    read = library.playlist(path)
    return read.findings.failed and (
        read.playlist is None or _is_multivariant(library, path) or None in _children(library, path)
    )


def _is_multivariant(library: Library, path: str) -> bool:
    playlist = library.playlist(path).playlist
    return playlist is not None and playlist.kind == "multivariant"


def _children(library: Library, path: str) -> Iterator[str | None]:
    """The playlists that a playlist refers to, through asset lists too, rendition reports aside; None for one that is
    not there."""
    playlist = library.playlist(path).playlist
    for reference in playlist.references if playlist else ():
        if reference.kind in ("playlist", "asset", "daterange_resource"):
            yield reference.target
        elif reference.kind == "asset_list" and reference.target:
            side, _ = library.side_file(reference.target, reference.kind, path)
            yield from (r.target for r in side.references) if side else ()


class Mention(NamedTuple):
    """One reference to a file that is not a playlist, with the document it stands in."""

    document: Document
    reference: Reference


class Walk:
    """Depth first from the root. Afterwards `playlists`, `side_files`, `mentions` and `order` are complete."""

    def __init__(self, library: Library, findings: Findings, metadata: str | None) -> None:
        self.library = library
        self.findings = findings
        self._metadata = metadata
        self.playlists: dict[str, Playlist] = {}
        self.side_files: dict[str, SideFile] = {}
        self.mentions: dict[str, list[Mention]] = {}
        """File → its references, in the order of first mention."""
        self.order: list[str] = []
        """Playlists and side files, leaves first."""
        self._open: dict[str, None] = {}
        self._entered: set[str] = set()
        self._siblings: dict[str, Document] = {}

    @collector_paused()
    def run(self, root: str) -> None:
        self._follow(self._enter_playlist(root, {}))
        while self._siblings:  # known from rendition reports alone; each may report on more
            path, document = self._siblings.popitem()
            if path not in self._entered:
                self._follow(self._enter_playlist(path, self._imports(document)))

    def _follow(self, steps: _Steps) -> None:
        stack = [steps]
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
                path, _ = self._open.popitem()
                if path in self.playlists or path in self.side_files:
                    self.order.append(path)
            else:
                stack.append(child)

    def _enter_playlist(self, path: str, imports: Mapping[str, str]) -> _Steps:
        read = self.library.playlist(path, imports)
        self.findings.extend(read.findings.result())
        self._open[path] = None
        self._entered.add(path)
        if read.playlist is None:
            return iter(())
        self.playlists[path] = read.playlist
        return self._children(read.playlist)

    def _children(self, document: Document) -> _Steps:
        for reference in document.references:
            target = reference.target
            if target is None:
                continue
            if self._leads_to_playlist(document, reference, target):
                if self._may_follow(document, reference, target):
                    yield self._enter_playlist(target, self._imports(document))
            elif target in self.playlists or (
                target not in self.mentions and self.library.is_playlist(target, look=False)
            ):
                self._mismatch(document, reference, f"{shown(target)} is a playlist")
            elif side := self._mention(document, reference, target):
                yield side

    def _imports(self, document: Document) -> Mapping[str, str]:
        return document.variables if isinstance(document, Playlist) else {}

    def _leads_to_playlist(self, document: Document, reference: Reference, target: str) -> bool:
        if reference.kind == "daterange_resource":
            return self.library.is_playlist(target)
        if reference.kind not in _PLAYLIST_KINDS:
            return False
        if self.library.is_playlist(target):
            return True
        self._mismatch(document, reference, f"{shown(target)} is no playlist")
        return False

    def _may_follow(self, document: Document, reference: Reference, target: str) -> bool:
        """Whether `target` is to be entered now; reports circles and multivariant playlists inside each other."""
        if reference.kind == "rendition_report":
            self._siblings.setdefault(target, document)
            return False
        if self._leads_back(document, reference, target):
            return False
        nested = reference.kind == "playlist" and _is_multivariant(self.library, target)
        if nested:
            self._at("HLS_NESTED_MULTIVARIANT", document, reference, f"{shown(target)} is a multivariant playlist")
        return not nested and target not in self._entered

    def _mention(self, document: Document, reference: Reference, target: str) -> _Steps | None:
        """What there is to follow in a file that is mentioned for the first time."""
        if reference.kind in _PLAYLIST_KINDS:
            return None  # a mismatch, reported already
        if target == self._metadata:
            self._mismatch(document, reference, "metadata.json is never published")
            return None
        if self._leads_back(document, reference, target):
            return None
        mention, known = make_tuple(Mention, (document, reference)), self.mentions.get(target)
        if known is not None:
            known.append(mention)
            return None
        self.mentions[target] = [mention]
        side, findings = self.library.side_file(target, reference.kind, document.path)
        self.findings.extend(findings)
        if side is None:
            return None
        self._open[target] = None
        self.side_files[target] = side
        return self._children(side)

    def _leads_back(self, document: Document, reference: Reference, target: str) -> bool:
        circle = target in self._open
        if circle:
            self._at("HLS_CYCLE", document, reference, f"{shown(target)} leads back to itself")
        return circle

    def _mismatch(self, document: Document, reference: Reference, message: str) -> None:
        self._at("URI_KIND_MISMATCH", document, reference, message)

    def _at(self, code: str, document: Document, reference: Reference, message: str) -> None:
        self.findings.add(code, document.path, reference.line, message)
