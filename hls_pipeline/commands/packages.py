"""`hls-pipeline check` and `hls-pipeline rewrite`: packages and playlists on this computer, no service needed.

Here is only what a terminal needs: arguments, the report as a person likes to read it, exit codes. What is wrong with a
package is decided in `hls_pipeline.hls`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hls_pipeline import settings
from hls_pipeline.errors import PackageRefused, UsageError
from hls_pipeline.hls import package as packages
from hls_pipeline.hls.findings import Finding, Findings, Report, shown
from hls_pipeline.hls.model import Playlist, Reference
from hls_pipeline.hls.package import Package
from hls_pipeline.hls.policy import Limits, Policy
from hls_pipeline.hls.reader import Context
from hls_pipeline.hls.reading import parse
from hls_pipeline.hls.rewriting import rewrite as rewrite_playlist
from hls_pipeline.hls.rules import TEXT_CODES
from hls_pipeline.hls.sources import open_source
from hls_pipeline.hls.uris import unencoded

_COLOURS = {"error": "red", "warning": "yellow"}
_PER_CODE = {"error": 3, "warning": 1}
"""How many places of one rule a person is shown; `--json` has more."""


def check(
    package: Annotated[list[Path], typer.Argument(help="Folders, zips, tars or tar.gz files.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per package.")] = False,
) -> None:
    """Say whether packages can be published, and what is wrong with them. Exit code 1 if any is refused."""
    for path in package:
        if not path.exists():
            raise UsageError(f"{shown(str(path))}: there is no such folder, zip or tar")
    policy = settings.load().policy()
    console = Console(highlight=False, soft_wrap=True)
    refused = False
    for path in package:
        found, report = _check(path, policy)
        refused = refused or not report.accepted
        if as_json:
            typer.echo(json.dumps({"package": str(path), **report.to_json()}, ensure_ascii=True))
        else:
            print_report(console, str(path), found, report)
    raise typer.Exit(1 if refused else 0)


def rewrite(
    playlist: Annotated[Path, typer.Argument(help="A playlist.", show_default=False)],
    map_file: Annotated[Path | None, typer.Option("--map", help="JSON object: URI as it stands → new URI.")] = None,
    as_list: Annotated[bool, typer.Option("--list", help="Print every reference instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: one line of JSON per reference.")] = False,
) -> None:
    """Replace the URIs of a playlist by those of a map, and not one other character; the result goes to stdout."""
    if as_list == (map_file is not None):
        raise UsageError("rewrite needs either --map FILE.json or --list")
    document = _read_playlist(playlist)
    if map_file is None:
        _print_references(document, as_json)
        return
    names = _read_map(map_file)
    sys.stdout.buffer.write(rewrite_playlist(document, lambda reference: _new_name(reference, names)))
    sys.stdout.buffer.flush()


def _check(path: Path, policy: Policy) -> tuple[Package | None, Report]:
    try:
        with open_source(path, policy.limits) as source:
            return packages.check(source, policy)
    except PackageRefused as refusal:  # not even an archive
        return None, refusal.report


# the report


def print_report(console: Console, name: str, package: Package | None, report: Report) -> None:
    """A heading with the verdict, what the package is, then each finding with its line and what to do."""
    console.print(_heading(name, report))
    if package is not None:
        console.print(_summary(package))
    shown_of: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for finding in report.findings:
        totals[finding.code] += finding.count
    for finding in (*report.errors, *report.warnings):
        shown_of[finding.code] += finding.count
        most = _PER_CODE[finding.severity]
        if shown_of[finding.code] <= most:
            console.print(_paragraph(finding))
        elif shown_of[finding.code] == totals[finding.code]:
            more = totals[finding.code] - most
            console.print(Text(f"  … and {more:,} more {finding.code} (--json has more of them)", style="dim"))
    console.print()


def _heading(name: str, report: Report) -> Text:
    verdict = ("✔ accepted", "bold green") if report.accepted else ("✘ refused", "bold red")
    numbers = ((sum(f.count for f in report.errors), "error"), (sum(f.count for f in report.warnings), "warning"))
    counts = ", ".join(_counted(count, noun) for count, noun in numbers if count)
    name = shown(name, 1000)[1:-1]
    return Text.assemble(verdict, "  ", (name, "bold"), f"  {counts}" if counts else "")


def _summary(package: Package) -> Text:
    facts = package.facts
    size = sum(file.size for file in package.files) + sum(len(p.data) for p in package.playlists.values())
    minutes, seconds = divmod(facts["duration"], 60)
    parts = [
        shown(package.root)[1:-1],
        f"{int(minutes)}:{seconds:04.1f} min",
        _counted(len(package.playlists), "playlist"),
        _counted(len(package.files), "file"),
        f"{size / 1e6:.1f} MB",
        ", ".join(facts["containers"]),
        ", ".join(f"{v['width']}×{v['height']}" for v in facts["variants"] if v["width"] and not v["iframes"]),
        "encrypted: " + ", ".join(facts["encryption"]) if facts["encryption"] else "",
        "unprotected: its keys are published" if facts["unprotected"] else "",
    ]
    return Text("  " + " · ".join(part for part in parts if part), style="dim")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def _paragraph(finding: Finding) -> Text:
    colour = _COLOURS[finding.severity]
    place = ":".join(str(part) for part in (finding.path, finding.line, finding.column) if part not in (None, ""))
    text = Text.assemble(
        "\n  ", (finding.severity, f"bold {colour}"), " ", (finding.code, "bold"), "  ", (place, "cyan")
    )
    if finding.excerpt is not None and finding.column is not None:
        number = str(finding.line)
        gap = " " * (finding.column - 1)
        text.append(f"\n    {number} │ ", style="dim").append(finding.excerpt)
        text.append(f"\n    {' ' * len(number)} │ ", style="dim").append(gap + "^" * finding.length, style=colour)
    text.append(f"\n    {finding.message}")
    text.append(f"\n    → {finding.advice}", style="green")
    return text.append(f"  ({finding.section})" if finding.section else "", style="dim")


# rewriting


def _read_playlist(path: Path) -> Playlist:
    """A playlist by itself: only its text has to be certain. Raises PackageRefused naming the rule otherwise."""
    data = _read_file(path, Limits().playlist_size + 1)
    findings = Findings()
    document = parse(Context(path.name, frozenset(), Policy(keys="publish"), findings), data)
    broken = [f for f in findings.result() if f.severity == "error" and (document is None or f.code in TEXT_CODES)]
    if document is None or broken:
        report = Report(None, tuple(broken))
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        print_report(console, str(path), None, report)
        raise PackageRefused(f"{path.name}: {broken[0].message} ({broken[0].code})", report)
    return document


def _read_map(path: Path) -> Mapping[str, str]:
    try:
        names = json.loads(_read_file(path, 1 << 28))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(new, str) for new in names.values()):
        raise UsageError(f"{path.name} must be one JSON object: URI as it stands in the playlist → new URI")
    return names


def _read_file(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UsageError(f"{shown(str(path))} cannot be read: {error.strerror}") from error


def _new_name(reference: Reference, names: Mapping[str, str]) -> str | None:
    """By the URI as it is spelled, else with variables substituted, else as the path it means."""
    spellings = (reference.raw, reference.uri, unencoded(reference.uri))
    return next((names[spelling] for spelling in spellings if spelling in names), None)


def _print_references(document: Playlist, as_json: bool) -> None:
    if as_json:
        for reference in document.references:
            typer.echo(json.dumps(_described(reference)))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        for reference in document.references:
            typer.echo("\t".join(str(value or "-") for value in _described(reference).values()))
        return
    table = Table("line", "tag", "attribute", "kind", "URI", "bytes", box=None, header_style="bold")
    for reference in document.references:
        table.add_row(*(Text(str(value or "")) for value in _described(reference).values()))
    console.print(table)


def _described(reference: Reference) -> dict[str, Any]:
    part = reference.byterange
    return {
        "line": reference.line,
        "tag": reference.tag,
        "attribute": reference.attr,
        "kind": reference.kind,
        "uri": reference.raw,
        "byterange": f"{part.length}@{part.offset}" if part else None,
    }
