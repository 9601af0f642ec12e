"""`hls-pipeline gateway` and `hls-pipeline keys`: the REST door and who may use it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from hls_pipeline import clock, metadata_store
from hls_pipeline.commands.services import DataOption, JsonOption, opened, print_json
from hls_pipeline.errors import UsageError
from hls_pipeline.gateway import config
from hls_pipeline.gateway.records import ApiKey, Records
from hls_pipeline.local.data_folder import settings_of

keys = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)

_SCOPES = "read, write, admin; several separated by commas."
KeyId = Annotated[str, typer.Argument(help="The id, as `keys list` shows it.")]


def gateway(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    data: DataOption = None,
) -> None:
    """Serve the REST API, playback and the pages. Any number of them may run."""
    from hls_pipeline.gateway import server

    found = settings_of(config.load(data=data) if data else config.load())
    assert isinstance(found, config.GatewaySettings)
    metadata_store.connect(found.database_url).ping()
    server.run(found, host, port)


@keys.command("make")
def make(
    name: Annotated[str, typer.Argument(help="Whose key it is; only people read this.")],
    scopes: Annotated[str, typer.Option(help=_SCOPES)] = "write",
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="It ends after so many days; else never.")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this one time."""
    from hls_pipeline.gateway import access

    if not name.strip():
        raise UsageError("a key needs a name, so that one knows later whose it is")
    now = clock.now()
    expires_at = None if days is None else now + timedelta(days=days)
    key = access.make_key(Records(opened(data)), name, access.parse_scopes(scopes), now, expires_at=expires_at)
    if as_json:
        print_json({"key": key, "name": name, "scopes": scopes.split(",")}, one_line=True)
    else:
        typer.echo(key)


@keys.command("rotate")
def rotate(key_id: KeyId, data: DataOption = None) -> None:
    """Give a key another secret and print it, this one time. It keeps its videos; the old secret ends at once."""
    from hls_pipeline.gateway import access

    typer.echo(access.rotate_key(Records(opened(data)), key_id, clock.now()))


@keys.command("scopes")
def change_scopes(key_id: KeyId, scopes: Annotated[str, typer.Argument(help=_SCOPES)], data: DataOption = None) -> None:
    """Change what a key may do, and its browser sessions, at once."""
    from hls_pipeline.gateway import access

    wanted = sorted(access.parse_scopes(scopes))
    Records(opened(data)).change_key(key_id, scopes=wanted)
    typer.echo(f"{key_id} may {', '.join(wanted)}")


@keys.command("list")
def list_keys(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the keys, when each was last used, to the minute, and when it ends; their secrets are not stored."""
    for key in Records(opened(data)).all_keys():
        if as_json:
            print_json(_about(key), one_line=True)
        else:
            state = "revoked" if key.revoked_at else "in use" if key.valid(clock.now()) else "expired"
            made, scopes = clock.seconds_text(key.created_at), ",".join(key.scopes)
            used = f"used {clock.seconds_text(key.last_used_at)}" if key.last_used_at else "never used"
            ends = f"ends {clock.seconds_text(key.expires_at)}" if key.expires_at else "never ends"
            typer.echo(f"{key.key_id}  {state:8}  {scopes:16}  {made}  {used:25}  {ends:25}  {key.name!r}")


@keys.command("revoke")
def revoke(key_id: KeyId, data: DataOption = None) -> None:
    """End a key and every browser session of it, at once and for good."""
    Records(opened(data)).revoke_key(key_id, clock.now())
    typer.echo(f"{key_id} is revoked")


def _about(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": clock.text(key.created_at),
        "expires_at": key.expires_at and clock.text(key.expires_at),
        "last_used_at": key.last_used_at and clock.text(key.last_used_at),
        "revoked_at": key.revoked_at and clock.text(key.revoked_at),
    }
