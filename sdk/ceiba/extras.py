"""Packages that an installation may lack. Each belongs to an extra: `pip install 'ceiba[stats]'`."""

from __future__ import annotations

import importlib
from typing import Any

from ceiba_protocol.errors import MissingExtra

STATS, PLOT, ARROW = "ceiba[stats]", "ceiba[plot]", "ceiba[arrow]"


def needed(module: str, feature: str, extra: str) -> Any:
    """The module, loaded when it is first needed. Raises MissingExtra, which names the extra to install."""
    try:
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(feature=feature, package=extra) from None


def stats(feature: str) -> Any:
    """`scipy.stats`. Raises MissingExtra."""
    return needed("scipy.stats", feature, STATS)
