"""One SELECT on its way into a plan: the items, the groups, and what refers to both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any, NamedTuple, NoReturn

from sqlglot import exp

from ceiba.presentation import Order, Presentation, Shown
from ceiba.sql.expressions import Reader, bare
from ceiba.sql.functions import spelt_out
from ceiba.sql.grouping_sets import grouping_sets
from ceiba.sql.refusals import NO_ROWS, Refusal
from ceiba.sql.rows import AGGREGATES, DATE_PARTS, GROUPINGS, RowReader, function_name, unknown_function
from ceiba.sql.source import Source, written
from ceiba.statistics import statistic
from ceiba.terms import Grouping, Term, built, col, expression_of, literal, plan_name, require_shallow
from ceiba_protocol.expression import Branch, Case, ColumnValue, Expression
from ceiba_protocol.plan import ByCase, ByColumn, Named, Plan
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.subjects import Subjects

SchemaOf = Callable[[str], Schema]
"""The schema of a table by its name; raises UnknownTable."""


class _Item(NamedTuple):
    """One entry of the SELECT list."""

    node: exp.Expr
    alias: str


GROUPING = ("GROUPING", "GROUPING_ID")
_CLAUSES = {"expressions", "from_", "where", "group", "having", "order", "limit", "offset"}


class Question:
    """One SELECT on its way into a plan: first the items, then the groups, then what refers to both."""

    def __init__(self, source: Source, schema_of: SchemaOf) -> None:
        self.source = source
        self.select = source.select
        self._require_known_clauses()
        self.schema, names = self._table(schema_of)
        self.rows = RowReader(source, self.schema, names)
        self.items = [_Item(bare(node.unalias()), _alias(node)) for node in self.select.expressions]
        self.keys: list[Grouping] = []
        self.spelled: list[tuple[exp.Expr, str]] = []
        """Computed groups as they were written, with their names in the plan."""
        self.sets: list[frozenset[str]] = [frozenset()]
        """The groups that rows are about: with ROLLUP, CUBE and GROUPING SETS there are several such sets."""
        self.marks: dict[str, str] = {}
        """What GROUPING(a) reads, by the group's name."""
        self.outputs: list[Named] = []

    def read(self) -> tuple[Plan, Presentation]:
        if not self.items:
            self.source.bad(self.select, "the SELECT list is empty")
        where = self.select.args.get("where")
        condition = None if where is None else self.rows.term(where.this).expression
        self._read_groups()
        shown = _distinct_titles([self._shown(item) for item in self.items])
        presentation = Presentation(
            shown=shown,
            having=self._having(shown),
            order=self._order(shown),
            limit=self._whole_number("limit"),
            offset=self._whole_number("offset") or 0,
            numeric=frozenset(key.key.name for key in self.keys if key.numeric),
            sets=self._groupings(),
            marks=tuple(self.marks.items()),
        )
        if not self.outputs:
            self.output(statistic("count")(), "count_star()", "")
        plan = built(
            Plan,
            table=self.schema.table,
            schema_digest=self.schema.digest(),
            filter=condition,
            groups=tuple(key.key for key in self.keys),
            outputs=tuple(self.outputs),
        )
        return plan, presentation

    def _require_known_clauses(self) -> None:
        for name, clause in self.select.args.items():
            if clause and name not in _CLAUSES:
                first = clause[0] if isinstance(clause, list) else clause
                known = isinstance(first, exp.Expr)
                word = name.strip("_").upper()
                self.source.refuse(first if known else self.select, None if known else Refusal(word, word=word))

    def _table(self, schema_of: SchemaOf) -> tuple[Schema, set[str]]:
        """The one table, and the names by which its columns may be qualified."""
        clause = self.select.args.get("from_")
        if clause is None:
            self.source.bad(self.select, "there is no FROM")
        table = clause.this
        if type(table) is not exp.Table:
            self.source.refuse(table)
        for name, part in table.args.items():
            if part and name not in ("this", "db", "catalog", "alias"):
                first = part[0] if isinstance(part, list) else part
                self.source.refuse(first if isinstance(first, exp.Expr) else table)
        if type(table.this) is not exp.Identifier or table.alias_column_names:
            self.source.refuse(
                table, Refusal("A table function or renamed columns", "Name one table of the catalogue.")
            )
        name = ".".join(part.name for part in table.parts).lower()
        schema = schema_of(name)
        return schema, {(table.alias or table.name).casefold(), *([] if table.alias else [name.casefold()])}

    # groups

    def _read_groups(self) -> None:
        group = self.select.args.get("group")
        if group is None:
            return
        for name, part in group.args.items():
            if part and name not in ("expressions", "all"):
                self.source.refuse(part[0] if isinstance(part, list) else group)
        nodes = [item.node for item in self.items if not _needs_result(item.node)] if group.args.get("all") else []
        self.sets = grouping_sets([*nodes, *group.expressions], lambda node: self._add_key(self._referred(node)))

    def _referred(self, node: exp.Expr) -> exp.Expr:
        """The item that a GROUP BY entry names by number or by alias, or the entry itself; columns go first."""
        node = bare(node)
        if type(node) is exp.Literal and not node.is_string:
            return self._numbered(node).node
        if type(node) is exp.Column and not node.table and node.name.casefold() not in self.rows.columns:
            aliased = [item.node for item in self.items if item.alias.casefold() == node.name.casefold()]
            return aliased[0] if aliased else node
        return node

    def _numbered(self, node: exp.Literal) -> _Item:
        number = node.this
        if not number.isdecimal() or not 1 <= int(number) <= len(self.items):
            self.source.bad(node, f"there is no item {number} in the SELECT list")
        return self.items[int(number) - 1]

    def _add_key(self, node: exp.Expr) -> str:
        """The name of a group, which is one of the plan's from now on."""
        if _needs_result(node):
            self.source.refuse(node, Refusal("An aggregate in GROUP BY", "Group by columns, bins or conditions."))
        key = self.rows.grouping(node)
        known = self._key_like(key)
        if known is None:
            aliases = [item.alias for item in self.items if item.alias and self._makes(item, key)]
            known = key.alias(self._free_name(aliases[0] if aliases else key.key.name))
            self.keys.append(known)
            if type(node) is not exp.Column:
                self.spelled.append((node, known.key.name))
        return known.key.name

    def mark(self, group: str) -> str:
        """The name under which finished rows say whether they are totals over this group."""
        return self.marks.setdefault(group, self._free_name(f"grouping_{group}"))

    def _groupings(self) -> tuple[frozenset[str], ...]:
        """The groups that each row is about; none if that is all of them, as without ROLLUP and its like."""
        if self.sets == [frozenset(key.key.name for key in self.keys)]:
            return ()
        if any(isinstance(output.statistic, Subjects) for output in self.outputs):
            hint = "Who is in several groups would count several times: ask for it in a question with other groups."
            self.source.refuse(
                self.select.args["group"], Refusal("COUNT(DISTINCT subject) with totals", hint, "GROUP BY")
            )
        return tuple(self.sets)

    def _makes(self, item: _Item, key: Grouping) -> bool:
        return not _needs_result(item.node) and self.rows.grouping(item.node).same_groups(key)

    def _key_like(self, wanted: Grouping) -> Grouping | None:
        return next((key for key in self.keys if key.same_groups(wanted)), None)

    # items

    def _shown(self, item: _Item) -> Shown:
        """An item as a column of the result, which the plan computes from now on."""
        node = item.node
        if _is_aggregate(node):
            made, title = self.rows.aggregate(node)
            return Shown.plain(self.output(made, title, item.alias), item.alias or title)
        if _needs_result(node) or self._is_over_groups(node):
            computed = ReleasedReader(self, None, aliases_first=False).term(node).expression
            require_shallow(computed)
            return Shown(computed, item.alias or written(node))
        wanted = self.rows.grouping(node)
        key = self._key_like(wanted)
        if key is None:
            self.source.refuse(node, Refusal(f"{wanted.title} outside GROUP BY", NO_ROWS))
        return Shown.plain(key.key.name, item.alias or wanted.title)

    def _is_over_groups(self, node: exp.Expr) -> bool:
        """Whether it is computed from columns that are groups, and is no group itself."""
        grouped = {key.key.column for key in self.keys if isinstance(key.key, ByColumn)}
        if type(node) is exp.Column or any(node == spelled for spelled, _ in self.spelled):
            return False
        names = {self.rows.column_name(column) for column in node.find_all(exp.Column)}
        return bool(names) and names <= grouped

    def output(self, made: Statistic, title: str, alias: str) -> str:
        """The plan's name for a statistic; one that is there already is not asked for twice."""
        same = [output.name for output in self.outputs if output.statistic == made]
        if same and not alias:
            return same[0]
        name = self._free_name(alias or title)
        self.outputs.append(built(Named, name=name, statistic=made))
        return name

    def _free_name(self, title: str) -> str:
        names = [part.name for part in (*(key.key for key in self.keys), *self.outputs)]
        taken = {*names, *self.marks.values()}
        return _first_free(plan_name(title), taken, first=2)

    # what refers to the result

    def _having(self, shown: tuple[Shown, ...]) -> Expression | None:
        having = self.select.args.get("having")
        return None if having is None else ReleasedReader(self, shown, aliases_first=False).term(having.this).expression

    def _order(self, shown: tuple[Shown, ...]) -> tuple[Order, ...]:
        order = self.select.args.get("order")
        return tuple(self._ordered(one, shown) for one in order.expressions) if order is not None else ()

    def _ordered(self, node: exp.Ordered, shown: tuple[Shown, ...]) -> Order:
        if node.args.get("with_fill"):
            self.source.refuse(node, Refusal("WITH FILL", word="FILL"))
        by = node.this
        if type(by) is exp.Literal and not by.is_string:
            place = self.items.index(self._numbered(by))
            expression = shown[place].expression
        else:
            expression = ReleasedReader(self, shown, aliases_first=True).term(by).expression
        return Order(expression, bool(node.args.get("desc")), bool(node.args.get("nulls_first")))

    def _whole_number(self, clause: str) -> int | None:
        node = self.select.args.get(clause)
        if node is None:
            return None
        if type(node) is exp.Fetch:
            self.source.refuse(node)
        if node.args.get("limit_options"):
            self.source.refuse(node, Refusal("A share of the rows", "Write a number of rows.", clause.upper()))
        number = node.expression
        if type(number) is not exp.Literal or not number.this.isdecimal():
            self.source.refuse(node, Refusal(f"A computed {clause.upper()}", "Write a whole number.", clause.upper()))
        return int(number.this)


class ReleasedReader(Reader):
    """Expressions over the result: SELECT and HAVING, where columns go before aliases, and ORDER BY, where aliases do.

    An aggregate that is not selected is asked for and hidden.
    """

    def __init__(self, question: Question, shown: tuple[Shown, ...] | None, *, aliases_first: bool) -> None:
        """`shown`: one for each item, or None while the items are read."""
        super().__init__(question.source)
        self.question = question
        keys = [key.key for key in question.keys if isinstance(key.key, ByColumn)]
        items = [] if shown is None else zip(question.items, shown, strict=True)
        self.grouped = {key.column.casefold(): col(key.name) for key in keys}
        aliases = {item.alias.casefold(): Term(column.expression) for item, column in items if item.alias}
        self.names = self.grouped | aliases if aliases_first else aliases | self.grouped

    def term(self, node: exp.Expr) -> Term:
        """A group that is spelled out again, as in ORDER BY date_trunc('month', visited), is that group's label."""
        spelled = [name for key, name in self.question.spelled if key == node]
        if spelled:
            return col(spelled[0])
        if _is_aggregate(node):
            return col(self.question.output(*self.question.rows.aggregate(node), ""))
        return super().term(node)

    def column(self, node: exp.Column) -> Term:
        if not node.table and node.name.casefold() in self.names:
            return self.names[node.name.casefold()]
        column = self.question.rows.column_name(node)
        if column.casefold() in self.grouped:
            return self.grouped[column.casefold()]
        return self.source.refuse(node, Refusal(f"{column} outside GROUP BY", NO_ROWS))

    def chosen(self, node: exp.Expr, branches: list[Any], otherwise: Any) -> Term:
        """On finished rows, a CASE may give text."""
        arms = tuple(Branch(when=expression_of(when), then=expression_of(then)) for when, then in branches)
        return Term(Case(branches=arms, otherwise=None if otherwise is None else expression_of(otherwise)))

    def call(self, node: exp.Anonymous) -> Term:
        if function_name(node) == "ROUND":
            return self.rounding(node)
        if function_name(node) in GROUPING:
            return self._grouping(node)
        if function_name(node) in GROUPINGS:
            self._refuse_group(node, f"The function {function_name(node)}")
        if function_name(node) in DATE_PARTS:
            return self.date_part(node)
        spelt = spelt_out(self, node)
        return unknown_function(self.source, node) if spelt is None else spelt

    def _grouping(self, node: exp.Anonymous) -> Term:
        """GROUPING(a, b): a bit for each group, the last one for the last, 1 where the row is a total over it."""
        if not node.expressions:
            self.source.bad(node, "GROUPING takes groups")
        groups = {key.key.name for key in self.question.keys}
        made = Term(literal(0))
        for part in node.expressions:
            read = self.term(part).expression
            if not isinstance(read, ColumnValue) or read.name not in groups:
                self.source.refuse(part, Refusal("GROUPING of no group", "Give it what stands in GROUP BY."))
            mark = col(self.question.mark(read.name))
            made = mark if part is node.expressions[0] else made * 2 + mark
        return made

    def date_part(self, node: exp.Expr) -> Term:
        self._refuse_group(node, "A part of a date")

    def _refuse_group(self, node: exp.Expr, what: str) -> NoReturn:
        self.source.refuse(node, Refusal(f"{what} here", "Group by it, give it an alias in SELECT, and use the alias."))

    def are_conditions(self, terms: Sequence[Term]) -> bool:
        """On finished rows, CASE gives truth values as they are."""
        return False

    def labels(self, node: exp.Expr) -> tuple[str, ...] | None:
        """Of a group, under its own name or an alias."""
        if type(node) is not exp.Column:
            return None
        group = self.column(node).expression
        keys = [one.key for one in self.question.keys if ColumnValue(name=one.key.name) == group and not one.numeric]
        match keys:
            case [ByCase(branches=branches, otherwise=otherwise)]:
                return (*(branch.label for branch in branches), *([] if otherwise is None else [otherwise]))
            case [ByColumn(column=name)]:
                return self.question.rows.schema.column(name).domain
        return None


def _is_aggregate(node: exp.Expr) -> bool:
    """AVG(x), or AVG(x) FILTER (WHERE …)."""
    call = node.this if type(node) is exp.Filter else node
    return type(call) is exp.Anonymous and function_name(call) in AGGREGATES


def _needs_result(node: exp.Expr) -> bool:
    """Whether it can only be computed from finished rows."""
    return any(_is_aggregate(part) or _is_grouping_call(part) for part in node.walk())


def _is_grouping_call(node: exp.Expr) -> bool:
    return type(node) is exp.Anonymous and function_name(node) in GROUPING


def _alias(node: exp.Expr) -> str:
    return node.alias if type(node) is exp.Alias else ""


def _first_free(name: str, taken: Collection[str], first: int) -> str:
    """`name`, or the name with the first free number after it if it is taken."""
    numbered = (f"{name[:58]}_{number}" for number in count(first))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _distinct_titles(shown: list[Shown]) -> tuple[Shown, ...]:
    """Titles that differ, as DuckDB makes them for data frames: a second `n` becomes `n_1`."""
    distinct: dict[str, Shown] = {}
    for column in shown:
        title = _first_free(column.title, distinct, first=1)
        distinct[title] = Shown(column.expression, title)
    return tuple(distinct.values())
