"""Ctrl-C while a fit iterates among real holders."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ceiba.progress import Report
from ceiba_protocol.errors import UnknownJob
from ceiba_protocol.job import State
from ceiba_protocol.v1.jobs_pb2 import JobReference, JobStatus
from ceiba_scenarios import Sandbox
from ceiba_scenarios.stories.health_sharing import DATA, TABLE, split_by_hospital
from tests.support.waiting import until

FAR = 2**40
"""Seconds since 1970: after every deadline."""


@pytest.mark.slow
def test_ctrl_c_ends_a_fit_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the coordinator it is cancelled; no holder keeps a mask secret or masked words of it; the folder forgets it;
    and the holders answer the next question."""
    schema = tmp_path / "heart.toml"
    schema.write_text((DATA / "heart.toml").read_text().replace('grade = "sensitive"', 'grade = "internal"'))
    holders = {hospital: {TABLE: file} for hospital, file in split_by_hospital(tmp_path / "hospitals").items()}
    seen: list[JobStatus] = []

    @contextlib.contextmanager
    def pressing() -> Iterator[Report]:
        """Somebody presses Ctrl-C in the second round."""

        def report(status: JobStatus) -> None:
            seen.append(status)
            if status.state == State.WAITING_FOR_ITERATIONS and status.iterations == 1:
                signal.raise_signal(signal.SIGINT)

        yield report

    with Sandbox(holders, schemas={TABLE: schema}) as sandbox:
        space = sandbox.merchant("bank-a")
        heart = space.table(TABLE)
        monkeypatch.setattr("ceiba.space.shown_by_default", lambda: pressing)
        with pytest.raises(KeyboardInterrupt):
            heart.kmeans(["age", "cholesterol", "max_heart_rate"], 3).run()
        job_id = seen[-1].job_id
        assert seen[-1].iterations == 1 and seen[-1].submitted == []
        now = next(space._jobs.Watch(JobReference(job_id=job_id)))
        assert now.state == State.CANCELLED
        with pytest.raises(UnknownJob):
            space.job(job_id.hex())
        for hospital in holders:
            with contextlib.closing(sandbox.node_home(hospital).ledger()) as ledger:
                assert ledger.answer_time(job_id) is not None
                until(lambda kept=ledger: kept.expired(before=FAR) == [], f"{hospital} to forget the job")
                assert ledger.payload(job_id, 0, "fit", 0) is not None  # that it took part is on record
        monkeypatch.undo()
        assert heart.count().run().value == 920
