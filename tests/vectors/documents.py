"""One document of each type with its canonical bytes and digest: `rebuild` writes them as documents.json."""

from ceiba_protocol.canonical import Document, digest
from ceiba_protocol.expression import ColumnValue, Comparing, Number
from ceiba_protocol.plan import ByColumn, Named, Plan
from ceiba_protocol.program import Comparison
from ceiba_protocol.rounds import abort
from ceiba_protocol.statistics import STATISTICS
from ceiba_protocol.trust.agreement import Notice, Word
from ceiba_protocol.trust.documents import Approval, DatasetPin, GateShare, NoiseTerms, Offer, Refusal, Submission
from ceiba_protocol.trust.identity import JoinToken
from ceiba_protocol.trust.keys import x25519_public_key
from ceiba_protocol.trust.log import Checkpoint, Release, entry_of
from ceiba_protocol.trust.roster import Role, approval_of
from ceiba_protocol.trust.signing import pre_authentication_encoding, type_of
from tests.support.members import NOW, SCHEMA, World, signed_by


def sample_plan() -> Plan:
    age = ColumnValue(name="age")
    return Plan(
        table="health.heart",
        schema_digest=SCHEMA.digest(),
        filter=Comparing(comparison=Comparison.GREATER, left=age, right=Number(value="49.5")),
        groups=(ByColumn(name="sex", column="sex"),),
        outputs=(
            Named(name="n", statistic=STATISTICS["count"](statistic="count")),
            Named(name="mean_age", statistic=STATISTICS["mean"](statistic="mean", value=age)),
        ),
    )


def samples() -> list[Document]:
    """Every type of document that is signed, sent or pinned."""
    world = World(plan=sample_plan())
    manifest = world.manifest()
    version = digest("version", b"cleveland")
    names = {"job_id": manifest.job_id, "holder": "cleveland"}
    return [
        SCHEMA,
        sample_plan(),
        world.roster,
        world.merchant,
        JoinToken(
            space="test-space",
            name="cleveland",
            role=Role.HOLDER,
            organisation="Köln Clinic 東",
            secret="01" * 16,
            coordinator="coordinator.example:7443",
            enrolment="coordinator.example:7444",
            authority="-----BEGIN CERTIFICATE-----\n",
        ),
        Offer(
            table="health.heart",
            schema_digest=SCHEMA.digest(),
            holder="cleveland",
            version=version,
            row_capacity=2**40,
            published_at=NOW,
        ),
        DatasetPin(holder="cleveland", version=version, row_capacity=1),
        NoiseTerms(rho=5_000, cells_per_subject=3),
        manifest,
        Approval(
            **names,
            manifest_digest=manifest.digest(),
            attempt=0,
            dataset_version=version,
            mask_key=x25519_public_key(bytes(range(32))).hex(),
            nonce="0d" * 16,
            log_size=7,
        ),
        abort(world.read(), "cleveland"),
        world.agreement,
        Notice(
            agreement_digest=world.agreement.digest(),
            member="cleveland",
            number=1,
            word=Word.SUSPEND,
            reason="The ethics board meets",
            at=NOW,
        ),
        approval_of(world.roster, "cleveland"),
        Checkpoint(space="test-space", size=2, root=digest("root"), at=NOW),
        Release(
            job_id=manifest.job_id,
            manifest_digest=manifest.digest(),
            agreement_digest=manifest.agreement_digest,
            attempt=0,
            total_digest=digest("total"),
            at=NOW,
        ),
        entry_of(signed_by("cleveland", manifest), NOW),
        Refusal(**names, manifest_digest=manifest.digest(), code="no_domain", fields={"column": "Größe", "a": ""}),
        GateShare(
            **names,
            attempt=0,
            context_digest=digest("context of the gate"),
            words=10_000_000,
            words_digest=digest("words"),
            sealed_keys={"cleveland": "0e" * 80, "zurich": "0f" * 80},
        ),
        Submission(
            **names,
            attempt=0,
            context_digest=digest("context"),
            released="a0",
            iterate="",
            ciphertexts=1_000_000,
            ciphertext_digest=digest("ciphertexts"),
            commitment=digest("commitment"),
        ),
    ]


def documents() -> dict[str, object]:
    """By type: body, digest, the encoding that is signed, and its signature by the test key "cleveland"."""
    described = {}
    for document in samples():
        kind, body = type_of(type(document)), document.body()
        described[type(document).__name__] = {
            "body": body.decode(),
            "digest": document.digest(),
            "signed_bytes": digest("vector", pre_authentication_encoding(kind, body)),
            "signature": signed_by("cleveland", document).signature.hex(),
        }
    return described
