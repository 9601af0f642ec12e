"""`make demo` when it is stopped; that it shows what it should is in `tests/e2e` and `tests/test_readme.py`."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hls_pipeline.commands import demo


def test_a_sigterm_in_the_instant_of_starting_the_stack_ends_the_stack_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was left running, because nobody had its process number yet."""
    started: list[subprocess.Popen[bytes]] = []

    class Starting(subprocess.Popen[bytes]):
        def __init__(self, _: list[str], **more: Any) -> None:
            super().__init__(["sleep", "600"], **more)
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Starting)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended, demo._stack(tmp_path, production=False):
            pass
        assert ended.value.code == 128 + signal.SIGTERM
        assert started[0].returncode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
        started[0].kill()
