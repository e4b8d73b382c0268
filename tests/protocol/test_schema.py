"""Schemas: what makes a column unusable, and how public values become integers."""

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceiba_protocol.errors import BadSchema, MalformedDocument, NotAnIdentifier, UnknownCategory, UnknownColumn
from ceiba_protocol.schema import Column, ColumnType, Schema


def schema(**column: object) -> Schema:
    return Schema.from_plain({"table": "t", "columns": [{"name": "a", **column}]})


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"type": "category"}, "a category needs its domain"),
        ({"type": "decimal"}, "a decimal needs a resolution"),
        ({"type": "decimal", "resolution": "0"}, "a resolution is greater than zero"),
        ({"type": "int", "resolution": "1"}, "only a decimal has one"),
        ({"type": "int", "minimum": 0}, "minimum and maximum go together"),
        ({"type": "int", "minimum": 2, "maximum": 1}, "the minimum is above the maximum"),
        ({"type": "int", "minimum": 0, "maximum": 2**64}, "bounds beyond 63 bits"),
        ({"type": "int", "domain": [1, 1]}, "a domain value appears twice"),
        ({"type": "category", "domain": ["x", "x"]}, "a domain value appears twice"),
        ({"type": "int", "domain": [7], "minimum": 0, "maximum": 5}, "outside minimum and maximum"),
        ({"type": "int", "minimum": "low", "maximum": "high"}, "cannot be read as int"),
        ({"type": "decimal", "resolution": 0.01, "minimum": 0.005, "maximum": 1}, "cannot be read as decimal"),
        ({"type": "decimal", "resolution": "0.1", "minimum": "NaN", "maximum": "1"}, "cannot be read as decimal"),
        ({"type": "date", "minimum": "yesterday", "maximum": "2016-01-01"}, "cannot be read as date"),
        ({"type": "bool", "domain": [True]}, "a bool's domain is always false, true"),
        ({"type": "category", "domain": ["x"], "minimum": "x", "maximum": "x"}, "has no minimum or maximum"),
        ({"type": "decimal", "resolution": "1E+100000000"}, "cannot be read as decimal"),
        ({"type": "int", "minimum": "0", "maximum": "1E+100000000"}, "cannot be read as int"),
        ({"type": "int", "label": "\x1b[2K"}, "control characters"),
        ({"type": "int", "label": "\u202e"}, "control characters"),
        ({"type": "float"}, "type"),
        ({"type": "int", "colour": "red"}, "colour"),
    ],
)
def test_an_unusable_column_is_refused_with_its_problem(column: dict[str, object], problem: str) -> None:
    with pytest.raises(BadSchema) as raised:
        schema(**column)
    assert problem in raised.value.public


def test_two_columns_whose_names_differ_in_case_alone_are_refused() -> None:
    columns = [{"name": "Age", "type": "int"}, {"name": "age", "type": "int"}]
    with pytest.raises(BadSchema, match="same name"):
        Schema.from_plain({"table": "t", "columns": columns})


def test_the_subject_key_cannot_be_computed_with() -> None:
    with pytest.raises(BadSchema, match="subject key"):
        Schema.from_plain({"table": "t", "subject_key": "id", "columns": [{"name": "id", "type": "int"}]})


def firms(*identifiers: tuple[str, str], subject_key: str | None = "uscc") -> Schema:
    declared = [{"column": column, "kind": kind} for column, kind in identifiers]
    columns = [{"name": "sales", "type": "int"}]
    return Schema.from_plain({"table": "t", "subject_key": subject_key, "identifiers": declared, "columns": columns})


def test_declared_identifiers_are_part_of_what_is_agreed() -> None:
    made = firms(("uscc", "uscc"), ("register", "text"))
    assert Schema.parse(made.body()) == made and made.subject_kind == made.identifier("uscc").kind == "uscc"
    assert made.identifier("register").kind == "text"
    assert len({one.digest() for one in (made, firms(("uscc", "uscc")), firms(("uscc", "text")), firms())}) == 4
    assert firms(("register", "text")).subject_kind is None is firms().subject_kind


def test_schemas_without_identifiers_have_the_bytes_that_they_had() -> None:
    body = firms().body()
    assert b"identifiers" not in body
    with pytest.raises(MalformedDocument, match="canonical"):
        Schema.parse(body.replace(b'"max_holders', b'"identifiers":[],"max_holders'))


@pytest.mark.parametrize(
    ("identifiers", "subject_key", "problem"),
    [
        ([("sales", "text")], "uscc", "cannot be a column to compute with"),
        ([("SALES", "text")], "uscc", "cannot be a column to compute with"),
        ([("uscc", "uscc"), ("Uscc", "text")], "uscc", "declared twice"),
        ([("uscc", "uscc")], None, "need a subject_key"),
        ([("uscc", "passport")], "uscc", "kind"),
        ([("no. 1", "text")], "uscc", "column"),
    ],
)
def test_unusable_identifiers_are_refused(
    identifiers: list[tuple[str, str]], subject_key: str | None, problem: str
) -> None:
    with pytest.raises(BadSchema, match=problem):
        firms(*identifiers, subject_key=subject_key)


@pytest.mark.parametrize("name", ["sales", "USCC", "nothing"])
def test_what_is_not_declared_is_no_identifier(name: str) -> None:
    with pytest.raises(NotAnIdentifier, match=name):
        firms(("uscc", "uscc")).identifier(name)


def test_how_many_holders_may_have_a_subject_is_part_of_what_is_agreed() -> None:
    plain = {"table": "t", "columns": [{"name": "x", "type": "int"}]}
    alone = Schema.from_plain(plain)
    assert alone.max_holders_per_subject == 1
    assert Schema.from_plain({**plain, "max_holders_per_subject": 1}).digest() == alone.digest()
    assert Schema.from_plain({**plain, "max_holders_per_subject": 3}).digest() != alone.digest()
    assert Schema.from_plain({**plain, "max_holders_per_subject": 1000}).max_holders_per_subject == 1000


@pytest.mark.parametrize("number", [0, -1, 1001, "2", 1.5, None])
def test_how_many_holders_may_have_a_subject_is_a_small_number(number: object) -> None:
    with pytest.raises(BadSchema, match="max_holders_per_subject"):
        Schema.from_plain({"table": "t", "max_holders_per_subject": number, "columns": [{"name": "x", "type": "int"}]})


@pytest.mark.parametrize(
    ("column", "text", "code"),
    [
        ({"type": "int"}, "-12", -12),
        ({"type": "decimal", "resolution": "0.01"}, "1.25", 125),
        ({"type": "decimal", "resolution": "0.5"}, "-3.5", -7),
        ({"type": "category", "domain": ["low", "high"]}, "high", 1),
        ({"type": "bool"}, "true", 1),
        ({"type": "date"}, "1970-01-31", 30),
        ({"type": "date"}, "1969-12-31", -1),
        ({"type": "timestamp"}, "1970-01-01T00:00:01.5", 1_500_000),
        ({"type": "timestamp"}, "1970-01-01T01:00:00+01:00", 0),
    ],
)
def test_a_public_value_becomes_the_integer_that_rows_use(column: dict[str, object], text: str, code: int) -> None:
    assert schema(**column).column("a").encode(text) == code


def test_a_category_outside_the_domain_names_the_nearest() -> None:
    with pytest.raises(UnknownCategory, match="nearest value is Female"):
        schema(type="category", domain=["Female", "Male"]).column("a").encode("female")


def test_an_unknown_column_names_the_nearest() -> None:
    columns = [{"name": "cholesterol", "type": "int"}, {"name": "age", "type": "int"}]
    with pytest.raises(UnknownColumn, match="nearest name is cholesterol"):
        Schema.from_plain({"table": "t", "columns": columns}).column("colesterol")


def test_numbers_and_dates_may_stand_unquoted_in_toml() -> None:
    plain = {"name": "a", "type": "date", "minimum": date(2016, 1, 1), "maximum": date(2016, 12, 31)}
    low, high = Schema.from_plain({"table": "t", "columns": [plain]}).column("a").range or (0, 0)
    assert (low, high) == (16801, 17166)
    assert schema(type="decimal", resolution=1e-6).column("a").step == Fraction(1, 10**6)


def test_the_digest_changes_with_every_field() -> None:
    plain = {"name": "a", "type": "int", "minimum": 0, "maximum": 9}
    changes = [{"maximum": 8}, {"nullable": False}, {"grade": "public"}, {"out_of_bounds": "clip"}, {"unit": "mm"}]
    digests = {schema(**(plain | change | {"name": "a"})).digest() for change in [{}, *changes]}
    assert len(digests) == len(changes) + 1


def test_a_schema_survives_its_bytes() -> None:
    made = schema(type="category", domain=["ä", "中"], label="Größe")
    assert Schema.parse(made.body()) == made


def test_text_that_is_not_nfc_is_refused() -> None:
    with pytest.raises(BadSchema):
        schema(type="category", domain=["a\u0308"])
    with pytest.raises(MalformedDocument):
        Schema.parse(schema(type="category", domain=["\u00e4"]).body().replace("\u00e4".encode(), "a\u0308".encode()))


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_every_multiple_of_a_resolution_is_read_exactly(units: int, digits: int) -> None:
    column = Column(name="a", type=ColumnType.DECIMAL, resolution=f"{10**-digits:.{digits}f}")
    sign, magnitude = "-" * (units < 0), abs(units)
    text = f"{sign}{magnitude // 10**digits}.{magnitude % 10**digits:0{digits}}" if digits else str(units)
    assert column.encode(text) == units
