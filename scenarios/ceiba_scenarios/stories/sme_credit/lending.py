"""The bank with four agencies: counts of all bins, evidence, counts of pairs, a scorecard, and how well it ranks."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas

from ceiba import scorecards
from ceiba.joint_queries import JointQuery
from ceiba.result import Result
from ceiba.scorecards import BinCounts, BinModel, Binning, Judgement, PairCounts, Scorecard, pair_key
from ceiba_protocol.schema import Schema
from ceiba_scenarios.report import Captioned, Listing, Part
from ceiba_scenarios.stories.sme_credit.alone import RATING, regression_on_rows
from ceiba_scenarios.stories.sme_credit.case import Case, sql_of
from ceiba_scenarios.stories.sme_credit.figures import draw_evidence, draw_roc
from ceiba_scenarios.stories.sme_credit.world import BORROWER, LOANS, NEWCOMER, OF_OWNERS, OWN

LABEL: dict[str, Any] = {"bad": "status", "value": "bad", "n": "subjects"}
"""What tables of borrowers call the label, and how many there are."""
WEAK = 0.02
"""Features with less information value say nothing, and are left out."""


# --- bins -------------------------------------------------------------------------------------------------------


def fine_bins(schemas: dict[str, Schema]) -> list[Binning]:
    """Public bins of every agency's columns, from the schemas alone."""
    insurance, tax, fund, court = (schemas[one.owners_table] for one in OF_OWNERS)
    return [
        Binning.at("seniority", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25], table=insurance.table),
        Binning.categories(insurance, "job"),
        Binning.geometric(tax, "income", 14, low=50, high=500),
        Binning.at("debt", [1, 500, 1_000, 2_000, 4_000], table=tax.table),
        Binning.at("assets", [1, 1_000, 2_000, 3_000, 4_000, 5_000, 7_500, 10_000, 20_000], table=fund.table),
        Binning.categories(fund, "home"),
        Binning.categories(court, "records"),
        Binning.categories(court, "marital"),
        Binning.at("age", [21, 24, 27, 30, 33, 36, 40, 45, 50, 55, 60], table=court.table),
    ]


# --- the scorecard ----------------------------------------------------------------------------------------------


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
        self.card = Scorecard.of(model, name="sole proprietors")
        self.case.lab.say(f"\n{model}")
        self.case.lab.say("\n" + self.card.to_frame().to_string(index=False))
        self.judge()
        self.write(model)
        return self.card

    # --- one linkage, all bins

    def count_bins(self) -> None:
        """Fine bins of nine features at four agencies by the bank's label."""
        bins = fine_bins({one.owners_table: self.case.space.table(one.owners_table).schema for one in OF_OWNERS})
        title = f"All bins of all {len(bins)} features of all agencies, by whether the loan was repaid, in one linkage"
        tables = self.case.ask(title, self.joined.group_by("status").tabulate(*(one.group_key() for one in bins)))
        for one in bins:
            self.check_borrowers(tables[one.name], one)
        counts = [self.with_absent(BinCounts.from_frame(one, tables[one.name].to_pandas(), **LABEL)) for one in bins]
        self.evidence = scorecards.woe(*counts)
        self.case.lab.say("\n" + "\n".join(self.evidence.parts()[0].lines()))
        told = [one for one in counts if self.evidence.iv[one.name] >= WEAK]
        self.coarse = [scorecards.coarse(one, least=self.case.least) for one in told]

    def with_absent(self, counts: BinCounts) -> BinCounts:
        """Borrowers whom an agency does not know count as those of whom it knows nothing: so they will be scored. The
        bank knows how many borrowers it has; what is withheld, a few, is among them."""
        totals = [int((~self.borrowers["bad"]).sum()), int(self.borrowers["bad"].sum())]
        sides = []
        for side, total in zip((counts.good, counts.bad), totals, strict=True):
            shown = sum(one for one in side if one is not None)
            sides.append((*side[:-1], (side[-1] or 0) + total - shown))
        return BinCounts(counts.binning, *sides)

    # --- pairs

    def count_pairs(self) -> None:
        """How often each bin of one feature goes with each bin of another, in jobs that run side by side.

        Of features of one agency by the bank's label; of two agencies' without it, because a join has two ends, over
        everybody whom both know.
        """
        bins = [one.binning for one in self.coarse]
        within = [pair for pair in combinations(bins, 2) if pair[0].table == pair[1].table]
        keys = [pair_key(*pair) for pair in within]
        across = self.joined.pairs(*(one.group_key() for one in bins)).queries
        questions: dict[str, JointQuery[Any]] = {
            f"{len(keys)} pairs of features of one agency, by whether the loan was repaid": (
                self.joined.group_by("status").tabulate(*keys)
            ),
            **{f"Pairs of what {one.base.table} has with other agencies' features": one for one in across},
        }
        by_label, *unlabelled = self.case.ask_all(questions)
        for (one, other), key in zip(within, keys, strict=True):
            found = by_label[key.key.name]
            self.check_borrowers(found, one, other)
            self.pairs.append(PairCounts.from_frame(one, other, found.to_pandas(), **LABEL))
        tables = {pair: result for answer in unlabelled for pair, result in answer.items()}
        for one, other in combinations(bins, 2):
            if one.table != other.table:
                self.check_everybody(tables[one.name, other.name], one, other)
                frame = tables[one.name, other.name].to_pandas()
                self.pairs.append(PairCounts.from_frame(one, other, frame, n="subjects"))

    # --- compared with the pooled rows

    def check_borrowers(self, found: Result, *bins: Binning) -> None:
        """Counts of the borrowers whom an agency knows, by the label and its bins."""
        keys = " || ' & ' || ".join(map(sql_of, bins))
        known = f"part = '{BORROWER}' AND {self.knows[bins[0].name]}"
        select = f"SELECT status, {keys} AS bin, COUNT(*) FROM owners WHERE {known} GROUP BY ALL"  # noqa: S608
        self.case.check_cells(f"status and {' and '.join(one.name for one in bins)}", found, select)

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

    def write(self, model: BinModel) -> None:
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
            f"has {self.card.base}; each bin adds its points. {' '.join(model.remarks)}",
            Listing(("feature", "bin", "points"), points),
            *map(Part, self.judgement.parts()),
        )
