"""The forms in which a revision's playlists are published, each rendered from the creator's own bytes.

`s3` names the objects that wait in the media bucket, `ipfs` names files by content id; the relative form is
`hls.rewriting.relative`. Values in, values out; where the results are put is decided in `steps.py`.
"""

from __future__ import annotations

from hls_pipeline import documents, keys
from hls_pipeline.hls.model import Playlist, Reference, SideFile
from hls_pipeline.hls.rewriting import rewrite
from hls_pipeline.revisions import Revision, content_id


def s3_form(document: Playlist | SideFile, revision: Revision) -> bytes:
    package, upload = revision.package, revision.upload

    def rename(reference: Reference) -> str | None:
        if reference.target is None:
            return None
        if reference.target in package.playlists or reference.target in package.side_files:
            key = keys.s3_manifest(upload.video_id, upload.revision or 0, reference.target)
        else:
            key = revision.by_path[reference.target].key or ""
        return keys.s3_reference(revision.bucket, key)

    return rewrite(document, rename)


def ipfs_forms(revision: Revision) -> dict[str, bytes]:
    """Every playlist with references by content id. Leaves come first; a reference back to a playlist that is not
    rendered yet (a rendition report) names it inside the published directory instead."""
    cids = {file.path: file.cid for file in revision.media}
    for path in revision.package.side_files:
        cids.pop(path, None)  # they are rendered too, and then have another content id
    rendered: dict[str, bytes] = {}

    def rename(reference: Reference) -> str | None:
        if reference.target is None:
            return None
        if reference.target in cids:
            return keys.ipfs_reference(cids[reference.target], reference.target)
        return keys.ipfs_path(str(revision.directory.root.cid), reference.target)

    for document in revision.documents():
        rendered[document.path] = rewrite(document, rename)
        cids[document.path] = content_id([rendered[document.path]], revision.profile)
    return rendered


def record(revision: Revision) -> dict[str, bytes]:
    """What goes into the record directory: playlists with `ipfs://` references, the creator's own ones, and the list
    of the files."""
    files = {keys.record_manifest(path): data for path, data in ipfs_forms(revision).items()}
    files |= {keys.record_original(item.path): item.data for item in revision.package.playlists.values()}
    files[keys.RECORD_INVENTORY] = inventory_document(revision)
    return files


def inventory_document(revision: Revision) -> bytes:
    """The list of published files, as it stands on IPFS."""
    files = [
        {"path": f.path, "size": f.size, "cid": f.cid, "content_type": f.content_type, "role": f.role}
        for f in revision.files
    ]
    about = {
        "video_id": revision.upload.video_id,
        "revision": revision.upload.revision,
        "profile": revision.profile.name,
        "directory": str(revision.directory.root.cid),
        "playlist": revision.package.root,
        "files": files,
    }
    return documents.canonical(about).encode()
