"""Content ids: what they are made of, and their text and binary forms.

Only SHA-256 is computed or accepted for content; identity hashes are read (Kubo's "no root" `bafkqaaa` is
one), never made. Text that is no content id is the caller's mistake (UserError); bytes that are none are
damage (Corruption). Add a multibase or codec here when a node we talk to uses it. Nothing outside the
standard library is needed. Sources: github.com/multiformats/cid, /multibase, /multicodec, /unsigned-varint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from hls_pipeline.errors import Corruption, UserError

RAW = 0x55
DAG_PB = 0x70
IDENTITY = 0x00
SHA2_256 = 0x12

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LONGEST_TEXT = 256
_LONGEST_IDENTITY = 128
"""Bytes; Kubo's own limit for identity CIDs."""


@dataclass(frozen=True, slots=True)
class Cid:
    """A content id. Equal content under the same version and codec has the same one."""

    version: int
    codec: int
    digest: bytes
    hash: int = SHA2_256

    @classmethod
    def of(cls, data: bytes, codec: int = RAW, version: int = 1) -> Cid:
        """The content id of a block: by default a raw one, as a file that fits one chunk or a leaf of a larger one."""
        return cls(version, codec, hashlib.sha256(data).digest())

    @classmethod
    def parse(cls, text: str) -> Cid:
        """A content id from its text: v0 `Qm…`, v1 in base32 `b…`, base58btc `z…` or hex `f…`. UserError."""
        try:
            if len(text) > _LONGEST_TEXT:
                raise ValueError("too long")
            if len(text) == 46 and text.startswith("Qm"):
                return cls.from_bytes(_base58_decode(text))
            cid = cls.from_bytes(_multibase_decode(text))
            if cid.version == 0:
                raise ValueError("a version 0 content id takes no multibase prefix")
            if _multibase_encode(text[0], bytes(cid)) != text:
                raise ValueError("not as it is written")
        except (ValueError, Corruption) as error:
            raise UserError(f"{text[:80]!r} is no content id that we read: {error}") from error
        return cid

    @classmethod
    def from_bytes(cls, data: bytes) -> Cid:
        """A content id that fills `data` exactly. Corruption."""
        cid, end = read_cid(data, 0)
        if end != len(data):
            raise Corruption(f"{len(data) - end} bytes follow a content id that should be alone")
        return cid

    def verifies(self, data: bytes) -> bool:
        """Whether `data` is what this content id names."""
        if self.hash == IDENTITY:
            return data == self.digest
        return hashlib.sha256(data).digest() == self.digest

    def __bytes__(self) -> bytes:
        if self.version == 0:
            return b"\x12\x20" + self.digest
        return b"\x01" + varint(self.codec) + varint(self.hash) + varint(len(self.digest)) + self.digest

    def __str__(self) -> str:
        if self.version == 0:
            return _base58_encode(bytes(self))
        return _multibase_encode("b", bytes(self))


NO_ROOT = Cid(1, RAW, b"", IDENTITY)
"""`bafkqaaa`: an empty identity block, for a CAR whose real root is not known yet (Kubo sharness t0054)."""


def read_cid(buffer: bytes, offset: int = 0) -> tuple[Cid, int]:
    """The content id that starts at `offset`, and where the next thing starts. Corruption."""
    if buffer[offset : offset + 2] == b"\x12\x20":
        return _finish(0, DAG_PB, SHA2_256, 32, buffer, offset + 2)
    version, at = read_varint(buffer, offset)
    if version != 1:
        raise Corruption(f"content id version {version} is unknown")
    codec, at = read_varint(buffer, at)
    function, at = read_varint(buffer, at)
    length, at = read_varint(buffer, at)
    return _finish(1, codec, function, length, buffer, at)


def _finish(version: int, codec: int, function: int, length: int, buffer: bytes, at: int) -> tuple[Cid, int]:
    if function == SHA2_256 and length != 32:
        raise Corruption(f"a SHA-256 digest of {length} bytes")
    if function == IDENTITY and length > _LONGEST_IDENTITY:
        raise Corruption(f"an identity content id of {length} bytes, more than {_LONGEST_IDENTITY}")
    if function not in (SHA2_256, IDENTITY):
        raise Corruption(f"hash function 0x{function:x}; we read SHA-256 and identity")
    digest = bytes(buffer[at : at + length])
    if len(digest) != length:
        raise Corruption("the content id is cut off")
    return Cid(version, codec, digest, function), at + length


def varint(number: int) -> bytes:
    """LEB128, least significant group first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(buffer: bytes, offset: int) -> tuple[int, int]:
    """The number at `offset` and where it ends; at most 9 bytes and in its shortest form. Corruption."""
    number = 0
    for index, byte in enumerate(buffer[offset : offset + 9]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise Corruption("a varint is longer than it needs to be")
            return number, offset + index + 1
    raise Corruption("a varint is cut off or longer than 9 bytes")


def _multibase_decode(text: str) -> bytes:
    prefix, body = text[:1], text[1:]
    try:
        if prefix == "b":
            if body != body.lower():
                raise ValueError("upper-case letters in base32")
            return base64.b32decode(body.upper() + "=" * (-len(body) % 8))
        if prefix == "f":
            return bytes.fromhex(body)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if prefix == "z":
        return _base58_decode(body)
    raise ValueError("unknown multibase prefix")


def _multibase_encode(prefix: str, data: bytes) -> str:
    """The one text of these bytes: Python's decoders read over blanks and unused bits."""
    if prefix == "f":
        return f"f{data.hex()}"
    if prefix == "z":
        return f"z{_base58_encode(data)}"
    return "b" + base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
