"""The statistics: one file each, found by looking into this folder.

A statistic is a finishing step over sums of row expressions (DESIGN §5). To add one, add a file with one subclass of
`Statistic`: which expressions every holder sums (`sums`), and what the merchant makes of the encrypted sums' totals
(`finish`). The wire format, the SQL function, `ceiba.<name>` and the documentation follow from the class.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from ceiba_protocol.statistics.base import WITHHELD, Output, Statistic, Total, Withheld

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _concrete(kind: type[Statistic]) -> Iterator[type[Statistic]]:
    for below in kind.__subclasses__():
        if not inspect.isabstract(below):
            yield below
        yield from _concrete(below)


STATISTICS: dict[str, type[Statistic]] = {kind.name(): kind for kind in _concrete(Statistic)}  # type: ignore[type-abstract]
"""Every statistic by its name."""

if TYPE_CHECKING:
    AnyStatistic = Statistic
else:
    AnyStatistic = Annotated[Union[tuple(STATISTICS.values())], Field(discriminator="statistic")]  # noqa: UP007

__all__ = ["STATISTICS", "WITHHELD", "AnyStatistic", "Output", "Statistic", "Total", "Withheld"]
