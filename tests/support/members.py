"""A small simulated space: three holders and a merchant with real keys, and every message of one job.

Whatever a test needs wrong, it changes in one message: `World().approval("cleveland", attempt=1)`.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import pandas

from ceiba.sql import parse
from ceiba_protocol.canonical import Digest, digest
from ceiba_protocol.disclosure.gate import Released
from ceiba_protocol.disclosure.grade import disclosure_for
from ceiba_protocol.plan import Plan, grouped_sums
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import (
    Commitment,
    Opened,
    Question,
    abort,
    approve,
    commit_to_set,
    contribute,
    make_manifest,
    noise_for,
    open_gate,
    open_result,
    read_manifest,
    share_gate,
)
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.masks import Words
from ceiba_protocol.sums.paillier import Encryptor, encode_modulus
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.sums.secure_sum import coordinator_multiply
from ceiba_protocol.trust.agreement import DAY, OPERATIONS, Agreement, Contract, Notice, Party, Word, read_contract
from ceiba_protocol.trust.documents import DatasetPin, Manifest, NoiseTerms, Offer, Refusal, Submission
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.log import Checkpoint, Release, entry_of
from ceiba_protocol.trust.merkle import inclusion_proof, leaf_hash, root_of
from ceiba_protocol.trust.roster import (
    OPERATOR,
    SIGNED_BY_OFFICER,
    SIGNED_BY_PUBLISHER,
    SUITE,
    Descriptor,
    Duties,
    EncryptionKey,
    Role,
    Roster,
    RosterTable,
)
from ceiba_protocol.trust.signing import D, sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.log_pb2 import ReceiptParts
from ceiba_protocol.whole_job import describe_member, example_words, sealing_secret
from tests.support.keys import keypair
from tests.support.seeded import seeded

NOW = 1_800_000_000
HOLDERS = ("cleveland", "hungary", "zurich")
MERCHANT = "bank-a"
FAST_BITS = 1024
"""Refused by `check_roster`, and good enough for every other rule."""

SCHEMA = Schema.from_plain(
    {
        "table": "health.heart",
        "columns": [
            {"name": "sex", "type": "category", "domain": ["female", "male"], "nullable": False, "grade": "public"},
            {"name": "age", "type": "int", "minimum": 0, "maximum": 120, "grade": "public"},
            {
                "name": "chol",
                "type": "decimal",
                "resolution": 0.1,
                "minimum": -20,
                "maximum": 60,
                "out_of_bounds": "clip",
                "grade": "public",
            },
        ],
    }
)
"""Of grade public: whoever tests what is sent, and not what may be released, has all of it released."""


def graded(grade: str, **changes: Any) -> Schema:
    """The same schema with every column of another grade."""
    columns = tuple(column.model_copy(update={"grade": Grade(grade)}) for column in SCHEMA.columns)
    return SCHEMA.model_copy(update={"columns": columns, **changes})


QUESTION = "SELECT sex, COUNT(*) AS n, SUM(age) AS years, AVG(chol) AS chol FROM health.heart GROUP BY sex"

ROWS: Mapping[str, Sequence[Row]] = {
    "cleveland": [
        {"sex": 0, "age": 41, "chol": -7},
        {"sex": 1, "age": 60, "chol": 511},
        {"sex": 1, "age": 3, "chol": 0},
    ],
    "hungary": [{"sex": 0, "age": 120, "chol": 600}, {"sex": 0, "age": None, "chol": None}],
    "zurich": [{"sex": 1, "age": 77, "chol": -200}],
}
"""Snapshots as integers; no two holders have the same sums, so that a wrong set shows."""


def plan_of(sql: str = QUESTION, schema: Schema = SCHEMA) -> Plan:
    return parse(sql, lambda _: schema)[0]


@cache
def signing_key(name: str) -> SigningKey:
    return SigningKey(seeded(f"signing key of {name}")(32))


@cache
def encryption_key(name: str, bits: int) -> EncryptionKey:
    public, private = keypair(bits)
    proof = prove_key(private, key_context(name, signing_key(name).public, SUITE, "long-lived"))
    return EncryptionKey(modulus=encode_modulus(public.n).hex(), proof=proof.hex())


def officer(name: str) -> SigningKey:
    return signing_key(f"the officer of {name}")


def publisher(name: str) -> SigningKey:
    return signing_key(f"the publisher of {name}")


LOG_KEY = SigningKey(seeded("the log's key")(32))


def duties(name: str) -> Duties:
    return Duties(officer=officer(name).public.hex(), publisher=publisher(name).public.hex())


def holder(name: str, **changes: Any) -> Descriptor:
    return changed(describe_member(name, Role.HOLDER, signing_key(name), duties=duties(name)), **changes)


def merchant(name: str = MERCHANT, bits: int = FAST_BITS, **changes: Any) -> Descriptor:
    return changed(describe_member(name, Role.MERCHANT, signing_key(name), encryption_key(name, bits)), **changes)


def signed_by(name: str, document: Any) -> Signed:
    """Signed with the key that has the duty; a merchant has but one."""
    kind = type(document).__name__
    if name == OPERATOR:
        return sign(document, name, LOG_KEY)
    if name in (MERCHANT, "bank-b"):
        return sign(document, name, signing_key(name))
    key = officer if kind in SIGNED_BY_OFFICER else publisher if kind in SIGNED_BY_PUBLISHER else signing_key
    return sign(document, name, key(name))


def changed(document: D, **changes: Any) -> D:
    """The document with other fields and nothing checked or remembered; `model_copy` would keep its cached digest."""
    return type(document).model_construct(**(dict(document) | changes))


def resigned(signed: Signed, kind: type[Any], **changes: Any) -> Signed:
    """The document with changes, signed by the same member: what a lying member can send."""
    return signed_by(signed.signer, changed(kind.parse(signed.body), **changes))


def altered(signed: Signed, old: bytes, new: bytes) -> Signed:
    """The same signature over other bytes: what somebody on the way can send."""
    assert old in signed.body
    return Signed(
        type=signed.type, body=signed.body.replace(old, new), signer=signed.signer, signature=signed.signature
    )


class World:
    """One job among simulated members. Attributes that a test sets before it asks for messages are used by them."""

    def __init__(
        self,
        rows: Mapping[str, Sequence[Row]] = ROWS,
        plan: Plan | None = None,
        bits: int = FAST_BITS,
        random: Random = os.urandom,
        schema: Schema = SCHEMA,
    ) -> None:
        self.rows = rows
        self.holders = sorted(rows)
        self.public_key, self.private_key = keypair(bits)
        self.merchant = merchant(bits=bits)
        self.schema = schema
        self.plan = plan or plan_of(schema=schema)
        self.noise: NoiseTerms | None = None
        self.job_id = "0b" * 16
        self.number = 1
        self.roster = self.make_roster()
        self.agreement = self.make_agreement()
        self.pins = {
            name: DatasetPin(
                holder=name, version=digest("version", name.encode()), row_capacity=capacity(len(rows[name]))
            )
            for name in self.holders
        }
        self.random = random
        self.mask_secrets = {name: random(32) for name in self.holders}
        self.noise_keys = {name: seeded(f"noise key of {name}")(32) for name in self.holders}
        self.shown: dict[str, Sequence[tuple[Signed, bytes]]] = {}
        """By holder: other shares of the gate than everybody's honest ones, as the coordinator hands them on."""

    def make_roster(self, members: Iterable[Descriptor] | None = None, **changes: Any) -> Roster:
        others = (
            (merchant("bank-b", self.merchant.encryption_key.n.bit_length()),) if self.merchant.encryption_key else ()
        )
        table = RosterTable(table="health.heart", schema_digest=self.schema.digest(), holders=tuple(self.holders))
        fields: dict[str, Any] = {
            "space": "test-space",
            "version": 1,
            "authority_fingerprint": Digest("0" * 64),
            "log_key": LOG_KEY.public.hex(),
            "members": tuple(members or (self.merchant, *others, *map(holder, self.holders))),
            "tables": (table,),
        }
        return Roster(**(fields | changes))

    # --- the agreement

    def make_agreement(
        self, holders: Iterable[str] | None = None, merchant: str = MERCHANT, **changes: Any
    ) -> Agreement:
        """Everything in the table, with the whole set, for this merchant; `changes` are not checked."""
        names = sorted(holders or self.holders)
        made = Agreement(
            space="test-space",
            agreement_id="0a" * 16,
            merchant=self.party(merchant),
            holders=tuple(map(self.party, names)),
            table=self.schema.table,
            schema_digest=self.schema.digest(),
            columns=tuple(sorted(self.schema.by_name)),
            operations=tuple(sorted(OPERATIONS)),
            purpose="research",
            disclosure=disclosure_for(self.schema.by_name, self.schema),
            tolerated=1,
            smallest_set=len(names),
            jobs=100,
            approval="standing",
            not_before=NOW - DAY,
            not_after=NOW + 300 * DAY,
        )
        return changed(made, **changes)

    def party(self, name: str) -> Party:
        return Party(name=name, descriptor_digest=self.roster.by_name[name].digest())

    def contract(self, agreement: Agreement | None = None, notices: Iterable[Signed] = ()) -> Contract:
        """Signed by every party."""
        wanted = agreement or self.agreement
        return read_contract(self.signatures(wanted), notices, self.roster)

    def signatures(self, agreement: Agreement | None = None) -> list[Signed]:
        wanted = agreement or self.agreement
        return [signed_by(party.name, wanted) for party in wanted.parties]

    def notice(self, member: str, word: Word, number: int = 1, **changes: Any) -> Signed:
        digest = self.agreement.digest()
        made = Notice(agreement_digest=digest, member=member, number=number, word=word, reason="a test", at=NOW)
        return signed_by(member, changed(made, **changes))

    def offers(self) -> list[Offer]:
        return [
            Offer(table="health.heart", schema_digest=self.schema.digest(), published_at=NOW, **pin.model_dump())
            for pin in self.pins.values()
        ]

    # --- 1. manifest

    def manifest(self, **changes: Any) -> Manifest:
        made = make_manifest(
            job_id=self.job_id,
            number=self.number,
            agreement=self.agreement,
            merchant=self.merchant,
            plan=self.plan,
            schema=self.schema,
            offers=self.offers(),
            now=NOW,
            seconds=60,
            noise=self.noise,
        )
        return changed(made, **changes)

    def signed_manifest(self, **changes: Any) -> Signed:
        return signed_by(MERCHANT, self.manifest(**changes))

    def read(self, signed: Signed | None = None, now: int = NOW, **others: Any) -> Question:
        known: dict[str, Any] = {"agreement": self.agreement, "roster": self.roster, "schema": self.schema} | others
        return read_manifest(
            signed or self.signed_manifest(), known["agreement"], known["roster"], known["schema"], now
        )

    # --- 2. approvals

    def approval(self, name: str, question: Question | None = None, **changes: Any) -> Signed:
        nonce = seeded(f"nonce of {name}")(16)
        made = approve(question or self.read(), name, self.pins[name], self.mask_secrets[name], nonce)
        return signed_by(name, changed(made, **changes))

    def abort(self, name: str, question: Question | None = None, **changes: Any) -> Signed:
        return signed_by(name, changed(abort(question or self.read(), name), **changes))

    def approvals(self, question: Question | None = None, **replaced: Signed) -> list[Signed]:
        return [replaced.get(name) or self.approval(name, question) for name in self.holders]

    def refusal(self, name: str, **changes: Any) -> Signed:
        made = Refusal(
            job_id=self.job_id,
            manifest_digest=self.manifest().digest(),
            holder=name,
            code="dataset_missing",
            fields={"holders": name, "table": "health.heart"},
        )
        return signed_by(name, changed(made, **changes))

    # --- 4. the gate

    def words(self, name: str, question: Question, commitment: Commitment) -> Words:
        """What the holder sends to the gate, not masked yet. A test that wants other words replaces this method."""
        return example_words(
            question, commitment, self.rows[name], self.figures(name, question, commitment), self.random
        )

    def figures(self, name: str, question: Question, commitment: Commitment) -> list[int]:
        """The holder's sums, with its noise if the job has any."""
        sums = grouped_sums(question.program, self.rows[name])
        if question.manifest.noise is None:
            return sums
        added = noise_for(question, commitment, self.noise_keys[name])
        return [one + extra for one, extra in zip(sums, added, strict=True)]

    def share(self, name: str, question: Question, commitment: Commitment) -> tuple[Signed, bytes]:
        """The holder's share of the gate; once for each context."""
        words = self.words(name, question, commitment)
        share, blob = share_gate(question, commitment, name, words, self.mask_secrets[name], self.random)
        return signed_by(name, share), blob

    @cached_property
    def _shares(self) -> dict[bytes, list[tuple[Signed, bytes]]]:
        """By the gate's context."""
        return {}

    def shares_in(self, question: Question, commitment: Commitment) -> list[tuple[Signed, bytes]]:
        """Everybody's honest share in that set, the same whenever it is asked for; none without a gate."""
        if commitment.gate is None:
            return []
        context = commitment.gate_context.digest()
        if context not in self._shares:
            self._shares[context] = [self.share(name, question, commitment) for name in commitment.holders]
        return self._shares[context]

    def first_set(self) -> tuple[Question, Commitment]:
        """The job's question and its whole set."""
        question = self.read()
        return question, commit_to_set(question, self.approvals(question))

    @property
    def shares(self) -> list[tuple[Signed, bytes]]:
        """Everybody's honest share in the whole set."""
        return self.shares_in(*self.first_set())

    @property
    def share_documents(self) -> list[Signed]:
        return [signed for signed, _ in self.shares]

    def shares_for(self, name: str, question: Question, commitment: Commitment) -> Sequence[tuple[Signed, bytes]]:
        """What the holder is shown."""
        return self.shown.get(name) or self.shares_in(question, commitment)

    def released(self, name: str, question: Question, commitment: Commitment) -> Released | None:
        """What the holder makes of the shares that it is shown; None without a gate."""
        shares = self.shares_for(name, question, commitment)
        return open_gate(question, commitment, shares, name, sealing_secret(name)) if shares else None

    # --- 5.-6. contributions

    def contribute(self, name: str, question: Question, commitment: Commitment) -> tuple[Signed, bytes]:
        """What the holder answers in that context; once for each, because a mask seed serves once."""
        encryptor = Encryptor.for_count(question.modulus, 1, self.random)
        header, secret = [0] * len(question.program.clipped_columns), self.mask_secrets[name]
        values = header + self.figures(name, question, commitment)
        released = self.released(name, question, commitment)
        if released is not None:
            commitment = commitment.after_gate([signed for signed, _ in self.shares_for(name, question, commitment)])
        submission, ciphertexts = contribute(question, commitment, name, values, secret, encryptor, bytes(32), released)
        return signed_by(name, submission), ciphertexts

    @cached_property
    def submissions(self) -> list[tuple[Signed, bytes]]:
        """Everybody's honest answer."""
        question, commitment = self.first_set()
        return [self.contribute(name, question, commitment) for name in self.holders]

    def submission(self, name: str, **changes: Any) -> tuple[Signed, bytes]:
        """One honest answer, or with fields changed by the holder itself."""
        signed, ciphertexts = self.submissions[self.holders.index(name)]
        return resigned(signed, Submission, **changes), ciphertexts

    # --- 7. and 8.

    def total(self, submissions: Iterable[tuple[Signed, bytes]]) -> bytes:
        question = self.read()
        contributions = {Submission.parse(signed.body).holder: blob for signed, blob in submissions}
        layout = question.layout_for(sorted(contributions))
        return coordinator_multiply(contributions, layout, question.modulus)

    def open(
        self, submissions: Sequence[tuple[Signed, bytes]], total: bytes | None = None, approvals: Sequence[Signed] = ()
    ) -> Opened:
        product = self.total(submissions) if total is None else total
        return open_result(
            self.read(), approvals or self.approvals(), submissions, product, self.private_key,
            shares=self.share_documents,
        )  # fmt: skip

    def truth(self) -> list[int]:
        """The sums of the pooled rows."""
        return grouped_sums(self.read().program, [row for rows in self.rows.values() for row in rows])

    # --- the log and the receipt

    def receipt_parts(self, left: Iterable[str] = ()) -> ReceiptParts:
        """What the coordinator sends when the job is done, all in one log; those in `left` gave a token first."""
        question, gone = self.read(), sorted(left)
        approvals = [
            self.approval(name, question, attempt=1 if gone else 0) for name in self.holders if name not in gone
        ]
        aborts = [self.abort(name, question) for name in gone]
        commitment = commit_to_set(question, approvals, aborts)
        shares = [signed for signed, _ in self.shares_in(question, commitment)]
        answers = [self.contribute(name, question, commitment) for name in commitment.holders]
        release = self.release(attempt=commitment.context.attempt, total_digest=digest_of_bytes(self.total(answers)))
        parts = ReceiptParts(
            agreement=self.signatures(),
            manifest=self.signed_manifest(),
            approvals=approvals,
            aborts=aborts,
            shares=shares,
            submissions=[submission for submission, _ in answers],
            release=release,
            schema=self.schema.body(),
        )
        before = [*parts.agreement, parts.manifest, *approvals, *aborts, *parts.shares, *parts.submissions]
        later = [self.refusal(name) for name in self.holders]
        return self.proved(parts, self.log_of([*before, release, *later]), len(before))

    def log_of(self, documents: Iterable[Signed]) -> list[bytes]:
        """The entries of a log of these documents, one a second."""
        return [entry_of(signed, NOW + at).body() for at, signed in enumerate(documents)]

    def proved(self, parts: ReceiptParts, log: Sequence[bytes], index: int) -> ReceiptParts:
        """The parts with that entry of that log, proved and cosigned by every holder."""
        leaves = [leaf_hash(entry) for entry in log]
        checkpoint = self.checkpoint(log)
        made = ReceiptParts()
        made.CopyFrom(parts)
        made.entry, made.index, made.inclusion[:] = log[index], index, inclusion_proof(leaves, index, len(log))
        made.checkpoint.checkpoint.CopyFrom(signed_by(OPERATOR, checkpoint))
        del made.checkpoint.cosignatures[:]
        made.checkpoint.cosignatures.extend(signed_by(name, checkpoint) for name in self.holders)
        return made

    def release(self, **changes: Any) -> Signed:
        manifest = self.manifest()
        made = Release(
            job_id=manifest.job_id,
            manifest_digest=manifest.digest(),
            agreement_digest=manifest.agreement_digest,
            attempt=0,
            total_digest=digest("a total"),
            at=NOW + 30,
        )
        return signed_by(OPERATOR, changed(made, **changes))

    def checkpoint(self, log: Sequence[bytes], **changes: Any) -> Checkpoint:
        root = Digest(root_of([leaf_hash(entry) for entry in log], len(log)).hex())
        return changed(Checkpoint(space="test-space", size=len(log), root=root, at=NOW + 31), **changes)


def digest_of_bytes(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def capacity(rows: int) -> int:
    return 1 << max(0, rows - 1).bit_length()


def frames() -> dict[str, dict[str, pandas.DataFrame]]:
    """The rows as a Sandbox takes them: tables of each holder, values as people write them."""
    made = {}
    for name, rows in ROWS.items():
        frame = pandas.DataFrame([{**row, "sex": ["female", "male"][row["sex"] or 0]} for row in rows])
        frame["chol"] = (frame["chol"] / 10).round(1)
        made[name] = {SCHEMA.table: frame}
    return made
