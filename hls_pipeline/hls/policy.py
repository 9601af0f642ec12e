"""What an installation allows: limits, severities, and what happens to keys.

One frozen `Policy` goes to every check. Add a field when two installations may rightly want different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import quote

from hls_pipeline.errors import UsageError
from hls_pipeline.hls.rules import RULES, Severity

KeyMode = Literal["reject", "publish", "external"]

_RECORDED = ("keys", "key_service_url", "root_relative", "allow_external_keys")


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes. They are generous to real packages and end every bomb early."""

    files: int = 100_000
    total_size: int = 1 << 40
    file_size: int = 1 << 38
    path_length: int = 1024
    name_length: int = 255
    depth: int = 32
    ratio: int = 200
    """Unpacked over packed size from which an archive counts as a bomb; media hardly pack at all."""
    ratio_from: int = 10 << 20
    """Below this size nobody is hurt, and a short playlist may pack very well."""
    playlist_size: int = 20_000_000
    line_length: int = 64_000
    lines: int = 1_500_000
    references: int = 200_000
    """Of one playlist or side file; five times this for all of a package."""
    playlists: int = 2_000
    thumbnails_size: int = 16 << 20
    json_size: int = 2 << 20
    """Of an asset list or a chapters file: parsed, it takes forty times the memory."""
    metadata_size: int = 256 << 10
    metadata_depth: int = 16
    metadata_values: int = 5_000
    metadata_text: int = 20_000


@dataclass(frozen=True)
class Policy:
    """Raises UsageError for a severity of an unknown or unchangeable rule, or a key service that is not https."""

    keys: KeyMode = "reject"
    key_service_url: str | None = None
    """Address of the https key service in mode `external`: `{video_id}` and `{path}` in it become those of the key.
    Where it does not name them, the video stands before the path and the path at the end."""
    video_id: str = ""
    """Whose keys they are: two videos may well use the same names."""
    severities: Mapping[str, Severity] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    root_relative: bool = False
    """Whether `/x` in a playlist means x at the top of the package."""
    allow_external_keys: bool = False
    """Whether an https key address in a playlist is accepted (a warning) and left as it is."""
    second_opinion: bool = True

    def __post_init__(self) -> None:
        for code, severity in self.severities.items():
            if code not in RULES or severity not in ("error", "warning"):
                raise UsageError(f"severity {severity!r} for {code!r}: no such rule or severity; see findings.md")
            if RULES[code].fixed and severity != "error":
                raise UsageError(f"{code} cannot be less than an error: later steps rely on it")
        if self.key_service_url is not None and not self.key_service_url.startswith("https://"):
            raise UsageError("the key service must have an https:// address: keys must not travel in the clear")

    def recorded(self) -> dict[str, Any]:
        """What the published files and playlists of an accepted package depend on, to be kept with it."""
        return {name: getattr(self, name) for name in _RECORDED}

    def of(self, video_id: str, recorded: Mapping[str, Any] | None = None) -> Policy:
        """For a package of this video; where it was accepted before, by what was `recorded` then: a setting that was
        changed since must not change what is published. Raises UsageError where that cannot be."""
        try:
            return replace(self, video_id=video_id, **{n: recorded[n] for n in _RECORDED if recorded and n in recorded})
        except (TypeError, AttributeError) as error:  # a proof comes from anywhere
            raise UsageError(f"what the package of {video_id} was accepted under cannot be read") from error

    def key_url(self, path: str) -> str:
        """The address that a published playlist names for the key at `path`. Raises UsageError without a service."""
        if not self.key_service_url:
            raise UsageError("keys=external needs the https address of the key service")
        service, name = self.key_service_url, quote(path, safe="/")
        if "{video_id}" in service:
            service = service.replace("{video_id}", self.video_id)
        else:
            name = f"{self.video_id}/{name}"
        return service.replace("{path}", name) if "{path}" in service else f"{service.rstrip('/')}/{name}"
