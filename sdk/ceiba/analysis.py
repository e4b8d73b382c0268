"""Analyses: a query, and what a textbook makes of its answer.

    test = heart.t_test("cholesterol", by="sex")     # nothing is asked yet
    test.explain()                                   # who would see what
    outcome = test.run()                             # ask; the outcome has numbers, tables, a summary and a plot
    print(outcome.summary())

An analysis asks one query and finishes it here, on released figures alone: it reveals what its query reveals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ceiba.query import Query
from ceiba.result import Result
from ceiba.summary import TablePart, html_summary, text_summary
from ceiba_protocol.statistics import WITHHELD

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Outcome:
    """What an analysis found. Subclasses add its numbers as fields, and say how they are drawn."""

    result: Result = field(repr=False, compare=False)
    """What was released, with its receipt."""

    title = "Outcome"

    def parts(self) -> Sequence[TablePart]:
        """The summary's tables; the first is the main one."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What a reader should know beside the tables."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """The tables by title, each a list of dictionaries; plain values, fit for JSON."""
        return {
            part.title: [dict(zip(part.columns, row, strict=True)) for row in _plain(part)] for part in self.parts()
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The main table as a data frame."""
        import pandas

        main = self.parts()[0]
        return pandas.DataFrame(_plain(main), columns=list(main.columns))

    def plot(self, **options: Any) -> Figure:
        """A figure of it (`ceiba.plots`). Raises MissingExtra without matplotlib."""
        from ceiba_protocol.errors import BadQuestion

        raise BadQuestion(problem=f"there is no picture of {self.title}", hint="Read its summary().")

    def summary(self) -> str:
        """The facts and tables as text, with about five significant digits."""
        return text_summary(self.title, self.parts(), self._all_notes())

    def _all_notes(self) -> list[str]:
        return [*self.notes(), *self.result.notes()[1:]]

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return html_summary(self.title, self.parts(), self._all_notes())


def _plain(part: TablePart) -> list[tuple[Any, ...]]:
    """A table's rows with None for what was withheld."""
    return [tuple(None if value is WITHHELD else value for value in row) for row in part.rows]


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
