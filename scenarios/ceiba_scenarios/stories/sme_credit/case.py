"""bank-analyst at work: agrees, asks, shows, compares with the pooled rows, and writes the report as it goes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

import ceiba
from ceiba.consents import GivenConsent, IssuerKey, give, new_issuer
from ceiba.joint_queries import JointQuery
from ceiba.receipts import Receipt
from ceiba.result import Result
from ceiba.scorecards import Binning
from ceiba.scoring import RegisteredModel
from ceiba_protocol.trust import receipt
from ceiba_protocol.trust.agreement import ConsentIssuer
from ceiba_scenarios.report import HtmlReport, Listing
from ceiba_scenarios.sandbox import Sandbox
from ceiba_scenarios.stories.sme_credit.world import (
    AGENCIES,
    BANK,
    FIRMS,
    LOANS,
    OF_FIRMS,
    OF_OWNERS,
    PROPRIETORS,
    World,
    code,
)
from ceiba_scenarios.story import Lab

LENDING = "credit decisions on sole proprietors"
INDEX = "enterprise health index"
ANALYST = "bank-analyst"
PREFIX = 12
"""Characters with which all codes of a kind begin, however they are spelt."""


class Case:
    """The bank's analyst, its two agreements, and what a laboratory compares with."""

    def __init__(self, lab: Lab, world: World, sandbox: Sandbox) -> None:
        self.lab, self.world, self.sandbox = lab, world, sandbox
        self.space = sandbox.merchant(ANALYST, agreed=False)
        self.issuer = new_issuer("chamber of commerce")
        """Who attests that an applicant, or a firm, has said yes."""
        self._pool = duckdb.connect()
        """All rows, as `owners` and `firms`. Only a laboratory can have them."""
        self._pool.register("owners", world.owners)
        self._pool.register("firms", world.firms)
        self.report = HtmlReport(
            "One score for firms of which every agency knows one thing",
            "A bank asked four agencies about its borrowers, made a scorecard from counts, and scored applicants who "
            "said yes. Five agencies give a health index of listed firms. No agency handed over a row.",
        )
        self._asked: list[str] = []
        self._results: list[Result] = []
        self._sections: list[tuple[str, tuple[Any, ...]]] = []

    def agree(self) -> None:
        """One agreement for lending and one for the index, each with everybody who has a part in it."""
        lending = [LOANS, *(one.owners_table for one in OF_OWNERS)]
        issuer = ConsentIssuer(name=self.issuer.name, key=self.issuer.key.public.hex())
        terms: dict[str, Any] = {"jobs": 20, "days": 90, "consent_issuers": [issuer], "scores_per_day": 3}
        terms["smallest_intersection"] = 20
        # The bank's label groups what agencies know; for pairs of features, an agency's bins group those of the next.
        bases = [BANK, *(one.name for one in OF_OWNERS[:-1])]
        handle = self.sandbox.agree_jointly(self.space, lending, purpose=LENDING, bases=bases, **terms)
        self.lab.say(f"\n{ANALYST} proposed this agreement, and each holder's officer signed it:\n\n{handle.text}")
        self.least = handle.contract.agreement.disclosure.minimum_subjects
        if not self.world.size.firms:
            return
        firms = [one.firms_table for one in OF_FIRMS]
        bases = [one.name for one in OF_FIRMS if "sector" in one.firms] + [OF_FIRMS[0].name]
        self.sandbox.agree_jointly(self.space, firms, purpose=INDEX, bases=bases, **terms)
        self.lab.say(f"\nA second one, like it, is between {ANALYST} and {_listed(one.name for one in OF_FIRMS)}.")

    # --- asking

    def ask(self, title: str, question: JointQuery[Any]) -> Any:
        """Ask a joint question, and wait."""
        return self.ask_all({title: question})[0]

    def ask_all(self, questions: Mapping[str, JointQuery[Any]]) -> list[Any]:
        """Ask several at once, by title; many tables are not shown here."""
        jobs = []
        for title, question in questions.items():
            self.announce(title)
            jobs.append(question.submit())
        found = [job.wait() for job in jobs]
        for question, one in zip(questions.values(), found, strict=True):
            result = one if isinstance(one, Result) else next(iter(one.values()))
            self.lab.tally(result)
            self._results.append(result)
            self.lab.say(f"  {len(question.plan().sides)} holders, job {result.job_id}, {result.seconds:.1f} s")
        return found

    def announce(self, title: str) -> None:
        """The next of the story's steps."""
        self._asked.append(title)
        self.lab.say(f"\n{len(self._asked)}. {title}")

    def consent_of(
        self, model: RegisteredModel, uscc: str, *, hours: float = 24, issuer: IssuerKey | None = None
    ) -> GivenConsent:
        """What the chamber of commerce attests once this applicant, or firm, has said yes to being scored once."""
        return give(model.consent_request(), uscc, issuer or self.issuer, hours)

    def write(self, heading: str, *parts: Any) -> None:
        """Keep a section of the report; its first page is written last."""
        self._sections.append((heading, parts))

    # --- comparing

    def select(self, text: str) -> list[tuple[Any, ...]]:
        """What DuckDB finds in all rows together."""
        return self._pool.sql(text).fetchall()

    def check_cells(self, name: str, found: Result, select: str) -> None:
        """Every cell that is shown is DuckDB's over all rows."""
        counts = {row[:-1]: row[-1] for row in self.select(select)}
        few = {cell for cell, count in counts.items() if count < self.least}
        self.check_shown(name, {row[:-1]: row[-1] for row in found.rows}, counts, few)

    def check_shown(self, name: str, found: Mapping[Any, Any], truth: Mapping[Any, Any], few: Collection[Any]) -> None:
        """Whatever is shown is so, and all is shown, unless something is of `few` subjects: then nothing is."""
        shown = {cell: figure for cell, figure in found.items() if figure is not ceiba.WITHHELD}
        wanted = {} if few else truth
        name = f"{name}: {len(shown)} exact" if shown else f"{name}: withheld, because of {len(few)} small cells"
        of_it, of_truth = (sorted(cells.items(), key=str) for cells in (shown, wanted))
        self.lab.check(name, of_it, of_truth)

    # --- at the end

    def look_at_the_coordinator(self) -> None:
        """Nothing that it has stored or logged has anybody's code, in any of the spellings."""
        stored = [path.read_bytes() for path in self.sandbox.coordinator_folder.rglob("*") if path.is_file()]
        spelt = {one.spelling(code(kind, 0))[:PREFIX] for one in AGENCIES for kind in (PROPRIETORS, FIRMS)}
        found = sum(content.count(beginning.encode()) for content in stored for beginning in spelt)
        self.lab.check("credit codes in what the coordinator has stored, in any spelling", found, 0)

    def verify_receipts(self) -> None:
        """Every joined answer's receipt, and offline, with nothing but the roster."""
        receipts = [one.receipt for one in self._results if isinstance(one.receipt, Receipt)]
        for one in receipts:
            one.verify()
        last = [receipt.verify(one.document, self.space.roster)[-1] for one in receipts]
        held = [step.error is None for step in last]
        self.lab.check("receipts that hold offline, with the roster alone", held, [True] * len(self._results))

    def write_report(self) -> Path:
        """What was asked, of whom, and what each party saw; then the answers."""
        asked = Listing(("", "step"), list(enumerate(self._asked, 1)))
        names = _listed([BANK, *(one.name for one in OF_OWNERS)])
        others = _listed(one.name for one in OF_FIRMS)
        about = f"{ANALYST} asked {names}" + (f"; about listed firms, {others}." if self.world.size.firms else ".")
        self.report.section("What was done, and with whom", about, asked)
        self.report.section("What each party saw", Listing(("party", "saw"), self.parties()), NOT_PROTECTED)
        for heading, parts in self._sections:
            self.report.section(heading, *parts)
        checks = Listing(("check", ""), [(one.name, "ok" if one.ok else "FAILED") for one in self.lab.checks])
        self.report.section("Compared with the pooled rows", "In a real space nobody has these.", checks)
        return self.report.write(self.lab.folder / "report.html")

    # --- who saw what

    def parties(self) -> list[tuple[str, str]]:
        """Party, what it saw."""
        rows = {table: f"{name} {report.rows:,}" for (name, table), report in self.sandbox.reports.items()}
        owners = ", ".join(rows[one.owners_table] for one in OF_OWNERS)
        firms = ", ".join(rows[one.firms_table] for one in OF_FIRMS if one.firms_table in rows)
        analyst = (
            f"its own borrowers, as before; the counts of bins and pairs, each of at least {self.least} people, and "
            "the sums of sectors; for each consent one number of points, and of the firm which features cost it most; "
            "of an applicant nothing beyond what one number says, and not which agencies know somebody"
        )
        agency = (
            f"its own rows (of applicants: {owners}; of firms: {firms or 'none'}) and the questions; how many people "
            "another member has in each of its groups, to the next 16; of its own groups, how many of each another "
            "knows; which cells were released; whom it is asked to score, each with a consent, but neither points nor "
            "scores. The points of the index it knows, because it has approved them"
        )
        coordinator = (
            "the questions, who sent whom how much and when, which model asked for how many scores; every message is "
            f"sealed, and no identifier passes it in the open; {self.lab.wire_bytes:,} bytes went to {ANALYST}"
        )
        return [
            (ANALYST, analyst),
            (f"{BANK}, the node", "how many of the good and of the bad each agency knows, not whom"),
            ("each agency", agency),
            (self.issuer.name, "who has said yes to which model; no score"),
            ("coordinator", coordinator),
            ("everybody else", "the agreements, and a log of who signed what, which the holders have witnessed"),
        ]

    def say_who_saw_what(self) -> None:
        self.lab.say("\nWho saw what")
        for party, saw in self.parties():
            self.lab.say(f"  {party}: {saw}.")
        self.lab.say(NOT_PROTECTED)


NOT_PROTECTED = (
    "Not protected: what counts say about groups. The bank knows its own borrowers, so the counts also tell it how "
    "many of the good and of the bad an agency does not know, however few. An agency learns whom the bank scores. How "
    "many people are behind a member's groups, the others take from it on trust, as the agreement says. And joined "
    "exact answers are of one table: by how many in common two of its cells differ, nobody sees."
)


def sql_of(binning: Binning, values: Sequence[str] = ()) -> str:
    """What DuckDB is to make of each bin, in their order: `values`, or the bins' labels."""
    name, (*named, missing) = binning.name, values or list(map(_quoted, binning.labels))
    tests = [f"{name} IN ({', '.join(map(_quoted, group))})" for group in binning.groups]
    tests = tests or [*(f"{name} < {edge}" for edge in binning.edges), f"{name} IS NOT NULL"]
    whens = " ".join(f"WHEN {test} THEN {value}" for test, value in zip(tests, named, strict=True))
    return f"CASE {whens} ELSE {missing} END"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
