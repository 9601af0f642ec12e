"""Every rule a package is held to, as one table: code, severity, what it means, where it is written, what to do.

Add a rule here first, then the code that finds it; `docs/reference/findings.md` shows this table and a test compares
the two. "8216" is RFC 8216, "bis" is draft-pantos-hls-rfc8216bis-22. A rule that is not `fixed` may be given another
severity by `Policy.severities`; a fixed one guards something that later steps rely on.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Rule(NamedTuple):
    code: str
    severity: Severity
    meaning: str
    section: str | None
    advice: str
    fixed: bool = False
    """True where nothing but an error makes sense: without it a later step would guess or do harm."""


_E: Severity = "error"
_W: Severity = "warning"

# fmt: off
_ARCHIVE = (
    Rule("PKG_PATH_UNSAFE", _E,
         "A name is absolute, climbs out of the package, holds a backslash, a drive letter or a control character, "
         "is not UTF-8, is too long or too deep, or is a mark of the inbox (`_READY`, `_REJECTED.json`).", None,
         "Rename the file; use relative paths with '/' only.", True),
    Rule("PKG_LINK", _E, "An entry is a link, a device or a pipe, not a plain file.", None,
         "Put the file itself in place of the link.", True),
    Rule("PKG_SYMLINK_ESCAPE", _E, "A symbolic link leads out of the package.", None,
         "Put the file itself in place of the link.", True),
    Rule("PKG_DUPLICATE_PATH", _E,
         "Two entries have the same name, or names that differ only in case or Unicode form; or a file is called like "
         "a folder.", None,
         "Give every file a name of its own.", True),
    Rule("PKG_TOO_MANY_FILES", _E, "The package holds more files than the limit.", None,
         "Split the package, or leave out what no playlist names.", True),
    Rule("PKG_TOO_LARGE", _E, "The package, or one of its files, is larger than the limit.", None,
         "Split the package, or ask for a higher limit.", True),
    Rule("PKG_RATIO", _E, "The archive would unpack to far more bytes than media ever does.", None,
         "Send the media as they are; packing does not make them smaller.", True),
    Rule("PKG_ENCRYPTED_ARCHIVE", _E, "The archive needs a password.", None, "Pack it again without a password.",
         True),
    Rule("PKG_BAD_ARCHIVE", _E, "The archive is damaged, or of a kind that is not read here.", None,
         "Send a folder, a zip, a tar or a tar.gz; pack it again if it is one of these.", True),
    Rule("PKG_NO_PLAYLIST", _E, "There is no playlist, or not the one that metadata.json names.", "8216 §4",
         "Add the playlist, or correct the field `playlist`.", True),
    Rule("PKG_ROOT_AMBIGUOUS", _E, "More than one playlist is named by no other, so none is the root.", None,
         'Name the root playlist in metadata.json: {"playlist": "master.m3u8"}.', True),
    Rule("PKG_UNREFERENCED_FILE", _W, "No playlist reaches the file; it is not published.", None,
         "Nothing, unless a playlist should have named it."),
    Rule("PKG_FORBIDDEN_TYPE", _E, "The file could run in a browser or on a computer (HTML, SVG, script, program).",
         None, "Take it out of the playlists.", True),
)

_METADATA = (
    Rule("META_NOT_JSON", _E, "metadata.json is not a JSON object in UTF-8.", "RFC 8259 §2", "Write one JSON object.",
         True),
    Rule("META_TOO_LARGE", _E,
         "metadata.json exceeds the limit on size, depth, number of values or length of a text.", None, "Shorten it.",
         True),
    Rule("META_RESERVED_NAME", _E, "metadata.json uses a name that the pipeline writes itself.", None,
         "Give the field another name.", True),
    Rule("META_BAD_VALUE", _E, "A field of metadata.json has the wrong type or an impossible value.", None,
         "Correct the value.", True),
)

_TEXT = (
    Rule("HLS_TOO_LARGE", _E, "The playlist has too many bytes, lines or references, or a line is too long.", None,
         "Split the presentation.", True),
    Rule("HLS_NOT_UTF8", _E, "The playlist is not UTF-8.", "8216 §4.1", "Save it as UTF-8.", True),
    Rule("HLS_BOM", _E, "The playlist begins with a byte order mark.", "8216 §4.1",
         "Save it as UTF-8 without byte order mark.", True),
    Rule("HLS_CONTROL_CHAR", _E,
         "The playlist holds a control character or a Unicode line separator; programs disagree on where its lines "
         "end.", "8216 §4.1", "Remove the character.", True),
    Rule("HLS_BARE_CR", _E, "A line ends in CR alone; programs disagree on where the line ends.", "8216 §4.1",
         "End lines with LF or CR LF.", True),
    Rule("HLS_NOT_M3U8", _E, "The first line is not #EXTM3U.", "8216 §4.3.1.1", "Start the playlist with #EXTM3U.",
         True),
    Rule("HLS_BAD_ATTR_LIST", _E, "An attribute list cannot be read with certainty (a quote or comma is missing).",
         "8216 §4.2", 'Write NAME=value,NAME="value" without gaps.', True),
    Rule("HLS_DUPLICATE_ATTR", _E, "An attribute stands twice in one list.", "8216 §4.2", "Keep one of them.", True),
    Rule("HLS_WHITESPACE", _W, "There is a blank where the format has none.", "8216 §4.1", "Remove it."),
    Rule("HLS_EXTM3U_TRAILING", _W, "Something follows #EXTM3U on its line.", "8216 §4.3.1.1", "Remove it."),
    Rule("HLS_UNKNOWN_TAG", _W, "The tag is in no specification; it is kept as it is.", "8216 §6.3.1", "Nothing."),
)

_SEMANTICS = (
    Rule("HLS_MIXED_TAGS", _E, "Tags of multivariant and of media playlists stand in one playlist.", "8216 §4.1",
         "Separate them.", True),
    Rule("HLS_DUPLICATE_TAG", _E,
         "A tag that may stand once stands twice, or EXT-X-SESSION-DATA or EXT-X-SESSION-KEY with equal values.",
         "8216 §4.3", "Keep one of them."),
    Rule("HLS_BAD_VERSION", _E, "EXT-X-VERSION is not an integer from 1 to 13.", "8216 §4.3.1.2", "Correct it."),
    Rule("HLS_VERSION_LOW", _W, "A tag or attribute needs a higher EXT-X-VERSION.", "8216 §7",
         "Raise EXT-X-VERSION."),
    Rule("HLS_NO_TARGETDURATION", _E, "EXT-X-TARGETDURATION is missing.", "8216 §4.3.3.1", "Add it."),
    Rule("HLS_BAD_TARGETDURATION", _E, "EXT-X-TARGETDURATION is not an integer of at least 1.", "8216 §4.3.3.1",
         "Write whole seconds."),
    Rule("HLS_TARGETDURATION_EXCEEDED", _E, "A segment is longer than EXT-X-TARGETDURATION allows.", "8216 §4.3.3.1",
         "Raise EXT-X-TARGETDURATION to the longest segment, rounded."),
    Rule("HLS_BAD_EXTINF", _E, "The duration of EXTINF is not a plain decimal number.", "8216 §4.3.2.1",
         "Write seconds as digits with an optional point.", True),
    Rule("HLS_EXTINF_NO_COMMA", _W, "EXTINF has no comma after the duration.", "8216 §4.3.2.1", "Add it."),
    Rule("HLS_ZERO_DURATION", _W, "A segment lasts 0 seconds.", "8216 §4.3.2.1", "Give its real duration."),
    Rule("HLS_MISSING_EXTINF", _E, "A URI has no EXTINF (in a multivariant playlist: no EXT-X-STREAM-INF) before it.",
         "8216 §4.3.2.1", "Add the tag, or remove the URI.", True),
    Rule("HLS_SEGMENT_WITHOUT_URI", _E, "EXTINF is followed by no URI.", "8216 §4.3.2.1",
         "Add the URI, or remove the tag."),
    Rule("HLS_EMPTY_MEDIA", _E, "The media playlist has no segment.", "8216 §4.3.2", "Add segments."),
    Rule("HLS_EMPTY_MULTIVARIANT", _E, "The multivariant playlist names no playlist.", "8216 §4.3.4",
         "Add EXT-X-STREAM-INF and its URI."),
    Rule("HLS_NO_VARIANT", _E, "The multivariant playlist has renditions but no EXT-X-STREAM-INF.", "8216 §4.3.4.2",
         "Add EXT-X-STREAM-INF and its URI."),
    Rule("HLS_VARIANT_WITHOUT_URI", _E, "EXT-X-STREAM-INF is followed by no URI.", "8216 §4.3.4.2",
         "Put the URI on the next line."),
    Rule("HLS_MISSING_ATTR", _E, "A required attribute is missing.", "8216 §4.3", "Add it."),
    Rule("HLS_BAD_ATTR_VALUE", _W, "The value of an attribute is not of the kind the specification asks for.",
         "8216 §4.2", "Correct it."),
    Rule("HLS_GROUP_UNDEFINED", _W, "A variant names a group that no EXT-X-MEDIA declares.", "8216 §4.3.4.2",
         "Add the EXT-X-MEDIA, or remove the attribute."),
    Rule("HLS_NO_CODECS", _W, "A variant has no CODECS.", "8216 §4.3.4.2", "Add CODECS."),
    Rule("HLS_NO_ENDLIST", _E, "EXT-X-ENDLIST is missing: the stream is live or cut off.", "8216 §4.3.3.4",
         "Send finished streams only; add EXT-X-ENDLIST."),
    Rule("HLS_BAD_PLAYLIST_TYPE", _W, "EXT-X-PLAYLIST-TYPE is neither EVENT nor VOD.", "8216 §4.3.3.5", "Write VOD."),
    Rule("HLS_BAD_NUMBER", _E, "A sequence number is not a decimal integer.", "8216 §4.3.3", "Write digits only."),
    Rule("HLS_BAD_DATE", _W, "A date is not of the form of ISO 8601.", "8216 §4.3.2.6",
         "Write 2026-01-05T15:05:00.000Z."),
    Rule("HLS_LIVE_TAG", _W, "A tag of live streaming is left in a finished stream.", "bis §4.4.3.8", "Remove it."),
    Rule("HLS_DELTA_UPDATE", _E, "EXT-X-SKIP: this is the difference to another playlist, not a playlist.",
         "bis §4.4.5.2", "Send the full playlist."),
    Rule("HLS_BYTERANGE_NO_OFFSET", _E, "A byte range has no offset, and the segment before is not of the same file.",
         "8216 §4.3.2.2", "Write length@offset.", True),
    Rule("HLS_BAD_BYTERANGE", _E, "A byte range is malformed or empty.", "8216 §4.3.2.2",
         "Write length@offset with a length of at least 1.", True),
    Rule("HLS_BAD_DEFINE", _E, "EXT-X-DEFINE is malformed, or defines a name twice.", "bis §4.4.2.3",
         "Write NAME and VALUE, or IMPORT.", True),
    Rule("HLS_DEFINE_IMPORT", _E, "EXT-X-DEFINE imports a name that the parent playlist does not define.",
         "bis §4.4.2.3", "Define it in the multivariant playlist.", True),
    Rule("HLS_DEFINE_QUERYPARAM", _E,
         "EXT-X-DEFINE takes a value from the playlist's URL, which does not survive publishing.", "bis §4.4.2.3",
         "Write the value into the playlist.", True),
    Rule("HLS_MAP_REQUIRED", _E,
         "MP4 segments have no EXT-X-MAP (a warning where every segment brings its own moov).", "8216 §3.3",
         "Add EXT-X-MAP."),
    Rule("HLS_KEY_NONE_ATTRS", _E, "METHOD=NONE stands with other attributes.", "8216 §4.3.2.4", "Remove them."),
    Rule("HLS_MAP_IV_MISSING", _E, "EXT-X-MAP is encrypted with AES-128, and its EXT-X-KEY has no IV.",
         "8216 §4.3.2.5", "Add the IV."),
    Rule("HLS_SESSION_KEY_NONE", _E, "EXT-X-SESSION-KEY has METHOD=NONE.", "8216 §4.3.4.5", "Remove the tag."),
    Rule("HLS_DATERANGE_NO_DATE", _W, "EXT-X-DATERANGE without any EXT-X-PROGRAM-DATE-TIME.", "8216 §4.3.2.7",
         "Add EXT-X-PROGRAM-DATE-TIME."),
    Rule("HLS_VARIANTS_DIFFER", _W,
         "Variants differ in target duration, in type, in discontinuities or by more than a segment in duration.",
         "8216 §6.2.4",
         "Package all variants in one run."),
    Rule("HLS_DEFAULT_TWICE", _W, "A group has more than one DEFAULT=YES.", "8216 §4.3.4.1.1", "Keep one."),
    Rule("HLS_NO_LANGUAGE", _W, "An audio or subtitle rendition has no LANGUAGE.", "8216 §4.3.4.1", "Add LANGUAGE."),
    Rule("HLS_SECOND_OPINION", _W, "The library m3u8 reads the playlist differently from us.", None,
         "Look at the line; other programs may stumble there too."),
)

_REFERENCES = (
    Rule("URI_EMPTY", _E, "A URI is empty.", "8216 §4.1", "Name a file."),
    Rule("URI_CONTROL_CHAR", _E, "A URI holds a control character, plain or encoded.", "RFC 3986 §2", "Remove it.",
         True),
    Rule("URI_ABSOLUTE_HTTP", _E, "A URI points to a web server; nothing is fetched.", "RFC 3986 §4.3",
         "Put the file into the package and name it by a relative path."),
    Rule("URI_FILE_SCHEME", _E, "A URI points to a file of some computer.", "RFC 8089",
         "Put the file into the package and name it by a relative path.", True),
    Rule("URI_DATA_SCHEME", _E, "A URI carries data itself where a file is expected.", "RFC 2397",
         "Put the data into a file of the package.", True),
    Rule("URI_SCHEME_FORBIDDEN", _E, "A URI has a scheme that has no place in a package.", "RFC 3986 §3.1",
         "Name files by relative paths.", True),
    Rule("URI_NETWORK_PATH", _E, "A URI starts with // and so names another host.", "RFC 3986 §4.2",
         "Name files by relative paths.", True),
    Rule("URI_ROOT_RELATIVE", _E, "A URI starts with /, and nobody knows the root.", "RFC 3986 §4.2",
         "Name files relative to the playlist.", True),
    Rule("URI_TRAVERSAL", _E, "A URI climbs out of the package.", "RFC 3986 §5.2.4", "Keep inside the package.",
         True),
    Rule("URI_ENCODED_SEPARATOR", _E, "A URI hides a slash, a backslash or a NUL by percent-encoding.",
         "RFC 3986 §2.2", "Rename the file.", True),
    Rule("URI_BACKSLASH", _E, "A URI holds a backslash.", "RFC 3986 §2", "Use /.", True),
    Rule("URI_MISSING_FILE", _E, "The file that a URI names is not in the package (upper and lower case count).",
         "8216 §4.1", "Add the file, or correct the name."),
    Rule("URI_AMBIGUOUS", _E, "A URI names one file as it is spelled and another one when percent-decoded.",
         "RFC 3986 §2.4", "Rename one of the files.", True),
    Rule("URI_VARIABLE_UNDEFINED", _E,
         "A URI or an attribute uses a variable that no EXT-X-DEFINE before it provides.", "bis §4.3",
         "Define the variable.", True),
    Rule("URI_VARIABLE_QUERYPARAM", _E,
         "A URI or an attribute uses a variable whose value comes from the playlist's URL.", "bis §4.4.2.3",
         "Write the value into the playlist.", True),
    Rule("URI_KIND_MISMATCH", _E,
         "A URI names a playlist where media are expected, the other way round, or a key that is also used as "
         "something else.", "8216 §4.1", "Correct the name.", True),
    Rule("HLS_CYCLE", _E, "Playlists refer to each other in a circle.", "8216 §4.3.4", "Break the circle.", True),
    Rule("HLS_NESTED_MULTIVARIANT", _E, "A multivariant playlist names another one as variant or rendition.",
         "8216 §4.3.4", "Name media playlists only.", True),
    Rule("URI_QUERY", _W, "A URI has a query; it is ignored when the file is looked for.", "RFC 3986 §3.4",
         "Remove it."),
    Rule("URI_FRAGMENT", _W, "A URI has a fragment; it is ignored when the file is looked for.", "RFC 3986 §3.5",
         "Remove it."),
    Rule("URI_NOT_ENCODED", _W,
         "A URI holds characters that must be percent-encoded; the published form has them encoded.", "RFC 3986 §2",
         "Percent-encode them."),
    Rule("URI_BAD_PERCENT", _W, "A URI holds a % that starts no percent-encoding; the published form has it encoded.",
         "RFC 3986 §2.1", "Write %25."),
    Rule("URI_UNKNOWN_ATTR", _W,
         "An attribute or tag that is in no specification seems to hold a URI; it is left as it is.", None,
         "Check that players can do without it."),
    Rule("URI_MISSING_LIVE", _W, "A part or hint left over from live streaming names a file that is not there.",
         "bis §4.4.4.9", "Remove the tag."),
    Rule("STEERING_EXTERNAL", _W, "Content steering names a server that is not part of the package.", "bis §4.4.6.6",
         "Remove EXT-X-CONTENT-STEERING."),
    Rule("SIDE_FILE_BROKEN", _E, "An asset list cannot be read (a warning for other side files).", "bis appendix D",
         "Correct the file."),
    Rule("SIDE_FILE_OPAQUE", _W,
         "A side file seems to name other files in a form that is not understood; it is published as it is, without "
         "them.", None, "Check that players can do without them."),
)

_MEDIA = (
    Rule("MEDIA_EMPTY", _E, "A media file has no bytes.", "8216 §3", "Package the file again.", True),
    Rule("MEDIA_UNKNOWN_TYPE", _E, "A file is no media that HLS knows (an error page, JSON, …).", "8216 §3",
         "Put the real segment in its place.", True),
    Rule("MEDIA_TS_SYNC", _E, "A transport stream loses its packets (no 0x47 at every 188th byte).", "8216 §3.2",
         "Package the file again."),
    Rule("MEDIA_TS_LENGTH", _W, "The length of a transport stream is no multiple of 188 bytes.", "8216 §3.2",
         "Package the file again."),
    Rule("MEDIA_MP4_BOX", _E,
         "An MP4 box is malformed or reaches past the end of the file (a warning in I-frame playlists).", "8216 §3.3",
         "Package the file again."),
    Rule("MEDIA_NO_MOOF", _W, "An MP4 segment holds no movie fragment, or none of its data.", "8216 §3.3",
         "Package as fragmented MP4."),
    Rule("MEDIA_INIT_INVALID", _E, "The target of EXT-X-MAP is no initialization section (ftyp and moov).",
         "8216 §3.3", "Package the file again."),
    Rule("BYTERANGE_BEYOND_EOF", _E, "A byte range reaches past the end of its file.", "8216 §4.3.2.2",
         "Package the file again.", True),
    Rule("MEDIA_AES_LENGTH", _E, "An AES-encrypted segment is no multiple of 16 bytes long.", "8216 §4.3.2.4",
         "Package the file again."),
    Rule("MEDIA_NO_TIMESTAMP", _W, "WebVTT without X-TIMESTAMP-MAP, or packed audio without its ID3 time stamp.",
         "8216 §3.4, §3.5", "Package with a tool that writes it."),
    Rule("KEY_SIZE", _E,
         "A key file has the wrong size (16 bytes; 32 for AES-256). A newline at the end is a classic.",
         "8216 §4.3.2.4", "Write the bare key bytes.", True),
    Rule("KEY_IN_PACKAGE", _E, "A clear key lies in a package bound for a public place; with it anyone can decrypt.",
         "8216 §10", "Use a key service, or set HLS_KEYS=publish if protection does not matter.", True),
    Rule("KEY_DATA_URI", _W, "A key or DRM object stands in the playlist itself; it is left as it is.", "8216 §10",
         "Nothing, if it is a DRM object; use a key service for clear keys."),
)
# fmt: on


def _spelled(rule: Rule) -> Rule:
    section = rule.section or ""
    for short, long in (("8216 ", "RFC 8216 "), ("bis ", "draft-pantos-hls-rfc8216bis-22 ")):
        if section.startswith(short):
            return rule._replace(section=long + section.removeprefix(short))
    return rule


RULES: dict[str, Rule] = {
    rule.code: _spelled(rule) for rule in (*_ARCHIVE, *_METADATA, *_TEXT, *_SEMANTICS, *_REFERENCES, *_MEDIA)
}
TEXT_CODES = frozenset(rule.code for rule in _TEXT)
"""Rules without which a playlist cannot even be rewritten, because its lines or attributes are not certain."""


def as_markdown() -> str:
    """The table of docs/reference/findings.md."""
    rows = [
        f"| `{rule.code}` | {rule.severity}{' (fixed)' if rule.fixed else ''} | {rule.meaning} | {rule.section or ''} "
        f"| {rule.advice} |"
        for rule in RULES.values()
    ]
    head = ["| code | severity | what it means | written in | what to do |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row.replace("  ", " ") for row in rows), ""])
