"""Random schemas, rows and questions: what engines, tests of cells and bounds are compared with the reference on."""

from collections.abc import Sequence

from hypothesis import strategies as st

from ceiba_protocol.expression import (
    Arithmetic,
    Branch,
    Case,
    ColumnValue,
    Comparing,
    Expression,
    Logic,
    Missing,
    Not,
    Number,
    Part,
    Round,
    TextValue,
    TruthValue,
)
from ceiba_protocol.plan import (
    ByBucket,
    ByCalendar,
    ByCase,
    ByColumn,
    GroupKey,
    LabelBranch,
    Named,
    Plan,
    Program,
    compile_plan,
)
from ceiba_protocol.program import DIGEST, SUBJECT, CalendarUnit, Comparison, Row, subject_digest
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import STATISTICS


def compiled(
    schema: Schema, outputs: Sequence[object], groups: Sequence[GroupKey] = (), filter: Expression | None = None
) -> Program:
    named = tuple(Named(name=f"o{place}", statistic=statistic) for place, statistic in enumerate(outputs))
    plan = Plan(table=schema.table, schema_digest=schema.digest(), filter=filter, groups=tuple(groups), outputs=named)
    return compile_plan(plan, schema)


def column(name: str) -> ColumnValue:
    return ColumnValue(name=name)


# --- random schemas, rows and questions ------------------------------------------------------------------------

NUMBERS = ("whole", "small", "fine", "huge")


@st.composite
def schemas(draw):
    def bounds(least: int, most: int) -> dict[str, int]:
        low, high = sorted(draw(st.tuples(st.integers(least, most), st.integers(least, most))))
        return {"minimum": low, "maximum": high}

    nullable = {"nullable": draw(st.booleans())}
    return Schema.from_plain(
        {
            "table": "t",
            "subject_key": "who",
            "columns": [
                {"name": "whole", "type": "int", **nullable, **bounds(-1000, 1000)},
                {"name": "small", "type": "int", **bounds(-3, 3)},
                {"name": "fine", "type": "decimal", "resolution": draw(st.sampled_from(["0.01", "0.25", "10"])),
                 "minimum": -10 * draw(st.integers(0, 50)), "maximum": 10 * draw(st.integers(0, 50))},
                {"name": "huge", "type": "int", **bounds(-(2**62), 2**62)},
                {"name": "kind", "type": "category", "domain": ["a", "b", "'c\""], **nullable},
                {"name": "flag", "type": "bool"},
                {"name": "level", "type": "int", "domain": [3, -1, 7]},
                {"name": "day", "type": "date", "minimum": "1899-12-30", "maximum": "2024-03-01"},
                {"name": "instant", "type": "timestamp", "minimum": "1969-01-31", "maximum": "1971-02-01", **nullable},
            ],
        }
    )  # fmt: skip


def rows_of(schema: Schema, subjects: int = 4) -> st.SearchStrategy[list[Row]]:
    """A few rows of so many subjects."""

    def values(column):
        low, high = column.range
        known = st.sampled_from(column.codes) if column.codes else st.integers(low, high) | st.sampled_from([low, high])
        return st.none() | known if column.nullable else known

    columns = {column.name: values(column) for column in schema.columns}
    rows = st.fixed_dictionaries({**columns, SUBJECT: st.integers(0, subjects - 1)})
    return st.lists(rows.map(lambda row: {**row, DIGEST: subject_digest(str(row[SUBJECT]))}), max_size=12)


LITERALS = st.sampled_from(["0", "1", "-1", "2", "7", "-0.5", "0.01", "1000", "33.3"]).map(lambda v: Number(value=v))


def conditions(number, condition):
    compare = st.builds(Comparing, comparison=st.sampled_from(Comparison), left=number, right=number)
    kind = st.builds(
        lambda c, v: Comparing(comparison=c, left=column("kind"), right=TextValue(value=v)),
        st.sampled_from([Comparison.EQUAL, Comparison.NOT_EQUAL]),
        st.sampled_from(["a", "'c\""]),
    )
    day = st.builds(
        lambda c: Comparing(comparison=c, left=column("day"), right=TextValue(value="1970-01-01")),
        st.sampled_from(Comparison),
    )
    part = st.builds(
        lambda c, parts, of: Comparing(comparison=c, left=Part(seed="s", parts=parts), right=Number(value=str(of))),
        st.sampled_from(Comparison),
        st.sampled_from([2, 5]),
        st.integers(-1, 5),
    )
    terms = st.lists(condition, min_size=1, max_size=3).map(tuple)
    return (
        compare
        | kind
        | day
        | part
        | st.builds(Logic, op=st.sampled_from(["and", "or"]), terms=terms)
        | st.builds(lambda term: Not(term=term), condition)
        | st.builds(lambda value: Missing(value=value), number | condition | st.just(column("day")))
    )


def numbers(number, condition):
    branch = st.builds(lambda when, then: Branch(when=when, then=then), condition, number)
    quotient = st.builds(lambda a, b: Arithmetic(op="divide", left=a, right=b), number, number)
    return (
        st.builds(Arithmetic, op=st.sampled_from(["add", "subtract", "multiply"]), left=number, right=number)
        | st.builds(lambda value, digits: Round(value=value, digits=digits), quotient | number, st.integers(0, 3))
        | st.builds(
            lambda arms, other: Case(branches=tuple(arms), otherwise=other),
            st.lists(branch, min_size=1, max_size=2),
            st.none() | number,
        )
        | st.builds(lambda value: Arithmetic(op="divide", left=value, right=Number(value="-4")), number)
        | st.just(Arithmetic(op="subtract", left=column("day"), right=column("day")))
        | condition
    )


NUMBER = st.sampled_from(NUMBERS).map(column) | LITERALS
CONDITION = st.just(column("flag")) | st.sampled_from([True, False]).map(lambda v: TruthValue(value=v))
for _ in range(2):
    NUMBER, CONDITION = NUMBER | numbers(NUMBER, CONDITION), CONDITION | conditions(NUMBER, CONDITION)

OUTPUTS = (
    st.builds(lambda kind, v: STATISTICS[kind](value=v), st.sampled_from(["count", "sum", "variance"]), NUMBER)
    | st.just(STATISTICS["subjects"]())
    | st.builds(lambda x, y: STATISTICS["covariance"](left=x, right=y), NUMBER, NUMBER)
    | st.builds(
        lambda v: STATISTICS["histogram"](value=v, low=Number(value="-1.5"), high=Number(value="3"), bins=3), NUMBER
    )
)
GROUPS = (
    st.sampled_from(["kind", "flag", "level"]).map(lambda name: ByColumn(name=name, column=name))
    | st.builds(
        lambda name, unit: ByCalendar(name=name, column=name, unit=unit),
        st.sampled_from(["day", "instant"]),
        st.sampled_from([unit for unit in CalendarUnit if unit is not CalendarUnit.DAY]),
    )
    | st.just(ByCalendar(name="instant", column="instant", unit=CalendarUnit.DAY))
    | st.builds(
        lambda value, count: ByBucket(
            name="bucket", value=value, low=Number(value="-7.5"), high=Number(value="40"), count=count
        ),
        NUMBER,
        st.integers(1, 7),
    )
    | st.builds(
        lambda one, two, other: ByCase(
            name="case", branches=(LabelBranch(when=one, label="x"), LabelBranch(when=two, label="y")), otherwise=other
        ),
        CONDITION,
        CONDITION,
        st.sampled_from([None, "x", "z"]),
    )
)
