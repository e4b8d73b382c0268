"""What the holders released for one question, before it becomes rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ceiba.noise import NoiseReport, half_width, report_of
from ceiba_protocol.plan import Label, Program, finish
from ceiba_protocol.statistics import Output, Total
from ceiba_protocol.trust.documents import NoiseTerms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Released:
    """Totals cell by cell, and what is known about them."""

    totals: Sequence[int]
    sent: npt.NDArray[np.bool_] | None = None
    """[cells, sums]: which were released; None: all."""
    terms: NoiseTerms | None = None
    variances: Sequence[int] = ()
    """Of the noise in each sum of a cell; empty if there is none."""

    def rows(self, program: Program) -> list[tuple[Label | Output, ...]]:
        """Group labels, then outputs."""
        return finish(program, self.totals, self.sent, noisy=self.terms is not None)

    def half_widths(self, program: Program) -> list[tuple[Any, ...]]:
        """For each of `rows`, half of each output's 95 % interval, None where there is none; no rows without noise."""
        if self.terms is None:
            return []
        width, found = len(program.sums), []
        for cell, labels in enumerate(program.labels()):
            if self.sent is not None and not self.sent[cell].all():
                found.append((*labels, *(None for _ in program.uses)))
                continue
            units = self.totals[cell * width : (cell + 1) * width]
            sums = [Total(n, one.step) for n, one in zip(units, program.sums, strict=True)]
            found.append((*labels, *(half_width(use, sums, self.variances) for use in program.uses)))
        return found

    def report(self, program: Program) -> NoiseReport | None:
        """None without noise."""
        if self.terms is None:
            return None
        return report_of(self.terms, self.variances, [one.step for one in program.sums])
