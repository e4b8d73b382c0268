"""The bank with four agencies: counts of all bins, evidence, counts of pairs, a scorecard, and how well it ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pandas

from ceiba import scorecards
from ceiba.joint_queries import JointResult
from ceiba.result import Result
from ceiba.scorecards import BinCounts, BinModel, Binning, Judgement, PairCounts, Scorecard, pair_key
from ceiba_protocol.schema import Schema
from ceiba_scenarios.stories.sme_credit.alone import RATING, regression_on_rows
from ceiba_scenarios.stories.sme_credit.case import Case, sql_of
from ceiba_scenarios.stories.sme_credit.world import BORROWER, LOANS, NEWCOMER, OF_OWNERS, OWN

LABEL: dict[str, Any] = {"bad": "status", "value": "bad", "n": "subjects"}
"""What tables of borrowers call the label, and how many there are."""
WEAK = 0.02
"""Features with less information value say nothing, and are left out."""
WITHHELD_COUNT = 2
"""What a withheld cell counts where cells are added up: it has one to four subjects."""


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

    def make_card(self) -> Scorecard:
        """Bins of everything in one linkage; coarse bins and their pairs in another; a regression; points."""
        self.count_bins()
        self.count_pairs()
        model = scorecards.fit_logistic(self.features, self.pairs)
        self.card = Scorecard.of(model, name="sole proprietors")
        self.case.lab.say(f"\n{model}")
        self.case.lab.say("\n" + self.card.to_frame().to_string(index=False))
        self.judge(model)
        return self.card

    # --- one linkage, all bins

    def count_bins(self) -> None:
        """Fine bins of nine features at four agencies by the bank's label."""
        bins = fine_bins({one.owners_table: self.case.space.table(one.owners_table).schema for one in OF_OWNERS})
        title = f"All bins of all {len(bins)} features of all agencies, by whether the loan was repaid, in one linkage"
        tables = self.case.ask(title, self.joined.group_by("status").tabulate(*(one.group_key() for one in bins)))
        for one in bins:
            self.check_counts(one.name, tables[one.name], [one], "status")
        counts = [self.with_absent(BinCounts.from_frame(one, tables[one.name].to_pandas(), **LABEL)) for one in bins]
        self.evidence = scorecards.woe(*counts)
        self.case.lab.say("\n" + "\n".join(self.evidence.parts()[0].lines()))
        told = [one for one in counts if self.evidence.iv[one.name] >= WEAK]
        self.coarse = [scorecards.coarse(one, least=self.case.least) for one in told]

    def check_counts(self, name: str, found: Result, bins: Sequence[Binning], *groups: str) -> None:
        """Every cell is DuckDB's, or withheld because it has fewer subjects than may be shown."""
        keys = " || ' & ' || ".join(sql_of(one) for one in bins)
        known = self.knows[bins[0].name]
        base = ", ".join(sql_of(RATING) if one == "rating" else one for one in groups)
        select = (
            f"SELECT {base}, {keys} AS bin, COUNT(*) FROM owners WHERE part = '{BORROWER}' AND {known} GROUP BY ALL"  # noqa: S608
        )
        self.case.check_cells(f"{name}: borrowers by {' and '.join(groups)}", found, select)

    def with_absent(self, counts: BinCounts) -> BinCounts:
        """Borrowers whom an agency does not know count as those of whom it knows nothing: so they will be scored. The
        bank knows how many borrowers it has; what is withheld, a few, is among them."""
        totals = [int((~self.borrowers["bad"]).sum()), int(self.borrowers["bad"].sum())]
        sides = []
        for side, total in zip((counts.good, counts.bad), totals, strict=True):
            shown = sum(one for one in side if one is not None)
            sides.append((*side[:-1], (side[-1] or 0) + total - shown))
        return BinCounts(counts.binning, *sides)

    # --- coarse bins and pairs

    def count_pairs(self) -> None:
        """Pairs of coarse bins, in jobs that run side by side: of the bank's rating and every feature, and of two
        features of one agency, by the label; of two agencies' features without it, because a join has two ends."""
        bins = [one.binning for one in self.coarse]
        within = [pair for pair in combinations(bins, 2) if pair[0].table == pair[1].table]
        keys = [*(one.group_key() for one in bins), *(pair_key(*pair) for pair in within)]
        questions = {
            f"Coarse bins of {len(bins)} features, and {len(within)} pairs of one agency's, by loan and rating": (
                self.joined.group_by("status", RATING.group_key()).tabulate(*keys)
            )
        }
        stars = list(self.stars(bins))
        for own, others in stars:
            names = " and ".join(one.name for one in own)
            base = self.joined.group_by(*(one.group_key() for one in own))
            title = f"Pairs of {names} with {len(others)} features of other agencies, of everybody whom both know"
            questions[title] = base.tabulate(*(one.group_key() for one in others))
        by_label, *across = self.case.ask_all(questions)
        for one in bins:
            self.check_counts(one.name, by_label[one.name], [one], "status", "rating")
        for pair in within:
            name = pair_key(*pair).key.name
            self.check_counts(name, by_label[name], pair, "status", "rating")
        self.features = [BinCounts.of_rows(RATING, self.borrowers, list(self.borrowers["bad"])), *self.coarse]
        self.pairs = [
            *(PairCounts.from_frame(RATING, one, _filled(by_label[one.name]), **LABEL) for one in bins),
            *(PairCounts.from_frame(*pair, _filled(by_label[pair_key(*pair).key.name]), **LABEL) for pair in within),
        ]
        for (own, others), tables in zip(stars, across, strict=True):
            self.check_pairs(own, others, tables)
            frames = {one.name: _filled(tables[one.name]) for one in others}
            self.pairs += [
                PairCounts.from_frame(one, other, frames[other.name], n="subjects") for one in own for other in others
            ]

    def stars(self, bins: Sequence[Binning]) -> Iterator[tuple[list[Binning], list[Binning]]]:
        """Features of one agency, and those of the agencies after it: every two agencies once. A weak third feature of
        one agency stays out, so that groups are not too small."""
        tables = list(dict.fromkeys(one.table for one in bins))
        best = sorted(bins, key=lambda one: -self.evidence.iv[one.name])
        for place, table in enumerate(tables[:-1]):
            own = [one for one in best if one.table == table][:2]
            yield own, [one for one in bins if one.table in tables[place + 1 :]]

    def check_pairs(self, own: Sequence[Binning], others: Sequence[Binning], tables: JointResult) -> None:
        """Counts of two agencies' features over everybody whom both know, borrowers or not."""
        groups = ", ".join(f"{sql_of(one)} AS {one.name}_" for one in own)
        knows = self.knows[own[0].name]
        names = " and ".join(one.name for one in own)
        for one in others:
            known = f"{knows} AND {self.knows[one.name]}"
            select = f"SELECT {groups}, {sql_of(one)} AS bin, COUNT(*) FROM owners WHERE {known} GROUP BY ALL"  # noqa: S608
            self.case.check_cells(f"{one.name}: by {names}", tables[one.name], select)

    # --- how well it ranks

    def as_known(self, rows: pandas.DataFrame) -> pandas.DataFrame:
        """Without what an agency does not know of somebody."""
        known = rows.copy()
        for column, knows in self.knows.items():
            known[column] = known[column].where(known[knows])
        return known

    def judge(self, model: BinModel) -> None:
        """On those who apply now: the bank alone, the scorecard, and a logistic regression on everybody's rows."""
        rows, bad = self.as_known(self.newcomers), list(self.newcomers["bad"])
        points = self.card.score(rows)
        self.judgement = scorecards.judge(
            list(points), bad, probabilities=list(self.card.probability_bad(list(points)))
        )
        truth = regression_on_rows(self.as_known(self.borrowers), rows, [*OWN, *self.knows])
        pooled = scorecards.judge(list(truth), bad)
        self.aucs = {"alone": self.alone.auc, "joined": self.judgement.auc, "pooled": pooled.auc}
        self.case.lab.say(
            f"\nOf {len(rows)} who apply now, and of whom nothing was used, the laboratory knows the outcome.\n"
            f"AUC {self.alone.auc:.3f} by the bank's own columns, {self.judgement.auc:.3f} by the scorecard, and "
            f"{pooled.auc:.3f} by a logistic regression on all rows pooled.\n\n{self.judgement}"
        )
        gap, close = abs(self.judgement.auc - pooled.auc), self.case.world.size.close
        self.case.lab.check(f"AUC within {close} of the regression's on pooled rows", gap <= close, True)
        self.case.lab.check("joined, it ranks better than the bank alone", self.judgement.auc > self.alone.auc, True)


def _filled(found: Result) -> pandas.DataFrame:
    """Where pairs are added up over a third group, a withheld cell counts as two subjects: it has one to four."""
    frame = found.to_pandas()
    return frame.assign(subjects=frame["subjects"].fillna(WITHHELD_COUNT))
