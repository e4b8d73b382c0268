"""A simulated space with a scorecard: three agencies that hold one table each, a bank, and whoever attests consent.

Whatever a test needs wrong, it changes in one message, as with `members.World`.
"""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ceiba_node.engines.duckdb_engine import DuckDBEngine
from ceiba_node.house_rules import Policy
from ceiba_node.ledger import Ledger
from ceiba_node.publishing import publish
from ceiba_node.responding import House
from ceiba_node.scoring import Scoring
from ceiba_node.snapshots import SnapshotStore
from ceiba_node.witness import Witness
from ceiba_protocol.canonical import Digest
from ceiba_protocol.disclosure.grade import RULES, disclosure_for
from ceiba_protocol.linkage.consent import Subject, give_consent, new_subject, seal_subject
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import (
    PrivateWeights,
    ScoreModel,
    bins_at,
    encrypt_weights,
    terms_of,
    weights_digest,
)
from ceiba_protocol.linkage.scoring import (
    HolderModel,
    MaskKeys,
    ModelApproval,
    ModelRefusal,
    ScoreAnswer,
    ScoreRequest,
    _ready,
    absent,
    holder_score,
    request_context,
    score_context,
)
from ceiba_protocol.schema import Grade
from ceiba_protocol.sums.paillier import Encryptor, encode_ciphertexts, key_id
from ceiba_protocol.trust.agreement import DAY, SCORE, Agreement, ConsentIssuer, JointTerms, Mode, Party, Side
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.roster import Roster, RosterTable
from ceiba_protocol.trust.signing import document_digest
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2 import HolderAnswer, RequestTask, ScoreCall, SealedSubjects
from ceiba_protocol.whole_job import sealing_secret
from tests.support.fake_log import FakeLog
from tests.support.keys import keypair
from tests.support.members import LOG_KEY, MERCHANT, NOW, changed, holder, merchant, publisher, signed_by
from tests.support.scorecards import SCHEMAS, model
from tests.support.seeded import seeded

HOLDERS = ("insurance", "register", "tax")
BITS = 1024
ISSUER, ISSUER_KEY = "chamber of commerce", SigningKey(seeded("the issuer")(32))
COARSE = ((-1, 0, 1, 2, 1, -1), (1, -2, 0), (0, 1, 2, 0), (-2, 2, 1, -1))
"""Points for the bins of POINTS, coarse enough for a private score of so few."""
COARSE_BITS = 4
FIRMS = 48
STORAGE_KEY = seeded("storage key")(32)


def sales_of(firm: int) -> int | None:
    """At the tax office: 12 firms in each of its bins."""
    return (None, 20_000, 1_000, 50)[firm % 4]


class ScoreWorld:
    """Attributes that a test sets before it asks for messages are used by them."""

    def __init__(self, **agreed: Any) -> None:
        self.schema, self.job_id = SCHEMAS["tax.firms"], "0b" * 16  # which an `Office` asks for
        self.public_key, self.private_key = keypair(BITS)
        self.n = int(self.public_key.n)
        self.merchant = merchant(bits=BITS)
        tables = tuple(
            RosterTable(table=f"{name}.firms", schema_digest=SCHEMAS[f"{name}.firms"].digest(), holders=(name,))
            for name in HOLDERS
        )
        self.roster = Roster(
            space="test-space",
            version=1,
            authority_fingerprint=Digest("0" * 64),
            log_key=LOG_KEY.public.hex(),
            members=(self.merchant, merchant("bank-b", BITS), *map(holder, HOLDERS)),
            tables=tables,
        )
        self.agreement = self.make_agreement(**agreed)
        self.weights = encrypt_weights(COARSE, COARSE_BITS, Encryptor.for_count(self.n, 17, os.urandom))
        self.model = self.make_model()
        self.mask_secrets = {name: seeded(f"mask of {name}")(32) for name in HOLDERS}
        self.obfuscators = FullObfuscators(self.n, os.urandom)

    def make_agreement(self, **changes: Any) -> Agreement:
        """For scores alone; `changes` are not checked."""
        parties = {one.name: Party(name=one.name, descriptor_digest=one.digest()) for one in self.roster.members}
        sides = [
            Side(
                holder=name,
                table=f"{name}.firms",
                schema_digest=SCHEMAS[f"{name}.firms"].digest(),
                columns=tuple(sorted(SCHEMAS[f"{name}.firms"].by_name)),
            )
            for name in HOLDERS
        ]
        rules = disclosure_for(sides[2].columns, SCHEMAS["tax.firms"])
        assert rules == RULES[Grade.SENSITIVE]
        made = Agreement(
            space="test-space",
            agreement_id="0a" * 16,
            merchant=parties[MERCHANT],
            holders=tuple(parties[name] for name in HOLDERS),
            table=sides[2].table,
            schema_digest=sides[2].schema_digest,
            columns=sides[2].columns,
            joint=JointTerms(
                others=tuple(sides[:2]),
                identifiers=("uscc",) * len(sides),
                modes=(Mode.HIDDEN,),
                smallest_intersection=20,
                base_is_trusted=False,
                bases=HOLDERS,
                consent_issuers=(ConsentIssuer(name=ISSUER, key=ISSUER_KEY.public.hex()),),
                scores_per_day=3,
            ),
            operations=(SCORE,),
            purpose="credit decision",
            disclosure=rules,
            tolerated=1,
            smallest_set=len(HOLDERS),
            jobs=100,
            approval="standing",
            not_before=NOW - DAY,
            not_after=NOW + 300 * DAY,
        )
        return changed(made, **changes)

    def evidence(self, *notices: Signed) -> AgreementEvidence:
        signatures = [signed_by(party.name, self.agreement) for party in self.agreement.parties]
        return AgreementEvidence(signatures=signatures, notices=notices)

    # --- the model

    def make_model(self, **changes: Any) -> ScoreModel:
        made = model(
            BITS,
            merchant=MERCHANT,
            agreement_digest=self.agreement.digest(),
            weights=PrivateWeights(blob_digest=weights_digest(self.weights)),
            bits=COARSE_BITS,
            key_id=key_id(self.n).hex(),
            valid_until=NOW + 30 * DAY,
        )
        return changed(made, **changes)

    def signed_model(self, **changes: Any) -> Signed:
        return signed_by(MERCHANT, changed(self.model, **changes))

    def approval(self, name: str, **changes: Any) -> Signed:
        mask_key = x25519_public_key(self.mask_secrets[name]).hex()
        made = ModelApproval(model_digest=self.model.digest(), holder=name, mask_key=mask_key)
        return signed_by(name, changed(made, **changes))

    def refusal(self, name: str) -> Signed:
        fields = {"feature": "kind", "least": "5", "holder": name}
        made = ModelRefusal(model_digest=self.model.digest(), holder=name, code="bin_too_small", fields=fields)
        return signed_by(name, made)

    def approvals(self, **replaced: Signed) -> list[Signed]:
        return [replaced.get(name) or self.approval(name) for name in HOLDERS]

    # --- a request

    def consent(self, identifier: str, now: int = NOW, **terms: Any) -> tuple[Signed, Subject]:
        subject = new_subject(identifier, os.urandom)
        wanted = type(terms_of(self.model))(**{**vars(terms_of(self.model)), **terms})
        return give_consent(subject, wanted, (ISSUER, ISSUER_KEY), now, 3600, os.urandom), subject

    def call(self, *consented: tuple[Signed, Subject], **changes: Any) -> ScoreCall:
        digests = tuple(document_digest(consent) for consent, _ in consented)
        request = ScoreRequest(request_id=os.urandom(16).hex(), model_digest=self.model.digest(), consents=digests)
        request = changed(request, **changes)
        sealed = [
            SealedSubjects(
                holder=name,
                sealed=[
                    seal_subject(subject, digest, name, x25519_public_key(sealing_secret(name)))
                    for (_, subject), digest in zip(consented, digests, strict=True)
                ],
            )
            for name in HOLDERS
        ]
        return ScoreCall(
            request=signed_by(MERCHANT, request), consents=[consent for consent, _ in consented], subjects=sealed
        )

    def task(self, call: ScoreCall, name: str, approvals: Sequence[Signed]) -> RequestTask:
        """What the coordinator makes of a call for one holder."""
        sealed = {one.holder: one.sealed for one in call.subjects}
        return RequestTask(request=call.request, approvals=approvals, consents=call.consents, sealed=sealed[name])

    def ready(self, name: str, mask_keys: Mapping[str, bytes]) -> HolderModel:
        bins = bins_at(self.model, name, SCHEMAS[f"{name}.firms"])
        peers = {peer: key for peer, key in mask_keys.items() if peer != name}
        return _ready(self.model, self.weights, name, bins, MaskKeys(self.mask_secrets[name], peers), self.n)

    def mask_keys(self, approvals: Sequence[Signed]) -> dict[str, bytes]:
        return {one.signer: bytes.fromhex(ModelApproval.parse(one.body).mask_key) for one in approvals}

    def answer(self, name: str, call: ScoreCall, approvals: Sequence[Signed], **changes: Any) -> HolderAnswer:
        """A simulated holder's, which knows nobody and checks nothing."""
        request, keys = ScoreRequest.parse(call.request.body), self.mask_keys(approvals)
        ready, context = self.ready(name, keys), request_context(self.model, request, keys)
        parts = [
            holder_score(ready, absent(ready), score_context(context, one), self.obfuscators, os.urandom)
            for one in request.consents
        ]
        ciphertexts = encode_ciphertexts(parts, self.n)
        made = ScoreAnswer(
            request_id=request.request_id,
            model_digest=request.model_digest,
            holder=name,
            context_digest=Digest(context.hex()),
            refusals=(),
            ciphertext_digest=Digest(hashlib.sha256(ciphertexts).hexdigest()),
            reasons=(),
        )
        return HolderAnswer(answer=signed_by(name, changed(made, **changes)), ciphertexts=ciphertexts)


class Models:
    """Where the node finds weights and approvals."""

    def __init__(self, world: ScoreWorld) -> None:
        self.world = world
        self.approved: list[Signed] = []

    def weights(self, _digest: str) -> bytes:
        return self.world.weights

    def approvals(self, _digest: str) -> list[Signed]:
        return self.approved


class ScoreNode:
    """The tax office, a real node in a folder without a network; `restart` forgets all but the folder."""

    name = "tax"

    def __init__(self, folder: Path, world: ScoreWorld | None = None, policy: Policy | None = None) -> None:
        self.folder, self.world, self.now = folder, world or ScoreWorld(), NOW
        self.policy = policy or Policy()
        self.log, self.models = FakeLog("test-space"), Models(self.world)
        self.snapshots = SnapshotStore(folder / "snapshots", holder=self.name)
        self.publish({f"firm {firm}": sales_of(firm) for firm in range(FIRMS)})
        self.start()

    def publish(self, sales: Mapping[str, int | None], at: int = NOW) -> None:
        path = self.folder / "firms.csv"
        with path.open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["uscc", "sales"])
            writer.writerows((firm, "" if value is None else value) for firm, value in sales.items())
        when = datetime.fromtimestamp(at, UTC)
        key = publisher(self.name)
        publish(self.snapshots, path, SCHEMAS["tax.firms"], now=when, version_key=STORAGE_KEY, publisher=key)

    def start(self) -> None:
        identity = Identity(
            space="test-space",
            descriptor=holder(self.name),
            coordinator="127.0.0.1:1",
            signing_seed=seeded(f"signing key of {self.name}")(32).hex(),
            sealing_seed=sealing_secret(self.name).hex(),
            storage_key=STORAGE_KEY.hex(),
            tls_key="",
            certificate="",
            authority="",
            encryption=None,
        )
        self.ledger = Ledger(self.folder / "ledger.sqlite3", STORAGE_KEY)
        engine = DuckDBEngine(holder=self.name, memory_limit="300MB", threads=1, temp_directory=self.folder / "spill")
        witness = Witness(identity, self.world.roster, self.ledger, lambda: self.now)
        witness.connect(self.log)
        self.house = House(
            identity,
            self.world.roster,
            self.snapshots,
            engine,
            self.ledger,
            lambda: self.policy,
            lambda: self.now,
            os.urandom,
            witness,
        )
        self.scoring = Scoring(self.house, stock=0)
        self.scoring.connect(self.models)
        self.learn()

    def learn(self, *notices: Signed) -> None:
        """The coordinator tells of the agreement."""
        evidence = self.world.evidence(*notices)
        self.ledger.merge_agreement(self.world.agreement.digest(), evidence.signatures, evidence.notices)

    def restart(self) -> None:
        self.scoring.close()
        self.house.engine.close()
        self.ledger.close()
        self.start()

    # --- tasks

    def approve(self, signed: Signed | None = None) -> Signed | None:
        return self.scoring.consider(signed or self.world.signed_model())

    def approvals(self) -> list[Signed]:
        """All holders', this one's as the node gave it."""
        own = self.approve()
        assert own is not None
        return self.world.approvals(tax=own)

    def answer(self, call: ScoreCall) -> tuple[ScoreAnswer, bytes]:
        signed, ciphertexts = self.scoring.answer(self.world.task(call, self.name, self.approvals()))
        return self.world.roster.open_any(signed, ScoreAnswer), ciphertexts

    def refusal(self, call: ScoreCall) -> str | None:
        """The code with which the first consent is refused; None if it is answered."""
        answer, _ = self.answer(call)
        return answer.refusals[0].code if answer.refusals else None
