"""Four hospitals answer a research group's questions under an agreement, and only safe answers leave.

The data are real (data/README.md), and of grade sensitive: small groups are withheld, answers carry noise unless
people at every hospital approve an exact one, and what was answered limits what may be asked next. Every number is
checked against the same computation on the pooled rows, which in a real space nobody has: DuckDB groups them, Python's
fractions and `statistics` finish without an error of their own.
"""

import statistics
from collections.abc import Sequence
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
from ceiba_protocol.disclosure.gate import threshold_of
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.trust import receipt
from ceiba_scenarios.sandbox import Sandbox
from ceiba_scenarios.story import Lab

DATA = Path(__file__).parent.parent / "data"
POOLED = DATA / "heart_disease.csv"
TABLE = "health.heart"
PURPOSE = "research on heart disease"
PREVALENCE = """SELECT sex,
       CASE WHEN age < 45 THEN 'under 45' WHEN age < 60 THEN '45 to 59' ELSE '60 and over' END AS age_band,
       COUNT(*) AS patients,
       AVG(CASE WHEN diagnosis > 0 THEN 1 ELSE 0 END) AS with_disease
FROM health.heart GROUP BY sex, age_band"""
MEASURED = ("cholesterol", "max_heart_rate")
LOW, WIDTH, BINS = 60, 30, 5
"""The histogram of the highest heart rate: bins of 30 beats a minute."""
SIX_SIGMA = 3.0615
"""Six standard deviations over half a 95 % interval: noise beyond it happens once in a billion."""


def run(lab: Lab) -> None:
    """A space of four hospitals, an agreement, exact answers that people approve, answers with noise, two that are not
    safe, budgets, receipts, who saw what."""
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
        ask_prevalence_with_noise(asking)
        ask_by_chest_pain(asking)
        ask_correlation(asking)
        ask_histogram_with_noise(asking)
        ask_nearly_the_same(asking)
        ask_beyond_the_budget(asking)
        asking.verify_receipts()
        asking.say_what_it_cost()
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
        self.hospitals = self.space.roster.table(TABLE).holders
        self._pool = open_pool()
        self._asked: list[tuple[Query, Result]] = []

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
        self.rules = handle.contract.agreement.disclosure
        self.lab.say(f"\nbank-a proposed this agreement, and the officer of each hospital signed it:\n\n{handle.text}")

    # --- asking

    def ask_exactly(self, title: str, query: Query) -> Result:
        """An exact answer, which a person at each hospital approves."""
        self._announce(title)
        job = query.submit(noise=False)
        for hospital in self.hospitals:
            self.sandbox.decide(hospital, job.id)
        self.lab.say(f"  A person at each of {', '.join(self.hospitals)} read it and approved.")
        return self._remember(query, job.wait())

    def ask_with_noise(self, title: str, query: Query, rho: str) -> Result:
        """An answer with noise, which no person has to approve."""
        self._announce(title)
        return self._remember(query, query.run(noise=ceiba.Noise(rho)))

    def ask_in_vain(self, title: str, query: Query, rho: str) -> CeibaError | None:
        """The refusal, if it is one."""
        self._announce(title)
        try:
            query.run(noise=ceiba.Noise(rho))
        except CeibaError as error:
            self.lab.say(f"  {error}")
            return error
        return None

    def _announce(self, title: str) -> None:
        self._number = getattr(self, "_number", 0) + 1
        self.lab.say(f"\n{self._number}. {title}")

    def _remember(self, query: Query, result: Result) -> Result:
        self._asked.append((query, result))
        return result

    # --- comparing

    def pooled(self, select: str) -> list[tuple[Any, ...]]:
        """What DuckDB finds in all hospitals' rows together."""
        return self._pool.sql(select).fetchall()

    def passes(self, counts: Sequence[int]) -> bool:
        """Whether these hospitals' counts are enough: at least k patients, and no h − 1 hospitals alone."""
        threshold = threshold_of(self.rules)
        return sum(min(count, threshold.cap) for count in counts) >= threshold.least

    # --- at the end

    def verify_receipts(self) -> None:
        """Every answer's receipt, here and as an auditor would: offline, with nothing but the roster."""
        receipts = [result.receipt for _, result in self._asked if isinstance(result.receipt, Receipt)]
        for one in receipts:
            one.verify()
        last, file = receipts[-1], self.lab.folder / "receipt.json"
        last.save(file)
        self.lab.say(f"\nThe last answer's receipt, kept in {file.name}:\n{last}")
        offline = [receipt.verify(one.document, self.space.roster)[-1] for one in receipts]
        held = [step.error is None and step.number == len(receipt.STEPS) for step in offline]
        self.lab.check("receipts that hold offline, with the roster alone", held, [True] * len(held))

    def say_what_it_cost(self) -> None:
        """One hospital's own book."""
        hospital = self.hospitals[0]
        self.lab.say(f"\nThe ledger of {hospital}, as `ceiba-node ledger` shows it there:\n")
        self.lab.say(self.sandbox.ledger(hospital))

    def say_who_saw_what(self) -> None:
        """In numbers: what the questions' plans need, and what the answers took."""
        explained = [query.explain() for query, _ in self._asked]
        ciphertexts = sum(one.ciphertexts for one in explained)
        withheld = sum(len(result.withheld) for _, result in self._asked)
        rows = {holder: report.rows for (holder, _), report in self.sandbox.reports.items()}
        k, h, cap = self.rules.minimum_subjects, self.rules.minimum_holders, threshold_of(self.rules).cap
        homes = ", ".join(f"{holder} {count}" for holder, count in rows.items())
        self.lab.say(
            f"""
Who saw what, in {len(explained)} answers over {sum(rows.values())} patients of {len(rows)} hospitals
  bank-a       the answers above, in {ciphertexts} ciphertexts that it decrypted; of {withheld} rows, that something
               was withheld; no patient's row, and no hospital's own figures
  hospitals    each its own rows ({homes}) and the questions; for each cell
               the sum of all hospitals' counts, each cut off at {cap}; no answer
  coordinator  the questions, who answered and when, which cells were withheld, and {ciphertexts * len(rows)}
               ciphertexts that it cannot open; hospitals sent {self.lab.wire_bytes:,} bytes for all answers together
  everybody    the agreements, and a log of who signed what, which the hospitals have witnessed
No row left a hospital, and no exact cell of fewer than {k} patients or {h} hospitals."""
        )


# --- the questions ----------------------------------------------------------------------------------------------


def ask_prevalence(asking: Asking) -> None:
    """The share of patients with heart disease, by sex and age band, in SQL. Few ill, or few healthy, are withheld."""
    title = f"How common is heart disease? Exactly, in SQL:\n{PREVALENCE}"
    result = asking.lab.show(asking.ask_exactly(title, asking.space.sql(PREVALENCE)))
    expected = []
    for sex, band, patients, ill in prevalence_by_hospital(asking):
        healthy = [n - m for n, m in zip(patients, ill, strict=True)]
        few = not asking.passes(ill) or (sum(healthy) > 0 and not asking.passes(healthy))
        expected.append((sex, band, sum(patients), ceiba.WITHHELD if few else sum(ill) / sum(patients)))
    asking.lab.check(
        "share with disease, and which were withheld", sorted(result.rows, key=str), sorted(expected, key=str)
    )


def ask_prevalence_with_noise(asking: Asking) -> None:
    """The same with noise: no person has to approve, no cell is small enough to be told apart, and it costs ρ."""
    heart = asking.heart
    band = ceiba.case((heart.age < 45, "under 45"), (heart.age < 60, "45 to 59"), otherwise="60 and over")
    ill = ceiba.case((heart.diagnosis > 0, 1), otherwise=0)
    query = heart.group_by("sex", band.alias("age_band")).agg(patients=ceiba.count(), with_disease=ceiba.mean(ill))
    title = (
        "The same with noise, in Python: heart.group_by('sex', age_band).agg(patients=count(), with_disease=mean(ill))"
    )
    result = asking.lab.show(asking.ask_with_noise(title, query, "0.02"))
    truth = {(sex, band): sum(patients) for sex, band, patients, _ in prevalence_by_hospital(asking)}
    near = [is_near(result, row, "patients", truth[tuple(result[row][:2])]) for row in range(len(result))]
    asking.lab.check("patients, within six standard deviations of the noise", near, [True] * len(truth))
    again = query.run(noise=ceiba.Noise("0.02"))
    asking.lab.check("asked again, it has the same noise, and costs nothing", again.rows, result.rows)


def prevalence_by_hospital(asking: Asking) -> list[tuple[str, str, list[int], list[int]]]:
    select = """SELECT sex, if(age < 45, 'under 45', if(age < 60, '45 to 59', '60 and over')) AS band, hospital,
        COUNT(*), COUNT(*) FILTER (diagnosis > 0) FROM pool GROUP BY ALL ORDER BY ALL"""
    groups: dict[tuple[str, str], tuple[list[int], list[int]]] = {}
    for sex, band, _, patients, ill in asking.pooled(select):
        counts = groups.setdefault((sex, band), ([], []))
        counts[0].append(patients)
        counts[1].append(ill)
    return [(sex, band, *counts) for (sex, band), counts in groups.items()]


def is_near(result: Result, row: int, column: str, truth: float) -> bool:
    """Whether a number with noise is where its noise lets it be."""
    interval = result.interval(row, column)
    if interval is None:
        return False
    low, high = interval
    return bool(abs(result[column][row] - truth) <= SIX_SIGMA * (high - low) / 2)


def ask_by_chest_pain(asking: Asking) -> None:
    """Mean and spread of two measurements; a cholesterol of 0 means that it was not measured, and is left out."""
    query = asking.heart.group_by("chest_pain").agg(
        patients=ceiba.count(),
        cholesterol=ceiba.mean("cholesterol"),
        cholesterol_sd=ceiba.stddev("cholesterol"),
        max_heart_rate=ceiba.mean("max_heart_rate"),
        max_heart_rate_sd=ceiba.stddev("max_heart_rate"),
    )
    result = asking.lab.show(asking.ask_exactly("How do patients differ by their chest pain?", query))
    select = "SELECT chest_pain, COUNT(*), {} FROM pool GROUP BY chest_pain"
    lists = ", ".join(f"list({name}) FILTER ({name} IS NOT NULL)" for name in MEASURED)
    found = {group[0]: group for group in asking.pooled(select.format(lists))}
    groups = [found[pain] for pain in result["chest_pain"]]
    check_released(asking, "patients with each kind of pain", result["patients"], [group[1] for group in groups])
    for place, name in enumerate(MEASURED, start=2):
        values = [[Fraction(value) for value in group[place]] for group in groups]
        check_released(asking, f"mean of {name}", result[name], [float(statistics.mean(group)) for group in values])
        spreads = [statistics.stdev(group) for group in values]
        check_released(asking, f"standard deviation of {name}", result[f"{name}_sd"], spreads)


def check_released(asking: Asking, name: str, got: Sequence[Any], expected: Sequence[Any]) -> None:
    """What was released is exact; what was withheld says so, and is not all."""
    wanted = [ceiba.WITHHELD if one is ceiba.WITHHELD else truth for one, truth in zip(got, expected, strict=True)]
    released = sum(one is not ceiba.WITHHELD for one in got)
    asking.lab.check(f"{name}, of {released} released", list(got) if released else None, wanted)


def ask_correlation(asking: Asking) -> None:
    """How two measurements go together, over the patients who have both."""
    query = asking.heart.agg(r=ceiba.correlation("age", "max_heart_rate"))
    result = asking.lab.show(asking.ask_exactly("Does the highest heart rate fall with age? The correlation:", query))
    both = "SELECT age, max_heart_rate FROM pool WHERE max_heart_rate IS NOT NULL"
    asking.lab.check("correlation of age and max_heart_rate", result.value, correlation(asking.pooled(both)))


def ask_histogram_with_noise(asking: Asking) -> None:
    """How the highest heart rate is distributed, with noise."""
    query = asking.heart.group_by(
        ceiba.width_bucket(asking.heart.max_heart_rate, LOW, LOW + WIDTH * BINS, BINS).alias("bin")
    ).agg(patients=ceiba.count())
    title = "How high does the heart rate get? Patients in bins of 30 beats a minute from 60 on, with noise:"
    result = asking.lab.show(asking.ask_with_noise(title, query, "0.02"))
    select = f"SELECT (max_heart_rate - {LOW}) // {WIDTH} + 1 AS bin, COUNT(*) FROM pool GROUP BY bin"  # noqa: S608
    truth = dict(asking.pooled(select))
    shown = [row for row in range(len(result)) if result[row][1] is not ceiba.WITHHELD]
    near = [is_near(result, row, "patients", truth.get(result[row][0], 0)) for row in shown]
    asking.lab.check("bins that were released, within six standard deviations", near, [True] * len(shown))


def ask_nearly_the_same(asking: Asking) -> None:
    """The tracker: everybody, but for the few of one age. Together with the first answer it would be about them."""
    heart = asking.heart
    query = heart.filter(heart.age != 76).agg(
        patients=ceiba.count(), ill=ceiba.mean(ceiba.case((heart.diagnosis > 0, 1), otherwise=0))
    )
    few = asking.pooled("SELECT COUNT(*) FROM pool WHERE age = 76")[0][0]
    title = f"A tracker: all patients but those of age 76. With the first answer it would be about {few} of them."
    result = asking.lab.show(asking.ask_exactly(title, query))
    asking.lab.check("the tracker gets nothing", result.rows, [(ceiba.WITHHELD, ceiba.WITHHELD)])


def ask_beyond_the_budget(asking: Asking) -> None:
    """What is left of the year's ρ is less than this."""
    query = asking.heart.group_by("chest_pain").agg(patients=ceiba.count())
    error = asking.ask_in_vain("Less noise than is left of the year's budget:", query, "0.08")
    asking.lab.check("it is refused", error is not None and "0.08" in str(error), True)


# --- the oracle -------------------------------------------------------------------------------------------------


def open_pool() -> duckdb.DuckDBPyConnection:
    """All hospitals' rows in one table, numbers in exact types. Only a laboratory can have it."""
    pool = duckdb.connect()
    pool.execute(
        """CREATE TABLE pool AS SELECT hospital, sex, age::INTEGER AS age, diagnosis::INTEGER AS diagnosis, chest_pain,
        nullif(cholesterol::INTEGER, 0) AS cholesterol, max_heart_rate::INTEGER AS max_heart_rate
        FROM read_csv(?)""",
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
