"""What was found in a package, and the report made of it.

`Finding` is one broken rule at one place, `Report` all of them, `Findings` the collector that the checks write to. The
rules themselves are in `rules.py`. Everything quoted from a package passes `shown`, because it is a stranger's text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from hls_pipeline.errors import PackageRefused
from hls_pipeline.hls.rules import RULES, Rule, Severity

__all__ = ["RULES", "Finding", "Findings", "Report", "Rule", "Severity", "bounded", "refuse", "shown"]

_FOREIGN = 200
_DATA = re.compile(r"\bdata:\S+", re.IGNORECASE)
_PER_CODE = 20
"""A hostile playlist can break one rule 200,000 times; a reader is served by the first ones and the number."""
_PER_REPORT = 100
"""A package can have 100,000 files that no playlist reaches, each with a finding of its own."""


@dataclass(frozen=True)
class Finding:
    code: str
    severity: Severity
    path: str
    line: int | None
    message: str
    section: str | None
    advice: str
    column: int | None = None
    """First character of the place in its line, counted from 1."""
    length: int = 0
    excerpt: str | None = None
    """The line itself, made safe to print; `column` and `length` fit it."""
    count: int = 1
    """How many places it stands for."""

    def to_json(self) -> dict[str, Any]:
        shape = {
            "code": self.code,
            "path": self.path,
            "line": self.line,
            "message": self.message,
            "section": self.section,
            "advice": self.advice,
        }
        return shape if self.column is None else {**shape, "column": self.column}


@dataclass(frozen=True)
class Report:
    root: str | None
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def accepted(self) -> bool:
        return self.root is not None and not self.errors

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "root": self.root,
            "errors": [finding.to_json() for finding in self.errors],
            "warnings": [finding.to_json() for finding in self.warnings],
        }


def refusal(what: str, errors: Iterable[Mapping[str, Any]]) -> str:
    """What a shell says of a refused package: a line for each error of `Report.to_json`."""
    lines = [f"  {e['code']} {e['path']}{':' + str(e['line']) if e['line'] else ''}  {e['message']}" for e in errors]
    return "\n".join([f"{what} was refused; nothing of it was published", *lines])


class Findings:
    """Collects findings; keeps at most 20 of one code for one file and counts the rest."""

    def __init__(self, severities: Mapping[str, Severity] | None = None) -> None:
        self._severities = severities or {}
        self._kept: list[Finding] = []
        self._seen: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        code: str,
        path: str,
        line: int | None,
        message: str,
        *,
        severity: Severity | None = None,
        place: tuple[str, int, int] | None = None,
    ) -> None:
        """`severity` is the rule's unless given; the policy wins over both. `place`: line text, start, length."""
        rule = RULES[code]
        self._seen[code, path] += 1
        if self._seen[code, path] > _PER_CODE:
            return
        excerpt, column, length = _excerpt(*place) if place else (None, None, 0)
        level = self._severities.get(code, severity or rule.severity)
        self._kept.append(
            Finding(code, level, _path(path), line, message, rule.section, rule.advice, column, length, excerpt)
        )

    def extend(self, findings: Iterable[Finding]) -> None:
        self._kept.extend(findings)

    def is_full(self, code: str, path: str, *, count: bool = True) -> bool:
        """Whether enough of this kind were kept, before anyone words the next; that one is then only counted."""
        seen = self._seen[code, path]
        if seen < _PER_CODE:
            return False
        if count:
            self._seen[code, path] = seen + 1
        return True

    @property
    def failed(self) -> bool:
        return any(finding.severity == "error" for finding in self._kept)

    def result(self) -> tuple[Finding, ...]:
        """All findings in the order they were made, each capped code followed by how many more there are."""
        more = []
        for (code, path), count in self._seen.items():
            if count > _PER_CODE:
                first = next(f for f in self._kept if (f.code, f.path) == (code, _path(path)))
                text = f"{count - _PER_CODE} more places like the {_PER_CODE} above"
                more.append(_summary(first, first.path, text, count - _PER_CODE))
        return (*self._kept, *more)


def bounded(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """At most 100 findings of each code and severity, with one more that counts the others and says where they are."""
    kept: list[Finding] = []
    seen: Counter[tuple[str, Severity]] = Counter()
    others: dict[tuple[str, Severity], list[Finding]] = {}
    for finding in findings:
        kind = finding.code, finding.severity
        seen[kind] += 1
        (kept if seen[kind] <= _PER_REPORT else others.setdefault(kind, [])).append(finding)
    return (*kept, *(_summed_up(left) for left in others.values()))


def _summed_up(left: list[Finding]) -> Finding:
    folders: Counter[str] = Counter()
    for finding in left:
        folders[finding.path.rpartition("/")[0]] += finding.count
    places = [f"{count:,} in {shown(name, 30) if name else 'the top folder'}" for name, count in folders.most_common(4)]
    text = (
        f"{folders.total():,} more like the {_PER_REPORT} above: {', '.join(places)}{', …' if len(folders) > 4 else ''}"
    )
    return _summary(left[0], "", text, folders.total())


def _summary(like: Finding, path: str, text: str, count: int) -> Finding:
    return Finding(like.code, like.severity, path, None, text, like.section, like.advice, count=count)


def refuse(code: str, path: str, message: str) -> NoReturn:
    """Ends the reading of an archive. Raises PackageRefused with a report of this one finding."""
    findings = Findings()
    findings.add(code, path, None, message)
    raise PackageRefused(f"{_path(path) or 'package'}: {message} ({code})", Report(None, findings.result()))


def shown(text: str, limit: int = _FOREIGN) -> str:
    """A stranger's text in quotes, with everything invisible escaped, then at most `limit` characters of it. What a
    `data:` URI holds is left out: it may be a key, and messages go far."""
    visible = _visible(_DATA.sub("data:…", text[: limit + 1]))
    return f"'{visible}'" if len(visible) <= limit else f"'{visible[:limit]}…'"


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def _path(path: str) -> str:
    return _visible(path[:1000]) if len(path) > 1000 or not path.isprintable() else path


def _excerpt(line: str, start: int, length: int) -> tuple[str, int, int]:
    """The part of a line around a place, at most 200 characters, with the place's column (from 1) and length in it."""
    first = max(0, start - 80) if len(line) > _FOREIGN else 0
    text = line[first : first + _FOREIGN].replace("\t", " ")
    before = _visible(text[: start - first])
    inside = _visible(text[start - first : start - first + length])
    return before + inside + _visible(text[start - first + length :]), len(before) + 1, max(1, len(inside))
