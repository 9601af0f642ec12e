"""Every IPFS node beside the catalogue, mended where something was missing: once a day, for all videos at once."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from hls_pipeline import clock, settings
from hls_pipeline.assets.frame import as_failure
from hls_pipeline.resources.ipfs import IpfsResource
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource
from hls_pipeline.upkeep import repinning
from hls_pipeline.upkeep.repinning import Health, NodeHealth

_SHOWN = 20  # problems; all that are named are in the log of the run


@dg.asset(
    group_name="operations",
    kinds={"ipfs"},
    code_version="1",
    freshness_policy=dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=50)),
    check_specs=[
        dg.AssetCheckSpec("nodes_answer", asset="pin_health", description="Every IPFS node could be looked at."),
        dg.AssetCheckSpec("on_quorum", asset="pin_health", description="Enough nodes have every published video."),
        dg.AssetCheckSpec("proof_age", asset="pin_health", description="Nothing waits too long to be proven again."),
    ],
)
def pin_health(
    context: dg.AssetExecutionContext, s3: ObjectStoreResource, ipfs: IpfsResource, metadata: MetadataResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads this annotation, and only bare
    """All published videos pinned on every node, and given back in full within HLS_PROOF_DAYS."""
    config = settings.load()
    with as_failure():
        found = repinning.check(s3.object_store(), ipfs.nodes(), metadata.store(), config)
    for problem in found.problems:
        context.log.warning(problem)
    for node in found.nodes:
        context.log_event(dg.AssetObservation("pin_health", description=node.node, metadata=_row(node)))
    return dg.MaterializeResult(
        metadata={
            "healthy": found.healthy,
            "directories": found.wanted,
            "nodes": dg.MetadataValue.table([dg.TableRecord(_row(node)) for node in found.nodes]),
            "problems": len(found.problems) + found.more,
            "named problems": dg.MetadataValue.json(list(found.problems[:_SHOWN])),
        },
        check_results=list(_checks(found, clock.now() - timedelta(days=config.proof_days))),
    )


def _row(node: NodeHealth) -> dict[str, Any]:
    return {
        "node": node.node,
        "answers": node.unreachable is None,
        "pins": node.pins,
        "missing": node.missing,
        "damaged": node.damaged,
        "mended": node.mended,
        "given back": node.proven,
        "oldest proof": clock.seconds_text(node.oldest_proof) if node.oldest_proof else "",
    }


def _checks(found: Health, oldest: datetime) -> Iterator[dg.AssetCheckResult]:
    silent = [f"{node.node}: {node.unreachable}" for node in found.nodes if node.unreachable]
    yield dg.AssetCheckResult(
        passed=found.answering,
        check_name="nodes_answer",
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(silent) or "all of them",
    )
    yield dg.AssetCheckResult(
        passed=found.short == 0,
        check_name="on_quorum",
        description=f"{found.short} of {found.wanted} directories are on fewer than {found.quorum} nodes, "
        f"{found.lost} on none",
        metadata={"short": found.short, "lost": found.lost},
    )
    late = [node.node for node in found.nodes if node.oldest_proof and node.oldest_proof < oldest]
    yield dg.AssetCheckResult(
        passed=not late,
        check_name="proof_age",
        severity=dg.AssetCheckSeverity.WARN,
        description=f"not proven since {clock.seconds_text(oldest)} on {', '.join(late)}" if late else "all in time",
    )
