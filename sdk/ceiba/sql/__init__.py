"""SQL, read into the same plans that the Python API builds.

`parse` understands one SELECT over one table: groups, aggregates, WHERE, HAVING, ORDER BY, LIMIT. sqlglot makes the
tree; each node is looked up by its exact class in a closed table, and whatever is not in it is refused by name, with
its place in the text. No text of the merchant ever becomes SQL again: a holder renders its own from the plan.

Import this package when it is needed: sqlglot takes a while to load.
"""

from collections.abc import Sequence

from ceiba.presentation import Presentation
from ceiba.sql.question import Question, SchemaOf
from ceiba.sql.source import Source
from ceiba.terms import MAX_NESTING
from ceiba_protocol.errors import PlanTooLarge
from ceiba_protocol.plan import Plan

__all__ = ["SchemaOf", "parse"]


def parse(sql: str, schema_of: SchemaOf, values: Sequence[object] | None = None) -> tuple[Plan, Presentation]:
    """The plan of a question in SQL, and how its result is shown. `values` stand for its `?`, if it may have some.

    Raises BadSQL for what is no SQL, UnsupportedSQL for what is not in the subset, UnknownTable, UnknownColumn, and
    the errors of the Python API. Types are checked when the plan is compiled.
    """
    try:
        source = Source.read(sql, values)
        return Question(source, schema_of).read()
    except RecursionError:
        raise PlanTooLarge(what="nesting", limit=MAX_NESTING) from None
