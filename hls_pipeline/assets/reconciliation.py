"""The database beside S3, the IPFS nodes and Dagster, looked at every night and changed by nobody but a person."""

from functools import partial
from typing import Any

import dagster as dg

from hls_pipeline import settings
from hls_pipeline.assets.frame import as_failure
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.upkeep import drift, partitions
from hls_pipeline.upkeep import reconciliation as stores

_SHOWN = 50  # findings; more are in the log of the run


@dg.asset(
    group_name="operations",
    kinds={"s3", "ipfs"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec("agreement", asset="reconciliation", description="No store has what another does not know.")
    ],
)
def reconciliation(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation, and only bare
    """What one store has and another does not know; `hls-pipeline reconcile --apply` mends what is safe to mend."""
    with as_failure():
        found = stores.reconcile(
            s3.object_store(),
            ipfs.nodes(),
            metadata.store(),
            settings.load(),
            partitions=partial(partitions.names, context.instance),
        )
    for finding in found.findings:
        context.log.warning("%(kind)s: %(subject)s: %(detail)s", finding)
    return dg.MaterializeResult(
        metadata={
            "objects": found.objects,
            "foreign objects": found.foreign_objects,
            "foreign pins": found.foreign_pins,
            "kinds": dg.MetadataValue.table([_row(kind, about) for kind, about in found.kinds.items()], _SCHEMA),
            "findings": dg.MetadataValue.json(found.findings[:_SHOWN]),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=found.clean,
                check_name="agreement",
                severity=dg.AssetCheckSeverity.WARN,
                description=", ".join(f"{about['findings']} {kind}" for kind, about in found.kinds.items())
                or "they agree",
            )
        ],
    )


def _row(kind: str, about: dict[str, int]) -> dg.TableRecord:
    row: dict[str, Any] = {"kind": kind, "meaning": drift.KINDS[kind], **about}
    return dg.TableRecord(row)


_SCHEMA = dg.TableSchema(
    [dg.TableColumn("kind"), dg.TableColumn("meaning")]
    + [dg.TableColumn(name, "int") for name in ("findings", "count", "bytes", "done")]
)
