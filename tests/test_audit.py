"""The recorded history: read as of a time, compared, exported, and every way of changing it found."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from hls_pipeline import audit, documents, tables
from hls_pipeline.audit import Break, Change, Link, Verdict
from hls_pipeline.cli import app
from hls_pipeline.errors import NotFound, UsageError
from hls_pipeline.metadata_store import MetadataStore
from tests.test_metadata_store import after, file, finalized, held, pinned, published, received, staged

TITLES = ["a video", "ein Vidéo 🌌", '\u2028 \x7f \\ " \t']


def history(store: MetadataStore) -> list[Link]:
    """`v` with three revisions and `w` with one that is on its way."""
    for number in range(1, 4):
        published(store, number, at=10 * number)
    lease = held(store, received(store, "w"))
    store.accept(lease, revision=1, facts={}, files=[file()], objects=[], root="r", metadata={}, report={})
    for title in TITLES:
        document = {"video_id": "w", "title": title, "status": "processing"}
        store.staged(lease, document, actor=title, reason=title, run_id=None, now=after(15))
    return list(audit.on_record(store))


def verdict(links: list[Link]) -> Break | None:
    return audit.verify(links).first_break


# ---- what readers got at a time -----------------------------------------------------------------------------------


def test_the_document_of_a_time_is_the_one_readers_got_then(store: MetadataStore) -> None:
    """While the second revision is on its way, readers get the first."""
    published(store, 1, at=12)  # its temporary document is of second 10
    lease = held(store, received(store, "v", 2))
    pinned(store, lease, 2, at=21)
    finalized(store, lease, 2, at=30)
    shown = {at: store.as_of("v", after(at)) for at in (10, 11.9, 12, 29.9, 30, 1000)}
    assert [(version.n, version.revision) for version in shown.values()] == [
        (1, 1), (1, 1), (2, 1), (2, 1), (4, 2), (4, 2),
    ]  # fmt: skip
    assert shown[1000] == store.current("v")


def test_before_its_first_document_a_video_had_none(store: MetadataStore) -> None:
    published(store)
    with pytest.raises(NotFound, match="had no document at 2026-01-05T12:00:09"):
        store.as_of("v", after(9))
    with pytest.raises(NotFound):
        store.as_of("nothing", after(9))


# ---- the chain ----------------------------------------------------------------------------------------------------


def test_an_untouched_history_holds_in_the_database_and_in_an_export(store: MetadataStore) -> None:
    links = history(store)
    assert audit.verify(links) == Verdict(videos=2, versions=9, first_break=None)
    assert imported(exported(links)) == links


def test_an_empty_database_holds(store: MetadataStore) -> None:
    assert audit.verify(audit.on_record(store)) == Verdict(0, 0, None)


CHANGES: dict[str, tuple[Callable[[list[Link]], list[Link]], int, str]] = {
    "another document": (lambda links: edited(links, 2, document='{"status":"ready"}'), 3, "the document"),
    "another document with its hash": (
        lambda links: edited(links, 2, document="{}", document_sha256=documents.sha256("{}")),
        3,
        "does not cover",
    ),
    "another actor": (lambda links: edited(links, 0, actor="somebody"), 1, "does not cover"),
    "another reason": (lambda links: edited(links, 0, reason=""), 1, "does not cover"),
    "another run": (lambda links: edited(links, 0, run_id=None), 1, "does not cover"),
    "another time": (lambda links: edited(links, 5, time="2026-01-05T12:00:30.001Z"), 6, "does not cover"),
    "one left out": (lambda links: links[:1] + links[2:], 3, "version 2 is missing"),
    "the first left out": (lambda links: links[1:], 2, "version 1 is missing"),
    "the last left out": (lambda links: links[:5] + links[6:], 5, "has 6 versions, the last one here is 5"),
    "two exchanged": (lambda links: [links[1], links[0], *links[2:]], 2, "version 1 is missing"),
    "one twice": (lambda links: [links[0], *links], 1, "version 2 is missing"),
    "a fork": (lambda links: forked(links), 2, "does not name the hash"),
    "another current version": (
        lambda links: [link._replace(current=4) for link in links],
        6,
        "readers get version 4, on record as shown is 6",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_history_breaks_where_it_was_changed(sqlite_url: str, change: str) -> None:
    links = history(MetadataStore(sqlite_url))
    make, version, what = CHANGES[change]
    found = verdict(make(links))
    assert found is not None
    assert (found.video_id, found.version) == ("v", version)
    assert what in found.what


def edited(links: list[Link], index: int, **changes: Any) -> list[Link]:
    return [*links[:index], links[index]._replace(**changes), *links[index + 1 :]]


def forked(links: list[Link]) -> list[Link]:
    """A second version that is sound in itself and follows another first one."""
    own = links[1]._replace(previous_hash="0" * 64)
    fields = ("n", "video_id", "document_sha256", "previous_hash", "actor", "reason", "run_id", "time")
    return edited(links, 1, previous_hash="0" * 64, hash=documents.chain_hash(**{f: getattr(own, f) for f in fields}))


def test_a_history_rewritten_from_its_beginning_holds_in_itself_but_not_against_an_anchor(store: MetadataStore) -> None:
    published(store)
    anchor = audit.heads(audit.on_record(store))
    published(store, 2)
    links = list(audit.on_record(store))
    assert audit.verify(links, anchor).holds

    rewritten: list[Link] = []
    for link in links:
        changed = link._replace(actor="forger", previous_hash=rewritten[-1].hash if rewritten else None)
        fields = ("n", "video_id", "document_sha256", "previous_hash", "actor", "reason", "run_id", "time")
        rewritten.append(changed._replace(hash=documents.chain_hash(**{f: getattr(changed, f) for f in fields})))
    assert audit.verify(rewritten).holds
    assert audit.verify(rewritten, anchor).first_break == Break(
        "v", 2, "it is not the version that was here when the anchor was made"
    )
    short = [link._replace(versions=1, current=1) for link in links[:1]]
    assert audit.verify(short, anchor).first_break == Break("v", 1, "the anchor knows version 2 of it")
    assert audit.verify([], anchor).first_break == Break("v", 2, "the video is gone; the anchor knows it")


@pytest.mark.parametrize("rows", ["n = 6", "n = 2", "n > 0"])
def test_rows_deleted_behind_the_triggers_are_missed(sqlite_url: str, rows: str) -> None:
    store = MetadataStore(sqlite_url)
    history(store)
    with store._engine.begin() as db:
        db.execute(sa.text("DROP TRIGGER version_refuses_delete"))
        db.execute(sa.text(f"DELETE FROM version WHERE video_id = 'v' AND {rows}"))
    found = audit.verify(audit.on_record(store)).first_break
    assert found is not None
    assert found.video_id == "v"


# ---- exports ------------------------------------------------------------------------------------------------------


def exported(links: list[Link]) -> str:
    file = io.StringIO()
    assert list(audit.exported(links, file)) == links
    return file.getvalue()


def imported(text: str) -> list[Link]:
    return list(audit.imported(io.StringIO(text), "old.jsonl"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: lines[:-1], "the export is not whole; it has 9 versions, its end says None"),
        (lambda lines: lines[1:], "the export is not whole; it has 8 versions, its end says 9"),
        (lambda lines: [*lines, lines[0]], "line 11: this is no export of versions .something follows its end"),
        (lambda lines: ["[]"], "line 1"),
        (lambda lines: ["{"], "line 1"),
        (lambda lines: ["1"], "line 1"),
        (lambda lines: ['{"video_id": "v"}'], "line 1"),
        (lambda lines: [lines[0].replace('"n": 1', '"n": "1"')], "line 1"),
        (lambda lines: [lines[0].replace('"actor": "inbox"', '"actor": "\\ud800"')], "line 1"),
    ],
)
def test_an_export_that_is_not_whole_or_none_is_refused(sqlite_url: str, spoil: Any, says: str) -> None:
    lines = exported(history(MetadataStore(sqlite_url))).split("\n")[:-1]
    with pytest.raises(UsageError, match=f"old.jsonl.*{says}"):
        imported("\n".join(spoil(lines)))


# ---- how documents differ -----------------------------------------------------------------------------------------


def test_changes_name_every_place_and_what_was_there() -> None:
    old = {"a": 1, "gone": None, "deep": {"x": ["p", "q"]}, "same": [1], "kind": 1}
    new = {"a": 2, "deep": {"x": ["p", "r", "s"]}, "same": [1], "kind": True, "new": {}}
    assert list(audit.changes(old, new)) == [
        Change("a", "changed", 1, 2),
        Change("deep.x[1]", "changed", "q", "r"),
        Change("deep.x[2]", "added", None, "s"),
        Change("gone", "removed", None, None),
        Change("kind", "changed", 1, True),
        Change("new", "added", None, {}),
    ]
    assert list(audit.changes(new, new)) == []


# ---- from a shell -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `hls-pipeline` on a database with some history; the exit code and what it printed."""
    history(MetadataStore(sqlite_url))
    monkeypatch.setenv("HLS_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("HLS_S3_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HLS_IPFS_RPC_URLS", '["http://127.0.0.1:1"]')
    monkeypatch.setenv("HLS_IPFS_GATEWAY_URLS", '["http://127.0.0.1:1"]')

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments], catch_exceptions=False)

    return run


def test_audit_verify_says_that_all_holds_and_writes_an_export_that_holds_too(command: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "export.jsonl")
    for arguments in (["--export", file], [file], [file, "--anchor", file], ["--anchor", file]):
        result = command("audit", "verify", *arguments)
        assert (result.exit_code, result.stdout) == (0, "all 9 versions of 2 videos hold\n")
    assert command("audit", "export", file).stdout == f"9 versions written to {file}\n"
    assert json.loads(command("audit", "verify", file, "--json").stdout) == {
        "holds": True, "videos": 2, "versions": 9, "first_break": None,
    }  # fmt: skip


def test_an_export_gets_its_name_when_it_is_whole(command: Any, sqlite_url: str, tmp_path: Path) -> None:
    """Opened first, the file that was to be checked was empty before anybody read it, and lost with its hashes."""
    file = tmp_path / "export.jsonl"
    assert command("audit", "export", str(file)).exit_code == 0
    file.chmod(0o600)
    whole = file.read_bytes()
    assert command("audit", "verify", str(file), "--export", str(file)).exit_code == 0
    assert file.read_bytes() == whole
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:  # found at the very end alone
        db.execute("UPDATE video SET versions = versions + 1 WHERE video_id = 'w'")
    assert command("audit", "verify", "--export", str(file)).exit_code == 1
    assert file.read_bytes() == whole
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:
        db.execute("DROP TRIGGER version_refuses_update")
        db.execute("UPDATE version SET actor = 'nobody' WHERE video_id = 'v' AND n = 3")
    assert command("audit", "verify", "--export", str(file)).exit_code == 1
    assert file.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if "export" in path.name] == ["export.jsonl"]
    written = Path(os.devnull)
    assert command("audit", "export", str(written)).exit_code == 0
    assert written.is_char_device()


def test_audit_verify_ends_with_1_and_names_the_break(command: Any, sqlite_url: str) -> None:
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:
        db.execute("DROP TRIGGER version_refuses_update")
        db.execute("UPDATE version SET actor = 'nobody' WHERE video_id = 'v' AND n = 3")
    result = command("audit", "verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("video v, version 3: its hash does not cover")
    result = command("audit", "verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["first_break"]["version"] == 3
    versions = json.loads(command("versions", "v", "--json").stdout)["versions"]
    assert [version["hash_holds"] for version in versions] == [True, True, False, True, True, True]


RECEIPTS: dict[str, tuple[str, int, int]] = {
    "another answer": ("UPDATE receipt SET content = replace(content, '7', '9') WHERE id = ?", 1, 1),
    "another time": ("UPDATE receipt SET time = '2020-01-01T00:00:00.000Z' WHERE id = ?", 1, 1),
    "another kind": ("UPDATE receipt SET kind = 'finding' WHERE id = ?", 1, 1),
    "another run": ("UPDATE receipt SET run_id = NULL WHERE id = ?", 1, 1),
    "no hash": ("UPDATE receipt SET hash = NULL WHERE id = ?", 1, 1),
    "one deleted": ("DELETE FROM receipt WHERE id = ?", 1, 2),
    "the first deleted": ("DELETE FROM receipt WHERE id = ?", 0, 1),
}


@pytest.mark.parametrize("change", RECEIPTS)
def test_audit_verify_names_a_receipt_that_was_changed_after_the_clean_up(
    command: Any, sqlite_url: str, change: str
) -> None:
    """They are younger than the version that says *ready*, so that no version's hash covers them."""
    store = MetadataStore(sqlite_url)
    upload = received(store, "x")
    lease = held(store, upload)
    read_back = {"level": "read_back", "answered": "7 blocks of 7 bytes, \ud800"}
    store.add_receipts(lease, "proof", [read_back], after(90))
    store.objects_removed(lease, ["s3://media/x"], {"removed": ["s3://media/x"], "evidence": [read_back]}, after(91))
    store.add_receipts(lease, "proof", [read_back], after(92))
    assert command("audit", "verify").exit_code == 0
    statement, of, named = RECEIPTS[change]
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:
        ids = [row[0] for row in db.execute("SELECT id FROM receipt WHERE upload_id = ?", [upload.upload_id])]
        assert db.execute(statement, [ids[of]]).rowcount == 1
    result = command("audit", "verify", "--json")
    found = json.loads(result.stdout)["first_break"]
    assert (result.exit_code, found["video_id"]) == (1, "x")
    assert f"receipt {ids[named]} (" in found["what"]


def test_receipts_from_before_they_had_hashes_hold(command: Any, sqlite_url: str) -> None:
    store = MetadataStore(sqlite_url)
    lease = held(store, received(store, "x"))
    store.add_receipts(lease, "proof", [{"answered": "1"}], after(90))
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as db:
        db.execute("UPDATE receipt SET hash = NULL")
    store.add_receipts(lease, "proof", [{"answered": "2"}], after(91))
    assert command("audit", "verify").exit_code == 0


def test_versions_show_what_changed_in_words_and_in_json(command: Any) -> None:
    text = command("versions", "v", "--diff").stdout
    assert '- status: "processing"' in text
    assert '+ status: "ready"' in text
    second = json.loads(command("versions", "v", "--json").stdout)["versions"][1]
    assert second["changes"] == [{"path": "status", "kind": "changed", "old": "processing", "new": "ready"}]
    assert second["document"]["status"] == "ready"


def test_long_lists_of_changes_are_cut_for_people(command: Any, sqlite_url: str) -> None:
    store = MetadataStore(sqlite_url)
    lease = held(store, received(store, "long"))
    store.accept(lease, revision=1, facts={}, files=[file()], objects=[], root="r", metadata={}, report={})
    for scheme in ("s3", "ipfs"):
        document = {"video_id": "long", "segments": [f"{scheme}://{n}" for n in range(50)]}
        store.staged(lease, document, actor="inbox", reason="staged", run_id=None, now=after(9))
    text = command("versions", "long", "--diff").stdout
    assert '+ segments[2]: "ipfs://2"' in text
    assert "segments[3]" not in text
    assert "segments: 47 more" in text


def test_the_version_of_a_time_is_shown_alone(command: Any) -> None:
    shown = command("versions", "v", "--as-of", "2026-01-05T12:00:15", "--json").stdout
    assert [version["n"] for version in json.loads(shown)["versions"]] == [2]


def test_history_written_through_the_store_holds_however_fine_the_clock(store: MetadataStore) -> None:
    lease = held(store, received(store))
    staged(store, lease)
    finalized_at = after(12) + timedelta(microseconds=999_999)
    store.pinned(lease, [], finalized_at)
    store.finalize(lease, {"status": "ready"}, after(12), actor="a", reason="r", run_id=None, now=finalized_at)
    assert audit.verify(audit.on_record(store)).holds
    with store.reading() as db:
        times = db.execute(sa.select(sa.type_coerce(tables.version.c.time, sa.String))).scalars().all()
    assert times[-1] == "2026-01-05T12:00:12.999Z"
