"""What is said of a fit before it runs: what comes out, about how many rounds it takes, what the holders refuse.

Everything follows from the question and the schema. How many rounds a fit takes depends on the data: the numbers are
what is customary.
"""

from dataclasses import dataclass
from typing import Any

from ceiba_protocol.statistics.cox import Cox, CoxState
from ceiba_protocol.statistics.fits.base import Fit, Frame
from ceiba_protocol.statistics.fits.newton import LARGEST_COEFFICIENT, NewtonState
from ceiba_protocol.statistics.fits.scaling import ROWS_A_PARAMETER
from ceiba_protocol.statistics.fits.times import minimum_of
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.statistics.kmeans import KMeans, KMeansState
from ceiba_protocol.statistics.survival import Survival

BYTES_A_SUM = 16
"""Of a round: two words."""


@dataclass(frozen=True)
class FitFacts:
    """What is known of one fit beforehand."""

    figures: str
    """What is released, in words."""
    rounds: int
    """About how many the holders take; customary, not certain."""
    largest: int
    """Sums in the largest round: of a Cox model at most."""
    sums: int
    """Sums in all rounds together, likewise."""
    guards: tuple[str, ...]
    """What makes the holders refuse the fit as a whole, in words; beside the gate."""

    @property
    def bytes_per_holder(self) -> int:
        """About so many are sent in all rounds."""
        return BYTES_A_SUM * self.sums


_RUNS_AWAY = f"a coefficient grows beyond {LARGEST_COEFFICIENT} standard deviations of its column (separation)"
_DEPENDS = "a column is constant or follows from the others"
_CONSTANT = "a column is constant"
_CARRIED = "fewer subjects than an answer must have carry nearly all of what varies in a column"


def fit_facts(fit: Fit, frame: Frame) -> FitFacts:
    """Raises what `Fit.width` does for a plan whose time cannot be put on its grid."""
    match fit:
        case GLM():
            return _of_glm(fit, frame)
        case Cox():
            return _of_cox(fit, frame)
        case KMeans():
            return _of_kmeans(fit, frame)
        case Survival():
            return _of_survival(fit, frame)
    first = fit.width(fit.begin(frame), frame)
    return FitFacts("the final figures", 1, first, first, ())


def _of_glm(fit: GLM, frame: Frame) -> FitFacts:
    gaussian = fit.family is Family.GAUSSIAN
    figures = f"{_coefficients(fit.parameters)}, deviance, log-likelihood, number of rows and of iterations"
    guards = _spread(fit.parameters, frame)
    guards += (_DEPENDS,) if gaussian else (_DEPENDS, _RUNS_AWAY)
    rounds = 3 if gaussian else 7
    return _facts(fit, frame, figures, rounds, fit.width(NewtonState(phase="newton"), frame), guards, fit.parameters)


def _of_cox(fit: Cox, frame: Frame) -> FitFacts:
    size = len(fit.columns)
    likelihoods = "log-likelihood with and without covariates"
    figures = f"{_coefficients(size)}, {likelihoods}, number of rows, of events and of iterations"
    # In each step of the merged times at least so many leave.
    steps = _steps(frame.cells * fit.points(frame), frame)
    later = fit.width(CoxState(phase="newton", ends=((0,) * steps,)), frame)
    guards = (*_spread(size, frame), _DEPENDS, _RUNS_AWAY, "nobody has the event")
    return _facts(fit, frame, figures, 7, later, guards, size)


def _of_kmeans(fit: KMeans, frame: Frame) -> FitFacts:
    figures = (
        f"{fit.clusters} centres of {len(fit.columns)} columns, how many rows each cluster has, the columns' standard "
        "deviations, the sum of squares within, number of iterations"
    )
    small = (_CARRIED, f"a cluster has fewer than {frame.minimum} rows") if frame.is_guarded else ()
    guards = (_CONSTANT, *small)
    later = fit.width(KMeansState(phase="lloyd"), frame)
    return _facts(fit, frame, figures, 20, later, guards, fit.clusters)


def _of_survival(fit: Survival, frame: Frame) -> FitFacts:
    merged = f"; times are merged until {frame.minimum} subjects leave at each" if frame.is_guarded else ""
    figures = f"a life table of each group: at each time how many have the event, and how many are censored{merged}"
    width = fit.width(fit.begin(frame), frame)
    later = 2 * frame.cells * _steps(width // frame.cells, frame)
    return FitFacts(figures, 2, max(width, later), width + later, ())


def _steps(points: int, frame: Frame) -> int:
    """At most so many steps have the times of a grid, in each of which enough must leave."""
    return max(1, min(points, frame.rows // minimum_of(frame)))


def _coefficients(parameters: int) -> str:
    """In numbers: their names are a merchant's words, and the question says what they are of."""
    return f"coefficients ({parameters}) and their covariance"


def _spread(parameters: int, frame: Frame) -> tuple[str, ...]:
    if not frame.is_guarded:
        return ()
    least = max(frame.minimum, ROWS_A_PARAMETER * parameters)
    size = f"at some round the effective sample size (Σw)²/Σw² is below {least}"
    return f"{size}, or few of one holder's rows carry its weight", _CARRIED


def _facts(
    fit: Any, frame: Frame, figures: str, rounds: int, later: int, guards: tuple[str, ...], parameters: int
) -> FitFacts:
    first = fit.width(fit.begin(frame), frame)
    least = max(ROWS_A_PARAMETER * parameters, frame.minimum) if frame.is_guarded else parameters + 1
    few = f"there are fewer than {least} complete rows"
    slow = f"it does not converge in {fit.max_iterations} iterations"
    return FitFacts(figures, rounds, max(first, later), first + (rounds - 1) * later, (few, *guards, slow))
