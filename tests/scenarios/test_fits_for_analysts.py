"""Fits among real holders, as an analyst meets them: progress, an outcome taken up again, a refusal, Ctrl-C."""

import contextlib
import signal
from collections.abc import Callable, Iterator

import pytest

from ceiba.analyses.glm import GlmOutcome
from ceiba.analysis import AnalysisJob
from ceiba.progress import Progress, Report, in_words
from ceiba.query import Table
from ceiba.space import Space
from ceiba_protocol.errors import Collinear, JobRefused, UnknownJob
from ceiba_protocol.job import State
from ceiba_protocol.v1.jobs_pb2 import JobReference, JobStatus
from ceiba_protocol.v1.jobs_pb2_grpc import JobsStub
from ceiba_scenarios import Sandbox
from ceiba_scenarios.stories.health_sharing import DATA, TABLE, split_by_hospital
from tests.support.pooled_heart import heart as pooled_heart
from tests.support.waiting import until

pytestmark = pytest.mark.slow

FAR = 2**40
"""Seconds since 1970: after every deadline."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Four hospitals; every column of grade internal."""
    folder = tmp_path_factory.mktemp("fits")
    schema = folder / "heart.toml"
    schema.write_text((DATA / "heart.toml").read_text().replace('grade = "sensitive"', 'grade = "internal"'))
    holders = {hospital: {TABLE: file} for hospital, file in split_by_hospital(folder / "hospitals").items()}
    with Sandbox(holders, schemas={TABLE: schema}) as running:
        yield running


@pytest.fixture
def space(sandbox: Sandbox) -> Space:
    return sandbox.merchant("bank-a")


@pytest.fixture
def heart(space: Space) -> Table:
    return space.table(TABLE)


def watching(see: Callable[[JobStatus], None]) -> Progress:
    """A progress that hands on every status."""

    @contextlib.contextmanager
    def progress() -> Iterator[Report]:
        yield see

    return progress


def test_an_outcome_is_taken_up_again_and_its_rounds_are_told(heart: Table, sandbox: Sandbox) -> None:
    """By a second merchant's program, on the same folder."""
    words: list[str] = []
    job = heart.filter(heart.age > 35).logistic("I(diagnosis > 0) ~ age + C(sex)").submit()
    mine = job.wait(progress=watching(lambda status: words.append(in_words(status))))
    rounds = [word for word in words if word.startswith("round ")]
    assert rounds[0] == "round 1 of the fit among 4 holders" and len(rounds) > mine.iterations
    with Space(sandbox.merchant_home("bank-a")) as other:
        again = other.job(job.id)
        assert isinstance(again, AnalysisJob) and again.progress() == "done"
        theirs = again.wait()
    assert isinstance(theirs, GlmOutcome) and theirs == mine
    table = pooled_heart()
    pooled = table.filter(table.age > 35).logistic("I(diagnosis > 0) ~ age + C(sex)").run()
    assert theirs.coefficients == pytest.approx(pooled.coefficients, abs=1e-6)
    explained = heart.logistic("I(diagnosis > 0) ~ age + C(sex)").explain()
    assert explained.fit.rounds / 2 <= len(rounds) <= 2 * explained.fit.rounds


def test_what_holders_refuse_in_a_round_is_told_in_words(heart: Table) -> None:
    with pytest.raises(JobRefused, match=r"is a combination of those before it\. Leave it or one") as caught:
        heart.glm("max_heart_rate ~ age + I(age * 2)").run()
    assert isinstance(caught.value.reason, Collinear)


@contextlib.contextmanager
def heeding_interrupts() -> Iterator[None]:
    """As at a terminal; a process that a shell has started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_fit_everywhere(
    sandbox: Sandbox, space: Space, heart: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the coordinator it is cancelled; no holder keeps a mask secret or masked words of it; the folder forgets it;
    and the holders answer the next question."""
    seen: list[JobStatus] = []

    def press(status: JobStatus) -> None:
        """Once a round is over: several may be when the news of the first comes."""
        seen.append(status)
        if status.state == State.WAITING_FOR_ITERATIONS and status.iterations >= 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("ceiba.progress.shown_by_default", lambda: watching(press))
    with heeding_interrupts(), pytest.raises(KeyboardInterrupt):
        heart.kmeans(["age", "max_heart_rate"], 3).run()
    job_id = seen[-1].job_id
    assert seen[-1].iterations >= 1 and seen[-1].submitted == []
    assert next(JobsStub(space.channel).Watch(JobReference(job_id=job_id))).state == State.CANCELLED
    with pytest.raises(UnknownJob):
        space.job(job_id.hex())
    for hospital in space.roster.table(TABLE).holders:
        with contextlib.closing(sandbox.node_home(hospital).ledger()) as ledger:
            assert ledger.answer_time(job_id) is not None
            until(lambda kept=ledger: kept.expired(before=FAR) == [], f"{hospital} to forget the job")
            assert ledger.payload(job_id, 0, "fit", 0) is not None  # that it took part is on record
    monkeypatch.undo()
    assert heart.count().run().value == 920
