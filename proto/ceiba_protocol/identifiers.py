"""Identifiers: by which the same person or firm is found again at other holders (PROTOCOL §5.1).

Every holder brings them into one form before anything is computed from them: what is written differently at two holders
is one subject, and what cannot be right, because its check digit says so, is told from what can.
"""

import re
import unicodedata
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from operator import mul

from stdnum.cn import ric

from ceiba_protocol.errors import BadIdentifier

MAX_IDENTIFIER = 256
"""Characters of the longest identifier in its normal form."""
_USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_VALUES = {character: value for value, character in enumerate(_USCC_ALPHABET)}
_USCC_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))
_USCC = re.compile(f"[{_USCC_ALPHABET}]{{2}}[0-9]{{6}}[{_USCC_ALPHABET}]{{10}}")
_RESIDENT_ID = re.compile("[0-9]{17}[0-9X]")
_LENGTH = 18
"""Of both codes."""
_SEPARATORS = {"Zs", "Zl", "Zp", "Pd", "Cf"}
"""Unicode's categories of spaces, dashes and invisible characters."""
_MINUS = "\N{MINUS SIGN}"
_SURROGATE = re.compile("[\ud800-\udfff]")


class IdentifierKind(StrEnum):
    """What a column of identifiers holds, and so how it is normalised and checked."""

    USCC = "uscc"
    """Unified social credit code of a firm or organisation (GB 32100): 18 characters, the last a check digit."""
    RESIDENT_ID = "resident_id"
    """Resident identity number (GB 11643): 18 characters, with a date of birth, the last a check digit."""
    TEXT = "text"
    """Any other: a register number, a name."""


class Flaw(StrEnum):
    """What is wrong with a malformed identifier: the first of these that is."""

    LENGTH = "length"
    CHARACTER = "character"
    DATE = "date"
    CHECK_DIGIT = "check digit"


def normalise(kind: IdentifierKind, value: str) -> str:
    """The one form of an identifier: not empty, at most MAX_IDENTIFIER characters, and normal itself.

    Codes: NFKC (full-width digits become digits), upper case, without spaces, dashes and invisible characters. Text:
    NFKC, without differences of case, each run of spaces one space. Raises BadIdentifier, which never has the value.
    """
    return _NORMALISE[kind](value)


def _uscc(value: str) -> str:
    code = _code(value, IdentifierKind.USCC, _USCC)
    if code[-1] != uscc_check_digit(code):
        raise _bad(IdentifierKind.USCC, Flaw.CHECK_DIGIT)
    return code


def uscc_check_digit(code: str) -> str:
    """The 18th character from the first 17: Σ c_i·3^i + check ≡ 0 mod 31 (GB 32100).

    As stdnum.cn.uscc does, five times as fast: a holder publishes a million codes. stdnum's own test of the whole code
    refuses letters in the first two places, which the standard allows.
    """
    total = sum(map(mul, _USCC_WEIGHTS, map(_USCC_VALUES.__getitem__, code)))
    return _USCC_ALPHABET[-total % 31]


def _resident_id(value: str) -> str:
    """The region is not looked up: regions are dissolved, and numbers that were given there stay valid."""
    code = _code(value, IdentifierKind.RESIDENT_ID, _RESIDENT_ID)
    try:
        date(int(code[6:10]), int(code[10:12]), int(code[12:14]))
    except ValueError:
        raise _bad(IdentifierKind.RESIDENT_ID, Flaw.DATE) from None
    if code[-1] != ric.calc_check_digit(code):
        raise _bad(IdentifierKind.RESIDENT_ID, Flaw.CHECK_DIGIT)
    return code


def _code(value: str, kind: IdentifierKind, form: re.Pattern[str]) -> str:
    """A code of the right length and characters; most are already."""
    if form.fullmatch(value):
        return value
    code = "".join(one for one in unicodedata.normalize("NFKC", value) if not _separates(one)).upper()
    if len(code) != _LENGTH:
        raise _bad(kind, Flaw.LENGTH)
    if not form.fullmatch(code):
        raise _bad(kind, Flaw.CHARACTER)
    return code


def _separates(character: str) -> bool:
    return character.isspace() or character == _MINUS or unicodedata.category(character) in _SEPARATORS


def _text(value: str) -> str:
    """Unicode's caseless match of compatible characters (Unicode 16, D146), composed again."""
    if _SURROGATE.search(value):
        raise _bad(IdentifierKind.TEXT, Flaw.CHARACTER)
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", value).casefold()).casefold()
    text = " ".join(unicodedata.normalize("NFKC", folded).split())
    if not 1 <= len(text) <= MAX_IDENTIFIER:
        raise _bad(IdentifierKind.TEXT, Flaw.LENGTH)
    return text


def _bad(kind: IdentifierKind, flaw: Flaw) -> BadIdentifier:
    return BadIdentifier(kind=kind, flaw=flaw)


_NORMALISE: dict[IdentifierKind, Callable[[str], str]] = {
    IdentifierKind.USCC: _uscc,
    IdentifierKind.RESIDENT_ID: _resident_id,
    IdentifierKind.TEXT: _text,
}
