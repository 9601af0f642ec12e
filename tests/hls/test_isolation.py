"""Checking a stranger's package touches nothing but the package: no socket, no other file, no other program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.hls.conftest import CORPUS

ROOT = Path(__file__).resolve().parents[2]

WATCHED = """
import sys
from pathlib import Path
corpus = Path(sys.argv[1]).resolve()
import m3u8, pydantic  # what is imported lazily is loaded before watching
from hls_pipeline.hls.package import check
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative, rewrite
from hls_pipeline.hls.sources import open_source

FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.fork", "os.system", "os.remove", "os.rename", "os.mkdir",
             "os.symlink", "os.link", "os.chmod", "shutil.", "tempfile.", "ctypes.", "urllib.")
watching = False

def watch(event, arguments):
    if not watching:
        return
    if event.startswith(FORBIDDEN):
        raise AssertionError(f"{event} {arguments}")
    if event == "open":
        name, mode, flags = arguments
        inside = isinstance(name, int) or Path(name).resolve().is_relative_to(corpus)
        library = isinstance(name, str) and name.endswith((".py", ".pyc"))
        if not (inside or library) or (isinstance(mode, str) and set(mode) & set("wax+")) or flags & 3:
            raise AssertionError(f"opened {arguments}")

sys.addaudithook(watch)
packages = [path for part in ("synthetic", "packages", "ffmpeg") for path in (corpus / part).iterdir() if path.is_dir()]
watching = True
count = 0
for path in packages:
    with open_source(path) as source:
        package, _ = check(source, Policy(keys="publish"))
    if package is not None:
        for document in (*package.playlists.values(), *package.side_files.values()):
            relative(document)
            rewrite(document, lambda reference: "ipfs://x/y.ts")
            count += 1
watching = False
print(len(packages), count)
"""


def test_no_socket_is_opened_and_no_file_outside_the_package() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, str(CORPUS)], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    packages, documents = map(int, result.stdout.split())
    assert packages == 70
    assert documents > 40


def test_nothing_in_the_folder_names_a_way_out() -> None:
    for path in (ROOT / "hls_pipeline" / "hls").rglob("*.py"):
        text = path.read_text()
        for word in ("import socket", "urllib.request", "requests", "http.client", "subprocess", "tempfile", "boto3"):
            assert word not in text, f"{path.name} names {word}"
        assert "m3u8.load(" not in text
        assert "splitlines(" not in text


def test_importing_the_checks_brings_no_service_client_and_no_second_opinion() -> None:
    code = (
        "import sys, hls_pipeline.hls.package\n"
        "print([m for m in ('m3u8', 'boto3', 'dagster', 'sqlalchemy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert out.stdout.strip() == "[]"
