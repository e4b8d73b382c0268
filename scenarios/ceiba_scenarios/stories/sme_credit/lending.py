"""The bank with four agencies: counts of all bins, evidence, counts of pairs, a scorecard, and how well it ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import pandas

from ceiba import scorecards
from ceiba.result import Result
from ceiba.scorecards import BinCounts, Binning, Judgement, PairCounts, Scorecard
from ceiba_protocol.linkage.score_model import bits_for
from ceiba_protocol.schema import Schema
from ceiba_scenarios.report import Captioned, Listing, Part
from ceiba_scenarios.stories.sme_credit.alone import RATING, regression_on_rows
from ceiba_scenarios.stories.sme_credit.case import Case, sql_of
from ceiba_scenarios.stories.sme_credit.figures import draw_evidence, draw_roc
from ceiba_scenarios.stories.sme_credit.world import BORROWER, LOANS, NEWCOMER, OF_OWNERS, OWN

LABEL: dict[str, Any] = {"bad": "status", "value": "bad", "n": "subjects"}
"""What tables of borrowers call the label, and how many there are."""
SMALLEST = 30
"""Borrowers of either kind in a coarse bin, so that no pair of bins has few: that would withhold the whole table."""
WEAK = 0.02
"""Features with less information value say nothing, and are left out."""


# --- bins -------------------------------------------------------------------------------------------------------


def few_bins(schemas: dict[str, Schema]) -> list[Binning]:
    """Likewise where there are few borrowers: a table with one small cell would be withheld whole."""
    insurance, tax, fund, court = (schemas[one.owners_table] for one in OF_OWNERS)
    return [
        Binning.at("seniority", [3, 10], table=insurance.table),
        Binning.categories(insurance, "job", [["fixed"], ["freelance", "partime", "others"]]),
        Binning.at("income", [114, 158], table=tax.table),
        Binning.at("debt", [1], table=tax.table),
        Binning.at("assets", [1, 4_000], table=fund.table),
        Binning.categories(fund, "home", [["owner"], ["rent"], ["parents", "priv", "other", "ignore"]]),
        Binning.categories(court, "records"),
        Binning.categories(court, "marital", [["married"], ["single", "separated", "widow", "divorced"]]),
        Binning.at("age", [30, 45], table=court.table),
    ]


def fine_bins(schemas: dict[str, Schema]) -> list[Binning]:
    """Public bins of every agency's columns, from the schemas alone."""
    insurance, tax, fund, court = (schemas[one.owners_table] for one in OF_OWNERS)
    return [
        Binning.at("seniority", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25], table=insurance.table),
        Binning.categories(insurance, "job"),
        Binning.at("income", [50, 59, 69, 82, 97, 114, 134, 158, 186, 220, 259, 305], table=tax.table),
        Binning.at("debt", [1, 500, 1_000, 2_000, 4_000], table=tax.table),
        Binning.at("assets", [1, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000, 20_000], table=fund.table),
        Binning.categories(fund, "home", [["owner"], ["rent"], ["parents"], ["priv"], ["other", "ignore"]]),
        Binning.categories(court, "records"),
        Binning.categories(court, "marital", [["married"], ["single"], ["separated", "widow", "divorced"]]),
        Binning.at("age", [21, 24, 27, 30, 33, 36, 40, 45, 50, 55, 60], table=court.table),
    ]


# --- the scorecard ----------------------------------------------------------------------------------------------


DOUBLINGS = (50, 40, 30, 20, 15, 10, 5, 2, 1)
"""Points that double the odds, finest first."""


def may_be_private(card: Scorecard) -> bool:
    """Whether sums of the agencies' points are coarse enough that they say at most half of what the bins say."""
    features = [one for one in card.features if one.binning.name != RATING.name]
    bits, ways = bits_for([one.points for one in features]), prod(one.binning.count for one in features)
    return 1 << 2 * bits <= ways


class Lending:
    """From the bank's borrowers to a scorecard; each step is compared with the pooled rows."""

    def __init__(self, case: Case, alone: Judgement) -> None:
        self.case, self.alone = case, alone
        self.borrowers, self.newcomers = (case.world.part(name) for name in (BORROWER, NEWCOMER))
        tables = [LOANS, *(one.owners_table for one in OF_OWNERS)]
        self.joined = case.space.join(*tables, on="uscc")
        self.knows = {column: one.knows for one in OF_OWNERS for column in one.owners}
        """By column, which column says whom the agency knows that has it."""
        self.pairs: list[PairCounts] = []

    def make_card(self) -> Scorecard:
        """Bins of everything in one linkage; pairs in others; a regression; points."""
        self.count_bins()
        self.count_pairs()
        rating = BinCounts.of_rows(RATING, self.borrowers, list(self.borrowers["bad"]))
        model = scorecards.fit_logistic([rating, *self.coarse], self.pairs)
        cards = (Scorecard.of(model, name="sole proprietors", doubling=doubling) for doubling in DOUBLINGS)
        self.card = next(card for card in cards if may_be_private(card))
        self.case.lab.say(f"\n{model}")
        self.case.lab.say("\n" + self.card.to_frame().to_string(index=False))
        self.judge()
        self.write()
        return self.card

    # --- one linkage, all bins

    def count_bins(self) -> None:
        """Fine bins of nine features at four agencies by the bank's label."""
        schemas = {one.owners_table: self.case.space.table(one.owners_table).schema for one in OF_OWNERS}
        bins = fine_bins(schemas) if len(self.borrowers) > 1_000 else few_bins(schemas)
        title = f"All bins of all {len(bins)} features of all agencies, by whether the loan was repaid, in one linkage"
        tables = self.case.ask(title, self.joined.group_by("status").tabulate(*(one.group_key() for one in bins)))
        for one in bins:
            self.check_borrowers(tables[one.name], one)
        counts = [self.with_absent(BinCounts.from_frame(one, tables[one.name].to_pandas(), **LABEL)) for one in bins]
        self.evidence = scorecards.woe(*counts)
        self.case.lab.say("\n" + "\n".join(self.evidence.parts()[0].lines()))
        told = [one for one in counts if self.evidence.iv[one.name] >= WEAK]
        coarse = [scorecards.coarse(one, least=SMALLEST) for one in told]
        self.coarse = [one for one in coarse if one.binning.count > 2]  # two bins, and the one for what is missing

    def with_absent(self, counts: BinCounts) -> BinCounts:
        """Borrowers whom an agency does not know count as those of whom it knows nothing, as they will be scored. The
        bank knows how many borrowers it has; where something was withheld, that does not say how many are unknown."""
        totals = [int((~self.borrowers["bad"]).sum()), int(self.borrowers["bad"].sum())]
        sides = []
        for side, total in zip((counts.good, counts.bad), totals, strict=True):
            shown = [one for one in side if one is not None]
            absent = total - sum(shown) if len(shown) == len(side) else 0
            sides.append((*side[:-1], None if side[-1] is None else side[-1] + absent))
        return BinCounts(counts.binning, *sides)

    # --- pairs

    def count_pairs(self) -> None:
        """How often each bin of one feature goes with each bin of another agency's, in jobs that run side by side.

        Over everybody whom both know, and without the label, because a join has two ends. `pairs()` would count all
        pairs; those of each agency's best feature are enough here.
        """
        stars = list(self.stars([one.binning for one in self.coarse]))
        questions = {
            f"Pairs of {own.name} with {len(others)} features of other agencies": (
                self.joined.group_by(own.group_key()).tabulate(*(one.group_key() for one in others))
            )
            for own, others in stars
        }
        for (own, others), tables in zip(stars, self.case.ask_all(questions), strict=True):
            for other in others:
                self.check_everybody(tables[other.name], own, other)
                self.pairs.append(PairCounts.from_frame(own, other, tables[other.name].to_pandas(), n="subjects"))

    def stars(self, bins: Sequence[Binning]) -> Iterator[tuple[Binning, list[Binning]]]:
        """Each agency's feature with most information, and all features of the agencies after it."""
        tables = list(dict.fromkeys(one.table for one in bins))
        for place, table in enumerate(tables[:-1]):
            best = max((one for one in bins if one.table == table), key=lambda one: self.evidence.iv[one.name])
            yield best, [one for one in bins if one.table in tables[place + 1 :]]

    # --- compared with the pooled rows

    def check_borrowers(self, found: Result, one: Binning) -> None:
        """Counts of the borrowers whom an agency knows, by the label and its bins."""
        known = f"part = '{BORROWER}' AND {self.knows[one.name]}"
        select = f"SELECT status, {sql_of(one)} AS bin, COUNT(*) FROM owners WHERE {known} GROUP BY ALL"  # noqa: S608
        self.case.check_cells(f"status and {one.name}", found, select)

    def check_everybody(self, found: Result, one: Binning, other: Binning) -> None:
        """Counts of everybody whom two agencies know, by the bins of both."""
        known = f"{self.knows[one.name]} AND {self.knows[other.name]}"
        keys = f"{sql_of(one)} AS one, {sql_of(other)} AS other"
        select = f"SELECT {keys}, COUNT(*) FROM owners WHERE {known} GROUP BY ALL"  # noqa: S608
        self.case.check_cells(f"{one.name} and {other.name}", found, select)

    # --- how well it ranks

    def as_known(self, rows: pandas.DataFrame) -> pandas.DataFrame:
        """Without what an agency does not know of somebody."""
        known = rows.copy()
        for column, knows in self.knows.items():
            known[column] = known[column].where(known[knows])
        return known

    def judge(self) -> None:
        """On those who apply now: the bank alone, the scorecard, and a logistic regression on everybody's rows."""
        rows, bad = self.as_known(self.newcomers), list(self.newcomers["bad"])
        points = self.card.score(rows)
        self.judgement = scorecards.judge(
            list(points), bad, probabilities=list(self.card.probability_bad(list(points)))
        )
        truth = regression_on_rows(self.as_known(self.borrowers), rows, [*OWN, *self.knows])
        pooled = scorecards.judge(list(truth), bad)
        self.pooled = pooled
        self.case.lab.say(
            f"\nOf {len(rows)} who apply now, and of whom nothing was used, the laboratory knows the outcome.\n"
            f"AUC {self.alone.auc:.3f} by the bank's own columns, {self.judgement.auc:.3f} by the scorecard, and "
            f"{pooled.auc:.3f} by a logistic regression on all rows pooled.\n\n{self.judgement}"
        )
        gap, close = abs(self.judgement.auc - pooled.auc), self.case.world.size.close
        self.case.lab.check(f"AUC within {close} of the regression's on pooled rows", gap <= close, True)
        self.case.lab.check("joined, it ranks better than the bank alone", self.judgement.auc > self.alone.auc, True)

    # --- the report

    def write(self) -> None:
        """How much each feature says, the points, and how well they rank."""
        self.case.write(
            "The bank alone and joined",
            f"{len(self.borrowers)} loans have ended; {len(self.newcomers)} applicants came later, and nothing was "
            f"learnt from them. Of these, the bank's own columns give AUC {self.alone.auc:.3f}, the scorecard "
            f"{self.judgement.auc:.3f}. A logistic regression on all rows in one place, which nobody may have, would "
            f"give {self.pooled.auc:.3f}.",
            Captioned(
                draw_roc({"bank alone": self.alone, "joined": self.judgement, "all rows pooled": self.pooled}),
                "For every limit, the shares of good and of bad applicants who would be accepted.",
            ),
        )
        self.case.write(
            "What the agencies' columns say",
            "Counted in one linkage, by whether the loan was repaid. Whom an agency does not know counts as missing.",
            Part(self.evidence.parts()[0]),
            Captioned(
                draw_evidence(self.evidence), "Weight of evidence of every bin: right of 0 is better than average."
            ),
        )
        scale = self.card.scale
        points = [(one.binning.name, label, value) for one in self.card.features
                  for label, value in zip(one.binning.labels, one.points, strict=True)]  # fmt: skip
        self.case.write(
            "The scorecard",
            f"{scale.anchor} points are {scale.odds} good to one bad, {scale.doubling} more double the odds. Everybody "
            f"has {self.card.base}; each bin adds its points. They come from the counts of single features and of "
            f"{len(self.pairs)} pairs of two agencies' features, which were counted without the label: they are taken "
            "to go together alike among the good and the bad, and other pairs not to.",
            Listing(("feature", "bin", "points"), points),
            *map(Part, self.judgement.parts()),
        )
