"""What the holders released for one question, before it becomes rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from ceiba.noise import NoiseReport, half_width, report_of, spread
from ceiba_protocol.plan import Label, Program, finish, finish_one
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

    def summed_over(self, program: Program, kept: Sequence[int]) -> tuple[Program, Released]:
        """Totals over all keys but those in these places, from the cells alone: a total is withheld if one of its
        cells is. The noise of its cells adds up."""
        if len(kept) == len(program.keys):
            return program, self
        import numpy as np

        shape, width = [len(key.values) for key in program.keys], len(program.sums)
        others = tuple(place for place in range(len(shape)) if place not in kept)
        totals = np.array(self.totals, dtype=object).reshape(*shape, width).sum(axis=others)
        sent = None if self.sent is None else self.sent.reshape(*shape, width).all(axis=others).reshape(-1, width)
        cells = prod(shape[place] for place in others)
        variances = [variance * cells for variance in self.variances]
        fewer = replace(program, keys=tuple(program.keys[place] for place in kept))
        return fewer, Released(totals.reshape(-1).tolist(), sent, self.terms, variances)

    def half_widths(self, program: Program) -> list[tuple[Any, ...]]:
        """For each of `rows`, half of each output's 95 % interval, None where there is none; no rows without noise."""
        return [
            (*labels, *(half_width(use, sums, self.variances) if sums else None for use in program.uses))
            for labels, sums in self._noisy_cells(program)
        ]

    def half_widths_of(self, program: Program, compute: Callable[[tuple[Any, ...]], Any]) -> list[Any]:
        """As `half_widths`, of one number that `compute` makes of a row: labels, then outputs."""

        def finish_all(labels: tuple[Label, ...], sums: Sequence[Total]) -> Any:
            return compute((*labels, *(finish_one(use, sums) for use in program.uses)))

        return [
            spread(partial(finish_all, labels), sums, range(len(sums)), self.variances) if sums else None
            for labels, sums in self._noisy_cells(program)
        ]

    def _noisy_cells(self, program: Program) -> Iterator[tuple[tuple[Label, ...], list[Total]]]:
        """With noise, each cell's labels and its sums; no sums where it was withheld."""
        width = len(program.sums)
        for cell, labels in enumerate(program.labels() if self.terms is not None else ()):
            whole = self.sent is None or bool(self.sent[cell].all())
            units = self.totals[cell * width : (cell + 1) * width] if whole else ()
            yield labels, [Total(n, one.step) for n, one in zip(units, program.sums, strict=whole)]

    def report(self, program: Program) -> NoiseReport | None:
        """None without noise."""
        if self.terms is None:
            return None
        return report_of(self.terms, self.variances, [one.step for one in program.sums])
