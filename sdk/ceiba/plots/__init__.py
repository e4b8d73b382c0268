"""Figures of released numbers: plain data in, a matplotlib `Figure` out, which shows itself in a notebook.

    from ceiba import plots
    plots.bars(["female", "male"], [201, ceiba.WITHHELD], title="Patients", label="patients").savefig("patients.png")

Everything is drawn on figures of its own, never on pyplot's current one. What was withheld is hatched and says so; NULL
leaves a gap that says so; intervals are drawn where they are given. Colours are Okabe and Ito's, which people with any
colour vision tell apart. Needs the extra `ceiba[plot]`; MissingExtra without it.
"""

from ceiba.plots.curves import Curve, calibration, roc, survival
from ceiba.plots.estimates import forest, scree
from ceiba.plots.heat_maps import heat_map
from ceiba.plots.histograms import histogram
from ceiba.plots.tables import bars, line

__all__ = ["Curve", "bars", "calibration", "forest", "heat_map", "histogram", "line", "roc", "scree", "survival"]
