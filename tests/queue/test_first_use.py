"""The daemon submits runs from several threads, and all of them may be the first to need the broker."""

from __future__ import annotations

import subprocess
import sys

FOUR_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from hls_pipeline.queue import broker
from hls_pipeline.settings import load

settings, together = load(broker_url="amqp://user:password@127.0.0.1:1//"), Barrier(4)

def first(_):
    together.wait()
    return broker.celery_app(settings).main

with ThreadPoolExecutor(4) as pool:
    print(*pool.map(first, range(4)))
"""


def test_threads_that_need_celery_at_the_same_moment_all_get_it() -> None:
    """Three of five uploads waited half a minute: `celery.Celery` is lazy, and failed for all threads but one."""
    done = subprocess.run([sys.executable, "-c", FOUR_AT_ONCE], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["hls_pipeline"] * 4, done.stderr
