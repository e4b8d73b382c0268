"""k-means clusters, found among the holders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ceiba.analysis import Analysis, Outcome
from ceiba.formula import read_formula
from ceiba.summary import TablePart
from ceiba.terms import built
from ceiba_protocol.statistics.kmeans import KMeans

if TYPE_CHECKING:
    from ceiba.query import Table
    from ceiba.result import Result


@dataclass(frozen=True, repr=False)
class ClusterOutcome(Outcome):
    """Centres in the columns' own units. Nobody learns which row is in which cluster but its own holder."""

    names: tuple[str, ...]
    centres: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]
    """Rows in each cluster."""
    spreads: tuple[float, ...]
    """Each column's standard deviation, by which distances were measured."""
    within: float
    """Sum of squared distances from the centres, in standard deviations."""
    iterations: int

    title = "k-means clusters"

    def parts(self) -> Sequence[TablePart]:
        rows = [
            (number, count, *centre)
            for number, (count, centre) in enumerate(zip(self.counts, self.centres, strict=True), start=1)
        ]
        total = sum(self.counts) * len(self.names)
        facts = [("within", self.within), ("explained", 1 - self.within / total), ("iterations", self.iterations)]
        return [TablePart("centres", ("cluster", "rows", *self.names), rows), TablePart.of_facts("fit", facts)]


def kmeans(
    table: Table, columns: Sequence[str] | str, clusters: int, *, max_iterations: int = 100
) -> Analysis[ClusterOutcome]:
    """See `AnalysisMethods.kmeans`."""
    text = columns if isinstance(columns, str) else " + ".join(columns)
    spec = read_formula(f"~ 0 + {text}", table.schema)

    def finish(result: Result) -> ClusterOutcome:
        found = result.value
        return ClusterOutcome(
            result=result,
            names=tuple(found["names"]),
            centres=tuple(map(tuple, found["centres"])),
            counts=tuple(found["counts"]),
            spreads=tuple(found["spreads"]),
            within=found["within"],
            iterations=found["iterations"],
        )

    statistic = built(KMeans, columns=spec.columns, clusters=clusters, max_iterations=max_iterations)
    return Analysis(table.agg(fit=statistic), finish)
