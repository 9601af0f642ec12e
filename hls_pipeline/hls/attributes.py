"""What the values of attributes look like (RFC 8216 section 4.2 and the sections of the tags), as one table.

What breaks it is a remark: players are lenient, and so are we where nothing is guessed. An attribute that is not in the
table may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hls_pipeline.hls.tokens import Attribute, Token


class Form(NamedTuple):
    what: str
    quoted: bool
    pattern: re.Pattern[str] | None = None


def _bare(what: str, pattern: str) -> Form:
    return Form(what, False, re.compile(pattern))


def _one_of(*words: str) -> Form:
    return _bare(" or ".join(words), "|".join(words))


_TEXT = Form("a text in double quotes", True)
_INTEGER = _bare("a whole number", r"[0-9]{1,20}")
_NUMBER = _bare("a number that is not negative", r"[0-9]{1,20}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}")
_SIGNED = _bare("a number", r"-?[0-9]{1,20}(?:\.[0-9]{0,30})?")
_YES_NO, _YES = _one_of("YES", "NO"), _one_of("YES")

_STREAM = {
    "BANDWIDTH": _INTEGER, "AVERAGE-BANDWIDTH": _INTEGER, "SCORE": _NUMBER, "FRAME-RATE": _NUMBER,
    "RESOLUTION": _bare("a size such as 1920x1080", r"[0-9]{1,6}x[0-9]{1,6}"),
    "HDCP-LEVEL": _one_of("NONE", "TYPE-0", "TYPE-1"),
    **dict.fromkeys(
        ("CODECS", "SUPPLEMENTAL-CODECS", "ALLOWED-CPC", "REQ-VIDEO-LAYOUT", "STABLE-VARIANT-ID", "PATHWAY-ID", "AUDIO",
         "VIDEO", "SUBTITLES", "URI"),
        _TEXT,
    ),
}  # fmt: skip
_KEY = {
    "METHOD": _one_of(
        "NONE", "AES-128", "SAMPLE-AES", "SAMPLE-AES-CTR", "SAMPLE-AES-CENC", "AES-256", "AES-256-CTR", "AES-256-GCM"
    ),
    "IV": _bare("a hexadecimal number of 128 bits", r"0[xX][0-9A-Fa-f]{1,32}"),
    **dict.fromkeys(("URI", "KEYFORMAT", "KEYFORMATVERSIONS"), _TEXT),
}
FORMS: Mapping[str, Mapping[str, Form]] = {
    "EXT-X-STREAM-INF": _STREAM,
    "EXT-X-I-FRAME-STREAM-INF": _STREAM,
    "EXT-X-IMAGE-STREAM-INF": _STREAM,
    "EXT-X-MEDIA": {
        "TYPE": _one_of("AUDIO", "VIDEO", "SUBTITLES", "CLOSED-CAPTIONS"),
        "INSTREAM-ID": Form("CC1 to CC4 or SERVICE1 to SERVICE63", True,
                            re.compile(r"CC[1-4]|SERVICE(?:[1-9]|[1-5][0-9]|6[0-3])")),
        "BIT-DEPTH": _INTEGER, "SAMPLE-RATE": _INTEGER,
        "DEFAULT": _YES_NO, "AUTOSELECT": _YES_NO, "FORCED": _YES_NO,
        **dict.fromkeys(
            ("URI", "GROUP-ID", "LANGUAGE", "ASSOC-LANGUAGE", "NAME", "STABLE-RENDITION-ID", "CHARACTERISTICS",
             "CHANNELS"),
            _TEXT,
        ),
    },
    "EXT-X-KEY": _KEY,
    "EXT-X-SESSION-KEY": _KEY,
    "EXT-X-MAP": {"URI": _TEXT, "BYTERANGE": _TEXT},
    "EXT-X-START": {"TIME-OFFSET": _SIGNED, "PRECISE": _YES_NO},
    "EXT-X-DEFINE": dict.fromkeys(("NAME", "VALUE", "IMPORT", "QUERYPARAM"), _TEXT),
    "EXT-X-SESSION-DATA": {"FORMAT": _one_of("JSON", "RAW"),
                           **dict.fromkeys(("DATA-ID", "VALUE", "URI", "LANGUAGE"), _TEXT)},
    "EXT-X-CONTENT-STEERING": {"SERVER-URI": _TEXT, "PATHWAY-ID": _TEXT},
    "EXT-X-DATERANGE": {
        "DURATION": _NUMBER, "PLANNED-DURATION": _NUMBER, "END-ON-NEXT": _YES,
        **dict.fromkeys(("ID", "CLASS", "START-DATE", "END-DATE", "CUE", "X-ASSET-URI", "X-ASSET-LIST"), _TEXT),
    },
    "EXT-X-PART": {"URI": _TEXT, "DURATION": _NUMBER, "BYTERANGE": _TEXT, "INDEPENDENT": _YES, "GAP": _YES},
    "EXT-X-PRELOAD-HINT": {"TYPE": _one_of("PART", "MAP"), "URI": _TEXT, "BYTERANGE-START": _INTEGER,
                           "BYTERANGE-LENGTH": _INTEGER},
    "EXT-X-RENDITION-REPORT": {"URI": _TEXT, "LAST-MSN": _INTEGER, "LAST-PART": _INTEGER},
}  # fmt: skip


def misfits(token: Token) -> Iterator[tuple[str, Attribute, str]]:
    """Attributes of a known tag whose values are of another form, each with the form it should have."""
    forms = FORMS.get(token.tag)
    if forms is None:
        return
    for name, attribute in token.attributes.items():
        form = forms.get(name)
        if form is None:
            continue
        value, _, quoted = attribute
        variable = "{$" in value and (quoted or name == "IV")  # in quotes and in hexadecimal numbers only (bis 4.3)
        if quoted != form.quoted or (form.pattern and not form.pattern.fullmatch(value) and not variable):
            yield name, attribute, form.what


def list_pattern(tag: str, written: Iterable[tuple[str, bool]]) -> re.Pattern[str] | None:
    """All lists of these attributes, quoted or not, without misfits and blanks, as one pattern with a group for each
    value; None where being quoted is a misfit already."""
    forms, parts = FORMS.get(tag, {}), []
    for name, quoted in written:
        form = forms.get(name, Form("anything", quoted))
        if form.quoted != quoted:
            return None
        value = form.pattern.pattern if form.pattern else '[^"]*' if quoted else '[^", \\t]*'
        parts.append(f'{re.escape(name)}="({value})"' if quoted else f"{re.escape(name)}=({value})")
    return re.compile(",".join(parts))
