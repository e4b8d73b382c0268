"""What a change may concern besides a job or a holder, by name: who waits for it is woken."""

from collections.abc import Callable, Iterable

EVERYBODY = "everybody"
"""A change of the roster or the catalogue."""
NEW_CHECKPOINT = "new checkpoint"
"""The log has another newest checkpoint."""

Notify = Callable[[Iterable[str]], None]
"""Told the names that a change concerns: job ids, holders' names, or those above."""
