"""`hls-pipeline worker` whose steps stop, or kill their process, where a test says so; only the tests know of this.

PAUSING_WORKER_AT is `{behaviour}:{step}`: `hold:publish` waits at the start of `publish` as long as the file `hold` is
in PAUSING_WORKER_FOLDER, and says so with a file `held`; `die:publish` kills the process each time it works on a video
named poison, `die-once:*` once in each step. `hold:thin` waits in the job that thins Dagster's history, which is about
no video. Several steps are separated by commas.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hls_pipeline import cli, steps
from hls_pipeline.upkeep import retention
from hls_pipeline.uploads import Upload

STEPS = ("stage", "write_s3_manifest", "publish", "write_ipfs_manifest", "finalize", "clear_temp_storage")


def prepare(behaviour: str, step: str, folder: Path) -> None:
    for name in STEPS if step == "*" else step.split(","):
        if name == "thin":
            retention.thin = thinning(retention.thin, folder)
        else:
            setattr(steps, name, wrapped(getattr(steps, name), name, behaviour, folder))


def wrapped(work: Callable[..., Any], name: str, behaviour: str, folder: Path) -> Callable[..., Any]:
    def step(upload: Upload, *arguments: Any) -> Any:
        if behaviour == "hold":
            hold(folder)
        elif behaviour == "die" and upload.video_id.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif behaviour == "die-once" and not (mark := folder / f"died-in-{name}").exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return work(upload, *arguments)

    return step


def thinning(work: Callable[..., int], folder: Path) -> Callable[..., int]:
    def thin(*arguments: Any) -> int:
        hold(folder)
        return work(*arguments)

    return thin


def hold(folder: Path) -> None:
    (folder / "held").touch()
    while (folder / "hold").exists():
        time.sleep(0.05)


if __name__ == "__main__":
    prepare(*os.environ["PAUSING_WORKER_AT"].split(":"), Path(os.environ["PAUSING_WORKER_FOLDER"]))
    cli.main()
