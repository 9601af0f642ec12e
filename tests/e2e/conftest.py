"""One whole local stack for these tests, with the embedded IPFS node, and ways to drop packages into its inbox."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from hls_pipeline import keys, settings
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.local.data_folder import settings_of
from hls_pipeline.metadata_store import MetadataStore, connect
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.object_store import connect as connect_objects
from hls_pipeline.replicas import connect as connect_nodes
from hls_pipeline.uploads import State, Upload
from tests.stack_fixture import RunningStack, running_stack

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample"

ENDS = frozenset(State) - {State.RECEIVED, State.STAGED, State.PINNED, State.PUBLISHED}


@dataclass(frozen=True)
class Pipeline:
    """The running stack as a creator and an operator see it."""

    stack: RunningStack

    @cached_property
    def settings(self) -> settings.Settings:
        return settings_of(settings.load(data=self.stack.data, database_url=""))

    @cached_property
    def objects(self) -> ObjectStore:
        return connect_objects(self.settings)

    @cached_property
    def store(self) -> MetadataStore:
        return connect(self.settings.database_url)

    @property
    def node(self) -> Kubo:
        return connect_nodes(self.settings)[0]

    def put(self, video_id: str, files: Mapping[str, bytes]) -> None:
        for path, data in files.items():
            self.objects.put("inbox", keys.inbox(video_id, path), data, "application/octet-stream")

    def mark(self, video_id: str) -> None:
        self.put(video_id, {keys.READY: b""})

    def drop(self, video_id: str, files: Mapping[str, bytes]) -> None:
        self.put(video_id, files)
        self.mark(video_id)

    def wait(self, video_id: str, *states: State, revision: int | None = None, seconds: float = 150) -> Upload:
        """The newest upload once it is in one of `states` (and of `revision`)."""
        deadline = time.monotonic() + seconds
        while True:
            upload = self.store.latest_upload(video_id)
            if upload and upload.state in states and revision in (None, upload.revision):
                return upload
            assert time.monotonic() < deadline, f"waited {seconds} s for {video_id} to be {states}: {upload}"
            time.sleep(0.1)

    def document(self, video_id: str) -> dict[str, Any]:
        current = self.store.current(video_id)
        assert current is not None
        return dict(json.loads(current.document))

    def read(self, path: str) -> bytes:
        """A file from the IPFS gateway."""
        return b"".join(self.node.read(path))

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        request = Request(
            f"{self.stack.addresses['dagster']}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=60) as answer:
            return dict(json.load(answer)["data"])


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    environment = {"HLS_LOCAL_IPFS": "embedded", "HLS_KEYS": "publish", "HLS_INBOX_QUIET_SECONDS": "2"}
    with running_stack(tmp_path_factory.mktemp("stack") / "data", environment) as stack:
        yield Pipeline(stack)


def folder(path: Path) -> dict[str, bytes]:
    """Every file of a folder by its path inside it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
