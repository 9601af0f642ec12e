"""A video in one file: a CAR with its package, its record and its proof, and how it enters another installation.

    root ─┬─ package      the published directory
          ├─ record       ipfs:// playlists, original playlists, inventory
          └─ proof.json   files, receipts and every version (`evidence`)

An archive is hostile: before any of it is sent, every block is hashed, the proof recomputed, the package judged by our
own rules, and the record rendered again from it. What other installations proved or wrote stays readable as provenance
and counts for nothing here: our nodes prove it anew, and our chain of versions begins with the import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from hls_pipeline import archive_store, clock, documents, evidence, keys, renderings, replicas
from hls_pipeline.errors import Conflict, Corruption, NotFound, PackageRefused, ProofMissing, ServiceError, UserError
from hls_pipeline.evidence import Evidence
from hls_pipeline.hls.findings import Findings
from hls_pipeline.hls.metadata import RESERVED, read_metadata
from hls_pipeline.hls.package import survey
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative
from hls_pipeline.ipfs.car import Block, write_car
from hls_pipeline.ipfs.car_file import CarFile
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.kubo import Kubo
from hls_pipeline.ipfs.proof import Level, Receipt, confirm
from hls_pipeline.ipfs.unixfs import Node, build_directory, entries, inspect, read_file, resolve
from hls_pipeline.metadata_store import InventoryFile, MetadataStore
from hls_pipeline.object_store import ObjectStore
from hls_pipeline.revisions import Revision, content_id, hash_bytes
from hls_pipeline.settings import Settings
from hls_pipeline.uploads import ACCEPTED_UNDER, PRIVATE_KEYS, READY, Drop, DropObject, State, Upload
from hls_pipeline.whole_file import whole_file

PACKAGE, RECORD, PROOF = "package", "record", "proof.json"
_NO_TIME = clock.EPOCH
"""Of every import of an archive, so that the second has the same upload id as the first."""


# ---- out ----------------------------------------------------------------------------------------------------------


def export(video_id: str, path: Path, store: MetadataStore, nodes: Sequence[Kubo]) -> Cid:
    """Writes the video's current revision with all its versions to `path`, from the first node that gives back every
    block; answers the archive's root. Raises Conflict before the video is published, ProofMissing when no node has it
    all; then `path` is as it was."""
    found = evidence.collect(video_id, store)
    if found.state not in READY or found.record is None:
        raise Conflict(f"video {video_id} is {found.state}; only what is published can be exported")
    failed: list[ServiceError] = []
    with whole_file(path) as written:
        for node in nodes:
            try:
                return _write(found, node, written)
            except ServiceError as error:
                failed.append(error)
        raise failed[0] if failed else ProofMissing("no IPFS node is configured")


def _write(found: Evidence, node: Kubo, path: Path) -> Cid:
    package, record = Cid.parse(found.root), Cid.parse(found.record or "")
    proof, leaves = hash_bytes(found.text().encode(), found.unixfs)
    parts = {PACKAGE: _as_node(package, node), RECORD: _as_node(record, node), PROOF: proof}
    top = build_directory(parts, found.unixfs)

    def blocks() -> Iterator[Block]:
        yield from reversed(top.blocks)
        yield from reversed(leaves)  # parents first
        yield from node.blocks(package)
        yield from node.blocks(record)

    with open(path, "wb") as file:
        file.writelines(write_car([top.root.cid], blocks()))
        file.flush()
        os.fsync(file.fileno())
    return top.root.cid


def _as_node(cid: Cid, node: Kubo) -> Node:
    extent = node.dag_stat(cid)
    return Node(cid, extent.bytes, extent.bytes, extent.blocks)


# ---- in -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Archive:
    """An archive whose every claim was recomputed."""

    car: CarFile
    proof: Evidence
    revision: Revision
    """Reads from the archive, not from S3."""
    facts: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def roots(self) -> tuple[Cid, Cid]:
        return Cid.parse(self.proof.root), Cid.parse(self.proof.record or "")

    @cached_property
    def upload_id(self) -> str:
        return self.revision.upload.upload_id


def read(file: BinaryIO, policy: Policy) -> Archive:
    """Raises UserError for anything that is no archive, or whose parts do not agree; PackageRefused when its package
    breaks our rules."""
    try:
        return _read(CarFile(file), policy)
    except (Corruption, NotFound) as error:
        raise UserError(f"this is no archive of a video: {error}") from error


def _read(car: CarFile, policy: Policy) -> Archive:
    block = car.fetch(car.root)
    if len(block) > 1024:
        raise UserError("this is no archive of a video: its root is too large")
    parts = {entry.name: entry.cid for entry in entries(car.root, car.fetch)}
    if parts.keys() != {PACKAGE, RECORD, PROOF}:
        raise UserError(f"this is no archive of a video: its root must name {PACKAGE}, {RECORD} and {PROOF}")
    if inspect(parts[PROOF], car.fetch(parts[PROOF])).size > evidence.MAX_SIZE:
        raise UserError("this is no archive of a video: its proof is too large")
    proof = evidence.parse(b"".join(read_file(parts[PROOF], car.fetch)))
    evidence.require(proof)
    if (str(parts[PACKAGE]), str(parts[RECORD])) != (proof.root, proof.record):
        raise UserError("the archive holds other directories than its proof names")
    return _judged(car, proof, policy)


def _judged(car: CarFile, proof: Evidence, policy: Policy) -> Archive:
    for file in proof.files:
        if inspect(file.node.cid, car.fetch(file.node.cid)).size != file.size:
            raise Corruption(f"{file.path} has another size than its proof says")
    upload = _upload(car.root, proof, _private(proof, policy))
    revision = Revision(upload, _files(proof), cast(ObjectStore, _Source(car)), "", policy)
    found = survey(revision, revision.accepted_under, proof.playlist)
    if found.package is None or not found.report.accepted:
        raise PackageRefused("the package in the archive breaks our rules", found.report)
    for item in revision.documents():
        if content_id([relative(item)], proof.unixfs) != revision.by_path[item.path].cid:
            raise Corruption(f"{item.path} is not what its original becomes")
    record = replicas.SmallDirectory.of(renderings.record(revision), revision.profile).directory
    manifest = record.nodes[keys.record_manifest(proof.playlist)]
    if (str(record.root.cid), str(manifest.cid)) != (proof.record, proof.manifest):
        raise Corruption("its record is not what its package becomes")
    facts = {**found.package.facts, **(upload.facts or {}), ACCEPTED_UNDER: revision.accepted_under.recorded()}
    return Archive(car, proof, revision, facts, _metadata(proof, policy))


class _Source:
    """The part of an object store that a revision reads with; a key is a path in the archive."""

    def __init__(self, car: CarFile) -> None:
        self._car = car

    def read(self, _bucket: str, key: str, *, limit: int | None = None) -> Iterator[bytes]:
        cid = resolve(self._car.root, key.split("/"), self._car.fetch)
        return read_file(cid, self._car.fetch, 0, limit)


def _files(proof: Evidence) -> tuple[InventoryFile, ...]:
    def key(file: evidence.File) -> str:
        if file.role == "playlist":
            return f"{RECORD}/{keys.record_original(file.path)}"
        return f"{PACKAGE}/{file.path}"

    return tuple(
        InventoryFile(n, f.path, f.role, f.content_type, f.size, f.cid, f.dag_size, f.dag_blocks, key(f), None)
        for n, f in enumerate(proof.files)
    )


def _private(proof: Evidence, policy: Policy) -> dict[str, Any]:
    """What the proof says of keys that its playlists name at a key service. They do not travel with the archive; it
    counts only where keys are kept so, too, and nothing else of the other installation's settings does."""
    facts = proof.facts or {}
    under, private = facts.get(ACCEPTED_UNDER), facts.get(PRIVATE_KEYS)
    if policy.keys != "external" or not isinstance(under, dict) or not isinstance(private, dict):
        return {}
    sizes = {path: size for path, size in private.items() if isinstance(size, int)}
    return {PRIVATE_KEYS: sizes, ACCEPTED_UNDER: {"key_service_url": under.get("key_service_url")}}


def _upload(root: Cid, proof: Evidence, facts: dict[str, Any]) -> Upload:
    prefix = f"ipfs://{root}/{PACKAGE}/"
    private = (DropObject(prefix + path, "", size, _NO_TIME) for path, size in facts.get(PRIVATE_KEYS, {}).items())
    drop = Drop(proof.video_id, "", prefix, tuple(private), _NO_TIME)
    now = clock.now()
    return Upload(
        upload_id=drop.upload_id,
        video_id=proof.video_id,
        state=State.PUBLISHED,
        drop=drop,
        created_at=now,
        updated_at=now,
        revision=proof.revision,
        profile=proof.profile,
        playlist=proof.playlist,
        root=proof.root,
        record=proof.record,
        manifest=proof.manifest,
        facts=facts,
    )


def _metadata(proof: Evidence, policy: Policy) -> dict[str, Any]:
    """The creator's own fields of the ready document, judged as if they had been sent to us."""
    ours = RESERVED | {"video_id"}
    own = {name: value for name, value in (proof.document() or {}).items() if name not in ours}
    findings = Findings()
    read_metadata(keys.METADATA, json.dumps(own).encode(), policy.limits, findings)
    if findings.failed:
        raise UserError(f"the metadata in the archive breaks our rules: {findings.result()[0].message}")
    return own


def import_(file: BinaryIO, nodes: Sequence[Kubo], store: MetadataStore, settings: Settings) -> Upload:
    """Afterwards the video of an archive is published here, proven by a quorum of our nodes. Said again, only what the
    nodes lost changes. Raises what `read` raises, Conflict when another video has this id, ProofMissing without a
    quorum."""
    archive = read(file, settings.policy())
    known = archive_store.known(store, archive.revision.upload)
    outcome = _held(archive, nodes, settings)
    if known:
        return known
    reason = f"imported from ipfs://{archive.car.root}, where it was version {archive.proof.versions[-1].n}"
    archive_store.add(
        store,
        archive.revision.upload,
        archive.revision.files,
        columns=_columns(archive),
        document=_document(archive, outcome),
        reason=evidence.sealed(reason, archive.revision.files, archive.facts, outcome.receipts),
        receipts=outcome.receipts,
        provenance={"archive": str(archive.car.root), **archive.proof.model_dump(include={"versions", "receipts"})},
    )
    _held(archive, nodes, settings)  # a pin found before our claim stood may have been given up by its owner since
    return store.upload(archive.upload_id)


def _held(archive: Archive, nodes: Sequence[Kubo], settings: Settings) -> replicas.Outcome:
    """Both directories on a quorum of nodes, every block read back."""
    extents = {root: archive.car.extent(root) for root in archive.roots}

    def work(node: Kubo) -> list[Receipt]:
        receipts: list[Receipt] = []
        for root, expected in extents.items():
            if node.pinned(root) is None:
                node.import_blocks(archive.car.below(root))
                node.pin(root, f"{archive.proof.video_id} r{archive.proof.revision}", expected.bytes)
            try:
                receipts += confirm(node, root, expected, clock.now(), Level.READ_BACK)
            except ProofMissing:
                node.import_blocks(archive.car.below(root))  # under the pin, which stays as it is
                receipts += confirm(node, root, expected, clock.now(), Level.READ_BACK)
        return receipts

    return replicas.attempt(nodes, settings.ipfs_quorum, work, settings.ipfs_grace_seconds)


def _columns(archive: Archive) -> dict[str, Any]:
    extent = archive.car.extent(archive.roots[0])
    return {
        "size": sum(file.size for file in archive.proof.files),
        "blocks": extent.blocks,
        "dag_bytes": extent.bytes,
        "facts": archive.facts,
        "metadata": archive.metadata,
    }


def _document(archive: Archive, outcome: replicas.Outcome) -> dict[str, Any]:
    proof = archive.proof
    return documents.final(
        video_id=proof.video_id,
        revision=proof.revision,
        root_playlist_cid=proof.manifest or "",
        root=proof.root,
        record=proof.record or "",
        playlist=proof.playlist,
        segments=[file.cid for file in archive.revision.media],
        completed_at=clock.now(),
        replicas=len(replicas.proven(outcome.receipts, proof.root)),
        creator=archive.metadata,
    )
