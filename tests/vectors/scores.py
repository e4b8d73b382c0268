"""One score with every byte: the consent, the contexts, each holder's ciphertext, and what the merchant reads."""

from unittest.mock import patch

from ceiba_protocol.linkage.consent import Consent, Subject, give_consent
from ceiba_protocol.linkage.full_obfuscators import FullObfuscators
from ceiba_protocol.linkage.score_model import PrivateWeights, bins_at, encrypt_weights, terms_of, weights_digest
from ceiba_protocol.linkage.scoring import (
    MaskKeys,
    ScoreRequest,
    _ready,
    holder_score,
    merchant_open,
    request_context,
    score_context,
)
from ceiba_protocol.sums import masks
from ceiba_protocol.sums.paillier import Encryptor, ciphertext_bytes, encode_ciphertexts, multiply
from ceiba_protocol.trust.keys import SigningKey, x25519_public_key
from ceiba_protocol.trust.signing import document_digest
from tests.support.keys import keypair
from tests.support.scorecards import NOON, POINTS, SCHEMAS, model
from tests.support.seeded import seeded

BITS = 256
PLACES = {"insurance": [2, 1], "register": [2], "tax": [1]}


def score() -> dict[str, object]:
    public_key, private_key = keypair(BITS)
    n = int(public_key.n)
    blob = encrypt_weights(POINTS, 24, Encryptor.for_count(n, 17, seeded("weights")))
    made = model(BITS, weights=PrivateWeights(blob_digest=weights_digest(blob)))
    subject = Subject("91110000802100433B", seeded("salt")(32))
    issuer = ("chamber of commerce", SigningKey(seeded("issuer")(32)))
    consent = give_consent(subject, terms_of(made), issuer, NOON, 3600, seeded("consent"))
    digest = document_digest(consent)
    request = ScoreRequest(request_id="a5" * 16, model_digest=made.digest(), consents=(digest,))
    secrets = {holder: seeded(f"mask of {holder}")(32) for holder in made.holders}
    keys = {holder: x25519_public_key(secret) for holder, secret in secrets.items()}
    context = request_context(made, request, keys)
    one = score_context(context, digest)
    parts = {}
    with patch.object(masks, "_GUARD", masks.SeedGuard()):  # a vector is made any number of times
        for me in made.holders:
            own = MaskKeys(secrets[me], {peer: key for peer, key in keys.items() if peer != me})
            ready = _ready(made, blob, me, bins_at(made, me, SCHEMAS[f"{me}.firms"]), own, n)
            obfuscators, random = FullObfuscators(n, seeded(f"r of {me}")), seeded(f"rho of {me}")
            parts[me] = holder_score(ready, PLACES[me], one, obfuscators, random)
    product = multiply([[part] for part in parts.values()], n)
    return {
        "n": str(n),
        "model": made.body().decode(),
        "weights": blob.hex(),
        "salt": subject.salt.hex(),
        "identifier": subject.identifier,
        "commitment": Consent.parse(consent.body).subject_commitment,
        "consent": consent.body.decode(),
        "consent_signature": consent.signature.hex(),
        "request": request.body().decode(),
        "mask_secrets": {holder: secret.hex() for holder, secret in secrets.items()},
        "request_context": context.hex(),
        "score_context": one.hex(),
        "bins": PLACES,
        "ciphertexts": {holder: int(part).to_bytes(ciphertext_bytes(n), "big").hex() for holder, part in parts.items()},
        "score": merchant_open(encode_ciphertexts(product, n), private_key, made.bits)[0],
    }
