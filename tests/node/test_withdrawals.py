"""Withdrawals: who objects is in no version that a job can pin, now and later, and no error or report names anybody."""

import json
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from ceiba_node.drafts import Seal
from ceiba_node.snapshots import SUBJECT_COLUMN, SnapshotStore, make_offer
from ceiba_node.withdrawals import WithdrawalReport, withdraw
from ceiba_protocol.errors import (
    DatasetMissing,
    DatasetUnknown,
    EmptyTable,
    NoSubjectKey,
    SnapshotDamaged,
)
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.signing import open_signed
from tests.node.test_publishing import (
    AGE,
    AGE_ALONE,
    KEY,
    NOW,
    ages,
    column_of,
    everything_about,
    linked,
    published,
    rows_of,
    schema,
    write_csv,
)
from tests.support.members import publisher

TABLE = "health.heart"
SEAL = Seal(NOW + timedelta(days=1), KEY, publisher("cleveland"))
FOUR = (("ann", 1), ("bob", 2), ("ann", 3), ("cho", 4))


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store", holder="cleveland")


def without(store: SnapshotStore, *identifiers: str) -> WithdrawalReport:
    return withdraw(store, TABLE, identifiers, SEAL)


def test_the_current_version_goes_on_without_them(store, tmp_path):
    one = published(store, ages(tmp_path, *FOUR), AGE).version
    report = without(store, "ann", " nobody ")
    snapshot = store.current(TABLE)
    assert (report.given, report.found, report.rows_left_out, report.versions_deleted) == (2, 1, 2, 1)
    assert report.version == snapshot.version != one
    assert rows_of(snapshot) == [(1, (2,)), (2, (4,))]
    assert (snapshot.rows, snapshot.subjects, snapshot.published_at) == (2, 2, SEAL.now)
    assert linked(store, one, snapshot.version)


def test_every_version_that_has_them_is_deleted_and_others_stay(store, tmp_path):
    versions = [published(store, ages(tmp_path, *rows), AGE).version for rows in (FOUR[:1], FOUR[1:2], FOUR)]
    report = without(store, "ann")
    assert set(store.versions(TABLE)) == {versions[1], report.version}
    assert report.versions_deleted == 2
    for gone in (versions[0], versions[2]):
        with pytest.raises(DatasetUnknown):
            store.get(TABLE, gone)


def test_who_is_only_in_an_older_version_is_deleted_there(store, tmp_path):
    versions = [published(store, ages(tmp_path, *rows), AGE).version for rows in (FOUR, FOUR[1:2])]
    report = without(store, "ann")
    assert (report.found, report.rows_left_out, report.version) == (0, 0, versions[1])
    assert store.versions(TABLE) == [versions[1]]


def test_a_version_whose_numbers_are_not_known_is_deleted(store, tmp_path):
    published(store, ages(tmp_path, ("ann", 1), ("bob", 2)), AGE)
    store.subjects_path(TABLE).unlink()
    two = published(store, ages(tmp_path, ("bob", 2), ("cho", 1)), AGE).version
    without(store, "ann")
    assert store.versions(TABLE) == [two]


def test_later_publications_leave_them_out_and_count_the_rows(store, tmp_path):
    published(store, ages(tmp_path, *FOUR), AGE)
    made = without(store, "ann", "later").version
    again = published(store, ages(tmp_path, *FOUR), AGE, now=NOW + timedelta(days=2))
    assert (again.version, again.rows, again.withdrawn) == (made, 2, 2)
    assert "2 left out" in str(again) and again.to_plain()["withdrawn"] == 2
    later = published(store, ages(tmp_path, *FOUR, ("later", 5), ("dee", 999)), AGE)
    assert (later.rows, later.withdrawn, later.non_conforming_rows) == (3, 3, 1)
    assert column_of(store.current(TABLE), SUBJECT_COLUMN) == [1, 2, 3]


def test_values_of_the_withdrawn_are_not_counted(store, tmp_path):
    published(store, ages(tmp_path, ("ann", 1), ("bob", 999)), AGE)
    without(store, "bob")
    report = published(store, ages(tmp_path, ("ann", 1), ("bob", 999)), AGE, tolerance=0)
    assert (report.non_conforming_rows, report.counts) == (0, {})


def test_counts_of_clipped_values_do_not_tell_what_was_clipped(store, tmp_path):
    of = schema(
        {"name": "age", "type": "int", "minimum": 0, "maximum": 9, "out_of_bounds": "clip"}, subject_key="patient"
    )
    published(store, ages(tmp_path, ("ann", 99), ("bob", 99), ("cho", 1)), of)
    without(store, "ann")
    assert store.current(TABLE).clipped == {"age": 2}


def test_the_offer_of_the_new_version_is_the_publishers(store, tmp_path):
    published(store, ages(tmp_path, *FOUR), AGE)
    without(store, "ann")
    snapshot = store.current(TABLE)
    offer = open_signed(snapshot.offer, Offer, publisher("cleveland").public)
    assert offer == make_offer(snapshot, "cleveland") and offer.row_capacity == 2


def test_the_list_is_the_owners_alone_and_grows(store, tmp_path):
    published(store, ages(tmp_path, *FOUR), AGE)
    without(store, "ann")
    without(store, "zoë", "ann")
    (path,) = (tmp_path / "store").rglob("withdrawn.json")
    assert store.withdrawn(TABLE) == ["ann", "zoë"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_column_called_rowid_changes_no_order(store, tmp_path):
    of = schema({"name": "rowid", "type": "int"}, subject_key="patient")
    published(store, write_csv(tmp_path, ["patient", "rowid"], ["a", 3], ["b", 2], ["c", 1]), of)
    without(store, "b")
    assert rows_of(store.current(TABLE)) == [(0, (3,)), (2, (1,))]


# --- refusals --------------------------------------------------------------------------------------------------


def test_nobody_is_left_out_where_nobody_can_be_recognised(store, tmp_path):
    published(store, ages(tmp_path, *FOUR), AGE_ALONE)
    with pytest.raises(NoSubjectKey, match=r"health\.heart") as refusal:
        without(store, "ann")
    assert "subject_key" in refusal.value.what_to_do and store.withdrawn(TABLE) == []


def test_a_schema_without_subject_key_brings_nobody_back(store, tmp_path):
    published(store, ages(tmp_path, *FOUR), AGE)
    version = without(store, "ann").version
    with pytest.raises(NoSubjectKey):
        published(store, ages(tmp_path, *FOUR), AGE_ALONE)
    assert store.current(TABLE).version == version


def test_everybody_cannot_be_left_out(store, tmp_path):
    version = published(store, ages(tmp_path, *FOUR), AGE).version
    with pytest.raises(EmptyTable) as refusal:
        without(store, "ann", "bob", "cho")
    assert "stop dataset health.heart" in refusal.value.what_to_do
    assert store.current(TABLE).version == version and store.withdrawn(TABLE) == []
    assert store.versions(TABLE) == [version]


def test_what_is_not_published_or_damaged_is_refused(store, tmp_path):
    with pytest.raises(DatasetMissing):
        without(store, "ann")
    assert not (tmp_path / "store").exists()
    published(store, ages(tmp_path, *FOUR), AGE)
    path = store.current(TABLE).path
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SnapshotDamaged):
        without(store, "ann")
    assert store.withdrawn(TABLE) == []


def test_no_error_or_report_names_anybody(store, tmp_path):
    published(store, ages(tmp_path, ("canary-4711", 1), ("bob", 2)), AGE)
    report = without(store, "canary-4711", "canary-4712")
    with pytest.raises(EmptyTable) as refusal:
        without(store, "bob")
    said = json.dumps(report.to_plain()) + str(report) + repr(report) + everything_about(refusal.value)
    assert "canary" not in said and "bob" not in said


# --- crashes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(4))
def test_after_a_crash_the_same_command_completes(store, tmp_path, monkeypatch, step):
    """The list, the rows, their folder, the name of the current version."""
    source = ages(tmp_path, *FOUR)
    one = published(store, source, AGE).version
    real, calls = os.replace, []

    def crash(old, new):
        calls.append(Path(new).name)
        if len(calls) > step:
            raise KeyboardInterrupt
        real(old, new)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        without(store, "ann")
    monkeypatch.setattr(os, "replace", real)
    assert calls[0] == "withdrawn.json" and store.current(TABLE).version == one
    assert store.withdrawn(TABLE) == ([] if step == 0 else ["ann"])
    report = without(store, "ann")
    assert report.found == 1 and store.versions(TABLE) == [report.version]
    assert linked(store, one, report.version)


def test_a_publication_completes_what_a_crash_left(store, tmp_path, monkeypatch):
    one = published(store, ages(tmp_path, *FOUR), AGE).version
    monkeypatch.setattr("ceiba_node.withdrawals.forget_withdrawn", lambda *_: None)
    without(store, "ann")
    monkeypatch.undo()
    assert one in store.versions(TABLE)
    published(store, ages(tmp_path, *FOUR), AGE)
    assert one not in store.versions(TABLE)
