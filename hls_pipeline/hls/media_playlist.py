"""The rules of media playlists: segments, byte ranges, keys, and what a finished stream must and must not hold (L2).

Sections are those of RFC 8216 unless a draft is named. Rules that compare playlists are in `graph.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from hls_pipeline.hls.findings import shown
from hls_pipeline.hls.model import ByteRange, Playlist, PlaylistKind, Segment
from hls_pipeline.hls.reader import Context, PlaylistReader, integer
from hls_pipeline.hls.tokens import Token, make_tuple, place_of
from hls_pipeline.hls.uris import resolve

MEDIA_TAGS = frozenset({
    "EXTINF", "EXT-X-BYTERANGE", "EXT-X-DISCONTINUITY", "EXT-X-KEY", "EXT-X-MAP", "EXT-X-PROGRAM-DATE-TIME",
    "EXT-X-GAP", "EXT-X-BITRATE", "EXT-X-PART", "EXT-X-TARGETDURATION", "EXT-X-MEDIA-SEQUENCE",
    "EXT-X-DISCONTINUITY-SEQUENCE", "EXT-X-ENDLIST", "EXT-X-PLAYLIST-TYPE", "EXT-X-I-FRAMES-ONLY",
    "EXT-X-IMAGES-ONLY", "EXT-X-PART-INF", "EXT-X-SERVER-CONTROL", "EXT-X-SKIP", "EXT-X-PRELOAD-HINT",
    "EXT-X-RENDITION-REPORT", "EXT-X-DATERANGE", "EXT-X-TILES",
})  # fmt: skip

_ONCE = frozenset({
    "EXT-X-TARGETDURATION", "EXT-X-MEDIA-SEQUENCE", "EXT-X-DISCONTINUITY-SEQUENCE", "EXT-X-ENDLIST",
    "EXT-X-PLAYLIST-TYPE", "EXT-X-I-FRAMES-ONLY", "EXT-X-PART-INF", "EXT-X-SERVER-CONTROL",
})  # fmt: skip
_LIVE = (
    "EXT-X-PART",
    "EXT-X-PART-INF",
    "EXT-X-SERVER-CONTROL",
    "EXT-X-PRELOAD-HINT",
    "EXT-X-RENDITION-REPORT",
    "EXT-X-SKIP",
)
_DURATION = re.compile(r"[0-9]{1,20}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}")
_DATE = re.compile(
    r"\d{4}-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])[Tt ]([01]\d|2[0-4]):?[0-5]\d(:?([0-5]\d|60)([.,]\d+)?)?"
    r"([Zz]|[+-]\d\d(:?\d\d)?)?",
    re.ASCII,
)
_HIDING = ("AES-128", "AES-256")
"""Methods that encrypt the whole segment, container included (AES-256, AES-256-CTR, AES-256-GCM begin alike)."""


class MediaReader(PlaylistReader):
    once = PlaylistReader.once | _ONCE
    required: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **PlaylistReader.required,
        "EXT-X-KEY": ("METHOD",),
        "EXT-X-MAP": ("URI",),
        "EXT-X-PART": ("URI", "DURATION"),
        "EXT-X-PRELOAD-HINT": ("TYPE", "URI"),
        "EXT-X-RENDITION-REPORT": ("URI",),
        "EXT-X-DATERANGE": ("ID",),
    }

    def __init__(self, context: Context, text: str) -> None:
        super().__init__(context, text)
        self.segments: list[Segment] = []
        self.kind: PlaylistKind = "media"
        self.target_duration: int | None = None
        self.playlist_type: str | None = None
        self._numbers: dict[str, int | None] = {}
        self.discontinuities = 0
        self._extinf: Token | None = None
        self._duration: Decimal | None = None
        self._durations: dict[str, Decimal] = {}
        self._range: tuple[Token, int, int | None] | None = None
        self._gap = False
        self._hiding: set[str] = set()
        """Key formats in force whose method hides the file's format."""
        self._without_iv: set[str] = set()
        """Key formats in force with AES-128 and no IV."""
        self._latest_key: tuple[str, ...] = ()
        """Method, format and attribute names of the latest key."""
        self._cipher: str | None = None
        self._mapped = False
        self._map_token: Token | None = None
        self._previous: tuple[str, int] | None = None
        self._previous_part: tuple[str, int] | None = None
        self._dateranges: list[Token] = []
        self._live: dict[str, Token] = {}
        self.handlers |= {
            "": self.on_uri,
            "EXTINF": self.on_extinf,
            "EXT-X-BYTERANGE": self.on_byterange,
            "EXT-X-DISCONTINUITY": self.on_discontinuity,
            "EXT-X-GAP": self.on_gap,
            "EXT-X-KEY": self.on_key,
            "EXT-X-MAP": self.on_map,
            "EXT-X-TARGETDURATION": self.on_target_duration,
            "EXT-X-MEDIA-SEQUENCE": self.on_number,
            "EXT-X-DISCONTINUITY-SEQUENCE": self.on_number,
            "EXT-X-PLAYLIST-TYPE": self.on_playlist_type,
            "EXT-X-I-FRAMES-ONLY": self.on_iframes_only,
            "EXT-X-IMAGES-ONLY": self.on_images_only,
            "EXT-X-PROGRAM-DATE-TIME": self.on_date,
            "EXT-X-ENDLIST": self.on_endlist,
            "EXT-X-DATERANGE": self.on_daterange,
            "EXT-X-SKIP": self.on_skip,
            **dict.fromkeys(("EXT-X-PART", "EXT-X-PRELOAD-HINT", "EXT-X-RENDITION-REPORT"), self.on_live_reference),
            **dict.fromkeys(("EXT-X-PART-INF", "EXT-X-SERVER-CONTROL"), self.on_live),
        }

    def playlist(self, data: bytes) -> Playlist:
        return Playlist(
            self.context.path,
            data,
            self.kind,
            tuple(self.references),
            sum((segment.duration for segment in self.segments), Decimal(0)),
            tuple(self.segments),
            target_duration=self.target_duration,
            playlist_type=self.playlist_type,
            discontinuity_sequence=self._numbers.get("EXT-X-DISCONTINUITY-SEQUENCE") or 0,
            discontinuities=self.discontinuities,
            variables=self.variables,
        )

    # segments

    def on_extinf(self, token: Token) -> None:
        if self._extinf is not None:
            self._without_uri(self._extinf)
        self._extinf = token
        self._duration = self._durations.get(token.value) or self._read_duration(token)

    def _read_duration(self, token: Token) -> Decimal | None:
        """The seconds of an EXTINF. Spellings without fault are remembered: most segments last equally long."""
        value, comma, _ = token.value.partition(",")
        stripped = value.strip(" \t")
        if stripped != value:
            self.add("HLS_WHITESPACE", token, "blanks around the duration")
        if not comma:
            self.add("HLS_EXTINF_NO_COMMA", token, "EXTINF has no comma")
        if not _DURATION.fullmatch(stripped):
            self.add("HLS_BAD_EXTINF", token, f"{shown(stripped)} is no duration", (8, max(1, len(value))))
            return None
        duration = Decimal(stripped)
        if "." in stripped:
            self.need(3, "EXTINF with a fraction", token)
        if not duration:
            self.add("HLS_ZERO_DURATION", token, "the segment lasts 0 seconds")
        elif comma and stripped == value:
            self._durations[token.value] = duration
        return duration

    def on_uri(self, token: Token) -> None:
        extinf, self._extinf = self._extinf, None
        byterange = self._take_range(token) if self._range or self._previous else None
        gap, self._gap = self._gap, False
        if extinf is None:
            self.add("HLS_MISSING_EXTINF", token, f"{shown(token.value)} has no EXTINF")
        self.refer(token, byterange=byterange, cipher=self._cipher, mapped=self._mapped, gap=gap)
        if extinf is not None and self._duration is not None:
            self.segments.append(make_tuple(Segment, (extinf.line, self._duration, self.references[-1])))

    def _without_uri(self, extinf: Token) -> None:
        self.add("HLS_SEGMENT_WITHOUT_URI", extinf, "no URI follows this EXTINF")

    def on_byterange(self, token: Token) -> None:
        self.need(4, "EXT-X-BYTERANGE", token)
        if self._range is not None:
            self.add("HLS_DUPLICATE_TAG", token, "a second EXT-X-BYTERANGE for one segment")
        parsed = self.parse_byterange(token, self.plain_value(token))
        self._range = (token, *parsed) if parsed else None

    def _take_range(self, uri: Token) -> ByteRange | None:
        """The range of this URI. Without offset it continues that of the segment before, if the file is the same."""
        pending, self._range = self._range, None
        previous, self._previous = self._previous, None
        if pending is None:
            return None
        token, length, offset = pending
        if offset is None:
            if previous is None or not self._is_same(previous[0], uri.value):
                self.add("HLS_BYTERANGE_NO_OFFSET", token, f"no range of {shown(uri.value)} comes right before")
                return None
            offset = previous[1]
        self._previous = (uri.value, offset + length)
        return ByteRange(length, offset)

    def _is_same(self, one: str, other: str) -> bool:
        """Whether two URIs name the same file, each in its spelling."""
        if one == other:
            return True
        targets = {resolve(uri, self.base, self.context.files).target for uri in (one, other)}
        return len(targets) == 1 and None not in targets

    def on_discontinuity(self, token: Token) -> None:
        self.discontinuities += bool(self.segments)

    def on_gap(self, token: Token) -> None:
        self._gap = True

    def on_key(self, token: Token) -> None:
        method, keyformat = self.value(token, "METHOD"), self.value(token, "KEYFORMAT", "identity")
        key = (method, keyformat, *token.attributes)
        if key != self._latest_key:  # most keys differ from the one before in URI and IV only
            self._latest_key = key
            self._use_key(token, method, keyformat)
        if method == "NONE":
            if len(token.attributes) > 1:
                self.add("HLS_KEY_NONE_ATTRS", token, "METHOD=NONE allows no other attribute")
        elif "URI" not in token.attributes:
            self.missing(token, "EXT-X-KEY has no URI")
        self.refer(token, cipher=method, keyformat=keyformat)

    def _use_key(self, token: Token, method: str, keyformat: str) -> None:
        """A key stays in force until the next of its format. All are never gone through: there may be 100,000."""
        if method == "NONE":
            self._hiding.clear()
            self._without_iv.clear()
            self._cipher = None
            return
        has_iv = "IV" in token.attributes
        if has_iv:
            self.need(2, "IV", token)
        if "KEYFORMAT" in token.attributes or "KEYFORMATVERSIONS" in token.attributes:
            self.need(5, "KEYFORMAT", token)
        if method.startswith(_HIDING):
            self._hiding.add(keyformat)
            self._cipher = method
        else:
            self._hiding.discard(keyformat)
            self._cipher = self._cipher if self._hiding else None
        (self._without_iv.add if method == "AES-128" and not has_iv else self._without_iv.discard)(keyformat)

    def on_map(self, token: Token) -> None:
        self._mapped = True
        self._map_token = self._map_token or token
        values = self.values(token)
        byterange = None
        if "BYTERANGE" in values:
            parsed = self.parse_byterange(token, values["BYTERANGE"])
            byterange = ByteRange(parsed[0], parsed[1] or 0) if parsed else None
        if self._without_iv:
            self.add("HLS_MAP_IV_MISSING", token, "this EXT-X-MAP is encrypted by an EXT-X-KEY without IV")
        self.refer(token, byterange=byterange, cipher=self._cipher)

    # the playlist as a whole

    def on_target_duration(self, token: Token) -> None:
        value = self.plain_value(token)
        self.target_duration = integer(value) or None
        if self.target_duration is None:
            self.add("HLS_BAD_TARGETDURATION", token, f"{shown(value)} is no whole number of seconds")

    def on_number(self, token: Token) -> None:
        value = self.plain_value(token)
        if self.segments:
            self.add("HLS_BAD_ATTR_VALUE", token, f"{token.tag} must stand before the first segment")
        number = self._numbers[token.tag] = integer(value)
        if number is None:
            self.add("HLS_BAD_NUMBER", token, f"{shown(value)} is no decimal integer")

    def on_playlist_type(self, token: Token) -> None:
        self.playlist_type = self.plain_value(token)
        if self.playlist_type not in ("EVENT", "VOD"):
            self.add("HLS_BAD_PLAYLIST_TYPE", token, f"{shown(self.playlist_type)} is neither EVENT nor VOD")

    def on_iframes_only(self, token: Token) -> None:
        self.need(4, "EXT-X-I-FRAMES-ONLY", token)
        self.kind = "iframe"

    def on_images_only(self, token: Token) -> None:
        self.kind = "image"

    def on_endlist(self, token: Token) -> None:
        if token.value.strip(" \t\r"):
            self.add("HLS_BAD_ATTR_VALUE", token, "EXT-X-ENDLIST has no value")

    def on_date(self, token: Token) -> None:
        self.seen.setdefault(token.tag, token.line)
        value = self.plain_value(token)
        if not _DATE.fullmatch(value):
            self.add("HLS_BAD_DATE", token, f"{shown(value)} is no date and time")

    def on_daterange(self, token: Token) -> None:
        self._dateranges.append(token)
        values = {name: attribute.value for name, attribute in token.attributes.items()}
        for name in ("START-DATE", "END-DATE"):
            if name in values and not _DATE.fullmatch(values[name]):
                text = f"{name} {shown(values[name])} is no date and time"
                self.add("HLS_BAD_DATE", token, text, place_of(token, name))
        if _is_before(values.get("END-DATE"), values.get("START-DATE")):
            self.add("HLS_BAD_ATTR_VALUE", token, "END-DATE is before START-DATE", place_of(token, "END-DATE"))
        if "X-ASSET-URI" in values and "X-ASSET-LIST" in values:
            text = "X-ASSET-URI and X-ASSET-LIST exclude each other"
            self.add("HLS_BAD_ATTR_VALUE", token, text, place_of(token, "X-ASSET-LIST"))
        self.refer(token)

    def on_skip(self, token: Token) -> None:
        if token.readable:
            self.add("HLS_DELTA_UPDATE", token, "EXT-X-SKIP leaves segments out")
            self.on_live(token)

    def on_live(self, token: Token) -> None:
        self._live.setdefault(token.tag, token)

    def on_live_reference(self, token: Token) -> None:
        self.on_live(token)
        values = self.values(token)
        byterange = self._hint_range(values) if token.tag == "EXT-X-PRELOAD-HINT" else self._part_range(token, values)
        self.refer(token, byterange=byterange, cipher=self._cipher, mapped=self._mapped, gap=values.get("GAP") == "YES")

    def _part_range(self, token: Token, values: Mapping[str, str]) -> ByteRange | None:
        """Without offset it continues the range of the part before, if the file is the same (bis 4.4.4.9)."""
        previous, self._previous_part = self._previous_part, None
        parsed = self.parse_byterange(token, values["BYTERANGE"]) if "BYTERANGE" in values else None
        if parsed is None:
            return None
        (length, offset), uri = parsed, values.get("URI", "")
        if offset is None and previous is not None and self._is_same(previous[0], uri):
            offset = previous[1]
        if offset is None:
            return None
        self._previous_part = (uri, offset + length)
        return ByteRange(length, offset)

    def _hint_range(self, values: Mapping[str, str]) -> ByteRange | None:
        start, length = integer(values.get("BYTERANGE-START", "0")), integer(values.get("BYTERANGE-LENGTH", ""))
        return ByteRange(length, start) if length and start is not None else None

    def finish(self) -> None:
        findings, path = self.context.findings, self.context.path
        if self._extinf is not None:
            self._without_uri(self._extinf)
        if "EXT-X-TARGETDURATION" not in self.seen:
            findings.add("HLS_NO_TARGETDURATION", path, None, "there is no EXT-X-TARGETDURATION")
        if "EXT-X-ENDLIST" not in self.seen:
            findings.add("HLS_NO_ENDLIST", path, None, "there is no EXT-X-ENDLIST: the stream is live or cut off")
        if not any(reference.kind == "segment" for reference in self.references):
            findings.add("HLS_EMPTY_MEDIA", path, None, "the playlist has no segment")
        if self._map_token is not None:
            self.need(5 if self.kind == "iframe" else 6, "EXT-X-MAP", self._map_token)
        for tag in _LIVE:
            if tag in self._live:
                self.add("HLS_LIVE_TAG", self._live[tag], f"{tag} means nothing in a finished stream")
        self._check_dateranges()
        self._check_durations()

    def _check_dateranges(self) -> None:
        dated = {_id(token) for token in self._dateranges if "START-DATE" in token.attributes}
        for token in self._dateranges:
            if "EXT-X-PROGRAM-DATE-TIME" not in self.seen:
                self.add("HLS_DATERANGE_NO_DATE", token, "no EXT-X-PROGRAM-DATE-TIME says where this date is")
            if token.readable and _id(token) not in dated:  # a later tag with the same ID only adds to a range
                self.add("HLS_MISSING_ATTR", token, "this EXT-X-DATERANGE has no START-DATE", severity="warning")

    def _check_durations(self) -> None:
        if self.target_duration is None or not self.segments:
            return
        most = self.target_duration + Decimal("0.5")
        if max(segment.duration for segment in self.segments) <= most:
            return
        lines = self.text.split("\n")
        for segment in self.segments:
            if segment.duration > most:
                text = f"the segment lasts {segment.duration} s, EXT-X-TARGETDURATION is {self.target_duration}"
                line = lines[segment.line - 1].rstrip("\r")
                place = (line, len("#EXTINF:"), line.find(",") - len("#EXTINF:"))
                self.context.findings.add(
                    "HLS_TARGETDURATION_EXCEEDED", self.context.path, segment.line, text, place=place
                )


def _id(daterange: Token) -> str | None:
    return daterange.attributes["ID"].value if "ID" in daterange.attributes else None


def _is_before(one: str | None, other: str | None) -> bool:
    try:
        return datetime.fromisoformat(one or "") < datetime.fromisoformat(other or "")
    except (ValueError, TypeError):  # not both there, no dates, or one without time zone
        return False
