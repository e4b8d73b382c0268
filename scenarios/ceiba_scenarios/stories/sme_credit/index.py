"""An enterprise health index of listed firms as a data product, whose points the agencies know and have approved.

The points are made up: what a real index weighs is for those who sell it to say. They are whole, from 0 for a bin that
says little good of a firm, to about 10, and the best of everything adds up to 100.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import pandas

import ceiba
from ceiba.result import Result
from ceiba.scorecards import Binning
from ceiba.scoring import Feature
from ceiba.terms import Term
from ceiba_protocol.schema import Schema
from ceiba_scenarios.report import Listing
from ceiba_scenarios.stories.sme_credit.case import INDEX, Case, sql_of
from ceiba_scenarios.stories.sme_credit.world import OF_FIRMS

NUMBERS: dict[str, tuple[list[float], list[int]]] = {
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
FIRM, REGISTER = "3COM CORP", "register.firms"
SECTORS = {
    "21": "mining",
    "31": "food, textiles",
    "32": "wood, paper, chemicals",
    "33": "metal, machines, computers",
    "42": "wholesale",
    "51": "information",
    "52": "finance",
    "54": "services to firms",
    "99": "other",
}


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
        """The mean index of each sector: each agency adds up its points of the firms in each sector of the register."""
        register, *others = (REGISTER, *(table for table in self.parts if table != REGISTER))
        space = self.case.space
        theirs = space.join(register, *others, on="uscc").group_by("sector")
        own = space.join(others[0], register, on="uscc").group_by("sector")
        points = {_name(table): ceiba.sum(_sum(self.parts[table])) for table in self.parts}
        of_register = points.pop(_name(register))
        found, counted = self.case.ask_all(
            {
                "The index by the register's sector: points of four agencies": theirs.agg(**points),
                "The index by sector: how many firms, and the register's own points": own.agg(
                    firms=ceiba.count(), register=of_register
                ),
            }
        )
        for table in others:
            self.check_sums(found, table)
        self.check_sums(counted, register)
        rows = list(_means(found, counted))
        self.case.lab.check("mean index of every sector that can be shown", rows, self.pooled_means())
        self.write(rows, len(found) - len(rows))

    def write(self, rows: Sequence[tuple[str, int, float]], hidden: int) -> None:
        """`rows`: sector, firms, mean index; `hidden`: how many sectors were withheld."""
        listing = [(f"{sector} {SECTORS.get(sector, '')}", firms, f"{mean:.1f}") for sector, firms, mean in rows]
        for name, firms, mean in listing:
            self.case.lab.say(f"  {name:32} {firms:4} firms  {mean:>5}")
        withheld = f"{hidden} sectors were withheld: some agency knows fewer than {self.case.least} of their firms."
        self.case.lab.say(f"  {withheld}")
        means = Listing(("sector (NAICS)", "firms", "mean index"), listing)
        text = (
            "The agencies know the points of this product and have approved them; the points are made up. With a "
            f"firm's consent each agency adds up its own, and names the {REASONS} features that cost the firm most. "
            f"For the mean of a sector no firm is asked, and none is shown. {withheld}"
        )
        self.case.write("A health index", text, *self.told, means)

    def check_sums(self, found: Result, table: str) -> None:
        """Sums of points are DuckDB's on all rows, or withheld for too few firms."""
        points = " + ".join(sql_of(one.binning, list(map(str, one.points))) for one in self.parts[table])
        knows = next(one.knows for one in OF_FIRMS if one.firms_table == table)
        select = f"SELECT sector, COUNT(*), SUM({points}) FROM firms WHERE {knows} GROUP BY sector ORDER BY sector"  # noqa: S608
        truth = [
            (sector, int(total) if firms >= self.case.least else ceiba.WITHHELD)
            for sector, firms, total in self.case.select(select)
        ]
        hidden = sum(total is ceiba.WITHHELD for _, total in truth)
        name = f"points of {table} by sector: {len(truth) - hidden} sums exact, {hidden} withheld"
        self.case.lab.check(name, list(zip(found["sector"], found[_name(table)], strict=True)), truth)

    def pooled_means(self) -> list[tuple[str, int, float]]:
        """Of sectors of which every agency knows enough firms."""
        rows = self.rows.assign(index=np.sum([part.of(self.rows) for part in self.every_part], axis=0))
        found = []
        for sector, group in rows.groupby("sector"):
            if min(int(group[one.knows].sum()) for one in OF_FIRMS) >= self.case.least:
                found.append((str(sector), len(group), int(group["index"].sum()) / len(group)))
        return found


def _means(found: Result, counted: Result) -> Iterator[tuple[str, int, float]]:
    """(sector, firms, mean index) where nothing is withheld. Whom an agency does not know, it gives no points."""
    of_register = {row[0]: row[1:] for row in counted.rows}
    for sector, *points in found.rows:
        firms, own = of_register.get(sector, (ceiba.WITHHELD, ceiba.WITHHELD))
        if ceiba.WITHHELD not in (firms, own, *points):
            yield sector, firms, (sum(points) + own) / firms


def _name(table: str) -> str:
    return table.partition(".")[0]


def _sum(parts: Sequence[Part]) -> Term:
    return reduce(add, (part.term for part in parts))
