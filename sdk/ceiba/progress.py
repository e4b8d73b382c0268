"""Showing how far a job is: which holders have answered, and whom it waits for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ceiba_protocol.v1.jobs_pb2 import JobStatus

Report = Callable[[JobStatus], None]
Progress = Callable[[], AbstractContextManager[Report]]


def in_words(status: JobStatus) -> str:
    """What a job is doing, for people: `3 of 4 holders have answered; waiting for hungary (offline)`."""
    done, verb = (status.submitted, "answered") if _is_fixed(status) else (status.approved, "approved")
    waiting = [holder if holder in status.online else f"{holder} (offline)" for holder in _missing(status)]
    tail = f"; waiting for {', '.join(waiting)}" if waiting else ""
    return f"{len(done)} of {len(status.holders)} holders have {verb}{tail}"


def _is_fixed(status: JobStatus) -> bool:
    return len(status.approved) == len(status.holders)


def _missing(status: JobStatus) -> list[str]:
    done = status.submitted if _is_fixed(status) else status.approved
    return [holder for holder in status.holders if holder not in done]


@contextmanager
def show_nothing() -> Iterator[Report]:
    yield lambda status: None


@contextmanager
def show_on_terminal() -> Iterator[Report]:
    """A bar on standard error, which goes away when the job has ended."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None)

        def report(status: JobStatus) -> None:
            steps = len(status.approved) + len(status.submitted)
            bar.update(task, total=2 * len(status.holders), completed=steps, description=in_words(status))

        yield report
