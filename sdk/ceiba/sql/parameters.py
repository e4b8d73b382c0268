"""Values for the places marked `?`: they become tokens of the question, so no value is ever read as SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from sqlglot.tokenizer_core import Token, TokenType

from ceiba.terms import literal
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Number, TextValue


def with_values(tokens: Sequence[Token], values: Sequence[object]) -> list[Token]:
    """The tokens with each `?` replaced by its value: a number, a text, a date, True or False, or None for NULL.

    Raises BadQuestion for another number of values, and for what is none of these.
    """
    places = sum(token.token_type is TokenType.PLACEHOLDER for token in tokens)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence) or places != len(values):
        given = len(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else "no list of"
        problem = f"the question has places for values (?): {places}; given: {given}"
        raise BadQuestion(problem=problem, hint="Give a list with one value for each place.")
    waiting = iter(values)
    return [
        made
        for token in tokens
        for made in (_tokens(next(waiting), token) if token.token_type is TokenType.PLACEHOLDER else [token])
    ]


def _tokens(value: object, place: Token) -> Iterator[Token]:
    """A value as tokens that stand where its place stood."""

    def token(kind: TokenType, text: str) -> Token:
        return Token(kind, text, line=place.line, col=place.col, start=place.start, end=place.end)

    if value is None:
        yield token(TokenType.NULL, "NULL")
        return
    match literal(value):
        case Number(value=text) if Decimal(text) < 0:
            yield from (token(TokenType.L_PAREN, "("), token(TokenType.DASH, "-"))
            yield from (token(TokenType.NUMBER, text.removeprefix("-")), token(TokenType.R_PAREN, ")"))
        case Number(value=text):
            yield token(TokenType.NUMBER, text)
        case TextValue(value=text):
            yield token(TokenType.STRING, text)
        case truth:
            yield token(TokenType.TRUE if truth.value else TokenType.FALSE, str(truth.value).upper())  # type: ignore[union-attr]
