"""Grades and the disclosure rules that follow from them, as a table (PROTOCOL §3.1)."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import GradeForbids
from ceiba_protocol.schema import Grade, Schema


class Disclosure(Document):
    """The rules that an agreement sets for every released cell; stricter is larger."""

    grade: Grade
    """The highest grade among the agreed columns."""
    minimum_subjects: Annotated[int, Field(ge=1, le=1_000_000)]
    """k: distinct subjects in a released cell."""
    minimum_holders: Annotated[int, Field(ge=1, le=1000)]
    """h: holders that contribute to a released cell."""

    def is_at_least(self, other: "Disclosure") -> bool:
        """Whether no rule of this is laxer than the other's."""
        return (
            ORDER.index(self.grade) >= ORDER.index(other.grade)
            and self.minimum_subjects >= other.minimum_subjects
            and self.minimum_holders >= other.minimum_holders
        )


ORDER = (Grade.PUBLIC, Grade.INTERNAL, Grade.SENSITIVE, Grade.IMPORTANT, Grade.CORE)
"""From the laxest to the strictest."""

RULES: dict[Grade, Disclosure] = {
    Grade.PUBLIC: Disclosure(grade=Grade.PUBLIC, minimum_subjects=1, minimum_holders=1),
    Grade.INTERNAL: Disclosure(grade=Grade.INTERNAL, minimum_subjects=5, minimum_holders=3),
    Grade.SENSITIVE: Disclosure(grade=Grade.SENSITIVE, minimum_subjects=11, minimum_holders=3),
}
"""By grade. Important data may only be answered with noise, which is not built, and core data not at all."""


def disclosure_for(columns: Iterable[str], schema: Schema) -> Disclosure:
    """The least that these columns' grades demand. Raises UnknownColumn, GradeForbids."""
    grades = [schema.column(name).grade for name in columns]
    highest = max(grades, key=ORDER.index, default=Grade.PUBLIC)
    if highest not in RULES:
        raise GradeForbids(grade=highest, table=schema.table)
    return RULES[highest]
