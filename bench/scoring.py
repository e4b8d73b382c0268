"""What a score costs each role, and from end to end: `python -m bench.scoring`.

3072-bit key, 30 features of 10 bins at 3 holders. The roles' parts in CPU time of one thread, a holder's with its pool
filled, which is what happens when somebody asks, and without; then a running space on loopback, by the clock.
"""

import os
import statistics
import time
from collections.abc import Callable

import pandas as pd

from bench.crypto import Figure, cpu
from ceiba.consents import give, new_issuer
from ceiba.scoring import Feature
from ceiba.terms import Grouping
from ceiba_protocol.canonical import Digest, sha256
from ceiba_protocol.expression import ColumnValue, Number
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.consent import (
    ConsentTerms,
    check_consent,
    give_consent,
    new_subject,
    open_subject,
    seal_subject,
)
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import (
    PrivateWeights,
    ScoreFeature,
    ScoreModel,
    ScoreSide,
    bins_at,
    check_model,
    encrypt_weights,
    feature_of,
    terms_of,
    weights_digest,
)
from ceiba_protocol.linkage.scoring import (
    HolderModel,
    MaskKeys,
    ScoreRequest,
    holder_score,
    merchant_open,
    ready_model,
    request_context,
    score_context,
)
from ceiba_protocol.plan import ByBucket
from ceiba_protocol.schema import Column, ColumnType, Identifier, Schema
from ceiba_protocol.sums.key_proof import key_context, prove_key
from ceiba_protocol.sums.paillier import (
    Encryptor,
    encode_ciphertexts,
    encode_modulus,
    generate_keypair,
    key_id,
    multiply,
)
from ceiba_protocol.trust.agreement import ConsentIssuer
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.roster import EncryptionKey
from ceiba_scenarios import Sandbox

HOLDERS, FEATURES, BINS = ("insurance", "register", "tax"), 10, 10
SCORES = 20
PREPARING_SECONDS = 5.0
"""Until idle nodes have filled their pools."""
NOW = 1_700_000_000


def _schema(table: str) -> Schema:
    columns = tuple(Column(name=f"x{at}", type=ColumnType.INT, minimum="0", maximum="99999") for at in range(FEATURES))
    identifiers = (Identifier(column="uscc", kind=IdentifierKind.TEXT),)
    return Schema(table=table, subject_key="uscc", identifiers=identifiers, columns=columns)


def _feature(holder: str, at: int) -> ScoreFeature:
    return feature_of(holder, _bucket(at), _schema(f"{holder}.firms"))


def _bucket(at: int) -> ByBucket:
    value, low, high = ColumnValue(name=f"x{at}"), Number(value="10000"), Number(value="80000")
    return ByBucket(name=f"f{at}", value=value, low=low, high=high, count=BINS - 3)


def median(actions: list[Callable[[], object]]) -> float:
    """Seconds of CPU, the middle of all."""
    return statistics.median(cpu(action) for action in actions)


def measure() -> dict[str, Figure]:
    """Seconds of CPU; what each should be."""
    public_key, private_key = generate_keypair(os.urandom)
    n, context = int(public_key.n), key_context("bank", bytes(32), "K1", "long-lived")
    key = EncryptionKey(modulus=encode_modulus(n).hex(), proof=prove_key(private_key, context).hex())
    schemas = {holder: _schema(f"{holder}.firms") for holder in HOLDERS}
    points = [[(7 * at + place) % 100 for place in range(BINS)] for at in range(FEATURES * len(HOLDERS))]
    model = ScoreModel(
        model_id="5c" * 16,
        merchant="bank",
        purpose="credit decision",
        agreement_digest=Digest(sha256("example/agreement").hex()),
        features=tuple(_feature(holder, at) for holder in HOLDERS for at in range(FEATURES)),
        sides=tuple(
            ScoreSide(holder=holder, table=f"{holder}.firms", schema_digest=schemas[holder].digest(), on="uscc")
            for holder in HOLDERS
        ),
        weights=PrivateWeights(blob_digest=Digest("0" * 64)),
        key_id=Digest(key_id(n).hex()),
        valid_until=NOW + 3600,
    )
    made: list[bytes] = []
    seconds_encrypting = cpu(
        lambda: made.append(encrypt_weights(points, model.bits, Encryptor.for_count(n, 300, os.urandom)))
    )
    blob = made[0]
    model = model.model_copy(update={"weights": PrivateWeights(blob_digest=weights_digest(blob))})
    secrets = {holder: os.urandom(32) for holder in HOLDERS}
    mask_keys = {holder: x25519_public_key(secret) for holder, secret in secrets.items()}
    readies: dict[str, HolderModel] = {}

    def approve() -> None:
        for me in HOLDERS:
            check_model(model, blob, n)
            masks = MaskKeys(secrets[me], {peer: one for peer, one in mask_keys.items() if peer != me})
            readies[me] = ready_model(model, blob, me, bins_at(model, me, schemas[me]), masks, (key, context))

    seconds_approving = cpu(approve) / len(HOLDERS)
    return {
        "merchant: encrypt 300 weights, once": _figure(seconds_encrypting, None),
        "holder: check a model and its key's proof, once": _figure(seconds_approving, None),
        **_scores(model, readies, mask_keys, n, private_key),
        **_consents(terms_of(model)),
    }


def _scores(
    model: ScoreModel, readies: dict[str, HolderModel], mask_keys: dict[str, bytes], n: int, private_key: object
) -> dict[str, Figure]:
    consents = [Digest(sha256("consent", bytes([at])).hex()) for at in range(SCORES)]
    request = ScoreRequest(request_id=os.urandom(16).hex(), model_digest=model.digest(), consents=tuple(consents))
    context = request_context(model, request, mask_keys)
    contexts = [score_context(context, consent) for consent in consents]
    obfuscators = FullObfuscators(n, os.urandom)
    offline = cpu(lambda: obfuscators.fill(SCORES)) / SCORES
    parts: dict[str, list[int]] = {holder: [] for holder in HOLDERS}

    def score(me: str, at: int, pool: FullObfuscators) -> Callable[[], object]:
        bins = [(at + place) % BINS for place in range(FEATURES)]
        return lambda: parts[me].append(holder_score(readies[me], bins, contexts[at], pool, os.urandom))

    online = median([score("tax", at, obfuscators) for at in range(SCORES)])
    unprepared = median([score("register", at, FullObfuscators(n, os.urandom)) for at in range(SCORES)])
    obfuscators.fill(SCORES)
    for at in range(SCORES):
        score("insurance", at, obfuscators)()
    product = encode_ciphertexts(multiply(list(parts.values()), n), n)
    combining = cpu(lambda: multiply(list(parts.values()), n)) / SCORES
    one = encode_ciphertexts(multiply([part[:1] for part in parts.values()], n), n)
    opening = median([lambda: merchant_open(one, private_key, model.bits)] * 5)
    batch = cpu(lambda: merchant_open(product, private_key, model.bits)) / SCORES
    return {
        "holder: one score, from the pool": _figure(online, "≤ 5 ms"),
        "holder: one score, nothing prepared": _figure(unprepared, None),
        "holder: one obfuscator, in idle time": _figure(offline, None),
        "coordinator: multiply one score": _figure(combining, None),
        "merchant: open one score": _figure(opening, None),
        "merchant: open one of many": _figure(batch, None),
    }


def _consents(terms: ConsentTerms) -> dict[str, Figure]:
    issuer, secret = SigningKey(os.urandom(32)), os.urandom(32)
    subject = new_subject("91110000802100433B", os.urandom)
    consent = give_consent(subject, terms, ("chamber", issuer), NOW, 600, os.urandom)
    sealed = seal_subject(subject, terms.model_digest, "tax", x25519_public_key(secret))

    def check() -> None:
        opened = open_subject(sealed, terms.model_digest, "tax", secret)
        check_consent(consent, terms, {"chamber": issuer.public}, opened, NOW, lambda _: False)

    sealing = median([lambda: seal_subject(subject, terms.model_digest, "tax", x25519_public_key(secret))] * SCORES)
    return {
        "merchant: seal a subject to one holder": _figure(sealing, None),
        "holder: open a subject, check its consent": _figure(median([check] * SCORES), None),
    }


# --- end to end ------------------------------------------------------------------------------------------------


def measure_space(rows: int = 2_000) -> dict[str, Figure]:
    """Seconds on the clock in a running space on loopback: three agencies of `rows` firms, a bank, an issuer."""
    schemas = {f"{holder}.firms": _schema(f"{holder}.firms") for holder in HOLDERS}
    codes = [f"firm {firm}" for firm in range(rows)]
    values = {f"x{at}": [(7919 * firm + at) % 100_000 for firm in range(rows)] for at in range(FEATURES)}
    frames = {holder: {f"{holder}.firms": pd.DataFrame({"uscc": codes, **values})} for holder in HOLDERS}
    with Sandbox(frames, schemas=schemas) as lab:
        bank, issuer = lab.merchant("bank", agreed=False), new_issuer("chamber")
        issuers = [ConsentIssuer(name=issuer.name, key=issuer.key.public.hex())]
        agreement = bank.agreements.propose_joint(
            list(schemas), purpose="bench", operations=["score"], consent_issuers=issuers, scores_per_day=1_000
        )
        for holder in HOLDERS:
            lab.sign_agreement(holder, agreement.id)
        agreement.wait(60)
        features = [
            Feature(f"{holder}.firms", Grouping(_bucket(at)), [(7 * at + place) % 100 for place in range(BINS)])
            for holder in HOLDERS
            for at in range(FEATURES)
        ]
        registering = time.perf_counter()
        model = bank.register_model(features, on="uscc").wait(60)
        registered = time.perf_counter() - registering
        time.sleep(PREPARING_SECONDS)
        consents = [(give(model.consent_request(), code, issuer), code) for code in codes[: 2 * SCORES]]
        model.score(*consents[0])
        each = [_clock(lambda one=one: model.score(*one)) for one in consents[1:SCORES]]
        time.sleep(PREPARING_SECONDS)
        batch = _clock(lambda: model.score_all(consents[SCORES:])) / SCORES
    return {
        "space: register a model, approved by 3 holders": _figure(registered, None),
        "space: one score, from call to number": _figure(statistics.median(each), "≤ 60 ms"),
        f"space: one of {SCORES} in one call": _figure(batch, None),
    }


def _clock(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _figure(seconds: float, reach: str | None) -> Figure:
    return {"ours": seconds, "baseline": None, "ratio": None, "reach": reach}


def main() -> None:
    started = time.monotonic()
    for name, figure in (measure() | measure_space()).items():
        print(f"{name:50} {1000 * float(figure['ours'] or 0):9.2f} ms  {figure['reach'] or ''}")
    print(f"{time.monotonic() - started:.1f} s in all")


if __name__ == "__main__":
    main()
