"""`docs/reference/cli.md` and `errors.md` are written from the commands and the error classes themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from hls_pipeline import errors
from hls_pipeline.cli import app
from hls_pipeline.errors import PipelineError
from hls_pipeline.failures import ADVICE, UNEXPECTED
from hls_pipeline.gateway.problems import STATUS

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"

CLI_HEAD = """# Commands

`--data DIR` or `HLS_DATA` says which local stack a command talks to; without one it takes the addresses of the `HLS_…`
variables ([settings](settings.md)). `--json` prints one JSON object per line and nothing else. Exit codes: 0 done, 1
the package or the video is at fault, 2 wrong usage, 3 a service is at fault ([errors](errors.md)).
"""
ERRORS_HEAD = """# Errors

An error has a stable code: the first word that a command prints, `code` in the gateway's problem documents, and what
reports and alerts count by. A step that fails is tried again, except after `corruption`; *may pass* says whether that
is likely to help, *uses a try* whether it counts as one of `HLS_MAX_ATTEMPTS`. The gateway has codes of its own beside
these; they are in [api.md](api.md).

| code | meaning | may pass | uses a try | exit | HTTP | what to do |
|---|---|---|---|---|---|---|
"""


# ---- commands -----------------------------------------------------------------------------------------------------


def cli_page() -> str:
    return CLI_HEAD + "".join(_command(name, command) for name, command in commands(typer.main.get_command(app)))


def commands(group: Any, prefix: str = "hls-pipeline") -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        elif not command.hidden:
            yield f"{prefix} {name}", command


def _command(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    usage = " ".join([name, *(_metavar(each) for each in arguments)])
    title = name.removeprefix("hls-pipeline ")
    lines = [f"\n## {title}\n", f"`{usage}`\n", f"{' '.join((command.help or '').split())}\n"]
    rows = [f"| `{_metavar(each)}` | {_help(each)} |" for each in arguments]
    rows += [f"| {_flags(each)} | {_help(each)} |" for each in options]
    return "\n".join([*lines, "| | |", "|---|---|", *rows, ""])


def _metavar(argument: Any) -> str:
    shown = argument.metavar or argument.name.upper()
    return shown if argument.required or shown.startswith("[") else f"[{shown}]"


_TAKES = {str: "TEXT", int: "NUMBER", float: "NUMBER"}


def _flags(option: Any) -> str:
    kind = option.type_descriptor.annotation
    takes = "" if option.is_flag else f" {option.metavar or _TAKES.get(kind, str(kind.__name__).upper())}"
    return f"`{', '.join(option.opts)}{takes}`".replace("|", "\\|")


def _help(parameter: Any) -> str:
    text = " ".join((parameter.help or "").split())
    default = parameter.default
    shown = default is not None and default is not False and not callable(default) and str(default) not in ("()", "[]")
    return f"{text} Default: `{default}`.".strip() if shown and not parameter.required else text


# ---- errors -------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    return ERRORS_HEAD + "".join(map(_error, classes())) + _row(UNEXPECTED, "no", "yes", 1, 500)


def classes(of: type[PipelineError] = PipelineError) -> Iterator[type[PipelineError]]:
    """In the order of `errors.py`, which draws the tree; those of other modules are special cases of one of these."""
    if of.__module__ == errors.__name__:
        yield of
        for child in of.__subclasses__():
            yield from classes(child)


def _error(kind: type[PipelineError]) -> str:
    status = next(STATUS[each] for each in kind.__mro__ if each in STATUS)  # type: ignore[index]
    return _row(kind.code, _word(kind.retryable), _word(kind.uses_attempt), kind.exit_code, status)


def _word(so: bool) -> str:
    return "yes" if so else "no"


def _row(code: str, again: str, counts: str, exit_code: int, status: int) -> str:
    advice = ADVICE[code]
    return f"| `{code}` | {advice.meaning} | {again} | {counts} | {exit_code} | {status} | {advice.action} |\n"


# ---- what is compared ---------------------------------------------------------------------------------------------

PAGES = {"cli.md": cli_page, "errors.md": errors_page}


def test_the_pages_say_what_the_program_does() -> None:
    for name, page in PAGES.items():
        assert (REFERENCE / name).read_text() == page(), "write them anew: python -m tests.test_reference_pages"


def test_every_command_says_what_it_does_and_every_option_too() -> None:
    for name, command in commands(typer.main.get_command(app)):
        assert re.fullmatch(r"[A-Z].*[.!]", " ".join((command.help or "").split())), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_every_error_code_has_its_advice() -> None:
    assert {kind.code for kind in classes()} | {UNEXPECTED} == set(ADVICE)
    for code, advice in ADVICE.items():
        assert advice.meaning.endswith("."), code
        assert advice.action.endswith("."), code


if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
