"""`docs/reference/settings.md` lists every variable; it is written from the fields themselves."""

from __future__ import annotations

from pathlib import Path

from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "settings.md"

HEAD = """# Settings

Environment variables, read once at start by every command and every part. Lists are JSON. The defaults are those of the
local stack; `hls-pipeline up` sets addresses and keys for its parts itself.
"""


def page() -> str:
    own = [name for name in GatewaySettings.model_fields if name not in Settings.model_fields]
    return "\n".join([HEAD, *table(list(Settings.model_fields)), "", "## Of the gateway alone", "", *table(own), ""])


def table(names: list[str]) -> list[str]:
    rows = [
        f"| `HLS_{name.upper()}` | {shown(name)} | {(GatewaySettings.model_fields[name].description or '')} |"
        for name in names
    ]
    return ["| variable | default | what |", "|---|---|---|", *(row.replace("  |", " |") for row in rows)]


def shown(name: str) -> str:
    default = GatewaySettings.model_fields[name].get_default(call_default_factory=True)
    return "" if default in (None, "", ()) else f"`{default}`"


def test_the_page_lists_every_variable_with_its_default() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.test_settings_page"


if __name__ == "__main__":
    PAGE.write_text(page())
