"""Who knows what: real applications and real firms, divided over a bank and seven agencies.

`credit.csv` is a lender's; whoever applied is taken for a sole proprietor, and each agency knows two or three of the
columns. `firms.csv` has listed firms, and five agencies know their columns. Neither has identifiers: every row gets a
made-up credit code, which each agency writes in its own way. Everything follows from the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas

from ceiba_protocol.identifiers import uscc_check_digit
from ceiba_scenarios.stories.sme_credit.product import points_of

DATA = Path(__file__).parent.parent.parent / "data"
REGION = "990000"
"""No region has this number, so no firm has one of these codes."""
PROPRIETORS, FIRMS = "92", "91"
"""How codes of sole proprietors and of firms begin."""
UNKNOWN = 1 / 40
"""The share of applicants whom an agency does not know."""
RARE = 0.01
"""Of a missing value."""
FULL_WIDTH = {ord(one): ord(one) + 0xFEE0 for one in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
BORROWER, NEWCOMER, STRANGER = "borrower", "newcomer", "stranger"
"""Whose loan has ended; who applies now; who never applied, and is in some agencies' files only."""
OWN = ("time", "amount", "price", "expenses")
"""What the bank itself knows of an applicant."""
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """How much of the data a run takes."""

    applicants: int
    newcomers: int
    """Of the applicants the last, who apply now: nothing is learnt from them."""
    strangers: int
    scored: int
    """Of the newcomers the first, who consent and are scored privately."""
    firms: bool = True
    """Whether there are listed firms, their index, and the three agencies that know nothing else."""
    close: float = 0.02
    """How near the scorecard's AUC must be to that of a regression on the pooled rows."""


@dataclass(frozen=True)
class Agency:
    """A holder, its two tables, and how it writes a code."""

    name: str
    owners: tuple[str, ...] = ()
    """Columns of `credit.csv` in its table about applicants."""
    firms: tuple[str, ...] = ()
    """Columns of `firms.csv` in its table about firms."""
    spelling: Callable[[str], str] = str
    prefix: str = ""
    """Of its tables."""

    @property
    def knows(self) -> str:
        """The column that says whom it knows."""
        return f"knows_{self.prefix}"

    @property
    def owners_table(self) -> str:
        return f"{self.prefix}.owners"

    @property
    def firms_table(self) -> str:
        return f"{self.prefix}.firms"


def in_fours(code: str) -> str:
    return " ".join(code[start : start + 4] for start in range(0, len(code), 4))


def with_dashes(code: str) -> str:
    return f"{code[:2]}-{code[2:8]}-{code[8:17]}-{code[17]}"


AGENCIES = (
    Agency("social-insurance", ("seniority", "job"), ("employment",), str.lower, "insurance"),
    Agency("tax-office", ("income", "debt"), ("sales",), in_fours, "tax"),
    Agency("housing-fund", ("assets", "home"), (), lambda code: code.translate(FULL_WIDTH), "fund"),
    Agency("court", ("records", "marital", "age"), (), with_dashes, "court"),
    Agency("business-register", (), ("sector", "capital"), str, "register"),
    Agency("securities-register", (), ("institutions", "value", "tobinq", "sp500"), str.lower, "securities"),
    Agency("patent-office", (), ("patents", "cites", "randd"), with_dashes, "patents"),
)
OF_OWNERS = tuple(one for one in AGENCIES if one.owners)
"""The four that know applicants."""
OF_FIRMS = tuple(one for one in AGENCIES if one.firms)
BANK, LOANS = "bank", "bank.loans"


def code(kind: str, number: int) -> str:
    """A made-up unified social credit code (GB 32100) with a valid check digit."""
    body = f"{kind}{REGION}MA{number:07d}"
    return body + uscc_check_digit(body)


def draw(seed: int, *what: object) -> float:
    """A number in [0, 1) that looks random, and is the same in every run with this seed."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


class World:
    """All rows in one place, which only a laboratory has, and each member's part of them."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size, self._seed = size, seed
        self.owners = self._owners()
        """A row for each applicant and stranger, with `part`, and `knows_...` for each of OF_OWNERS."""
        self.firms = self._firms()
        """A row for each firm, with `knows_...` for each of OF_FIRMS."""

    def _owners(self) -> pandas.DataFrame:
        rows = pandas.read_csv(DATA / "credit.csv").rename(columns={"applicant_id": "number"})
        size, order = self.size, np.argsort(self._draws(rows, "stranger"))
        strangers = rows.iloc[order[: size.strangers]].assign(part=STRANGER)
        applicants = rows.drop(strangers.index).head(size.applicants)
        borrowers = len(applicants) - size.newcomers
        applicants["part"] = [BORROWER] * borrowers + [NEWCOMER] * size.newcomers
        rows = pandas.concat([applicants, strangers], ignore_index=True)
        for column in (name for one in OF_OWNERS for name in one.owners):
            # What hardly anybody lacks would be a bin of too few people: an agency enters the most frequent value.
            if 0 < rows[column].isna().mean() < RARE:
                rows[column] = rows[column].fillna(rows[column].mode()[0])
        known = {
            one.knows: np.where(rows["part"] == STRANGER, chance < 0.5, chance >= UNKNOWN)
            for one, chance in ((one, self._draws(rows, one.name)) for one in OF_OWNERS)
        }
        whole = {name: rows[name].astype("Int64") for name in ("income", "assets", "debt")}
        codes = [code(PROPRIETORS, number) for number in rows["number"]]
        return rows.assign(uscc=codes, bad=rows["status"] == "bad", **whole, **known)

    def _firms(self) -> pandas.DataFrame:
        rows = pandas.read_csv(DATA / "firms.csv").rename(columns={"firm_id": "number"})
        known: dict[str, Any] = {one.knows: True for one in OF_FIRMS}
        known["knows_patents"] = (rows["patents"] > 0) | (rows["randd"] > 0)
        codes = [code(FIRMS, number) for number in rows["number"]]
        return rows.assign(uscc=codes, sector=rows["industry"].astype(str).str[:2], **known)

    def _draws(self, rows: pandas.DataFrame, what: str) -> Vector:
        return np.array([draw(self._seed, what, number) for number in rows["number"]])

    def part(self, name: str) -> pandas.DataFrame:
        """Borrowers or newcomers, with every column."""
        return self.owners[self.owners["part"] == name].reset_index(drop=True)

    # --- at home

    @property
    def agencies(self) -> tuple[Agency, ...]:
        """Those that have something to say."""
        return AGENCIES if self.size.firms else OF_OWNERS

    def tables_of(self, agency: Agency) -> Iterator[tuple[str, pandas.DataFrame, tuple[str, ...]]]:
        """Of each of its tables the name, whose rows it has, and the columns."""
        if agency.owners:
            yield agency.owners_table, self.owners, agency.owners
        if agency.firms and self.size.firms:
            yield agency.firms_table, self.firms, agency.firms

    def schemas(self) -> dict[str, Path]:
        """By table, the data standard that the space has agreed on."""
        tables = [LOANS, *(table for agency in self.agencies for table, _, _ in self.tables_of(agency))]
        return {table: DATA / "sme" / f"{table}.toml" for table in tables}

    def holders(self, folder: Path) -> dict[str, dict[str, Path]]:
        """Each holder's own files, as it would have them; `rating` has been added to the owners."""
        folder.mkdir()
        loans = self.part(BORROWER)[["uscc", "status", "rating", *OWN]]
        files = {BANK: {LOANS: _written(loans, folder / f"{LOANS}.csv")}}
        for agency in self.agencies:
            own = files.setdefault(agency.name, {})
            for table, rows, columns in self.tables_of(agency):
                known = rows[rows[agency.knows]].sort_values("number")
                at_home = known[["uscc", *columns]].assign(uscc=known["uscc"].map(agency.spelling))
                if rows is self.firms:
                    at_home["points"] = points_of(known, columns)
                own[table] = _written(at_home, folder / f"{table}.csv")
        return files


def _written(rows: pandas.DataFrame, path: Path) -> Path:
    rows.to_csv(path, index=False)
    return path
