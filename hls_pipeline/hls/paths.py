"""Which names a package may use, and how much it may hold (level L0), whatever it comes from.

Archives have rules of their own in `sources.py`; what a playlist may say is in `uris.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from hls_pipeline.hls.findings import Findings, shown
from hls_pipeline.hls.policy import Limits
from hls_pipeline.keys import METADATA, READY, REJECTED

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
NO_UTF8 = re.compile(r"[\ud800-\udfff]")
"""Half a surrogate pair: what Python makes of a byte of a name that is not UTF-8, and what JSON can spell."""
_DRIVE = re.compile(r"[A-Za-z]:")


def check_paths(sizes: Mapping[str, int], limits: Limits, findings: Findings) -> None:
    if len(sizes) > limits.files:
        findings.add("PKG_TOO_MANY_FILES", "", None, f"{len(sizes):,} files; at most {limits.files:,} are allowed")
        return
    total = sum(sizes.values())
    if total > limits.total_size:
        findings.add("PKG_TOO_LARGE", "", None, f"{total:,} bytes in all; at most {limits.total_size:,} are allowed")
    spellings: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path, size in sizes.items():
        fault = path_fault(path, limits)
        if fault:
            findings.add("PKG_PATH_UNSAFE", path, None, f"{shown(path)} {fault}")
        if size > limits.file_size:
            findings.add("PKG_TOO_LARGE", path, None, f"{size:,} bytes; at most {limits.file_size:,} are allowed")
        same = path.casefold() if path.isascii() else unicodedata.normalize("NFC", path).casefold()
        other = spellings.setdefault(same, path)
        if other != path:
            findings.add("PKG_DUPLICATE_PATH", path, None, f"{shown(other)} differs only in case or Unicode form")
        folder = same.rpartition("/")[0]
        while folder and folder not in folders:
            folders[folder] = path
            folder = folder.rpartition("/")[0]
    for folder, path in folders.items():
        if folder in spellings:
            text = f"{shown(spellings[folder])} is a file and cannot be a folder too"
            findings.add("PKG_DUPLICATE_PATH", path, None, text)


def path_fault(path: str, limits: Limits) -> str | None:
    """What makes a name unsafe to store, serve or unpack anywhere; None if nothing does."""
    parts = path.split("/")
    if not path or path.startswith("/"):
        return "is absolute or empty"
    if ".." in parts or "." in parts or "" in parts:
        return "has a part that is empty or dots only"
    if path in (READY, REJECTED):
        return "is a mark of the inbox"
    if "\\" in path:
        return "holds a backslash"
    if _DRIVE.match(path):
        return "starts with a drive letter"
    if NO_UTF8.search(path):
        return "is not UTF-8"
    if _CONTROL.search(path):
        return "holds a control character"
    if len(path.encode()) > limits.path_length:
        return f"is longer than {limits.path_length} bytes"
    if max(len(part.encode()) for part in parts) > limits.name_length:
        return f"has a part longer than {limits.name_length} bytes"
    if len(parts) > limits.depth:
        return f"is more than {limits.depth} folders deep"
    return None


def metadata_path(sizes: Mapping[str, int]) -> str | None:
    """metadata.json at the top; where one folder holds everything, that folder is the top."""
    if METADATA in sizes:
        return METADATA
    tops = {path.partition("/")[0] for path in sizes if not is_junk(path)}
    inside = f"{next(iter(tops))}/{METADATA}" if len(tops) == 1 else METADATA
    return inside if inside in sizes else None


def is_junk(path: str) -> bool:
    """What operating systems leave behind: never a playlist, whatever it is called."""
    name = path.rpartition("/")[2]
    return path.startswith("__MACOSX/") or name.startswith("._") or name in (".DS_Store", "Thumbs.db", "desktop.ini")
