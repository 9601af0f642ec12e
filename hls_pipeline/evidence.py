"""What somebody else needs to check a video without us: one JSON document, and how it is checked offline.

`collect` gathers files, content ids, receipts and every version; `parse` reads such a document back and trusts nothing
in it; `problems` and `compare` recompute all that can be recomputed. What neither a content id nor a document covers
(receipts, the files' roles) has a hash of its own in the reason of the version that says *ready* (`sealed`), and so is
part of the chain. What is proven of a node belongs to `ipfs.proof`, the chain of versions to `audit`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hls_pipeline import audit, clock, documents, keys, replicas
from hls_pipeline.errors import Conflict, PipelineError, UsageError, UserError
from hls_pipeline.hls.model import Playlist, SideFile
from hls_pipeline.hls.package import survey
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.rewriting import relative
from hls_pipeline.hls.sources import Source
from hls_pipeline.ipfs.cid import Cid
from hls_pipeline.ipfs.unixfs import PROFILES, Node, Profile, build_directory
from hls_pipeline.metadata_store import InventoryFile, MetadataStore
from hls_pipeline.revisions import content_id
from hls_pipeline.uploads import ACCEPTED_UNDER, Upload

MAX_SIZE = 256 << 20
"""Bytes of a document that we read: far more than 100,000 files and all their receipts need."""

_Hash = Field(pattern=r"^[0-9a-f]{64}$")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class File(_Part):
    """A published file, in the order of the playlists."""

    path: str
    role: str
    content_type: str
    size: int = Field(ge=0)
    cid: str
    dag_size: int = Field(ge=0)
    dag_blocks: int = Field(ge=1)

    @property
    def node(self) -> Node:
        return Node(Cid.parse(self.cid), self.size, self.dag_size, self.dag_blocks)


class Version(_Part):
    n: int = Field(ge=1)
    revision: int = Field(ge=0)
    document: str = Field(description="RFC 8785 text: `document_sha256` is the SHA-256 of these characters in UTF-8")
    document_sha256: str = _Hash
    previous_hash: str | None
    hash: str = _Hash
    actor: str
    reason: str
    run_id: str | None
    time: str
    shown: bool


class Evidence(_Part):
    format: Literal["hls-pipeline-proof/1"] = "hls-pipeline-proof/1"
    video_id: str = Field(pattern=rf"^{keys.VIDEO_ID.pattern}$")
    revision: int = Field(ge=1)
    state: str
    profile: Literal["unixfs-v1-2025", "unixfs-v0-2015"]
    playlist: str
    root: str = Field(description="content id of the published directory")
    record: str | None = Field(description="content id of the directory with playlists and inventory")
    manifest: str | None = Field(description="content id of the root playlist with ipfs:// references")
    facts: dict[str, Any] | None
    files: tuple[File, ...]
    receipts: tuple[dict[str, Any], ...]
    versions: tuple[Version, ...]

    def text(self) -> str:
        return json.dumps(self.model_dump(), ensure_ascii=False, indent=1)

    @property
    def unixfs(self) -> Profile:
        return PROFILES[self.profile]

    @property
    def proofs(self) -> list[dict[str, Any]]:
        return [receipt for receipt in self.receipts if receipt.get("kind") == "proof"]

    def ready(self) -> Version | None:
        """The newest version that says this revision is ready."""
        own = (version for version in reversed(self.versions) if version.revision == self.revision)
        return next((version for version in own if _object(version.document).get("status") == "ready"), None)

    def document(self) -> dict[str, Any] | None:
        """The document of that version."""
        version = self.ready()
        return _object(version.document) if version else None


def collect(video_id: str, store: MetadataStore) -> Evidence:
    """What is known of the video's current revision, or of its newest. Raises NotFound, and Conflict before there is
    one."""
    versions = store.versions(video_id)
    upload = store.current_upload(video_id) or _newest(video_id, store)
    assert upload.revision and upload.profile and upload.playlist and upload.root
    return Evidence(
        video_id=video_id,
        revision=upload.revision,
        state=str(upload.state),
        profile=PROFILES[upload.profile].name,  # type: ignore[arg-type]
        playlist=upload.playlist,
        root=upload.root,
        record=upload.record,
        manifest=upload.manifest,
        facts=upload.facts,
        files=tuple(_file(file) for file in store.inventory(upload.upload_id)),
        receipts=store.receipts(upload.upload_id),
        versions=tuple(
            Version(
                **{name: value for name, value in asdict(version).items() if name not in ("video_id", "time")},
                time=clock.text(version.time),
            )
            for version in versions
        ),
    )


def _newest(video_id: str, store: MetadataStore) -> Upload:
    accepted = [upload for upload in store.uploads_of(video_id) if upload.revision and upload.root]
    if not accepted:
        raise Conflict(f"video {video_id}: no package of it was accepted yet, so there is nothing to prove")
    return accepted[-1]


def _file(file: InventoryFile) -> File:
    return File(**{name: getattr(file, name) for name in File.model_fields})


# ---- what the chain of versions covers beside the documents -------------------------------------------------------

_SEAL = re.compile(r", evidence sha256:([0-9a-f]{64})$")


def sealed(
    reason: str,
    files: Iterable[InventoryFile],
    facts: Mapping[str, Any] | None,
    proofs: Iterable[Mapping[str, Any]],
) -> str:
    """`reason` for a version that says *ready*, with a hash of what is known at that moment."""
    *_, seal = _seals(map(_file, files), facts, proofs)
    return f"{reason}, evidence sha256:{seal}"


def unsealed(reason: str) -> tuple[str, str | None]:
    """The reason alone, and the hash that `sealed` put behind it."""
    found = _SEAL.search(reason)
    return (reason[: found.start()], found[1]) if found else (reason, None)


def _seals(
    files: Iterable[File], facts: Mapping[str, Any] | None, proofs: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """The hash before the first proof and after each: a document may have proofs that are younger than its seal. Facts
    are numbers of a creator's, who may write larger ones than RFC 8785 knows: they are hashed as text."""
    running = hashlib.sha256()
    for part in ({"facts": json.dumps(facts, sort_keys=True)}, *(file.model_dump() for file in files)):
        running.update(documents.canonical(part).encode())
    yield running.hexdigest()
    for proof in proofs:
        own = {name: value for name, value in proof.items() if name not in ("kind", "time")}
        running.update(documents.canonical(own).encode())
        yield running.hexdigest()


def parse(data: bytes) -> Evidence:
    """Raises UserError for anything that is no such document."""
    try:
        if len(data) > MAX_SIZE:
            raise ValueError(f"it has more than {MAX_SIZE} bytes")
        return Evidence.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"this is no proof document: {place or 'its JSON'}: {first['msg']}") from error
    except ValueError as error:
        raise UserError(f"this is no proof document: {error}") from error


# ---- what can be recomputed ---------------------------------------------------------------------------------------


def problems(evidence: Evidence) -> Iterator[str]:
    """All that does not hold within the document itself, each as a sentence. Nothing is asked of any service."""
    yield from _broken_chain(evidence)
    yield from _other_root(evidence)
    yield from _odd_sizes(evidence)
    yield from _other_document(evidence)
    yield from _broken_seal(evidence)
    yield from _lacking_receipts(evidence)


def _broken_chain(evidence: Evidence) -> Iterator[str]:
    current = max((version.n for version in evidence.versions if version.shown), default=None)
    previous: audit.Link | None = None
    for version in evidence.versions:
        link = audit.Link(
            **version.model_dump(), video_id=evidence.video_id, versions=len(evidence.versions), current=current
        )
        if flaw := audit.flaw(link, previous):
            yield f"version {version.n}: {flaw}"
            return
        previous = link


def _other_root(evidence: Evidence) -> Iterator[str]:
    try:
        directory = build_directory({file.path: file.node for file in evidence.files}, evidence.unixfs)
    except UserError as error:
        yield f"the list of files makes no directory: {error}"
        return
    if len(directory.files) != len(evidence.files):
        yield "the list of files names a path twice"
    if str(directory.root.cid) != evidence.root:
        yield f"the list of files makes the directory {directory.root.cid}, not {evidence.root}"


def _odd_sizes(evidence: Evidence) -> Iterator[str]:
    """A directory's content id covers the bytes of a file's blocks, not those of the file: they must at least fit."""
    for file in evidence.files:
        leaves = blocks = max(1, -(-file.size // evidence.unixfs.chunk_size))
        while leaves > 1:
            leaves = -(-leaves // evidence.unixfs.max_links)
            blocks += leaves
        bare = blocks == 1 and evidence.unixfs.raw_leaves
        if file.dag_blocks != blocks or (file.size != file.dag_size if bare else file.size >= file.dag_size):
            yield f"{file.path}: {file.size} bytes do not make {file.dag_blocks} blocks of {file.dag_size} bytes"


def _other_document(evidence: Evidence) -> Iterator[str]:
    document = evidence.document()
    if document is None:
        if evidence.record:
            yield f"no version says that revision {evidence.revision} is ready"
        return
    assets = document.get("video_assets")
    wanted = {
        "ipfs_m3u8": keys.ipfs_uri(evidence.manifest or ""),
        "ipfs_directory": keys.ipfs_uri(evidence.root),
        "ipfs_record": keys.ipfs_uri(evidence.record or ""),
        "playlist": evidence.playlist,
        "segments": [keys.ipfs_uri(file.cid) for file in evidence.files if file.role != "playlist"],
    }
    for name, value in wanted.items():
        if not isinstance(assets, dict) or assets.get(name) != value:
            yield f"{name} of the newest ready version is not what the list of files says"


def _broken_seal(evidence: Evidence) -> Iterator[str]:
    """Versions from before there were seals have none."""
    version = evidence.ready()
    seal = version and _SEAL.search(version.reason)
    try:
        holds = not seal or seal[1] in _seals(evidence.files, evidence.facts, evidence.proofs)
    except ValueError:  # a number or text that RFC 8785 cannot write, so it was never hashed
        holds = False
    if not holds:
        yield "the files' roles, the facts or the receipts are not those on which it was published"


def _lacking_receipts(evidence: Evidence) -> Iterator[str]:
    document, proofs = evidence.document(), evidence.proofs
    for root in (evidence.root, evidence.record):
        try:
            count = len(replicas.proven(proofs, root or ""))
        except (KeyError, TypeError, AttributeError):
            yield "a receipt is none"
            return
        claimed = document.get("replicas") if document else 0
        if not isinstance(claimed, int) or count < claimed:
            yield f"{count} node(s) proved to hold {root}, the document says {claimed}"


def compare(evidence: Evidence, source: Source, policy: Policy) -> Iterator[str]:
    """Where a package, the creator's or the published directory, has other files than the document says."""
    try:
        sizes = source.sizes()
        rewritten = _rewritten(evidence, source, policy)
    except (UserError, UsageError) as error:
        yield f"the package cannot be read: {error}"
        return
    for file in evidence.files:
        if file.path not in sizes:
            yield f"{file.path}: is not in the package"
        elif rewritten.get(file.path) == file.cid:
            continue
        elif (found := content_id(source.read(file.path), evidence.unixfs)) != file.cid:
            yield f"{file.path}: has the content id {found}, not {file.cid}"


def _rewritten(evidence: Evidence, source: Source, policy: Policy) -> dict[str, str]:
    """Content ids of playlists and the like as they are published: with relative references."""
    accepted_under = policy.of(evidence.video_id, (evidence.facts or {}).get(ACCEPTED_UNDER))
    package = survey(source, accepted_under, evidence.playlist).package
    if package is None:
        return {}
    documents: list[Playlist | SideFile] = [*package.playlists.values(), *package.side_files.values()]
    return {item.path: content_id([relative(item)], evidence.unixfs) for item in documents}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def require(evidence: Evidence) -> None:
    """Raises UserError with the first problem."""
    try:
        found = next(problems(evidence), None)
    except PipelineError as error:
        found = str(error)
    if found:
        raise UserError(f"the proof of {evidence.video_id} does not hold: {found}")
