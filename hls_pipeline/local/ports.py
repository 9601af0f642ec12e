"""Ports on loopback for servers of ours, such that two stacks that start at the same moment choose different ones.

Between choosing a port and listening on it lie seconds in which a look tells nobody that it is taken. Whoever chooses
holds the UDP port of the same number meanwhile: no part of a stack wants it, and the system gives it to one only.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType

RANGE = range(20000, 32000)
"""Below Linux's ephemeral ports, so that no outgoing connection sits on one of ours while a part restarts."""
_LOOPBACK = "127.0.0.1"
_NOTHING = MappingProxyType[str, int]({})


@contextmanager
def held(
    names: Iterable[str], companions: Mapping[str, int] = _NOTHING, wanted: Mapping[str, int] = _NOTHING
) -> Iterator[dict[str, int]]:
    """A free port for each name, the `wanted` one if it is free. `companions` names those that also need the port so
    many higher. As long as the block runs, no other stack is given them."""
    chosen: dict[str, int] = {}
    with ExitStack() as tokens:
        for name in names:
            offsets = (0, companions[name]) if name in companions else (0,)
            port = wanted.get(name, 0)
            while not (_fits(port, chosen) and _take([port + offset for offset in offsets], tokens)):
                port = secrets.choice(RANGE)
            chosen[name] = port
        yield chosen


def _fits(port: int, chosen: Mapping[str, int]) -> bool:
    """SeaweedFS refuses ports of which one is another plus 10,000: those are its defaults for gRPC."""
    return port > 0 and port not in {other + offset for other in chosen.values() for offset in (-10_000, 0, 10_000)}


def _take(ports: Iterable[int], tokens: ExitStack) -> bool:
    """Whether all are free; then they are ours until `tokens` is closed."""
    with ExitStack() as taken:
        try:
            for port in ports:
                token = taken.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                token.bind((_LOOPBACK, port))
                _look(port)
        except (OSError, OverflowError):
            return False
        tokens.enter_context(taken.pop_all())
        return True


def _look(port: int) -> None:
    """Raises OSError when somebody listens on it. As servers look: what is left of closed connections is nobody."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((_LOOPBACK, port))
