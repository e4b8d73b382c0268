"""Covariance and correlation matrices, and principal components, over the rows where no value is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import copysign
from typing import TYPE_CHECKING, Any

from ceiba.analyses.exact import ExactAnalysis, Matrix, Moments, ask_moments, read_moments
from ceiba.analysis import Outcome
from ceiba.summary import TablePart
from ceiba.terms import Term, column_or_term
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.expression import Expression
from ceiba_protocol.statistics.base import root

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas
    from matplotlib.figure import Figure

    from ceiba.query import Query, Table
    from ceiba.result import Result

    Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class MatrixOutcome(Outcome):
    """A symmetric matrix; each entry is its exact value, rounded once."""

    kind: str
    """covariance or correlation."""
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    n: int
    """Rows where no value is missing."""

    title = "Matrix"

    def plot(self, **options: Any) -> Figure:
        """A heat map of the values."""
        from ceiba import plots

        return plots.heat_map(self.names, self.names, self.values, **({"label": self.kind} | options))

    def parts(self) -> Sequence[TablePart]:
        """The matrix, a row for each column."""
        rows = [(name, *row) for name, row in zip(self.names, self.values, strict=True)]
        return [TablePart(f"{self.kind.capitalize()} matrix", ("", *self.names), rows)]

    def notes(self) -> list[str]:
        """Which rows it is about."""
        return [f"{self.n} rows, those in which no value is missing."]

    def to_numpy(self) -> Vector:
        """float64 [columns, columns]."""
        import numpy as np

        return np.array(self.values, dtype=np.float64)

    def to_pandas(self) -> pandas.DataFrame:
        """The matrix with the columns' names on both axes."""
        import pandas

        return pandas.DataFrame(self.to_numpy(), index=list(self.names), columns=list(self.names))


@dataclass(frozen=True, repr=False)
class PrincipalComponents(Outcome):
    """Components in falling order of variance (Jolliffe 2002, §2.3 for standardised columns).

    Each loading vector has length 1, and its entry of largest magnitude is positive.
    """

    names: tuple[str, ...]
    variances: tuple[float, ...]
    """The eigenvalues of the correlation matrix, or of the covariance matrix."""
    loadings: tuple[tuple[float, ...], ...]
    """[columns][components]: the eigenvectors."""
    centres: tuple[float, ...]
    """The columns' means, in their units."""
    scales: tuple[float, ...]
    """What a centred column is divided by: its standard deviation, or 1."""
    n: int

    title = "Principal components"

    def plot(self, **options: Any) -> Figure:
        """The components' variances in falling order, with the shares that they explain together."""
        from ceiba import plots

        return plots.scree(self.variances, **options)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each component in the total variance; they add up to 1."""
        total = sum(self.variances)
        return tuple(variance / total for variance in self.variances)

    def parts(self) -> Sequence[TablePart]:
        """The components' variances, and the loadings."""
        labels = [f"PC{place + 1}" for place in range(len(self.variances))]
        cumulative = [sum(self.shares[: place + 1]) for place in range(len(labels))]
        rows = list(zip(labels, self.variances, self.shares, cumulative, strict=True))
        loadings = [(name, *row) for name, row in zip(self.names, self.loadings, strict=True)]
        return [
            TablePart("Components", ("", "variance", "share", "cumulative"), rows),
            TablePart("Loadings", ("", *labels), loadings),
        ]

    def notes(self) -> list[str]:
        """Which rows they are about."""
        return [f"{self.n} rows, those in which no value is missing."]

    def scores(self, values: Any) -> Vector:
        """float64 [rows, components] of rows of your own: an array or frame whose columns are in the order of `names`,
        in the same units. Raises BadQuestion for another number of columns."""
        import numpy as np

        own = np.asarray(values, dtype=np.float64)
        if own.ndim != 2 or own.shape[1] != len(self.names):
            problem = f"scores() was given an array of shape {own.shape}"
            raise BadQuestion(problem=problem, hint=f"Give one column for each of {', '.join(self.names)}.")
        made = (own - np.array(self.centres)) / np.array(self.scales) @ np.array(self.loadings)
        return np.asarray(made, dtype=np.float64)


def matrix(table: Table, columns: Sequence[str | Term], kind: str) -> ExactAnalysis[MatrixOutcome]:
    """`kind` is covariance or correlation. Raises BadQuestion, and what the columns' types and bounds raise."""
    names, query = _ask(table, columns, f"{kind}_matrix")
    return ExactAnalysis(query, partial(_finish_matrix, names, kind))


def pca(table: Table, columns: Sequence[str | Term], *, standardise: bool = True) -> ExactAnalysis[PrincipalComponents]:
    """Of the correlation matrix, or with `standardise=False` of the covariance matrix. Raises what `matrix` does."""
    names, query = _ask(table, columns, "pca")
    return ExactAnalysis(query, partial(_finish_pca, names, standardise))


def _ask(table: Table, columns: Sequence[str | Term], what: str) -> tuple[tuple[str, ...], Query]:
    if isinstance(columns, str | Term) or not isinstance(columns, Sequence):
        raise BadQuestion(problem=f"{what}() takes a list of columns", hint=f'Write {what}(["age", "chol"]).')
    terms = [column_or_term(column) for column in columns]
    names = tuple(repr(term) for term in terms)
    if len(set(names)) != len(names):
        raise BadQuestion(problem=f"{what}() was given a column twice", hint="Name each once.")
    values: list[Expression] = [term.expression for term in terms]
    return names, ask_moments(table, values, what)


def _finish_matrix(names: tuple[str, ...], kind: str, result: Result) -> MatrixOutcome:
    moments = read_moments(result, f"{kind}_matrix")
    values = correlations(names, moments) if kind == "correlation" else covariances(moments)
    return MatrixOutcome(result=result, kind=kind, names=names, values=values, n=moments.n)


def covariances(moments: Moments) -> tuple[tuple[float, ...], ...]:
    """Σ(x − x̄)(y − ȳ) / (n − 1). Raises BadQuestion for fewer than two rows."""
    if moments.n < 2:
        raise BadQuestion(problem="one complete row has no covariance", hint="Use fewer columns, or more rows.")
    return tuple(tuple(float(value / (moments.n - 1)) for value in row) for row in moments.scatter())


def correlations(names: Sequence[str], moments: Moments) -> tuple[tuple[float, ...], ...]:
    """Pearson's. Raises BadQuestion, which names a column that does not vary."""
    scatter = moments.scatter()
    for place, name in enumerate(names):
        if scatter[place][place] == 0:
            problem = f"{name} is the same in every row where no value is missing, so it has no correlation"
            raise BadQuestion(problem=problem, hint="Leave it out.")
    size = range(len(names))
    upper = {(i, j): _correlation(scatter, i, j) for i in size for j in size if i <= j}
    return tuple(tuple(upper[min(i, j), max(i, j)] for j in size) for i in size)


def _correlation(scatter: Matrix, i: int, j: int) -> float:
    """Correctly rounded, so that it is never beyond 1, and exactly 1 for a column with itself."""
    squared = scatter[i][j] ** 2 / (scatter[i][i] * scatter[j][j])
    return copysign(root(squared.numerator, squared.denominator), scatter[i][j])


def _finish_pca(names: tuple[str, ...], standardise: bool, result: Result) -> PrincipalComponents:
    import numpy as np

    moments = read_moments(result, "pca")
    spread = covariances(moments)
    analysed = np.array(correlations(names, moments) if standardise else spread, dtype=np.float64)
    variances, vectors = np.linalg.eigh(analysed)
    order = np.argsort(-variances, kind="stable")
    variances, vectors = np.maximum(variances[order], 0.0), vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(names))])
    return PrincipalComponents(
        result=result,
        names=names,
        variances=tuple(map(float, variances)),
        loadings=tuple(tuple(map(float, row)) for row in vectors),
        centres=tuple(float(total / moments.n) for total in moments.sums),
        scales=tuple(spread[place][place] ** 0.5 if standardise else 1.0 for place in range(len(names))),
        n=moments.n,
    )
