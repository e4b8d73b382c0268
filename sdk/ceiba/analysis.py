"""Analyses: a query, and what a textbook makes of its answer.

    test = heart.t_test("cholesterol", by="sex")     # nothing is asked yet
    test.explain()                                   # who would see what
    outcome = test.run()                             # ask; the outcome has numbers, tables, a summary and a plot
    print(outcome.summary())

An analysis asks one query and finishes it here, on released figures alone: it reveals what its query reveals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ceiba.query import Query
from ceiba.result import Result
from ceiba.summary import Summarised

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Outcome(Summarised):
    """What an analysis found. Subclasses add its numbers as fields, and say how they are drawn."""

    result: Result = field(repr=False, compare=False)
    """What was released, with its receipt."""

    def _all_notes(self) -> list[str]:
        return [*self.notes(), *self.result.notes()[1:]]


Found = TypeVar("Found", bound=Outcome)


@dataclass(frozen=True, repr=False)
class Analysis(Generic[Found]):
    """A question with its finishing step; lazy, as a query is."""

    query: Query
    finish: Callable[[Result], Found]

    def run(self, **options: Any) -> Found:
        """Ask the holders, wait, and finish. Options as for `Query.run`."""
        return self.finish(self.query.run(**options))

    def explain(self, **options: Any) -> Any:
        """Who would see what and what it would cost; asks nothing."""
        return self.query.explain(**options)

    def submit(self, **options: Any) -> AnalysisJob[Found]:
        """Ask without waiting."""
        return AnalysisJob(self.query.submit(**options), self.finish)

    def mock(self, rows: int = 1000, seed: int = 0) -> Found:
        """The same on made-up rows of the schema; means nothing."""
        return self.finish(self.query.mock(rows, seed))

    def summary(self) -> str:
        """Ask, and give the tables as text."""
        return self.run().summary()

    def to_pandas(self) -> pandas.DataFrame:
        """Ask, and give the main table."""
        return self.run().to_pandas()

    def plot(self, **options: Any) -> Figure:
        """Ask, and draw."""
        return self.run().plot(**options)

    def __repr__(self) -> str:
        return repr(self.query)


@dataclass(frozen=True, repr=False)
class AnalysisJob(Generic[Found]):
    """An analysis that has been asked."""

    job: Any
    finish: Callable[[Result], Found]

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return str(self.job.id)

    def status(self) -> Any:
        """As `Job.status`."""
        return self.job.status()

    def progress(self) -> str:
        """As `Job.progress`."""
        return str(self.job.progress())

    def wait(self, **options: Any) -> Found:
        """The outcome. Raises what `Job.wait` does."""
        return self.finish(self.job.wait(**options))

    def cancel(self) -> None:
        """End the job; holders forget it."""
        self.job.cancel()
