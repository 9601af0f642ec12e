"""Content types by extension, and which files never get published.

Our own table: the one of the operating system calls `.ts` a Qt translation and `.key` a PGP key ring.
"""

from __future__ import annotations

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
DEFAULT_TYPE = "application/octet-stream"

CONTENT_TYPES = {
    ".m3u8": PLAYLIST_TYPE, ".m3u": PLAYLIST_TYPE, ".m4u8": PLAYLIST_TYPE,
    ".ts": "video/mp2t", ".m2ts": "video/mp2t", ".mts": "video/mp2t", ".m2t": "video/mp2t", ".tsv": "video/mp2t",
    ".tsa": "video/mp2t",
    ".mp4": "video/mp4", ".m4s": "video/mp4", ".m4v": "video/mp4", ".cmfv": "video/mp4", ".fmp4": "video/mp4",
    ".mov": "video/quicktime", ".cmft": "application/mp4", ".m4i": "video/mp4", ".dash": "video/mp4",
    ".m4a": "audio/mp4", ".cmfa": "audio/mp4", ".m4f": "video/mp4",
    ".aac": "audio/aac", ".mp3": "audio/mpeg", ".ac3": "audio/ac3", ".ec3": "audio/eac3", ".eac3": "audio/eac3",
    ".ac4": "audio/ac4", ".vtt": "text/vtt", ".webvtt": "text/vtt", ".json": "application/json",
    ".key": DEFAULT_TYPE, ".bin": DEFAULT_TYPE, ".init": "video/mp4",
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif",
    ".avif": "image/avif", ".heic": "image/heic",
    ".ttml": "application/ttml+xml", ".imsc": "application/ttml+xml", ".dfxp": "application/ttml+xml",
    ".txt": "text/plain; charset=utf-8",
}  # fmt: skip

FORBIDDEN = frozenset({
    ".html", ".htm", ".xhtml", ".xht", ".shtml", ".mhtml", ".mht", ".svg", ".svgz", ".xml", ".xsl", ".xslt", ".js",
    ".mjs", ".cjs", ".css", ".wasm", ".swf", ".pdf", ".php", ".jsp", ".asp", ".aspx", ".cgi", ".py", ".pl", ".rb",
    ".sh", ".bash", ".bat", ".cmd", ".com", ".exe", ".dll", ".so", ".dylib", ".msi", ".scr", ".ps1", ".vbs", ".jar",
    ".class", ".apk", ".app", ".dmg", ".deb", ".rpm", ".iso", ".lnk", ".url", ".hta", ".htc", ".zip", ".rar", ".7z",
    ".gz", ".tar",
})  # fmt: skip
"""What runs, unpacks to what runs, or shows as a page in a browser: gateways serve all content from one origin."""

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic"})
PLAYLISTS = frozenset({".m3u8", ".m3u", ".m4u8"})


def extension(path: str) -> str:
    """Lower-case extension with its dot, or ''."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem else ""


def content_type(path: str) -> str:
    return CONTENT_TYPES.get(extension(path), DEFAULT_TYPE)
