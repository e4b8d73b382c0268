"""Identifiers at publishing: one subject however it is written; the malformed are counted, and named by row alone."""

import json
from pathlib import Path

import duckdb
import pytest

from ceiba_node.drafts import Seal
from ceiba_node.publishing import LISTED_ROWS, PublishReport
from ceiba_node.quantising import identifier
from ceiba_node.snapshots import IDENTIFIERS, SUBJECT_COLUMN, Snapshot, SnapshotStore
from ceiba_node.withdrawals import withdraw
from ceiba_protocol.errors import (
    BadIdentifier,
    BadSource,
    DoesNotConform,
    DuplicateIdentifier,
    EmptyTable,
    ValuesMissing,
)
from ceiba_protocol.program import DIGEST, subject_digest
from ceiba_protocol.schema import Schema
from tests.node.test_publishing import KEY, NOW, column_of, published, rows_of, write_csv
from tests.support.errors import everything_about
from tests.support.members import publisher

TABLE = "tax.firms"
ONE, TWO, THREE = "91350100M000100Y43", "91110000600037341L", "91310110666007217T"
WRONG = "91350100M000100Y44"
USCC, REGISTER = {"column": "uscc", "kind": "uscc"}, {"column": "register", "kind": "text"}
SEAL = Seal(NOW, KEY, publisher("cleveland"))


def firms(*identifiers: dict[str, str]) -> Schema:
    sales = {"name": "sales", "type": "int", "minimum": 0, "maximum": 9}
    return Schema.from_plain(
        {"table": TABLE, "subject_key": "uscc", "identifiers": list(identifiers), "columns": [sales]}
    )


PLAIN, BY_CODE, BOTH = firms(), firms(USCC), firms(USCC, REGISTER)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store", holder="tax")


def publish_rows(store: SnapshotStore, folder: Path, of: Schema, *rows: tuple[object, ...], **options) -> PublishReport:
    return published(store, write_csv(folder, ["uscc", "sales", "register"], *rows), of, **options)


def identifiers_of(snapshot: Snapshot) -> list[tuple[object, ...]]:
    with duckdb.connect(str(snapshot.path), read_only=True) as database:
        return database.execute(f"SELECT * FROM {IDENTIFIERS} ORDER BY {identifier(SUBJECT_COLUMN)}").fetchall()


def book_of(store: SnapshotStore) -> dict[str, int]:
    with duckdb.connect(str(store.subjects_path(TABLE)), read_only=True) as database:
        return dict(database.execute("SELECT identifier, number FROM subjects").fetchall())


# --- one form ----------------------------------------------------------------------------------------------------


def test_a_subject_is_one_however_it_is_written(store, tmp_path):
    rows = [(ONE, 1), (" 91350100m000 100Y43", 2), ("９１３５０１００-M000100y43", 3), (TWO, 4)]
    report = publish_rows(store, tmp_path, BY_CODE, *[(*row, "") for row in rows])
    snapshot = store.current(TABLE)
    assert rows_of(snapshot) == [(0, (1,)), (0, (2,)), (0, (3,)), (1, (4,))]
    assert column_of(snapshot, DIGEST) == [subject_digest(ONE)] * 3 + [subject_digest(TWO)]
    assert book_of(store) == {ONE: 0, TWO: 1} and identifiers_of(snapshot) == [(0, ONE), (1, TWO)]
    assert (report.rows, report.non_conforming_rows, report.counts) == (4, 0, {})


def test_a_subject_is_the_same_in_a_version_that_writes_it_otherwise(store, tmp_path):
    one = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), (TWO, 2, "")).version
    two = publish_rows(store, tmp_path, BY_CODE, (TWO.lower(), 2, ""), (f"{ONE[:6]}-{ONE[6:]}", 3, "")).version
    assert column_of(store.current(TABLE), SUBJECT_COLUMN) == [1, 0] and store.are_linked(TABLE, one, two)


def test_what_is_not_declared_is_taken_as_it_is(store, tmp_path):
    publish_rows(store, tmp_path, PLAIN, (ONE, 1, ""), (ONE.lower(), 2, ""), (WRONG, 3, ""))
    assert book_of(store) == {ONE: 0, ONE.lower(): 1, WRONG: 2}
    with pytest.raises(duckdb.CatalogException):
        identifiers_of(store.current(TABLE))


def test_versions_before_and_after_a_declaration_are_not_compared(store, tmp_path):
    one = publish_rows(store, tmp_path, PLAIN, (ONE, 1, "")).version
    two = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, "")).version
    three = publish_rows(store, tmp_path, BOTH, (ONE, 1, "a")).version
    assert not store.are_linked(TABLE, one, two) and store.are_linked(TABLE, two, three)


def test_another_identifier_makes_another_version(store, tmp_path):
    versions = [publish_rows(store, tmp_path, BOTH, (ONE, 1, text)).version for text in ("A 1", "b 1", "", "a  1")]
    assert versions[0] == versions[3] and len(set(versions)) == 3
    assert identifiers_of(store.get(TABLE, versions[1])) == [(0, ONE, "b 1")]


def test_line_breaks_make_no_two_versions_equal(store, tmp_path):
    both = firms(REGISTER, {"column": "name", "kind": "text"})
    versions = []
    for register, name in (("a b", ""), ("a", "b"), ("a\nb", "")):
        source = write_csv(tmp_path, ["uscc", "sales", "register", "name"], [ONE, 1, register, name])
        versions.append(published(store, source, both).version)
    assert versions[0] == versions[2] != versions[1]


def test_others_are_kept_where_the_key_is_not_declared(store, tmp_path):
    publish_rows(store, tmp_path, firms(REGISTER), ("x", 1, "No 1"), ("y", 1, ""), ("X", 2, "No 2"))
    assert identifiers_of(store.current(TABLE)) == [(0, "no 1"), (1, None), (2, "no 2")]


# --- malformed ---------------------------------------------------------------------------------------------------


def test_rows_without_a_good_key_are_set_aside_and_named_by_number(store, tmp_path):
    rows = [(ONE, 1), (WRONG, 99), ("canary", 3), (TWO, 99), ("91350100M000100I43", 5), (WRONG, 6)]
    report = publish_rows(store, tmp_path, BY_CODE, *[(*row, "") for row in rows])
    assert rows_of(store.current(TABLE)) == [(0, (1,)), (1, (None,))]
    assert (report.rows, report.non_conforming_rows, report.malformed.set_aside) == (2, 5, 4)
    flaws = {"bad_character": 1, "bad_check_digit": 2, "bad_length": 1}
    assert report.counts == {"uscc": flaws, "sales": {"above_maximum": 1}}
    assert report.malformed.rows == {"uscc": [2, 3, 5, 6]}
    plain = report.to_plain()
    assert (plain["set_aside"], plain["malformed_rows"]) == (4, {"uscc": [2, 3, 5, 6]})
    said = json.dumps(plain) + str(report) + repr(report)
    assert "4 set aside" in said and "malformed uscc: 2, 3, 5, 6" in said
    assert WRONG not in said and "canary" not in said and WRONG not in book_of(store)


def test_only_the_first_rows_are_named(store, tmp_path):
    report = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), *[(WRONG, 1, "")] * (LISTED_ROWS + 1))
    assert report.malformed.rows["uscc"] == list(range(2, LISTED_ROWS + 2)) and str(report).endswith("21 …")


def test_a_malformed_other_identifier_is_missing(store, tmp_path):
    long = "x" * 257
    report = publish_rows(store, tmp_path, BOTH, (ONE, 1, long), (TWO, 99, long), (WRONG, 3, long), (THREE, 4, ""))
    assert identifiers_of(store.current(TABLE)) == [(0, ONE, None), (1, TWO, None), (2, THREE, None)]
    assert (report.rows, report.non_conforming_rows, report.malformed.set_aside) == (3, 3, 1)
    assert report.counts["register"] == {"bad_length": 2} and report.malformed.rows["register"] == [1, 2]


def test_more_malformed_than_tolerated_is_refused(store, tmp_path):
    rows = [(ONE, 1, ""), (WRONG, 2, ""), (TWO, 99, ""), (THREE, 3, "x" * 257)]
    assert publish_rows(store, tmp_path, BOTH, *rows, tolerance=3).non_conforming_rows == 3
    with pytest.raises(DoesNotConform, match=r"3 rows.*the 2 allowed, in: uscc, register, sales"):
        publish_rows(store, tmp_path, BOTH, *rows, tolerance=2)


def test_a_source_of_malformed_rows_alone_is_refused(store, tmp_path):
    version = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, "")).version
    with pytest.raises(DoesNotConform, match=r"2 rows.*uscc") as refusal:
        publish_rows(store, tmp_path, BY_CODE, (WRONG, 2, ""), (WRONG, 1, ""))
    assert WRONG not in everything_about(refusal.value) and store.current(TABLE).version == version
    with pytest.raises(EmptyTable):
        publish_rows(store, tmp_path, BY_CODE)


def test_a_missing_key_is_refused_as_before(store, tmp_path):
    with pytest.raises(ValuesMissing, match="uscc"):
        publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), ("  ", 2, ""))


def test_a_source_without_the_column_is_refused(store, tmp_path):
    source = write_csv(tmp_path, ["uscc", "sales"], [ONE, 1])
    with pytest.raises(BadSource, match="register"):
        published(store, source, BOTH)
    renamed = write_csv(tmp_path, ["uscc", "sales", "No."], [ONE, 1, "A"])
    published(store, renamed, BOTH, source_columns={"register": "No."})
    assert identifiers_of(store.current(TABLE)) == [(0, ONE, "a")]


# --- duplicates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [(ONE, 1, "No 1"), (TWO, 2, "ＮＯ  1")],
        [(ONE, 1, "No 1"), (ONE, 2, "No 2")],
        [(ONE, 1, "No 1"), (TWO, 2, ""), (TWO, 2, "No 3"), (THREE, 2, "no 1")],
    ],
)
def test_an_identifier_belongs_to_one_subject(store, tmp_path, rows):
    version = publish_rows(store, tmp_path, BOTH, (ONE, 1, "before")).version
    with pytest.raises(DuplicateIdentifier, match=r"tax\.firms.*register") as refusal:
        publish_rows(store, tmp_path, BOTH, *rows)
    assert "no 1" not in everything_about(refusal.value).casefold() and store.current(TABLE).version == version


def test_rows_of_one_subject_may_repeat_or_lack_it(store, tmp_path):
    publish_rows(store, tmp_path, BOTH, (ONE, 1, "No 1"), (ONE, 2, " no 1"), (ONE, 3, ""), (TWO, 3, ""), (THREE, 3, ""))
    assert identifiers_of(store.current(TABLE)) == [(0, ONE, "no 1"), (1, TWO, None), (2, THREE, None)]


def test_a_number_may_pass_to_another_subject_in_a_later_version(store, tmp_path):
    publish_rows(store, tmp_path, BOTH, (ONE, 1, "No 1"), (TWO, 1, "No 2"))
    publish_rows(store, tmp_path, BOTH, (ONE, 1, "No 2"), (TWO, 1, "No 1"))
    assert identifiers_of(store.current(TABLE)) == [(0, ONE, "no 2"), (1, TWO, "no 1")]


# --- withdrawals -------------------------------------------------------------------------------------------------


def test_who_withdraws_is_found_however_written_and_stays_away(store, tmp_path):
    rows = [(ONE, 1, "a"), (TWO, 2, "b"), (ONE.lower(), 3, "A")]
    publish_rows(store, tmp_path, BOTH, *rows)
    report = withdraw(store, TABLE, ["91350100-m000100y43", ONE, THREE], SEAL)
    assert (report.given, report.found, report.rows_left_out) == (2, 1, 2)
    assert identifiers_of(store.current(TABLE)) == [(1, TWO, "b")]
    again = publish_rows(store, tmp_path, BOTH, *rows, (THREE, 1, "c"))
    assert (again.version, again.rows, again.withdrawn) == (report.version, 1, 3)


def test_who_withdraws_is_deleted_in_older_versions(store, tmp_path):
    first = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), (TWO, 1, "")).version
    second = publish_rows(store, tmp_path, BY_CODE, (TWO, 2, "")).version
    assert withdraw(store, TABLE, [ONE.lower()], SEAL).versions_deleted == 1
    assert store.versions(TABLE) == [second] != [first]


def test_a_malformed_withdrawal_is_refused(store, tmp_path):
    version = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), (TWO, 1, "")).version
    with pytest.raises(BadIdentifier, match="uscc") as refusal:
        withdraw(store, TABLE, [ONE, WRONG], SEAL)
    assert WRONG not in everything_about(refusal.value)
    assert store.withdrawn(TABLE) == [] and store.current(TABLE).version == version


def test_who_withdrew_before_the_declaration_stays_away(store, tmp_path):
    publish_rows(store, tmp_path, PLAIN, (ONE.lower(), 1, ""), (TWO, 1, ""), (WRONG, 1, ""))
    withdraw(store, TABLE, [ONE.lower(), WRONG], SEAL)
    report = publish_rows(store, tmp_path, BY_CODE, (ONE, 1, ""), (TWO, 1, ""), (WRONG, 1, ""))
    assert (report.rows, report.withdrawn, report.malformed.set_aside) == (1, 1, 1)
