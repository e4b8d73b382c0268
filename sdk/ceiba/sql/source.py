"""The text of a question in SQL: its tokens, its one statement, and places in it for errors to point at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import Token, TokenType

from ceiba.sql.parameters import with_values
from ceiba.sql.refusals import OTHER_STATEMENTS, PARAMETER, READ_ONLY, REFUSED, Refusal
from ceiba_protocol.errors import BadSQL, UnsupportedSQL

_IRREGULAR = {"CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM", "OVERLAY"}
"""Functions whose arguments are not a plain list."""


class CeibaSQL(DuckDB):
    """DuckDB's SQL, except that functions stay as they were written, with their arguments as a list."""

    class Parser(DuckDBParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser for name, parser in DuckDBParser.FUNCTION_PARSERS.items() if name in _IRREGULAR
        }


@dataclass(frozen=True)
class Source:
    """The SQL as typed, its tokens, and its one statement."""

    sql: str
    tokens: list[Token]
    select: exp.Select

    @classmethod
    def read(cls, sql: str, values: Sequence[object] | None = None) -> Source:
        """`values`: for the places marked `?`; None: there are no such places."""
        tokens = _tokenize(sql)
        if values is not None:
            tokens = with_values(tokens, values)
        _require_one_question(sql, tokens)
        try:
            statements = CeibaSQL().parser().parse(tokens, sql)
        except ParseError as error:
            raise _bad(sql, _start_of_error(error, tokens, sql), tokens) from None
        source = cls(sql, tokens, exp.Select())
        tree = statements[0]
        if type(tree) is not exp.Select:
            source.refuse(tree or exp.Select())
        return cls(sql, tokens, tree)

    def place(self, node: exp.Expr, word: str = "") -> tuple[int, int]:
        """Line and column of a node: of the keyword nearest to it if `word` is one, or else of its first token."""
        start = next((start for one in _outwards(node) for start in _starts(one)), 0)
        places = [token.start for token in self.tokens if word and token.text.upper() == word]
        return line_and_column(self.sql, min(places, key=lambda place: abs(place - start), default=start))

    def refuse(self, node: exp.Expr, refusal: Refusal | None = None) -> NoReturn:
        """Raises UnsupportedSQL for a node, by its class if no reason is given."""
        why = refusal or REFUSED.get(type(node)) or Refusal(f"{type(node).key.upper()}")
        line, column = self.place(node, why.word)
        raise UnsupportedSQL(construct=why.construct, line=line, column=column, hint=why.hint)

    def bad(self, node: exp.Expr, problem: str) -> NoReturn:
        line, column = self.place(node)
        raise BadSQL(line=line, column=column, problem=problem)


def written(node: exp.Expr) -> str:
    """A node as SQL on one line, for titles."""
    return node.sql(dialect=CeibaSQL, comments=False)


def _outwards(node: exp.Expr) -> Iterator[exp.Expr]:
    current: exp.Expr | None = node
    while current is not None:
        yield current
        current = current.parent


def _starts(node: exp.Expr) -> list[int]:
    """Where the first token of a node stands, if one of its parts remembers that."""
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return [min(starts)] if starts else []


def line_and_column(sql: str, start: int) -> tuple[int, int]:
    before = sql[:start]
    return before.count("\n") + 1, start - (before.rfind("\n") + 1) + 1


def _tokenize(sql: str) -> list[Token]:
    try:
        return CeibaSQL().tokenize(sql)
    except TokenError as error:
        start = _unclosed(error)
        line, column = line_and_column(sql, len(sql) if start is None else start)
        problem = "a quotation mark or comment is not closed"
        raise BadSQL(line=line, column=column, problem=problem) from None


def _unclosed(error: TokenError) -> int | None:
    """Where the text that has no end begins; sqlglot says it in the error behind the error, as "… line:start"."""
    _, colon, start = str(error.__cause__).rpartition(":")
    return int(start) if colon and start.isdecimal() else None


def _require_one_question(sql: str, tokens: list[Token]) -> None:
    """Refuse before parsing what is not one SELECT: sqlglot would take other statements for opaque commands."""
    if not tokens:
        raise BadSQL(line=1, column=1, problem="there is no question in it")
    first = tokens[0]
    if first.token_type is not TokenType.SELECT:
        why = OTHER_STATEMENTS.get(first.text.upper(), Refusal(f"The statement {first.text.upper()}", READ_ONLY))
        _refuse_token(sql, first, why)
    for token in tokens:
        if token.token_type in (TokenType.PLACEHOLDER, TokenType.PARAMETER):
            _refuse_token(sql, token, PARAMETER)
    ends = [place for place, token in enumerate(tokens) if token.token_type is TokenType.SEMICOLON]
    if ends and ends[0] + 1 < len(tokens):
        after = tokens[ends[0] + 1]
        _refuse_token(sql, after, Refusal("A second statement", "Ask one question at a time."))


def _refuse_token(sql: str, token: Token, why: Refusal) -> NoReturn:
    line, column = line_and_column(sql, token.start)
    raise UnsupportedSQL(construct=why.construct, line=line, column=column, hint=why.hint)


def _start_of_error(error: ParseError, tokens: list[Token], sql: str) -> int:
    """Where sqlglot stopped: it reports the line and the last column of a token."""
    stopped = error.errors[0] if error.errors else {}
    at = [token.start for token in tokens if (token.line, token.col) == (stopped.get("line"), stopped.get("col"))]
    return at[0] if at else len(sql)


def _bad(sql: str, start: int, tokens: list[Token]) -> BadSQL:
    line, column = line_and_column(sql, start)
    text = next((token.text for token in tokens if token.start == start), "the end")
    return BadSQL(line=line, column=column, problem=f"something is missing or misplaced at {text!r}")
