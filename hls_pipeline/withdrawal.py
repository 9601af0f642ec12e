"""Taking a video back: decided in one transaction, carried out afterwards, as often as it takes.

From the transaction on, readers get a document that says so and no run goes on with the video. What it has in S3 and
on the nodes is removed at once as far as the services answer; rows in `temp_storage` stand for the rest, and the
clean-up goes on with it. The versions and receipts stay: that it was there, and who withdrew it, is part of the history.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from hls_pipeline import clock, documents, drops, keys, work
from hls_pipeline.errors import LeaseLost, PipelineError, ServiceError, UserError
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.metadata_store import Lease, MetadataStore, TempObject
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.temp_storage import Found, delete, held
from hls_pipeline.uploads import Upload
from hls_pipeline.versions import Version

_REASON_LENGTH = 1000  # characters
