"""One side of a joint job: every subject's own sums, which add up to the answer without a join."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ceiba_node.drafts import Seal
from ceiba_node.engines import duckdb_engine
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.joined_rows import JoinedRows, base_groups, cells_of_subjects, joined_rows
from ceiba_node.publishing import publish
from ceiba_node.snapshots import IDENTIFIERS, Snapshot, SnapshotStore
from ceiba_node.subject_index import build_index
from ceiba_node.withdrawals import withdraw
from ceiba_protocol.errors import CeibaError, DuplicateIdentifier, EngineFailed, JobCancelled, NotAnIdentifier
from ceiba_protocol.expression import Comparing, Number
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.score_model import bins_of
from ceiba_protocol.plan import ByColumn, Program, grouped_sums
from ceiba_protocol.program import SUBJECT, Comparison, Row
from ceiba_protocol.schema import Identifier, Schema
from ceiba_protocol.statistics import STATISTICS
from tests.support.errors import everything_about
from tests.support.members import publisher
from tests.support.random_questions import CONDITION, GROUPS, OUTPUTS, column, compiled, rows_of, schemas
from tests.support.snapshots import identifier_of, write_snapshot

FOLDER = Path(tempfile.mkdtemp(prefix="ceiba-joined-"))
WHO = (Identifier(column="who", kind=IdentifierKind.TEXT),)
FIRMS = Schema.from_plain(
    {
        "table": "tax.firms",
        "subject_key": "uscc",
        "identifiers": [{"column": "uscc", "kind": "uscc"}, {"column": "register", "kind": "text"}],
        "columns": [
            {"name": "industry", "type": "category", "domain": ["food", "steel"]},
            {"name": "sales", "type": "int", "minimum": -(2**62), "maximum": 2**62},
        ],
    }
)
BY_INDUSTRY = [ByColumn(name="industry", column="industry")]


@pytest.fixture(scope="module")
def engine():
    engine = DuckDBEngine(holder="tax", memory_limit="300MB", threads=1, temp_directory=FOLDER / "spill")
    yield engine
    engine.close()


def firm(subject: int, industry: int | None, sales: int | None) -> Row:
    return {SUBJECT: subject, "industry": industry, "sales": sales}


def snapshot_of(*rows: Row, schema: Schema = FIRMS) -> Snapshot:
    return write_snapshot(FOLDER, schema, rows)


def name_of(subject: int, of: str = "uscc") -> bytes:
    return identifier_of(of, subject).encode()


def by_name(joined: JoinedRows) -> dict[bytes, dict[int, list[int]]]:
    assert len(set(joined.identifiers)) == len(joined.identifiers)
    return {name: dict(joined.entries(place)) for place, name in enumerate(joined.identifiers)}


def in_cells(program: Program, totals: Sequence[int]) -> dict[int, list[int]]:
    """Only cells that have rows."""
    width = len(program.sums)
    cells = {cell: list(totals[cell * width : (cell + 1) * width]) for cell in range(program.cells)}
    return {cell: sums for cell, sums in cells.items() if sums[0]}


# --- sums --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(data=st.data(), schema=schemas(), unnamed=st.sets(st.integers(0, 3)), rows_at_once=st.sampled_from([1, 3, 99]))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_each_subject_has_the_sums_of_its_own_rows(engine, data, schema, unnamed, rows_at_once):
    schema = schema.model_copy(update={"identifiers": WHO})
    outputs = data.draw(st.lists(OUTPUTS, min_size=1, max_size=3))
    groups = data.draw(st.lists(GROUPS, max_size=2, unique_by=lambda group: group.name))
    condition = data.draw(st.none() | CONDITION)
    try:
        program = compiled(schema, outputs, groups, condition)
    except CeibaError:
        assume(False)
    rows = data.draw(rows_of(schema, subjects=data.draw(st.sampled_from([4, 1000]))))  # 1000: nearly always a row each
    snapshot = snapshot_of(*rows, schema=schema)
    forget(snapshot, unnamed)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duckdb_engine, "_rows_at_once", lambda _: rows_at_once)
            joined = by_name(joined_rows(engine, snapshot, program, "who"))
    finally:
        engine.close()
        snapshot.path.unlink()
    wanted = {}
    for subject in {row[SUBJECT] for row in rows} - unnamed:
        cells = in_cells(program, grouped_sums(program, [row for row in rows if row[SUBJECT] == subject]))
        if cells:
            wanted[name_of(subject, "who")] = cells
    assert joined == wanted
    totals = [0] * (program.cells * len(program.sums))
    for cells in joined.values():
        for cell, sums in cells.items():
            for place, value in enumerate(sums):
                totals[cell * len(sums) + place] += value
    assert totals == grouped_sums(program, [row for row in rows if row[SUBJECT] not in unnamed])


def test_a_subject_has_one_number_by_whichever_identifier_it_is_found(engine):
    snapshot = snapshot_of(*(firm(subject, subject % 2, subject) for subject in range(6)))
    (key,) = BY_INDUSTRY
    by_uscc, by_register = (
        build_index(engine, snapshot, BY_INDUSTRY, [bins_of(key, FIRMS)], on) for on in ("uscc", "register")
    )
    names = [(identifier_of("uscc", subject), identifier_of("register", subject)) for subject in range(6)]
    assert [by_uscc.number(one) for one, _ in names] == [by_register.number(other) for _, other in names]
    assert len({by_uscc.number(one) for one, _ in names}) == 6
    assert by_uscc.number(names[0][1]) is None and by_uscc.find(names[0][1]) is None
    assert by_uscc.find(names[3][0]) == by_register.find(names[3][1]) is not None
    only = FIRMS.model_copy(update={"identifiers": FIRMS.identifiers[:1]})
    alone = build_index(engine, snapshot_of(firm(0, 0, 0), schema=only), BY_INDUSTRY, [bins_of(key, only)], "uscc")
    assert alone.number(names[0][0]) is None and alone.find(names[0][0]) is not None


def forget(snapshot: Snapshot, subjects: set[int]) -> None:
    """The identifiers of some subjects, which then are missing."""
    with duckdb.connect(str(snapshot.path)) as database:
        for number in subjects:
            database.execute(f'UPDATE {IDENTIFIERS} SET who = NULL WHERE "{SUBJECT}" = {number}')


def test_sums_beyond_64_bits_are_exact(engine):
    program = compiled(FIRMS, [STATISTICS["variance"](value=column("sales"))], BY_INDUSTRY)
    rows = [firm(1, 0, 2**62), firm(1, 0, 2**62 - 1), firm(1, 0, None), firm(2, 1, -(2**62))]
    joined = by_name(joined_rows(engine, snapshot_of(*rows), program, "uscc"))
    assert joined[name_of(1)] == in_cells(program, grouped_sums(program, rows[:3]))
    assert joined[name_of(2)] == in_cells(program, grouped_sums(program, rows[3:]))


def test_many_rows_of_one_subject_outgrow_the_type_of_one(engine):
    program = compiled(FIRMS, [STATISTICS["count"](value=over(0)), STATISTICS["sum"](value=column("sales"))])
    rows = [firm(1, 0, 2**62)] * 200 + [firm(1, 0, -(2**62))] * 150
    joined = by_name(joined_rows(engine, snapshot_of(*rows), program, "uscc"))
    assert joined == {name_of(1): in_cells(program, grouped_sums(program, rows))}


def test_narrow_sums_take_narrow_arrays(engine):
    program = compiled(FIRMS, [STATISTICS["sum"](value=column("sales"))])
    joined = joined_rows(engine, snapshot_of(firm(1, 0, 127), firm(2, 0, 1000)), program, "uscc")
    assert [column.dtype.itemsize for column in joined.sums] == [1, 1, 2]


def test_nobody_passes(engine):
    program = compiled(FIRMS, [STATISTICS["count"]()], BY_INDUSTRY, over(7))
    snapshot = snapshot_of(firm(1, 0, 5))
    joined = joined_rows(engine, snapshot, program, "uscc")
    assert (joined.identifiers, joined.starts.tolist(), [len(one) for one in joined.sums]) == ([], [0], [0])
    assert base_groups(engine, snapshot, program, "uscc") == [[], [], []]


def over(least: int) -> Comparing:
    return Comparing(comparison=Comparison.GREATER, left=column("sales"), right=Number(value=str(least)))


# --- groups ------------------------------------------------------------------------------------------------------

COUNT = compiled(FIRMS, [STATISTICS["count"]()], BY_INDUSTRY)


def test_rows_of_one_group_count_once(engine):
    snapshot = snapshot_of(firm(3, 1, 5), firm(3, 1, 6), firm(1, 0, 5), firm(2, None, 5), firm(5, 1, 1))
    assert base_groups(engine, snapshot, COUNT, "uscc") == [[name_of(1)], [name_of(3), name_of(5)], [name_of(2)]]
    wanted = {
        name_of(1, "register"): 0,
        name_of(2, "register"): 2,
        name_of(3, "register"): 1,
        name_of(5, "register"): 1,
    }
    assert cells_of_subjects(engine, snapshot, COUNT, "register") == wanted


def test_a_subject_in_two_groups_is_refused(engine):
    snapshot, cancellation = snapshot_of(firm(4711, 0, 5), firm(4711, 1, 6), firm(2, 0, 5)), Cancellation("job")
    with pytest.raises(DuplicateIdentifier, match=r"tax\.firms.*uscc") as refusal:
        base_groups(engine, snapshot, COUNT, "uscc", cancellation)
    assert "4711" not in everything_about(refusal.value) and not any(map(str.isdigit, refusal.value.public))
    cancellation.cancel()  # comes back: nothing of the job runs any more


def test_rows_that_the_filter_leaves_out_are_no_second_group(engine):
    program = compiled(FIRMS, [STATISTICS["count"]()], BY_INDUSTRY, over(5))
    snapshot = snapshot_of(firm(1, 0, 5), firm(1, 1, 6))
    assert cells_of_subjects(engine, snapshot, program, "uscc") == {name_of(1): 1}


def test_without_groups_everybody_is_in_one_cell(engine):
    snapshot = snapshot_of(firm(1, 0, 5), firm(1, 1, 6), firm(2, 1, 6))
    program = compiled(FIRMS, [STATISTICS["count"]()])
    assert base_groups(engine, snapshot, program, "uscc") == [[name_of(1), name_of(2)]]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [joined_rows, base_groups, cells_of_subjects])
@pytest.mark.parametrize("on", ["sales", "USCC", "nothing"])
def test_only_declared_identifiers_join(engine, action, on):
    with pytest.raises(NotAnIdentifier, match=on):
        action(engine, snapshot_of(firm(1, 0, 5)), COUNT, on)


def test_a_key_outside_the_public_domain_is_not_ours(engine):
    with pytest.raises(EngineFailed):
        joined_rows(engine, snapshot_of(firm(1, 9, 5)), COUNT, "uscc")


def test_a_cancelled_job_reads_nothing(engine):
    cancellation = Cancellation("job")
    cancellation.cancel()
    with pytest.raises(JobCancelled):
        joined_rows(engine, snapshot_of(firm(1, 0, 5)), COUNT, "uscc", cancellation)


# --- after publishing --------------------------------------------------------------------------------------------

CODES = ["91350100M000100Y43", "91110000600037341L", "91310110666007217T"]


def test_published_identifiers_are_normal_and_the_withdrawn_are_not_joined(engine, tmp_path):
    source = tmp_path / "firms.csv"
    written = ["91350100m000100y43,No 1", "9111-0000 600037341L, NO 2 ", "91310110666007217T,", CODES[0] + ",ｎｏ 1"]
    lines = [
        f"{text},{industry},{place}" for place, (text, industry) in enumerate(zip(written, INDUSTRIES, strict=True))
    ]
    source.write_text("\n".join(["uscc,register,industry,sales", *lines]))
    store, now = SnapshotStore(tmp_path / "store", holder="tax"), datetime(2026, 1, 1, tzinfo=UTC)
    seal = Seal(now, b"k" * 32, publisher("tax"))
    publish(store, source, FIRMS, now=now, version_key=seal.version_key, publisher=seal.publisher)
    program = compiled(FIRMS, [STATISTICS["sum"](value=column("sales"))], BY_INDUSTRY)
    first, second, third = (code.encode() for code in CODES)
    joined = by_name(joined_rows(engine, store.current("tax.firms"), program, "uscc"))
    assert joined == {first: {0: [2, 2, 3]}, second: {1: [1, 1, 1]}, third: {1: [1, 1, 2]}}
    assert base_groups(engine, store.current("tax.firms"), program, "register") == [[b"no 1"], [b"no 2"], []]

    withdraw(store, "tax.firms", ["91350100 m000100y43"], seal)
    snapshot = store.current("tax.firms")
    assert base_groups(engine, snapshot, program, "uscc") == [[], [second, third], []]
    assert base_groups(engine, snapshot, program, "register") == [[], [b"no 2"], []]


INDUSTRIES = ["food", "steel", "steel", "food"]
