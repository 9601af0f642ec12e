"""Imports all that a run needs, and opens nothing: the code server forks its runs from a process that has done this.

Add what a run would otherwise spend time on. Threads and connections must not start here: a fork would share them.
"""

import boto3
import dagster._core.executor.in_process
import dagster._core.storage.sqlite_storage
import dagster._grpc.impl  # noqa: F401
import ipfshttpclient  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401

import hls_pipeline.cli  # noqa: F401  # a child imports the main program again
from hls_pipeline.definitions import defs

defs()

# boto3 keeps what it reads to make a client: half of a small run's time. Without keys it would look for them outside.
boto3.client("s3", "us-east-1", aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106
