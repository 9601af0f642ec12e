"""Dagster's web app as programs ask it: GraphQL by POST, with the key of `hls-pipeline ui`.

Dagster's own client takes a second to import and 75 MB. Add a question that several places ask; which run an upload
gets is said in `queue/requests.py`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hls_pipeline.errors import Outage, ServiceRefused
from hls_pipeline.settings import Settings

LOCATION = "hls_pipeline"
"""Of our code in Dagster. Part of every run key's identity: a new name would start old uploads again."""

_REPOSITORY = {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"}

_SECONDS, _LONG = 10.0, 120.0

# Top-level mutations are executed one after the other: a run of an unknown partition would start, and fail.
_LAUNCH = """
mutation ($repository: RepositorySelector!, $partitions: String!, $partition: String!, $params: ExecutionParams!) {
  addDynamicPartition(
    repositorySelector: $repository, partitionsDefName: $partitions, partitionKey: $partition
  ) {__typename}
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess {run {runId}}
    ... on PythonError {message}
    ... on UnauthorizedError {message}
  }
}"""

_BACKFILL = """
mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess {backfillId}
    ... on PythonError {message}
    ... on UnauthorizedError {message}
  }
}"""
_KEYS_AT_ONCE = 500


@dataclass(frozen=True)
class DagsterClient:
    url: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, settings: Settings) -> DagsterClient | None:
        """None when no web app is configured."""
        if not settings.dagster_url:
            return None
        return cls(settings.dagster_url.rstrip("/"), settings.ui_key.get_secret_value() if settings.ui_key else "")

    def ask(self, query: str, variables: Mapping[str, Any] | None = None, seconds: float = _SECONDS) -> dict[str, Any]:
        """Raises Outage when no answer comes within `seconds`, ServiceRefused when it is none."""
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)  # noqa: S310
        # It is near, often on loopback, whatever proxy the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=seconds) as answer:
                said = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            detail = error.read(500).decode(errors="replace").strip()
            raise ServiceRefused(f"asking Dagster at {self.url}: {error.code} {detail}") from error
        except (OSError, ValueError) as error:
            raise Outage(f"its web app does not answer at {self.url}: {error}") from error
        if errors := said.get("errors"):
            raise ServiceRefused(f"asking Dagster at {self.url}: {errors[0]['message']}")
        return dict(said["data"])

    def launch(self, job: str, partitions: str, partition: str, tags: Mapping[str, str]) -> str:
        """Starts a run of one partition, which need not be known yet; its id. Raises as `ask`."""
        params = {
            "selector": {**_REPOSITORY, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        variables = {"repository": _REPOSITORY, "partitions": partitions, "partition": partition, "params": params}
        launched = self.ask(_LAUNCH, variables)["launchRun"]
        if "run" not in launched:
            reason = launched.get("message", launched["__typename"])
            raise ServiceRefused(f"Dagster at {self.url} does not start job {job}: {reason}")
        return str(launched["run"]["runId"])

    def backfill(self, assets: Sequence[str], partitions: str, keys: Sequence[str]) -> str:
        """Starts a backfill of the assets, a run for each of `keys`, which need not be known yet; its id. Raises as
        `ask`. Of a job's backfill that was cancelled, Dagster would re-execute nothing; of one of assets, the rest."""
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            added = "".join(
                f"k{n}: addDynamicPartition(repositorySelector: $repository, partitionsDefName: $partitions, "
                f"partitionKey: {json.dumps(key)}) {{__typename}}\n"  # a known one is answered with an error of its own
                for n, key in enumerate(keys[start : start + _KEYS_AT_ONCE])
            )
            query = f"mutation ($repository: RepositorySelector!, $partitions: String!) {{{added}}}"
            self.ask(query, {"repository": _REPOSITORY, "partitions": partitions}, _LONG)
        params = {"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": list(keys)}
        launched = self.ask(_BACKFILL, {"params": params}, _LONG)["launchPartitionBackfill"]
        if "backfillId" not in launched:
            reason = launched.get("message", launched["__typename"])
            raise ServiceRefused(f"Dagster at {self.url} starts no backfill: {reason}")
        return str(launched["backfillId"])
