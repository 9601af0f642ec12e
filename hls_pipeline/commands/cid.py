"""`hls-pipeline cid`: the content id of a file or folder, as IPFS would give it. No service is needed."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hls_pipeline import settings
from hls_pipeline.ipfs.unixfs import PROFILES, Directory, Profile, hash_tree

ProfileName = Enum("ProfileName", {name: name for name in PROFILES}, type=str)  # type: ignore[misc]


def cid(
    path: Annotated[Path, typer.Argument(help="File or folder; names with a leading dot inside are left out.")],
    profile: Annotated[
        ProfileName | None, typer.Option(help="How content ids are made; HLS_IPFS_PROFILE otherwise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Also the content id of every file.")] = False,
) -> None:
    """Print the root CID of PATH, as `ipfs add -rnQ PATH` does with the same profile."""
    chosen = PROFILES[profile.value if profile else settings.load().ipfs_profile]
    tree = hash_tree(path, chosen)
    typer.echo(json.dumps(_document(tree, chosen), indent=2) if as_json else str(tree.root.cid))


def _document(tree: Directory, profile: Profile) -> dict[str, object]:
    files = [{"path": name, "cid": str(node.cid), "size": node.size} for name, node in sorted(tree.files.items())]
    return {"cid": str(tree.root.cid), "profile": profile.name, "size": tree.root.size, "files": files}
