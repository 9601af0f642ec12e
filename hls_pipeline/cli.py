"""`hls-pipeline`: every command, and the one place where our errors become exit codes.

0 done, 1 the package or video is at fault, 2 wrong usage, 3 a service is at fault. A command lives in `commands/`,
beside its siblings; here it only gets its name.
"""

from __future__ import annotations

import sys

import typer

from hls_pipeline.commands import (
    alerts,
    archive,
    audit,
    backfill,
    cid,
    demo,
    doctor,
    gateway,
    operations,
    packages,
    pinning,
    proof,
    queue,
    report,
    roles,
    setup,
    stack,
    submit,
    videos,
)
from hls_pipeline.errors import PipelineError

app = typer.Typer(
    name="hls-pipeline",
    help="Takes an encoded HLS package from S3 to IPFS, proves that it arrived, and keeps every state of its metadata.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(stack.up)
app.command("demo", hidden=True)(demo.demo)
app.command("submit")(submit.submit)
app.command("check")(packages.check)
app.command("rewrite")(packages.rewrite)
app.command("cid")(cid.cid)
app.command("list")(videos.list_videos)
app.command("status")(videos.status)
app.command("versions")(videos.versions)
app.command("retry")(videos.retry)
app.command("withdraw")(videos.withdraw)
app.command("rehydrate")(videos.rehydrate)
app.command("setup")(setup.setup)
app.add_typer(audit.app, name="audit")
app.command("proof")(proof.proof)
app.command("pinning")(pinning.pinning)
app.command("repin")(operations.repin)
app.command("backfill")(backfill.backfill)
app.command("reconcile")(operations.reconcile)
app.command("export")(archive.export)
app.command("import")(archive.import_)
app.command("alerts")(alerts.alerts)
app.command("report")(report.report)
app.command("doctor")(doctor.doctor)
app.command("gateway")(gateway.gateway)
app.add_typer(gateway.keys, name="keys")
app.command("ui")(roles.ui)
app.command("code-server")(roles.code_server)
app.command("daemon")(roles.daemon)
app.command("worker")(roles.worker)
app.add_typer(queue.app, name="queue")
app.command("ipfs-node")(roles.ipfs_node)


def main() -> None:
    try:
        app()
    except PipelineError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
