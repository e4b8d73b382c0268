"""Waiting for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02


def until(condition: Callable[[], T], what: str) -> T:
    """The first true thing that `condition` gives; an AssertionError that names it if none comes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"waited in vain for {what}")
