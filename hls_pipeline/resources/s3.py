"""S3 as a Dagster resource: dagster-aws's, which shows the endpoint in the UI, handing out our `ObjectStore`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster_aws.s3 import S3Resource

from hls_pipeline import object_store, settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class ObjectStoreResource(S3Resource):
    """`object_store()` for our steps; `get_client()` for anybody else, both with the same endpoint and keys."""

    def object_store(self) -> object_store.ObjectStore:
        return object_store.connect(settings.load(**self._given()))

    def get_client(self) -> S3Client:
        return object_store.client(settings.load(**self._given()))

    def _given(self) -> dict[str, object]:
        given = {
            "s3_endpoint": self.endpoint_url,
            "s3_region": self.region_name,
            "s3_access_key": self.aws_access_key_id,
            "s3_secret_key": self.aws_secret_access_key,
        }
        return {name: value for name, value in given.items() if value}
