"""Small questions to a node, through `ipfshttpclient`.

The client is built with `Client(...)`: `connect()` refuses every Kubo of today. It is imported on first use,
because that takes half a second. Its session is told to leave `.netrc` and proxies alone (they would replace
our authorization), and every body is read here, with a limit to its size and to the time it takes. Streams
and anything whose success decides about data belong to `wire`, which sees trailers.
"""

from __future__ import annotations

import ssl
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from hls_pipeline.errors import Outage, ServiceError, UsageError
from hls_pipeline.ipfs.border import border, refusal
from hls_pipeline.ipfs.wire import Limits

_MAX_ANSWER = 1024 * 1024


class Control:
    """A lazily opened `ipfshttpclient.Client`, safe to use from several threads."""

    def __init__(self, rpc_url: str, headers: Mapping[str, str], limits: Limits) -> None:
        self._address, self._base = multiaddr(rpc_url)
        self._headers = dict(headers)
        self._limits = limits
        self._lock = threading.Lock()
        self._client: Any = None

    def ask(self, what: str, question: Callable[[Any], Any]) -> Any:
        """What the node answers to `question(client)`. Outage, ServiceRefused, ProofMissing or ServiceError."""
        import requests
        import urllib3
        from ipfshttpclient import exceptions

        with border(what):
            try:
                return question(self._opened())
            except (exceptions.StatusError, requests.HTTPError) as error:
                raise _refused(what, error) from error
            except exceptions.DecodingError as error:
                raise ServiceError(f"{what}: the node's answer is no JSON") from error
            except AssertionError as error:  # its `returns_single_item`
                raise ServiceError(f"{what}: the node did not answer with one value") from error
            except (exceptions.Error, requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise Outage(f"{what}: {error}") from error

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Any:
        import ipfshttpclient

        # Of its `strict` argument; what it warns of is why pyproject.toml holds urllib3 below 3.
        warnings.filterwarnings("ignore", "The 'strict' parameter", FutureWarning)
        client = ipfshttpclient.Client(
            self._address,
            self._base,
            session=True,
            headers=self._headers,
            timeout=(self._limits.connect, min(self._limits.stall, self._limits.total)),
            username=None,
            password=None,
        )
        session = client._client._session
        session.trust_env = False
        trusted = ssl.get_default_verify_paths()
        # The machine's certificates, as for bulk traffic; requests would bring its own.
        session.verify = trusted.cafile or trusted.capath or True
        session.hooks["response"].append(self._read)
        return client

    def _read(self, response: Any, **_: Any) -> Any:
        """Read the body as it comes; `ipfshttpclient` then finds it read. Redirects are not followed."""
        import requests

        if 300 <= response.status_code < 400:
            raise requests.HTTPError("a redirect", response=response)
        end = time.monotonic() + self._limits.total
        body = bytearray()
        while piece := response.raw.read1(_MAX_ANSWER, decode_content=True):
            body += piece
            if len(body) > _MAX_ANSWER:
                raise ValueError(f"an answer of more than {_MAX_ANSWER} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"not done after {self._limits.total:g} s")
        if not body and response.ok:
            raise ValueError("an empty answer")
        response._content, response._content_consumed = bytes(body), True
        return response


def _refused(what: str, error: Any) -> ServiceError:
    """For an answer with another status than 200: requests' own error, or the one ipfshttpclient made of it."""
    response = getattr(getattr(error, "original", error), "response", None)
    return refusal(what, getattr(response, "status_code", 500), str(error))


def multiaddr(url: str) -> tuple[str, str]:
    """`http://host:port/prefix` as the multiaddr and the base path that ipfshttpclient wants. UsageError."""
    if "@" in url:  # addresses are shown and logged, so not even this message repeats it
        raise UsageError("an IPFS address has no place for a user and password; HLS_IPFS_AUTH has, one for each node")
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname or ""
        if not host or parts.query or parts.fragment:
            raise ValueError("it needs a host, and nothing behind the path")
    except (ValueError, KeyError) as error:
        raise UsageError(f"IPFS address {url!r} is no http(s)://host:port: {error}") from error
    kind = "ip6" if ":" in host else "ip4" if host.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{host}/tcp/{port}/{parts.scheme}", f"{parts.path.rstrip('/')}/api/v0"
