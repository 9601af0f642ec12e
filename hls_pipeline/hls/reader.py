"""What both kinds of playlist share: variables, references, tags that may stand once, and the version they need.

`PlaylistReader` walks the tokens of one playlist and calls a method per tag; `MediaReader` and `MultivariantReader` add
theirs. It judges one playlist by itself; what needs the whole package is in `graph.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from hls_pipeline.hls.attributes import misfits
from hls_pipeline.hls.findings import Findings, Severity, shown
from hls_pipeline.hls.model import ByteRange, Reference
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.tokens import Spot, Token, is_unknown_uri, make_tuple, place_of, spots, strange_names
from hls_pipeline.hls.uris import VARIABLE, folder_of, near_miss, resolve

NEWEST_VERSION = 13
_INTEGER = re.compile(r"[0-9]{1,20}")
_BYTERANGE = re.compile(r"([0-9]{1,18})(?:@([0-9]{1,18}))?")
_KEY_SCHEME = re.compile(r"(data|skd|urn):", re.IGNORECASE)
_LONGEST_VALUE = 8192
"""Characters of a value with variables substituted: few lines could otherwise stand for gigabytes."""
_ELSEWHERE = frozenset({
    "URI_ABSOLUTE_HTTP", "URI_DATA_SCHEME", "URI_NETWORK_PATH", "URI_ROOT_RELATIVE", "URI_MISSING_FILE",
})  # fmt: skip
"""What a steering server may be, besides part of the package; STEERING_EXTERNAL says so."""
_MAY_BE_MISSING = frozenset({"part", "hint", "rendition_report"})


@dataclass(frozen=True)
class Context:
    """What reading a playlist needs to know of its surroundings."""

    path: str
    files: Container[str]
    policy: Policy
    findings: Findings
    imports: Mapping[str, str] = field(default_factory=dict)
    """Variables of the parent playlist."""


def integer(value: str) -> int | None:
    """A decimal-integer of RFC 8216 section 4.2: ASCII digits only, below 2^64."""
    number = int(value) if _INTEGER.fullmatch(value) else None
    return number if number is not None and number < 1 << 64 else None


class PlaylistReader:
    once: ClassVar[frozenset[str]] = frozenset({"EXT-X-VERSION", "EXT-X-INDEPENDENT-SEGMENTS", "EXT-X-START", "EXTM3U"})
    required: ClassVar[Mapping[str, tuple[str, ...]]] = {"EXT-X-START": ("TIME-OFFSET",)}
    in_multivariant = False

    def __init__(self, context: Context, text: str) -> None:
        self.context = context
        self.text = text
        self.base = folder_of(context.path)
        self.references: list[Reference] = []
        self.variables: dict[str, str] = {}
        self.query_variables: set[str] = set()
        self.seen: dict[str, int] = {}
        self.version = 1
        self._expanded = 0
        self.needs: tuple[int, str, Token | None] = (1, "", None)
        self.handlers: dict[str, Callable[[Token], None]] = {
            "EXT-X-VERSION": self.on_version,
            "EXT-X-DEFINE": self.on_define,
        }

    def read(self, tokens: Iterable[Token]) -> None:
        handlers, required, once = self.handlers, self.required, self.once
        for token in tokens:
            tag = token.tag
            if tag in once:
                self.note_once(token)
            if token.attributes:
                for name in required.get(tag, ()):
                    if name not in token.attributes:
                        self.missing(token, f"{tag} has no {name}")
                if not token.usual:
                    self.look_at_attributes(token)
            if "{$" in token.value and (token.attributes or not tag):
                self.look_at_variables(token)
            handler = handlers.get(tag)
            if handler is not None:
                handler(token)
        self.finish()
        version, why, needy = self.needs
        if version > self.version and needy:
            self.add("HLS_VERSION_LOW", needy, f"{why} needs EXT-X-VERSION {version}, here it is {self.version}")

    def look_at_attributes(self, token: Token) -> None:
        """Values of another form than the specification's, and URIs that nobody but the creator knows."""
        for name, attribute, what in misfits(token):
            value = f'"{attribute.value}"' if attribute.quoted else attribute.value
            text = f"{name} should be {what}, it is {shown(value)}"
            self.add("HLS_BAD_ATTR_VALUE", token, text, place_of(token, name))
        for name in strange_names(token.tag, tuple(token.attributes)):
            if is_unknown_uri(token, name):
                self.add("URI_UNKNOWN_ATTR", token, f"the value of {shown(name)} stays as it is", place_of(token, name))

    def look_at_variables(self, token: Token) -> None:
        """Variables without value, each once for its line and not only in URIs: a player gives up on them (bis 4.3)."""
        for name in dict.fromkeys(VARIABLE.findall(token.value)):
            if name in self.query_variables:
                self.add("URI_VARIABLE_QUERYPARAM", token, f"{shown(name)} has a value only in a URL")
            elif name not in self.variables:
                self.add("URI_VARIABLE_UNDEFINED", token, f"nothing before this line defines {shown(name)}")

    def finish(self) -> None:
        """Rules that need the whole playlist."""

    # findings

    def add(
        self,
        code: str,
        token: Token,
        message: str,
        place: tuple[int, int] | None = None,
        severity: Severity | None = None,
    ) -> None:
        """A finding at a token; `place` is start and length in its line, else the whole line."""
        if self.context.findings.is_full(code, self.context.path):
            return
        end = self.text.find("\n", token.start)
        line = self.text[token.start : end if end >= 0 else None].rstrip("\r")
        where = (line, *(place or (0, len(line))))
        self.context.findings.add(code, self.context.path, token.line, message, severity=severity, place=where)

    def note_once(self, token: Token) -> None:
        first = self.seen.setdefault(token.tag, token.line)
        if first != token.line:
            self.add("HLS_DUPLICATE_TAG", token, f"{token.tag} stands already on line {first}")

    def missing(self, token: Token, message: str) -> None:
        """A missing attribute, unless the list is broken anyway: then it may just not have been read."""
        if token.readable:
            self.add("HLS_MISSING_ATTR", token, message)

    def need(self, version: int, why: str, token: Token) -> None:
        if version > self.needs[0]:
            self.needs = (version, why, token)

    # tags of both kinds

    def on_version(self, token: Token) -> None:
        value = self.plain_value(token)
        number = integer(value)
        if number is None or not 1 <= number <= NEWEST_VERSION:
            self.add("HLS_BAD_VERSION", token, f"the version is {shown(value)}, not 1 to {NEWEST_VERSION}")
        else:
            self.version = number

    def plain_value(self, token: Token) -> str:
        """The value of a tag that holds one word; blanks around it are a remark."""
        value = token.value.removesuffix("\r").strip(" \t")
        if value != token.value.removesuffix("\r"):
            self.add("HLS_WHITESPACE", token, f"blanks around the value of {token.tag}")
        return value

    def on_define(self, token: Token) -> None:
        """EXT-X-DEFINE (bis 4.4.2.3): NAME with VALUE, or IMPORT, or QUERYPARAM."""
        if not token.readable:
            return
        self.need(8, "EXT-X-DEFINE", token)
        values = {name: attribute.value for name, attribute in token.attributes.items()}
        given = [name for name in ("NAME", "IMPORT", "QUERYPARAM") if name in values]
        if len(given) != 1 or ("NAME" in values) != ("VALUE" in values):
            self.add("HLS_BAD_DEFINE", token, "EXT-X-DEFINE needs NAME and VALUE, or IMPORT, or QUERYPARAM")
            return
        how, name = given[0], values[given[0]]
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            self.add("HLS_BAD_DEFINE", token, f"{shown(name)} is no variable name")
        elif name in self.variables or name in self.query_variables:
            self.add("HLS_BAD_DEFINE", token, f"{shown(name)} is defined twice")
        elif how == "QUERYPARAM":
            self.query_variables.add(name)
            self.add("HLS_DEFINE_QUERYPARAM", token, f"{shown(name)} has a value only in a URL")
        elif how == "NAME":
            self.variables[name] = self.substitute(token, values["VALUE"]) or ""
        elif name in self.context.imports and not self.in_multivariant:
            self.variables[name] = self.context.imports[name]
        else:
            self.add("HLS_DEFINE_IMPORT", token, f"the parent playlist defines no {shown(name)}")
            self.variables[name] = ""

    def value(self, token: Token, name: str, default: str = "") -> str:
        attribute = token.attributes.get(name)
        if attribute is None:
            return default
        value, _, quoted = attribute
        return (self.substitute(token, value) or "") if quoted and "{$" in value else value

    def values(self, token: Token) -> dict[str, str]:
        """Attribute values with variables substituted in quoted strings (bis 4.3)."""
        if "{$" not in token.value:
            return {name: attribute.value for name, attribute in token.attributes.items()}
        return {name: self.value(token, name) for name in token.attributes}

    def substitute(self, token: Token, value: str) -> str | None:
        """`value` with its variables replaced, once; None where one has no value, which `look_at_variables` told."""
        if "{$" not in value:
            return value
        try:
            result = VARIABLE.sub(lambda match: self.variables[match.group(1)], value)
        except KeyError:
            return None
        self._expanded += len(result)
        if len(result) > _LONGEST_VALUE or self._expanded > self.context.policy.limits.playlist_size:
            self.add("HLS_TOO_LARGE", token, "its variables stand for too much text")
            return None
        return result

    # references

    def refer(
        self,
        token: Token,
        *,
        byterange: ByteRange | None = None,
        cipher: str | None = None,
        keyformat: str = "identity",
        mapped: bool = False,
        gap: bool = False,
    ) -> None:
        """Adds the references of a token."""
        for spot in spots(token, self.in_multivariant):
            line, tag, attr, kind, raw, start, quoted = spot
            uri = self.substitute(token, raw) if "{$" in raw else raw
            target = replacement = None
            if uri is not None:
                if kind == "key":
                    kind, target, replacement = self._key(token, spot, uri, cipher, keyformat)
                else:
                    target = self._target(token, spot, uri, gap)
            self.references.append(
                make_tuple(
                    Reference,
                    (line, tag, attr, kind, raw, start, start + len(raw), byterange, target, uri or "", quoted, cipher,
                     mapped, replacement),
                )
            )  # fmt: skip

    def _target(self, token: Token, spot: Spot, uri: str, gap: bool = False) -> str | None:
        context = self.context
        target, problems = resolve(uri, self.base, context.files, context.policy.root_relative)
        for code, message in problems:
            missing = code == "URI_MISSING_FILE"
            if not (missing and gap) and not (spot.kind == "steering" and code in _ELSEWHERE):
                live = missing and spot.kind in _MAY_BE_MISSING
                hint = self._near_miss(uri) if missing else ""
                self.add("URI_MISSING_LIVE" if live else code, token, message + hint, _place(token, spot))
        return target

    def _near_miss(self, uri: str) -> str:
        if self.context.findings.is_full("URI_MISSING_FILE", self.context.path, count=False):
            return ""
        near = near_miss(uri, self.base, self.context.files)
        return f"; there is {shown(near, 90)}" if near else ""

    def _key(
        self, token: Token, spot: Spot, uri: str, method: str | None, keyformat: str
    ) -> tuple[str, str | None, str | None]:
        """Kind, target and fixed address of a key."""
        if method == "NONE":  # then it names nothing, which was said already
            return "key", None, None
        if ":" in uri or keyformat != "identity":
            kind = self._kind_elsewhere(token, spot, uri, keyformat)
            if kind is not None:
                return kind, None, None
        target = self._target(token, spot, uri)
        if target is None:
            return "key", None, None
        policy = self.context.policy
        if policy.keys == "external":
            return "key", target, policy.key_url(target) if policy.key_service_url else None
        self._judge_key(token, spot, target)
        return "key", target, None

    def _kind_elsewhere(self, token: Token, spot: Spot, uri: str, keyformat: str) -> str | None:
        """The kind of a key that is no file of the package; None for one that should be. What belongs to a DRM system
        is opaque and stays byte for byte."""
        match = _KEY_SCHEME.match(uri)
        scheme = match[1].lower() if match else ""
        if scheme in ("skd", "urn") or keyformat.lower() not in ("identity", ""):
            if scheme == "data":
                text = "a DRM object stands in the playlist and stays as it is"
                self.add("KEY_DATA_URI", token, text, _place(token, spot))
            return "drm"
        if scheme == "data":
            text = "the clear key itself stands in the playlist and stays there"
            self.add("KEY_DATA_URI", token, text, _place(token, spot))
            self._judge_key(token, spot, None)
            return "key"
        if self.context.policy.allow_external_keys and uri[:6].lower() == "https:":
            text = f"the key {shown(uri)} lies elsewhere; this address stays as it is"
            self.add("URI_ABSOLUTE_HTTP", token, text, _place(token, spot), "warning")
            return "key"
        return None

    def _judge_key(self, token: Token, spot: Spot, path: str | None) -> None:
        """A clear key, in a file or (None) in the playlist itself, that would be public."""
        if not self.context.findings.is_full("KEY_IN_PACKAGE", self.context.path):
            severity: Severity = "warning" if self.context.policy.keys == "publish" else "error"
            what = f"the clear key {shown(path)}" if path else "this clear key"
            text = f"{what} would be published: the encryption protects nothing"
            self.add("KEY_IN_PACKAGE", token, text, _place(token, spot), severity)

    def parse_byterange(self, token: Token, value: str) -> tuple[int, int | None] | None:
        """Length and offset (None: continues the range before)."""
        match = _BYTERANGE.fullmatch(value)
        if match is None or int(match.group(1)) == 0:
            self.add("HLS_BAD_BYTERANGE", token, f"{shown(value)} is no byte range, or an empty one")
            return None
        return int(match.group(1)), int(match.group(2)) if match.group(2) else None


def _place(token: Token, spot: Spot) -> tuple[int, int]:
    """Start in its line and length of a URI."""
    return spot.start - token.start, len(spot.raw)
