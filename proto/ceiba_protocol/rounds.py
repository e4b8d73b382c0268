"""One job, every role's step side by side (PROTOCOL §2.5). `run_job` at the end is all of it in order, no network.

Messages go in and come out; what is random or reads a clock is an argument. The steps' numbers are those of the
protocol: 1 manifest, 2 approval, 3 set, 5 contribution, 7 product, 8 opening (4 and 6 are the gate's and the wire's).
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import phe

from ceiba_protocol.canonical import Digest, tlv
from ceiba_protocol.errors import (
    DatasetMissing,
    DatasetUnknown,
    MalformedMessage,
    ManifestMismatch,
    OutsideWindow,
    SetMismatch,
    TotalRejected,
    ValueOutOfRange,
)
from ceiba_protocol.plan import Label, Plan, Program, compile_plan, finish, grouped_sums
from ceiba_protocol.program import ENGINE_BITS, Row
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Output
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.paillier import Encryptor, encode_modulus
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import (
    RoundContext,
    coordinator_multiply,
    holder_contribute,
    merchant_open,
    set_digest,
)
from ceiba_protocol.trust.documents import NO_DIGEST, Approval, DatasetPin, Manifest, Offer, Submission
from ceiba_protocol.trust.keys import SigningKey, mask_public_key
from ceiba_protocol.trust.roster import (
    SUITE,
    Descriptor,
    EncryptionKey,
    Role,
    Roster,
    RosterTable,
    check_roster,
    merchant_key_id,
)
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed

CLOCK_TOLERANCE = 300
"""Seconds by which two members' clocks may differ (PROTOCOL §6.5)."""
LONGEST_WINDOW = 30 * 24 * 3600
"""Seconds that a job may wait for its holders, who keep a mask key for it all the while."""
RELEASE = 1
"""The number of the release stage in a round's context; 0 is the gate's."""


# --- what every party derives from the plan --------------------------------------------------------------------


def layout_of(program: Program, capacities: Iterable[int], key_bits: int) -> Layout:
    """The layout of a job: a pure function of the plan, the schema and the published row capacities (§2.4).

    The header has one slot for each column with clipped values, bounded by the rows; then each cell has the
    program's sums, bounded by the rows times the largest value that one row can add. Raises ValueOutOfRange.
    """
    shares = list(capacities)
    rows = sum(shares)
    largest = max(rows * one.row_bound for one in program.sums)
    if largest.bit_length() > ENGINE_BITS:
        raise ValueOutOfRange(what="A sum over all rows", bits=largest.bit_length(), limit=ENGINE_BITS)
    return Layout(
        key_bits=key_bits,
        header=(rows,) * len(program.clipped_columns),
        cell=tuple(rows * one.row_bound for one in program.sums),
        cells=program.cells,
        holders=len(shares),
    )


def share_bounds(program: Program, capacity: int) -> list[int]:
    """The bounds of one holder's own values, slot by slot; those of all holders add up to the layout's."""
    cell = [capacity * one.row_bound for one in program.sums]
    return [capacity] * len(program.clipped_columns) + cell * program.cells


@dataclass(frozen=True)
class Question:
    """A verified manifest with all that follows from it. Made by `read_manifest` alone."""

    manifest: Manifest
    digest: Digest
    merchant: Descriptor
    roster: Roster
    program: Program
    layout: Layout

    @property
    def modulus(self) -> int:
        assert self.merchant.encryption_key is not None
        return self.merchant.encryption_key.n

    @property
    def holders(self) -> list[str]:
        """Sorted, as the roster lists them."""
        return [pin.holder for pin in self.manifest.datasets]

    def pin_of(self, holder: str) -> DatasetPin:
        """Raises SetMismatch if the job is not for that holder."""
        for pin in self.manifest.datasets:
            if pin.holder == holder:
                return pin
        raise SetMismatch(problem=f"{holder} is not in it")


# --- 1. the merchant describes the job -------------------------------------------------------------------------


def make_manifest(
    *, job_id: str, merchant: Descriptor, plan: Plan, schema: Schema, roster: Roster, offers: Iterable[Offer],
    purpose: str, now: int, seconds: int,
) -> Manifest:  # fmt: skip
    """Run by the merchant, on offers whose signatures it has verified. The set is the roster's, not the merchant's.

    Raises UnknownTable, DatasetMissing if a holder of the table has no offer, and the errors of `compile_plan`.
    """
    table = roster.table(plan.table)
    pins = {
        offer.holder: DatasetPin(holder=offer.holder, version=offer.version, row_capacity=offer.row_capacity)
        for offer in offers
    }
    missing = [holder for holder in table.holders if holder not in pins]
    if missing:
        raise DatasetMissing(holders=", ".join(missing), table=plan.table)
    datasets = tuple(pins[holder] for holder in table.holders)
    layout = _layout(compile_plan(plan, schema), datasets, merchant)
    return Manifest(
        job_id=job_id,
        merchant=merchant.name,
        purpose=purpose,
        agreement_digest=roster.digest(),
        plan=plan,
        datasets=datasets,
        key_id=merchant_key_id(merchant),
        layout_digest=Digest(layout.digest().hex()),
        not_before=now,
        not_after=now + seconds,
    )


def _layout(program: Program, datasets: Iterable[DatasetPin], merchant: Descriptor) -> Layout:
    assert merchant.encryption_key is not None
    return layout_of(program, (pin.row_capacity for pin in datasets), merchant.encryption_key.n.bit_length())


def read_manifest(signed: Signed, roster: Roster, schema: Schema, now: int) -> Question:
    """Run by everybody who receives a manifest, against its own pinned roster and its own clock.

    1. The merchant of the roster signed it. 2. Its window is open, and no longer than 30 days. 3. It cites this
    roster, whose digest stands for the agreement. 4. Table, schema and the whole set of holders are the roster's.
    5. The key is the merchant's. 6. The plan compiles, and gives the layout that the manifest names.
    Raises UnknownMember, BadSignature, MalformedDocument, OutsideWindow, ManifestMismatch, SetMismatch, and the
    errors of `compile_plan`.
    """
    manifest = roster.open(signed, Manifest, Role.MERCHANT)
    if manifest.merchant != signed.signer:
        raise ManifestMismatch(problem="its merchant is not its signer")
    check_window(manifest, now)
    if manifest.not_after - manifest.not_before > LONGEST_WINDOW or manifest.disclosure_digest != NO_DIGEST:
        raise ManifestMismatch(problem="its window is longer than 30 days, or it cites disclosure rules")
    if manifest.agreement_digest != roster.digest():
        raise ManifestMismatch(problem="it was made under another roster")
    table = roster.table(manifest.plan.table)
    if manifest.plan.schema_digest != table.schema_digest:
        raise ManifestMismatch(problem="it was made for another schema")
    if tuple(pin.holder for pin in manifest.datasets) != table.holders:
        raise SetMismatch(problem=f"it is not the whole set of {table.table}'s holders")
    merchant = roster.member(manifest.merchant, Role.MERCHANT)
    if manifest.key_id != merchant_key_id(merchant):
        raise ManifestMismatch(problem="its encryption key is not the merchant's on the roster")
    program = compile_plan(manifest.plan, schema)
    layout = _layout(program, manifest.datasets, merchant)
    if manifest.layout_digest != layout.digest().hex():
        raise ManifestMismatch(problem="its layout is not the one that follows from its plan")
    return Question(manifest, manifest.digest(), merchant, roster, program, layout)


def check_window(manifest: Manifest, now: int) -> None:
    """Raises OutsideWindow unless `now` is in the manifest's window, give or take the clock tolerance."""
    if not manifest.not_before - CLOCK_TOLERANCE <= now <= manifest.not_after + CLOCK_TOLERANCE:
        times = (manifest.not_before, manifest.not_after, now)
        not_before, not_after, here = (datetime.fromtimestamp(time, UTC).isoformat() for time in times)
        raise OutsideWindow(not_before=not_before, not_after=not_after, now=here)


# --- 2. each holder approves -----------------------------------------------------------------------------------


def approve(question: Question, me: str, own: DatasetPin, mask_secret: bytes, nonce: bytes) -> Approval:
    """Run by a holder that accepts the question; `own` is its dataset at the version that the manifest pins.

    `mask_secret` is 32 fresh random bytes, kept until the job has ended. Raises DatasetUnknown if the pinned version
    is not this holder's.
    """
    if question.pin_of(me) != own:
        raise DatasetUnknown(holder=me, version=question.pin_of(me).version[:12], table=question.program.table)
    return Approval(
        job_id=question.manifest.job_id,
        manifest_digest=question.digest,
        attempt=0,
        holder=me,
        dataset_version=own.version,
        mask_key=mask_public_key(mask_secret).hex(),
        nonce=nonce.hex(),
    )


# --- 3. everybody checks the set -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Commitment:
    """The fixed set of a round: its context, and every holder's mask key."""

    context: RoundContext
    mask_keys: Mapping[str, bytes]


def commit_to_set(question: Question, approvals: Sequence[Signed]) -> Commitment:
    """Run by every holder and by the merchant: the approvals are exactly those of the table's holders, for this job.

    1. Each is signed by a holder of the pinned roster, who names itself. 2. Each names this job, this manifest and
    its pinned dataset version. 3. The signers are the whole set, each once. 4. No two have the same mask key.
    Raises UnknownMember, BadSignature, MalformedDocument, SetMismatch.
    """
    opened = [(signed.signer, question.roster.open(signed, Approval, Role.HOLDER)) for signed in approvals]
    for signer, approval in opened:
        check_approval(question, signer, approval)
    if sorted(signer for signer, _ in opened) != question.holders:
        raise SetMismatch(problem="the approvals are not those of the table's holders, each once")
    mask_keys = {signer: bytes.fromhex(approval.mask_key) for signer, approval in opened}
    if len(set(mask_keys.values())) != len(mask_keys):
        raise SetMismatch(problem="two holders have the same mask key")
    roster, manifest = question.roster, question.manifest
    members = {
        holder: (bytes.fromhex(roster.member(holder, Role.HOLDER).digest()), key) for holder, key in mask_keys.items()
    }
    context = RoundContext(
        suite=manifest.suite,
        agreement_digest=bytes.fromhex(manifest.agreement_digest),
        manifest_digest=bytes.fromhex(question.digest),
        attempt=0,
        stage=RELEASE,
        iteration=0,
        set_digest=set_digest(members),
        key_id=bytes.fromhex(manifest.key_id),
        layout_digest=question.layout.digest(),
    )
    return Commitment(context, mask_keys)


def check_approval(question: Question, signer: str, approval: Approval) -> None:
    """One approval by itself: it is its signer's, for this manifest and the pinned dataset. Raises SetMismatch."""
    if approval.holder != signer:
        raise SetMismatch(problem=f"an approval signed by {signer} is in another holder's name")
    same_job = approval.job_id == question.manifest.job_id and approval.attempt == 0
    if not same_job or approval.manifest_digest != question.digest:
        raise SetMismatch(problem=f"{signer} approved another manifest")
    if approval.dataset_version != question.pin_of(signer).version:
        raise SetMismatch(problem=f"{signer} approved another version of its dataset")


# --- 5. each holder contributes --------------------------------------------------------------------------------


def contribute(
    question: Question, commitment: Commitment, me: str, values: Sequence[int], mask_secret: bytes,
    encryptor: Encryptor, salt: bytes,
) -> tuple[Submission, bytes]:  # fmt: skip
    """Run by a holder once for each round: its submission and ciphertexts, to be stored before they are sent (I2).

    `values`: its clip counts, then its sums, cell by cell. `salt`: 32 random bytes that it keeps, for audits.
    Raises SetMismatch if the set has another mask key for this holder than its own.
    """
    if commitment.mask_keys.get(me) != mask_public_key(mask_secret):
        raise SetMismatch(problem=f"its mask key for {me} is not {me}'s")
    bounds = share_bounds(question.program, question.pin_of(me).row_capacity)
    peers = {holder: key for holder, key in commitment.mask_keys.items() if holder != me}
    ciphertexts = holder_contribute(
        commitment.context, question.layout, values, bounds, me, mask_secret, peers, encryptor
    )
    return (
        Submission(
            job_id=question.manifest.job_id,
            attempt=0,
            holder=me,
            context_digest=Digest(commitment.context.digest().hex()),
            ciphertexts=question.layout.ciphertexts,
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            commitment=commit_to_values(values, salt),
        ),
        ciphertexts,
    )


def commit_to_values(values: Sequence[int], salt: bytes) -> Digest:
    """HMAC-SHA256 under `salt` of the plain sums, which an audit on site can open later (§6.4)."""
    body = tlv(*(b"%d" % value for value in values))
    return Digest(hmac.digest(salt, body, "sha256").hex())


def check_submission(
    signed: Signed, ciphertexts: bytes, question: Question, commitment: Commitment | None = None
) -> str:
    """Run by whoever receives a submission: the holder's name, once its document fits its bytes and the job.

    With a commitment, which the merchant and the holders can compute, also the round's context is compared. Raises
    UnknownMember, BadSignature, MalformedDocument, MalformedMessage, SetMismatch, TotalRejected.
    """
    submission = question.roster.open(signed, Submission, Role.HOLDER)
    if submission.holder != signed.signer or submission.job_id != question.manifest.job_id or submission.attempt:
        raise MalformedMessage(message="Submission", problem="it is for another job or in another holder's name")
    question.pin_of(submission.holder)
    if submission.ciphertexts != question.layout.ciphertexts:
        raise MalformedMessage(message="Submission", problem="it has another number of ciphertexts than the layout")
    if submission.ciphertext_digest != hashlib.sha256(ciphertexts).hexdigest():
        raise MalformedMessage(message="Submission", problem="its ciphertexts are not the signed ones")
    if commitment and submission.context_digest != commitment.context.digest().hex():
        raise TotalRejected(problem=f"{submission.holder} answered in another context")
    return submission.holder


# --- 8. the merchant opens the total ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """The released totals: `sums` cell by cell, and how many values of each column were clipped at publishing."""

    sums: Sequence[int]
    clipped: Mapping[str, int]


def open_result(
    question: Question,
    approvals: Sequence[Signed],
    submissions: Sequence[tuple[Signed, bytes]],
    total: bytes,
    private_key: phe.PaillierPrivateKey,
) -> Opened:
    """Run by the merchant. Nothing is decrypted before every signature, the set and the product have been checked.

    Raises the errors of `commit_to_set`, `check_submission` and `merchant_open`.
    """
    commitment = commit_to_set(question, approvals)
    contributions = {
        check_submission(signed, ciphertexts, question, commitment): ciphertexts for signed, ciphertexts in submissions
    }
    if sorted(contributions) != question.holders or len(submissions) != len(contributions):
        raise SetMismatch(problem="the submissions are not those of the table's holders, each once")
    values = merchant_open(total, contributions, question.layout, private_key)
    columns = question.program.clipped_columns
    return Opened(values[len(columns) :], dict(zip(columns, values, strict=False)))


# --- the whole job ---------------------------------------------------------------------------------------------


def describe_member(name: str, role: Role, key: SigningKey, encryption: EncryptionKey | None = None) -> Descriptor:
    """A descriptor for examples and tests, where each member is its own organisation and there is no TLS."""
    fingerprint = Digest(hashlib.sha256(b"no TLS for " + name.encode()).hexdigest())
    return Descriptor(
        name=name, role=role, organisation=name, signing_key=key.public.hex(), tls_fingerprint=fingerprint,
        encryption_key=encryption,
    )  # fmt: skip


def run_job(
    plan: Plan,
    schema: Schema,
    rows_by_holder: Mapping[str, Sequence[Row]],
    keypair: tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey],
    random: Random,
    now: int,
) -> list[tuple[Label | Output, ...]]:
    """A whole job without a network: who knows what, who sends what, who checks what. Returns the result's rows.

    `rows_by_holder`: each holder's snapshot as integers. At least three holders.
    """
    # Everybody makes keys. The merchant proves that its encryption key is well formed.
    public_key, private_key = keypair
    keys = {name: SigningKey(random(32)) for name in ("merchant", *sorted(rows_by_holder))}
    context = key_context("merchant", keys["merchant"].public, SUITE, "long-lived")
    modulus, proof = encode_modulus(public_key.n).hex(), prove_key(private_key, context).hex()
    merchant = describe_member("merchant", Role.MERCHANT, keys["merchant"], EncryptionKey(modulus=modulus, proof=proof))
    holders = {name: describe_member(name, Role.HOLDER, keys[name]) for name in sorted(rows_by_holder)}

    # Everybody pins the same roster, after checking it.
    table = RosterTable(table=plan.table, schema_digest=schema.digest(), holders=tuple(holders))
    roster = Roster(
        space="example",
        version=1,
        authority_fingerprint=Digest("0" * 64),
        members=(merchant, *holders.values()),
        tables=(table,),
    )
    for member in roster.members:
        check_roster(roster, member)

    # Holders: publish. The version of a snapshot is a digest; its capacity is all that its size tells.
    pins = {
        name: DatasetPin(holder=name, version=schema.digest(), row_capacity=1 << max(0, len(rows) - 1).bit_length())
        for name, rows in rows_by_holder.items()
    }
    offers = [
        Offer(table=plan.table, schema_digest=schema.digest(), published_at=now, **pin.model_dump())
        for pin in pins.values()
    ]

    # 1. Merchant: describes and signs the job. The coordinator passes it on.
    manifest = make_manifest(
        job_id=random(16).hex(), merchant=merchant, plan=plan, schema=schema, roster=roster, offers=offers,
        purpose="example", now=now, seconds=60,
    )  # fmt: skip
    signed_manifest = sign(manifest, "merchant", keys["merchant"])

    # 2. Holders: each checks the manifest against its own roster, and approves with a fresh mask key.
    questions = {name: read_manifest(signed_manifest, roster, schema, now) for name in holders}
    mask_secrets = {name: random(32) for name in holders}
    approvals = [
        sign(approve(questions[name], name, pins[name], mask_secrets[name], random(16)), name, keys[name])
        for name in holders
    ]

    # 3.–6. Holders: each checks the whole set, computes on its rows, packs, masks, encrypts, signs.
    submissions = []
    for name, rows in rows_by_holder.items():
        question = questions[name]
        commitment = commit_to_set(question, approvals)
        values = [0] * len(question.program.clipped_columns) + grouped_sums(question.program, rows)
        encryptor = Encryptor.for_count(question.modulus, question.layout.ciphertexts, random)
        submission, ciphertexts = contribute(
            question, commitment, name, values, mask_secrets[name], encryptor, random(32)
        )
        submissions.append((sign(submission, name, keys[name]), ciphertexts))

    # 7. Coordinator: checks what it can and multiplies what it cannot read.
    question = read_manifest(signed_manifest, roster, schema, now)
    contributions = {check_submission(signed, blob, question): blob for signed, blob in submissions}
    total = coordinator_multiply(contributions, question.layout, question.modulus)

    # 8. Merchant: checks everything again, decrypts the total, finishes the statistics.
    opened = open_result(question, approvals, submissions, total, private_key)
    return finish(question.program, opened.sums)
