"""Four hospitals answer a research group's questions under an agreement, and no patient's row leaves its hospital.

The data are real (data/README.md). Every number is checked against the same computation on the pooled rows, which in
a real space nobody has: DuckDB groups them, Python's fractions and `statistics` finish without an error of their own.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pandas

import ceiba
from ceiba.query import Query
from ceiba.receipts import Receipt
from ceiba.result import Result
from ceiba_protocol.trust import receipt
from ceiba_scenarios.sandbox import Sandbox
from ceiba_scenarios.story import Lab

DATA = Path(__file__).parent.parent / "data"
POOLED = DATA / "heart_disease.csv"
TABLE = "health.heart"
PURPOSE, ASK_FIRST = "research on heart disease", "counting patients"
PREVALENCE = """SELECT sex,
       CASE WHEN age < 45 THEN 'under 45' WHEN age < 60 THEN '45 to 59' ELSE '60 and over' END AS age_band,
       COUNT(*) AS patients,
       AVG(CASE WHEN diagnosis > 0 THEN 1 ELSE 0 END) AS with_disease
FROM health.heart GROUP BY sex, age_band"""
MEASURED = ("cholesterol", "max_heart_rate")
PAIRS = (("age", "max_heart_rate"), ("age", "cholesterol"), ("max_heart_rate", "st_depression"))
LOW, WIDTH, BINS = 60, 30, 5
"""The histogram of the highest heart rate: bins of 30 beats a minute."""


def run(lab: Lab) -> None:
    """A space of four hospitals, an agreement, five questions, one that people decide on, receipts, who saw what."""
    files = split_by_hospital(lab.folder / "hospitals")
    holders = {hospital: {TABLE: file} for hospital, file in files.items()}
    lab.say("Starting a coordinator, four hospitals with their own patients' records, and a merchant, bank-a ...")
    lab.say(
        "Each `ok` compares with DuckDB on all rows pooled, which in a real space nobody has: equal to the last digit."
    )
    with lab.sandbox(holders, schemas={TABLE: DATA / "heart.toml"}) as sandbox:
        asking = Asking(lab, sandbox)
        asking.agree()
        ask_prevalence(asking)
        ask_prevalence_in_python(asking)
        ask_by_diagnosis(asking)
        ask_correlations(asking)
        ask_histogram(asking)
        ask_where_people_decide(asking)
        asking.verify_receipts()
        asking.say_who_saw_what()


def split_by_hospital(folder: Path) -> dict[str, Path]:
    """Each hospital's own file, as it would have it at home."""
    folder.mkdir()
    files = {}
    for hospital, rows in pandas.read_csv(POOLED, dtype=str).groupby("hospital"):
        name = str(hospital).replace("_", "-")
        files[name] = folder / f"{name}.csv"
        rows.drop(columns="hospital").to_csv(files[name], index=False)
    return files


class Asking:
    """bank-a at work: asks, shows, checks against the pooled rows, and remembers what was asked."""

    def __init__(self, lab: Lab, sandbox: Sandbox) -> None:
        self.lab = lab
        self.sandbox = sandbox
        self.space = sandbox.merchant("bank-a", agreed=False)
        self.heart = self.space.table(TABLE)
        self.heart_holders = self.space.roster.table(TABLE).holders
        self._pool = open_pool()
        self._asked: list[Query] = []
        self._receipts: list[Receipt] = []

    def agree(self) -> None:
        """The way to the first question: tokens, a roster, an agreement."""
        roster = self.space.roster
        self.lab.say(
            f"""
Everybody joined with a one-use token and made its own keys. Roster {roster.version} has these words, which in a real
space the members compare by telephone before they sign it; {roster.quorum} of {len(roster.signers)} hospitals must:
  {roster.fingerprint}"""
        )
        handle = self.sandbox.agree(self.space, TABLE, purpose=PURPOSE, jobs=20, days=30)
        self.lab.say(f"\nbank-a proposed this agreement, and the officer of each hospital signed it:\n\n{handle.text}")

    def ask(self, title: str, query: Query) -> Result:
        """The answer, not shown yet."""
        self.announce(title, query)
        return self.remember(query.run())

    def announce(self, title: str, query: Query) -> None:
        self.lab.say(f"\n{len(self._asked) + 1}. {title}")
        self._asked.append(query)

    def remember(self, result: Result) -> Result:
        """For its receipt."""
        assert result.receipt is not None
        self._receipts.append(result.receipt)
        return result

    def verify_receipts(self) -> None:
        """Every answer's receipt, here and as an auditor would: offline, with nothing but the roster."""
        for one in self._receipts:
            one.verify()
        last, file = self._receipts[-1], self.lab.folder / "receipt.json"
        last.save(file)
        self.lab.say(f"\nThe last answer's receipt, kept in {file.name}:\n{last}")
        offline = [receipt.verify(one.document, self.space.roster)[-1] for one in self._receipts]
        held = [step.error is None and step.number == len(receipt.STEPS) for step in offline]
        self.lab.check("receipts that hold offline, with the roster alone", held, [True] * len(held))

    def pooled(self, select: str) -> list[tuple[Any, ...]]:
        """What DuckDB finds in all hospitals' rows together."""
        return self._pool.sql(select).fetchall()

    def say_who_saw_what(self) -> None:
        """In numbers: what the questions' plans need, and what the answers took."""
        explained = [query.explain() for query in self._asked]
        totals = sum(one.cells * one.sums for one in explained)
        ciphertexts = sum(one.ciphertexts for one in explained)
        rows = {holder: report.rows for (holder, _), report in self.sandbox.reports.items()}
        homes = ", ".join(f"{holder} {count}" for holder, count in rows.items())
        self.lab.say(
            f"""
Who saw what, in {len(explained)} questions over {sum(rows.values())} patients of {len(rows)} hospitals
  bank-a       the answers above: {totals} totals over all hospitals, in {ciphertexts} ciphertexts that it decrypted;
               no patient's row, and no hospital's own figures
  hospitals    each its own rows ({homes}) and the questions;
               no other hospital's figures, and no answer
  coordinator  the questions, who answered and when, and {ciphertexts * len(rows)} ciphertexts that it cannot open;
               hospitals sent {self.lab.wire_bytes:,} bytes for all answers together
  everybody    the agreements, and a log of who signed what, which the hospitals have witnessed
No row left a hospital. Small groups are not hidden yet: each group's exact figures are released."""
        )


# --- the questions ----------------------------------------------------------------------------------------------


def ask_prevalence(asking: Asking) -> None:
    """The share of patients with heart disease, by sex and age band, in SQL."""
    result = asking.ask(f"How common is heart disease? In SQL:\n{PREVALENCE}", asking.space.sql(PREVALENCE))
    asking.lab.show(result)
    check_prevalence(asking, "in SQL", result)


def ask_prevalence_in_python(asking: Asking) -> None:
    """The same question without SQL."""
    heart = asking.heart
    band = ceiba.case((heart.age < 45, "under 45"), (heart.age < 60, "45 to 59"), otherwise="60 and over")
    ill = ceiba.case((heart.diagnosis > 0, 1), otherwise=0)
    query = heart.group_by("sex", band.alias("age_band")).agg(patients=ceiba.count(), with_disease=ceiba.mean(ill))
    result = asking.ask(
        "The same in Python: heart.group_by('sex', age_band).agg(patients=count(), with_disease=mean(ill))", query
    )
    asking.lab.show(result)
    check_prevalence(asking, "in Python", result)


def check_prevalence(asking: Asking, form: str, result: Result) -> None:
    select = """SELECT sex, if(age < 45, 'under 45', if(age < 60, '45 to 59', '60 and over')) AS band,
        COUNT(*), COUNT(*) FILTER (diagnosis > 0) FROM pool GROUP BY sex, band"""
    expected = [(sex, band, patients, ill / patients) for sex, band, patients, ill in asking.pooled(select)]
    asking.lab.check(f"share with disease, {form}", sorted(result.rows), sorted(expected))


def ask_by_diagnosis(asking: Asking) -> None:
    """Mean and spread of two measurements; a cholesterol of 0 means that it was not measured, and is left out."""
    query = asking.heart.group_by("diagnosis").agg(
        patients=ceiba.count(),
        cholesterol=ceiba.mean("cholesterol"),
        cholesterol_sd=ceiba.stddev("cholesterol"),
        max_heart_rate=ceiba.mean("max_heart_rate"),
        max_heart_rate_sd=ceiba.stddev("max_heart_rate"),
    )
    result = asking.lab.show(asking.ask("How do patients differ by diagnosis, from 0, none, to 4?", query))
    select = "SELECT diagnosis, COUNT(*), {} FROM pool GROUP BY diagnosis ORDER BY diagnosis"
    groups = asking.pooled(select.format(", ".join(f"list({name}) FILTER ({name} IS NOT NULL)" for name in MEASURED)))
    asking.lab.check("patients with each diagnosis", [row[:2] for row in result], [group[:2] for group in groups])
    for place, name in enumerate(MEASURED, start=2):
        values = [[Fraction(value) for value in group[place]] for group in groups]
        asking.lab.check(f"mean of {name}", result[name], [float(statistics.mean(group)) for group in values])
        spreads = [statistics.stdev(group) for group in values]
        asking.lab.check(f"standard deviation of {name}", result[f"{name}_sd"], spreads)


def ask_correlations(asking: Asking) -> None:
    """How measurements go together, each pair over the patients who have both."""
    wanted = {f"{left}__{right}": ceiba.correlation(left, right) for left, right in PAIRS}
    result = asking.lab.show(asking.ask("Which measurements go together? Correlations:", asking.heart.agg(**wanted)))
    for (left, right), got in zip(PAIRS, result[0], strict=True):
        both = f"SELECT {left}, {right} FROM pool WHERE {left} IS NOT NULL AND {right} IS NOT NULL"  # noqa: S608
        asking.lab.check(f"correlation of {left} and {right}", got, correlation(asking.pooled(both)))


def ask_histogram(asking: Asking) -> None:
    """How the highest heart rate is distributed."""
    query = asking.heart.agg(bins=ceiba.histogram("max_heart_rate", LOW, LOW + WIDTH * BINS, BINS))
    answer = asking.ask("How high does the heart rate get? Patients in bins of 30 beats a minute:", query)
    bins = [tuple(entry.values()) for entry in answer.value if entry["from"] is not None and entry["to"] is not None]
    asking.lab.show(replace(answer, columns=("from", "below", "patients"), rows=bins))
    select = f"""SELECT (max_heart_rate - {LOW}) // {WIDTH} AS bin, COUNT(*)
        FROM pool WHERE max_heart_rate IS NOT NULL GROUP BY bin ORDER BY bin"""  # noqa: S608
    expected = [(LOW + WIDTH * place, LOW + WIDTH * (place + 1), patients) for place, patients in asking.pooled(select)]
    asking.lab.check("histogram of max_heart_rate", bins, expected)


def ask_where_people_decide(asking: Asking) -> None:
    """The same agreement, but for each job a person at each hospital decides."""
    asking.sandbox.agree(asking.space, TABLE, purpose=ASK_FIRST, jobs=5, days=30, approval="each job")
    query = asking.heart.agg(patients=ceiba.count())
    asking.announce(
        f"How many patients are there? Under a second agreement ({ASK_FIRST}), people decide on each job:", query
    )
    job = query.submit(purpose=ASK_FIRST)
    for hospital in asking.heart_holders:
        asking.sandbox.decide(hospital, job.id)
        asking.lab.say(f"  a person at {hospital} read it and approved")
    result = asking.remember(asking.lab.show(job.wait()))
    asking.lab.check("patients, where people decide", result.value, asking.pooled("SELECT COUNT(*) FROM pool")[0][0])


# --- the oracle -------------------------------------------------------------------------------------------------


def open_pool() -> duckdb.DuckDBPyConnection:
    """All hospitals' rows in one table, numbers in exact types. Only a laboratory can have it."""
    pool = duckdb.connect()
    pool.execute(
        """CREATE TABLE pool AS SELECT sex, age::INTEGER AS age, diagnosis::INTEGER AS diagnosis,
        nullif(cholesterol::INTEGER, 0) AS cholesterol, max_heart_rate::INTEGER AS max_heart_rate,
        st_depression::DECIMAL(4, 1) AS st_depression FROM read_csv(?)""",
        [str(POOLED)],
    )
    return pool


def correlation(pairs: Sequence[tuple[Any, ...]]) -> float:
    """Pearson's correlation in fractions, its root to 50 digits, rounded once."""
    lefts, rights = ([Fraction(value) for value in side] for side in zip(*pairs, strict=True))
    left, right = statistics.mean(lefts), statistics.mean(rights)
    joint = sum((x - left) * (y - right) for x, y in zip(lefts, rights, strict=True))
    spread = sum((x - left) ** 2 for x in lefts) * sum((y - right) ** 2 for y in rights)
    square = Fraction(joint * joint / spread)
    with localcontext(prec=50):
        root = (Decimal(square.numerator) / square.denominator).sqrt()
        return float(root.copy_sign(Decimal(1 if joint > 0 else -1)))
