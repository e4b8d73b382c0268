"""An enterprise health index of listed firms as a data product, whose points the agencies know and have approved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas

import ceiba
from ceiba.joins import Join
from ceiba.result import Result
from ceiba.scorecards import Binning
from ceiba.scoring import Feature
from ceiba.terms import Grouping
from ceiba_protocol.schema import Schema
from ceiba_scenarios.report import Listing
from ceiba_scenarios.stories.sme_credit.case import INDEX, Case, sql_of
from ceiba_scenarios.stories.sme_credit.product import CATEGORIES, NUMBERS
from ceiba_scenarios.stories.sme_credit.world import OF_FIRMS

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
    "54": "services to firms",
}
"""Those with many firms that every agency knows."""
OTHERS = "others"
"""All the rest together: one small sector would withhold the whole table."""


@dataclass(frozen=True)
class Part:
    """One feature of the index."""

    binning: Binning
    points: tuple[int, ...]

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
            elif column in CATEGORIES:
                binning = Binning.categories(schema, column)
                own.append(Part(binning, (*(CATEGORIES[column][one] for (one,) in binning.groups), 0)))
    return found


class Index:
    """The product: one firm's index with reasons, and its mean by sector."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.parts = parts_of_index({one.firms_table: case.space.table(one.firms_table).schema for one in OF_FIRMS})
        self.rows = case.world.firms

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
        case.lab.say(f"  {score.points} of 100 points; what costs it most:")
        told = [(holder, ", ".join(names) or "nothing") for holder, names in reasons.items()]
        for holder, names_told in told:
            case.lab.say(f"    {holder:20} {names_told}")
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
        theirs, own = (
            joined.group_by(_sector_of(joined))
            for joined in (space.join(register, *others, on="uscc"), space.join(others[0], register, on="uscc"))
        )
        points = {_name(table): ceiba.sum(theirs[table].points) for table in others}
        found, counted = self.case.ask_all(
            {
                "The index by the register's sector: points of four agencies": theirs.agg(**points),
                "The index by sector: how many firms, and the register's own points": own.agg(
                    firms=ceiba.count(), register=ceiba.sum(own[register].points)
                ),
            }
        )
        for table in others:
            self.check_sums(found, table)
        self.check_sums(counted, register)
        rows = list(_means(found, counted))
        self.case.lab.check("mean index of every sector that can be shown", rows, self.pooled_means(rows))
        self.write(rows)

    def write(self, rows: Sequence[tuple[str, int, float]]) -> None:
        """`rows`: sector, firms, mean index."""
        listing = [
            (f"{sector} {SECTORS.get(sector, '')}".strip(), firms, f"{mean:.1f}") for sector, firms, mean in rows
        ]
        for name, firms, mean in listing:
            self.case.lab.say(f"  {name:32} {firms:4} firms  {mean:>5}")
        means = Listing(("sector (NAICS)", "firms", "mean index"), listing)
        text = (
            "The agencies know the points of this product and have approved them; the points are made up. With a "
            f"firm's consent each agency adds up its own, and names the {REASONS} features that cost the firm most. "
            "For the mean of a sector no firm is asked, and none is shown: each agency has its points of every firm as "
            "a column of its own, and adds up those of a sector. Sectors of few firms are put together before anybody "
            "is asked: a table with one small cell is withheld whole."
        )
        self.case.write("A health index", text, *self.told, means)

    def check_sums(self, found: Result, table: str) -> None:
        """Sums of points are DuckDB's on all rows, or withheld."""
        truth = self.pooled_sums(table)
        few = [sector for sector, (some, _) in truth.items() if some < self.case.least]
        sums = {sector: total for sector, (_, total) in truth.items()}
        shown = dict(zip(found["sector"], found[_name(table)], strict=True))
        self.case.check_shown(f"points of {table} by sector", shown, sums, few)

    def pooled_sums(self, table: str) -> dict[str, tuple[int, int]]:
        """By sector, how many firms have any points at an agency, and the sum of these."""
        points = " + ".join(sql_of(one.binning, list(map(str, one.points))) for one in self.parts[table])
        knows = next(one.knows for one in OF_FIRMS if one.firms_table == table)
        rows = f"SELECT {_SECTOR} AS sector, {points} AS points FROM firms WHERE {knows}"  # noqa: S608
        select = f"SELECT sector, COUNT(*) FILTER (points > 0), SUM(points) FROM ({rows}) GROUP BY sector"  # noqa: S608
        return {sector: (int(some), int(total)) for sector, some, total in self.case.select(select)}

    def pooled_means(self, shown: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
        """Of the sectors that are shown, of which there have to be some."""
        sums = [self.pooled_sums(table) for table in self.parts]
        sizes = dict(self.case.select(f"SELECT {_SECTOR} AS s, COUNT(*) FROM firms GROUP BY s ORDER BY s"))  # noqa: S608
        sectors = [sector for sector, *_ in shown] or list(sizes)
        return [(one, sizes[one], sum(own[one][1] for own in sums) / sizes[one]) for one in sectors]


_SECTOR = f"CASE WHEN sector IN ({', '.join(map(repr, SECTORS))}) THEN sector ELSE '{OTHERS}' END"


def _sector_of(joined: Join) -> Grouping:
    """The register's sector, or that it is one of the others."""
    branches = ((joined.sector == sector, sector) for sector in SECTORS)
    return ceiba.case(*branches, otherwise=OTHERS).alias("sector")


def _means(found: Result, counted: Result) -> Iterator[tuple[str, int, float]]:
    """(sector, firms, mean index) where nothing is withheld. Whom an agency does not know, it gives no points."""
    of_register = {row[0]: row[1:] for row in counted.rows}
    for sector, *points in found.rows:
        firms, own = of_register.get(sector, (ceiba.WITHHELD, ceiba.WITHHELD))
        if ceiba.WITHHELD not in (firms, own, *points):
            yield sector, firms, (sum(points) + own) / firms


def _name(table: str) -> str:
    return table.partition(".")[0]
