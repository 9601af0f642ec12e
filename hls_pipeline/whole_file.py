"""A file that a person names: it is there when it is whole, and what had its name stays until then, as do its rights.

Whatever a command writes to a path of the user's goes through here; what the local stack keeps for itself does not.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hls_pipeline.errors import UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to be at `path` once the block has ended well. A pipe or a device gets it as it comes.
    Raises UsageError where that cannot be written."""
    try:
        target = path.resolve()
        waits = target.is_file() or not path.exists()
        written = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part") if waits else path
        try:
            yield written
            if waits:
                with suppress(FileNotFoundError):
                    shutil.copymode(target, written)
                written.replace(target)
        finally:
            if waits:
                written.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; name a file that can be written") from error
