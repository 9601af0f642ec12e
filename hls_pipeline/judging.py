"""What becomes of a drop: the next revision, nothing new, a refusal with its report, or a folder that waits for files.

What the stage step decides. A drop is read once here (`staging.examine`); what it leaves behind is in the metadata
store before a file is copied, and the creator's files go only when nothing more is needed of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from hls_pipeline import clock, drops, replicas, staging
from hls_pipeline.errors import ProofMissing
from hls_pipeline.hls.findings import Findings, Report, shown
from hls_pipeline.hls.package import Package
from hls_pipeline.hls.paths import metadata_path
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Receipt
from hls_pipeline.ipfs.unixfs import PROFILES, build_directory
from hls_pipeline.keys import METADATA
from hls_pipeline.metadata_store import Lease, MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import ACCEPTED_UNDER, PRIVATE_KEYS, Upload

_MISSING_FILES = frozenset({"URI_MISSING_FILE", "PKG_NO_PLAYLIST", "PKG_ROOT_AMBIGUOUS", "HLS_DEFINE_IMPORT"})
"""Findings that more files could mend: a folder nobody marked ready is given time."""


def judge(
    upload: Upload,
    lease: Lease,
    objects: ObjectStore,
    nodes: Sequence[Kubo],
    store: MetadataStore,
    settings: Settings,
    noted: Mapping[str, staging.Reading] | None,
) -> Upload:
    """Afterwards the upload has a revision and an inventory, or is rejected, unchanged, or waits for missing files.
    Files that are `noted` are not read again. Raises DropChanged when the creator wrote to the folder meanwhile."""
    source = drops.DropSource(objects, upload.drop)
    profile = PROFILES[settings.ipfs_profile]
    policy = settings.policy().of(upload.video_id)
    package, report, contents = staging.examine(source, profile, policy, noted=noted)
    if package is not None:
        report = _under_its_name(upload, package, report, metadata_path(source.sizes()))
    if package is None or not report.accepted:
        return _refuse(upload, lease, report, objects, store, settings)
    revision = store.next_revision(upload.video_id)
    files = staging.inventory(upload, package, contents, revision)
    directory = build_directory({file.path: contents.nodes[file.path] for file in files}, profile)
    metadata = dict(package.metadata)
    facts = {
        **package.facts,
        PRIVATE_KEYS: {file.path: file.size for file in package.keys},
        ACCEPTED_UNDER: policy.recorded(),
    }
    upload = replace(upload, root=str(directory.root.cid), metadata=metadata, facts=facts)
    current = store.current_upload(upload.video_id)
    if current and _is_same(upload, current) and _is_still_there(current, nodes, settings):
        staging.keep_changed_extras(upload, set(package.unreferenced), current.revision or 0, objects, settings)
        store.unchanged(lease, clock.now())
        drops.take_out(objects, upload.drop)
        return store.upload(upload.upload_id)
    own = {cid.digest: len(block) for cid, block in directory.blocks}
    blocks = contents.blocks | own
    return store.accept(
        lease,
        revision=revision,
        facts=facts,
        files=files,
        objects=staging.expected_objects(upload, files, contents, settings),
        profile=profile.name,
        playlist=package.root,
        root=upload.root,
        size=directory.root.size,
        blocks=len(blocks),
        dag_bytes=sum(blocks.values()),
        metadata=metadata,
        report=report.to_json(),
    )


def _under_its_name(upload: Upload, package: Package, report: Report, place: str | None) -> Report:
    """With an error when the metadata, in the file `place`, names another video than the folder or request did."""
    named = package.metadata.get("video_id")
    if named in (None, upload.video_id):
        return report
    findings = Findings()
    text = f"it names the video {shown(named)}, but the package was sent as {shown(upload.video_id)}; make them agree"
    findings.add("META_BAD_VALUE", place or METADATA, None, text)
    return replace(report, findings=(*report.findings, *findings.result()))


def _is_same(upload: Upload, current: Upload) -> bool:
    """Whether the current revision has the same content, the same metadata and the same private keys."""
    (mine, theirs) = ({path: item.etag for path, item in one.private_keys.items()} for one in (upload, current))
    return (current.root, current.metadata, theirs) == (upload.root, upload.metadata, mine)


def _is_still_there(current: Upload, nodes: Sequence[Kubo], settings: Settings) -> bool:
    """Whether a quorum gives the current revision back: only then the drop may go. What the nodes lost is published
    anew from it, as the next revision. Raises Outage when too few nodes answer."""

    def check(node: Kubo) -> list[Receipt]:
        return replicas.read_back_both(node, current, settings.proof_sample)

    try:
        replicas.on_quorum(nodes, settings.ipfs_quorum, check, settings.ipfs_grace_seconds)
    except ProofMissing:
        return False
    return True


def _refuse(
    upload: Upload,
    lease: Lease,
    report: Report,
    objects: ObjectStore,
    store: MetadataStore,
    settings: Settings,
) -> Upload:
    """The report goes beside the creator's files. A folder nobody marked ready may first get its missing files."""
    drop, now = upload.drop, clock.now()
    until = now
    if drop.in_inbox:
        folder = drops.folder(objects, drop.bucket, upload.video_id)
        if not folder.left_as_it_was(drop):
            raise drops.changed(drop)
        if drop.ready is None and any(item.code in _MISSING_FILES for item in report.errors):
            until = folder.last_write + timedelta(seconds=settings.inbox_abandon_seconds)
    if now < until:
        store.wait_for_files(lease, report.to_json(), until)
        return store.upload(upload.upload_id)
    if drop.in_inbox:
        drops.refuse(objects, drop.bucket, upload.video_id, report.to_json())
    else:
        drops.take_out(objects, drop)
    store.reject(lease, report.to_json(), now)
    return store.upload(upload.upload_id)
