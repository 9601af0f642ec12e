"""The rules of multivariant playlists: variants, renditions and their groups (L2).

Sections are those of RFC 8216 unless a draft is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from hls_pipeline.hls.findings import shown
from hls_pipeline.hls.model import Playlist, Variant
from hls_pipeline.hls.reader import Context, PlaylistReader
from hls_pipeline.hls.tokens import Token, place_of

MULTIVARIANT_TAGS = frozenset({
    "EXT-X-MEDIA", "EXT-X-STREAM-INF", "EXT-X-I-FRAME-STREAM-INF", "EXT-X-IMAGE-STREAM-INF", "EXT-X-SESSION-DATA",
    "EXT-X-SESSION-KEY", "EXT-X-CONTENT-STEERING",
})  # fmt: skip

_GROUPS = ("AUDIO", "VIDEO", "SUBTITLES", "CLOSED-CAPTIONS")


class MultivariantReader(PlaylistReader):
    in_multivariant = True
    once = PlaylistReader.once | {"EXT-X-CONTENT-STEERING"}
    required: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **PlaylistReader.required,
        "EXT-X-STREAM-INF": ("BANDWIDTH",),
        "EXT-X-I-FRAME-STREAM-INF": ("BANDWIDTH", "URI"),
        "EXT-X-IMAGE-STREAM-INF": ("URI",),
        "EXT-X-MEDIA": ("TYPE", "GROUP-ID", "NAME"),
        "EXT-X-SESSION-DATA": ("DATA-ID",),
        "EXT-X-SESSION-KEY": ("METHOD",),
        "EXT-X-CONTENT-STEERING": ("SERVER-URI",),
    }

    def __init__(self, context: Context, text: str) -> None:
        super().__init__(context, text)
        self.variants: list[Variant] = []
        self.renditions: list[dict[str, str]] = []
        self._members: set[tuple[str | None, ...]] = set()
        self._session: dict[tuple[str | None, ...], int] = {}
        self._stream: Token | None = None
        self._streams: list[Token] = []
        self.handlers |= {
            "": self.on_uri,
            "EXT-X-STREAM-INF": self.on_stream,
            "EXT-X-I-FRAME-STREAM-INF": self.on_iframes,
            "EXT-X-IMAGE-STREAM-INF": self.refer,
            "EXT-X-MEDIA": self.on_media,
            "EXT-X-SESSION-DATA": self.on_session_data,
            "EXT-X-SESSION-KEY": self.on_session_key,
            "EXT-X-CONTENT-STEERING": self.on_steering,
        }

    def playlist(self, data: bytes) -> Playlist:
        return Playlist(
            self.context.path,
            data,
            "multivariant",
            tuple(self.references),
            variants=tuple(self.variants),
            renditions=tuple(self.renditions),
            variables=self.variables,
        )

    def on_stream(self, token: Token) -> None:
        if self._stream is not None:
            self.add("HLS_VARIANT_WITHOUT_URI", self._stream, "no URI follows this EXT-X-STREAM-INF")
        self._stream = token
        self._streams.append(token)
        self._check_stream(token)

    def _check_stream(self, token: Token) -> None:
        if "CODECS" not in token.attributes:
            self.add("HLS_NO_CODECS", token, f"{token.tag} has no CODECS")
        if "REQ-VIDEO-LAYOUT" in token.attributes:
            self.need(12, "REQ-VIDEO-LAYOUT", token)

    def on_uri(self, token: Token) -> None:
        stream, self._stream = self._stream, None
        self.refer(token)
        if stream is None:
            self.add("HLS_MISSING_EXTINF", token, f"{shown(token.value)} has no EXT-X-STREAM-INF")
        else:
            self.variants.append(Variant(self.references[-1], self.values(stream), iframes=False))

    def on_iframes(self, token: Token) -> None:
        self._check_stream(token)
        if "URI" in token.attributes:
            self.refer(token)
            self.variants.append(Variant(self.references[-1], self.values(token), iframes=True))

    def on_media(self, token: Token) -> None:
        self.refer(token)
        values = self.values(token)
        self.renditions.append(values)
        kind = values.get("TYPE", "")
        if kind == "SUBTITLES" and "URI" not in values:
            self.missing(token, "EXT-X-MEDIA of TYPE=SUBTITLES has no URI")
        if kind == "CLOSED-CAPTIONS":
            self._check_captions(token, values)
        if kind in ("AUDIO", "SUBTITLES") and "LANGUAGE" not in values:
            self.add("HLS_NO_LANGUAGE", token, f"the rendition {shown(values.get('NAME', ''))} has no LANGUAGE")
        if values.get("DEFAULT") == "YES" and values.get("AUTOSELECT") == "NO":
            text = "a rendition with DEFAULT=YES cannot have AUTOSELECT=NO"
            self.add("HLS_BAD_ATTR_VALUE", token, text, place_of(token, "AUTOSELECT"))
        member = (kind, values.get("GROUP-ID"), values.get("NAME"))
        if member in self._members and "NAME" in values:
            text = f"NAME {shown(values['NAME'])} stands twice in one group"
            self.add("HLS_BAD_ATTR_VALUE", token, text, place_of(token, "NAME"))
        self._members.add(member)

    def _check_captions(self, token: Token, values: dict[str, str]) -> None:
        if "INSTREAM-ID" not in values:
            self.missing(token, "EXT-X-MEDIA of TYPE=CLOSED-CAPTIONS has no INSTREAM-ID")
        elif values["INSTREAM-ID"].startswith("SERVICE"):
            self.need(7, "INSTREAM-ID with SERVICE", token)
        if "URI" in values:
            self.add("HLS_BAD_ATTR_VALUE", token, "closed captions stand in the video and have no URI")

    def on_session_data(self, token: Token) -> None:
        values = self.values(token)
        if ("URI" in values) == ("VALUE" in values):
            self.missing(token, "EXT-X-SESSION-DATA needs either VALUE or URI")
        self._note_session(token, "DATA-ID and LANGUAGE", values.get("DATA-ID"), values.get("LANGUAGE"))
        self.refer(token)

    def on_session_key(self, token: Token) -> None:
        values = self.values(token)
        method = values.get("METHOD")
        if method == "NONE":
            self.add("HLS_SESSION_KEY_NONE", token, "METHOD=NONE means nothing here")
        elif "URI" not in token.attributes:
            self.missing(token, "EXT-X-SESSION-KEY has no URI")
        self._note_session(token, "key", *map(values.get, ("METHOD", "URI", "IV", "KEYFORMAT", "KEYFORMATVERSIONS")))
        self.refer(token, cipher=method, keyformat=values.get("KEYFORMAT", "identity"))

    def _note_session(self, token: Token, what: str, *values: str | None) -> None:
        """The tags of a session may stand once for the same values (4.3.4.4, 4.3.4.5: MUST NOT)."""
        first = self._session.setdefault((token.tag, *values), token.line)
        if first != token.line:
            self.add("HLS_DUPLICATE_TAG", token, f"{token.tag} with this {what} stands already on line {first}")

    def on_steering(self, token: Token) -> None:
        self.refer(token)
        self.add("STEERING_EXTERNAL", token, "viewers would ask this address where to load from")

    def finish(self) -> None:
        if self._stream is not None:
            self.add("HLS_VARIANT_WITHOUT_URI", self._stream, "no URI follows this EXT-X-STREAM-INF")
        if not self._streams:
            empty = not any(reference.kind == "playlist" for reference in self.references)
            code = "HLS_EMPTY_MULTIVARIANT" if empty else "HLS_NO_VARIANT"
            self.context.findings.add(code, self.context.path, None, "there is no EXT-X-STREAM-INF")
        self._check_groups()

    def _check_groups(self) -> None:
        groups = {(r.get("TYPE"), r.get("GROUP-ID")) for r in self.renditions}
        for stream in self._streams:
            values = self.values(stream)
            for kind in _GROUPS:
                name = values.get(kind)
                none = kind == "CLOSED-CAPTIONS" and name == "NONE" and not stream.attributes[kind].quoted
                if name is not None and not none and (kind, name) not in groups:
                    text = f"no EXT-X-MEDIA declares {kind} group {shown(name)}"
                    self.add("HLS_GROUP_UNDEFINED", stream, text, place_of(stream, kind))
        defaults = Counter((r.get("TYPE"), r.get("GROUP-ID")) for r in self.renditions if r.get("DEFAULT") == "YES")
        for (kind_, group), count in defaults.items():
            if count > 1:
                text = f"{count} renditions of {shown(kind_ or '', 40)} group {shown(group or '', 120)} are DEFAULT=YES"
                self.context.findings.add("HLS_DEFAULT_TWICE", self.context.path, None, text)
