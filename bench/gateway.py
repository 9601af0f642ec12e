"""The gateway against the bare tools on the same S3: accepting packages, reading status, memory under large uploads.

Prints one line per measurement. `s5cmd cp` of the same files to the same server is the yardstick for accepting.
Sizes can be reduced, and parts left out: `python -m bench.gateway --large-mb 64 --only large`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hls_pipeline import metadata_store  # the path above comes first
from hls_pipeline.gateway import access
from hls_pipeline.settings import Settings
from tests import services
from tests.local import ipfs_node_fixture

MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large-mb", type=int, default=256, help="size of each of the eight large uploads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("small", "s5cmd", "four", "reads", "large"), help="this part alone")
    chosen = parser.parse_args()
    small = files(6, 5 * MB)
    with gateway() as (url, key, process, settings):
        parts = {
            "small": lambda: accept("5 MB in 6 files", url, key, small, chosen.rounds),
            "s5cmd": lambda: beside_s5cmd(url, key, settings, chosen.rounds),
            "four": lambda: four(url, key, chosen.rounds),
            "reads": lambda: reads(url, key, process),
            "large": lambda: large(url, key, process, chosen.large_mb),
        }
        for name, measure in parts.items():
            if chosen.only in (None, name):
                measure()


@contextlib.contextmanager
def gateway() -> Iterator[tuple[str, str, psutil.Process, Settings]]:
    """A gateway of its own process over an S3 and an IPFS node of ours."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-gateway-")))
        for name in ("s3", "ipfs", "gateway"):
            (folder / name).mkdir()
        settings = stack.enter_context(services.running_s3(folder / "s3"))
        node = stack.enter_context(ipfs_node_fixture.running(folder / "ipfs"))
        database = f"sqlite:///{services.migrated_sqlite(folder / 'metadata.sqlite')}"
        key = access.ensure_local_key(metadata_store.connect(database), folder / "key")
        (port,) = services.free_ports(1)
        assert settings.s3_secret_key is not None
        environment = {
            "HLS_DATABASE_URL": database,
            "HLS_S3_ENDPOINT": settings.s3_endpoint or "",
            "HLS_S3_ACCESS_KEY": settings.s3_access_key or "",
            "HLS_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
            "HLS_IPFS_RPC_URLS": f'["http://{node.rpc}"]',
            "HLS_IPFS_GATEWAY_URLS": f'["http://{node.gateway}"]',
            "HLS_PUBLIC_READ": "1",
            "HLS_REQUESTS_PER_MINUTE": "1000000000",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }
        program = "from hls_pipeline.gateway import config, server; server.run(config.load(), '127.0.0.1', PORT)"
        command = (sys.executable, "-c", program.replace("PORT", str(port)))
        url = f"http://127.0.0.1:{port}"
        running = stack.enter_context(services.service(command, folder / "gateway", lambda: answers(url), environment))
        yield url, key, psutil.Process(running.pid), settings


def answers(url: str) -> bool:
    try:
        return ask(url, "GET", "/healthz")[0] == 200
    except OSError:
        return False


def ask(url: str, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def files(count: int, size: int) -> dict[str, bytes]:
    """A playlist and transport streams of random bytes; `size` bytes in all."""
    packets = size // (count - 1) // 188
    filling = secrets.token_bytes(187)
    names = [f"s{n}.ts" for n in range(count - 1)]
    found = dict.fromkeys(names, (b"G" + filling) * packets)
    for name in names:  # every file another one, or they would be one object
        found[name] = b"\x47" + secrets.token_bytes(187) + found[name][188:]
    return {"master.m3u8": services.media_playlist(*names), **found}


def send(url: str, key: str, package: dict[str, bytes]) -> tuple[float, float]:
    """Seconds from the first and from the last byte to the 202."""
    boundary = secrets.token_hex(16)
    parts = []
    for path, data in package.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{path}"\r\n\r\n'
        parts += [head.encode(), data, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
    began = time.perf_counter()
    connection.putrequest("POST", "/v1/videos")
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={boundary}")
    connection.putheader("Content-Length", str(sum(map(len, parts))))
    connection.endheaders()
    for part in parts:
        connection.send(part)
    sent = time.perf_counter()
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 202, text[:2000]
    now = time.perf_counter()
    connection.close()
    return now - began, now - sent


def accept(what: str, url: str, key: str, package: dict[str, bytes], rounds: int) -> None:
    tell(what, [send(url, key, package) for _ in range(rounds)])


def tell(what: str, took: list[tuple[float, float]]) -> float:
    whole, last = (statistics.median(column) for column in zip(*took, strict=True))
    print(f"{what}: {whole:.2f} s from first byte to 202, {last:.2f} s from last byte (median of {len(took)})")
    return whole


def beside_s5cmd(url: str, key: str, settings: Settings, rounds: int) -> None:
    """One after the other, round by round: whatever else the machine does, it does to both."""
    package = files(60, 100 * MB)
    took, bare = [], []
    for _ in range(rounds):
        took.append(send(url, key, package))
        bare.append(s5cmd(settings, package))
    whole, usual = tell("100 MB in 60 files", took), statistics.median(bare)
    print(f"s5cmd cp of the same files: {usual:.2f} s; sending and accepting costs {whole / usual:.2f} of it")


def four(url: str, key: str, rounds: int) -> None:
    packages = [files(60, 100 * MB) for _ in range(4)]
    took: list[float] = []
    for _ in range(rounds):
        with ThreadPoolExecutor(4) as pool:
            took += [last for _, last in pool.map(lambda package: send(url, key, package), packages)]
    late = statistics.quantiles(took, n=20)[-1]
    print(f"four at once, 100 MB each: last byte to 202 {statistics.median(took):.2f} s median, {late:.2f} s at p95")


def s5cmd(settings: Settings, package: dict[str, bytes]) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-s5cmd-") as folder:
        for path, data in package.items():
            (Path(folder) / path).write_bytes(data)
        assert settings.s3_secret_key is not None
        environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": settings.s3_access_key or "",
            "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        }
        program = str(Path(sys.executable).with_name("s5cmd"))
        command = [program, "--endpoint-url", settings.s3_endpoint or "", "cp", f"{folder}/", "s3://media/_bench/"]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return float(time.perf_counter() - began)


def reads(url: str, key: str, process: psutil.Process, seconds: float = 3) -> None:
    send(url, key, files(2, MB))
    video_id = json.loads(ask(url, "GET", "/v1/videos?limit=1")[1])["videos"][0]["video_id"]
    for what, path in (("document", f"/v1/videos/{video_id}"), ("status", f"/v1/videos/{video_id}/status")):
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        count, until, used = 0, time.perf_counter() + seconds, cpu(process)
        while time.perf_counter() < until:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            count += 1
        used = cpu(process) - used
        print(f"reads of a {what}, one connection: {count / seconds:.0f}/s, {count / used:.0f} per second of one core")


def cpu(process: psutil.Process) -> float:
    """Seconds of processor time that it has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def large(url: str, key: str, process: psutil.Process, size_mb: int) -> None:
    """Eight at once, each with one large file."""
    done, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    piece = (b"\x47" + bytes(187)) * 5000
    package = {"master.m3u8": services.media_playlist("s0.ts"), "s0.ts": piece * (size_mb * MB // len(piece))}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: send(url, key, package), range(8)))
    done.set()
    watcher.join()
    print(f"eight uploads of {size_mb} MB at once: the gateway held {peak / (1 << 20):.0f} MiB at most")


if __name__ == "__main__":
    main()
