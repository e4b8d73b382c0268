"""A research group does a study over four hospitals: cohort, table one, odds ratio, logistic regression, survival.

Heart disease (data/README.md) is of grade internal here: the hospitals have agreed on a study with an extract
without names, and a regression is an exact answer. Under grade sensitive, as in `health_sharing`, five exact answers
would be all. The lung trial has been published, so its grade is public and every event time may be shown.

Every figure is compared with the same computation on the pooled rows, which in a real space nobody has, or with what
was published about them. The run's folder keeps report.html, with the plots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pandas
from scipy import stats

import ceiba
from ceiba.analyses.survival import Curve
from ceiba.analysis import Analysis, Outcome
from ceiba.query import Query
from ceiba.receipts import Receipt
from ceiba.result import Result
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.statistics import Withheld
from ceiba_protocol.trust import receipt
from ceiba_scenarios.report import Captioned, HtmlReport, Listing, Part
from ceiba_scenarios.sandbox import Sandbox
from ceiba_scenarios.stories.health_sharing import DATA, TABLE, split_by_hospital
from ceiba_scenarios.story import Lab

TRIAL = "research.lung"
PURPOSE = "risk factors of heart disease"
FORMULA = "I(diagnosis > 0) ~ age + C(sex) + fasting_sugar_high"
MEASURED = ("age", "max_heart_rate", "resting_bp")
DIGITS = 6
"""Significant digits of what is compared, where both sides have rounded."""
PUBLISHED_MEDIANS = {"all": 310, "men": 270, "women": 426}
"""Days, of the trial's patients, of its men and of its women (R's package survival, `survfit`)."""
PUBLISHED_COX = {"age": 0.017045, "sex": -0.513219}
"""Logarithms of hazard ratios, ties by Efron (R's package survival, `coxph`)."""

Found = TypeVar("Found", bound=Outcome)
Floats = npt.NDArray[np.float64]


def run(lab: Lab) -> None:
    """A study in eight questions, two that are refused, receipts, and a report with plots."""
    files = split_by_hospital(lab.folder / "hospitals")
    trial = split_trial(lab.folder / "trial", sorted(files))
    holders = {name: {TABLE: files[name], TRIAL: trial[name]} for name in files}
    schemas = {TABLE: internal(lab.folder / "heart.toml"), TRIAL: DATA / "lung.toml"}
    lab.say(
        "Starting a coordinator, four hospitals with their own patients' records, and a research group, uni-lab ..."
    )
    lab.say("Each `ok` compares with the same computation on all rows pooled, or with published figures.")
    with lab.sandbox(holders, schemas=schemas) as sandbox:
        study = Study(lab, sandbox)
        study.agree()
        ask_cohort(study)
        ask_odds_ratio(study)
        ask_table_one(study)
        ask_logistic(study)
        ask_survival(study)
        ask_cox(study)
        ask_in_vain(study)
        study.verify_receipts()
        study.say_who_saw_what()
        path = study.write_report()
        lab.say(f"\nThe report, with plots: {path}")


def split_trial(folder: Path, hospitals: Sequence[str]) -> dict[str, Path]:
    """The trial's 18 institutions, joined into as many parts as there are hospitals; one patient's is not known."""
    folder.mkdir()
    rows = pandas.read_csv(DATA / "lung.csv")
    number = rows["inst"].fillna(rows["inst"].iloc[0]).astype(int) % len(hospitals)
    files = {}
    for place, name in enumerate(hospitals):
        files[name] = folder / f"{name}.csv"
        rows[number == place].drop(columns="inst").to_csv(files[name], index=False)
    return files


def internal(path: Path) -> Path:
    """The hospitals' data standard with the grade that this study has agreed on."""
    path.write_text((DATA / "heart.toml").read_text().replace('grade = "sensitive"', 'grade = "internal"'))
    return path


class Study:
    """uni-lab at work: asks, shows, checks, and writes its report as it goes."""

    def __init__(self, lab: Lab, sandbox: Sandbox) -> None:
        self.lab = lab
        self.sandbox = sandbox
        self.space = sandbox.merchant("uni-lab", agreed=False)
        self.heart = self.space.table(TABLE)
        self.trial = self.space.table(TRIAL)
        self.patients = pooled_heart()
        self.trial_patients = pandas.read_csv(DATA / "lung.csv")
        self.report = HtmlReport(
            "Risk factors of heart disease, and survival with lung cancer",
            "A study over four hospitals that hand over no row. uni-lab asked; each hospital computed on its own "
            "patients; only totals over all four were opened.",
        )
        self._results: list[Result] = []
        self._asked: list[str] = []
        self._sections: list[tuple[str, tuple[Any, ...]]] = []

    def agree(self) -> None:
        """One agreement for each table; the sandbox's officers sign them."""
        for table, what in ((TABLE, PURPOSE), (TRIAL, "survival with lung cancer")):
            handle = self.sandbox.agree(self.space, table, purpose=what, jobs=30, days=90)
            if table == TABLE:
                self.rules = handle.contract.agreement.disclosure
                self.lab.say(
                    f"\nuni-lab proposed this agreement, and the officer of each hospital signed it:\n\n{handle.text}"
                )

    @overload
    def ask(self, title: str, question: Analysis[Found]) -> Found: ...
    @overload
    def ask(self, title: str, question: Query) -> Result: ...
    def ask(self, title: str, question: Any) -> Any:
        """Ask for exact figures, and show them."""
        self._asked.append(title)
        self.lab.say(f"\n{len(self._asked)}. {title}")
        found = question.run(noise=False)
        self._results.append(found.result if isinstance(found, Outcome) else found)
        return self.lab.show(found)

    def note(self, title: str, told: str) -> None:
        """A question that gave no result."""
        self._asked.append(title)
        self.lab.say(f"\n{len(self._asked)}. {title}\n{told}")

    def write(self, heading: str, *parts: Any) -> None:
        """Keep a section of the report; its first page is written last."""
        self._sections.append((heading, parts))

    def check_close(self, name: str, got: Sequence[float | None], expected: Sequence[float]) -> None:
        """Equal to six significant digits, which is what the rounding of both sides leaves."""
        self.lab.check(name, [_digits(one) for one in got], [_digits(one) for one in expected])

    def verify_receipts(self) -> None:
        """Every answer's receipt, with nothing but the roster."""
        receipts = [one.receipt for one in self._results if isinstance(one.receipt, Receipt)]
        for one in receipts:
            one.verify()
        offline = [receipt.verify(one.document, self.space.roster)[-1] for one in receipts]
        held = [step.error is None and step.number == len(receipt.STEPS) for step in offline]
        self.lab.check("receipts that hold offline, with the roster alone", held, [True] * len(self._results))

    # --- who saw what

    def parties(self) -> list[tuple[str, str]]:
        """Party, what it saw."""
        rows = {name: report.rows for (name, table), report in self.sandbox.reports.items() if table == TABLE}
        homes = ", ".join(f"{name} {count}" for name, count in rows.items())
        k, h = self.rules.minimum_subjects, self.rules.minimum_holders
        totals = (
            f"the {len(self._results)} answers of this report: totals over all hospitals, each about at least {k} "
            f"patients of {h} hospitals, or, of the public trial, about any; no row, and no hospital's own figures"
        )
        sums = (
            f"its own rows ({homes}) and the questions; of each cell, the sum of all hospitals' counts, cut off; of "
            "the regressions and the survival curves also the sums of every round over all hospitals"
        )
        passed_on = (
            "the questions, who answered and when, how many rounds each took, what was withheld, and ciphertexts that "
            f"it cannot open; hospitals sent {self.lab.wire_bytes:,} bytes for all answers"
        )
        logged = "the agreements, and a log of who signed what, which the hospitals have witnessed"
        return [
            ("uni-lab", totals),
            ("each hospital", sums),
            ("coordinator", passed_on),
            ("everybody else", logged),
        ]

    def say_who_saw_what(self) -> None:
        self.lab.say("\nWho saw what")
        for party, saw in self.parties():
            self.lab.say(f"  {party}: {saw}.")
        self.lab.say(NOT_PROTECTED)

    def write_report(self) -> Path:
        """What was asked, of whom, and what each party saw; then the answers."""
        asked = Listing(("", "question"), list(enumerate(self._asked, 1)))
        hospitals = ", ".join(sorted({name for name, _ in self.sandbox.reports}))
        about = (
            f"uni-lab asked {hospitals}, under an agreement that each hospital's officer has signed, for the purpose "
            f"“{PURPOSE}”. Each answer has a receipt, which was verified."
        )
        self.report.section("What was asked, and of whom", about, asked)
        self.report.section("What each party saw", Listing(("party", "saw"), self.parties()), NOT_PROTECTED)
        for heading, parts in self._sections:
            self.report.section(heading, *parts)
        checks = Listing(("check", ""), [(one.name, "ok" if one.ok else "FAILED") for one in self.lab.checks])
        self.report.section("Compared with the pooled rows", "In a real space nobody has these. " + COMPARED, checks)
        return self.report.write(self.lab.folder / "report.html")


NOT_PROTECTED = (
    "Not protected: what the totals say about groups; how many values are missing; a regression's sums, which the "
    "hospitals see in every round. All hospitals but one, working together, could subtract their own parts from these."
)
COMPARED = "Figures of regressions agree to six significant digits, all others are equal."


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.{DIGITS}g}"


# --- heart disease ----------------------------------------------------------------------------------------------


def ask_cohort(study: Study) -> None:
    """How many patients there are, and nothing else: a mean age of all would keep table one from having ages."""
    result = study.ask("How large is the cohort? heart.count()", study.heart.count())
    study.lab.check("patients", result.value, len(study.patients))
    text = f"{result.value} patients who were examined for coronary heart disease, all of four hospitals together."
    study.write("Cohort", text)


def ask_odds_ratio(study: Study) -> None:
    """Men against women. It comes before the table by diagnosis, after which its cells would be nearly that table's."""
    male, ill = (study.heart.sex == "Male").alias("male"), (study.heart.diagnosis > 0).alias("ill")
    found = study.ask("Have men heart disease more often? heart.crosstab(male, ill)", study.heart.crosstab(male, ill))
    rows = study.patients
    is_male, is_ill = rows["sex"] == "Male", rows["diagnosis"] > 0
    counts = [[int((is_male.eq(m) & is_ill.eq(i)).sum()) for i in (True, False)] for m in (True, False)]
    study.lab.check("patients by sex and diagnosis", found.counts, counts)
    (a, b), (c, d) = counts
    reach = 1.959963984540054 * float(np.sqrt(1 / a + 1 / b + 1 / c + 1 / d))
    ratio = a * d / (b * c)
    assert found.odds_ratio is not None
    ours = [found.odds_ratio.value, found.odds_ratio.low, found.odds_ratio.high]
    study.check_close("odds ratio with Woolf's interval", ours, [ratio, ratio * np.exp(-reach), ratio * np.exp(reach)])
    study.write("Odds of heart disease, men against women", *map(Part, found.parts()), Captioned(
        found.result.plot(title="Patients by sex and diagnosis"), "Patients by sex and diagnosis."))  # fmt: skip


def ask_table_one(study: Study) -> None:
    """The first table of a paper."""
    ill = (study.heart.diagnosis > 0).alias("ill")
    title = "Table one: how do the ill differ? heart.describe([...], by=ill)"
    found = study.ask(title, study.heart.describe(list(MEASURED), by=ill))
    groups = [study.patients[study.patients["diagnosis"] > 0], study.patients[study.patients["diagnosis"] == 0]]
    for one in found.numbers:
        values = [group[one.name].dropna() for group in groups]
        truth = [number for group in values for number in (group.mean(), group.std())]
        ours = [known(number) for group in one.groups for number in (group.mean, group.sd)]
        study.check_close(f"{one.name}: means and standard deviations", ours, truth)
        study.check_close(
            f"{one.name}: p of Welch's t-test", [one.p], [stats.ttest_ind(*values, equal_var=False).pvalue]
        )
    text = "Mean (standard deviation), Welch's t-test, and the standardised difference of the means (SMD)."
    study.write("Table one", text, *map(Part, found.parts()))


def known(value: float | Withheld | None) -> float | None:
    """None for what was withheld, which then equals no truth."""
    return None if isinstance(value, Withheld) else value


def ask_logistic(study: Study) -> None:
    """What raises the odds of being ill, each adjusted for the others."""
    found = study.ask(f"Which factors matter together? heart.logistic({FORMULA!r})", study.heart.logistic(FORMULA))
    rows = study.patients.dropna(subset=["fasting_sugar_high"])
    sugar = rows["fasting_sugar_high"].astype(str) == "True"
    design = np.column_stack([np.ones(len(rows)), rows["age"], rows["sex"] == "Male", sugar]).astype(np.float64)
    coefficients, errors = logistic(design, np.asarray(rows["diagnosis"] > 0, dtype=np.float64))
    study.check_close("coefficients of the logistic regression", found.coefficients, coefficients)
    study.check_close("their standard errors", found.standard_errors, errors)
    study.lab.check("patients with all values", found.rows, len(rows))
    text = (
        f"{FORMULA}, over the {found.rows} patients of whom everything was measured. The hospitals iterated among "
        "themselves; uni-lab chose no step and saw none."
    )
    caption = "Odds ratios with 95 % intervals, each adjusted for the others."
    study.write("Logistic regression", text, *map(Part, found.parts()), Captioned(found.plot(title=""), caption))


def logistic(x: Floats, y: Floats) -> tuple[list[float], list[float]]:
    """Coefficients and standard errors by Newton's method on pooled rows (McCullagh and Nelder 1989, §2.5)."""
    beta = np.zeros(x.shape[1])
    information = np.eye(x.shape[1])
    for _ in range(25):
        mu = 1 / (1 + np.exp(-(x @ beta)))
        information = (x * (mu * (1 - mu))[:, None]).T @ x
        beta = beta + np.linalg.solve(information, x.T @ (y - mu))
    return beta.tolist(), np.sqrt(np.diag(np.linalg.inv(information))).tolist()


# --- the trial --------------------------------------------------------------------------------------------------


def ask_survival(study: Study) -> None:
    """Kaplan–Meier, everybody and by sex, with the log-rank test."""
    everybody = study.ask("How long do patients with lung cancer live?", study.trial.kaplan_meier("time", "status"))
    title = "Do women live longer? trial.kaplan_meier('time', 'status', by=sex)"
    sex = ceiba.case((study.trial.sex == 1, "men"), otherwise="women")
    found = study.ask(title, study.trial.kaplan_meier("time", "status", by=sex))
    curves = {**{curve.name: curve for curve in everybody.curves}, **{curve.name: curve for curve in found.curves}}
    medians = {name: curves[name].median for name in PUBLISHED_MEDIANS}
    study.lab.check("median survival, as published: all, men, women", medians, PUBLISHED_MEDIANS)
    for name, curve in curves.items():
        rows = study.trial_patients
        own = rows if name == "all" else rows[rows["sex"] == {"men": 1, "women": 2}[name]]
        check_curve(study, name, curve, own)
    study.write(
        "Survival with lung cancer",
        "A published trial, so its grade is public and every time of a death is shown.",
        *map(Part, found.parts()),
        Captioned(found.plot(time="days", label="share alive"), "Kaplan–Meier curves with 95 % bands."),
    )


def check_curve(study: Study, name: str, curve: Curve, rows: pandas.DataFrame) -> None:
    """The product-limit estimate on pooled rows (Kaplan and Meier 1958)."""
    alive, truth = 1.0, []
    for time in sorted(rows["time"].unique()):
        at_risk, died = (rows["time"] >= time).sum(), ((rows["time"] == time) & (rows["status"] == 1)).sum()
        alive *= 1 - died / at_risk
        truth.append(alive)
    study.check_close(f"survival at all {len(truth)} times, {name}", curve.survival, truth)


def ask_cox(study: Study) -> None:
    """Hazard ratios, adjusted."""
    found = study.ask(
        "By how much, at the same age? trial.cox('age + sex')", study.trial.cox("age + sex", "time", "status")
    )
    ours = {name: round(one, 6) for name, one in zip(found.names, found.coefficients, strict=True)}
    study.lab.check("Cox's model, as published", ours, PUBLISHED_COX)
    text = "Cox's proportional hazards, ties by Efron's rule."
    caption = "Hazard ratios with 95 % intervals: sex is women against men, age is a year."
    study.write("Hazard ratios", text, *map(Part, found.parts()), Captioned(found.plot(), caption))


# --- what is refused --------------------------------------------------------------------------------------------


def ask_in_vain(study: Study) -> None:
    """A few people, one person's value, and a factor that few have."""
    heart = study.heart
    few = heart.filter(heart.age >= 75, heart.sex == "Female").count()
    result = study.ask("Not answered: how many women are 75 or older?", few)
    study.lab.check("a count of few is withheld", result.rows, [(ceiba.WITHHELD,)])
    refusals = {
        "the oldest patient's age": lambda: heart.maximum("age"),
        "a regression on a factor that few have": lambda: heart.logistic("I(diagnosis > 0) ~ age + I(age >= 75)").run(),
    }
    told = [("the number of women of 75 or older", "Withheld: too few patients, or hospitals, are behind it.")]
    for what, ask in refusals.items():
        error = refusal(ask)
        study.note(f"Not answered: {what}.", f"  {error}")
        study.lab.check(f"{what} is refused", error is not None, True)
        told.append((what, "" if error is None else error.public))
    study.write("What was not answered", Listing(("asked for", "told"), told))


def refusal(ask: Callable[[], object]) -> CeibaError | None:
    """The error, if it is one."""
    try:
        ask()
    except CeibaError as error:
        return error
    return None


# --- the pooled rows --------------------------------------------------------------------------------------------


def pooled_heart() -> pandas.DataFrame:
    """All hospitals' rows; 0 is no blood pressure. Only a laboratory can have them."""
    rows = pandas.read_csv(DATA / "heart_disease.csv")
    rows["resting_bp"] = rows["resting_bp"].where(rows["resting_bp"] != 0)
    return rows
