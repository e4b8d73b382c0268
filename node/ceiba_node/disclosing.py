"""What may leave this house for one job: the engine's figures, with noise or with what the gate needs to know."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ceiba_node.differencing import Names, distances, margins, memberships, released_margins
from ceiba_node.engines.duckdb_engine import Cancellation, DuckDBEngine
from ceiba_node.engines.evidence import Evidence
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Budget, Candidates, Charge, Ledger, Settled
from ceiba_node.snapshots import Snapshot, SnapshotStore
from ceiba_protocol.canonical import digest
from ceiba_protocol.disclosure.gate import Released, exact_words, noisy_words
from ceiba_protocol.disclosure.grade import DATASET_FACTOR, Disclosure
from ceiba_protocol.disclosure.noise import cells_order_key, versions_digest
from ceiba_protocol.plan import ROW_COUNT
from ceiba_protocol.rounds import Commitment, Question, noise_for
from ceiba_protocol.sums.masks import Words
from ceiba_protocol.sums.randomness import Random


@dataclass(frozen=True)
class Computed:
    """What the engine found for one question."""

    values: list[int]
    """Clip counts, then the sums, cell by cell; without noise."""
    evidence: Evidence | None
    """For an exact job's gate."""
    prepared: Any = None
    """For a fit: what it needs of this holder's rows."""


class Disclosing:
    """For one holder. What is answered with noise is bounded and blurred here; what is exact is compared with
    everything that was answered before."""

    def __init__(
        self, engine: DuckDBEngine, ledger: Ledger, snapshots: SnapshotStore, noise_key: bytes,
        policy: Callable[[], Policy], random: Random,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._ledger = ledger
        self._snapshots = snapshots
        self._noise_key = noise_key
        self._policy = policy
        self._random = random

    def rules(self, question: Question) -> Disclosure:
        """What was agreed, or this house's stricter rule."""
        return self._policy().tightened(question.rules)

    # --- before the approval

    def cost(self, question: Question, version: str, now: int) -> tuple[Charge, Budget]:
        """What the job costs, and what may be spent. `version`: of this holder's dataset."""
        manifest, rules = question.manifest, self.rules(question)
        versions = versions_digest(manifest.versions)
        noise = manifest.noise.digest() if manifest.noise else "exact"
        charge = Charge(
            job_id=bytes.fromhex(manifest.job_id),
            dataset=question.program.table,
            merchant=manifest.merchant,
            organisation=question.merchant.legal_person,
            rho=manifest.noise.rho if manifest.noise else 0,
            sticky=digest("ceiba/v1/sticky", versions.hex().encode(), manifest.plan.digest().encode(), noise.encode()),
            exact=manifest.noise is None,
            version=version,
            charged_at=now,
        )
        return charge, Budget(rules.rho_per_year, DATASET_FACTOR * rules.rho_per_year, rules.exact_jobs)

    # --- figures

    def compute(self, question: Question, snapshot: Snapshot, cancellation: Cancellation) -> Computed:
        """The engine's part, which takes the time. The set of holders does not change it."""
        program, noise = question.program, question.manifest.noise
        if noise is not None:
            order_key = cells_order_key(self._noise_key)
            sums = self._engine.bounded_sums(
                snapshot, program, noise.cells_per_subject, order_key, snapshot.is_one_row_each, cancellation
            )
            return Computed([0] * len(program.clipped_columns) + sums, None)
        sums, prepared = [], None
        if program.fit is None:
            sums = self._engine.grouped_sums(snapshot, program, cancellation)
        else:
            rows = self._engine.fit_rows(snapshot, program, cancellation)
            prepared = program.fit.prepare(rows, question.frame(question.holders))
        if question.gate(len(question.holders)) is None:
            clipped = [snapshot.clipped.get(column, 0) for column in program.clipped_columns]
            return Computed(clipped + sums, None, prepared)
        values = [0] * len(program.clipped_columns) + sums  # how many were clipped can be one, whom no gate has counted
        rules = self.rules(question)
        evidence = self._engine.evidence(
            snapshot, program, question.tests, rules, snapshot.is_one_row_each, cancellation
        )
        return Computed(values, evidence, prepared)

    def values(self, question: Question, commitment: Commitment, computed: Computed) -> list[int]:
        """With this holder's noise, where there is any: the same for the same question over the same data."""
        if question.manifest.noise is None:
            return computed.values
        header = len(question.program.clipped_columns)
        noise = noise_for(question, commitment, self._noise_key)
        sums = [value + extra for value, extra in zip(computed.values[header:], noise, strict=True)]
        return computed.values[:header] + sums

    # --- the gate

    def words(
        self, question: Question, commitment: Commitment, computed: Computed, snapshot: Snapshot
    ) -> tuple[Words, Candidates | None]:
        """What this holder sends to the gate, before it is masked, and the subjects behind it, to be stored with it."""
        gate = commitment.gate
        assert gate is not None
        evidence = computed.evidence
        if evidence is None:
            header, width = len(question.program.clipped_columns), len(question.program.sums)
            return noisy_words(gate, self.values(question, commitment, computed)[header + ROW_COUNT :: width]), None
        candidates = self._candidates(question, commitment, evidence, snapshot)
        history = self._ledger.history(
            candidates.table, candidates.job_id, partial(self._snapshots.are_linked, candidates.table)
        )
        names, cap = self._names(question, commitment, snapshot), gate.threshold.cap
        nearest = np.full(evidence.subjects.shape, cap, dtype=np.int64)
        for place, near in distances(names, candidates.memberships, history, cap).items():
            nearest[place] = near
        known = released_margins(names, candidates.memberships, history)
        return exact_words(gate, evidence.subjects, nearest, evidence.dominated, self._random, known), candidates

    def settled(
        self, question: Question, commitment: Commitment, computed: Computed, snapshot: Snapshot,
        released: Released | None,
    ) -> Settled | None:  # fmt: skip
        """What of an exact answer was released, to be compared with later ones; None if nothing need be."""
        if computed.evidence is None or released is None:
            return None
        candidates = self._candidates(question, commitment, computed.evidence, snapshot)
        passed = {place for place in candidates.memberships if released[place]}
        words = self._names(question, commitment, snapshot)
        return Settled(
            table=candidates.table,
            job_id=candidates.job_id,
            passed=passed,
            margins=margins(words, candidates.memberships, released, question.manifest.job_id),
        )

    def _candidates(
        self, question: Question, commitment: Commitment, evidence: Evidence, snapshot: Snapshot
    ) -> Candidates:
        own = memberships(self._names(question, commitment, snapshot), evidence.members)
        return Candidates(question.program.table, bytes.fromhex(question.manifest.job_id), own)

    def _names(self, question: Question, commitment: Commitment, snapshot: Snapshot) -> Names:
        versions = tuple((holder, str(question.pin_of(holder).version)) for holder in commitment.holders)
        return Names(question.program, question.tests, versions, snapshot.version)
