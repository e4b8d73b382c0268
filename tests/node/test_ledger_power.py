"""The power goes at any statement: the ledger has all of an act or nothing. What it forgets is gone from the disk."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from ceiba_node.differencing import Membership
from ceiba_node.ledger import Budget, Candidates, Charge, Job, Ledger, Payload, Settled
from ceiba_node.ledger.disclosure import charge
from ceiba_node.ledger.tables import TABLES
from ceiba_protocol.errors import BudgetExhausted
from ceiba_protocol.v1.common_pb2 import Signed

KEY, SECRET, SALT = bytes(32), b"\1" * 32, b"\2" * 32
TABLE, NOW, DAY = "health.heart", 1_800_000_000, 86_400
PLENTY = Budget(rho_per_year=10**9, rho_dataset=10**9, exact_jobs=1_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def job_of(number: int, **changes: Any) -> Job:
    fields: dict[str, Any] = {
        "job_id": id_of(number),
        "agreement_digest": "ac" * 32,
        "agreement_id": "0a" * 16,
        "number": number + 1,
        "merchant": "bank-a",
        "organisation": "Bank A",
        "dataset": TABLE,
        "dataset_version": "ab" * 32,
        "plan_digest": "ad" * 32,
        "cells": 2,
        "manifest": Signed(type="manifest", body=id_of(number)),
        "approved_at": NOW,
        "expires_at": NOW + 60,
    }
    return Job(**(fields | changes))


def charge_of(number: int, **changes: Any) -> Charge:
    fields: dict[str, Any] = {
        "job_id": id_of(number),
        "dataset": TABLE,
        "merchant": "bank-a",
        "organisation": "Bank A",
        "rho": 5_000,
        "sticky": f"question {number}",
        "exact": False,
        "version": "versions",
        "charged_at": NOW,
    }
    return Charge(**(fields | changes))


def approve(ledger: Ledger, number: int, charge: Charge | None, budget: Budget = PLENTY, attempt: int = 0) -> None:
    cost = None if charge is None else (charge, budget)
    approval = Signed(type="approval", body=id_of(number) + bytes([attempt]))
    ledger.record_approval(job_of(number), attempt, approval, SECRET, cost)


def payload_of(number: int, stage: str) -> Payload:
    submission = Signed(type=stage, body=id_of(number))
    return Payload(id_of(number), 0, stage, 0, "cd" * 32, ("cleveland", "zurich"), submission, b"ciphertexts")


def membership(identity: str, who: range | set[int], **changes: Any) -> Membership:
    fields: dict[str, Any] = {"chosen": True, "columns": frozenset(), "version": "v1"}
    return Membership(identity, subjects=BitMap(sorted(who)), **(fields | changes))


def shared(ledger: Ledger, number: int, sets: dict[tuple[int, int], Membership]) -> None:
    """Approved, and its share of the gate stored."""
    approve(ledger, number, None)
    candidates = Candidates(TABLE, id_of(number), sets)
    ledger.record_payload(payload_of(number, "gate"), SALT, NOW, candidates)


def settled(ledger: Ledger, number: int, passed: set[tuple[int, int]], margins: tuple[Membership, ...] = ()) -> None:
    outcome = Settled(TABLE, id_of(number), passed, list(margins))
    ledger.record_payload(payload_of(number, "release"), SALT, NOW, outcome)


def names(ledger: Ledger) -> list[str]:
    """What a job is compared with."""
    history = ledger.history(TABLE, id_of(999), lambda *_: True)
    return sorted(one.identity for size in history.sizes for one in history.of_size(size))


def everything(path: Path) -> dict[str, list[Any]]:
    """All rows of all tables, as another process sees them."""
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: database.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in tables}


# --- crashes -------------------------------------------------------------------------------------------------------


class Failing:
    """A connection on which the statement of that number, and nothing after it, is executed: the power is gone."""

    def __init__(self, connection: sqlite3.Connection, number: int) -> None:
        self._connection = connection
        self._left = number

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self._left -= 1
        if self._left < 0:
            raise OSError("the power is gone")
        return self._connection.execute(*statement)

    def close(self) -> None:
        self._connection.close()


def statements_of(path: Path, act: Callable[[Ledger], None]) -> int:
    """Let the power go at each statement of an act in turn. Every time nothing, or at the end everything, is there."""
    before, number = everything(path), 0
    while True:
        ledger = Ledger(path, KEY)
        ledger._connection = Failing(ledger._connection, number)  # type: ignore[assignment]
        try:
            act(ledger)
        except OSError:
            ledger.close()
            assert everything(path) == before
            number += 1
        else:
            ledger.close()
            assert everything(path) != before
            return number


def test_a_charge_is_there_if_and_only_if_the_approval_is(path: Path) -> None:
    Ledger(path, KEY).close()
    assert statements_of(path, lambda ledger: approve(ledger, 0, charge_of(0))) > 6
    ledger = Ledger(path, KEY)
    assert ledger.answer(id_of(0)) is not None and ledger.spent(TABLE, "Bank A", NOW) == (5_000, 5_000)


def test_who_is_behind_a_share_is_there_if_and_only_if_the_share_is(path: Path) -> None:
    approve(Ledger(path, KEY), 0, None)
    sets = {(cell, 0): membership(f"cell {cell}", {cell}) for cell in range(3)}
    candidates = Candidates(TABLE, id_of(0), sets)
    act = lambda ledger: ledger.record_payload(payload_of(0, "gate"), SALT, NOW, candidates)  # noqa: E731
    assert statements_of(path, act) > 6
    assert names(Ledger(path, KEY)) == ["cell 0", "cell 1", "cell 2"]


def test_an_answer_is_settled_if_and_only_if_the_release_is_stored(path: Path) -> None:
    shared(Ledger(path, KEY), 0, {(cell, 0): membership(f"cell {cell}", {cell}) for cell in range(3)})
    assert statements_of(path, lambda ledger: settled(ledger, 0, {(0, 0)}, (membership("all", {0}),))) > 6
    assert names(Ledger(path, KEY)) == ["all", "cell 0"]


# --- forgetting and reading ------------------------------------------------------------------------------------------


def test_sets_are_forgotten_also_from_the_disk(path: Path) -> None:
    """Who was behind an answer is personal data. Unsettled sets go as well."""
    ledger = Ledger(path, KEY)
    secret = BitMap(np.random.default_rng(7).integers(0, 10**6, 30_000))
    shared(ledger, 0, {(0, 0): Membership("a", True, frozenset(), "v1", secret)})
    pieces = [secret.serialize()[at : at + 64] for at in range(10_000, 50_000, 640)]
    assert ledger.forget_sets(before=NOW) == 0
    assert sum(piece in bytes_of(path) for piece in pieces) > 40
    assert ledger.forget_sets(before=NOW + 1) == 1
    assert [piece for piece in pieces if piece in bytes_of(path)] == []
    assert ledger.count_sets(TABLE) == 0 and names(ledger) == []
    assert ledger.has_payload(id_of(0))  # the record of the job stays


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def test_a_size_is_read_once_for_a_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path, KEY)
    shared(ledger, 0, {(cell, 0): membership(f"{cell}", range(cell)) for cell in range(300)})
    read: list[int] = []
    original = Ledger.sets_of_size

    def reading(self: Ledger, table: str, job_id: bytes, size: int) -> list[Membership]:
        read.append(size)
        return original(self, table, job_id, size)

    monkeypatch.setattr(Ledger, "sets_of_size", reading)
    history = ledger.history(TABLE, id_of(1), lambda *_: True)
    for _ in range(3):
        for size in history.sizes:
            history.of_size(size)
    assert read == list(range(300))


# --- budgets against a model -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Bank A", "Bank B", "Bank C"]), st.integers(0, 60), st.integers(0, 5), st.integers(0, 800)
        ),
        max_size=25,
    )
)
def test_no_order_of_questions_exceeds_a_budget_in_any_365_days(asked: list[tuple[str, int, int, int]]) -> None:
    """Against a model in plain Python: who asked what for how much on which day."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(TABLES)
        budget, paid = Budget(rho_per_year=100, rho_dataset=150, exact_jobs=0), list[tuple[str, int, int, int]]()
        for number, (organisation, rho, question, day) in enumerate(sorted(asked, key=lambda one: one[3])):
            one = charge_of(
                number, organisation=organisation, rho=rho, sticky=f"q{question}", charged_at=NOW + day * DAY
            )
            known = any((organisation, question) == (who, what) for who, what, _, _ in paid)
            recent = [(who, cost) for who, _, cost, at in paid if at > day - 365]
            cost = 0 if known else rho
            own = sum(spent for who, spent in recent if who == organisation)
            fits = cost == 0 or (own + cost <= 100 and sum(spent for _, spent in recent) + cost <= 150)
            try:
                charge(database, one, budget)
            except BudgetExhausted:
                assert not fits
            else:
                assert fits
                paid.append((organisation, question, cost, day))
