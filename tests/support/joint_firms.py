"""Three agencies that know different things about the same 200 firms, and write their codes in three ways."""

from typing import Any

import pandas as pd

from ceiba_protocol.identifiers import uscc_check_digit
from ceiba_protocol.schema import Schema

FIRMS = 200
HOLDERS = ("insurance", "register", "tax")
TABLES = tuple(f"{holder}.firms" for holder in HOLDERS)
INDUSTRIES, FORMS, SIZES = ("food", "steel", "toys"), ("listed", "partners", "sole"), ("large", "small")


def code(firm: int) -> str:
    """A unified social credit code."""
    body = f"91110108MA{firm:07d}"
    return body + uscc_check_digit(body)


def in_groups(text: str) -> str:
    """As forms print it: small letters, in groups."""
    small = text.lower()
    return f"{small[:8]} {small[8:12]} {small[12:]}"


def full_width(text: str) -> str:
    """As an old terminal writes it: full-width digits and letters, with hyphens."""
    wide = "".join(chr(ord(sign) + 0xFEE0) for sign in text)
    return f"{wide[:2]}-{wide[2:]}"


def tables() -> dict[str, pd.DataFrame]:
    """By holder, what it knows: not of the same firms. Every fifth has two lines at the
    insurance; `firm` is how a test finds them again, and is in no schema."""
    known = {"tax": range(170), "insurance": range(20, 190), "register": [n for n in range(FIRMS) if n % 7]}
    tax = pd.DataFrame({"firm": known["tax"]})
    tax["uscc"] = tax.firm.map(code)
    tax["industry"] = [INDUSTRIES[n // 2 % 3] for n in tax.firm]
    tax["sales"] = [None if n % 11 == 0 else (n * 7919) % 90_001 for n in tax.firm]
    tax["sales"] = tax.sales.astype("Int64")
    insurance = pd.DataFrame({"firm": [*known["insurance"], *known["insurance"][::5]]})
    insurance["uscc"] = insurance.firm.map(code).map(in_groups)
    insurance["size"] = [SIZES[n % 5 < 3] for n in insurance.firm]
    insurance["wages"] = [(place * 211 + 17) % 9_000 for place in range(len(insurance))]
    insurance["employment"] = [(place * 13) % 60 for place in range(len(insurance))]
    register = pd.DataFrame({"firm": known["register"]})
    register["uscc"] = register.firm.map(code).map(full_width)
    register["form"] = [FORMS[n % 3] for n in register.firm]
    register["founded"] = [1980 + n % 43 for n in register.firm]
    return {"tax": tax, "insurance": insurance, "register": register}


def _schema(table: str, *columns: dict[str, Any]) -> Schema:
    identifiers = [{"column": "uscc", "kind": "uscc"}]
    return Schema.from_plain({"table": table, "subject_key": "uscc", "identifiers": identifiers, "columns": columns})


def _category(name: str, domain: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "type": "category", "domain": list(domain)}


def _number(name: str, low: int, high: int) -> dict[str, Any]:
    return {"name": name, "type": "int", "minimum": low, "maximum": high}


SCHEMAS = {
    "tax.firms": _schema("tax.firms", _category("industry", INDUSTRIES), _number("sales", 0, 100_000)),
    "insurance.firms": _schema(
        "insurance.firms", _category("size", SIZES), _number("wages", 0, 10_000), _number("employment", 0, 100)
    ),
    "register.firms": _schema("register.firms", _category("form", FORMS), _number("founded", 1900, 2100)),
}
