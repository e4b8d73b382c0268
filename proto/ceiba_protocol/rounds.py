"""One job, every role's step side by side (PROTOCOL §2.5). `whole_job.run_job` is all of it in order, no network.

Messages go in and come out; what is random or reads a clock is an argument. The steps' numbers are those of the
protocol: 1 manifest, 2 approval, 3 set, 4 gate, 5 contribution, 7 product, 8 opening (6 is the wire's).
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Protocol

import numpy as np
import phe

from ceiba_protocol.canonical import Digest, sha256, tlv
from ceiba_protocol.disclosure.gate import (
    GateForm,
    Released,
    decide,
    gate_of,
    pack_released,
    released_sums,
    threshold_of,
    unpack_released,
)
from ceiba_protocol.disclosure.grade import Disclosure, as_rho
from ceiba_protocol.disclosure.noise import (
    members_digest,
    noise_shares,
    noise_vector,
    squared_sensitivity,
    tail,
    versions_digest,
)
from ceiba_protocol.disclosure.support import Tests, tests_of
from ceiba_protocol.errors import (
    DatasetMissing,
    DatasetUnknown,
    ExactForbidden,
    MalformedMessage,
    ManifestMismatch,
    NoiseTooCostly,
    NoiseUndefined,
    OutsideWindow,
    PlanTooLarge,
    SetMismatch,
    TotalRejected,
    ValueOutOfRange,
)
from ceiba_protocol.plan import ROW_COUNT, Plan, Program, compile_plan
from ceiba_protocol.program import ENGINE_BITS
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics.fits.base import MAX_VALUES, Frame
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.masks import Words, add_words, combined_words, expand_words, negate_words
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import (
    RoundContext,
    holder_contribute,
    merchant_open,
    set_digest,
)
from ceiba_protocol.sums.wide import add_wide, negate_wide
from ceiba_protocol.trust.agreement import Agreement, check_covers, check_parties
from ceiba_protocol.trust.documents import (
    AbortToken,
    Approval,
    DatasetPin,
    GateShare,
    Manifest,
    NoiseTerms,
    Offer,
    Submission,
)
from ceiba_protocol.trust.hpke import open_sealed, seal_to
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.roster import Descriptor, Role, Roster, merchant_key_id
from ceiba_protocol.v1.common_pb2 import Signed

CLOCK_TOLERANCE = 300
"""Seconds by which two members' clocks may differ (PROTOCOL §6.5)."""
LONGEST_WINDOW = 30 * 24 * 3600
"""Seconds that a job may wait for its holders, who keep a mask key for it all the while."""
GATE, RELEASE, FIT = 0, 1, 2
"""The numbers of the stages in a round's context."""


# --- what every party derives from the plan --------------------------------------------------------------------


def layout_of(program: Program, capacities: Iterable[int], key_bits: int, variances: Sequence[int] = ()) -> Layout:
    """The layout of a job: a pure function of the plan, the schema and the published row capacities (§2.4).

    The header has one slot for each column with clipped values, bounded by the rows; then each cell has the
    program's sums, bounded by the rows times the largest value that one row can add, and by what noise can add. Of a
    fit, it has the final figures, which every holder sends whole.
    `variances`: of one holder's noise, for each sum; empty without noise. Raises ValueOutOfRange.
    """
    shares = list(capacities)
    rows = sum(shares)
    if program.fit is not None:
        cell = tuple(len(shares) * bound for bound in program.fit.slots(program.frame(rows)))
        header = (rows,) * len(program.clipped_columns)
        return Layout(key_bits, header, cell, program.released_cells, len(shares))
    largest = max(rows * one.row_bound for one in program.sums)
    if largest.bit_length() > ENGINE_BITS:
        raise ValueOutOfRange(what="A sum over all rows", bits=largest.bit_length(), limit=ENGINE_BITS)
    return Layout(
        key_bits=key_bits,
        header=(rows,) * len(program.clipped_columns),
        cell=tuple(
            rows * one.row_bound + len(shares) * reach
            for one, reach in zip(program.sums, _reaches(program, variances), strict=True)
        ),
        cells=program.cells,
        holders=len(shares),
    )


def share_bounds(program: Program, capacity: int, rows: int, variances: Sequence[int] = ()) -> list[int]:
    """The bounds of one holder's own values, slot by slot; those of all holders add up to the layout's. `capacity` is
    its own; `rows`, that of all."""
    if program.fit is not None:
        slots = program.fit.slots(program.frame(rows))
        return [capacity] * len(program.clipped_columns) + slots * program.released_cells
    cell = [
        capacity * one.row_bound + reach for one, reach in zip(program.sums, _reaches(program, variances), strict=True)
    ]
    return [capacity] * len(program.clipped_columns) + cell * program.cells


def _reaches(program: Program, variances: Sequence[int]) -> list[int]:
    """For each sum, the largest noise that one holder can add."""
    return [tail(variance) for variance in variances] or [0] * len(program.sums)


@dataclass(frozen=True)
class Question:
    """A verified manifest with all that follows from it. Made by `read_manifest` alone."""

    manifest: Manifest
    digest: Digest
    merchant: Descriptor
    roster: Roster
    agreement: Agreement
    program: Program
    holders_per_subject: int
    """At how many holders one subject may have rows, as the schema says."""
    layout: Layout
    """For the whole set."""

    @property
    def rules(self) -> Disclosure:
        return self.agreement.disclosure

    @cached_property
    def tests(self) -> Tests:
        """What must be many before a sum is released; of use where there is a gate."""
        return tests_of(self.program)

    def variances(self, holders: int) -> tuple[int, ...]:
        """Of the noise that each of so many holders adds to each sum of a cell; empty for exact figures."""
        return share_variances(
            self.program, self.manifest.noise, self.agreement.tolerated, self.holders_per_subject, holders
        )

    def gate(self, holders: int) -> GateForm | None:
        """What so many holders find out together before they release anything; None if there is nothing to find out."""
        if not self.rules.has_gate:
            return None
        variances = self.variances(holders)
        unknown = variances[ROW_COUNT] * (holders - self.agreement.tolerated) if variances else 0
        return gate_of(self.program, self.tests, self.rules, self.holders_per_subject, unknown)

    def frame(self, holders: Iterable[str]) -> Frame:
        """What these holders know of a fit before its first round."""
        rows = sum(self.pin_of(holder).row_capacity for holder in holders)
        minimum = self.rules.minimum_subjects * self.holders_per_subject
        frame = self.program.frame(rows, minimum, is_guarded=self.rules.has_gate)
        threshold = threshold_of(self.rules, self.holders_per_subject)
        return replace(frame, cap=threshold.cap, least=threshold.least)

    @property
    def modulus(self) -> int:
        assert self.merchant.encryption_key is not None
        return self.merchant.encryption_key.n

    @property
    def holders(self) -> list[str]:
        """The agreement's whole set, sorted."""
        return [pin.holder for pin in self.manifest.datasets]

    def layout_for(self, holders: Iterable[str]) -> Layout:
        """The layout when only these holders answer. Raises SetMismatch for one who is not in the set."""
        pins = [self.pin_of(holder) for holder in holders]
        if len(pins) == len(self.holders):
            return self.layout
        return _layout(self.program, pins, self.merchant, self.variances(len(pins)))

    def pin_of(self, holder: str) -> DatasetPin:
        """Raises SetMismatch if the job is not for that holder."""
        for pin in self.manifest.datasets:
            if pin.holder == holder:
                return pin
        raise SetMismatch(problem=f"{holder} is not in it")


# --- 1. the merchant describes the job -------------------------------------------------------------------------


def make_manifest(
    *, job_id: str, number: int, agreement: Agreement, merchant: Descriptor, plan: Plan, schema: Schema,
    offers: Iterable[Offer], now: int, seconds: int, noise: NoiseTerms | None = None,
) -> Manifest:  # fmt: skip
    """Run by the merchant, on offers whose signatures it has verified. The set is the agreement's, not the merchant's.

    `number`: which of the agreement's jobs this is; each is used once. Raises NotAgreed, DatasetMissing if a holder has
    no offer, and the errors of `compile_plan`.
    """
    check_covers(agreement, plan)
    pins = {
        offer.holder: DatasetPin(holder=offer.holder, version=offer.version, row_capacity=offer.row_capacity)
        for offer in offers
    }
    missing = [holder for holder in agreement.holder_names if holder not in pins]
    if missing:
        raise DatasetMissing(holders=", ".join(missing), table=plan.table)
    datasets = tuple(pins[holder] for holder in agreement.holder_names)
    program = compile_plan(plan, schema)
    check_fit(program, noise, datasets)
    variances = share_variances(program, noise, agreement.tolerated, schema.max_holders_per_subject, len(datasets))
    layout = _layout(program, datasets, merchant, variances)
    return Manifest(
        job_id=job_id,
        merchant=merchant.name,
        purpose=agreement.purpose,
        agreement_digest=agreement.digest(),
        number=number,
        plan=plan,
        datasets=datasets,
        key_id=merchant_key_id(merchant),
        layout_digest=Digest(layout.digest().hex()),
        disclosure_digest=agreement.disclosure.digest(),
        noise=noise,
        not_before=now,
        not_after=now + seconds,
    )


def _layout(program: Program, datasets: Iterable[DatasetPin], merchant: Descriptor, variances: Sequence[int]) -> Layout:
    assert merchant.encryption_key is not None
    capacities = (pin.row_capacity for pin in datasets)
    return layout_of(program, capacities, merchant.encryption_key.n.bit_length(), variances)


def share_variances(
    program: Program, noise: NoiseTerms | None, tolerated: int, holders_per_subject: int, holders: int
) -> tuple[int, ...]:
    """For each sum of a cell, of one holder's share: those without t of them still have the agreed variance. Empty for
    exact figures."""
    if noise is None:
        return ()
    sensitivities = [
        squared_sensitivity(one.row_bound, noise.cells_per_subject, holders_per_subject) for one in program.sums
    ]
    return noise_shares(noise.rho, sensitivities, holders, tolerated)


def read_manifest(signed: Signed, agreement: Agreement, roster: Roster, schema: Schema, now: int) -> Question:
    """Run by everybody who receives a manifest, against its own pinned roster, its own copy of the agreement and its
    own clock. That the agreement is in force is for the caller to know.

    1. The merchant of the roster signed it. 2. Its window is open, no longer than 30 days, and within the agreement's.
    3. It cites this agreement, whose parties have the keys of this roster; purpose, rules and job number are the
    agreement's. 4. Table, schema and the whole set of holders are the agreement's. 5. The key is the merchant's.
    6. The plan reads and does what is agreed, compiles, and gives the layout that the manifest names.
    Raises UnknownMember, BadSignature, MalformedDocument, OutsideWindow, ManifestMismatch, SetMismatch, NotAgreed,
    AgreementMismatch, and the errors of `compile_plan`.
    """
    manifest = roster.open(signed, Manifest, Role.MERCHANT)
    if not manifest.merchant == signed.signer == agreement.merchant.name:
        raise ManifestMismatch(problem="its merchant is not its signer, or not the agreement's")
    check_window(manifest, now)
    check_cites(manifest, agreement)
    check_noise(manifest.noise, agreement)
    check_parties(agreement, roster)
    if manifest.plan.schema_digest != agreement.schema_digest:
        raise ManifestMismatch(problem="it was made for another schema")
    if tuple(pin.holder for pin in manifest.datasets) != agreement.holder_names:
        raise SetMismatch(problem="it is not the agreement's whole set of holders")
    merchant = roster.member(manifest.merchant, Role.MERCHANT)
    if manifest.key_id != merchant_key_id(merchant):
        raise ManifestMismatch(problem="its encryption key is not the merchant's on the roster")
    check_covers(agreement, manifest.plan)
    program, per_subject = compile_plan(manifest.plan, schema), schema.max_holders_per_subject
    check_fit(program, manifest.noise, manifest.datasets)
    variances = share_variances(program, manifest.noise, agreement.tolerated, per_subject, len(manifest.datasets))
    layout = _layout(program, manifest.datasets, merchant, variances)
    if manifest.layout_digest != layout.digest().hex():
        raise ManifestMismatch(problem="its layout is not the one that follows from its plan")
    question = Question(manifest, manifest.digest(), merchant, roster, agreement, program, per_subject, layout)
    gate = question.gate(len(manifest.datasets))
    if gate is not None:
        gate.check_size(len(manifest.datasets))
    return question


class Job(Protocol):
    """What manifests of every kind of job have in common."""

    @property
    def agreement_digest(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def purpose(self) -> str: ...
    @property
    def disclosure_digest(self) -> str: ...
    @property
    def not_before(self) -> int: ...
    @property
    def not_after(self) -> int: ...


def check_cites(manifest: Job, agreement: Agreement) -> None:
    """The manifest is one of this agreement's jobs, within its time. Raises ManifestMismatch."""
    if manifest.agreement_digest != agreement.digest():
        raise ManifestMismatch(problem="it was made under another agreement")
    if not agreement.not_before <= manifest.not_before < manifest.not_after <= agreement.not_after:
        raise ManifestMismatch(problem="its window is not within the agreement's time")
    if manifest.not_after - manifest.not_before > LONGEST_WINDOW:
        raise ManifestMismatch(problem="its window is longer than 30 days")
    check_purpose(manifest, agreement)
    if manifest.disclosure_digest != agreement.disclosure.digest():
        raise ManifestMismatch(problem="its disclosure rules are not the agreement's")
    if manifest.number > agreement.jobs:
        raise ManifestMismatch(problem=f"it is job {manifest.number}, and {agreement.jobs} are agreed")


def check_fit(program: Program, noise: NoiseTerms | None, datasets: Sequence[DatasetPin]) -> None:
    """What the schema and the sizes say about a fit. Raises BadModel, PlanTooLarge, NoiseUndefined."""
    if program.fit is None:
        return
    if noise is not None:
        raise NoiseUndefined(problem="a fit is exact: its iterates have no noise")
    if max(pin.row_capacity for pin in datasets) * len(program.readings) > MAX_VALUES:
        raise PlanTooLarge(what="number of rows times columns that one holder has in memory", limit=MAX_VALUES)
    program.fit.check(program.frame(sum(pin.row_capacity for pin in datasets)))


def check_noise(noise: NoiseTerms | None, agreement: Agreement) -> None:
    """An answer with noise costs no more than a whole year may; an exact one is possible at all.

    Raises NoiseTooCostly, ExactForbidden.
    """
    rules = agreement.disclosure
    if noise is not None and noise.rho > rules.rho_per_year:
        raise NoiseTooCostly(cost=as_rho(noise.rho), limit=as_rho(rules.rho_per_year))
    if noise is None and rules.exact_jobs == 0:
        raise ExactForbidden(agreement=agreement.agreement_id)


def check_purpose(manifest: Job, agreement: Agreement) -> None:
    """The purpose is the agreement's, letter for letter: no look-alike passes. Raises ManifestMismatch."""
    if manifest.purpose != agreement.purpose:
        raise ManifestMismatch(problem="its purpose is not the agreement's")


def check_window(manifest: Job, now: int) -> None:
    """Raises OutsideWindow unless `now` is in the manifest's window, give or take the clock tolerance."""
    if not manifest.not_before - CLOCK_TOLERANCE <= now <= manifest.not_after + CLOCK_TOLERANCE:
        times = (manifest.not_before, manifest.not_after, now)
        not_before, not_after, here = (datetime.fromtimestamp(time, UTC).isoformat() for time in times)
        raise OutsideWindow(not_before=not_before, not_after=not_after, now=here)


# --- 2. each holder approves -----------------------------------------------------------------------------------


def approve(
    question: Question, me: str, own: DatasetPin, mask_secret: bytes, nonce: bytes, *, attempt: int = 0,
    log_size: int = 0,
) -> Approval:  # fmt: skip
    """Run by a holder that accepts the question; `own` is its dataset at the version that the manifest pins.

    `mask_secret` is 32 fresh random bytes, kept until the job has ended; `log_size`, how much of the log it has
    witnessed. Raises DatasetUnknown if the pinned version is not this holder's.
    """
    if question.pin_of(me) != own:
        raise DatasetUnknown(holder=me, version=question.pin_of(me).version[:12], table=question.program.table)
    return Approval(
        job_id=question.manifest.job_id,
        manifest_digest=question.digest,
        attempt=attempt,
        holder=me,
        dataset_version=own.version,
        mask_key=x25519_public_key(mask_secret).hex(),
        nonce=nonce.hex(),
        log_size=log_size,
    )


def abort(question: Question, me: str) -> AbortToken:
    """Run by a holder that leaves the job: it has sent no submission to it and has written down that it never will."""
    return AbortToken(job_id=question.manifest.job_id, manifest_digest=question.digest, holder=me)


# --- 3. everybody checks the set -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commitment:
    """The fixed set of a round: its context, every holder's mask key, and the layout for so many."""

    context: RoundContext
    mask_keys: Mapping[str, bytes]
    layout: Layout
    gate: GateForm | None
    log_size: int
    """The longest log that one of the holders has witnessed."""

    @property
    def gate_context(self) -> RoundContext:
        """That of the gate: the same but for its stage, and what is sent in it."""
        assert self.gate is not None
        return replace(self.context, stage=GATE, layout_digest=self.gate.digest())

    def after_gate(self, shares: Iterable[Signed]) -> "Commitment":
        """The release is bound to what everybody has sent to the gate: whoever saw other shares masks otherwise."""
        return replace(self, context=replace(self.context, gate_transcript_digest=transcript_digest(shares)))

    def release_context(self, released: str, iterate: str = "") -> RoundContext:
        """That of the release by a holder which finds that the gate lets this pass; empty without a gate. `iterate`:
        digest of a fit's last state; empty without a fit.

        Whoever decides otherwise masks otherwise: a leader that seals a wrong key to one holder, who then releases
        nothing, would else isolate the others in the total.
        """
        context = replace(self.context, iterate_digest=bytes.fromhex(iterate)) if iterate else self.context
        if not released:
            return context
        decided = sha256("ceiba/v1/gate-decision", self.context.gate_transcript_digest, bytes.fromhex(released))
        return replace(context, gate_transcript_digest=decided)

    @property
    def holders(self) -> list[str]:
        """Who answers, sorted."""
        return sorted(self.mask_keys)


def commit_to_set(question: Question, approvals: Sequence[Signed], aborts: Sequence[Signed] = ()) -> Commitment:
    """Run by every holder and by the merchant: the set of this attempt, which nobody but its members can make smaller.

    1. Each approval is signed by a holder of the pinned roster, who names itself, this job, this manifest and its
    pinned dataset version; all are for one attempt. 2. The signers are the agreement's whole set, each once; after the
    first attempt they are those who have not left it, and everybody else has signed an abort token (I3). 3. Those who
    remain are as many as the agreement demands. 4. No two have the same mask key.
    Raises UnknownMember, BadSignature, MalformedDocument, SetMismatch.
    """
    opened = {signed.signer: question.roster.open(signed, Approval, Role.HOLDER) for signed in approvals}
    for signer, approval in opened.items():
        check_approval(question, signer, approval)
    attempts = {approval.attempt for approval in opened.values()}
    if len(opened) != len(approvals) or len(attempts) != 1:
        raise SetMismatch(problem="the approvals are not one of each holder, all for the same attempt")
    attempt = attempts.pop()
    check_whole(question, attempt, sorted(opened), check_aborts(question, aborts))
    mask_keys = {signer: bytes.fromhex(approval.mask_key) for signer, approval in opened.items()}
    if len(set(mask_keys.values())) != len(mask_keys):
        raise SetMismatch(problem="two holders have the same mask key")
    layout = question.layout_for(sorted(opened))
    context, log_size = _context(question, attempt, mask_keys, layout), max(one.log_size for one in opened.values())
    return Commitment(context, mask_keys, layout, question.gate(len(opened)), log_size)


def _context(question: Question, attempt: int, mask_keys: Mapping[str, bytes], layout: Layout) -> RoundContext:
    roster, manifest = question.roster, question.manifest
    members = {
        holder: (bytes.fromhex(roster.member(holder, Role.HOLDER).digest()), key) for holder, key in mask_keys.items()
    }
    return RoundContext(
        suite=manifest.suite,
        agreement_digest=bytes.fromhex(manifest.agreement_digest),
        manifest_digest=bytes.fromhex(question.digest),
        attempt=attempt,
        stage=RELEASE,
        iteration=0,
        set_digest=set_digest(members),
        key_id=bytes.fromhex(manifest.key_id),
        layout_digest=layout.digest(),
    )


def check_whole(question: Question, attempt: int, signers: list[str], left: set[str]) -> None:
    """The set is the agreement's without those who have left, and large enough. Raises SetMismatch."""
    if signers != [holder for holder in question.holders if holder not in left] or (attempt == 0) != (not left):
        raise SetMismatch(problem="the approvals are not those of the agreement's holders, without those who left")
    if left and len(signers) < question.agreement.smallest_set:
        raise SetMismatch(problem=f"only {len(signers)} holders remain, fewer than the agreement demands")


def check_approval(question: Question, signer: str, approval: Approval) -> None:
    """One approval by itself: it is its signer's, for this manifest and the pinned dataset. Raises SetMismatch."""
    if approval.holder != signer:
        raise SetMismatch(problem=f"an approval signed by {signer} is in another holder's name")
    check_same_manifest(question, signer, approval)
    if approval.dataset_version != question.pin_of(signer).version:
        raise SetMismatch(problem=f"{signer} approved another version of its dataset")


def check_same_manifest(question: Question, signer: str, approval: Approval) -> None:
    """Everybody was shown one manifest: this one. Raises SetMismatch."""
    if approval.job_id != question.manifest.job_id or approval.manifest_digest != question.digest:
        raise SetMismatch(problem=f"{signer} approved another manifest")


def check_aborts(question: Question, aborts: Iterable[Signed]) -> set[str]:
    """Who has left this job, by their own signatures. Raises UnknownMember, BadSignature, SetMismatch."""
    left = set()
    for signed in aborts:
        token = open_abort(question, signed)
        if token != abort(question, signed.signer) or signed.signer not in question.holders:
            raise SetMismatch(problem=f"an abort token signed by {signed.signer} is for another job or holder")
        left.add(signed.signer)
    return left


def open_abort(question: Question, signed: Signed) -> AbortToken:
    """An abort token that its holder itself has signed. Raises UnknownMember, BadSignature, MalformedDocument."""
    return question.roster.open(signed, AbortToken, Role.HOLDER)


def noise_for(question: Question, commitment: Commitment, noise_key: bytes) -> list[int]:
    """Run by a holder for a job with noise: what it adds to its sums, cell by cell. Each holder's own secret.

    The same question over the same versions, by the same holders, gets the same noise, so asking again shows nothing
    new. `noise_key`: 32 bytes that the holder keeps.
    """
    manifest = question.manifest
    assert manifest.noise is not None
    versions = {pin.holder: pin.version for pin in manifest.datasets if pin.holder in commitment.mask_keys}
    asked = (bytes.fromhex(document.digest()) for document in (manifest.plan, manifest.noise))
    return noise_vector(
        noise_key,
        versions_digest=versions_digest(versions),
        plan_digest=sha256("ceiba/v1/noisy-question", *asked),
        members_digest=members_digest(commitment.holders),
        variances=question.variances(len(commitment.holders)),
        cells=question.program.cells,
    )


# --- 4. the gate -----------------------------------------------------------------------------------------------


def share_gate(
    question: Question, commitment: Commitment, me: str, words: Words, mask_secret: bytes, random: Random
) -> tuple[GateShare, bytes]:
    """Run by a holder: its words, masked, and the document to sign; both to be stored before they are sent (I2).

    `words`: of `gate.exact_words` or `gate.noisy_words`. The leader of the set adds a mask whose key it seals to the
    holders: the masks between pairs cancel on the sum, and nobody else may read it. Raises SetMismatch.
    """
    context = commitment.gate_context.digest()
    masked = words + own_masks(commitment, context, me, len(words), mask_secret)
    sealed = {}
    if me == leader_of(commitment):
        group_key = random(32)
        masked = masked + expand_words(group_key, len(words))
        sealed = seal_to_all(question, commitment, group_key, context)
    blob = masked.astype("<u8").tobytes()
    share = GateShare(
        job_id=question.manifest.job_id,
        attempt=commitment.context.attempt,
        holder=me,
        context_digest=Digest(context.hex()),
        words=len(words),
        words_digest=Digest(hashlib.sha256(blob).hexdigest()),
        sealed_keys=sealed,
    )
    return share, blob


def own_masks(
    commitment: Commitment, context: bytes, me: str, count: int, mask_secret: bytes, *, wide: bool = False
) -> Words:
    """What cancels against the others' in the sum, word by word or, if wide, in pairs of words. Raises SetMismatch."""
    if commitment.mask_keys.get(me) != x25519_public_key(mask_secret):
        raise SetMismatch(problem=f"its mask key for {me} is not {me}'s")
    peers = {holder: key for holder, key in commitment.mask_keys.items() if holder != me}
    return combined_words(
        me, mask_secret, peers, context, count, *((add_wide, negate_wide) if wide else (add_words, negate_words))
    )


def seal_to_all(question: Question, commitment: Commitment, secret: bytes, context: bytes) -> dict[str, str]:
    """Run by the leader: the group's key, sealed to each holder of the set."""
    members = {one: question.roster.member(one, Role.HOLDER) for one in commitment.holders}
    return {name: seal_to(bytes.fromhex(one.sealing_key), secret, context).hex() for name, one in members.items()}


def open_group_key(
    commitment: Commitment, shares: Iterable[GateShare], me: str, sealing_secret: bytes, context: bytes
) -> bytes:
    """32 bytes that the leader has sealed. Raises MalformedMessage."""
    sealed = {share.holder: share.sealed_keys for share in shares}[leader_of(commitment)]
    if me not in sealed:
        raise MalformedMessage(message="GateShare", problem="the leader's has no key for every holder")
    group_key = open_sealed(sealing_secret, bytes.fromhex(sealed[me]), context, "GateShare")
    if len(group_key) != 32:
        raise MalformedMessage(message="GateShare", problem="the leader's key is none")
    return group_key


def leader_of(commitment: Commitment) -> str:
    """The holder that draws the group's key: the one with the smallest SHA-256 of the set's context and its name."""
    context = commitment.context.digest()
    return min(commitment.holders, key=lambda holder: hashlib.sha256(context + holder.encode()).digest())


def check_share(signed: Signed, question: Question, commitment: Commitment) -> GateShare:
    """Run by whoever receives a share's document: it is its holder's, for this job, round and gate.

    Raises UnknownMember, BadSignature, MalformedDocument, MalformedMessage, SetMismatch, TotalRejected.
    """
    share = question.roster.open(signed, GateShare, Role.HOLDER)
    wanted = (signed.signer, question.manifest.job_id, commitment.context.attempt)
    if commitment.gate is None or (share.holder, share.job_id, share.attempt) != wanted:
        raise MalformedMessage(message="GateShare", problem="it is for another job or attempt, or in another's name")
    if share.holder not in commitment.mask_keys:
        raise SetMismatch(problem=f"{share.holder} is not in it")
    if share.words != commitment.gate.words:
        raise MalformedMessage(message="GateShare", problem="it has another number of words than the gate")
    if share.context_digest != commitment.gate_context.digest().hex():
        raise TotalRejected(problem=f"{share.holder} answered the gate in another context")
    return share


def check_words(share: GateShare, blob: bytes) -> Words:
    """The signed words. Raises MalformedMessage."""
    if len(blob) != 8 * share.words or hashlib.sha256(blob).hexdigest() != share.words_digest:
        raise MalformedMessage(message="GateShare", problem="its words are not the signed ones")
    return np.frombuffer(blob, dtype="<u8")


def check_shares(shares: Sequence[Signed], question: Question, commitment: Commitment) -> list[GateShare]:
    """The documents of the whole set's shares, each once. Raises as `check_share`."""
    opened = [check_share(signed, question, commitment) for signed in shares]
    if sorted(share.holder for share in opened) != commitment.holders:
        raise SetMismatch(problem="the shares of the gate are not those of the set's holders, each once")
    return opened


def transcript_digest(shares: Iterable[Signed]) -> bytes:
    """32 bytes over the signed documents of all shares, which hold the digests of their words."""
    parts = sorted((signed.signer.encode(), hashlib.sha256(signed.body).digest()) for signed in shares)
    return sha256("ceiba/v1/gate-transcript", *(tlv(*part) for part in parts))


def open_gate(
    question: Question, commitment: Commitment, shares: Sequence[tuple[Signed, bytes]], me: str, sealing_secret: bytes
) -> Released:
    """Run by every holder: what may be released. The coordinator handed the shares on; each was signed by its holder.

    Raises as `check_shares`, and MalformedMessage if the leader sealed no key for this holder.
    """
    documents = check_shares([signed for signed, _ in shares], question, commitment)
    context, total = commitment.gate_context.digest(), np.zeros(1, dtype=np.uint64)
    for share, (_, blob) in zip(documents, shares, strict=True):
        total = total + check_words(share, blob)
    group_key = open_group_key(commitment, documents, me, sealing_secret, context)
    assert commitment.gate is not None
    return decide(commitment.gate, total - expand_words(group_key, len(total)))


# --- 5. each holder contributes --------------------------------------------------------------------------------


def contribute(
    question: Question, commitment: Commitment, me: str, values: Sequence[int], mask_secret: bytes,
    encryptor: Encryptor, salt: bytes, released: Released | None = None, iterate: str = "",
) -> tuple[Submission, bytes]:  # fmt: skip
    """Run by a holder once for each round: its submission and ciphertexts, to be stored before they are sent (I2).

    `values`: its clip counts, then its sums, cell by cell, with its noise if there is any; or a fit's final figures.
    `salt`: 32 random bytes that it keeps, for audits. `released`: what the gate lets pass, which `commitment` is bound
    to; the rest is sent as 0. `iterate`: digest of a fit's last state.
    Raises SetMismatch if the set has another mask key for this holder than its own.
    """
    if commitment.mask_keys.get(me) != x25519_public_key(mask_secret):
        raise SetMismatch(problem=f"its mask key for {me} is not {me}'s")
    variances = question.variances(len(commitment.holders))
    rows = sum(question.pin_of(holder).row_capacity for holder in commitment.holders)
    bounds = share_bounds(question.program, question.pin_of(me).row_capacity, rows, variances)
    if released is not None:
        values = _only_released(question, commitment, values, released)
    text = "" if released is None else pack_released(released)
    context = commitment.release_context(text, iterate)
    peers = {holder: key for holder, key in commitment.mask_keys.items() if holder != me}
    ciphertexts = holder_contribute(context, commitment.layout, values, bounds, me, mask_secret, peers, encryptor)
    return (
        Submission(
            job_id=question.manifest.job_id,
            attempt=commitment.context.attempt,
            holder=me,
            context_digest=Digest(context.digest().hex()),
            released=text,
            iterate=iterate,
            ciphertexts=commitment.layout.ciphertexts,
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            commitment=commit_to_values(values, salt),
        ),
        ciphertexts,
    )


def _only_released(question: Question, commitment: Commitment, values: Sequence[int], released: Released) -> list[int]:
    """The header and the sums that may be sent; 0 for all others."""
    assert commitment.gate is not None
    header = len(question.program.clipped_columns)
    sent = _sent(question.program, commitment.gate, released).reshape(-1).tolist()
    return [*values[:header], *(value if may else 0 for value, may in zip(values[header:], sent, strict=True))]


def _sent(program: Program, gate: GateForm, released: Released) -> Released:
    """[cells, figures]: what is sent. Of a fit, all figures of a cell or none."""
    sums = released_sums(gate, released)
    if program.fit is None:
        return sums
    width = len(program.fit.slots(program.frame(1)))
    sums = sums[:, program.uses[0].sums]
    cells = sums.all(axis=1, keepdims=True) if program.fit.per_cell else sums.all(keepdims=True)
    return np.repeat(cells, width, axis=1)


def commit_to_values(values: Sequence[int], salt: bytes) -> Digest:
    """HMAC-SHA256 under `salt` of the plain sums, which an audit on site can open later (§6.4)."""
    body = tlv(*(b"%d" % value for value in values))
    return Digest(hmac.digest(salt, body, "sha256").hex())


def check_submission(signed: Signed, ciphertexts: bytes, question: Question, commitment: Commitment) -> str:
    """Run by whoever receives a submission: the holder's name, once its document fits its bytes, the job and the round.

    Raises UnknownMember, BadSignature, MalformedDocument, MalformedMessage, SetMismatch, TotalRejected.
    """
    submission = check_submitted(signed, question, commitment)
    if submission.ciphertext_digest != hashlib.sha256(ciphertexts).hexdigest():
        raise MalformedMessage(message="Submission", problem="its ciphertexts are not the signed ones")
    return submission.holder


def check_submitted(signed: Signed, question: Question, commitment: Commitment) -> Submission:
    """A submission's document without its ciphertexts, as a receipt has it. Raises as `check_submission`."""
    submission = question.roster.open(signed, Submission, Role.HOLDER)
    wanted = (signed.signer, question.manifest.job_id, commitment.context.attempt)
    if (submission.holder, submission.job_id, submission.attempt) != wanted:
        raise MalformedMessage(message="Submission", problem="it is for another job or attempt, or in another's name")
    if submission.holder not in commitment.mask_keys:
        raise SetMismatch(problem=f"{submission.holder} is not in it")
    if submission.ciphertexts != commitment.layout.ciphertexts:
        raise MalformedMessage(message="Submission", problem="it has another number of ciphertexts than the layout")
    if submission.context_digest != _context_of(commitment, submission).digest().hex():
        raise TotalRejected(problem=f"{submission.holder} answered in another context")
    return submission


def _context_of(commitment: Commitment, submission: Submission) -> RoundContext:
    return commitment.release_context(submission.released, submission.iterate)


# --- 8. the merchant opens the total ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """The released totals: `sums` cell by cell, and how many values of each column were clipped at publishing."""

    sums: Sequence[int]
    clipped: Mapping[str, int]
    holders: Sequence[str]
    """Who answered."""
    sent: Released | None
    """[cells, sums]: which of the sums were released; None if all were."""
    variances: Sequence[int]
    """Of the noise in a total, for each sum of a cell; empty if there is none."""


def open_result(
    question: Question,
    approvals: Sequence[Signed],
    submissions: Sequence[tuple[Signed, bytes]],
    total: bytes,
    private_key: phe.PaillierPrivateKey,
    aborts: Sequence[Signed] = (),
    shares: Sequence[Signed] = (),
) -> Opened:
    """Run by the merchant. Nothing is decrypted before every signature, the set and the product have been checked.

    `shares`: the documents of the gate's shares, without their words. Raises the errors of `commit_to_set`,
    `check_shares`, `check_submission` and `merchant_open`.
    """
    commitment = commit_past_gate(question, approvals, aborts, shares)
    contributions = {
        check_submission(signed, ciphertexts, question, commitment): ciphertexts for signed, ciphertexts in submissions
    }
    if sorted(contributions) != commitment.holders or len(submissions) != len(contributions):
        raise SetMismatch(problem="the submissions are not those of the set's holders, each once")
    released = read_released(commitment, [signed for signed, _ in submissions])
    values = merchant_open(total, contributions, commitment.layout, private_key)
    columns, holders = question.program.clipped_columns, len(commitment.holders)
    sums, gate = values[len(columns) :], commitment.gate
    return Opened(
        sums=sums if question.program.fit is None else _what_all_sent(sums, holders),
        clipped=dict(zip(columns, values, strict=False)),
        holders=commitment.holders,
        sent=None if released is None or gate is None else _sent(question.program, gate, released),
        variances=[holders * variance for variance in question.variances(holders)],
    )


def _what_all_sent(totals: Sequence[int], holders: int) -> list[int]:
    """Each holder sends the whole of a fit's figures, so that what they do not all agree on shows."""
    if any(total % holders for total in totals):
        raise TotalRejected(problem="its holders disagree about the fit")
    return [total // holders for total in totals]


def commit_past_gate(
    question: Question, approvals: Sequence[Signed], aborts: Sequence[Signed], shares: Sequence[Signed]
) -> Commitment:
    """The set of a release: bound to the gate's shares, where there is a gate. Raises as `commit_to_set` and
    `check_shares`."""
    commitment = commit_to_set(question, approvals, aborts)
    if commitment.gate is None:
        return commitment
    check_shares(shares, question, commitment)
    return commitment.after_gate(shares)


def read_released(commitment: Commitment, submissions: Iterable[Signed]) -> Released | None:
    """What the gate let pass, as every holder says, each with its signature; None without a gate.

    Raises SetMismatch if they disagree, MalformedMessage.
    """
    opened = [Submission.parse(signed.body) for signed in submissions]
    said = {(submission.released, submission.iterate) for submission in opened}
    if len(said) != 1:
        raise SetMismatch(problem="its holders disagree about what the gate lets pass, or about the fit")
    ((text, _),) = said
    if commitment.gate is None:
        if text:
            raise MalformedMessage(message="Submission", problem="it has a gate's decision and there is no gate")
        return None
    return unpack_released(commitment.gate, text)
