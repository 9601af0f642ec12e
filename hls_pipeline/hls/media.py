"""Looking at media bytes while they stream past (level L4): containers, signs of the wrong file, time stamps.

`MediaProbe` is an observer: whoever hashes or copies a file feeds it the same chunks, so that nothing is read twice. It
holds a few bytes, never a file, and needs no playlist while they pass: what the file is used for is asked at the end.
What MP4 boxes say is in `mp4.py`; sizes are judged before, in `package.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hls_pipeline.hls.findings import Finding, Findings, shown
from hls_pipeline.hls.model import ByteRange
from hls_pipeline.hls.mp4 import BoxReader, looks_like_mp4
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.text import looks_like_playlist

_HEAD = 4096
_PACKET = 188
_ACTIVE = re.compile(
    rb"<!--|<(?:!doctype html|html|head|body|title|style|script|iframe|svg|h1|div|font|table|a|b|br|p)[\s/>]"
    rb"|<\?xml[^>]*>\s*<(?:\w+:)?(?:html|svg)|%PDF-|#!|MZ|\x7fELF",
    re.IGNORECASE,
)
"""What browsers take for a page whatever its name (https://mimesniff.spec.whatwg.org/#identifying-a-resource-with-an-unknown-mime-type),
and programs."""
_MEDIA_ROLES = frozenset({"segment", "part", "hint", "init"})
_IMAGE = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8")
_ID3_STAMP = b"com.apple.streaming.transportStreamTimestamp"
_FOOTER = 0x10
"""Flag of an ID3 tag that ends like it begins (ID3v2.4 section 3.1)."""


@dataclass(frozen=True)
class Uses:
    """How the playlists use one file, as far as its bytes have to answer for it."""

    roles: frozenset[str]
    hidden: bool = False
    """Encrypted as a whole: the container cannot be seen."""
    iframes: bool = False
    images: bool = False
    unmapped: bool = False
    """Used as a segment without EXT-X-MAP."""
    segmented: bool = False
    """One of several segments of its playlist."""
    init_ranges: tuple[ByteRange, ...] = ()
    """Parts used as initialization section; empty: the whole file."""


class MediaProbe:
    """`feed` every chunk of the file in order, then ask for `findings`."""

    def __init__(self) -> None:
        self.head = b""
        """The first 4,096 bytes."""
        self.size = 0
        self._format: str | None = None
        self.ts_broken: int | None = None
        """Where the first packet of a transport stream is missing."""
        self.boxes: BoxReader | None = None

    def feed(self, chunk: bytes) -> None:
        if self._format is not None:
            self._pass(chunk)
            return
        self.head += chunk
        if len(self.head) >= _HEAD:
            self._begin()

    def _begin(self) -> None:
        """Once the head is there (or the whole of a shorter file): from here on the format is known."""
        first, self.head = self.head, self.head[:_HEAD]
        self._format = sniff(self.head)
        if self._format == "mp4":
            self.boxes = BoxReader()
        self._pass(first)

    def _pass(self, chunk: bytes) -> None:
        start, self.size = self.size, self.size + len(chunk)
        if self.boxes is not None:
            self.boxes.feed(chunk)
        elif self._format == "ts" and self.ts_broken is None:
            first = -start % _PACKET
            syncs = chunk[first::_PACKET]
            if syncs.count(0x47) != len(syncs):
                wrong = next(i for i, byte in enumerate(syncs) if byte != 0x47)
                self.ts_broken = start + first + wrong * _PACKET

    @property
    def format(self) -> str:
        """ts, mp4, vtt, aac, mp3, ac3, ac4, image, playlist, or '' for anything else."""
        if self._format is None:
            self._begin()
        return self._format or ""

    def findings(self, path: str, uses: Uses, policy: Policy) -> tuple[Finding, ...]:
        """What is wrong with the file for what the playlists want of it."""
        seen = self.format
        return _Judgement(self, "hidden" if uses.hidden else seen, path, uses, policy).findings() if self.size else ()


class _Judgement:
    def __init__(self, seen: MediaProbe, form: str, path: str, uses: Uses, policy: Policy) -> None:
        self._seen, self._format, self._path, self._uses = seen, form, path, uses
        self._found = Findings(policy.severities)

    def findings(self) -> tuple[Finding, ...]:
        self._judge()
        return self._found.result()

    def _add(self, code: str, message: str, *, mild: bool = False) -> None:
        self._found.add(code, self._path, None, message, severity="warning" if mild else None)

    def _judge(self) -> None:
        media = bool(self._uses.roles & _MEDIA_ROLES)
        if self._format == "playlist":
            self._add("URI_KIND_MISMATCH", "the file is a playlist")
        elif is_active(self._seen.head) or (self._format == "hidden" and self._seen.head.startswith(b"<?xml")):
            code = "MEDIA_UNKNOWN_TYPE" if media else "PKG_FORBIDDEN_TYPE"
            self._add(code, f"the file begins with {shown(self._seen.head[:60].decode('utf-8', 'replace'))}")
        elif media and self._format != "hidden":
            self._judge_media()
        elif "image" in self._uses.roles and self._format not in ("image", "mp4"):  # AVIF and HEIC are made of boxes
            self._add("MEDIA_UNKNOWN_TYPE", f"the file is no picture; it begins with {self._begin_shown()}")

    def _judge_media(self) -> None:
        if self._format == "ts":
            self._judge_ts()
        elif self._format == "mp4":
            self._judge_mp4()
        elif self._format == "vtt":
            self._judge_vtt()
        elif self._format in ("aac", "mp3", "ac3", "ac4"):
            self._judge_audio()
        elif self._format != "image" or not self._uses.images:
            text = f"the file is no media that HLS knows; it begins with {self._begin_shown()}"
            self._add("MEDIA_UNKNOWN_TYPE", text)

    def _begin_shown(self) -> str:
        return shown(self._seen.head[:24].decode("latin-1"))

    def _judge_ts(self) -> None:
        if self._seen.ts_broken is not None:
            self._add("MEDIA_TS_SYNC", f"there is no packet at byte {self._seen.ts_broken:,}")
        elif self._seen.size % _PACKET:
            self._add("MEDIA_TS_LENGTH", f"{self._seen.size % _PACKET} bytes are left over after the last packet")

    def _judge_mp4(self) -> None:
        assert self._seen.boxes is not None
        boxes = self._seen.boxes
        fault = boxes.fault(self._seen.size)
        if fault:
            self._add("MEDIA_MP4_BOX", fault, mild=self._uses.iframes)
        if "init" in self._uses.roles:
            self._judge_init(boxes)
        if not self._uses.roles & {"segment", "part"} or fault:
            return
        if self._uses.unmapped and not self._uses.images:
            own = boxes.has("moov")
            what = "each segment brings its own moov" if own else "nothing says how to decode it"
            self._add("HLS_MAP_REQUIRED", f"an MP4 segment without EXT-X-MAP: {what}", mild=own)
        if self._uses.unmapped or "init" in self._uses.roles:
            return
        if not boxes.has("moof"):
            self._add("MEDIA_NO_MOOF", "the segment holds no movie fragment")
        elif not boxes.has("mdat"):
            self._add("MEDIA_NO_MOOF", "the segment ends after the head of its movie fragment: there is no mdat box")

    def _judge_init(self, boxes: BoxReader) -> None:
        for part in self._uses.init_ranges or (None,):
            if not boxes.has("moov", part):
                self._add("MEDIA_INIT_INVALID", "the initialization section has no moov box, or not all of it")
            elif not boxes.has("ftyp", part):
                self._add("MEDIA_INIT_INVALID", "the initialization section has no ftyp box", mild=True)

    def _judge_audio(self) -> None:
        if "init" in self._uses.roles:
            self._add("MEDIA_INIT_INVALID", "packed audio has no initialization section")
        if self._uses.segmented and "segment" in self._uses.roles and _ID3_STAMP not in self._seen.head:
            self._add("MEDIA_NO_TIMESTAMP", "packed audio without the ID3 time stamp of HLS")

    def _judge_vtt(self) -> None:
        header = re.split(rb"\r?\n\r?\n", self._seen.head, maxsplit=1)[0]
        if self._uses.segmented and b"X-TIMESTAMP-MAP" not in header:
            self._add("MEDIA_NO_TIMESTAMP", "WebVTT without X-TIMESTAMP-MAP: cues may be shown at the wrong time")


def is_active(head: bytes) -> bool:
    """Whether a browser would show a file as a page, or a computer run it."""
    return bool(_ACTIVE.match(head[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")))


def sniff(head: bytes) -> str:
    """The format that the first bytes of a file show; '' for nothing that HLS knows."""
    if looks_like_playlist(head):
        return "playlist"
    if _is_ts(head):
        return "ts"
    if looks_like_mp4(head):
        return "mp4"
    if head.removeprefix(b"\xef\xbb\xbf")[:6] == b"WEBVTT":
        return "vtt" if re.match(rb"WEBVTT(?:[ \t\r\n]|$)", head.removeprefix(b"\xef\xbb\xbf")) else ""
    if head.startswith(_IMAGE) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return "image"
    return _sniff_audio(head) or ("ts" if _was_ts(head) else "")


def _is_ts(head: bytes) -> bool:
    """Whether most packets begin as they should. A whole one is wanted: a text may begin with G."""
    starts = head[::_PACKET]
    return len(head) >= _PACKET and 2 * starts.count(0x47) > len(starts)


def _was_ts(head: bytes) -> bool:
    """Whether packets follow each other at any place: bytes were lost or added right at the start."""
    return any(head[at::_PACKET].count(0x47) >= 4 for at in range(_PACKET))


def _sniff_audio(head: bytes) -> str:
    tagged = False
    while head.startswith(b"ID3") and len(head) >= 10:  # the time stamp of HLS, then those that were there before
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        head = head[10 + size + (10 if head[5] & _FOOTER else 0) :]
        tagged = True
    if len(head) < 2:
        return "aac" if tagged else ""  # a tag longer than what is looked at, or nothing but a tag
    word = head[0] << 8 | head[1]
    if word & 0xFFF6 == 0xFFF0:
        return "aac"
    if word & 0xFFE0 == 0xFFE0 and word & 0x0006 in (0x0002, 0x0004):
        return "mp3"  # layers III and II; what looks like layer I is a text in UTF-16, or stuffing of a cut stream
    if word == 0x0B77:
        return "ac3"
    return "ac4" if word in (0xAC40, 0xAC41) else ""
