"""What answers cost, and who was behind exact ones: nothing is spent twice, given back, or forgotten too early."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from pyroaring import BitMap

from ceiba_node.config import Home
from ceiba_node.differencing import Membership
from ceiba_node.ledger import Budget, Candidates, Charge, Ledger, Settled
from ceiba_protocol.disclosure.grade import BUDGET_SECONDS
from ceiba_protocol.errors import (
    AnswerPending,
    BadCommand,
    BudgetExhausted,
    CeibaError,
    ExactQuotaUsed,
    LedgerDamaged,
    LedgerRolledBack,
    NodeRunning,
    SecondPayload,
)
from ceiba_protocol.trust.identity import Identity
from tests.node.test_ledger import KEY, MASK_SECRET, OTHER_KEY, SALT, job_of, payload_of
from tests.support.documents import ROOT
from tests.support.members import HOLDERS, NOW, World, holder
from tests.support.one_node import ME, STORAGE_KEY, Node

TABLE = "health.heart"
LARGE = Budget(10**9, 10**9, 1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return Ledger(path, KEY)


def charge_of(job: int, rho: int = 0, **changes: object) -> Charge:
    """Exact if it costs nothing; every job another question."""
    fields: dict = {
        "job_id": bytes([job]) * 16,
        "dataset": TABLE,
        "merchant": "bank-a",
        "organisation": "Bank A",
        "rho": rho,
        "sticky": f"question {job}",
        "exact": rho == 0,
        "version": "versions",
        "charged_at": NOW,
    }
    return Charge(**(fields | changes))


def pay(ledger: Ledger, one: Charge, budget: Budget, world: World) -> None:
    job = one.job_id[0]
    approval = world.approval(HOLDERS[0])
    ledger.record_approval(job_of(world, job, merchant=one.merchant), 0, approval, MASK_SECRET, (one, budget))


def jobs(ledger: Ledger) -> int:
    return ledger.counts()["approved"]


# --- budgets -----------------------------------------------------------------------------------------------------


def test_a_budget_is_spent_to_its_last_millionth(ledger: Ledger, world: World) -> None:
    budget = Budget(30, 1000, 0)
    for job, rho in enumerate((10, 15, 5)):
        pay(ledger, charge_of(job, rho), budget, world)
    with pytest.raises(BudgetExhausted) as caught:
        pay(ledger, charge_of(3, 1), budget, world)
    assert caught.value.fields == {"table": TABLE, "cost": "0.000001", "left": "0"}
    assert ledger.spent(TABLE, "Bank A", NOW) == (30, 30) and jobs(ledger) == 3


def test_merchants_of_one_organisation_share_a_budget_and_all_share_the_tables(ledger: Ledger, world: World) -> None:
    budget = Budget(30, 50, 0)
    pay(ledger, charge_of(0, 20, merchant="bank-a"), budget, world)
    with pytest.raises(BudgetExhausted, match=r"and 0\.00001 is left"):
        pay(ledger, charge_of(1, 11, merchant="bank-a2"), budget, world)
    pay(ledger, charge_of(1, 25, organisation="Bank B"), budget, world)
    with pytest.raises(BudgetExhausted, match=r"and 0\.000005 is left"):
        pay(ledger, charge_of(2, 6, organisation="Bank C"), budget, world)
    pay(ledger, charge_of(2, 30, organisation="Bank C", dataset="another.table"), budget, world)
    assert ledger.spent(TABLE, "Bank A", NOW) == (20, 45) and ledger.spent(TABLE, "Bank C", NOW) == (0, 45)
    assert ledger.customers() == [("another.table", "Bank C"), (TABLE, "Bank A"), (TABLE, "Bank B")]


def test_what_was_spent_counts_for_365_days(ledger: Ledger, world: World) -> None:
    budget = Budget(30, 1000, 0)
    for job, at in enumerate((NOW, NOW + 100)):
        pay(ledger, charge_of(job, 15, charged_at=at), budget, world)
    for later, spent in ((BUDGET_SECONDS - 1, 30), (BUDGET_SECONDS, 15), (BUDGET_SECONDS + 100, 0)):
        assert ledger.spent(TABLE, "Bank A", NOW + later) == (spent, spent)
    with pytest.raises(BudgetExhausted):
        pay(ledger, charge_of(2, 15, charged_at=NOW + BUDGET_SECONDS - 1), budget, world)
    pay(ledger, charge_of(2, 15, charged_at=NOW + BUDGET_SECONDS), budget, world)


def test_the_same_again_costs_nothing_to_who_has_paid(ledger: Ledger, world: World) -> None:
    budget = Budget(30, 50, 0)
    pay(ledger, charge_of(0, 30, sticky="same"), budget, world)
    pay(ledger, charge_of(1, 30, sticky="same"), budget, world)
    assert ledger.spent(TABLE, "Bank A", NOW) == (30, 30)
    with pytest.raises(BudgetExhausted):  # it would learn something
        pay(ledger, charge_of(2, 30, sticky="same", organisation="Bank B"), budget, world)
    with pytest.raises(BudgetExhausted):  # another version, or other noise
        pay(ledger, charge_of(2, 30, sticky="other"), budget, world)
    assert [entry.rho for entry in ledger.entries()] == [30, 0]


def test_a_budget_that_was_lowered_stops_nothing_that_is_free(ledger: Ledger, world: World) -> None:
    pay(ledger, charge_of(0, 30, sticky="same"), Budget(30, 50, 5), world)
    lower = Budget(10, 40, 5)
    pay(ledger, charge_of(1, 30, sticky="same"), lower, world)
    pay(ledger, charge_of(2), lower, world)
    with pytest.raises(BudgetExhausted, match="and 0 is left"):
        pay(ledger, charge_of(3, 1), lower, world)


def test_exact_answers_are_counted_for_each_version_and_organisation(ledger: Ledger, world: World) -> None:
    budget = Budget(100, 100, 2)
    for job in (0, 1):
        pay(ledger, charge_of(job), budget, world)
    with pytest.raises(ExactQuotaUsed) as caught:
        pay(ledger, charge_of(2), budget, world)
    assert caught.value.fields == {"table": TABLE, "used": "2", "limit": "2"}
    pay(ledger, charge_of(2, sticky="question 0"), budget, world)  # the same again
    pay(ledger, charge_of(3, 10), budget, world)  # with noise
    pay(ledger, charge_of(4, version="next"), budget, world)
    pay(ledger, charge_of(5, organisation="Bank B", sticky="question 0"), budget, world)
    used = [
        ledger.exact_used(TABLE, *of) for of in (("Bank A", "versions"), ("Bank A", "next"), ("Bank B", "versions"))
    ]
    assert used == [2, 1, 1]


def test_nothing_is_given_back(path: Path, ledger: Ledger, world: World) -> None:
    """Not when the job has ended, nor when its sets are forgotten, nor by another attempt or a restart."""
    pay(ledger, charge_of(0, 7), LARGE, world)
    pay(ledger, charge_of(1), LARGE, world)
    ledger.record_approval(job_of(world, 0), 1, world.approval(HOLDERS[0]), MASK_SECRET, (charge_of(0, 7), LARGE))
    ledger.forget(bytes(16))
    ledger.forget_sets(NOW + 10**9)
    for again in (ledger, Ledger(path, KEY)):
        assert again.spent(TABLE, "Bank A", NOW) == (7, 7) and again.exact_used(TABLE, "Bank A", "versions") == 1


# --- all or nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["jobs", "charges", "answers", "documents"])
def test_a_job_is_charged_and_approved_or_neither(ledger: Ledger, world: World, table: str) -> None:
    """Whichever statement fails."""
    fails = (
        f"CREATE TEMP TRIGGER fails BEFORE INSERT ON main.{table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )
    ledger._connection.execute(fails)
    with pytest.raises((sqlite3.Error, CeibaError)):
        pay(ledger, charge_of(0, 7), LARGE, world)
    assert jobs(ledger) == 0 and ledger.spent(TABLE, "Bank A", NOW) == (0, 0) and ledger.answer(bytes(16)) is None
    ledger._connection.execute("DROP TRIGGER fails")
    pay(ledger, charge_of(0, 7), LARGE, world)
    assert jobs(ledger) == 1 and ledger.spent(TABLE, "Bank A", NOW) == (7, 7)


def test_what_is_too_expensive_leaves_no_approval(ledger: Ledger, world: World) -> None:
    for one, kind in ((charge_of(0, 7), BudgetExhausted), (charge_of(0), ExactQuotaUsed)):
        with pytest.raises(kind):
            pay(ledger, one, Budget(6, 6, 0), world)
    assert jobs(ledger) == 0 and ledger.answer(bytes(16)) is None and ledger.entries() == []


def test_one_of_many_threads_gets_the_last_of_a_budget(path: Path, ledger: Ledger, world: World) -> None:
    """Half of them over a connection of their own, as another process has."""
    start, refused = threading.Barrier(6), []
    job_of(world), world.approval(HOLDERS[0])  # made before, once

    def race(job: int) -> None:
        mine = Ledger(path, KEY) if job % 2 else ledger
        start.wait()
        try:
            pay(mine, charge_of(job, 10), Budget(15, 15, 0), world)
        except BudgetExhausted:
            refused.append(job)

    threads = [threading.Thread(target=race, args=(job,)) for job in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5 and jobs(ledger) == 1 and ledger.spent(TABLE, "Bank A", NOW) == (10, 10)


RACE = """
import sys
from pathlib import Path
from ceiba_node.ledger import Ledger
from tests.node.test_disclosures import Budget, BudgetExhausted, charge_of, pay
from ceiba_protocol.trust.identity import Identity
from tests.node.test_ledger import KEY
from tests.support.members import World

path, job = Path(sys.argv[1]), int(sys.argv[2])
ledger, world = Ledger(path, KEY), World()
print("ready", flush=True)
sys.stdin.readline()
try:
    pay(ledger, charge_of(job, 10), Budget(15, 15, 0), world)
    print("paid")
except BudgetExhausted:
    print("refused")
"""


def test_one_of_two_processes_gets_the_last_of_a_budget(path: Path, ledger: Ledger) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), str(job)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for job in (1, 2)
    ]  # fmt: skip
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.communicate()[0] for process in started)
    assert said == ["paid\n", "refused\n"]
    assert jobs(ledger) == 1 and ledger.spent(TABLE, "Bank A", NOW) == (10, 10)


# --- who was behind exact answers --------------------------------------------------------------------------------


def part(subjects: Iterable[int], identity: str, **changes: object) -> Membership:
    made = Membership(identity, True, frozenset(), "ab" * 32, BitMap(subjects))
    return replace(made, **changes)


CELLS = {(0, 0): part([1, 2, 3], "0"), (1, 0): part([4, 5], "1"), (1, 2): part([], "2", chosen=False)}


def gate(ledger: Ledger, world: World, job: int = 0, at: int = NOW, table: str = TABLE) -> None:
    """The job's gate is answered, and its candidates with it."""
    pay(ledger, charge_of(job), LARGE, world)
    candidates = Candidates(table, bytes([job]) * 16, CELLS)
    ledger.record_payload(payload_of(world, job, stage="gate"), SALT, at, candidates)


def release(ledger: Ledger, world: World, job: int = 0, passed: Iterable[tuple[int, int]] = CELLS) -> None:
    margins = [part([1, 2, 3, 4, 5], "all"), part([1, 2], "some", columns=frozenset({"age", "chol"}))]
    settled = Settled(TABLE, bytes([job]) * 16, set(passed), margins)
    ledger.record_payload(payload_of(world, job), SALT, NOW, settled)


def known(ledger: Ledger, job: int = 9, table: str = TABLE) -> dict[str, Membership]:
    """As another job's audit reads it."""
    history = ledger.history(table, bytes([job]) * 16, lambda one, other: False)
    return {one.identity: one for size in history.sizes for one in history.of_size(size)}


def test_candidates_count_from_the_gate_on_but_are_not_released(path: Path, ledger: Ledger, world: World) -> None:
    """Also after a crash between the gate and the release."""
    gate(ledger, world)
    ledger.close()
    ledger = Ledger(path, KEY)
    assert known(ledger) == {one.identity: one for one in CELLS.values()}
    assert [ledger.released_columns(TABLE, one) for one in "012"] == [None] * 3 and ledger.count_sets(TABLE) == 3
    assert ledger.history(TABLE, bytes(16), lambda one, other: False).sizes == []  # its own
    ledger.forget(bytes(16))
    assert len(known(ledger)) == 3


def test_one_exact_answer_about_a_table_is_under_way_at_a_time(path: Path, ledger: Ledger, world: World) -> None:
    """Were there two, holders could meet them in different orders, and each would go uncompared at some."""
    gate(ledger, world, 0)
    with pytest.raises(AnswerPending) as caught:
        gate(ledger, world, 1)
    assert caught.value.fields == {"holder": HOLDERS[0], "table": TABLE} and ledger.count_sets(TABLE) == len(CELLS)
    gate(ledger, world, 2, table="another.table")
    release(ledger, world, 0)
    gate(ledger, world, 3)
    ledger.forget(bytes([3]) * 16)  # no figures of it can follow
    gate(ledger, world, 4)


def test_what_was_withheld_is_forgotten_and_the_rest_is_kept_with_its_margins(ledger: Ledger, world: World) -> None:
    gate(ledger, world)
    release(ledger, world, passed=[(0, 0), (1, 2)])
    found = known(ledger)
    assert set(found) == {"0", "2", "all", "some"} and found["0"] == CELLS[0, 0] and found["2"] == CELLS[1, 2]
    assert found["some"] == part([1, 2], "some", columns=frozenset({"age", "chol"}))
    columns = {one: ledger.released_columns(TABLE, one) for one in ("0", "1", "some")}
    assert columns == {"0": frozenset(), "1": None, "some": {"age", "chol"}}
    assert ledger.released_columns("another.table", "0") is None and known(ledger, table="another.table") == {}
    assert ledger.history(TABLE, bytes(16), lambda one, other: False).sizes == []


def test_columns_of_the_same_words_add_up(ledger: Ledger, world: World) -> None:
    for job, columns in enumerate(({"age"}, {"chol"}, {"other"})):
        pay(ledger, charge_of(job), LARGE, world)
        one = {(0, 0): part([1, 2], "same", columns=frozenset(columns))}
        payload = payload_of(world, job, stage="gate")
        ledger.record_payload(payload, SALT, NOW, Candidates(TABLE, bytes([job]) * 16, one))
        if columns != {"other"}:  # pending
            release = Settled(TABLE, bytes([job]) * 16, {(0, 0)}, [])
            ledger.record_payload(payload_of(world, job), SALT, NOW, release)
    assert ledger.released_columns(TABLE, "same") == {"age", "chol"}


def test_jobs_sets_are_their_own(ledger: Ledger, world: World) -> None:
    """One job's release settles nothing of another; a job sees all others and not itself."""
    gate(ledger, world, 0)
    ledger.forget(bytes(16))
    gate(ledger, world, 1)
    release(ledger, world, 1, passed=[(0, 0)])
    assert ledger.count_sets(TABLE) == 3 + 3 and ledger.released_columns(TABLE, "0") == frozenset()
    assert set(known(ledger, 0)) == {"0", "all", "some"} and set(known(ledger, 1)) == {"0", "1", "2"}


def test_sets_are_forgotten_after_their_time_and_the_job_is_not(ledger: Ledger, world: World) -> None:
    gate(ledger, world, 0)
    ledger.forget(bytes(16))
    gate(ledger, world, 1, at=NOW + 1)
    assert ledger.forget_sets(before=NOW + 1) == 3 and ledger.count_sets(TABLE) == 3
    assert known(ledger, 1) == {} and len(known(ledger, 0)) == 3 and jobs(ledger) == 2


def test_sets_are_stored_with_the_payload_or_not_at_all(ledger: Ledger, world: World) -> None:
    gate(ledger, world)
    with pytest.raises(SecondPayload):
        ledger.record_payload(
            payload_of(world, stage="gate"), SALT, NOW, Candidates(TABLE, bytes(16), {(7, 7): part([1], "7")})
        )
    assert len(known(ledger)) == 3
    fails = "CREATE TEMP TRIGGER fails BEFORE UPDATE ON main.answered_sets BEGIN SELECT RAISE(FAIL, 'disk'); END"
    ledger._connection.execute(fails)
    with pytest.raises((sqlite3.Error, CeibaError)):
        release(ledger, world, passed=[(0, 0)])
    assert len(known(ledger)) == 3 and ledger.payload(bytes(16), 0, "release", 0) is None


# --- backups -----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A node's folder with a ledger of one job."""
    made = Home.make(tmp_path / "node", b"a passphrase")
    made.save_identity(identity())
    pay_one(Ledger(made.ledger_path, STORAGE_KEY), 0)
    return made


def identity() -> Identity:
    return Identity(
        space="test-space", descriptor=holder(ME), coordinator="127.0.0.1:1", signing_seed="00" * 32,
        sealing_seed="00" * 32, storage_key=STORAGE_KEY.hex(), tls_key="", certificate="some", authority="",
        encryption=None,
    )  # fmt: skip


def pay_one(ledger: Ledger, job: int) -> None:
    with closing(ledger):
        pay(ledger, charge_of(job), LARGE, World())


def known_jobs(path: Path) -> int:
    with closing(Ledger(path, STORAGE_KEY)) as ledger:
        return jobs(ledger)


def files(home: Home) -> dict[str, bytes]:
    """The ledger and what lies beside it."""
    return {file.name: file.read_bytes() for file in home.folder.glob("ledger*")}


def back_up(home: Home, file: Path) -> Path:
    with closing(home.ledger()) as ledger:
        ledger.back_up(file)
    return file


def test_a_backup_is_whole_its_owners_alone_and_replaces_nothing(home: Home, tmp_path: Path) -> None:
    """Also of what only the write-ahead log has, while the node is running."""
    backup = tmp_path / "monday.sqlite3"
    with home.running(), closing(home.ledger()) as ledger:
        pay(ledger, charge_of(1), LARGE, World())
        ledger.back_up(backup)
        assert backup.stat().st_mode & 0o777 == 0o600
        content = backup.read_bytes()
        with pytest.raises(BadCommand, match="exists"):
            ledger.back_up(backup)
        with pytest.raises(BadCommand, match="cannot be written"):
            ledger.back_up(tmp_path / "nowhere" / "monday.sqlite3")
    assert backup.read_bytes() == content and [file.name for file in tmp_path.glob("monday*")] == [backup.name]
    assert known_jobs(backup) == 2


def test_a_restored_ledger_is_the_backup_and_each_replaced_one_is_kept(home: Home, tmp_path: Path) -> None:
    """Also the second: the first that was replaced may be the newest that there is."""
    backup, kept = back_up(home, tmp_path / "monday.sqlite3"), []
    for job in (1, 2):
        pay_one(home.ledger(), job)
        kept.append(home.restore_ledger(backup))
        assert known_jobs(home.ledger_path) == 1 and home.ledger_path.stat().st_mode & 0o777 == 0o600
    assert len(set(kept)) == 2 and [known_jobs(one) for one in kept] == [2, 2]
    assert set(files(home)) == {"ledger.sqlite3", *(one.name for one in kept)}


def test_what_was_replaced_keeps_its_log_and_can_be_restored_with_it(home: Home, tmp_path: Path) -> None:
    backup = back_up(home, tmp_path / "monday.sqlite3")
    crashed = home.ledger()  # never closed: what it wrote last is in the log alone
    pay(crashed, charge_of(1), LARGE, World())
    kept = home.restore_ledger(backup)
    assert kept.with_name(f"{kept.name}-wal").exists() and known_jobs(home.ledger_path) == 1
    home.restore_ledger(kept)
    assert known_jobs(home.ledger_path) == 2
    crashed.close()


def test_a_lost_ledger_is_restored(home: Home, tmp_path: Path) -> None:
    backup = back_up(home, tmp_path / "monday.sqlite3")
    home.ledger_path.unlink()
    home.restore_ledger(backup)
    assert known_jobs(home.ledger_path) == 1 and set(files(home)) == {"ledger.sqlite3"}


def missing(backup: Path) -> None:
    backup.unlink()


def folder(backup: Path) -> None:
    backup.unlink()
    backup.mkdir()


def damaged(backup: Path) -> None:
    content = backup.read_bytes()
    backup.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def not_a_ledger(backup: Path) -> None:
    backup.write_text("gone")


def foreign(backup: Path) -> None:
    """Another holder's, which no damage shows."""
    backup.unlink()
    pay_one(Ledger(backup, OTHER_KEY), 0)


@pytest.mark.parametrize("spoil", [missing, folder, damaged, not_a_ledger, foreign], ids=lambda one: one.__name__)
def test_a_backup_that_cannot_be_used_changes_nothing(
    home: Home, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    backup = back_up(home, tmp_path / "monday.sqlite3")
    spoil(backup)
    before = files(home)
    with pytest.raises(LedgerDamaged, match=r"monday\.sqlite3"):
        home.restore_ledger(backup)
    assert files(home) == before


def test_nothing_is_restored_under_a_running_node(home: Home, tmp_path: Path) -> None:
    backup = back_up(home, tmp_path / "monday.sqlite3")
    before = files(home)
    with home.running():
        with pytest.raises(NodeRunning):
            Home(home.folder, b"a passphrase").restore_ledger(backup)
        with pytest.raises(NodeRunning), Home(home.folder).running():
            pass
    assert files(home) == before
    with home.running():  # it has ended
        pass


def test_a_restored_older_ledger_is_found_by_the_log_before_anything_is_signed(tmp_path: Path) -> None:
    """Monday's backup, and an approval since, which is in the log."""
    node, home = Node(tmp_path), Home.make(tmp_path, b"a passphrase")
    home.save_identity(identity())
    node.approve()
    backup = back_up(home, tmp_path / "monday.sqlite3")
    node.ask("0c", 2)
    node.log.add(node.approve().signed)
    node.answering.close()
    home.restore_ledger(backup)
    node.start()
    signed = node.ledger._all("SELECT body_digest FROM documents")
    with pytest.raises(LedgerRolledBack):
        node.answering.witness.catch_up()
    for act in (node.approve, node.approvals):
        with pytest.raises(LedgerRolledBack):
            act()
    assert node.ledger._all("SELECT body_digest FROM documents") == signed and node.log.cosigned == []
    node.answering.close()
