"""A package as a whole: `survey` reads what names files, `check` looks at every published byte as well.

`survey` covers levels L0 to L3 and never reads media; `Package.judge` is level L4 for one file. Rules about a single
playlist, a single name or a single file live in their own modules; here they meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hls_pipeline.errors import PackageRefused
from hls_pipeline.hls.content_types import FORBIDDEN, content_type, extension
from hls_pipeline.hls.facts import media_facts
from hls_pipeline.hls.findings import Finding, Findings, Report, bounded, shown
from hls_pipeline.hls.graph import Library, Mention, Walk, find_root
from hls_pipeline.hls.media import MediaProbe, Uses
from hls_pipeline.hls.metadata import read_metadata
from hls_pipeline.hls.model import PackageFile, Playlist, SideFile
from hls_pipeline.hls.paths import check_paths, metadata_path
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.second_opinion import second_opinion
from hls_pipeline.hls.sources import Source
from hls_pipeline.hls.variants import compare_variants
from hls_pipeline.keys import METADATA

_SEGMENTS = frozenset({"segment", "part"})
_ROLES = {
    "asset_list": "side",
    "session_data": "side",
    "raw_data": "side",
    "daterange_resource": "side",
    "steering": "side",
}


@dataclass(frozen=True)
class Package:
    root: str
    playlists: Mapping[str, Playlist]
    """By path, depth first from the root."""
    side_files: Mapping[str, SideFile]
    """Files besides playlists that carry references; they are among `files` too."""
    files: tuple[PackageFile, ...]
    """What is published besides playlists, in the order of first mention."""
    keys: tuple[PackageFile, ...]
    """Key files that must not be published: for the private bucket in mode `external`."""
    unreferenced: tuple[str, ...]
    metadata: Mapping[str, Any]
    rewrite_order: tuple[str, ...]
    """Playlists and side files, leaves first; only rendition reports point forwards in it."""
    facts: Mapping[str, Any]
    policy: Policy = field(repr=False)
    mentions: Mapping[str, list[Mention]] = field(repr=False)
    image_playlists: frozenset[str] = field(repr=False)

    def judge(self, path: str, probe: MediaProbe) -> tuple[Finding, ...]:
        """Level L4 for one published file, whose bytes `probe` has seen."""
        return probe.findings(path, _uses(self.mentions[path], self.image_playlists), self.policy)


@dataclass(frozen=True)
class Survey:
    package: Package | None
    """Set as soon as the playlists can be followed, even if they break rules; None where there is no root."""
    root: str | None
    findings: tuple[Finding, ...]

    @property
    def report(self) -> Report:
        return Report(self.root, bounded(self.findings))


def survey(source: Source, policy: Policy, playlist: str | None = None) -> Survey:
    """Levels L0 to L3: names, metadata, playlists, references. `playlist` names the root, before metadata.json."""
    findings = Findings(policy.severities)
    try:
        return _survey(source, policy, playlist, findings)
    except PackageRefused as refusal:  # a broken archive: what was found so far, and why reading ended
        return Survey(None, None, (*findings.result(), *refusal.report.findings))


def _survey(source: Source, policy: Policy, playlist: str | None, findings: Findings) -> Survey:
    sizes = source.sizes()
    check_paths(sizes, policy.limits, findings)
    if findings.failed:
        return Survey(None, None, findings.result())
    library = Library(source, sizes, policy)
    meta = metadata_path(sizes)
    metadata = {}
    if meta is not None:
        data = library.read_bytes(meta, policy.limits.metadata_size)
        metadata = dict(read_metadata(meta, data, policy.limits, findings))
    root = find_root(library, playlist or _named(metadata, meta, sizes), findings)
    if root is None:
        return Survey(None, None, findings.result())
    walk = Walk(library, findings, meta)
    walk.run(root)
    if root not in walk.playlists:
        return Survey(None, root, findings.result())
    files, keys = _published(walk, policy)
    _check_files(walk, files, findings)
    compare_variants(root, walk.playlists, findings)
    if policy.second_opinion:
        for path, document in walk.playlists.items():
            if not library.playlist(path).findings.failed:
                second_opinion(document, findings)
    reached = {*walk.playlists, *walk.mentions, meta}
    unreferenced = tuple(path for path in sizes if path not in reached)
    for path in unreferenced:
        findings.add("PKG_UNREFERENCED_FILE", path, None, "no playlist reaches this file; it is not published")
    package = Package(
        root, walk.playlists, walk.side_files, files, keys, unreferenced, metadata, tuple(walk.order),
        media_facts(root, walk.playlists), policy, walk.mentions, _image_playlists(walk.playlists.values()),
    )  # fmt: skip
    return Survey(package, root, findings.result())


def _named(metadata: Mapping[str, Any], meta: str | None, sizes: Mapping[str, int]) -> str | None:
    """The root that metadata.json names: a package path, or a path beside metadata.json."""
    named = metadata.get("playlist")
    if not isinstance(named, str) or meta is None:
        return None
    beside = meta.removesuffix(METADATA) + named
    return beside if named not in sizes and beside in sizes else named


def check(source: Source, policy: Policy, playlist: str | None = None) -> tuple[Package | None, Report]:
    """Levels L0 to L4: every published file is read once, in chunks. The package is None if it is refused."""
    surveyed = survey(source, policy, playlist)
    package, findings = surveyed.package, list(surveyed.findings)
    if package is not None:
        try:
            for file in package.files:
                probe = MediaProbe()
                for chunk in source.read(file.path):
                    probe.feed(chunk)
                findings += package.judge(file.path, probe)
        except PackageRefused as refusal:
            findings += refusal.report.findings
    report = Report(surveyed.root, bounded(findings))
    return (package if report.accepted else None), report


def _published(walk: Walk, policy: Policy) -> tuple[tuple[PackageFile, ...], tuple[PackageFile, ...]]:
    """Files to publish, and key files that stay private."""
    files: list[PackageFile] = []
    keys: list[PackageFile] = []
    for path, mentions in walk.mentions.items():
        kind = mentions[0].reference.kind
        file = PackageFile(path, walk.library.sizes[path], content_type(path), _ROLES.get(kind, kind))
        is_key = any(mention.reference.kind == "key" for mention in mentions)
        (keys if is_key and policy.keys != "publish" else files).append(file)
    return tuple(files), tuple(keys)


def _check_files(walk: Walk, files: Iterable[PackageFile], findings: Findings) -> None:
    """What sizes and names alone can tell."""
    for file in files:
        if extension(file.path) in FORBIDDEN:
            findings.add(
                "PKG_FORBIDDEN_TYPE", file.path, None, f"{shown(extension(file.path))} files are not published"
            )
    for path, mentions in walk.mentions.items():
        _check_use(path, walk.library.sizes[path], mentions, findings)


def _check_use(path: str, size: int, mentions: list[Mention], findings: Findings) -> None:
    kinds = {mention.reference.kind for mention in mentions}
    if "key" in kinds:
        if len(kinds) > 1:
            findings.add("URI_KIND_MISMATCH", path, None, "the file is used as a key and as something else")
        wanted = _key_size(mentions)
        if size != wanted:
            findings.add("KEY_SIZE", path, None, f"the key has {size:,} bytes instead of {wanted}")
        return
    if not size:
        findings.add("MEDIA_EMPTY", path, None, "the file is empty")
        return
    for mention in mentions:
        reference = mention.reference
        part = reference.byterange
        if part and part.end > size:
            text = f"the range {part.length}@{part.offset} ends {part.end - size:,} bytes after {shown(path)}"
            findings.add("BYTERANGE_BEYOND_EOF", mention.document.path, reference.line, text)
        length = part.length if part else size
        if length % 16 and _is_padded(mention):
            findings.add("MEDIA_AES_LENGTH", path, None, f"{length:,} encrypted bytes are no multiple of 16")
            return


def _is_padded(mention: Mention) -> bool:
    """Whether CBC padding makes these bytes a multiple of 16; I-frame ranges may end anywhere (8216 4.3.3.6)."""
    cipher = mention.reference.cipher
    whole = not (isinstance(mention.document, Playlist) and mention.document.kind == "iframe")
    media = mention.reference.kind in ("segment", "init", "part")
    return whole and media and cipher is not None and not cipher.endswith(("-CTR", "-GCM"))


def _key_size(mentions: list[Mention]) -> int:
    return 32 if any((m.reference.cipher or "").startswith("AES-256") for m in mentions) else 16


def _image_playlists(playlists: Iterable[Playlist]) -> frozenset[str]:
    """Playlists of pictures: they say so themselves, or the tag that names them does."""
    own = (playlist.path for playlist in playlists if playlist.kind == "image")
    tagged = (r.target for p in playlists for r in p.references if r.tag == "EXT-X-IMAGE-STREAM-INF" and r.target)
    return frozenset((*own, *tagged))


def _uses(mentions: list[Mention], images: frozenset[str]) -> Uses:
    references = [mention.reference for mention in mentions]
    owners = [mention.document for mention in mentions]
    segments = [r for r in references if r.kind in _SEGMENTS]
    inits = [r for r in references if r.kind == "init"]
    return Uses(
        frozenset(r.kind for r in references),
        hidden=any(r.cipher for r in references if r.kind != "key"),
        iframes=all(isinstance(o, Playlist) and o.kind == "iframe" for o in owners),
        images=any(owner.path in images for owner in owners),
        unmapped=any(not r.mapped for r in segments),
        segmented=any(isinstance(o, Playlist) and len(o.segments) > 1 for o in owners),
        init_ranges=tuple(r.byterange for r in inits if r.byterange) if all(r.byterange for r in inits) else (),
    )
