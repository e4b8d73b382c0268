"""What fits by Newton's method share: when they have converged, and what a holder refuses to sum."""

import numpy as np

from ceiba_protocol.errors import NotFinite, WeightsConcentrated
from ceiba_protocol.statistics.fits.base import Floats, Frame

LARGEST_COEFFICIENT = 30
"""Of a column with mean 0 and variance 1: beyond it the fit runs away."""
CONVERGED = 2.0**-30
"""The last step changes no such coefficient by more; the error is about its square."""
HALVINGS = 20


def require_spread(weights: Floats, frame: Frame) -> None:
    """Run by a holder on its subjects' weights: no few of them carry all, else a sum over all would be about these.

    Raises WeightsConcentrated, NotFinite.
    """
    if not np.isfinite(weights).all():
        raise NotFinite(what="a weight")
    if not frame.is_guarded or not len(weights):
        return
    shares = weights / (weights.max() or 1.0)
    if shares.sum() ** 2 <= min(frame.minimum, len(weights) / 2) * (shares**2).sum():
        raise WeightsConcentrated
