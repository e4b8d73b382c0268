"""policy.toml: what this house allows, whatever an agreement says. The stricter of the two counts."""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ceiba_protocol.canonical import MemberName, TableName
from ceiba_protocol.disclosure.grade import MILLION, Disclosure, NoiseRule
from ceiba_protocol.errors import BadConfiguration
from ceiba_protocol.schema import Grade

POLICY_FILE = "policy.toml"

SAMPLE_POLICY = """\
# What this house allows, whatever an agreement says: the stricter of the two counts. Every key is optional, and the
# values here are the ones that apply without it. A running node reads this file anew for every question.

# Merchants that may ask, by name. Empty: every merchant with whom the officer signed an agreement.
merchants = []

# Purposes that may be pursued, word for word as agreements have them. Empty: any that the officer signed.
purposes = []

# Columns that may be read, such as "health.heart.age". Empty: all that are agreed. Tables that are not named here at
# all are not limited by it.
columns = []

# Columns that may not be read, in the same form. These win. An identifier here: no subject is found by it.
forbidden_columns = []

# The highest grade of a column that may be read: "public", "internal", "sensitive" or "important".
highest_grade = "sensitive"

# How many subjects (k) and holders (h) an agreement must at least demand of every released cell.
minimum_subjects = 1
minimum_cell_holders = 1

# The fewest holders that may answer a job together (m), and how many of them an agreement must expect to collude (t).
minimum_holders = 3
tolerated = 1

# For each merchant and day (UTC): jobs, and cells of results. In one job: cells.
jobs_per_day = 200
cells_per_day = 1_000_000
cells_per_job = 200_000

# In one joint job: subjects of another holder that this house helps to link. Each could be a guess at its own subjects.
subjects_per_job = 1_000_000

# For each merchant and day (UTC): scores of all subjects together; 0: as many as consent. Agreements limit those of one
# subject.
scores_in_all_per_day = 0

# Scores with products alone: models whose points this house sees. Nobody sees the points of a private model, which can
# be chosen so that a score says one subject's bins of a few columns exactly.
products_only = false

# Ask a person (`ceiba-node approvals`) about every question that reads a column of this grade or a higher one. With
# "important" nobody is asked, except where the agreement says "each job".
ask_from_grade = "important"

# Ask a person about every question that no person has approved before.
ask_for_new_questions = false

# Answers without noise, for each merchant and each version of a dataset.
exact_jobs = 1_000_000

# "mandatory": an answer without noise always takes a person's approval, whatever was agreed.
noise = "optional"

# What answers with noise may cost, as ρ, for each merchant and table in any 365 days; for all merchants together it is
# four times that.
rho_per_year = 10.0

# The largest contribution of one subject is at most so many percent of a total, and the two largest together. 100: what
# was agreed.
dominance_one = 100
dominance_two = 100

# For how many days the subjects behind an answer without noise are kept, to compare later answers with. They are
# personal data; whoever asks again after that time can find differences.
audit_days = 1095

# Treat two sets that nearly coincide alike, whether the same merchant asks or another: refuse the second.
strict_sets = false
"""

Bound = Annotated[int, Field(ge=1, le=1_000_000_000)]


class Policy(BaseModel):
    """policy.toml, key by key; SAMPLE_POLICY explains them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    merchants: tuple[MemberName, ...] = ()
    purposes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    forbidden_columns: tuple[str, ...] = ()
    highest_grade: Grade = Grade.SENSITIVE
    minimum_subjects: Bound = 1
    minimum_cell_holders: Bound = 1
    minimum_holders: Annotated[int, Field(ge=3, le=1000)] = 3
    tolerated: Annotated[int, Field(ge=1, le=1000)] = 1
    jobs_per_day: Bound = 200
    cells_per_day: Bound = 1_000_000
    cells_per_job: Bound = 200_000
    subjects_per_job: Bound = 1_000_000
    scores_in_all_per_day: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    products_only: bool = False
    ask_from_grade: Grade = Grade.IMPORTANT
    ask_for_new_questions: bool = False
    exact_jobs: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000_000
    noise: NoiseRule = NoiseRule.OPTIONAL
    rho_per_year: Annotated[float, Field(ge=0, le=1000)] = 10.0
    dominance_one: Annotated[int, Field(ge=1, le=100)] = 100
    dominance_two: Annotated[int, Field(ge=1, le=100)] = 100
    audit_days: Annotated[int, Field(ge=1, le=36_500)] = 1095
    strict_sets: bool = False

    def tightened(self, agreed: Disclosure) -> Disclosure:
        """What this house goes by: of each rule that it can keep by itself, the stricter one."""
        return agreed.model_copy(
            update={
                "exact_jobs": min(agreed.exact_jobs, self.exact_jobs),
                "noise": max(agreed.noise, self.noise, key=list(NoiseRule).index),
                "rho_per_year": min(agreed.rho_per_year, round(self.rho_per_year * MILLION)),
                "dominance_one": min(agreed.dominance_one, self.dominance_one),
                "dominance_two": min(agreed.dominance_two, self.dominance_two),
            }
        )

    def allows_column(self, table: TableName, column: str) -> bool:
        """Whether a column may be read, whatever its grade."""
        name = f"{table}.{column}"
        listed = {one for one in self.columns if one.startswith(f"{table}.")}
        return name not in self.forbidden_columns and (not listed or name in listed)


def read_policy(path: Path) -> Policy:
    """The policy as it stands in the file. Raises BadConfiguration, in words of our own: also where the file is gone,
    because a house that loses its rules must not fall back to laxer ones."""
    try:
        return Policy.model_validate(tomllib.loads(path.read_text()))
    except OSError:
        raise BadConfiguration(path=path, problem="it cannot be read; `ceiba-node init` makes it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise BadConfiguration(path=path, problem="it is not TOML") from None
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise BadConfiguration(path=path, problem=f"these keys are unknown or wrong: {keys}") from None
