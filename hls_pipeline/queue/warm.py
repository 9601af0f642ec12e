"""Imports all that a run needs, and opens nothing: the code server forks its runs from a process that has done this.

Add what a run would otherwise spend time on. Threads, connections and clients must not start here: a fork would share
them.
"""

import boto3.session  # noqa: F401
import dagster._core.executor.in_process
import dagster._core.storage.sqlite_storage
import dagster._grpc.impl  # noqa: F401
import ipfshttpclient  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401

import hls_pipeline.cli  # noqa: F401  # a child imports the main program again
from hls_pipeline.definitions import defs

defs()
