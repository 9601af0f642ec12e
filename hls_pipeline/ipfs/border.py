"""The one border between IPFS nodes and our errors: what a node's answer means, and whether to try again.

`refusal` judges an answer that says no, `border` everything that breaks before or instead of an answer. A
full disk is an outage: the node says "later", and the upload waits until somebody made room. Add a phrase
here when a node refuses with one that a caller must treat differently. Kubo answers nearly every failure with
status 500 and a text.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

from hls_pipeline.errors import Outage, ProofMissing, ServiceError, ServiceRefused

_MISSING = (
    "could not find",
    "was not found locally",
    "block not found",
    "is not pinned",
    "is damaged on disk",
    "block in storage has different hash than requested",  # boxo blockstore.ErrHashMismatch
)
_LATER = (
    "no space left",
    "quota exceeded",
    "file too large",  # a limit on file sizes (ulimit -f)
    "context deadline exceeded",
    "context canceled",
    "i/o timeout",
    "too many open files",
    "unexpected eof",
)


def refusal(what: str, status: int, text: str) -> ServiceError:
    """The error for an answer other than success. `text` is the node's own message."""
    message = f"{what}: the node answered {status}: {' '.join(text.split())[:500] or 'nothing more'}"
    lowered = text.lower()
    if any(phrase in lowered for phrase in _LATER) or status in (429, 502, 503, 504):
        return Outage(message)
    if any(phrase in lowered for phrase in _MISSING):
        return ProofMissing(message)
    if status in (401, 403):
        return ServiceRefused(f"{message}; check HLS_IPFS_AUTH and the node's API.Authorizations")
    if status < 500:
        return ServiceRefused(f"{message}; check that the address is that of a Kubo node")
    return ServiceError(message)


@contextmanager
def border(what: str) -> Iterator[None]:
    """Foreign exceptions of a conversation with a node become ours: Outage, or ServiceError for nonsense."""
    try:
        yield
    except http.client.HTTPException as error:
        raise Outage(f"{what}: the answer broke off ({type(error).__name__}: {error})") from error
    except OSError as error:
        raise Outage(f"{what}: {error or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ServiceError(f"{what}: the node's answer makes no sense: {error}") from error
