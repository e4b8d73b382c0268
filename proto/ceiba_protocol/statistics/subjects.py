"""COUNT(DISTINCT subject)."""

from collections.abc import Sequence
from typing import Literal

from ceiba_protocol.expression import Expression, SubjectCount
from ceiba_protocol.statistics.base import Statistic, Total


class Subjects(Statistic):
    """How many distinct people or firms the rows are about: exact at each holder, and added up over the holders, so
    that a subject who is at several of them counts at each."""

    statistic: Literal["subjects"] = "subjects"

    sql = {}

    def sums(self) -> Sequence[Expression]:
        return [SubjectCount()]

    def finish(self, n: Total) -> int:
        return n.units
