"""From a source's values to a snapshot's integers: for each column, SQL that gives an integer and the rule it met.

Every value is read as text, and decimal text is exact: it is cut into digits, never into a binary float. (DuckDB writes
a double as the shortest text that reads back as the same double, which is what a person typed.) A value that cannot be
published becomes NULL, and a rule says why; rules are counted, values are never shown.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from ceiba_protocol.errors import BadIdentifier, BadSchema
from ceiba_protocol.identifiers import Flaw, IdentifierKind, normalise
from ceiba_protocol.schema import INTEGER_BITS, NUMERIC, SCHEMA_HINT, Column, ColumnType, OutOfBounds

MAX_SCALE = 30
"""Most decimal places of a resolution or missing code, plus one; their integers must fit 128 bits."""
_HUGEINT_DIGITS = 37
"""Every integer of so many decimal digits fits 128 bits, with room for half a resolution."""
_LARGEST = 2**INTEGER_BITS - 1
_TYPES = (
    ("UTINYINT", 0, 2**8 - 1),
    ("TINYINT", -(2**7), 2**7 - 1),
    ("USMALLINT", 0, 2**16 - 1),
    ("SMALLINT", -(2**15), 2**15 - 1),
    ("UINTEGER", 0, 2**32 - 1),
    ("INTEGER", -(2**31), 2**31 - 1),
    ("BIGINT", -_LARGEST, _LARGEST),
)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,5})?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_MIDNIGHT = r"([ T]00:00(:00(\.0+)?)?)?"
_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?"
NORMAL = "="
"""Before an identifier that is not malformed."""
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")


class Rule(StrEnum):
    """What can happen to a value at publishing. At most one rule is counted for a value, the first that applies."""

    NULL = "null"
    """NULL or empty in the source."""
    MISSING_CODE = "missing_code"
    """A declared code for "not measured"; published as NULL."""
    NOT_FINITE = "not_finite"
    """NaN or an infinity; published as NULL."""
    WRONG_TYPE = "not_{type}"
    """Text that the column's type cannot read, such as a word in a column of numbers; published as NULL."""
    NOT_IN_DOMAIN = "not_in_domain"
    """Published as NULL."""
    BELOW_MINIMUM = "below_minimum"
    ABOVE_MAXIMUM = "above_maximum"
    """Clipped or published as NULL, as the column's `out_of_bounds` says."""
    ROUNDED = "rounded"
    """Not a multiple of the resolution; rounded half away from zero (times are cut to microseconds)."""

    def name_for(self, column: Column) -> str:
        """As the report calls it: `not_int`, `not_date`, …"""
        return self.value.format(type=column.type.value)


CONFORMING = {Rule.NULL, Rule.MISSING_CODE, Rule.ROUNDED}
OUTSIDE_BOUNDS = {Rule.BELOW_MINIMUM, Rule.ABOVE_MAXIMUM}
_CODES = {rule: code for code, rule in enumerate(Rule, start=1)}


def code_of(rule: Rule) -> int:
    """The rule's number in the column that `Quantised` makes; a value that met no rule has 0."""
    return _CODES[rule]


def identifier(*names: str) -> str:
    """A name as SQL writes it, quoted, so that it is nothing but a name."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def narrowest_type(low: int, high: int) -> str:
    """DuckDB's narrowest integer type for low..high: what is narrow is scanned fast."""
    return next(name for name, least, most in _TYPES if least <= low and high <= most)


def column_type(column: Column) -> str:
    """The type that a snapshot stores the column in."""
    return narrowest_type(*(column.range or (-_LARGEST, _LARGEST)))


def plain_number(text: str, digits: int) -> str:
    """Any finite number as plain digits without an exponent; "nan" for NaN and infinities, "" for other text.

    Called from SQL for the few texts that are not plain already. Numbers of more than `digits` digits before the
    decimal point become the largest such number, and what is below 10^-60 becomes 10^-60: both are far outside what a
    column can hold, on the same side.
    """
    if _NOT_FINITE.fullmatch(text):
        return "nan"
    if not _NUMBER.fullmatch(text):
        return ""
    value = Decimal(text)
    sign = "-" if value.is_signed() else ""
    if value.adjusted() >= digits and value:
        return sign + "9" * digits
    if value.adjusted() < -60 and value:
        return f"{sign}0.{'0' * 59}1"
    return format(value, "f")


def marked(kind: IdentifierKind, text: str) -> str:
    """The normal form of an identifier behind NORMAL, or the name under which its flaw is counted.

    Called from SQL, once for each distinct text.
    """
    try:
        return NORMAL + normalise(kind, text)
    except BadIdentifier as error:
        return rule_for(Flaw(error.fields["flaw"]))


def rule_for(flaw: Flaw) -> str:
    """As the report calls a flaw of an identifier: `bad_length`, `bad_check_digit`, …"""
    return f"bad_{flaw.value.replace(' ', '_')}"


class Quantised:
    """The SQL of one column in stages, each reading the names that the stage before it made.

    The last stage has `value`, the integer to publish or NULL, and `rule`, the number of the rule it met or 0.
    """

    def __init__(self, column: Column, place: int, source: str, source_is_float: bool, table: str) -> None:
        self.column = column
        self._source_is_float = source_is_float
        self._source = source
        self.text, self.plain, self.fine, self.units = (f"{kind}{place}" for kind in ("t", "p", "x", "u"))
        self.value, self.rule = f"v{place}", f"r{place}"
        self._scale = _scale(column, table) if column.type in NUMERIC else 0

    def stages(self) -> Sequence[Mapping[str, str]]:
        """name → SQL, for each stage. Stages of all columns can be run side by side: they have equally many."""
        return (
            {self.text: self._text()},
            {self.plain: self._plain()},
            {self.fine: self._fine()},
            {self.units: self._units()},
            {self.rule: self._rule()},
            {self.value: self._value()},
        )

    def _text(self) -> str:
        text = f"nullif(trim(CAST({self._source} AS VARCHAR)), '')"
        if self.column.type is not ColumnType.CATEGORY:
            return text
        whole = f"regexp_replace({text}, '\\.0$', '')" if self._source_is_float else text
        return f"nfc_normalize({whole})"

    # --- numbers: text → plain digits → integer in steps of 10^-scale → integer in units of the resolution ---------

    def _plain(self) -> str:
        if self.column.type not in NUMERIC:
            return "NULL"
        digits = _HUGEINT_DIGITS - self._scale
        is_plain = f"regexp_full_match({self.text}, '-?[0-9]{{1,{min(digits, 18)}}}(\\.[0-9]*)?')"
        return f"nullif(CASE WHEN {is_plain} THEN {self.text} ELSE plain_number({self.text}, {digits}) END, '')"

    def _fine(self) -> str:
        """Digits beyond the scale are cut off, which cannot carry a value across half a unit: halves fit the scale."""
        if self.column.type not in NUMERIC:
            return "NULL"
        whole, decimals = f"split_part({self.plain}, '.', 1)", f"split_part({self.plain}, '.', 2)"
        return f"TRY_CAST({whole} || rpad({decimals}, {self._scale}, '0') AS HUGEINT)"

    def _step(self) -> int:
        """One unit, counted in 10^-scale; even."""
        return int(self.column.step * 10**self._scale)

    def _units(self) -> str:
        text = self.text
        match self.column.type:
            case ColumnType.INT | ColumnType.DECIMAL:
                magnitude = f"(abs({self.fine}) + {self._step() // 2}) // {self._step()}"
                return f"CASE WHEN {self.fine} < 0 THEN -({magnitude}) ELSE {magnitude} END"
            case ColumnType.CATEGORY:
                return _enum_code(text, self.column.domain or ())
            case ColumnType.BOOL:
                true, false = (_is_in(f"lower({text})", words) for words in (_TRUE, _FALSE))
                return f"CASE WHEN {true} THEN 1 WHEN {false} THEN 0 END"
            case ColumnType.DATE:
                day = f"CASE WHEN regexp_full_match({text}, '{_DAY}{_MIDNIGHT}') THEN left({text}, 10) END"
                return f"date_diff('day', DATE '1970-01-01', TRY_CAST({day} AS DATE))"
            case ColumnType.TIMESTAMP:
                instant = f"CASE WHEN regexp_full_match({text}, '{_DAY}([ T]{_CLOCK})?') THEN {text} END"
                return f"epoch_us(TRY_CAST({instant} AS TIMESTAMPTZ))"

    # --- rules -----------------------------------------------------------------------------------------------------

    def _rule(self) -> str:
        """The first rule that applies, as its number."""
        tests = [
            (Rule.NULL, f"{self.text} IS NULL"),
            (Rule.MISSING_CODE, self._is_missing_code()),
            (Rule.NOT_FINITE, f"{self.plain} = 'nan'"),
            (self._unreadable(), f"{self.units} IS NULL"),
            *self._domain_tests(),
            (Rule.ROUNDED, self._is_inexact()),
        ]
        arms = " ".join(f"WHEN {test} THEN {code_of(rule)}" for rule, test in tests)
        return f"CAST(CASE {arms} ELSE 0 END AS UTINYINT)"

    def _unreadable(self) -> Rule:
        return Rule.NOT_IN_DOMAIN if self.column.type is ColumnType.CATEGORY else Rule.WRONG_TYPE

    def _is_missing_code(self) -> str:
        """As text, and numbers also as numbers: the code 0 is met by "0.0"."""
        codes = self.column.missing_codes
        tests = [_is_in(self.text, codes)]
        if self.column.type in NUMERIC:
            fine = [int(value * 10**self._scale) for value in map(_number, codes) if value is not None]
            cut = f"length(rtrim(split_part({self.plain}, '.', 2), '0')) > {self._scale}"
            tests.append(f"({_is_in(self.fine, fine)} AND NOT {cut})")
        return " OR ".join(tests)

    def _domain_tests(self) -> list[tuple[Rule, str]]:
        if self.column.domain is not None:
            if self.column.type is ColumnType.CATEGORY:
                return []
            code = _enum_code(f"CAST({self.units} AS VARCHAR)", map(str, self.column.codes or ()))
            return [(Rule.NOT_IN_DOMAIN, f"{code} IS NULL")]
        low, high = self._bounds()
        return [(Rule.BELOW_MINIMUM, f"{self.units} < {low}"), (Rule.ABOVE_MAXIMUM, f"{self.units} > {high}")]

    def _is_inexact(self) -> str:
        match self.column.type:
            case ColumnType.INT | ColumnType.DECIMAL:
                cut = f"length(rtrim(split_part({self.plain}, '.', 2), '0')) > {self._scale}"
                return f"{self.fine} % {self._step()} <> 0 OR {cut}"
            case ColumnType.TIMESTAMP:
                return f"regexp_matches({self.text}, '\\.[0-9]{{6}}[0-9]*[1-9]')"
            case _:
                return "FALSE"

    def _bounds(self) -> tuple[int, int]:
        return self.column.range or (-_LARGEST, _LARGEST)

    def _value(self) -> str:
        low, high = self._bounds()
        clips = self.column.minimum is not None and self.column.out_of_bounds is OutOfBounds.CLIP
        arms = [f"WHEN {self.rule} IN (0, {code_of(Rule.ROUNDED)}) THEN {self.units}"]
        if clips:
            arms.append(f"WHEN {self.rule} = {code_of(Rule.BELOW_MINIMUM)} THEN {low}")
            arms.append(f"WHEN {self.rule} = {code_of(Rule.ABOVE_MAXIMUM)} THEN {high}")
        return f"CAST(CASE {' '.join(arms)} END AS {column_type(self.column)})"


def _is_in(expression: str, values: Sequence[str | int]) -> str:
    if not values:
        return "FALSE"
    return f"{expression} IN ({', '.join(literal(v) if isinstance(v, str) else str(v) for v in values)})"


def _enum_code(text: str, values: Iterable[str]) -> str:
    """The place of a text in a domain, which may be long, by hashing; NULL if it is not there."""
    return f"enum_code(TRY_CAST({text} AS ENUM ({', '.join(map(literal, values))})))"


def _number(code: str) -> Fraction | None:
    return Fraction(Decimal(code)) if _NUMBER.fullmatch(code) else None


def _scale(column: Column, table: str) -> int:
    """Decimal places in which half the resolution and every missing code are whole. Raises BadSchema."""
    wanted = [column.step / 2, *(value for value in map(_number, column.missing_codes) if value is not None)]
    for scale in range(MAX_SCALE + 1):
        if all((value * 10**scale).denominator == 1 for value in wanted):
            return scale
    problem = f"{column.name}: a resolution or missing code has more than {MAX_SCALE - 1} decimal places"
    raise BadSchema(table=table, problem=problem, hint=SCHEMA_HINT)
