"""S3: the inbox where packages arrive and the media bucket where revisions wait for IPFS.

A thin layer over boto3 with one error border: an answer becomes ObjectMissing, ObjectChanged, ServiceRefused or
Outage here and nowhere else. Reads, copies and deletes can be tied to an ETag, so that an object somebody replaced is
never taken for the one we saw. Add a method when the path needs a new kind of request; which keys to use is decided in
`keys.py`, what to do with them in `steps.py`.
"""

from __future__ import annotations

import base64
import functools
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from hls_pipeline.errors import ObjectChanged, ObjectMissing, Outage, PipelineError, ServiceRefused
from hls_pipeline.uploads import DropObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hls_pipeline.settings import Settings

CHUNK = 1 << 20
"""Bytes per piece when reading: one leaf of the default IPFS profile."""

_SINGLE_COPY_LIMIT = 5 << 30  # bytes; CopyObject's limit, larger objects are copied in parts
_DELETE_BATCH = 1000  # keys; DeleteObjects' limit

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Stored:
    """What S3 says of an object it now holds."""

    etag: str
    version_id: str | None
    size: int  # bytes


@dataclass(frozen=True)
class ObjectVersion:
    """One version of an object; in a bucket without versioning its only one."""

    key: str
    version_id: str | None
    """None in a bucket without versioning."""
    etag: str
    size: int  # bytes
    modified: datetime
    marker: bool
    """It only says that the object was deleted, and has no content."""
    latest: bool


class ObjectStore:
    def __init__(self, client: S3Client, *, parallel: int = 8) -> None:
        self._client = client
        self._parallel = parallel
        self._renames: dict[str, bool] = {}

    def listing(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[DropObject]:
        """Every object under `prefix` in key order, a thousand per request, from the one behind the key `after` on."""
        start: Any = {"StartAfter": after} if after else {}
        with border(f"listing s3://{bucket}/{prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start):
                for item in page.get("Contents", ()):
                    yield DropObject(item["Key"], item["ETag"], item["Size"], item["LastModified"])

    def versions(self, bucket: str, prefix: str) -> Iterator[ObjectVersion]:
        """Every version and delete marker under `prefix`, in a bucket that has or had versioning; otherwise every
        object. Of one key the newest comes first."""
        if self._versioning(bucket) is None:
            yield from self.current(bucket, prefix)
            return
        with border(f"listing versions of s3://{bucket}/{prefix}"):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
                for one in page.get("Versions", ()):
                    known = (one["Key"], one["VersionId"], one["ETag"], one["Size"], one["LastModified"])
                    yield ObjectVersion(*known, False, one["IsLatest"])
                for mark in page.get("DeleteMarkers", ()):
                    known = (mark["Key"], mark["VersionId"], "", 0, mark["LastModified"])
                    yield ObjectVersion(*known, True, mark["IsLatest"])

    def current(self, bucket: str, prefix: str) -> Iterator[ObjectVersion]:
        """Every object under `prefix` as it is now, to be told again by its ETag alone."""
        for item in self.listing(bucket, prefix):
            yield ObjectVersion(item.key, None, item.etag, item.size, item.modified, marker=False, latest=True)

    def keeps_versions(self, bucket: str) -> bool:
        """Whether what is written over stays as a version of its own, and each is deleted by its id alone."""
        return self._versioning(bucket) == "Enabled"

    def keep_versions(self, bucket: str) -> None:
        with border(f"turning on the versioning of s3://{bucket}"):
            self._client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def _versioning(self, bucket: str) -> str | None:
        """`Enabled` or `Suspended`, when versions from before are still there; None where there never were any."""
        with border(f"looking at the versioning of s3://{bucket}"):
            return self._client.get_bucket_versioning(Bucket=bucket).get("Status")

    def locks_objects(self, bucket: str) -> bool:
        """Whether objects of the bucket can be under a legal hold or a retention period at all."""
        from botocore.exceptions import ClientError

        with border(f"looking at the object lock of s3://{bucket}"):
            try:
                self._client.get_object_lock_configuration(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] in ("ObjectLockConfigurationNotFoundError", "NotImplemented"):
                    return False
                raise
        return True

    def is_held(self, bucket: str, key: str, version_id: str | None, now: datetime) -> bool:
        """Whether a legal hold or a retention period forbids deleting it. Raises ObjectMissing."""
        which: Any = {"VersionId": version_id} if version_id else {}
        with border(f"looking at s3://{bucket}/{key}"):
            answer = self._client.head_object(Bucket=bucket, Key=key, **which)
        until = answer.get("ObjectLockRetainUntilDate")
        return answer.get("ObjectLockLegalHoldStatus") == "ON" or (until is not None and until > now)

    def tag(self, bucket: str, key: str, version_id: str | None, name: str, value: str) -> None:
        """Gives an object this one tag. Raises ObjectMissing."""
        which: Any = {"VersionId": version_id} if version_id else {}
        with border(f"tagging s3://{bucket}/{key}"):
            tags: Any = {"TagSet": [{"Key": name, "Value": value}]}
            self._client.put_object_tagging(Bucket=bucket, Key=key, Tagging=tags, **which)

    def untag(self, bucket: str, key: str) -> None:
        """Takes all tags from an object. Raises ObjectMissing."""
        with border(f"untagging s3://{bucket}/{key}"):
            self._client.delete_object_tagging(Bucket=bucket, Key=key)

    def lifecycle(self, bucket: str) -> list[dict[str, Any]]:
        """The bucket's lifecycle rules; none where it has no such configuration."""
        from botocore.exceptions import ClientError

        with border(f"reading the lifecycle rules of s3://{bucket}"):
            try:
                answer: Any = self._client.get_bucket_lifecycle_configuration(Bucket=bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
                    return []
                raise
        return list(answer["Rules"])

    def set_lifecycle(self, bucket: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replaces all of the bucket's lifecycle rules."""
        configuration: Any = {"Rules": list(rules)}
        with border(f"writing the lifecycle rules of s3://{bucket}"):
            self._client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=configuration)

    def head(self, bucket: str, key: str) -> Stored:
        """Raises ObjectMissing."""
        with border(f"looking at s3://{bucket}/{key}"):
            answer = self._client.head_object(Bucket=bucket, Key=key)
        return Stored(answer["ETag"], answer.get("VersionId"), answer["ContentLength"])

    def modified(self, bucket: str, key: str) -> datetime:
        """When the object was last written. Raises ObjectMissing."""
        with border(f"looking at s3://{bucket}/{key}"):
            return self._client.head_object(Bucket=bucket, Key=key)["LastModified"]

    def time(self, bucket: str) -> datetime:
        """What the clock of S3 says, by whole seconds."""
        with border(f"looking at s3://{bucket}"):
            answer = self._client.head_bucket(Bucket=bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def read(self, bucket: str, key: str, *, etag: str | None = None, limit: int | None = None) -> Iterator[bytes]:
        """The object's bytes in pieces, at most `limit` of them. Raises ObjectMissing, or ObjectChanged when its
        ETag is not `etag`."""
        conditions: dict[str, Any] = {"IfMatch": etag} if etag else {}
        if limit is not None:
            conditions["Range"] = f"bytes=0-{limit - 1}"
        with border(f"reading s3://{bucket}/{key}"):
            answer = self._client.get_object(Bucket=bucket, Key=key, **conditions)
            with closing(answer["Body"]) as body:
                received = 0
                for piece in body.iter_chunks(CHUNK):
                    received += len(piece)
                    yield piece
            if received != answer["ContentLength"]:
                raise Outage(f"reading s3://{bucket}/{key}: it broke off after {received} bytes; it is tried again")

    def read_all(self, bucket: str, key: str) -> bytes:
        """For objects known to be small: playlists and documents."""
        return b"".join(self.read(bucket, key))

    def put(self, bucket: str, key: str, data: bytes, content_type: str) -> Stored:
        """S3 refuses bytes that were damaged on their way."""
        with border(f"writing s3://{bucket}/{key}"):
            answer = self._client.put_object(
                Bucket=bucket, Key=key, Body=data, ContentType=content_type, ChecksumCRC32=crc32(data)
            )
        return Stored(answer["ETag"], answer.get("VersionId"), len(data))

    def upload(self, bucket: str, key: str, pieces: Iterator[bytes], content_type: str) -> None:
        """Puts a stream of any length; large ones go up in parts."""
        with border(f"writing s3://{bucket}/{key}"):
            self._client.upload_fileobj(
                io.BufferedReader(_Stream(pieces), CHUNK), bucket, key, ExtraArgs={"ContentType": content_type}
            )

    def copy(self, source: tuple[str, str], target: tuple[str, str], *, etag: str, size: int, kind: str) -> Stored:
        """Copies on the server: the bytes alone, no tags, which lifecycle rules may act on. `size` is in bytes, `kind`
        the content type. Raises ObjectMissing, and ObjectChanged when the source's ETag is not `etag`."""
        (from_bucket, from_key), (bucket, key) = source, target
        with border(f"copying s3://{from_bucket}/{from_key}"):
            origin: Any = {"Bucket": from_bucket, "Key": from_key}
            if size > _SINGLE_COPY_LIMIT:
                extra = {"ContentType": kind, "MetadataDirective": "REPLACE", "CopySourceIfMatch": etag}
                self._client.copy(origin, bucket, key, ExtraArgs=extra)  # in parts, which have no tags
                return self.head(bucket, key)
            answer = self._client.copy_object(
                Bucket=bucket,
                Key=key,
                CopySource=origin,
                CopySourceIfMatch=etag,
                ContentType=kind,
                MetadataDirective="REPLACE",
                TaggingDirective="REPLACE",
            )
        # Some stores give the ETag here without its quotation marks.
        copied = answer["CopyObjectResult"]["ETag"].strip('"')
        return Stored(f'"{copied}"', answer.get("VersionId"), size)

    def renames(self, bucket: str, scratch: str) -> bool:
        """Whether S3 can `rename` in this bucket: SeaweedFS from 4.48 on does, Amazon in directory buckets only, none
        with versioning. Found out once, until there is doubt, with objects of our own under `scratch`: a server that
        does not know the request may take it for an empty object."""
        known = self._renames.get(bucket)
        if known is None:
            source, target, data = f"{scratch}a", f"{scratch}b", b"renamed"
            stored = self.put(bucket, source, data, "text/plain")
            try:
                self.rename(bucket, source, target, etag=stored.etag, size=stored.size)
                known = self.read_all(bucket, target) == data and not any(self.listing(bucket, source))
            except (ServiceRefused, ObjectMissing, ObjectChanged):
                known = False
            finally:
                self.delete_versions(bucket, scratch)
            self._renames[bucket] = known
        return known

    def doubt_renames(self, bucket: str) -> None:
        """Something went wrong meanwhile: it is found out again. Versioning may have been turned on, or the server be
        another one."""
        self._renames.pop(bucket, None)

    def rename(self, bucket: str, source: str, target: str, *, etag: str, size: int) -> Stored:
        """Gives an object another key, with its type, its tags and its ETag; no bytes move. Only where `renames` says
        so. Raises ObjectMissing, and ObjectChanged when the source's ETag is not `etag`."""
        with border(f"renaming s3://{bucket}/{source}"):
            self._client.rename_object(Bucket=bucket, Key=target, RenameSource=quote(source), SourceIfMatch=etag)
        return Stored(etag, None, size)

    def delete(self, bucket: str, objects: Iterable[tuple[str, str, str | None]]) -> list[str]:
        """Deletes (key, ETag, version id) as they were seen. Returns the keys that stayed because they are not what
        was seen; one that is gone already counts as deleted."""
        wanted = list(objects)
        kept: list[str] = []
        for start in range(0, len(wanted), _DELETE_BATCH):
            batch: Any = [
                {"Key": key, "VersionId": version} if version else {"Key": key, "ETag": etag}
                for key, etag, version in wanted[start : start + _DELETE_BATCH]
            ]
            with border(f"deleting from s3://{bucket}"):
                answer = self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
            for error in answer.get("Errors", ()):
                if error.get("Code") == "PreconditionFailed":
                    kept.append(error["Key"])
                elif error.get("Code") == "AccessDenied":
                    raise ServiceRefused(f"deleting s3://{bucket}/{error.get('Key')}: S3 forbids it; check permissions")
                elif error.get("Code") not in _MISSING:
                    raise Outage(f"deleting s3://{bucket}/{error.get('Key')}: {error.get('Code')}; it is tried again")
        return kept

    def delete_versions(self, bucket: str, prefix: str) -> None:
        """Everything under `prefix` is gone, with what it had replaced."""
        self.delete(bucket, [(one.key, one.etag, one.version_id) for one in self.versions(bucket, prefix)])

    def unfinished(self, bucket: str) -> Iterator[tuple[str, str, datetime]]:
        """(key, id, since when) of every upload in parts that was begun and not completed."""
        with border(f"listing uploads in parts of s3://{bucket}"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
                for item in page.get("Uploads", ()):
                    yield item["Key"], item["UploadId"], item["Initiated"]

    def give_up_parts(self, bucket: str, key: str, parts_id: str) -> None:
        """The parts of an upload that was not completed are gone."""
        with border(f"giving up an upload in parts of s3://{bucket}/{key}"):
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=parts_id)

    def each(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """`work` over `items`, several at a time; the first error ends it, after those under way are done."""
        with ThreadPoolExecutor(max_workers=self._parallel, thread_name_prefix="s3") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


class _Stream(io.RawIOBase):
    """Pieces as the file that boto3 wants to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


@functools.cache
def connect(settings: Settings) -> ObjectStore:
    """One store, with its connection pool, per process and settings."""
    return ObjectStore(client(settings), parallel=settings.s3_parallel)


@functools.cache
def client(settings: Settings) -> S3Client:
    """A boto3 client that signs with v4 and addresses buckets by path, which every S3 server understands.

    One per process and settings: making it takes longer than most of what is asked of it.
    """
    import boto3
    from botocore.config import Config

    secret = settings.s3_secret_key
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        max_pool_connections=2 * settings.s3_parallel,
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent="hls-pipeline",  # boto3's own is put together anew for each request, which costs a tenth of it
    )
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )


def crc32(data: bytes | bytearray) -> str:
    """As S3 wants it; a server checks it where not all check the SHA-256 of the signature."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


_MISSING = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NoSuchUpload", "NotFound"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_LATER = frozenset(
    {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "BadDigest", "ServiceUnavailable", "InternalError"}
)
_NOT_IMPLEMENTED = 501


@contextmanager
def border(doing: str) -> Iterator[None]:
    """The one place where boto3's and urllib3's exceptions become ours."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise _from_answer(doing, error) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise Outage(f"{doing}: {error}; is S3 running and reachable? the work goes on by itself") from error


def _from_answer(doing: str, error: Any) -> PipelineError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _MISSING:
        return ObjectMissing(f"{doing}: there is no such object")
    if code in _CHANGED:
        return ObjectChanged(f"{doing}: somebody replaced it meanwhile")
    if code in _LATER or (status >= 500 and status != _NOT_IMPLEMENTED) or status == 429:
        return Outage(f"{doing}: S3 says {code or status}; it is tried again")
    return ServiceRefused(f"{doing}: S3 refuses with {code or status}; check bucket, keys and permissions")
