"""Python's cycle collector, paused while a playlist becomes values.

A large playlist turns into a million small tuples and not one cycle; the collector would walk them again and again,
which makes 100,000 references cost thirteen times as much as 10,000. Use it around work of that kind only.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Where several threads do this at once, the first to begin switches the collector on again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
