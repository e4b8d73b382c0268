"""Grades and the disclosure rules that follow from them, as a table (PROTOCOL §3.1)."""

from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import GradeForbids
from ceiba_protocol.schema import Grade, Schema

MILLION = 1_000_000
"""ρ is counted in millionths, because documents have no fractions."""


class NoiseRule(StrEnum):
    """Whether answers carry noise."""

    OPTIONAL = "optional"
    """The merchant chooses, for each job."""
    MANDATORY = "mandatory"
    """An exact answer takes a person's approval at every holder, and is one of few."""


Percent = Annotated[int, Field(ge=1, le=100)]
Rho = Annotated[int, Field(ge=0, le=1000 * MILLION)]
"""Zero-concentrated differential privacy (Bun and Steinke 2016), in millionths."""


class Disclosure(Document):
    """The rules that an agreement sets for every released cell. A grade gives the laxest; parties may agree on stricter
    ones, and a holder refuses what is laxer than its own policy."""

    grade: Grade
    """The highest grade among the agreed columns."""
    minimum_subjects: Annotated[int, Field(ge=1, le=1_000_000)]
    """k: distinct subjects in a released cell."""
    minimum_holders: Annotated[int, Field(ge=1, le=1000)]
    """h: holders that contribute to a released cell."""
    minimum_set: Annotated[int, Field(ge=3, le=1000)]
    """m: holders that answer together."""
    dominance_one: Percent
    """The largest contribution is at most so many percent of a released total; 100: not looked at."""
    dominance_two: Percent
    """So are the two largest together."""
    exact_jobs: Annotated[int, Field(ge=0, le=1_000_000)]
    """Answers without noise, for each merchant and each version of a holder's dataset."""
    noise: NoiseRule
    rho_per_year: Rho
    """What answers with noise may cost, for each merchant and each holder's dataset, in any 365 days."""

    def is_at_least(self, other: "Disclosure") -> bool:
        """Whether no rule of this is laxer than the other's."""
        return all(mine >= least for mine, least in zip(self._strictness(), other._strictness(), strict=True))

    def _strictness(self) -> tuple[int, ...]:
        """Each rule as a number that is larger where it is stricter."""
        return (
            ORDER.index(self.grade),
            self.minimum_subjects,
            self.minimum_holders,
            self.minimum_set,
            -self.dominance_one,
            -self.dominance_two,
            -self.exact_jobs,
            self.noise is NoiseRule.MANDATORY,
            -self.rho_per_year,
        )

    @property
    def hides_zeros(self) -> bool:
        """Whether a cell without anybody looks like a small one: "nobody" beside "withheld" would tell that somebody is
        there."""
        return ORDER.index(self.grade) >= ORDER.index(Grade.SENSITIVE)

    @property
    def has_gate(self) -> bool:
        """Whether there is anything that a cell could fail."""
        return self.grade is not Grade.PUBLIC or self.minimum_subjects > 1 or self.minimum_holders > 1


ORDER = (Grade.PUBLIC, Grade.INTERNAL, Grade.SENSITIVE, Grade.IMPORTANT, Grade.CORE)
"""From the laxest to the strictest."""

RULES: dict[Grade, Disclosure] = {
    Grade.PUBLIC: Disclosure(
        grade=Grade.PUBLIC, minimum_subjects=1, minimum_holders=1, minimum_set=3, dominance_one=100,
        dominance_two=100, exact_jobs=MILLION, noise=NoiseRule.OPTIONAL, rho_per_year=10 * MILLION,
    ),
    Grade.INTERNAL: Disclosure(
        grade=Grade.INTERNAL, minimum_subjects=5, minimum_holders=3, minimum_set=3, dominance_one=70,
        dominance_two=85, exact_jobs=50, noise=NoiseRule.OPTIONAL, rho_per_year=MILLION,
    ),
    Grade.SENSITIVE: Disclosure(
        grade=Grade.SENSITIVE, minimum_subjects=11, minimum_holders=3, minimum_set=3, dominance_one=70,
        dominance_two=85, exact_jobs=5, noise=NoiseRule.MANDATORY, rho_per_year=MILLION // 10,
    ),
    Grade.IMPORTANT: Disclosure(
        grade=Grade.IMPORTANT, minimum_subjects=20, minimum_holders=4, minimum_set=4, dominance_one=70,
        dominance_two=85, exact_jobs=0, noise=NoiseRule.MANDATORY, rho_per_year=MILLION // 50,
    ),
}  # fmt: skip
"""The laxest rules by grade. Core data is not answered at all."""

DEFAULT_RHO = 5_000
"""What a job with noise costs unless the merchant says otherwise, in millionths: counts get a σ of about 10."""
DATASET_FACTOR = 4
"""A dataset's budget over all merchants is so many times that of one merchant, because merchants may collude."""
BUDGET_SECONDS = 365 * 24 * 3600
"""How long an answer with noise counts against a budget."""


def disclosure_for(columns: Iterable[str], schema: Schema) -> Disclosure:
    """The least that these columns' grades demand. Raises UnknownColumn, GradeForbids."""
    highest = grade_of(columns, schema)
    if highest not in RULES:
        raise GradeForbids(grade=highest, table=schema.table)
    return RULES[highest]


def grade_of(columns: Iterable[str], schema: Schema) -> Grade:
    """A result's grade is the highest of what it touches. Raises UnknownColumn."""
    return max((schema.column(name).grade for name in columns), key=ORDER.index, default=Grade.PUBLIC)


def as_rho(millionths: int) -> str:
    """ρ as people write it, such as 0.005."""
    return format((Decimal(millionths) / MILLION).normalize(), "f")
