"""Expressions over rows: WHERE, and the arguments of groups and aggregates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NoReturn

from sqlglot import exp

from ceiba.sql.dates import MAX_SPANS, MONTHS, parts_of
from ceiba.sql.expressions import Reader, bare, branches_of, if_parts, otherwise_of
from ceiba.sql.functions import FUNCTIONS, spelt_out
from ceiba.sql.refusals import FUNCTION_HINTS, NO_ROWS, Refusal
from ceiba.sql.source import Source, written
from ceiba.statistics import only_rows, statistic
from ceiba.terms import Grouping, Term, case, col, date_trunc, grouping, is_groupable, python_value, split, width_bucket
from ceiba_protocol.errors import UnknownTable
from ceiba_protocol.expression import Kind, lower, lower_sum, number
from ceiba_protocol.schema import ColumnType, Schema, nearest
from ceiba_protocol.statistics import STATISTICS, Statistic
from ceiba_protocol.statistics.quantile import Quantile
from ceiba_protocol.statistics.subjects import Subjects

AGGREGATES = {name.upper() for kind in STATISTICS.values() for name in kind.sql}
"""SQL functions that are statistics."""
MOST_EXACT_BINS, BINS = 200, 100
"""A quantile has a bin for each possible value if these are at most so many; otherwise so many bins."""
DATE_PARTS = {*(part.upper() for part in MONTHS), "DATE_PART", "DATEPART"}
SUBJECT_NAME = "subject"
"""What COUNT(DISTINCT subject) counts: the people or firms behind the rows, whose key has no name in a question."""


def function_name(node: exp.Expr) -> str:
    return node.name.upper()


def unknown_function(source: Source, node: exp.Anonymous) -> NoReturn:
    name = function_name(node)
    known = sorted(AGGREGATES | FUNCTIONS | DATE_PARTS | {"ROUND", "SPLIT", "WIDTH_BUCKET", "DATE_TRUNC"})
    hint = FUNCTION_HINTS.get(name, f"The nearest that there is: {nearest(name, known)}.")
    source.refuse(node, Refusal(f"The function {name}", hint))


class RowReader(Reader):
    """Expressions over rows: WHERE, and the arguments of groups and aggregates."""

    def __init__(self, source: Source, schema: Schema, table_names: set[str]) -> None:
        super().__init__(source)
        self.schema = schema
        self.table_names = table_names
        self.columns = {name.casefold(): name for name in schema.by_name}

    def column_name(self, node: exp.Column) -> str:
        """The column as the schema spells it; SQL names ignore case. Raises UnknownColumn, UnknownTable."""
        if type(node.this) is exp.Star:
            self.source.refuse(node.this)
        table = ".".join(part.name for part in node.parts[:-1]).casefold()
        if table and table not in self.table_names:
            raise UnknownTable(table=table, nearest=nearest(table, self.table_names))
        return self.columns.get(node.name.casefold()) or self.schema.column(node.name).name

    def column(self, node: exp.Column) -> Term:
        return col(self.column_name(node))

    def call(self, node: exp.Anonymous) -> Term:
        name = function_name(node)
        if name == "ROUND":
            return self.rounding(node)
        if name == "SPLIT":
            return self.split(node)
        if name in DATE_PARTS:
            return self.date_part(node)
        spelt = spelt_out(self, node)
        if spelt is not None:
            return spelt
        if name in AGGREGATES:
            hint = "Aggregates stand in SELECT, HAVING and ORDER BY, not inside one another or in WHERE."
            self.source.refuse(node, Refusal(f"The aggregate {name} here", hint))
        if name in GROUPINGS:
            hint = "It makes groups: use it in GROUP BY."
            self.source.refuse(node, Refusal(f"The function {name} here", hint))
        return unknown_function(self.source, node)

    def split(self, node: exp.Anonymous) -> Term:
        """SPLIT('seed', parts)."""
        given: list[Any] = [python_value(self.term(part)) for part in node.expressions]
        if [type(one) for one in given] != [str, int]:
            self.source.bad(node, "SPLIT takes a seed in quotes and the number of parts")
        return split(*given)

    def aggregate(self, node: exp.Expr) -> tuple[Statistic, str]:
        """AVG(x) and its like: the statistic that has the SQL name, and the column title that DuckDB gives it."""
        if type(node) is exp.Filter:
            made, title = self.aggregate(node.this)
            condition = self.term(node.expression.this)
            if isinstance(made, Subjects):
                hint = "Subjects are counted over whole rows: put the condition into WHERE."
                self.source.refuse(node, Refusal("FILTER with COUNT(DISTINCT subject)", hint, "FILTER"))
            return only_rows(made, condition.expression), f"{title} FILTER (WHERE {condition!r})"
        name = function_name(node).lower()
        if name == "count" and all(_is_plain_star(part) for part in node.expressions):
            return statistic("count")(), "count_star()"
        if name == "count" and self._is_distinct_subject(node):
            return statistic("subjects")(), f"count(DISTINCT {SUBJECT_NAME})"
        terms = [self.term(part) for part in node.expressions]
        made = self._quantile(node, name, terms) if name.upper() in Quantile.sql else statistic(name)(*terms)
        return made, f"{name}({', '.join(map(repr, terms))})"

    def _quantile(self, node: exp.Expr, name: str, terms: list[Term]) -> Statistic:
        """MEDIAN(x) and APPROX_QUANTILE(x, q); then perhaps a number of bins over x's declared bounds, or low, high and
        the number of bins between them."""
        needed = 1 if Quantile.sql[name.upper()] else 2
        bounds = terms[needed:]
        if len(terms) < needed or len(bounds) not in (0, 1, 3):
            values = "a value" if needed == 1 else "a value and a share"
            self.source.bad(node, f"{name.upper()} takes {values}, then perhaps (low, high and) a number of bins")
        if len(bounds) == 3:
            return statistic(name)(*terms)
        wanted = python_value(bounds[0]) if bounds else None
        if bounds and (not isinstance(wanted, int) or wanted < 1):
            self.source.bad(node, "the number of bins is a whole number from 1 on")
        try:
            low, high, bins = self._bins_of(terms[0], wanted)  # type: ignore[arg-type]
        except ValueError:
            self.source.refuse(node, Refusal(f"{name.upper()} of what is no decimal number", "Use ROUND(x, digits)."))
        return statistic(name)(*terms[:needed], low=low, high=high, bins=bins, inside=True)

    def _bins_of(self, value: Term, wanted: int | None) -> tuple[Term, Term, int]:
        """Low, high and the number of bins for all values that the declared bounds allow: one for each if these are
        few, or else at most `wanted`, each for equally many of them. Raises WrongType, UnboundedColumn."""
        lowered = lower_sum(value.expression, self.schema)
        values = lowered.node.high - lowered.node.low + 1
        in_one = -(-values // (wanted or (values if values <= MOST_EXACT_BINS else BINS)))
        bins = -(-values // in_one)
        low = lowered.step * (lowered.node.low - Fraction(1, 2))
        return Term(number(low)), Term(number(low + lowered.step * in_one * bins)), bins

    def _is_distinct_subject(self, node: exp.Expr) -> bool:
        """Whether the argument is DISTINCT subject, and no column of the table has that name."""
        match node.expressions:
            case [exp.Distinct(expressions=[exp.Column(parts=[name])], args=args)] if not args.get("on"):
                return name.name.casefold() == SUBJECT_NAME and SUBJECT_NAME not in self.columns
        return False

    def grouping(self, node: exp.Expr) -> Grouping:
        """A grouping key: a column, a condition, width_bucket, date_trunc, a part of a date, or labels."""
        node = bare(node)
        if type(node) is exp.Anonymous and function_name(node) in GROUPINGS:
            return GROUPINGS[function_name(node)](self, node)
        if is_date_part(node):
            return self._date_part_groups(node)
        labels = self._labelled(node)
        if labels is not None:
            return labels
        term = self.term(node)
        if not is_groupable(term.expression):
            hint = f"{NO_ROWS} For groups use width_bucket(x, low, high, count)."
            self.source.refuse(node, Refusal("A computed value outside an aggregate", hint))
        return grouping(term)

    def _labelled(self, node: exp.Expr) -> Grouping | None:
        """CASE and IF with labels; COALESCE and NULLIF of a column with a domain."""
        match node:
            case exp.Case():
                branches, otherwise = branches_of(self, node), otherwise_of(self, node)
            case exp.If():
                branches, otherwise = if_parts(self, node)
            case exp.Anonymous():
                branches, otherwise = self._texts(node) or ([], None)
            case _:
                return None
        made = case(*branches, otherwise=otherwise) if branches else None
        return replace(made, written=written(node)) if isinstance(made, Grouping) else None

    def _texts(self, node: exp.Expr) -> tuple[list[tuple[Term, str]], str | None] | None:
        """A text as conditions with the value that each gives it, and what it is otherwise; None if it is no text."""
        match bare(node):
            case exp.Literal(is_string=True, this=text):
                return [], text
            case exp.Column() as column:
                labels = self.labels(column)
                return None if labels is None else ([(self.column(column) == label, label) for label in labels], None)
            case exp.Anonymous(expressions=[value, exp.Literal(is_string=True, this=without)]) as call if (
                function_name(call) == "NULLIF"
            ):
                found = self._texts(value)
                return found and ([pair for pair in found[0] if pair[1] != without], None)
            case exp.Anonymous(expressions=parts) as call if function_name(call) in ("COALESCE", "IFNULL"):
                return self._first_text(parts)
        return None

    def _first_text(self, parts: list[exp.Expr]) -> tuple[list[tuple[Term, str]], str | None] | None:
        branches: list[tuple[Term, str]] = []
        for part in parts:
            found = self._texts(part)
            if found is None:
                return None
            branches += found[0]
            if found[1] is not None:
                return branches, found[1]
        return branches, None

    def labels(self, node: exp.Expr) -> tuple[str, ...] | None:
        if type(node) is not exp.Column:
            return None
        column = self.schema.column(self.column_name(node))
        return column.domain if column.type is ColumnType.CATEGORY else None

    def are_conditions(self, terms: Sequence[Term]) -> bool:
        return all(lower(term.expression, self.schema).kind is Kind.TRUTH for term in terms)

    # parts of dates

    def date_part(self, node: exp.Expr) -> Term:
        return case(*self._parts(node))

    def _date_part_groups(self, node: exp.Expr) -> Grouping:
        made = case(*((condition, str(number)) for condition, number in self._parts(node)))
        return replace(made, written=written(node).lower(), numeric=True)

    def _parts(self, node: exp.Expr) -> list[tuple[Term, int]]:
        part, column = self._date_part_words(node)
        if part not in MONTHS:
            hint = f"The parts are {', '.join(MONTHS)}; for days, group by date_trunc('day', column)."
            self.source.refuse(node, Refusal(f"The part {part.upper()} of a date", hint))
        if type(column) is not exp.Column:
            self.source.refuse(node, Refusal("A part of a computed date", "Give it a column."))
        found = parts_of(self.schema.column(self.column_name(column)), part)
        if found is None:
            hint = f"The column's bounds allow more than {MAX_SPANS} of them: use a longer part, or group by year."
            self.source.refuse(node, Refusal(f"{part.upper()} over so long a time", hint))
        return found

    def _date_part_words(self, node: exp.Expr) -> tuple[str, exp.Expr]:
        """The part's name in lower case, and what it is a part of."""
        if type(node) is exp.Extract:
            return node.name.lower(), bare(node.expression)
        wanted, parts = function_name(node).lower(), node.expressions
        if len(parts) != (1 if wanted in MONTHS else 2):
            self.source.bad(node, f"{wanted} takes {'a column' if wanted in MONTHS else 'a part and a column'}")
        return (wanted, bare(parts[0])) if wanted in MONTHS else (bare(parts[0]).name.lower(), bare(parts[1]))


def is_date_part(node: exp.Expr) -> bool:
    return type(node) is exp.Extract or (type(node) is exp.Anonymous and function_name(node) in DATE_PARTS)


def _is_plain_star(node: exp.Expr) -> bool:
    return type(node) is exp.Star and not any(node.args.values())


def _width_bucket(reader: RowReader, node: exp.Anonymous) -> Grouping:
    if len(node.expressions) != 4:
        reader.source.bad(node, "width_bucket takes a value, low, high and the number of bins")
    value, *options = (reader.term(part) for part in node.expressions)
    low, high, count = map(python_value, options)
    return width_bucket(value, low, high, count)  # type: ignore[arg-type]


def _date_trunc(reader: RowReader, node: exp.Anonymous) -> Grouping:
    if len(node.expressions) != 2:
        reader.source.bad(node, "date_trunc takes a unit and a column")
    unit, column = (reader.term(part) for part in node.expressions)
    return date_trunc(str(python_value(unit)), column)


GROUPINGS = {"WIDTH_BUCKET": _width_bucket, "DATE_TRUNC": _date_trunc}
