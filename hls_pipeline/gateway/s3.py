"""What only a gateway does with S3: ranges, uploads in parts, presigned addresses.

`GatewayStore` is the common `ObjectStore` with these methods added; errors cross the same border.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hls_pipeline.errors import ObjectMissing, Outage
from hls_pipeline.gateway.config import GatewaySettings
from hls_pipeline.object_store import ObjectStore, Stored, border, client, crc32

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 8 << 20
"""Bytes of a part; what is smaller is put at once. S3 takes 10,000 parts, so a file may have 78 GiB."""
_PIECE = 256 * 1024
"""Bytes per piece on the way to a viewer."""

SentPart = dict[str, str]
"""What S3 wants to hear of a part again when all are there: its ETag, and its checksum where it was sent with one."""


class GatewayStore(ObjectStore):
    def __init__(self, client: S3Client, signer: S3Client, *, parallel: int) -> None:
        """`signer` knows S3 by the name that senders and viewers reach it by: the name is signed too."""
        super().__init__(client, parallel=parallel)
        self._signer = signer

    @classmethod
    def of(cls, settings: GatewaySettings) -> GatewayStore:
        ours = signer = client(settings)
        if settings.public_s3_endpoint:
            signer = client(settings.model_copy(update={"s3_endpoint": settings.public_s3_endpoint}))
        return cls(ours, signer, parallel=settings.s3_parallel)

    def read_range(self, bucket: str, key: str, start: int, end: int, etag: str | None = None) -> Iterator[bytes]:
        """Bytes `start` to before `end`. Raises ObjectMissing, ObjectChanged when the ETag is not `etag`, and Outage
        when it breaks off."""
        what = f"reading s3://{bucket}/{key}"
        conditions: dict[str, Any] = {"IfMatch": etag} if etag else {}
        with border(what):
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **conditions)
            with closing(answer["Body"]) as body:
                received = 0
                for piece in body.iter_chunks(_PIECE):
                    received += len(piece)
                    yield piece
        if received != end - start:
            raise Outage(f"{what}: it broke off after {received} bytes")

    def put_stream(self, bucket: str, key: str, pieces: Iterable[bytes], content_type: str) -> Stored:
        """Puts a stream of any length, with one part in memory."""
        parts_id, size, buffer = None, 0, bytearray()
        parts: list[SentPart] = []
        for piece in pieces:
            buffer += piece
            if len(buffer) >= PART:
                parts_id = parts_id or self.begin_parts(bucket, key, content_type, checked=True)
                parts.append(self.put_part(bucket, key, parts_id, len(parts) + 1, buffer))
                size, buffer = size + len(buffer), bytearray()
        if parts_id is None:
            return self.put(bucket, key, bytes(buffer), content_type)
        if buffer:
            parts.append(self.put_part(bucket, key, parts_id, len(parts) + 1, buffer))
        etag = self.finish_parts(bucket, key, parts_id, parts)
        return Stored(etag, None, size + len(buffer))

    # ---- uploads in parts -------------------------------------------------------------------------------------

    def begin_parts(self, bucket: str, key: str, content_type: str, *, checked: bool) -> str:
        """The id of a new upload in parts; `checked` if they will come from `put_part`, with checksums."""
        checksum: Any = {"ChecksumAlgorithm": "CRC32"} if checked else {}
        with border(f"writing s3://{bucket}/{key}"):
            answer = self._client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type, **checksum)
        return answer["UploadId"]

    def put_part(self, bucket: str, key: str, parts_id: str, number: int, data: bytes | bytearray) -> SentPart:
        """Parts are counted from 1. S3 refuses bytes that were damaged on their way."""
        checksum = crc32(data)
        with border(f"writing s3://{bucket}/{key}"):
            answer = self._client.upload_part(
                Bucket=bucket,
                Key=key,
                UploadId=parts_id,
                PartNumber=number,
                Body=data,  # type: ignore[arg-type]  # the stubs do not know that a bytearray will do
                ChecksumCRC32=checksum,
            )
        return {"ETag": answer["ETag"], "ChecksumCRC32": checksum}

    def finish_parts(self, bucket: str, key: str, parts_id: str, sent: Sequence[SentPart]) -> str:
        """The ETag of the whole."""
        parts: Any = [{"PartNumber": number, **part} for number, part in enumerate(sent, 1)]
        with border(f"writing s3://{bucket}/{key}"):
            answer = self._client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=parts_id, MultipartUpload={"Parts": parts}
            )
        return answer["ETag"]

    def abort_parts(self, bucket: str, prefix: str, older_than: datetime | None = None) -> None:
        """Gives up every upload in parts under `prefix`, or those that began before a moment. Others may do the same in
        the same moment."""
        with border(f"giving up uploads under s3://{bucket}/{prefix}"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Uploads", ()):
                    if older_than is None or item["Initiated"] < older_than:
                        with suppress(ObjectMissing):
                            self._abort(bucket, item["Key"], item["UploadId"])

    def _abort(self, bucket: str, key: str, parts_id: str) -> None:
        with border(f"giving up an upload to s3://{bucket}/{key}"):
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=parts_id)

    def parts(self, bucket: str, key: str, parts_id: str) -> dict[int, tuple[str, int]]:
        """Number → (ETag, bytes) of the parts that are there."""
        with border(f"looking at parts of s3://{bucket}/{key}"):
            pages = self._client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=parts_id)
            return {
                part["PartNumber"]: (part["ETag"], part["Size"]) for page in pages for part in page.get("Parts", ())
            }

    def remove_all(self, bucket: str, prefix: str) -> None:
        """Everything under `prefix`, finished or not, is gone."""
        self.abort_parts(bucket, prefix)
        self.delete_versions(bucket, prefix)

    # ---- presigned addresses ----------------------------------------------------------------------------------

    def presigned_get(self, bucket: str, key: str, content_type: str, seconds: int) -> str:
        parameters = {"Bucket": bucket, "Key": key, "ResponseContentType": content_type}
        return self._signer.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)

    def presigned_put(self, bucket: str, key: str, size: int, seconds: int) -> str:
        """The length is signed: nothing larger can be put there."""
        parameters = {"Bucket": bucket, "Key": key, "ContentLength": size}
        return self._signer.generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds)

    def presigned_part(self, bucket: str, key: str, parts_id: str, number: int, size: int, seconds: int) -> str:
        parameters = {"Bucket": bucket, "Key": key, "UploadId": parts_id, "PartNumber": number, "ContentLength": size}
        return self._signer.generate_presigned_url("upload_part", Params=parameters, ExpiresIn=seconds)
