"""The holder's book: what it stored it keeps, what it must forget it erases, and a damaged one is never replaced."""

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from ceiba_node.ledger import Answer, Job, Ledger, Left, Payload
from ceiba_protocol.errors import JobConflict, LedgerDamaged, NumberUsed, SecondPayload
from tests.support.members import HOLDERS, MERCHANT, NOW, World
from tests.support.seeded import seeded

KEY, OTHER_KEY = seeded("storage key")(32), seeded("other storage key")(32)
MASK_SECRET, SALT = seeded("mask secret")(32), seeded("salt")(32)
CIPHERTEXTS = seeded("ciphertexts")(5_000)
"""Larger than a page, so that erasing must reach the pages it overflows to."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def world() -> World:
    return World()


def job_of(world: World, job: int = 0, **changes: object) -> Job:
    fields: dict = {
        "job_id": bytes([job]) * 16,
        "agreement_digest": "ac" * 32,
        "agreement_id": "0a" * 16,
        "number": job + 1,
        "merchant": MERCHANT,
        "organisation": MERCHANT,
        "dataset": "health.heart",
        "dataset_version": "ab" * 32,
        "plan_digest": "ad" * 32,
        "cells": 2,
        "manifest": world.signed_manifest(),
        "approved_at": NOW,
        "expires_at": NOW + 60 + job,
    }
    return Job(**(fields | changes))


def approved(ledger: Ledger, world: World, job: int = 0, attempt: int = 0, **changes: object) -> None:
    ledger.record_approval(job_of(world, job, **changes), attempt, world.approval(HOLDERS[0]), MASK_SECRET)


def answer_of(world: World, job: int = 0, attempt: int = 0) -> Answer:
    """What the ledger must say once that job is approved."""
    return Answer(
        job_id=bytes([job]) * 16,
        attempt=attempt,
        merchant=MERCHANT,
        dataset="health.heart",
        dataset_version="ab" * 32,
        manifest=world.signed_manifest(),
        approval=world.approval(HOLDERS[0]),
        mask_secret=MASK_SECRET,
        approved_at=NOW,
        expires_at=NOW + 60 + job,
    )


def payload_of(world: World, job: int = 0, **changes: object) -> Payload:
    fields: dict = {
        "job_id": bytes([job]) * 16,
        "attempt": 0,
        "stage": "release",
        "iteration": 0,
        "context_digest": "cd" * 32,
        "holders": HOLDERS,
        "submission": world.approval(HOLDERS[0]),
        "ciphertexts": CIPHERTEXTS,
    }
    return Payload(**(fields | changes))


def bytes_of(path: Path) -> bytes:
    """Everything that SQLite wrote: the file, its write-ahead log, its index."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def sealed(path: Path, column: str, table: str) -> bytes:
    """A sealed secret as it lies in the file."""
    with sqlite3.connect(path) as database:
        return database.execute(f"SELECT {column} FROM {table}").fetchone()[0]


# --- keeping -----------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read_again_after_a_restart(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    answer, payload = answer_of(world), payload_of(world)
    approved(ledger, world)
    ledger.record_payload(payload, SALT, NOW)
    for again in (ledger, Ledger(path, KEY)):
        assert again.answer(answer.job_id) == answer
        assert again.payload(answer.job_id, 0, "release", 0) == payload
        assert again.counts() == {"approved": 1, "answered": 1, "left": 0}


def test_what_is_stored_is_on_the_disk_on_return(path: Path, world: World) -> None:
    """Another process sees it at once, while the first is still open."""
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (1,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: fsync at each commit


def test_nothing_is_known_of_other_jobs(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world, 1)
    assert ledger.answer(bytes(16)) is None
    assert ledger.payload(bytes([1]) * 16, 0, "release", 0) is None


@pytest.mark.parametrize("change", [{}, {"context_digest": "ef" * 32}, {"ciphertexts": b"other"}])
def test_second_payload_of_a_round_is_refused(path: Path, world: World, change: dict) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    ledger.record_payload(payload_of(world), SALT, NOW)
    for again in (ledger, Ledger(path, KEY)):
        with pytest.raises(SecondPayload):
            again.record_payload(payload_of(world, **change), SALT, NOW)
        assert again.payload(bytes(16), 0, "release", 0) == payload_of(world)


def test_another_attempt_of_the_job_gets_no_payload(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for attempt in (0, 1, 2):
        approved(ledger, world, attempt=attempt)
    ledger.record_payload(payload_of(world, attempt=1), SALT, NOW)
    for attempt in (0, 2):
        with pytest.raises(SecondPayload):
            ledger.record_payload(payload_of(world, attempt=attempt), SALT, NOW)
    assert ledger.counts()["answered"] == 1


@pytest.mark.parametrize(("change", "answered"), [({"stage": "gate"}, 1), ({"iteration": 1}, 2)])
def test_another_round_has_its_own_payload(path: Path, world: World, change: dict, answered: int) -> None:
    """What was sent to the gate is no answer yet."""
    ledger = Ledger(path, KEY)
    for attempt in (0, 1):
        approved(ledger, world, attempt=attempt)
    other = payload_of(world, **change)
    ledger.record_payload(payload_of(world), SALT, NOW)
    ledger.record_payload(other, SALT, NOW)
    assert ledger.payload(bytes(16), 0, "release", 0) == payload_of(world)
    assert ledger.payload(bytes(16), 0, other.stage, other.iteration) == other
    assert ledger.counts()["answered"] == answered


def test_one_of_many_threads_stores_the_payload(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    start, refused = threading.Barrier(8), []

    def store(number: int) -> None:
        start.wait()
        try:
            ledger.record_payload(payload_of(world, ciphertexts=bytes([number])), SALT, NOW)
        except SecondPayload:
            refused.append(number)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = ledger.payload(bytes(16), 0, "release", 0)
    assert len(refused) == 7 and stored is not None and stored.ciphertexts is not None
    assert stored.ciphertexts[0] not in refused


def test_payload_of_a_job_that_was_not_approved_is_refused(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    with pytest.raises(SecondPayload):
        ledger.record_payload(payload_of(world), SALT, NOW)
    assert ledger.counts()["answered"] == 0


# --- secrets -----------------------------------------------------------------------------------------------------


def test_secrets_are_never_in_plain_in_the_file(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    ledger.record_payload(payload_of(world), SALT, NOW)
    content = bytes_of(path)
    assert CIPHERTEXTS[1_000:1_064] in content  # the search finds what is there
    for secret in (MASK_SECRET, SALT, KEY):
        assert secret not in content
        assert secret.hex().encode() not in content


def test_forgetting_erases_the_sealed_secret_and_the_ciphertexts(path: Path, world: World) -> None:
    """Also from the write-ahead log and from free pages: whoever takes the disk later cannot unmask old answers."""
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    ledger.record_payload(payload_of(world), SALT, NOW)
    secret = sealed(path, "mask_secret", "answers")
    pieces = [CIPHERTEXTS[at : at + 64] for at in range(0, len(CIPHERTEXTS) - 64, 64)]
    before = bytes_of(path)
    assert secret in before and sum(piece in before for piece in pieces) > 70
    ledger.forget(bytes(16))
    after = bytes_of(path)
    assert secret not in after
    assert [piece for piece in pieces if piece in after] == []
    assert ledger._connection.execute("PRAGMA secure_delete").fetchone() == (1,)  # whatever SQLite's build says


def test_forgetting_keeps_the_record(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for job in (0, 1):
        approved(ledger, world, job)
        ledger.record_payload(payload_of(world, job), SALT, NOW)
    ledger.forget(bytes(16))
    for again in (ledger, Ledger(path, KEY)):
        forgotten, stored = again.answer(bytes(16)), again.payload(bytes(16), 0, "release", 0)
        assert forgotten is not None and forgotten.mask_secret is None
        assert stored == payload_of(world, ciphertexts=None)
        assert again.answer(bytes([1]) * 16) == answer_of(world, 1)
        with pytest.raises(SecondPayload):
            again.record_payload(payload_of(world), SALT, NOW)


def test_expired_are_those_with_secrets(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for job in range(3):
        approved(ledger, world, job)
    assert ledger.expired(before=NOW + 62) == [bytes([0]) * 16, bytes([1]) * 16]
    ledger.forget(bytes(16))
    assert ledger.expired(before=NOW + 62) == [bytes([1]) * 16]


def test_answers_do_not_print_their_secret(world: World) -> None:
    assert MASK_SECRET.hex() not in repr(answer_of(world)) and repr(MASK_SECRET) not in repr(answer_of(world))


def test_file_is_its_owners_alone(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob(f"{path.name}*")}
    assert path.name in modes and set(modes.values()) == {0o600}


def test_making_a_ledger_leaves_nothing_else_behind(path: Path) -> None:
    Ledger(path, KEY).close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


# --- damage ------------------------------------------------------------------------------------------------------


def used_ledger(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for job in range(20):
        approved(ledger, world, job)
        ledger.record_payload(payload_of(world, job), SALT, NOW)
    ledger.close()


def emptied(content: bytes) -> bytes:
    return b""


def cut_to_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_another_beginning(content: bytes) -> bytes:
    return b"\0" * 100 + content[100:]


def with_pages_overwritten(content: bytes) -> bytes:
    return content[:4096] + b"\xa5" * (len(content) - 4096)


def replaced_by_text(content: bytes) -> bytes:
    return b"gone\n"


def of_a_newer_version(content: bytes) -> bytes:
    return content[:60] + (99).to_bytes(4, "big") + content[64:]


def of_no_version(content: bytes) -> bytes:
    return content[:60] + bytes(4) + content[64:]


DAMAGE = [
    emptied,
    cut_to_half,
    with_another_beginning,
    with_pages_overwritten,
    replaced_by_text,
    of_a_newer_version,
    of_no_version,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_ledger_is_refused_and_left_as_it_is(path: Path, world: World, damage: object) -> None:
    """A fresh start would answer a second time what was answered before."""
    used_ledger(path, world)
    damaged = damage(path.read_bytes())  # type: ignore[operator]
    path.write_bytes(damaged)
    with pytest.raises(LedgerDamaged):
        Ledger(path, KEY)
    assert path.read_bytes() == damaged


def test_log_without_its_file_is_refused(path: Path, world: World) -> None:
    """SQLite would begin anew beside it."""
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    path.unlink()
    with pytest.raises(LedgerDamaged):
        Ledger(path, KEY)


def test_folder_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(LedgerDamaged):
        Ledger(path, KEY)


def test_wrong_key_opens_no_secret(path: Path, world: World) -> None:
    approved(Ledger(path, KEY), world)
    with pytest.raises(LedgerDamaged, match="another identity"):
        Ledger(path, OTHER_KEY).answer(bytes(16))


def test_secret_moved_to_another_job_opens_nothing(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for job in (0, 1):
        approved(ledger, world, job)
    with sqlite3.connect(path) as database:
        query = "UPDATE answers SET mask_secret = (SELECT mask_secret FROM answers WHERE job_id = ?)"
        database.execute(query, (bytes(16),))
    assert ledger.answer(bytes(16)) == answer_of(world)
    with pytest.raises(LedgerDamaged):
        ledger.answer(bytes([1]) * 16)


# --- jobs and attempts -------------------------------------------------------------------------------------------


def test_number_of_an_agreement_is_one_jobs_in_whatever_order(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world, 0)
    with pytest.raises(NumberUsed):
        approved(ledger, world, 1, number=1)
    approved(ledger, world, 1, number=1, agreement_digest="bc" * 32)
    approved(ledger, world, 0, attempt=1)  # the same job, not another
    assert ledger.counts()["approved"] == 2
    assert ledger.is_number_used("ac" * 32, 1, bytes([7]) * 16) and not ledger.is_number_used("ac" * 32, 1, bytes(16))


def test_left_job_gets_no_payload_and_an_answered_one_is_not_left(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    left = Left(world.refusal(HOLDERS[0]), world.abort(HOLDERS[0]))
    for job in (0, 1):
        approved(ledger, world, job)
    assert ledger.record_left(bytes(16), left, NOW) and ledger.left(bytes(16)) == left
    with pytest.raises(SecondPayload):
        ledger.record_payload(payload_of(world), SALT, NOW)
    with pytest.raises(JobConflict):
        approved(ledger, world, 0, attempt=1)
    ledger.record_payload(payload_of(world, 1), SALT, NOW)
    assert not ledger.record_left(bytes([1]) * 16, left, NOW) and ledger.left(bytes([1]) * 16) is None


def test_one_of_leaving_and_answering_happens_among_many_threads(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    approved(ledger, world)
    left = Left(world.refusal(HOLDERS[0]), world.abort(HOLDERS[0]))
    start, done = threading.Barrier(8), []

    def act(number: int) -> None:
        mine = Ledger(path, KEY) if number % 3 == 0 else ledger  # another process's connection
        start.wait()
        try:
            if number % 2:
                done.append("left" if mine.record_left(bytes(16), left, NOW) else "")
            else:
                mine.record_payload(payload_of(world), SALT, NOW)
                done.append("answered")
        except SecondPayload:
            pass

    threads = [threading.Thread(target=act, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ({"left", "answered"} & set(done)) in ({"left"}, {"answered"})


def test_debits_are_counted_from_a_time_on_and_never_given_back(path: Path, world: World) -> None:
    ledger = Ledger(path, KEY)
    for job in (0, 1, 2):
        approved(ledger, world, job, approved_at=NOW + job)
        ledger.forget(bytes([job]) * 16)
    assert ledger.debited(MERCHANT, NOW + 1, b"") == (2, 4)
    assert ledger.debited(MERCHANT, NOW + 1, bytes([2]) * 16) == (1, 2)
    assert ledger.debited("bank-b", 0, b"") == (0, 0)
