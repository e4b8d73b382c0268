"""What answers have cost, and who was behind exact ones: budgets and the memory of the differencing audit (I9)."""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from pyroaring import BitMap

from ceiba_node.differencing import Linked, Membership, Place
from ceiba_node.ledger.file import LedgerFile
from ceiba_protocol.disclosure.grade import BUDGET_SECONDS, as_rho
from ceiba_protocol.errors import BadCommand, BudgetExhausted, ExactQuotaUsed
from ceiba_protocol.linkage.joint import read_any
from ceiba_protocol.rounds import CLOCK_TOLERANCE
from ceiba_protocol.v1.common_pb2 import Signed

CACHED_BYTES = 256 * 1024 * 1024
"""A table's sets are all kept in memory during one comparison, unless they take more than this."""
CACHED_SIZES = 256
"""If they do, those of so many sizes are."""


@dataclass(frozen=True)
class Charge:
    """What one job costs."""

    job_id: bytes
    dataset: str
    merchant: str
    organisation: str
    rho: int
    """Millionths; 0 for an exact answer."""
    sticky: str
    """Digest of the question, its noise, and the versions at all holders: the same again costs nothing."""
    exact: bool
    version: str
    """Of this holder's dataset: whatever others publish, it gives no more exact answers about its own."""
    charged_at: int


@dataclass(frozen=True)
class Entry:
    """One job in the book."""

    job_id: bytes
    merchant: str
    table: str
    agreement: str
    """Its digest."""
    plan_digest: str
    cells: int
    rho: int
    """Millionths."""
    exact: bool
    approved_at: int
    state: str
    """approved, answered or left."""


@dataclass(frozen=True)
class Budget:
    """What may be spent, in millionths of ρ in any 365 days; and exact answers for each version."""

    rho_per_year: int
    rho_dataset: int
    """By all merchants together."""
    exact_jobs: int


@dataclass(frozen=True)
class Candidates:
    """The subjects behind all parts of an answer that may be released."""

    table: str
    job_id: bytes
    memberships: Mapping[Place, Membership]


@dataclass(frozen=True)
class Settled:
    """Which of them were released."""

    table: str
    job_id: bytes
    passed: set[Place]
    margins: list[Membership]


_SET = "identity, chosen, columns, version, members"


class Disclosures(LedgerFile):
    # --- budgets

    def spent(self, dataset: str, organisation: str, now: int) -> tuple[int, int]:
        """Millionths of ρ in the last 365 days: by this organisation, by all."""
        with self._lock:
            return _spent(self._connection, dataset, organisation, now)

    def exact_used(self, dataset: str, organisation: str, version: str) -> int:
        """Exact answers to an organisation about one state of the data."""
        with self._lock:
            return _exact_used(self._connection, dataset, organisation, version)

    def customers(self) -> list[tuple[str, str]]:
        """Tables with the organisations that asked about them."""
        rows = self._all("SELECT DISTINCT dataset, organisation FROM charges ORDER BY dataset, organisation")
        return [(dataset, organisation) for dataset, organisation in rows]

    def entries(self) -> list[Entry]:
        """What was approved, oldest first, and what has become of it."""
        rows = self._all(
            "SELECT job_id, jobs.merchant, jobs.dataset, agreement_digest, plan_digest, cells, rho, manifest,"
            " approved_at,"
            " EXISTS (SELECT 1 FROM payloads WHERE payloads.job_id = jobs.job_id AND stage = 'release'),"
            " EXISTS (SELECT 1 FROM left_jobs WHERE left_jobs.job_id = jobs.job_id)"
            " FROM jobs JOIN charges USING (job_id) ORDER BY approved_at, jobs.rowid"
        )
        return [
            Entry(
                job_id, merchant, table, agreement, plan, cells, rho, _is_exact(manifest), at,
                "answered" if answered else "left" if left else "approved",
            )
            for job_id, merchant, table, agreement, plan, cells, rho, manifest, at, answered, left in rows
        ]  # fmt: skip

    def back_up(self, file: Path) -> None:
        """A whole copy, taken while others may write. Raises BadCommand rather than replace a file."""
        command = "ceiba-node ledger backup"
        try:
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError:
            raise BadCommand(command=command, problem=f"{file} exists, or cannot be written") from None
        try:
            with closing(sqlite3.connect(file)) as copy, self._lock:
                self._connection.backup(copy)
        except sqlite3.Error:
            file.unlink()
            raise BadCommand(command=command, problem=f"{file} cannot be written") from None

    # --- who was behind exact answers

    def count_sets(self, table: str) -> int:
        row = self._one("SELECT COUNT(*) FROM answered_sets WHERE dataset = ?", table)
        return int(row[0]) if row else 0

    def history(self, table: str, job_id: bytes, linked: Linked) -> "LedgerHistory":
        """Everything that was answered about a table, or may be, but for this job."""
        return LedgerHistory(self, table, job_id, linked)

    def sizes_of_sets(self, table: str, job_id: bytes) -> list[int]:
        """Those that occur, ascending; without this job's."""
        query = "SELECT DISTINCT size FROM answered_sets WHERE dataset = ? AND job_id != ? ORDER BY size"
        return [size for (size,) in self._all(query, table, job_id)]

    def sets_of_size(self, table: str, job_id: bytes, size: int) -> list[Membership]:
        query = (
            "SELECT identity, chosen, columns, version, members FROM answered_sets"
            " WHERE dataset = ? AND job_id != ? AND size = ?"
        )
        return [
            Membership(identity, bool(chosen), _split(columns), version, BitMap.deserialize(members))
            for identity, chosen, columns, version, members in self._all(query, table, job_id, size)
        ]

    def released_columns(self, table: str, identity: str) -> frozenset[str] | None:
        """The columns that parts of that identity added up in answers that were released; None if none was."""
        query = "SELECT DISTINCT columns FROM answered_sets WHERE (dataset, identity, settled) = (?, ?, 1)"
        rows = self._all(query, table, identity)
        return frozenset().union(*(_split(columns) for (columns,) in rows)) if rows else None

    def bytes_of_sets(self, table: str) -> int:
        """How much they take, compressed."""
        row = self._one("SELECT coalesce(SUM(length(members)), 0) FROM answered_sets WHERE dataset = ?", table)
        return int(row[0]) if row else 0

    def forget_sets(self, before: int) -> int:
        """Erase those of answers before that time, also from the write-ahead log; how many."""
        with self._transaction() as connection:
            forgotten = connection.execute("DELETE FROM answered_sets WHERE at < ?", (before,)).rowcount
        if forgotten:
            self._truncate_log()
        return forgotten


class LedgerHistory:
    """A table's history as the differencing audit reads it, for one job."""

    def __init__(self, ledger: Disclosures, table: str, job_id: bytes, linked: Linked) -> None:
        self._ledger = ledger
        self._where = (table, job_id)
        self.linked = lru_cache(linked)
        fits = ledger.bytes_of_sets(table) <= CACHED_BYTES
        self.of_size = lru_cache(None if fits else CACHED_SIZES)(self._of_size)

    @cached_property
    def sizes(self) -> list[int]:
        return self._ledger.sizes_of_sets(*self._where)

    def released(self, identity: str) -> frozenset[str] | None:
        return self._ledger.released_columns(self._where[0], identity)

    def _of_size(self, size: int) -> list[Membership]:
        return self._ledger.sets_of_size(*self._where, size)


def _split(columns: str) -> frozenset[str]:
    return frozenset(columns.split(",")) - {""}


def _is_exact(manifest: bytes) -> bool:
    return read_any(Signed.FromString(manifest)).noise is None


# --- within another transaction --------------------------------------------------------------------------------


def charge(connection: sqlite3.Connection, one: Charge, budget: Budget) -> None:
    """Debit a job; what the same organisation has paid for, it may ask again. Raises BudgetExhausted,
    ExactQuotaUsed."""
    query = "SELECT 1 FROM charges WHERE (sticky, organisation) = (?, ?)"
    is_paid = connection.execute(query, (one.sticky, one.organisation)).fetchone() is not None
    cost = 0 if is_paid else one.rho
    if not is_paid and one.exact:
        used = _exact_used(connection, one.dataset, one.organisation, one.version)
        if used >= budget.exact_jobs:
            raise ExactQuotaUsed(table=one.dataset, used=used, limit=budget.exact_jobs)
    own, everybody = _spent(connection, one.dataset, one.organisation, one.charged_at)
    left = max(0, min(budget.rho_per_year - own, budget.rho_dataset - everybody))  # a limit may have been lowered
    if cost > left:
        raise BudgetExhausted(table=one.dataset, cost=as_rho(cost), left=as_rho(left))
    row = (
        one.job_id, one.dataset, one.merchant, one.organisation, cost, one.sticky, int(one.exact and not is_paid),
        one.version, one.charged_at,
    )  # fmt: skip
    connection.execute("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def is_pending(connection: sqlite3.Connection, candidates: Candidates, now: int) -> bool:
    """Whether another job about the table, whose sets are not settled, can still be answered from here. Were two under
    way at once, holders could meet them in different orders, and each of the two would go uncompared at some."""
    query = (
        "SELECT 1 FROM answered_sets JOIN answers USING (job_id) JOIN jobs USING (job_id)"
        " WHERE answered_sets.dataset = ? AND job_id != ? AND settled = 0 AND mask_secret IS NOT NULL"
        " AND jobs.expires_at >= ?"
    )
    where = (candidates.table, candidates.job_id, now - CLOCK_TOLERANCE)
    return connection.execute(query, where).fetchone() is not None


def keep_candidates(connection: sqlite3.Connection, candidates: Candidates, now: int) -> None:
    for (cell, test), one in candidates.memberships.items():
        _keep(connection, candidates, (cell, test), one, now)


def settle(connection: sqlite3.Connection, settled: Settled, now: int) -> None:
    """Forget what was withheld, and keep what follows from the rest."""
    query = "SELECT cell, test FROM answered_sets WHERE job_id = ? AND cell >= 0"
    kept = set(connection.execute(query, (settled.job_id,)))
    for cell, test in kept - settled.passed:
        where = (settled.job_id, cell, test)
        connection.execute("DELETE FROM answered_sets WHERE (job_id, cell, test) = (?, ?, ?)", where)
    connection.execute("UPDATE answered_sets SET settled = 1 WHERE job_id = ?", (settled.job_id,))
    for number, one in enumerate(settled.margins):
        _keep(connection, settled, (-1, number), one, now)


def _keep(connection: sqlite3.Connection, of: Candidates | Settled, place: Place, one: Membership, now: int) -> None:
    row = (
        of.table, of.job_id, *place, one.identity, int(one.chosen), ",".join(sorted(one.columns)), one.version,
        len(one.subjects), one.subjects.serialize(), int(isinstance(of, Settled)), now,
    )  # fmt: skip
    connection.execute("INSERT OR IGNORE INTO answered_sets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _spent(connection: sqlite3.Connection, dataset: str, organisation: str, now: int) -> tuple[int, int]:
    query = (
        "SELECT coalesce(SUM(rho) FILTER (WHERE organisation = ?), 0), coalesce(SUM(rho), 0) FROM charges"
        " WHERE dataset = ? AND charged_at > ?"
    )
    own, everybody = connection.execute(query, (organisation, dataset, now - BUDGET_SECONDS)).fetchone()
    return int(own), int(everybody)


def _exact_used(connection: sqlite3.Connection, dataset: str, organisation: str, version: str) -> int:
    query = "SELECT COUNT(*) FROM charges WHERE (dataset, organisation, version) = (?, ?, ?) AND exact = 1"
    return int(connection.execute(query, (dataset, organisation, version)).fetchone()[0])
