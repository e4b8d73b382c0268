"""Ask questions of a data space whose data nobody hands over.

    import ceiba
    space = ceiba.connect("coordinator.example:7443", identity="~/.ceiba/bank-a")
    heart = space.table("health.heart")
    heart.filter(heart.age > 50).group_by("sex").agg(n=ceiba.count(), chol=ceiba.mean("cholesterol")).to_pandas()

Every statistic of `ceiba_protocol.statistics` is a function here, under its own name and those of its SQL functions.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ceiba import plots, scorecards
    from ceiba.agreements import AgreementHandle
    from ceiba.jobs import Job
    from ceiba.noise import Noise
    from ceiba.query import Query, Table
    from ceiba.receipts import Receipt
    from ceiba.result import Result
    from ceiba.scorecards import Binning, Scorecard
    from ceiba.space import Space, connect
    from ceiba.terms import Term, case, col, date_trunc, split, width_bucket
    from ceiba_protocol.errors import CeibaError
    from ceiba_protocol.statistics import WITHHELD

_HOMES = {
    "Binning": "ceiba.scorecards",
    "Scorecard": "ceiba.scorecards",
    "connect": "ceiba.space",
    "Space": "ceiba.space",
    "Job": "ceiba.jobs",
    "Noise": "ceiba.noise",
    "WITHHELD": "ceiba_protocol.statistics",
    "Query": "ceiba.query",
    "Table": "ceiba.query",
    "AgreementHandle": "ceiba.agreements",
    "Receipt": "ceiba.receipts",
    "Result": "ceiba.result",
    "Term": "ceiba.terms",
    "case": "ceiba.terms",
    "col": "ceiba.terms",
    "date_trunc": "ceiba.terms",
    "split": "ceiba.terms",
    "width_bucket": "ceiba.terms",
    "CeibaError": "ceiba_protocol.errors",
}
"""Where each name lives; loaded when it is first used, so that `import ceiba` is quick."""

_MODULES = ("plots", "scorecards")
_EXTREMES = ("min", "max", "minimum", "maximum")
"""Not computed; who calls one is told why, and what to ask instead."""

__all__ = [
    "WITHHELD",
    "AgreementHandle",
    "Binning",
    "CeibaError",
    "Job",
    "Noise",
    "Query",
    "Receipt",
    "Result",
    "Scorecard",
    "Space",
    "Table",
    "Term",
    "case",
    "col",
    "connect",
    "date_trunc",
    "plots",
    "scorecards",
    "split",
    "width_bucket",
]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    if name in _EXTREMES:
        return importlib.import_module("ceiba.analyses.extremes").refuse_extreme
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"ceiba.{name}")
    from ceiba.statistics import statistic, statistic_names

    if name not in statistic_names():
        raise AttributeError(f"ceiba has no {name}; dir(ceiba) lists what there is")
    return statistic(name)


def __dir__() -> list[str]:
    from ceiba.statistics import statistic_names

    return sorted([*_HOMES, *_MODULES, *statistic_names()])
