"""RabbitMQ for the production stack: Debian's program as a node of our own, everything on loopback.

Its files, its Erlang cookie and its ports (AMQP, distribution, epmd) are private to the data folder, so it meets no
other node of this machine. Queues are declared by those who use them, in `queue/`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hls_pipeline.errors import UsageError

PORTS = ("amqp", "amqp_node", "epmd")
USER = "hls"

_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's /usr/sbin/rabbitmq-server is a wrapper that serves the system's own node alone."""

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
# A message is acknowledged when its run has ended; the default closes the channel after half an hour.
consumer_timeout = 86400000
disk_free_limit.absolute = 200MB
"""


def program() -> str:
    """Raises UsageError when there is none."""
    found = str(_DEBIAN) if _DEBIAN.exists() else shutil.which("rabbitmq-server")
    if found is None:
        raise UsageError("RabbitMQ is not installed; on Debian and Ubuntu, as root: apt-get install rabbitmq-server")
    return found


def url(port: int, password: str) -> str:
    return f"amqp://{USER}:{password}@127.0.0.1:{port}//"


def prepare(folder: Path, port: int, password: str) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "enabled_plugins").write_text("[].\n")
    path = folder / "rabbitmq.conf"
    path.touch(mode=0o600)
    path.write_text(_CONFIGURATION.format(port=port, user=USER, password=password))


def environment(folder: Path, ports: dict[str, int]) -> dict[str, str]:
    """`detached` makes the script become the Erlang machine, instead of waiting for it as its child."""
    return {
        "detached": "1",
        "HOME": str(folder),  # of the cookie
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_NODENAME": "hls@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_DIST_PORT": str(ports["amqp_node"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def answers(url: str) -> bool:
    """Whether it lets us in."""
    from kombu.connection import Connection  # loaded here: its import takes longer than a local stack has time

    try:
        with Connection(url, connect_timeout=1) as connection:
            connection.connect()
    except Exception:  # noqa: BLE001  # whatever it is, it is not ready
        return False
    return True
