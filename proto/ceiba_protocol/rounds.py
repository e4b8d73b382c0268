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
from ceiba_protocol.disclosure.grade import disclosure_for
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
from ceiba_protocol.trust.agreement import (
    DAY,
    OPERATIONS,
    Agreement,
    Party,
    State,
    check_covers,
    check_parties,
    check_terms,
    read_contract,
)
from ceiba_protocol.trust.documents import AbortToken, Approval, DatasetPin, Manifest, Offer, Submission
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.roster import (
    SUITE,
    Descriptor,
    Duties,
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
    agreement: Agreement
    program: Program
    layout: Layout
    """For the whole set."""

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
        return self.layout if len(pins) == len(self.holders) else _layout(self.program, pins, self.merchant)

    def pin_of(self, holder: str) -> DatasetPin:
        """Raises SetMismatch if the job is not for that holder."""
        for pin in self.manifest.datasets:
            if pin.holder == holder:
                return pin
        raise SetMismatch(problem=f"{holder} is not in it")


# --- 1. the merchant describes the job -------------------------------------------------------------------------


def make_manifest(
    *, job_id: str, number: int, agreement: Agreement, merchant: Descriptor, plan: Plan, schema: Schema,
    offers: Iterable[Offer], now: int, seconds: int,
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
    layout = _layout(compile_plan(plan, schema), datasets, merchant)
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
        not_before=now,
        not_after=now + seconds,
    )


def _layout(program: Program, datasets: Iterable[DatasetPin], merchant: Descriptor) -> Layout:
    assert merchant.encryption_key is not None
    return layout_of(program, (pin.row_capacity for pin in datasets), merchant.encryption_key.n.bit_length())


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
    if manifest.not_after - manifest.not_before > LONGEST_WINDOW:
        raise ManifestMismatch(problem="its window is longer than 30 days")
    _check_cites(manifest, agreement)
    check_parties(agreement, roster)
    if manifest.plan.schema_digest != agreement.schema_digest:
        raise ManifestMismatch(problem="it was made for another schema")
    if tuple(pin.holder for pin in manifest.datasets) != agreement.holder_names:
        raise SetMismatch(problem="it is not the agreement's whole set of holders")
    merchant = roster.member(manifest.merchant, Role.MERCHANT)
    if manifest.key_id != merchant_key_id(merchant):
        raise ManifestMismatch(problem="its encryption key is not the merchant's on the roster")
    check_covers(agreement, manifest.plan)
    program = compile_plan(manifest.plan, schema)
    layout = _layout(program, manifest.datasets, merchant)
    if manifest.layout_digest != layout.digest().hex():
        raise ManifestMismatch(problem="its layout is not the one that follows from its plan")
    return Question(manifest, manifest.digest(), merchant, roster, agreement, program, layout)


def _check_cites(manifest: Manifest, agreement: Agreement) -> None:
    if manifest.agreement_digest != agreement.digest():
        raise ManifestMismatch(problem="it was made under another agreement")
    if not agreement.not_before <= manifest.not_before < manifest.not_after <= agreement.not_after:
        raise ManifestMismatch(problem="its window is not within the agreement's time")
    check_purpose(manifest, agreement)
    if manifest.disclosure_digest != agreement.disclosure.digest():
        raise ManifestMismatch(problem="its disclosure rules are not the agreement's")
    if manifest.number > agreement.jobs:
        raise ManifestMismatch(problem=f"it is job {manifest.number}, and {agreement.jobs} are agreed")


def check_purpose(manifest: Manifest, agreement: Agreement) -> None:
    """The purpose is the agreement's, letter for letter: no look-alike passes. Raises ManifestMismatch."""
    if manifest.purpose != agreement.purpose:
        raise ManifestMismatch(problem="its purpose is not the agreement's")


def check_window(manifest: Manifest, now: int) -> None:
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
    log_size: int
    """The longest log that one of the holders has witnessed."""

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
    context = _context(question, attempt, mask_keys, layout)
    return Commitment(context, mask_keys, layout, max(approval.log_size for approval in opened.values()))


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


# --- 5. each holder contributes --------------------------------------------------------------------------------


def contribute(
    question: Question, commitment: Commitment, me: str, values: Sequence[int], mask_secret: bytes,
    encryptor: Encryptor, salt: bytes,
) -> tuple[Submission, bytes]:  # fmt: skip
    """Run by a holder once for each round: its submission and ciphertexts, to be stored before they are sent (I2).

    `values`: its clip counts, then its sums, cell by cell. `salt`: 32 random bytes that it keeps, for audits.
    Raises SetMismatch if the set has another mask key for this holder than its own.
    """
    if commitment.mask_keys.get(me) != x25519_public_key(mask_secret):
        raise SetMismatch(problem=f"its mask key for {me} is not {me}'s")
    bounds = share_bounds(question.program, question.pin_of(me).row_capacity)
    peers = {holder: key for holder, key in commitment.mask_keys.items() if holder != me}
    ciphertexts = holder_contribute(
        commitment.context, commitment.layout, values, bounds, me, mask_secret, peers, encryptor
    )
    return (
        Submission(
            job_id=question.manifest.job_id,
            attempt=commitment.context.attempt,
            holder=me,
            context_digest=Digest(commitment.context.digest().hex()),
            ciphertexts=commitment.layout.ciphertexts,
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            commitment=commit_to_values(values, salt),
        ),
        ciphertexts,
    )


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
    if submission.attempt != commitment.context.attempt:
        raise MalformedMessage(message="Submission", problem="it is for another attempt than its context")
    if submission.ciphertexts != commitment.layout.ciphertexts:
        raise MalformedMessage(message="Submission", problem="it has another number of ciphertexts than the layout")
    if submission.context_digest != commitment.context.digest().hex():
        raise TotalRejected(problem=f"{submission.holder} answered in another context")
    return submission


# --- 8. the merchant opens the total ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """The released totals: `sums` cell by cell, and how many values of each column were clipped at publishing."""

    sums: Sequence[int]
    clipped: Mapping[str, int]
    holders: Sequence[str]
    """Who answered."""


def open_result(
    question: Question,
    approvals: Sequence[Signed],
    submissions: Sequence[tuple[Signed, bytes]],
    total: bytes,
    private_key: phe.PaillierPrivateKey,
    aborts: Sequence[Signed] = (),
) -> Opened:
    """Run by the merchant. Nothing is decrypted before every signature, the set and the product have been checked.

    Raises the errors of `commit_to_set`, `check_submission` and `merchant_open`.
    """
    commitment = commit_to_set(question, approvals, aborts)
    contributions = {
        check_submission(signed, ciphertexts, question, commitment): ciphertexts for signed, ciphertexts in submissions
    }
    if sorted(contributions) != commitment.holders or len(submissions) != len(contributions):
        raise SetMismatch(problem="the submissions are not those of the set's holders, each once")
    values = merchant_open(total, contributions, commitment.layout, private_key)
    columns = question.program.clipped_columns
    return Opened(values[len(columns) :], dict(zip(columns, values, strict=False)), commitment.holders)


# --- the whole job ---------------------------------------------------------------------------------------------


def describe_member(
    name: str, role: Role, key: SigningKey, encryption: EncryptionKey | None = None, duties: Duties | None = None
) -> Descriptor:
    """A descriptor for examples and tests, where each member is its own organisation and there is no TLS."""
    fingerprint, sealing_key = (hashlib.sha256(f"{what} of {name}".encode()).hexdigest() for what in ("TLS", "seal"))
    return Descriptor(
        name=name, role=role, organisation=name, signing_key=key.public.hex(), tls_fingerprint=Digest(fingerprint),
        sealing_key=sealing_key, duties=duties, encryption_key=encryption,
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
    officers, publishers = ({name: SigningKey(random(32)) for name in sorted(rows_by_holder)} for _ in range(2))
    context = key_context("merchant", keys["merchant"].public, SUITE, "long-lived")
    modulus, proof = encode_modulus(public_key.n).hex(), prove_key(private_key, context).hex()
    merchant = describe_member("merchant", Role.MERCHANT, keys["merchant"], EncryptionKey(modulus=modulus, proof=proof))
    holders = {}
    for name in sorted(rows_by_holder):
        duties = Duties(officer=officers[name].public.hex(), publisher=publishers[name].public.hex())
        holders[name] = describe_member(name, Role.HOLDER, keys[name], duties=duties)

    # Everybody pins the same roster, after checking it.
    table = RosterTable(table=plan.table, schema_digest=schema.digest(), holders=tuple(holders))
    roster = Roster(
        space="example",
        version=1,
        authority_fingerprint=Digest("0" * 64),
        log_key="0" * 64,
        members=(merchant, *holders.values()),
        tables=(table,),
    )
    for member in roster.members:
        check_roster(roster, member)

    # The merchant proposes an agreement; every party checks it and signs the same bytes.
    agreement = Agreement(
        space="example",
        agreement_id=random(16).hex(),
        merchant=Party(name="merchant", descriptor_digest=merchant.digest()),
        holders=tuple(Party(name=name, descriptor_digest=one.digest()) for name, one in holders.items()),
        table=plan.table,
        schema_digest=schema.digest(),
        columns=tuple(sorted(schema.by_name)),
        operations=tuple(sorted(OPERATIONS)),
        purpose="example",
        disclosure=disclosure_for(schema.by_name, schema),
        tolerated=1,
        smallest_set=len(holders),
        jobs=1,
        approval="standing",
        not_before=now,
        not_after=now + DAY,
    )
    check_parties(agreement, roster)
    check_terms(agreement, schema)
    signatures = [sign(agreement, "merchant", keys["merchant"])]
    signatures += [sign(agreement, name, officers[name]) for name in holders]
    contract = read_contract(signatures, [], roster)
    assert contract.state(now) is State.ACTIVE

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
        job_id=random(16).hex(), number=1, agreement=agreement, merchant=merchant, plan=plan, schema=schema,
        offers=offers, now=now, seconds=60,
    )  # fmt: skip
    signed_manifest = sign(manifest, "merchant", keys["merchant"])

    # 2. Holders: each checks the manifest against its own roster and agreement, and approves with a fresh mask key.
    questions = {name: read_manifest(signed_manifest, agreement, roster, schema, now) for name in holders}
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
        encryptor = Encryptor.for_count(question.modulus, commitment.layout.ciphertexts, random)
        submission, ciphertexts = contribute(
            question, commitment, name, values, mask_secrets[name], encryptor, random(32)
        )
        submissions.append((sign(submission, name, keys[name]), ciphertexts))

    # 7. Coordinator: checks what it can and multiplies what it cannot read.
    question = read_manifest(signed_manifest, agreement, roster, schema, now)
    commitment = commit_to_set(question, approvals)
    contributions = {check_submission(signed, blob, question, commitment): blob for signed, blob in submissions}
    total = coordinator_multiply(contributions, commitment.layout, question.modulus)

    # 8. Merchant: checks everything again, decrypts the total, finishes the statistics.
    opened = open_result(question, approvals, submissions, total, private_key)
    return finish(question.program, opened.sums)
