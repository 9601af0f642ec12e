"""Keeping an installation healthy from a shell: re-pin and reconcile. What they do is in the modules of these names."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hls_pipeline import clock, metadata_store, object_store, replicas
from hls_pipeline.commands.services import DataOption, JsonOption, configured, print_json
from hls_pipeline.errors import ProofMissing, UsageError
from hls_pipeline.upkeep import drift, reconciliation
from hls_pipeline.upkeep import repinning as health

if TYPE_CHECKING:
    from hls_pipeline.upkeep.drift import Report
    from hls_pipeline.upkeep.repinning import Health, NodeHealth


def repin(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look; change nothing, read nothing back.")] = False,
    join: Annotated[
        str | None, typer.Option(metavar="NODE", help="Fill up this node alone (HOST:PORT of its RPC).")
    ] = None,
    leave: Annotated[
        str | None, typer.Option(metavar="NODE", help="Make sure that the others have all of it without this one.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every IPFS node with the catalogue and mend what is missing. Exit code 3 if anything is left."""
    settings = configured(data)
    found = health.check(
        object_store.connect(settings),
        replicas.connect(settings),
        metadata_store.connect(settings.database_url),
        settings,
        dry_run=dry_run,
        join=join,
        leave=leave,
    )
    if as_json:
        print_json(_about(found), one_line=True)
    else:
        _show(found, leave if found.healthy else None)
    if not found.healthy:
        raise typer.Exit(ProofMissing.exit_code)


def _about(found: Health) -> dict[str, Any]:
    about = asdict(found)
    for node, shown in zip(found.nodes, about["nodes"], strict=True):
        shown |= {"left": node.left, "oldest_proof": node.oldest_proof and clock.text(node.oldest_proof)}
    return {"healthy": found.healthy, **about}


def _show(found: Health, left: str | None) -> None:
    for node in found.nodes:
        typer.echo(f"{node.node}: {_in_words(node, found.wanted)}")
    for problem in found.problems:
        typer.echo(f"  {problem}")
    if found.more:
        typer.echo(f"  and {found.more:,} more")
    if found.short:
        typer.echo(f"{found.short:,} of {found.wanted:,} directories are on fewer than {found.quorum} nodes")
    if left:
        typer.echo(f"{left} may leave: take it out of HLS_IPFS_RPC_URLS and HLS_IPFS_GATEWAY_URLS, then switch it off")


def _in_words(node: NodeHealth, wanted: int) -> str:
    if node.peer_id is None:
        return f"cannot be looked at: {node.unreachable}"
    oldest = f", oldest proof {clock.seconds_text(node.oldest_proof)}" if node.oldest_proof else ""
    return (
        f"{wanted:,} wanted, {node.missing:,} missing, {node.damaged:,} damaged, {node.mended:,} mended, "
        f"{node.proven:,} given back in full{oldest}"
    )


def reconcile(
    apply: Annotated[
        bool, typer.Option("--apply", help="Mend what is safe to mend; what the database does not know stays.")
    ] = False,
    remove_unknown: Annotated[
        bool,
        typer.Option(
            "--remove-unknown",
            help="With --apply: objects in S3 that the database does not know go, once they are HLS_ORPHAN_DAYS old. "
            "Where the database came from a backup they may be the only copy.",
        ),
    ] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the database with S3, the IPFS nodes and Dagster. A look that was cut off goes on where it was. Exit
    code 1 if they differ."""
    from hls_pipeline.local import dagster_home
    from hls_pipeline.upkeep import partitions

    if remove_unknown and not apply:
        raise UsageError("--remove-unknown needs --apply")
    settings = configured(data)
    with partitions.instance_at(dagster_home.path(settings.data)) as instance:
        found = reconciliation.reconcile(
            object_store.connect(settings),
            replicas.connect(settings),
            metadata_store.connect(settings.database_url),
            settings,
            apply=apply,
            remove_unknown=remove_unknown,
            partitions=partial(partitions.names, instance) if instance else None,
        )
    if as_json:
        print_json({"clean": found.clean, "applied": apply, **asdict(found)}, one_line=True)
    else:
        _show_report(found)
        if instance is None:
            typer.echo(
                "Dagster was not looked at: that takes DAGSTER_HOME and the variables that its dagster.yaml names, or "
                "--data with a local stack without --production; the nightly look does it anyway"
            )
    if not found.clean:
        raise typer.Exit(1)


def _show_report(found: Report) -> None:
    begun = f", begun at {found.began}" if found.resumed else ""
    typer.echo(f"{found.objects:,} objects looked at{begun}")
    for finding in found.findings:
        done = f" → {finding['done']}" if finding["done"] else ""
        typer.echo(f"{finding['kind']}  {finding['subject']}: {finding['detail']}{done}")
    for kind, about in found.kinds.items():
        typer.echo(
            f"{about['findings']:,} findings of {about['count']:,}, {about['done']:,} mended: {drift.KINDS[kind]}"
        )
    if not found.kinds:
        typer.echo("the database, S3 and the IPFS nodes agree")
