"""The machine's time, for tests that talk to real processes."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    return datetime.now(UTC)


def seconds_now() -> int:
    return int(time.time())
