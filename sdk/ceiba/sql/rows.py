"""Expressions over rows: WHERE, and the arguments of groups and aggregates."""

from __future__ import annotations

from typing import Any, NoReturn

from sqlglot import exp

from ceiba.sql.expressions import Reader, bare, branches_of, otherwise_of
from ceiba.sql.refusals import FUNCTION_HINTS, NO_ROWS, Refusal
from ceiba.sql.source import Source
from ceiba.statistics import statistic
from ceiba.terms import Grouping, Term, case, col, date_trunc, grouping, is_groupable, python_value, split, width_bucket
from ceiba_protocol.errors import UnknownTable
from ceiba_protocol.schema import Schema, nearest
from ceiba_protocol.statistics import STATISTICS, Statistic

AGGREGATES = {name.upper() for kind in STATISTICS.values() for name in kind.sql}
"""SQL functions that are statistics."""
SUBJECT_NAME = "subject"
"""What COUNT(DISTINCT subject) counts: the people or firms behind the rows, whose key has no name in a question."""


def function_name(node: exp.Expr) -> str:
    return node.name.upper()


def unknown_function(source: Source, node: exp.Anonymous) -> NoReturn:
    name = function_name(node)
    known = sorted(AGGREGATES | {"ROUND", "SPLIT", "WIDTH_BUCKET", "DATE_TRUNC"})
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
        name = function_name(node).lower()
        if name == "count" and all(_is_plain_star(part) for part in node.expressions):
            return statistic("count")(), "count_star()"
        if name == "count" and self._is_distinct_subject(node):
            return statistic("subjects")(), f"count(DISTINCT {SUBJECT_NAME})"
        terms = [self.term(part) for part in node.expressions]
        return statistic(name)(*terms), f"{name}({', '.join(map(repr, terms))})"

    def _is_distinct_subject(self, node: exp.Expr) -> bool:
        """Whether the argument is DISTINCT subject, and no column of the table has that name."""
        match node.expressions:
            case [exp.Distinct(expressions=[exp.Column(parts=[name])], args=args)] if not args.get("on"):
                return name.name.casefold() == SUBJECT_NAME and SUBJECT_NAME not in self.columns
        return False

    def grouping(self, node: exp.Expr) -> Grouping:
        """A grouping key: a column, a condition, width_bucket, date_trunc, or CASE with labels."""
        node = bare(node)
        if type(node) is exp.Anonymous and function_name(node) in GROUPINGS:
            return GROUPINGS[function_name(node)](self, node)
        if type(node) is exp.Case:
            made = case(*branches_of(self, node), otherwise=otherwise_of(self, node))
            if isinstance(made, Grouping):
                return made
        term = self.term(node)
        if not is_groupable(term.expression):
            hint = f"{NO_ROWS} For groups use width_bucket(x, low, high, count)."
            self.source.refuse(node, Refusal("A computed value outside an aggregate", hint))
        return grouping(term)


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
