"""PostgreSQL for the production stack: Debian's programs, a cluster of our own in the data folder, loopback only.

`python -m hls_pipeline.local.postgres FOLDER PORT` makes the cluster when there is none yet, and becomes its server.
PostgreSQL refuses to run as root. Its own user runs it then, who may be unable to walk to the data folder, so the
folder is handed to it open and it finds its files below /proc/self/fd. Which databases there are is decided in
`databases.py`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

from hls_pipeline.errors import Outage, UsageError
from hls_pipeline.local import processes

PASSWORD = "HLS_POSTGRES_PASSWORD"  # noqa: S105  # the name of a variable
USER = "hls"
INSTALL = "on Debian and Ubuntu, as root: apt-get install postgresql"

_CONNECTIONS = 200
"""Dagster's web app, the gateway and each worker keep a pool of their own."""
_CHILDREN_SECONDS = 10.0


@dataclass(frozen=True)
class Server:
    """How to reach it, on this machine."""

    port: int
    password: str = field(repr=False)

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def make_databases(self, *names: str) -> None:
        """Those that are missing. Raises Outage."""
        try:
            connection = self._connect()
            connection.autocommit = True  # a database is not made inside a transaction
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                there = {name for (name,) in cursor.fetchall()}
                for name in set(names) - there:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            connection.close()
        except psycopg2.Error as error:
            raise Outage(f"making the databases {', '.join(names)}: {error}") from error

    def _connect(self) -> Any:
        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname="postgres", connect_timeout=2
        )


def binaries() -> Path:
    """The folder of `initdb` and `postgres`. Raises UsageError when there is none."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(debian[-1]) if debian else shutil.which("initdb")
    if found is None:
        raise UsageError(f"PostgreSQL is not installed; {INSTALL}")
    return Path(found).resolve().parent


def command(folder: Path, port: int) -> tuple[str, ...]:
    """To be run with the password in the environment."""
    binaries()  # a missing program is said before anything starts
    return (sys.executable, "-m", "hls_pipeline.local.postgres", str(folder), str(port))


def serve(folder: Path, port: int, password: str) -> None:
    """Becomes the server: does not return. Raises UsageError or Outage."""
    programs = binaries()
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(handle, True)
    if os.geteuid() == 0:
        _become(_account(), handle)
    os.chdir("/")  # PostgreSQL insists on coming back to where it started
    cluster = Path(f"/proc/self/fd/{handle}/cluster")
    if cluster.exists():
        _settle(cluster)
    else:
        _make(cluster, programs, handle, password)
    arguments = ("-D", str(cluster), "-p", str(port), "-k", "", "-c", "listen_addresses=127.0.0.1")
    os.execv(programs / "postgres", ("postgres", *arguments, "-c", f"max_connections={_CONNECTIONS}"))  # noqa: S606


def _make(cluster: Path, programs: Path, handle: int, password: str) -> None:
    """In a folder that gets its name only when it is whole."""
    waiting = cluster.with_name("cluster.new")
    shutil.rmtree(waiting, ignore_errors=True)
    options = ("-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions")
    done = subprocess.run(
        (str(programs / "initdb"), "-D", str(waiting), *options, "--pwfile=/dev/stdin"),
        input=password,
        text=True,
        pass_fds=(handle,),
        check=False,
    )
    if done.returncode:
        raise Outage("initdb failed; what it said above tells why")
    waiting.rename(cluster)


def _settle(cluster: Path) -> None:
    """After a server that was killed. PostgreSQL does not start while one of its children lives, which ends soon by
    itself, nor while the system knows its number: until somebody collects the dead process, in a container for ever."""
    deadline = time.monotonic() + _CHILDREN_SECONDS
    while _is_in_use(cluster) and time.monotonic() < deadline:
        time.sleep(0.05)
    lock = cluster / "postmaster.pid"
    with suppress(FileNotFoundError):
        number, _, rest = lock.read_text().partition("\n")
        if _is_dead(number):
            fresh = lock.with_name("postmaster.pid.new")
            fresh.write_text(f"{os.getpid()}\n{rest}")  # it passes over its own number, and looks for the children
            fresh.replace(lock)


def _is_in_use(cluster: Path) -> bool:
    """Whether a process works in the folder, as those of PostgreSQL do; where there is no /proc, nobody is seen."""

    def works_there(process: Path) -> bool:
        with suppress(OSError):  # it ended, or it is somebody else's
            return (process / "cwd").samefile(cluster)
        return False

    return any(map(works_there, Path("/proc").glob("[0-9]*")))


def _is_dead(number: str) -> bool:
    """Whether the process has ended and waits to be collected by its parent."""
    with suppress(OSError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError as error:
        raise UsageError(f"PostgreSQL does not run as root, and there is no user `postgres`; {INSTALL}") from error


def _become(account: pwd.struct_passwd, handle: int) -> None:
    os.fchown(handle, account.pw_uid, account.pw_gid)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    processes.die_with_parent()  # Linux forgets that when the user changes


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), os.environ[PASSWORD])
