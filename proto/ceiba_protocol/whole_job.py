"""A whole job without a network: every role's steps of `rounds`, in the order in which they happen.

The first page for a newcomer, and an oracle for tests.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import phe

from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.gate import exact_words, noisy_words
from ceiba_protocol.disclosure.grade import disclosure_for
from ceiba_protocol.disclosure.support import count_subjects
from ceiba_protocol.fit_rounds import FitRound, final_values, first_round, next_round, share_fit
from ceiba_protocol.plan import ROW_COUNT, Label, Plan, finish, fit_rows, grouped_sums
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import (
    Commitment,
    Question,
    approve,
    check_submission,
    commit_past_gate,
    commit_to_set,
    contribute,
    make_manifest,
    noise_for,
    open_gate,
    open_result,
    read_manifest,
    share_gate,
)
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Output
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.masks import Words
from ceiba_protocol.sums.paillier import Encryptor, encode_modulus
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import coordinator_multiply
from ceiba_protocol.trust.agreement import (
    DAY,
    OPERATIONS,
    Agreement,
    Party,
    State,
    check_parties,
    check_terms,
    read_contract,
)
from ceiba_protocol.trust.documents import DatasetPin, NoiseTerms, Offer
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
)
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class Example:
    """A space that has agreed: what everybody knows, and the keys, which in a real space nobody has together."""

    roster: Roster
    agreement: Agreement
    keys: Mapping[str, SigningKey]

    @property
    def merchant(self) -> Descriptor:
        return self.roster.member("merchant", Role.MERCHANT)


def describe_member(
    name: str, role: Role, key: SigningKey, encryption: EncryptionKey | None = None, duties: Duties | None = None
) -> Descriptor:
    """A descriptor for examples and tests, where each member is its own organisation and there is no TLS."""
    return Descriptor(
        name=name,
        role=role,
        organisation=name,
        signing_key=key.public.hex(),
        tls_fingerprint=Digest(hashlib.sha256(f"TLS of {name}".encode()).hexdigest()),
        sealing_key=x25519_public_key(sealing_secret(name)).hex(),
        duties=duties,
        encryption_key=encryption,
    )


def sealing_secret(name: str) -> bytes:
    """The private half of `describe_member`'s sealing key. For examples and tests: anybody can compute it."""
    return hashlib.sha256(f"seal of {name}".encode()).digest()


def make_example(
    schema: Schema, names: Sequence[str], private_key: phe.PaillierPrivateKey, random: Random, now: int
) -> Example:
    """A merchant and at least three holders, who pin a roster and sign an agreement on everything in the table."""
    # Everybody makes keys. The merchant proves that its encryption key is well formed.
    keys = {name: SigningKey(random(32)) for name in ("merchant", *names)}
    officers, publishers = ({name: SigningKey(random(32)) for name in names} for _ in range(2))
    context = key_context("merchant", keys["merchant"].public, SUITE, "long-lived")
    modulus = encode_modulus(private_key.public_key.n).hex()
    encryption = EncryptionKey(modulus=modulus, proof=prove_key(private_key, context).hex())
    merchant = describe_member("merchant", Role.MERCHANT, keys["merchant"], encryption)
    holders = {}
    for name in names:
        duties = Duties(officer=officers[name].public.hex(), publisher=publishers[name].public.hex())
        holders[name] = describe_member(name, Role.HOLDER, keys[name], duties=duties)

    # Everybody pins the same roster, after checking it.
    table = RosterTable(table=schema.table, schema_digest=schema.digest(), holders=tuple(holders))
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
        table=schema.table,
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
    return Example(roster, agreement, keys)


def run_job(
    plan: Plan,
    schema: Schema,
    rows_by_holder: Mapping[str, Sequence[Row]],
    keypair: tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey],
    random: Random,
    now: int,
    noise: NoiseTerms | None = None,
) -> list[tuple[Label | Output, ...]]:
    """A whole job without a network: who knows what, who sends what, who checks what. Returns the result's rows.

    `rows_by_holder`: each holder's snapshot as integers; with noise, each subject has one row. Left out here: what a
    holder knows of earlier answers, dominance, and budgets (`ceiba_node`).
    """
    names = sorted(rows_by_holder)
    space = make_example(schema, names, keypair[1], random, now)
    roster, agreement, keys = space.roster, space.agreement, space.keys

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
        job_id=random(16).hex(), number=1, agreement=agreement, merchant=space.merchant, plan=plan, schema=schema,
        offers=offers, now=now, seconds=60, noise=noise,
    )  # fmt: skip
    signed_manifest = sign(manifest, "merchant", keys["merchant"])

    # 2. Holders: each checks the manifest against its own roster and agreement, and approves with a fresh mask key.
    questions = {name: read_manifest(signed_manifest, agreement, roster, schema, now) for name in names}
    mask_secrets = {name: random(32) for name in names}
    approvals = [
        sign(approve(questions[name], name, pins[name], mask_secrets[name], random(16)), name, keys[name])
        for name in names
    ]

    # 3. Holders: each checks the whole set, computes on its rows, and adds its noise, the same for the same question.
    commitments = {name: commit_to_set(questions[name], approvals) for name in names}
    values = {name: grouped_sums(questions[name].program, rows) for name, rows in rows_by_holder.items()}
    noise_keys = {name: random(32) for name in names}
    for name in names if noise else ():
        added = noise_for(questions[name], commitments[name], noise_keys[name])
        values[name] = [value + extra for value, extra in zip(values[name], added, strict=True)]

    # 4. Holders: which cells may be released? Coordinator: passes the shares on. Holders: all decide alike.
    shares = []
    for name in names if commitments[names[0]].gate else ():
        words = example_words(questions[name], commitments[name], rows_by_holder[name], values[name], random)
        share, blob = share_gate(questions[name], commitments[name], name, words, mask_secrets[name], random)
        shares.append((sign(share, name, keys[name]), blob))
    papers = [signed for signed, _ in shares]

    # Holders of a fit: each sums at the state that all have derived; the masked sums of all give the next state.
    fits = {}
    if questions[names[0]].program.fit is not None:
        fits = _run_fit(space, questions, commitments, shares, rows_by_holder, mask_secrets, random)
        values = {name: final_values(fit) for name, fit in fits.items()}

    # 5.–6. Holders: each packs what may be released, masks, encrypts, signs.
    submissions = []
    for name in names:
        question, commitment, released = questions[name], commitments[name], None
        if shares:
            released = open_gate(question, commitment, shares, name, sealing_secret(name))
            commitment = commitment.after_gate(papers)
        header = [0] * len(question.program.clipped_columns)
        encryptor = Encryptor.for_count(question.modulus, commitment.layout.ciphertexts, random)
        submission, ciphertexts = contribute(
            question, commitment, name, header + values[name], mask_secrets[name], encryptor, random(32), released,
            fits[name].state.digest() if fits else "",
        )  # fmt: skip
        submissions.append((sign(submission, name, keys[name]), ciphertexts))

    # 7. Coordinator: checks what it can and multiplies what it cannot read.
    question = read_manifest(signed_manifest, agreement, roster, schema, now)
    commitment = commit_past_gate(question, approvals, [], papers)
    contributions = {check_submission(signed, blob, question, commitment): blob for signed, blob in submissions}
    total = coordinator_multiply(contributions, commitment.layout, question.modulus)

    # 8. Merchant: checks everything again, decrypts the total, finishes the statistics.
    opened = open_result(question, approvals, submissions, total, keypair[1], shares=papers)
    return finish(question.program, opened.sums, opened.sent, noisy=noise is not None)


def _run_fit(
    space: Example, questions: Mapping[str, Question], commitments: Mapping[str, Commitment],
    shares: Sequence[tuple[Signed, bytes]], rows_by_holder: Mapping[str, Sequence[Row]],
    mask_secrets: Mapping[str, bytes], random: Random,
) -> dict[str, FitRound]:  # fmt: skip
    """Every round of a fit: each holder's last one."""
    rounds = {}
    for name, question in questions.items():
        commitment, released = commitments[name], None
        if shares:
            released = open_gate(question, commitment, shares, name, sealing_secret(name))
            commitment = commitment.after_gate([signed for signed, _ in shares])
        rounds[name] = first_round(question, commitment, released)
    prepared = {
        name: one.fit.prepare(fit_rows(questions[name].program, rows_by_holder[name]), one.frame)
        for name, one in rounds.items()
    }
    while not all(one.state.is_final for one in rounds.values()):
        sent = []
        for name, one in rounds.items():
            sums = one.fit.measure(one.state, prepared[name], one.frame)
            share, blob = share_fit(one, name, sums, mask_secrets[name], random)
            sent.append((sign(share, name, space.keys[name]), blob))
        rounds = {name: next_round(one, sent, name, sealing_secret(name)) for name, one in rounds.items()}
    return rounds


def example_words(
    question: Question, commitment: Commitment, rows: Sequence[Row], values: Sequence[int], random: Random
) -> Words:
    """A holder's words for the gate, from plain rows: it has answered nothing before, and vetoes nothing."""
    gate = commitment.gate
    assert gate is not None
    if gate.noisy:
        return noisy_words(gate, values[ROW_COUNT :: len(question.program.sums)])
    subjects = count_subjects(question.program, question.tests, rows)
    far = np.full(subjects.shape, gate.threshold.cap, dtype=np.int64)
    return exact_words(gate, subjects, far, np.zeros(subjects.shape, dtype=np.bool_), random)
