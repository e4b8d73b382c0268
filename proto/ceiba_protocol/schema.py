"""Schemas: the columns of a table as the space has agreed on them.

Every value becomes an integer once, when a holder publishes (DESIGN §8): numbers in units of their resolution,
categories as their place in the declared domain, dates as days and timestamps as microseconds since 1970-01-01 UTC.
Literals in questions go through the same `Column.encode`, so both sides of a comparison are quantised alike.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import Document, FieldName, TableName, Text, canonical_json, digest_of
from ceiba_protocol.errors import (
    BadSchema,
    MalformedDocument,
    ManifestMismatch,
    NotAnIdentifier,
    UnknownCategory,
    UnknownColumn,
)
from ceiba_protocol.identifiers import IdentifierKind

EPOCH = date(1970, 1, 1)
EPOCH_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROSECONDS_PER_DAY = 86_400_000_000
INTEGER_BITS = 63
"""A published value fits a signed 64-bit integer."""
MAX_DOMAIN = 100_000
MAX_HOLDERS_PER_SUBJECT = 1000
MAX_NUMBER = 60
"""Longest bound, resolution or domain value of a numeric column, in characters."""
PLAIN_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


class ColumnType(StrEnum):
    INT = "int"
    DECIMAL = "decimal"
    CATEGORY = "category"
    BOOL = "bool"
    DATE = "date"
    TIMESTAMP = "timestamp"


NUMERIC = {ColumnType.INT, ColumnType.DECIMAL}


class Grade(StrEnum):
    """How sensitive a column is; later decides its disclosure rules (PROTOCOL §3.1)."""

    PUBLIC = "public"
    INTERNAL = "internal"
    SENSITIVE = "sensitive"
    IMPORTANT = "important"
    CORE = "core"


class OutOfBounds(StrEnum):
    """What publishing does with a number below `minimum` or above `maximum`. Either way it is counted."""

    CLIP = "clip"
    MISSING = "missing"


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, for error texts; "none" if there is nothing to choose from."""
    names = list(names)
    folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.0)
    return folded[close[0]] if close else "none"


class Column(Document):
    """One column. Bounds, domain and missing codes are written as text and read by the column's own type."""

    name: FieldName
    type: ColumnType
    label: Text = ""
    """What the column means, for people."""
    unit: Text = ""
    """Unit of measurement, such as mmHg or EUR; shown, never computed with."""
    resolution: Text | None = None
    """Decimal columns only: the step between values, such as 0.01. Int columns have resolution 1."""
    domain: tuple[Text, ...] | None = None
    """All values it may have, in display order. Needed for categories and to group by the column."""
    shares: tuple[Text, ...] | None = None
    """How frequent each value of the domain is, relative to the others, in the domain's order: from published
    statistics, not from this data. Used for forecasts alone."""
    minimum: Text | None = None
    maximum: Text | None = None
    """Inclusive bounds. Needed to sum the column, and to group dates and timestamps by calendar units."""
    out_of_bounds: OutOfBounds = OutOfBounds.MISSING
    missing_codes: tuple[Text, ...] = ()
    """Values of the source that mean "not measured", such as 0 or -9; published as NULL."""
    nullable: bool = True
    """False promises that no row lacks a value; then NULL is no group of its own."""
    grade: Grade = Grade.INTERNAL

    @cached_property
    def step(self) -> Fraction:
        """What one unit of the column's integers is worth."""
        if self.type is ColumnType.DECIMAL:
            return Fraction(_decimal(self.resolution or "1"))
        return Fraction(1)

    @cached_property
    def codes(self) -> tuple[int, ...] | None:
        """The domain as integers, in its declared order; None if no domain is declared."""
        if self.type is ColumnType.CATEGORY:
            return tuple(range(len(self.domain or ())))
        if self.type is ColumnType.BOOL:
            return (0, 1)
        return None if self.domain is None else tuple(self.encode(value) for value in self.domain)

    @cached_property
    def range(self) -> tuple[int, int] | None:
        """Smallest and largest integer it can hold, from bounds or domain; None if neither is declared."""
        if self.minimum is not None and self.maximum is not None:
            return self.encode(self.minimum), self.encode(self.maximum)
        return (min(self.codes), max(self.codes)) if self.codes else None

    @cached_property
    def domain_labels(self) -> tuple[str, ...]:
        """The domain as shown to people, in the order of `codes`."""
        return ("false", "true") if self.type is ColumnType.BOOL else self.domain or ()

    def encode(self, text: str) -> int:
        """The integer of a public value written as text: a bound, a domain value, a literal of a question.

        Raises UnknownCategory for a category outside the domain and ValueError for text of another type;
        the text is a public one, never a row's.
        """
        match self.type:
            case ColumnType.INT:
                return _whole(Fraction(_decimal(text)))
            case ColumnType.DECIMAL:
                return _whole(Fraction(_decimal(text)) / self.step)
            case ColumnType.CATEGORY:
                domain = self.domain or ()
                if text not in domain:
                    raise UnknownCategory(value=text, column=self.name, nearest=nearest(text, domain))
                return domain.index(text)
            case ColumnType.BOOL:
                return {"false": 0, "true": 1}[text]
            case ColumnType.DATE:
                return days_since_epoch(date.fromisoformat(text))
            case ColumnType.TIMESTAMP:
                return microseconds_since_epoch(datetime.fromisoformat(text))

    @model_validator(mode="after")
    def _check(self) -> Self:
        problem = _column_problem(self)
        if problem:
            raise ValueError(problem)
        return self


def _decimal(text: str) -> Decimal:
    """Digits, and perhaps a point: an exponent would make a short text a very large number."""
    if len(text) > MAX_NUMBER or not PLAIN_DECIMAL.fullmatch(text):
        raise ValueError("not a plain decimal number")
    return Decimal(text)


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError("not a multiple of the resolution")
    return value.numerator


def days_since_epoch(day: date) -> int:
    return (day - EPOCH).days


def microseconds_since_epoch(instant: datetime) -> int:
    """Microseconds since 1970-01-01 UTC; a time without a zone counts as UTC."""
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return (aware - EPOCH_INSTANT) // MICROSECOND


def _column_problem(column: Column) -> str | None:
    """The first thing that makes a column unusable, in words for the schema's author."""
    if column.type is ColumnType.CATEGORY and not column.domain:
        return f"{column.name}: a category needs its domain"
    if column.type is ColumnType.BOOL and column.domain is not None:
        return f"{column.name}: a bool's domain is always false, true"
    if (column.resolution is not None) != (column.type is ColumnType.DECIMAL):
        return f"{column.name}: a decimal needs a resolution, such as 0.01, and only a decimal has one"
    if column.type in (ColumnType.CATEGORY, ColumnType.BOOL) and (column.minimum or column.maximum):
        return f"{column.name}: a {column.type} has no minimum or maximum"
    if (column.minimum is None) != (column.maximum is None):
        return f"{column.name}: minimum and maximum go together"
    if column.shares is not None and not _are_shares(column.shares, len(column.domain_labels)):
        return f"{column.name}: shares are numbers, one for each value of the domain, none below 0, not all 0"
    if column.domain is not None and not 1 <= len(column.domain) <= MAX_DOMAIN:
        return f"{column.name}: a domain has 1 to {MAX_DOMAIN} values"
    try:
        return _value_problem(column)
    except (ValueError, KeyError):
        return f"{column.name}: a bound, resolution or domain value cannot be read as {column.type}"


def _are_shares(shares: tuple[str, ...], values: int) -> bool:
    try:
        numbers = [_decimal(share) for share in shares]
    except ValueError:
        return False
    return len(numbers) == values and min(numbers, default=Decimal(-1)) >= 0 and sum(numbers) > 0


def _value_problem(column: Column) -> str | None:
    if column.resolution is not None and _decimal(column.resolution) <= 0:
        return f"{column.name}: a resolution is greater than zero"
    codes, limits = column.codes, column.range
    if codes is not None and len(set(codes)) != len(codes):
        return f"{column.name}: a domain value appears twice"
    if column.type is ColumnType.CATEGORY and len(set(column.domain or ())) != len(column.domain or ()):
        return f"{column.name}: a domain value appears twice"
    if limits is None:
        return None
    low, high = limits
    if low > high:
        return f"{column.name}: the minimum is above the maximum"
    if max(abs(low), abs(high)).bit_length() > INTEGER_BITS:
        return f"{column.name}: bounds beyond {INTEGER_BITS} bits in units of the resolution"
    if codes is not None and not all(low <= code <= high for code in codes):
        return f"{column.name}: a domain value lies outside minimum and maximum"
    return None


class Identifier(Document):
    """A column of the source by which a subject is found again at other holders. It is never queryable."""

    column: FieldName
    kind: IdentifierKind


class Schema(Document):
    """A table's columns, versioned. Its digest is what members agree on."""

    table: TableName
    version: int = 1
    title: Text = ""
    subject_key: Text | None = None
    """The source's column that identifies the person or firm; never queryable. None: each row its own subject."""
    max_holders_per_subject: Annotated[int, Field(ge=1, le=MAX_HOLDERS_PER_SUBJECT)] = 1
    """At how many holders one subject may appear. Holders count their subjects apart, so the smallest cohort that is
    released, and what one subject can add to a sum, are multiplied by it."""
    identifiers: Annotated[tuple[Identifier, ...], Field(exclude_if=lambda declared: not declared)] = ()
    """What the subject key holds, and other columns that have at most one value for each subject and belong to no
    other. A subject key that is not among them is taken as it is, and no table is joined by it. Left out of the bytes
    where there are none: the digests of other schemas do not depend on it."""
    columns: tuple[Column, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [column.name for column in self.columns]
        if not names:
            raise ValueError("a schema has at least one column")
        if len({name.casefold() for name in names}) != len(names):
            raise ValueError("two columns have the same name")
        if self.subject_key in names:
            raise ValueError("the subject key identifies people, so it cannot be a column to compute with")
        if self.identifiers:
            self._check_identifiers({name.casefold() for name in names})
        return self

    def _check_identifiers(self, columns: set[str]) -> None:
        names = [one.column.casefold() for one in self.identifiers]
        if len(set(names)) != len(names):
            raise ValueError("an identifier is declared twice")
        if columns & set(names):
            raise ValueError("an identifier identifies people, so it cannot be a column to compute with")
        if self.subject_key is None:
            raise ValueError("identifiers need a subject_key, whose subjects they identify")

    @cached_property
    def by_name(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def column(self, name: str) -> Column:
        """Raises UnknownColumn, which names the nearest one."""
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownColumn(table=self.table, column=name, nearest=nearest(name, self.by_name)) from None

    def identifier(self, column: str) -> Identifier:
        """Raises NotAnIdentifier."""
        for declared in self.identifiers:
            if declared.column == column:
                return declared
        raise NotAnIdentifier(column=column, table=self.table)

    @property
    def identifier_columns(self) -> tuple[str, ...]:
        """Those that subjects can be linked by."""
        return tuple(one.column for one in self.identifiers)

    @cached_property
    def subject_kind(self) -> IdentifierKind | None:
        """What the subject key holds, if that is declared."""
        return next((one.kind for one in self.identifiers if one.column == self.subject_key), None)

    @classmethod
    def parse_pinned(cls, body: bytes, digest: str) -> Self:
        """The schema with this digest, which is compared before anything in the bytes is believed.

        Raises ManifestMismatch, MalformedDocument.
        """
        if digest_of(cls, body) != digest:
            raise ManifestMismatch(problem="a schema is not the one that the roster pins")
        return cls.parse(body)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """A schema as people write it (TOML, JSON): numbers and dates may stand unquoted. Raises BadSchema."""
        table = str(plain.get("table", "?"))
        try:
            return cls.model_validate_json(canonical_json(_as_text(plain)))
        except ValueError as error:
            raise BadSchema(table=table, problem=_first_problem(error), hint=SCHEMA_HINT) from None
        except MalformedDocument as error:
            raise BadSchema(table=table, problem=error.fields["problem"], hint=SCHEMA_HINT) from None


SCHEMA_HINT = "docs/schema.md describes every field, with an example."
_TEXT_FIELDS = {"minimum", "maximum", "resolution"}
_TEXT_LISTS = {"domain", "missing_codes", "shares"}


def plain_text(value: object) -> str:
    """A public value as the text that `Column.encode` reads."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return str(value)


def _as_text(plain: Mapping[str, Any]) -> dict[str, Any]:
    columns = []
    for column in plain.get("columns", ()):
        fixed = dict(column)
        for name in _TEXT_FIELDS & fixed.keys():
            if fixed[name] is not None:
                fixed[name] = plain_text(fixed[name])
        for name in _TEXT_LISTS & fixed.keys():
            if fixed[name] is not None:
                fixed[name] = [plain_text(value) for value in fixed[name]]
        columns.append(fixed)
    return {**plain, "columns": columns}


def _first_problem(error: ValueError) -> str:
    """The first complaint of a pydantic ValidationError, in words."""
    details = getattr(error, "errors", None)
    if details is None:
        return "a value is not JSON"
    first = details()[0]
    where = ".".join(str(step) for step in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
