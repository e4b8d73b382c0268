"""Cross-validation: how well a formula predicts people that it was not fitted on.

`ceiba.split(seed, folds)` puts every subject into one part; each part is predicted by the model that was fitted on the
others. The order of the questions, and their words, are chosen so that holders need not withhold the last one as
nearly the same people as an earlier one (ADR 0017, 0019):

- An event is judged in one question about everybody, in bins of the predictions. Counts go by the same words as the
  rows behind a fit, so it may follow a fit on everybody, and a fit on everybody may follow it.
- A mean is judged part by part, each after its own fit. A part is everybody without those that were fitted on, so this
  cannot be asked once there was an exact answer about everybody; nor can everybody be asked about after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import NormalDist, mean, stdev
from typing import TYPE_CHECKING, Any, NoReturn

from ceiba.analyses.cells import require_ungrouped
from ceiba.analyses.glm import GlmOutcome, glm
from ceiba.analyses.scores import Bins, Roc, ScoreBin, roc_of
from ceiba.analysis import Analysis, Outcome
from ceiba.formula import read_formula
from ceiba.models import require_exact
from ceiba.statistics import statistic
from ceiba.summary import TablePart
from ceiba.terms import Grouping, Term, built, case, literal, split
from ceiba_protocol.design import DesignColumn, Factor
from ceiba_protocol.errors import BadQuestion, JobRefused
from ceiba_protocol.expression import lower, number
from ceiba_protocol.statistics.glm import GLM, Family

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ceiba.formula import ModelSpec
    from ceiba.models import FittedModel
    from ceiba.query import Query, Table
    from ceiba.result import Result

EDGES = (0.25, 0.5, 0.75)
"""Few, because a bin's events, and its others, must be many at several holders each."""
DIGITS = 9
"""Decimals of the coefficients with which rows are predicted, so that predictions are exact numbers."""
MISSING = "missing"
"""The bin of rows that lack a value."""
AGAIN = (
    "Where small groups are protected, ask before there is an exact answer about everybody, choose fewer folds, and "
    "filter out rows with missing values. What was asked before this question is answered and counted."
)


@dataclass(frozen=True)
class PredictionBin:
    """Rows whose predicted probability lies between two edges, each predicted by a model that has not seen them."""

    low: float
    high: float
    events: int | None
    """None where it was withheld."""
    others: int | None

    @property
    def observed(self) -> float | None:
        """Share of events; it should lie between `low` and `high`. None without rows."""
        n = None if self.events is None or self.others is None else self.events + self.others
        return self.events / n if n and self.events is not None else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of it (1927); None without it."""
        if self.observed is None or self.events is None or self.others is None:
            return None
        n, z = self.events + self.others, NormalDist().inv_cdf(0.975)
        middle = (self.observed + z * z / (2 * n)) / (1 + z * z / n)
        reach = z / (1 + z * z / n) * math.sqrt(self.observed * (1 - self.observed) / n + z * z / (4 * n * n))
        return middle - reach, middle + reach


@dataclass(frozen=True)
class HeldOut:
    """How the rows of one part were predicted."""

    rows: int
    loss: float
    """Mean squared error; of counts the mean Poisson deviance 2·(y·log(y/μ) − (y − μ))."""
    bias: float
    """Mean of observed − predicted; of counts observed / predicted."""


@dataclass(frozen=True, repr=False)
class CrossValidation(Outcome):
    """How a formula predicts held-out rows. `result` is the last answer."""

    family: Family
    fits: tuple[GlmOutcome, ...]
    """For each part, the fit on all the others."""
    roc: Roc | None
    """Of an event: held-out predictions of all parts together, as logits; None for other families."""
    bins: tuple[PredictionBin, ...]
    """Of an event: its calibration."""
    held_out: tuple[HeldOut, ...]
    """Of other families: one for each part."""
    results: tuple[Result, ...] = field(repr=False, compare=False)
    """Every answer, in the order of the questions."""

    title = "Cross-validation"

    @property
    def loss(self) -> float | None:
        """Over all held-out rows; None for an event."""
        rows = sum(one.rows for one in self.held_out)
        return sum(one.rows * one.loss for one in self.held_out) / rows if rows else None

    def parts(self) -> Sequence[TablePart]:
        """The figures; how predictions fared; the coefficients of each fit."""
        names = ("", *(f"without {part}" for part in range(len(self.fits))))
        columns = zip(*(fit.coefficients for fit in self.fits), strict=True)
        rows = [(name, *own) for name, own in zip(self.fits[0].names, columns, strict=True)]
        rows.append(("rows", *(fit.rows for fit in self.fits)))
        return [*self._judged(), TablePart("coefficients of each fit", names, rows)]

    def _judged(self) -> list[TablePart]:
        if self.roc is not None:
            low, high = self.roc.auc_interval or (None, None)
            facts = [("AUC", self.roc.auc), ("AUC ± by binning", self.roc.auc_error), ("AUC 95 % low", low),
                     ("AUC 95 % high", high), ("Gini", self.roc.gini), ("KS, at least", self.roc.ks)]  # fmt: skip
            bins = [
                (one.low, one.high, one.events, one.others, one.observed, *(one.interval or (None, None)))
                for one in self.bins
            ]
            titles = ("predicted from", "to", "events", "others", "observed", "[0.025", "0.975]")
            return [TablePart("out of sample", ("", "value"), facts), TablePart("calibration", titles, bins)]
        losses = [one.loss for one in self.held_out]
        name, bias = _LOSSES[self.family]
        facts = [(name, self.loss), ("its standard deviation over parts", stdev(losses) if losses[1:] else None)]
        facts += [("its root", math.sqrt(self.loss or 0.0))] if self.family is Family.GAUSSIAN else []
        facts += [(f"{bias}, mean over parts", mean(one.bias for one in self.held_out))]
        rows = [(part, one.rows, one.loss, one.bias) for part, one in enumerate(self.held_out)]
        return [
            TablePart("out of sample", ("", "value"), facts),
            TablePart("parts", ("part", "rows", name, bias), rows),
        ]

    def notes(self) -> list[str]:
        """How many questions it took, and what is missing."""
        notes = [f"Questions asked: {len(self.results)}. Each row is predicted by a fit that has not seen its subject."]
        return [*notes, *([] if self.roc is None else self.roc.notes())]

    def plot(self, **options: Any) -> Figure:
        """The ROC curve of the held-out predictions. Raises BadQuestion for other families."""
        if self.roc is None:
            raise BadQuestion(problem="only the prediction of an event has a curve", hint="Read its summary().")
        return self.roc.plot(**options)


_LOSSES = {
    Family.GAUSSIAN: ("mean squared error", "observed − predicted"),
    Family.POISSON: ("mean Poisson deviance", "observed / predicted"),
    Family.NEGATIVE_BINOMIAL: ("mean Poisson deviance", "observed / predicted"),
}

Answer = Callable[["Query"], "Result"]


@dataclass(frozen=True, repr=False)
class CrossValidator(Analysis[CrossValidation]):
    """The questions of a cross-validation; lazy. `query` is the first of them, which `explain` is about."""

    table: Table
    formula: str
    family: Family
    seed: str
    folds: int
    edges: tuple[Fraction, ...]
    """Of bins of the predicted logit."""
    shown: tuple[float, ...]
    """The same as probabilities, as they were given."""
    alpha: float

    @property
    def questions(self) -> int:
        """How many exact answers it takes."""
        return self.folds + 1 if self.family is Family.BINOMIAL else 2 * self.folds

    def run(self, **options: Any) -> CrossValidation:
        """Ask all questions, one after the other, for exact figures. Options as for `Query.run`.

        Raises BadQuestion where a holder refuses one, and says which; NoAgreement for a seed that is not the
        agreement's purpose where small cells are protected.
        """
        return self._ask(lambda query: query.run(**{**options, "noise": False}))

    def mock(self, rows: int = 1000, seed: int = 0) -> CrossValidation:
        """The same on made-up rows of the schema; means nothing."""
        return self._ask(lambda query: query.mock(rows, seed))

    def submit(self, **_options: Any) -> NoReturn:
        """Not possible: a question depends on the answers before it."""
        raise BadQuestion(problem="a cross-validation is several questions, one after the other", hint="Use run().")

    def _ask(self, answer: Answer) -> CrossValidation:
        results: list[Result] = []

        def ask(query: Query) -> Result:
            try:
                results.append(answer(query))
            except JobRefused as error:
                problem = f"question {len(results) + 1} of {self.questions} of the cross-validation: {error.public}"
                raise BadQuestion(problem=problem.rstrip("."), hint=AGAIN) from error
            return results[-1]

        made = self._judge_event(ask) if self.family is Family.BINOMIAL else self._judge_mean(ask)
        return replace(made, results=tuple(results), result=results[-1])

    def _part(self, part: int) -> Term:
        return split(self.seed, self.folds) == part

    def _fit(self, part: int, ask: Answer) -> GlmOutcome:
        asked = glm(self.table.filter(~self._part(part)), self.formula, self.family, alpha=self.alpha)
        return asked.finish(ask(asked.query))

    # --- an event

    def _judge_event(self, ask: Answer) -> CrossValidation:
        fits = tuple(self._fit(part, ask) for part in range(self.folds))
        made = self._bins([fit.model for fit in fits])
        result = ask(self._counts(fits[0].spec, made))
        cells = {int(label): (n or 0, events or 0) for label, n, events in result.rows if label != MISSING}
        bins = [ScoreBin(*made.ends(place), *_split_count(*cells.get(place, (0, 0))), None) for place in made.numbers]
        ends = (0.0, *self.shown, 1.0)
        shown = tuple(PredictionBin(ends[place], ends[place + 1], one.events, one.others)
                      for place, one in zip(made.numbers, bins, strict=True))  # fmt: skip
        return CrossValidation(result, self.family, fits, roc_of(result, made, tuple(bins)), shown, (), ())

    def _bins(self, models: Sequence[FittedModel]) -> Bins:
        """Of each row's logit by the model that has not seen it."""
        *first, last = (model.score(DIGITS) for model in models)
        value = case(*((self._part(part), score) for part, score in enumerate(first)), otherwise=last)
        assert isinstance(value, Term)
        return Bins(value, self.edges, self.edges[-1], are_units=False, numbers=tuple(range(len(self.edges) + 1)))

    def _key(self, made: Bins) -> Grouping:
        """The bins, and one of rows without a prediction: few of them in a bin would withhold it."""
        if not lower(made.value.expression, self.table.schema).node.nullable:
            return made.key
        below = [(made.value < Term(number(edge)), str(place)) for place, edge in enumerate(made.edges)]
        return case((made.value.isnull(), MISSING), *below, otherwise=str(len(below))).alias("bin")

    def _counts(self, spec: ModelSpec, made: Bins) -> Query:
        """Complete rows, and those with the event, in each bin: in the words of the fits' own sums."""
        assert spec.response is not None
        complete, *_, events = built(GLM, family=self.family, response=spec.response, columns=spec.columns).sums()
        add = statistic("sum")
        return self.table.group_by(self._key(made)).agg(n=add(Term(complete)), events=add(Term(events)))

    # --- a mean

    def _judge_mean(self, ask: Answer) -> CrossValidation:
        fits, held_out = [], []
        for part in range(self.folds):
            fits.append(self._fit(part, ask))
            held_out.append(self._loss(fits[-1], ask(self._recalibration(part, fits[-1]))))
        return CrossValidation(fits[0].result, self.family, tuple(fits), None, (), tuple(held_out), ())

    def _recalibration(self, part: int, fit: GlmOutcome) -> Query:
        """A fit of a constant alone beside the predictions, which are its offset: its figures give the loss."""
        assert fit.spec.response is not None
        offset = DesignColumn(name="prediction", factors=(Factor(value=fit.model.score(DIGITS).expression),))
        family = self.family if self.family is Family.GAUSSIAN else Family.POISSON
        asked = built(GLM, family=family, response=fit.spec.response, columns=(), offset=offset, alpha=literal(1))
        return self.table.filter(self._part(part)).agg(fit=asked)

    def _loss(self, fit: GlmOutcome, result: Result) -> HeldOut:
        """With the constant a, D(a) is the least deviance. D(0) = D(a) + n·a² of a mean; of counts, with Y their sum,
        which is the constant's information, and M = Y·e^-a that of the predictions, D(a) + 2(a·Y + M − Y)."""
        found = result.value
        rows, constant, deviance = found["rows"], found["coefficients"][0], found["deviance"]
        if self.family is Family.GAUSSIAN:
            return HeldOut(rows, deviance / rows + constant**2, constant)
        events = 1 / found["covariance"][0][0]
        predicted = events * math.exp(-constant)
        loss = (deviance + 2 * (constant * events + predicted - events)) / rows
        return HeldOut(rows, loss, math.exp(constant))


def _split_count(n: Any, events: Any) -> tuple[int | None, int | None]:
    """(events, others); None where they were withheld."""
    return (events, n - events) if isinstance(n, int) and isinstance(events, int) else (None, None)


def cross_validate(
    table: Table, formula: str, family: str, *, seed: str, folds: int = 5, edges: Sequence[float] = EDGES,
    alpha: float = 1.0,
) -> CrossValidator:  # fmt: skip
    """See `AnalysisMethods.cross_validate`."""
    require_ungrouped(table, "cross_validate")
    rest = table.filter(split(seed, folds) != 0)
    first = glm(rest, formula, family, alpha=alpha)
    require_exact(read_formula(formula, table.schema).columns)
    ends = tuple(edges)
    if not ends or list(ends) != sorted(set(ends)) or not 0 < ends[0] <= ends[-1] < 1:
        hint = "Give rising probabilities between 0 and 1, such as edges=(0.1, 0.2, 0.4)."
        raise BadQuestion(problem=f"the edges {ends} of predicted probabilities", hint=hint)
    logits = tuple(Fraction(f"{math.log(end / (1 - end)):.{DIGITS}f}") for end in ends)
    if len(set(logits)) < len(logits):
        raise BadQuestion(problem=f"two of the edges {ends} are nearly the same", hint="Leave one of them out.")
    found = Family(family)
    return CrossValidator(first.query, _unused, table, formula, found, seed, folds, logits, ends, alpha)


def _unused(result: Result) -> CrossValidation:
    """Answers are finished together."""
    raise NotImplementedError
