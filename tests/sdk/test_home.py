"""The merchant's folder: sealed keys, job numbers that are used once, the newest checkpoint."""

import multiprocessing
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ceiba.home import AskedJob, Home
from ceiba_protocol.errors import BadPassphrase, LedgerDamaged, NoAgreement, PassphraseNeeded
from ceiba_protocol.trust.agreement import Agreement
from tests.support.coordinator import merchant_home
from tests.support.members import NOW, World, signed_by

PER_PROGRAM = 25


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    return World().agreement


def take(folder: Path, body: bytes, count: int) -> list[int]:
    home, agreement = Home(folder), Agreement.parse(body)
    return [home.next_number(agreement) for _ in range(count)]


# --- numbers ----------------------------------------------------------------------------------------------------


def test_threads_and_processes_never_take_a_number_twice(tmp_path: Path, agreement: Agreement) -> None:
    work = (tmp_path, agreement.body(), PER_PROGRAM)
    with multiprocessing.get_context("spawn").Pool(2) as processes, ThreadPoolExecutor(2) as threads:
        taken = [processes.apply_async(take, work) for _ in range(2)]
        numbers = [number for part in [threads.submit(take, *work) for _ in range(2)] for number in part.result()]
        numbers += [number for part in taken for number in part.get(timeout=60)]
    assert sorted(numbers) == list(range(1, 4 * PER_PROGRAM + 1))


def test_a_program_that_dies_has_wasted_its_number_and_nobody_uses_it_again(
    tmp_path: Path, agreement: Agreement
) -> None:
    child = os.fork()
    if child == 0:
        Home(tmp_path).next_number(agreement)
        os._exit(0)  # before it has asked anything
    os.waitpid(child, 0)
    assert Home(tmp_path).next_number(agreement) == 2


@pytest.mark.parametrize("dies_at", ["os.replace", "os.fsync"])
def test_a_program_that_dies_while_it_writes_leaves_a_number_that_is_used_once(
    tmp_path: Path, agreement: Agreement, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    home = Home(tmp_path)
    assert home.next_number(agreement) == 1

    def dies(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(dies_at, dies)
        home.next_number(agreement)
    assert Home(tmp_path).next_number(agreement) == 2  # nobody was given the 2 before


def test_a_number_is_on_disk_before_anybody_has_it(
    tmp_path: Path, agreement: Agreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def noting(name: str, real: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: (steps.append(name), real(*args))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(f"os.{name}", noting(name, getattr(os, name)))
    Home(tmp_path).next_number(agreement)
    assert steps == ["fsync", "replace", "fsync"]  # the content, its name, the folder


def test_each_agreement_counts_by_itself_and_ends(tmp_path: Path, agreement: Agreement) -> None:
    home, short = Home(tmp_path), agreement.model_copy(update={"jobs": 2})
    assert [home.next_number(agreement), home.next_number(short), home.next_number(short)] == [1, 1, 2]
    with pytest.raises(NoAgreement, match="all 2 jobs"):
        home.next_number(short)
    assert (home.jobs_asked(agreement), home.jobs_asked(short)) == (1, 2)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "1"}', b'{"a": true}', b"\xff"])
def test_damaged_numbers_stop_the_merchant_rather_than_start_again(
    tmp_path: Path, agreement: Agreement, content: bytes
) -> None:
    (tmp_path / "numbers.json").write_bytes(content)
    with pytest.raises(LedgerDamaged):
        Home(tmp_path).next_number(agreement)


# --- what was asked --------------------------------------------------------------------------------------------


def asked(at: int, rho: int | None, table: str = "health.heart", versions: str = "v1") -> AskedJob:
    return AskedJob(at=at, agreement="a", table=table, versions=versions, rho=rho)


def test_what_was_asked_counts_for_a_year_and_by_table(tmp_path: Path) -> None:
    home, year = Home(tmp_path), 365 * 24 * 3600
    for job in (asked(NOW, 5), asked(NOW + 10, 7), asked(NOW + 10, 100, table="health.lungs"), asked(NOW + 20, None)):
        home.note_asked(job)
    spent = [Home(tmp_path).spent("health.heart", NOW + later) for later in (20, year - 1, year, year + 10)]
    assert spent == [12, 12, 7, 0]


def test_exact_answers_count_by_the_versions_of_the_data_and_are_not_forgotten(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for job in (asked(NOW, None), asked(NOW, None, versions="v2"), asked(NOW, 5), asked(NOW * 2, None)):
        home.note_asked(job)
    assert [home.exact_asked("health.heart", versions) for versions in ("v1", "v2", "v3")] == [2, 1, 0]
    assert [job.rho for job in home.asked_jobs()] == [None, None, None]  # what counts no more is gone


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"at": "1"}]', b"\xff"])
def test_a_damaged_list_is_no_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "asked.json").write_bytes(content)
    with pytest.raises(LedgerDamaged):
        Home(tmp_path).spent("health.heart", NOW)


# --- keys and checkpoint ----------------------------------------------------------------------------------------


def test_keys_are_sealed_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = merchant_home(World(), tmp_path).identity()
    Home(tmp_path, b"correct").save_identity(identity)
    file = tmp_path / "identity.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert identity.signing_seed.encode() not in file.read_bytes() and b"a key" not in file.read_bytes()
    assert Home(tmp_path, b"correct").identity() == identity
    with pytest.raises(BadPassphrase):
        Home(tmp_path, b"wrong").identity()
    for name in ("CEIBA_PASSPHRASE", "CEIBA_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - no terminal
    with pytest.raises(PassphraseNeeded):
        Home(tmp_path).identity()
    monkeypatch.setenv("CEIBA_PASSPHRASE", "correct")
    assert Home(tmp_path).identity() == identity


def test_the_newest_checkpoint_is_kept_unless_another_program_was_first(tmp_path: Path) -> None:
    first, second, third = (
        signed_by("coordinator", World().agreement.model_copy(update={"not_after": NOW + end})) for end in (1, 2, 3)
    )
    home = Home(tmp_path)
    home.replace_checkpoint(None, first)
    home.replace_checkpoint(first, second)
    home.replace_checkpoint(first, third)  # it was compared with a checkpoint that is not the stored one any more
    assert Home(tmp_path).checkpoint() == second
    (tmp_path / "checkpoint.json").write_bytes(b"{}")
    with pytest.raises(LedgerDamaged):
        home.checkpoint()
