"""What a package consists of: playlists, references, side files, published files. Values only, no reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple

PlaylistKind = Literal["multivariant", "media", "iframe", "image"]


class ByteRange(NamedTuple):
    """Bytes; the offset counts from the start of the file."""

    length: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Reference(NamedTuple):
    """One URI of a playlist or side file. `raw` is `text[start:end]`, nothing else is ever replaced."""

    line: int
    tag: str
    """Tag without '#'; empty for a URI line."""
    attr: str | None
    kind: str
    """playlist, segment, init, key, drm, part, hint, asset, asset_list, session_data, image, … (see tokens.py)."""
    raw: str
    start: int
    end: int
    byterange: ByteRange | None
    target: str | None
    """Package path; None means it stays as it is (DRM, data:, a gap, a steering server)."""
    uri: str
    """`raw` with variables substituted."""
    quoted: bool = False
    cipher: str | None = None
    """METHOD of the key where it hides the file's format (AES-128, AES-256…), else None. Of a key its METHOD."""
    mapped: bool = False
    """Whether an EXT-X-MAP applies to this segment."""
    replacement: str | None = None
    """Fixed address that every published form names here: the key service in mode `external`."""


class Segment(NamedTuple):
    line: int
    duration: Decimal
    """Seconds."""
    reference: Reference


class Variant(NamedTuple):
    """One EXT-X-STREAM-INF or EXT-X-I-FRAME-STREAM-INF."""

    reference: Reference
    attributes: Mapping[str, str]
    iframes: bool


@dataclass(frozen=True)
class Playlist:
    path: str
    data: bytes = field(repr=False)
    """The creator's bytes; every form is rendered from these."""
    kind: PlaylistKind
    references: tuple[Reference, ...] = field(repr=False)
    duration: Decimal = Decimal(0)
    """Seconds; 0 for a multivariant playlist."""
    segments: tuple[Segment, ...] = field(default=(), repr=False)
    variants: tuple[Variant, ...] = ()
    renditions: tuple[Mapping[str, str], ...] = ()
    """Attributes of each EXT-X-MEDIA."""
    target_duration: int | None = None
    playlist_type: str | None = None
    discontinuity_sequence: int = 0
    discontinuities: int = 0
    """How many there are after the first segment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What EXT-X-DEFINE provides, for children to import."""


@dataclass(frozen=True)
class SideFile:
    """A file besides playlists that names files: asset list, chapters, thumbnail track."""

    path: str
    data: bytes = field(repr=False)
    kind: Literal["asset_list", "chapters", "thumbnails"]
    references: tuple[Reference, ...] = field(repr=False)


@dataclass(frozen=True)
class PackageFile:
    path: str
    size: int
    content_type: str
    role: str
    """segment, init, key, side, image, session_data, …: the kind of its first reference."""
