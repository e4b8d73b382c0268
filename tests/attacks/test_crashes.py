"""SIGKILL at every step that is written to a disk: after a restart the job goes on, and its answer is the right one.

One space for the whole file; its processes are doubles that kill themselves where a test says (support/doubles.py).
"""

import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ceiba
from ceiba.jobs import Job
from ceiba_coordinator.config import Config
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_node.ledger import Ledger
from ceiba_scenarios import Sandbox
from tests.attacks.live import visits
from tests.attacks.live.visits import VISITS
from tests.support.members import HOLDERS, SCHEMA, frames
from tests.support.waiting import until

pytestmark = pytest.mark.slow

DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
SQL = "SELECT COUNT(*) AS n, SUM(age) AS years, SUM(chol) AS chol FROM health.heart"
TRUTH = (6, 301, pytest.approx(90.4))
IDS = itertools.count()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    launcher = {name: [str(DOUBLES), "ceiba_node"] for name in HOLDERS}
    launcher["coordinator"] = [str(DOUBLES), "ceiba_coordinator"]
    folder = tmp_path_factory.mktemp("crashes")
    tables = {name: {**tables, VISITS: visits.frame(visits.rows_of(name))} for name, tables in frames().items()}
    schemas = {"health.heart": SCHEMA, VISITS: visits.SCHEMA}
    with Sandbox(tables, schemas=schemas, folder=folder, launcher=launcher) as sandbox:
        sandbox.merchant("bank-a")
        yield sandbox


def plan_crash(lab: Sandbox, victim: str, method: str, when: str, after_calls: int) -> Path:
    file = lab.processes[victim].home / "crash.json"
    staged = file.with_suffix(".new")
    plan = {"id": str(next(IDS)), "method": method, "when": when, "after_calls": after_calls}
    staged.write_text(json.dumps(plan))
    staged.rename(file)
    return file


def seats_of(lab: Sandbox, job: Job) -> dict[str, tuple[Any, Any]]:
    """The approval and submission of each holder, as the coordinator stored them."""
    engine = open_engine(Config.read(lab.coordinator_folder).database_url)
    try:
        return {seat.holder: (seat.approval, seat.submission) for seat in Store(engine).seats(bytes.fromhex(job.id))}
    finally:
        engine.dispose()


def ledger_of(lab: Sandbox, holder: str) -> Ledger:
    home = lab.node_home(holder)
    return Ledger(home.ledger_path, bytes.fromhex(home.identity().storage_key))


def answered_with_a_crash(lab: Sandbox, victim: str, method: str, when: str, after_calls: int) -> Job:
    """Ask; the victim dies at that step, is started again, and the answer comes."""
    job, row = crashed(lab, victim, (method, when, after_calls), SQL)
    assert row == TRUTH
    return job


def crashed(lab: Sandbox, victim: str, step: tuple[str, str, int], sql: str, **options: Any) -> tuple[Job, Any]:
    """The job and the answer's first row; `step`: method, when, after how many calls."""
    space = lab.merchant("bank-a")
    file = plan_crash(lab, victim, *step)
    job = space.sql(sql).submit(**options)
    process = lab.processes[victim]
    until(lambda: not process.is_running(), f"{victim} to die at {step}")
    assert not file.exists()
    assert process.wait(1) == -9
    process.start()
    return job, job.wait()[0]


def submitted_meanwhile(lab: Sandbox, space: Any) -> Job:
    """The coordinator dies while it takes the job; the SDK repeats the call until somebody answers."""
    process = lab.coordinator

    def start_again() -> None:
        until(lambda: not process.is_running(), "the coordinator to die")
        process.start()

    helper = threading.Thread(target=start_again)
    helper.start()
    job = space.sql(SQL).submit()
    helper.join()
    return job


def same_bytes_everywhere(lab: Sandbox, job: Job) -> None:
    """What the coordinator has is what each ledger says was approved and sent."""
    for holder, (approval, submission) in seats_of(lab, job).items():
        ledger = ledger_of(lab, holder)
        answer = ledger.answer(bytes.fromhex(job.id))
        payload = ledger.payload(bytes.fromhex(job.id), 0, "release", 0)
        ledger.close()
        assert answer is not None and answer.approval == approval
        assert payload is not None and payload.submission == submission


HOLDER_STEPS = [
    ("Ledger.record_approval", "before", 0),
    ("Ledger.record_approval", "after", 0),
    ("Agent._send", "after", 0),
    ("Ledger.record_payload", "before", 0),
    ("Ledger.record_payload", "after", 0),
    ("Agent._send", "after", 1),
]
# A holder's third approval and third submission also move the job's state, in the same transaction.
COORDINATOR_STEPS = [
    ("Store.fill_seat", "before", 0),
    ("Store.fill_seat", "after", 0),
    ("Jobs.approve", "after", 0),
    ("Store.set_state", "before", 0),
    ("Store.set_state", "after", 0),
    ("Jobs.approve", "after", 2),
    ("Store.fill_seat", "after", 3),
    ("Jobs.contribute", "after", 0),
    ("Store.set_state", "before", 1),
    ("Store.set_state", "after", 1),
    ("Jobs.contribute", "after", 2),
]


def a_few(steps: Sequence[tuple[str, str, int]], *every_run: int) -> list[Any]:
    """Those in these places in every run; `make test-long` has the others."""
    return [
        pytest.param(*step, marks=() if place in every_run else pytest.mark.long) for place, step in enumerate(steps)
    ]


@pytest.mark.parametrize(("method", "when", "calls"), HOLDER_STEPS)
def test_holder_killed_at_each_step(lab: Sandbox, method: str, when: str, calls: int) -> None:
    job = answered_with_a_crash(lab, HOLDERS[1], method, when, calls)
    same_bytes_everywhere(lab, job)


@pytest.mark.parametrize(("method", "when", "calls"), a_few(COORDINATOR_STEPS, 1, 3, 10))
def test_coordinator_killed_at_each_step(lab: Sandbox, method: str, when: str, calls: int) -> None:
    job = answered_with_a_crash(lab, "coordinator", method, when, calls)
    same_bytes_everywhere(lab, job)


@pytest.mark.parametrize(
    ("method", "when"), [("Store.add_job", "before"), ("Store.add_job", "after"), ("Jobs.submit", "after")]
)
def test_coordinator_killed_while_it_takes_a_job(lab: Sandbox, method: str, when: str) -> None:
    space = lab.merchant("bank-a")
    plan_crash(lab, "coordinator", method, when, 0)
    job = submitted_meanwhile(lab, space)
    assert job.wait()[0] == TRUTH
    same_bytes_everywhere(lab, job)


def test_holder_killed_while_it_forgets(lab: Sandbox) -> None:
    """The answer is out; the secret must still go, at the latest a day later."""
    space, victim = lab.merchant("bank-a"), HOLDERS[2]
    file = plan_crash(lab, victim, "Ledger.forget", "before", 0)
    job = space.sql(SQL).submit()
    assert job.wait()[0] == TRUTH
    until(lambda: not lab.processes[victim].is_running(), f"{victim} to die")
    assert not file.exists()
    ledger = ledger_of(lab, victim)
    assert bytes.fromhex(job.id) in ledger.expired(before=int(time.time()) + 10_000)
    ledger.close()
    lab.processes[victim].start()
    assert space.sql(SQL).run()[0] == TRUTH


def test_everybody_killed_at_once(lab: Sandbox) -> None:
    space, victim = lab.merchant("bank-a"), HOLDERS[0]
    plan_crash(lab, victim, "Ledger.record_payload", "before", 0)
    job = space.sql(SQL).submit()
    until(lambda: not lab.processes[victim].is_running(), f"{victim} to die")
    for process in lab.processes.values():
        process.kill()
    for process in lab.processes.values():
        process.start()
    assert job.wait()[0] == TRUTH
    same_bytes_everywhere(lab, job)


# --- the gate ----------------------------------------------------------------------------------------------------

# The first payload is the share of the gate, the second one the release.
GATE_STEPS = [
    ("Ledger.record_approval", "before", 0),
    ("Ledger.record_approval", "after", 0),
    ("Agent._send", "after", 0),
    ("Ledger.record_payload", "before", 0),
    ("Ledger.record_payload", "after", 0),
    ("Agent._send", "after", 1),
    ("Ledger.record_payload", "before", 1),
    ("Ledger.record_payload", "after", 1),
    ("Agent._send", "after", 2),
]
COORDINATOR_GATE_STEPS = [
    ("Store.fill_seat", "before", 3),
    ("Store.fill_seat", "after", 3),
    ("Jobs.share", "after", 0),
    ("Store.set_state", "before", 1),
    ("Store.set_state", "after", 1),
    ("Jobs.share", "after", 2),
]
RHO = 1_000
GROUPS = iter(
    f"ward = '{ward}' AND age BETWEEN {low} AND {low + 14}"
    for ward in visits.WARDS
    for low in (18, 33, 48, 63)
    if (ward, low) != ("medicine", 18)  # too few
)
"""No two have a patient in common, so that an exact question about each is answered."""
EXACT_JOBS: list[str] = []
"""Asked so far; the quota has to know of as many."""
WORDS = (f"age > {age}" for age in itertools.count())


def spent(lab: Sandbox, job: Job | None = None) -> dict[str, tuple[int, int]]:
    """By holder: what bank-a has paid in millionths of ρ, and in exact answers about what the job is about."""
    found = {}
    for holder in HOLDERS:
        ledger = ledger_of(lab, holder)
        version = job._question.manifest.versions[holder] if job else ""
        now = int(time.time())
        found[holder] = ledger.spent(VISITS, "bank-a", now)[0], ledger.exact_used(VISITS, "bank-a", version)
        ledger.close()
    return found


def same_bytes_past_the_gate(lab: Sandbox, job: Job) -> None:
    """Each holder has signed one share and one submission, sent these bytes and no others, and remembers the answer."""
    same_bytes_everywhere(lab, job)
    engine = open_engine(Config.read(lab.coordinator_folder).database_url)
    seats = {seat.holder: seat.share for seat in Store(engine).seats(bytes.fromhex(job.id))}
    words = {holder: Store(engine).words(bytes.fromhex(job.id), holder) for holder in seats}
    engine.dispose()
    for holder, share in seats.items():
        ledger = ledger_of(lab, holder)
        payload = ledger.payload(bytes.fromhex(job.id), 0, "gate", 0)
        query = "SELECT signed FROM documents WHERE type IN ('ceiba.v1.GateShare', 'ceiba.v1.Submission')"
        signed = [blob for (blob,) in ledger._all(query) if job.id.encode() in blob]
        remembered = ledger._all("SELECT settled FROM answered_sets WHERE job_id = ?", bytes.fromhex(job.id))
        ledger.close()
        assert payload is not None and payload.submission == share
        assert payload.ciphertexts in (None, words[holder])  # erased, once the job has ended
        assert len(signed) == 2
        assert all(settled for (settled,) in remembered) and bool(remembered) == (job._question.manifest.noise is None)


@pytest.mark.parametrize(("method", "when", "calls"), a_few(GATE_STEPS, 1, 4, 7))
def test_holder_killed_at_each_step_of_an_exact_job_past_the_gate(
    lab: Sandbox, method: str, when: str, calls: int
) -> None:
    exact_past_the_gate(lab, HOLDERS[1], (method, when, calls))


@pytest.mark.parametrize(("method", "when", "calls"), a_few(COORDINATOR_GATE_STEPS, 1))
def test_coordinator_killed_at_each_step_of_the_gate(lab: Sandbox, method: str, when: str, calls: int) -> None:
    exact_past_the_gate(lab, "coordinator", (method, when, calls))


def exact_past_the_gate(lab: Sandbox, victim: str, step: tuple[str, str, int]) -> None:
    where = next(GROUPS)
    rows = [row for holder in HOLDERS for row in visits.rows_of(holder)]
    low, ward = int(where.split()[-3]), where.split("'")[1]
    truth = sum(row["ward"] == ward and low <= row["age"] <= low + 14 for row in rows)
    job, row = crashed(lab, victim, step, f"SELECT COUNT(*) AS n FROM {VISITS} WHERE {where}")
    assert row == (truth,)
    same_bytes_past_the_gate(lab, job)
    EXACT_JOBS.append(job.id)
    assert {exact for _, exact in spent(lab, job).values()} == {len(EXACT_JOBS)}


@pytest.mark.long
@pytest.mark.parametrize("step", GATE_STEPS)
def test_holder_killed_at_each_step_of_a_job_with_noise(lab: Sandbox, step: tuple[str, str, int]) -> None:
    before = spent(lab)
    sql = f"SELECT COUNT(*) AS n FROM {VISITS} WHERE {next(WORDS)}"
    job, row = crashed(lab, HOLDERS[1], step, sql, noise=ceiba.Noise(rho=RHO / 1e6))
    assert isinstance(row[0], int)
    same_bytes_past_the_gate(lab, job)
    assert spent(lab) == {holder: (rho + RHO, 0) for holder, (rho, _) in before.items()}
    assert job._space.sql(sql).run(noise=ceiba.Noise(rho=RHO / 1e6))[0] == row  # the same noise, and free
    assert spent(lab) == {holder: (rho + RHO, 0) for holder, (rho, _) in before.items()}


# --- fits --------------------------------------------------------------------------------------------------------

# The first payload is the share of the gate, then one for each round, at last the release.
FIT_STEPS = [
    ("Ledger.record_payload", "before", 1),
    ("Ledger.record_payload", "after", 1),
    ("Agent._send", "after", 2),
    ("Ledger.record_payload", "after", 2),
    ("Agent._send", "after", 3),
    ("Ledger.record_payload", "before", 4),
    ("Ledger.record_payload", "after", 4),
]
COORDINATOR_FIT_STEPS = [
    ("Store.add_fit_share", "before", 0),
    ("Store.add_fit_share", "after", 1),
    ("Jobs.share_fit", "after", 0),
    ("Store.set_state", "after", 2),
    ("Jobs.share_fit", "after", 2),
    ("Jobs.share_fit", "after", 5),
    ("Store.add_fit_share", "after", 8),
]
FIT_ROUNDS = 3


@pytest.mark.parametrize(("method", "when", "calls"), a_few(FIT_STEPS, 1, 4))
def test_holder_killed_at_each_step_of_a_fit(lab: Sandbox, method: str, when: str, calls: int) -> None:
    fitted_with_a_crash(lab, HOLDERS[1], (method, when, calls))


@pytest.mark.parametrize(("method", "when", "calls"), a_few(COORDINATOR_FIT_STEPS, 0, 3))
def test_coordinator_killed_at_each_step_of_a_fit(lab: Sandbox, method: str, when: str, calls: int) -> None:
    fitted_with_a_crash(lab, "coordinator", (method, when, calls))


def fitted_with_a_crash(lab: Sandbox, victim: str, step: tuple[str, str, int]) -> None:
    """The answer is that of all rows together, and nobody has sent two payloads to one round. Always the same question,
    because another about the same patients would count against their exact answers."""
    space = lab.merchant("bank-a")
    file = plan_crash(lab, victim, *step)
    job = space.table(VISITS).glm("days ~ age", family="gaussian").query.submit()
    process = lab.processes[victim]
    until(lambda: not process.is_running(), f"{victim} to die at {step}")
    assert not file.exists()
    process.start()
    ((found,),) = job.wait()
    rows = [row for holder in HOLDERS for row in visits.rows_of(holder)]
    slope = np.polyfit([row["age"] for row in rows], [row["days"] for row in rows], 1)
    assert found["coefficients"] == pytest.approx(slope[::-1].tolist(), rel=1e-7)
    one_payload_a_round(lab, job)


def one_payload_a_round(lab: Sandbox, job: Job) -> None:
    """As many signed shares as rounds, each the stored one, and one submission."""
    for holder in HOLDERS:
        ledger = ledger_of(lab, holder)
        stored = ledger._all(
            "SELECT stage, iteration, submission FROM payloads WHERE job_id = ? ORDER BY rowid", bytes.fromhex(job.id)
        )
        query = "SELECT signed FROM documents WHERE type IN ('ceiba.v1.FitShare', 'ceiba.v1.Submission')"
        signed = [blob for (blob,) in ledger._all(query) if job.id.encode() in blob]
        ledger.close()
        assert [row[:2] for row in stored] == [("gate", 0), *(("fit", at) for at in range(FIT_ROUNDS)), ("release", 0)]
        assert sorted(signed) == sorted(row[2] for row in stored[1:])
