"""What is outside the subset of SQL, each with a better word for it than a parser's and a way out."""

from typing import NamedTuple

from sqlglot import exp

from ceiba.analyses.extremes import NO_EXTREMES


class Refusal(NamedTuple):
    """Why a construct is outside the subset; `word` is the keyword to point at."""

    construct: str
    hint: str = "The subset is described in docs/merchant.md."
    word: str = ""


ONE_TABLE = "Ask about one table; joining on persons would show who is in both."
NO_ROWS = "Rows are never released: group by it, or put it into an aggregate such as AVG."
QUANTILES = "Use MEDIAN(x) or APPROX_QUANTILE(x, q), which are read from bins."
READ_ONLY = "A question starts with SELECT."

PARAMETER = Refusal(
    "A parameter", "Write the value into the SQL, or give it: space.sql(text, [50]), with ? in its place."
)
_CONDITION = "Use comparisons, IN and BETWEEN; for patterns, IN with the values of the column's domain."
REFUSED: dict[type[exp.Expr], Refusal] = {
    exp.Subquery: Refusal("A subquery", ONE_TABLE, "SELECT"),
    exp.Select: Refusal("A subquery", ONE_TABLE, "SELECT"),
    exp.Exists: Refusal("EXISTS", ONE_TABLE, "EXISTS"),
    exp.Any: Refusal("ANY", ONE_TABLE, "ANY"),
    exp.All: Refusal("ALL", ONE_TABLE, "ALL"),
    exp.Union: Refusal("UNION", "Ask two questions.", "UNION"),
    exp.Intersect: Refusal("INTERSECT", "Ask two questions.", "INTERSECT"),
    exp.Except: Refusal("EXCEPT", "Ask two questions.", "EXCEPT"),
    exp.Window: Refusal("A window function", "Use GROUP BY.", "OVER"),
    exp.WithinGroup: Refusal("WITHIN GROUP", QUANTILES, "WITHIN"),
    exp.Distinct: Refusal("DISTINCT", "Counting distinct values needs each row's value; use GROUP BY.", "DISTINCT"),
    exp.Order: Refusal("ORDER BY inside a function", "Aggregates do not depend on an order.", "ORDER"),
    exp.Star: Refusal("*", NO_ROWS),
    exp.Placeholder: PARAMETER,
    exp.Parameter: PARAMETER,
    exp.SimilarTo: Refusal("SIMILAR TO", _CONDITION, "SIMILAR"),
    exp.Mod: Refusal("%", "Use +, -, *, / and ROUND.", "%"),
    exp.IntDiv: Refusal("//", "Use ROUND(a / b, digits).", "//"),
    exp.Pow: Refusal("A power", "Multiply the value by itself."),
    exp.DPipe: Refusal("||", "Texts are compared, never joined.", "||"),
    exp.Interval: Refusal("INTERVAL", "Write the date that you mean: DATE '2026-01-31'.", "INTERVAL"),
    exp.CurrentDate: Refusal("CURRENT_DATE", "Write the date that you mean: DATE '2026-01-31'.", "CURRENT_DATE"),
    exp.CurrentTimestamp: Refusal("CURRENT_TIMESTAMP", "Write the time that you mean.", "CURRENT_TIMESTAMP"),
    exp.Rollup: Refusal("ROLLUP here", "Write GROUP BY ROLLUP (a, b).", "ROLLUP"),
    exp.Cube: Refusal("CUBE here", "Write GROUP BY CUBE (a, b).", "CUBE"),
    exp.GroupingSets: Refusal("GROUPING SETS here", "Write GROUP BY GROUPING SETS ((a), ()).", "GROUPING SETS"),
    exp.Join: Refusal("A join", ONE_TABLE, "JOIN"),
    exp.Lateral: Refusal("LATERAL", ONE_TABLE, "LATERAL"),
    exp.TableSample: Refusal("A sample", "Every row counts.", "SAMPLE"),
    exp.Pivot: Refusal("PIVOT", "Pivot the result.", "PIVOT"),
    exp.Filter: Refusal("FILTER here", "It follows an aggregate: SUM(x) FILTER (WHERE condition).", "FILTER"),
    exp.Fetch: Refusal("FETCH", "Use LIMIT.", "FETCH"),
    exp.With: Refusal("WITH (a common table expression)", ONE_TABLE, "WITH"),
    exp.Qualify: Refusal("QUALIFY", "Use HAVING.", "QUALIFY"),
    exp.Into: Refusal("INTO", "Ceiba answers questions and changes nothing.", "INTO"),
    exp.Lock: Refusal("A lock", "Ceiba answers questions and changes nothing.", "FOR"),
    exp.Dot: Refusal("A qualified name of this kind", "Write column, table.column or schema.table.column."),
}
"""What people try, with a better word for it and a way out. Everything else is refused by its class's name."""

OTHER_STATEMENTS = {
    "WITH": Refusal("WITH (a common table expression)", ONE_TABLE),
    "FROM": Refusal("FROM before SELECT", READ_ONLY),
    "(": Refusal("A statement in parentheses", READ_ONLY),
}

FUNCTION_HINTS = dict.fromkeys(("MIN", "MAX", "FIRST", "LAST", "ANY_VALUE", "ARG_MIN", "ARG_MAX"), NO_EXTREMES)
FUNCTION_HINTS |= dict.fromkeys(("QUANTILE", "QUANTILE_CONT", "QUANTILE_DISC"), QUANTILES)
FUNCTION_HINTS |= dict.fromkeys(("PERCENTILE_CONT", "PERCENTILE_DISC"), QUANTILES) | {"MODE": NO_EXTREMES}
