"""An enterprise health index of listed firms as a data product, whose points the agencies know and have approved.

The points are made up: what a real index weighs is for those who sell it to say. They are whole, from 0 for a bin that
says little good of a firm, to about 10, and the best of everything adds up to 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import pandas

import ceiba
from ceiba.result import Result
from ceiba.scorecards import Binning
from ceiba.scoring import Feature
from ceiba.terms import Term
from ceiba_protocol.schema import Schema
from ceiba_scenarios.report import Captioned, Listing
from ceiba_scenarios.stories.sme_credit.case import INDEX, Case, sql_of
from ceiba_scenarios.stories.sme_credit.world import OF_FIRMS

NUMBERS = {
    "employment": ([0.5, 2, 10], [0, 4, 8, 11]),
    "sales": ([50, 200, 1_000, 5_000], [0, 4, 8, 11, 13]),
    "capital": ([20, 100, 500], [0, 3, 6, 8]),
    "institutions": ([10, 30, 50, 70], [0, 4, 8, 10, 12]),
    "value": ([50, 200, 1_000, 5_000], [0, 5, 9, 12, 14]),
    "tobinq": ([0.8, 1.2, 2, 4], [0, 4, 8, 11, 9]),
    "patents": ([1, 5, 20], [0, 4, 7, 9]),
    "cites": ([1, 50], [0, 4, 7]),
    "randd": ([1, 50, 250], [0, 4, 7, 9]),
}
"""Column → edges of its bins, and the points of each; what is missing has none."""
SP500 = (0, 6, 0)
"""No, yes, missing."""
REASONS = 2
"""How many of its features each agency may name."""
FIRM = "3COM CORP"


@dataclass(frozen=True)
class Part:
    """One feature of the index."""

    binning: Binning
    points: tuple[int, ...]

    @property
    def term(self) -> Term:
        """Its points as something to add up."""
        branches = list(zip(self.binning.tests(), self.points[:-1], strict=True))
        return ceiba.case(*branches, otherwise=self.points[-1])

    def of(self, rows: pandas.DataFrame) -> list[int]:
        """Its points of rows that only a laboratory has."""
        return [self.points[place] for place in self.binning.places(rows)]


def parts_of_index(schemas: dict[str, Schema]) -> dict[str, list[Part]]:
    """By table."""
    found: dict[str, list[Part]] = {}
    for agency in OF_FIRMS:
        schema = schemas[agency.firms_table]
        own = found.setdefault(schema.table, [])
        for column in agency.firms:
            if column in NUMBERS:
                edges, points = NUMBERS[column]
                own.append(Part(Binning.at(column, edges, table=schema.table), (*points, 0)))
            elif column == "sp500":
                own.append(Part(Binning.categories(schema, column), SP500))
    return found


class Index:
    """The product: one firm's index with reasons, and its mean by sector."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.parts = parts_of_index({one.firms_table: case.space.table(one.firms_table).schema for one in OF_FIRMS})
        self.rows = case.world.firms.copy()
        for agency in OF_FIRMS:
            for column in agency.firms:
                self.rows[column] = self.rows[column].where(self.rows[agency.knows])

    def ask(self) -> None:
        """One firm's index, then the sectors'."""
        self.ask_one()
        self.ask_sectors()

    # --- one firm

    def ask_one(self) -> None:
        """With its consent; each agency names what costs the firm most."""
        case, row = self.case, self.rows[self.rows["company"] == FIRM]
        uscc = row["uscc"].iloc[0]
        case.announce(f"The health index of {FIRM}, with its consent and the agencies' reasons")
        features = [
            Feature(table, part.binning.group_key(), part.points) for table, own in self.parts.items() for part in own
        ]
        model = case.space.register_model(features, on="uscc", product=True, reasons=REASONS, purpose=INDEX).wait()
        score = model.score(case.consent_of(model, uscc), uscc)
        lost = self.lost_by(row)
        case.lab.check(f"the index of {FIRM}", score.points, sum(sum(part.of(row)) for part in self.every_part))
        reasons = {holder: list(names) for holder, names in sorted(score.reasons.items())}
        truth = {one.name: lost[one.firms_table] for one in sorted(OF_FIRMS, key=lambda one: one.name)}
        case.lab.check("what costs it most, at each agency", reasons, truth)
        told = [(holder, ", ".join(names) or "nothing") for holder, names in reasons.items()]
        case.lab.say(f"  {score.points} of 100 points.")
        for holder, names in told:
            case.lab.say(f"  {holder}: costs most {names}")
        self.told = (f"{FIRM} has {score.points} of 100 points.", Listing(("agency", "what costs it most"), told))

    @property
    def every_part(self) -> list[Part]:
        return [part for own in self.parts.values() for part in own]

    def lost_by(self, row: pandas.DataFrame) -> dict[str, list[str]]:
        """By table, the features that cost this firm most points against the best bin."""
        found = {}
        for table, own in self.parts.items():
            costs = [(max(part.points) - part.of(row)[0], part.binning.name) for part in own]
            ranked = sorted((one for one in costs if one[0]), key=lambda one: -one[0])
            found[table] = [name for _, name in ranked[:REASONS]]
        return found

    # --- sectors

    def ask_sectors(self) -> None:
        """Points of every agency by the register's sector, over all firms that both know."""
        base, *others = ("register.firms", *(table for table in self.parts if table != "register.firms"))
        asked = {table.partition(".")[0]: ceiba.sum(_sum(self.parts[table])) for table in others}
        by_sector = self.case.space.join(base, *others, on="uscc").group_by("sector")
        own = self.case.space.join("tax.firms", base, on="uscc").group_by("sector")
        points = own.agg(firms=ceiba.count(), register=ceiba.sum(_sum(self.parts[base])))
        first, second = self.case.ask_all(
            {"Points of four agencies, by the register's sector": by_sector.agg(**asked),
             "Firms, and the register's own points, by sector": points}
        )  # fmt: skip
        print(first, second)


def _sum(parts: Sequence[Part]) -> Term:
    return reduce(add, (part.term for part in parts))
