"""States, moves, and when a folder in the inbox becomes an upload."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hls_pipeline.errors import Conflict
from hls_pipeline.uploads import (
    IN_WORK,
    MOVES,
    ON_RECORD,
    TAKEN_IN,
    Drop,
    DropObject,
    Folder,
    State,
    TakenIn,
    Upload,
    Wait,
    back_off,
    check_move,
    diagram,
    folder_of,
    judge,
)

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
QUIET = timedelta(seconds=30)
LATER = NOON + timedelta(minutes=10)


def thing(path: str, *, at: float = 0, etag: str = '"1"', size: int = 10) -> DropObject:
    """An object of the folder `v`, written `at` seconds after noon."""
    return DropObject(f"v/{path}", etag, size, NOON + timedelta(seconds=at))


def folder(*objects: DropObject) -> Folder:
    return folder_of("v", "inbox", objects)


def frozen(found: Folder, *, now: datetime = LATER, latest: Upload | None = None) -> Drop:
    verdict = judge(found, latest, now, QUIET)
    assert isinstance(verdict, Drop), verdict
    return verdict


def waits(found: Folder, *, now: datetime = LATER, latest: Upload | None = None) -> str:
    verdict = judge(found, latest, now, QUIET)
    assert isinstance(verdict, Wait), verdict
    return verdict.reason


def upload(found: Folder, state: State = State.RECEIVED, **about: object) -> Upload:
    drop = found.freeze()
    known = Upload(drop.upload_id, "v", state, drop, created_at=NOON, updated_at=NOON)
    return replace(known, **about)  # type: ignore[arg-type]


PLAYLIST, SEGMENT = thing("master.m3u8"), thing("s0.ts", at=1)
MARKED = folder(PLAYLIST, SEGMENT, thing("_READY", at=2))

# ---- moves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_only_the_moves_of_the_table_are_allowed(old: State, new: State) -> None:
    if new is old or new in MOVES[old]:
        check_move("7f3a", old, new)
    else:
        with pytest.raises(Conflict, match=f"upload 7f3a is {old} and cannot become {new}"):
            check_move("7f3a", old, new)


def test_the_path_leads_from_received_to_cleared_and_never_back() -> None:
    path = [State.RECEIVED, State.STAGED, State.PINNED, State.PUBLISHED, State.CLEARED]
    for n, state in enumerate(path):
        assert MOVES[state] & set(path) == set(path[n + 1 : n + 2])


def test_rejected_unchanged_and_withdrawn_are_ends() -> None:
    assert {state for state in State if not MOVES[state]} == {State.REJECTED, State.UNCHANGED, State.WITHDRAWN}


def test_a_failed_upload_goes_on_only_where_work_can_fail() -> None:
    assert MOVES[State.FAILED] & set(IN_WORK) == IN_WORK
    assert all(State.FAILED in MOVES[state] for state in IN_WORK)


def test_whatever_is_on_record_can_be_withdrawn() -> None:
    assert all(State.WITHDRAWN in MOVES[state] for state in ON_RECORD)


def test_the_diagram_shows_every_move_and_no_other() -> None:
    lines = diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> received"]
    assert sorted(lines[2:]) == sorted(f"    {old} --> {new}" for old, news in MOVES.items() for new in news)


# ---- what a drop is -----------------------------------------------------------------------------------------------


def test_markers_and_folder_placeholders_are_no_part_of_the_package() -> None:
    ready, rejected, placeholder = thing("_READY", at=5), thing("_REJECTED.json"), thing("sub/", size=0)
    found = folder(PLAYLIST, ready, rejected, placeholder, SEGMENT)
    assert found.objects == (PLAYLIST, SEGMENT)
    assert found.ready == ready
    assert found.rejected


def test_markers_count_only_at_the_top_of_the_folder() -> None:
    found = folder(PLAYLIST, thing("sub/_READY"), thing("sub/_REJECTED.json"))
    assert [item.key for item in found.objects] == ["v/master.m3u8", "v/sub/_READY", "v/sub/_REJECTED.json"]
    assert found.ready is None
    assert not found.rejected


def test_an_upload_id_depends_on_content_and_arrival_alone() -> None:
    assert MARKED.freeze().upload_id == "7d699217ce03e43fd570617f15387375"
    assert folder(thing("_READY", at=2), PLAYLIST, SEGMENT).freeze().upload_id == MARKED.freeze().upload_id


@pytest.mark.parametrize(
    "other",
    [
        folder(PLAYLIST, SEGMENT, thing("_READY", at=3)),
        folder(PLAYLIST, replace(SEGMENT, etag='"2"'), thing("_READY", at=2)),
        folder(PLAYLIST, replace(SEGMENT, size=11), thing("_READY", at=2)),
        folder(PLAYLIST, replace(SEGMENT, key="v/s1.ts"), thing("_READY", at=2)),
        folder(PLAYLIST, thing("_READY", at=2)),
    ],
    ids=["sent again", "other bytes", "other size", "other name", "one file less"],
)
def test_another_drop_has_another_upload_id(other: Folder) -> None:
    assert other.freeze().upload_id != MARKED.freeze().upload_id


def test_the_same_unmarked_files_written_again_are_a_new_arrival() -> None:
    first, again = folder(PLAYLIST, SEGMENT), folder(PLAYLIST, replace(SEGMENT, modified=LATER))
    assert first.freeze().upload_id != again.freeze().upload_id


def test_a_drop_comes_back_from_json_as_it_was() -> None:
    for drop in (MARKED.freeze(), folder(PLAYLIST, SEGMENT).freeze()):
        again = Drop.from_json(drop.to_json())
        assert again == drop
        assert again.upload_id == drop.upload_id


def test_a_drop_knows_its_paths_its_bytes_and_its_door() -> None:
    drop = MARKED.freeze()
    assert [drop.path(item) for item in drop.objects] == ["master.m3u8", "s0.ts"]
    assert drop.bytes == 20
    assert drop.in_inbox
    assert not replace(drop, bucket="media", prefix="_uploads/7f3a/").in_inbox


# ---- judging a folder nobody has taken up yet ---------------------------------------------------------------------


def test_an_empty_folder_waits() -> None:
    assert waits(folder()) == "empty"
    assert waits(folder(thing("sub/", size=0))) == "empty"


def test_a_marked_folder_starts_at_once() -> None:
    drop = frozen(MARKED, now=NOON + timedelta(seconds=2))
    assert drop.objects == (PLAYLIST, SEGMENT)
    assert drop.ready == NOON + timedelta(seconds=2)


def test_a_mark_of_the_same_second_as_the_last_file_counts() -> None:
    """S3 listings have whole seconds: a quick creator writes both in one."""
    frozen(folder(PLAYLIST, thing("_READY")), now=NOON)


def test_a_file_newer_than_the_mark_makes_it_wait_until_it_is_quiet() -> None:
    found = folder(PLAYLIST, thing("_READY", at=2), thing("late.ts", at=10))
    assert waits(found, now=NOON + timedelta(seconds=39)) == "still being written"
    assert [item.key for item in frozen(found, now=NOON + timedelta(seconds=40)).objects][-1] == "v/late.ts"


def test_an_unmarked_folder_starts_once_it_is_quiet() -> None:
    found = folder(PLAYLIST, SEGMENT)
    assert waits(found, now=NOON + timedelta(seconds=30)) == "still being written"
    assert frozen(found, now=NOON + timedelta(seconds=31)).ready is None


# ---- judging a folder whose video is known ------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(IN_WORK))
def test_a_drop_that_is_in_work_is_no_new_one(state: State) -> None:
    assert "in work" in waits(MARKED, latest=upload(MARKED, state))


@pytest.mark.parametrize("state", sorted(IN_WORK))
def test_a_second_drop_waits_while_the_first_is_in_work(state: State) -> None:
    second = folder(PLAYLIST, SEGMENT, thing("_READY", at=100))
    assert "in work" in waits(second, latest=upload(MARKED, state))


@pytest.mark.parametrize("state", sorted(set(State) - IN_WORK))
def test_a_second_drop_starts_once_the_first_goes_no_further(state: State) -> None:
    second = folder(PLAYLIST, SEGMENT, thing("_READY", at=100))
    assert frozen(second, latest=upload(MARKED, state)).ready == NOON + timedelta(seconds=100)


LEFT_OVERS = [
    folder(SEGMENT),
    folder(SEGMENT, thing("_READY", at=2)),
    folder(thing("_READY", at=2)),
]


@pytest.mark.parametrize("left_over", LEFT_OVERS)
@pytest.mark.parametrize("state", sorted(set(State) - IN_WORK - TAKEN_IN))
def test_what_is_left_of_a_half_deleted_drop_is_no_new_one(state: State, left_over: Folder) -> None:
    assert "already judged" in waits(left_over, latest=upload(MARKED, state))


@pytest.mark.parametrize("left_over", LEFT_OVERS)
@pytest.mark.parametrize("state", sorted(TAKEN_IN))
def test_what_is_left_of_a_drop_that_was_taken_in_may_go(state: State, left_over: Folder) -> None:
    assert isinstance(judge(left_over, upload(MARKED, state), NOON, QUIET), TakenIn)


def test_a_left_over_written_again_is_a_new_drop() -> None:
    again = folder(replace(SEGMENT, modified=NOON + timedelta(seconds=60)))
    frozen(again, latest=upload(MARKED, State.PUBLISHED))


def test_an_incomplete_folder_waits_as_long_as_nothing_is_added() -> None:
    incomplete = upload(folder(PLAYLIST), report={"errors": []})
    assert incomplete.incomplete
    assert "in work" in waits(folder(PLAYLIST), latest=incomplete)


def test_an_incomplete_folder_that_was_completed_starts_again_once_quiet() -> None:
    incomplete, completed = upload(folder(PLAYLIST), report={"errors": []}), folder(PLAYLIST, thing("s0.ts", at=100))
    assert waits(completed, now=NOON + timedelta(seconds=120), latest=incomplete) == "still being written"
    assert len(frozen(completed, latest=incomplete).objects) == 2


def test_an_accepted_upload_has_a_report_too_and_is_not_incomplete() -> None:
    accepted = upload(MARKED, report={"errors": [], "warnings": []}, revision=1)
    assert not accepted.incomplete
    assert "in work" in waits(folder(PLAYLIST, SEGMENT, thing("_READY", at=100)), latest=accepted)


def test_marking_an_incomplete_folder_ready_starts_it_at_once() -> None:
    incomplete = upload(folder(PLAYLIST), report={"errors": []})
    frozen(folder(PLAYLIST, thing("_READY", at=100)), now=NOON + timedelta(seconds=100), latest=incomplete)


def test_a_refused_package_starts_again_only_with_a_newer_mark() -> None:
    refused = upload(MARKED, State.REJECTED)
    report, correction = thing("_REJECTED.json", at=50), thing("s0.ts", at=100, etag='"2"')
    assert "already judged" in waits(folder(PLAYLIST, SEGMENT, thing("_READY", at=2), report), latest=refused)
    assert "write _READY again" in waits(folder(PLAYLIST, correction, thing("_READY", at=2), report), latest=refused)
    assert "write _READY again" in waits(folder(PLAYLIST, correction, report), latest=refused)
    corrected = folder(PLAYLIST, correction, thing("_READY", at=101), report)
    assert frozen(corrected, latest=refused).objects == (PLAYLIST, correction)


def test_marking_a_refused_package_again_without_a_change_judges_it_again() -> None:
    refused = upload(MARKED, State.REJECTED)
    frozen(folder(PLAYLIST, SEGMENT, thing("_READY", at=60), thing("_REJECTED.json", at=50)), latest=refused)


# ---- waiting ------------------------------------------------------------------------------------------------------


def test_the_wait_between_tries_doubles_up_to_five_minutes() -> None:
    waits_ = [back_off(tries, 5).total_seconds() for tries in (0, 1, 2, 5, 6, 100, 10**9)]
    assert waits_ == [5, 10, 20, 160, 300, 300, 300]
