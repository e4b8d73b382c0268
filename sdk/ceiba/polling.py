"""Waiting for something that only asking again can tell."""

import time
from collections.abc import Iterator

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds; each pause is twice as long as the one before."""


def backing_off(seconds: float) -> Iterator[None]:
    """Yields at once, then after longer and longer pauses, for the last time when the seconds are over."""
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    yield
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
        yield
