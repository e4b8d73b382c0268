"""Showing how far a job is: which holders have answered, and whom it waits for."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ceiba_protocol.v1.jobs_pb2 import JobStatus

Report = Callable[[JobStatus], None]
Progress = Callable[[], AbstractContextManager[Report]]


def in_words(status: JobStatus) -> str:
    """What a job is doing, for people: `2 of 3 holders have approved; waiting for a person at zurich; hungary left`."""
    done, verb = (status.submitted, "answered") if _is_fixed(status) else (status.approved, "approved")
    waiting = [_waiting(holder, status) for holder in unanswered(status)]
    parts = [f"{len(done)} of {len(remaining(status))} holders have {verb}"]
    parts += [f"waiting for {', '.join(waiting)}"] if waiting else []
    parts += [f"{', '.join(status.left)} left"] if status.left else []
    return "; ".join(parts)


def remaining(status: JobStatus) -> list[str]:
    """The holders that have not left the job."""
    return [holder for holder in status.holders if holder not in status.left]


def unanswered(status: JobStatus) -> list[str]:
    """Those of them that the job waits for."""
    done = status.submitted if _is_fixed(status) else status.approved
    return [holder for holder in remaining(status) if holder not in done]


def _waiting(holder: str, status: JobStatus) -> str:
    if holder in status.pending:
        return f"a person at {holder}"
    return holder if holder in status.online else f"{holder} (offline)"


def _is_fixed(status: JobStatus) -> bool:
    return set(remaining(status)) <= set(status.approved)


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
            bar.update(task, total=2 * len(remaining(status)), completed=steps, description=in_words(status))

        yield report
