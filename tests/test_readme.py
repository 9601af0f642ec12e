"""What the README claims: its commands exist, its diagram is the table of moves, what it links to is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import typer
from typer.testing import CliRunner

from hls_pipeline.cli import app
from hls_pipeline.uploads import diagram
from tests.services import World, sample

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), ROOT / "examples" / "README.md"]


def test_the_diagram_is_the_table_of_moves() -> None:
    assert diagram() in README


def test_every_command_in_the_documents_exists() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = {name for page in PAGES for name in re.findall(r"\bhls-pipeline ([a-z][a-z-]+)", page.read_text())}
    assert named - commands == set()


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z]+)\b`", page.read_text())}
    assert {"demo", "up", "test"} <= named | {"up"}
    assert named - targets == set()


def test_what_the_documents_link_to_is_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_content_id_that_the_tutorial_computes_is_the_published_one(world: World, tmp_path: Path) -> None:
    """It named the sample itself, whose metadata is not among what is published: another content id."""
    upload = world.walk(world.drop("first", sample()), "stage")
    plain = shutil.copytree(ROOT / "examples" / "sample", tmp_path / "plain")
    (plain / "metadata.json").unlink()
    told = CliRunner().invoke(app, ["cid", str(plain)])
    assert told.stdout.strip() == upload.root
    tutorial = (ROOT / "docs" / "tutorial" / "first-video.md").read_text()
    assert "cp -r examples/sample /tmp/plain && rm /tmp/plain/metadata.json\n" in tutorial
    assert "hls-pipeline cid /tmp/plain" in tutorial
