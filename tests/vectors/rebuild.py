"""Test vectors of the secure sum and of the documents, one file for each thing to show and for each way to fail.

`python -m tests.vectors.rebuild` writes them again, byte for byte: all randomness is a hash of a label. Bytes are in
hexadecimal, integers beyond 2^53 in decimal strings. A change of any vector is a change of the suite.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.statistics.fits.exact import to_slots
from ceiba_protocol.statistics.fits.newton import NewtonState
from ceiba_protocol.sums import key_proof, masks, paillier
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.secure_sum import RoundContext, set_digest
from ceiba_protocol.sums.wide import add_wide, from_wide, negate_wide, to_wide
from tests.support.keys import keypair
from tests.support.seeded import seeded
from tests.vectors import receipts, scores
from tests.vectors.documents import documents

FOLDER = Path(__file__).parent
Vector = dict[str, Any]
VECTORS: dict[str, Callable[[], Vector]] = {}

KEY_BITS = 1024  # for what does not depend on the length
LAYOUT = Layout(key_bits=KEY_BITS, header=(300,), cell=(3_000, 3 * 10**9), cells=30, holders=3)
HOLDERS = ("bank-north", "clinic-east", "hospital-west")


def vector(make: Callable[[], Vector]) -> Callable[[], Vector]:
    """Register a vector under its function's name, which is also its file's."""
    VECTORS[make.__name__] = make
    return make


def error_of(action: Callable[[], object]) -> str:
    """The stable code of the error that `action` must raise."""
    try:
        action()
    except CeibaError as error:
        return error.code
    raise AssertionError("nothing was refused")


def modulus(bits: int = KEY_BITS) -> int:
    return int(keypair(bits)[0].n)


def context(**changes: Any) -> RoundContext:
    fields: dict[str, Any] = {
        "suite": "K1",
        "agreement_digest": bytes([1]) * 32,
        "manifest_digest": bytes([2]) * 32,
        "attempt": 0,
        "stage": 1,
        "iteration": 2,
        "set_digest": bytes([3]) * 32,
        "key_id": paillier.key_id(modulus()),
        "layout_digest": LAYOUT.digest(),
    }
    return RoundContext(**(fields | changes))


def values_of(holder: str) -> list[int]:
    stream = seeded(f"values of {holder}")
    shares = [100, *[1_000, 10**9] * LAYOUT.cells]
    return [int.from_bytes(stream(16), "big") % (2 * share + 1) - share for share in shares]


def share_bounds() -> list[int]:
    return [100, *[1_000, 10**9] * LAYOUT.cells]


def mask_keys() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Secret and public X25519 keys by holder."""
    secrets = {holder: seeded(f"mask key of {holder}")(32) for holder in HOLDERS}
    public = {
        holder: X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        for holder, secret in secrets.items()
    }
    return secrets, public


def masked_total(contexts: Mapping[str, RoundContext]) -> list[int]:
    """Σ over holders of P_i + masks mod n, each holder under its own view of the context. Written apart from
    `masks.combined_mask`, whose guard refuses a second use of a seed."""
    n, (secrets, public) = modulus(), mask_keys()
    total = [0] * LAYOUT.ciphertexts
    for me in HOLDERS:
        parts = LAYOUT.pack(values_of(me), share_bounds())
        for peer in HOLDERS:
            if peer != me:
                seed = masks.shared_seed(secrets[me], public[peer], contexts[me].digest(), me, peer)
                sign = 1 if me < peer else -1
                mask = masks.expand(seed, n, LAYOUT.ciphertexts)
                parts = [part + sign * int(m) for part, m in zip(parts, mask, strict=True)]
        total = [(have + part) % n for have, part in zip(total, parts, strict=True)]
    return total


def decimal(numbers: Sequence[int]) -> list[str]:
    return [str(number) for number in numbers]


def context_fields(of: RoundContext) -> Vector:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in vars(of).items()}


# --- what the parties compute ----------------------------------------------------------------------------------


@vector
def context_digest() -> Vector:
    return {"context": context_fields(context()), "digest": context().digest().hex()}


@vector
def members_set_digest() -> Vector:
    _, public = mask_keys()
    members = {holder: (bytes([4]) * 32, public[holder]) for holder in HOLDERS}
    return {
        "members": {holder: [descriptor.hex(), key.hex()] for holder, (descriptor, key) in members.items()},
        "digest": set_digest(members).hex(),
    }


@vector
def tlv_encoding() -> Vector:
    parts = [b"", b"a", b"ab", bytes(300)]
    return {"parts": [part.hex() for part in parts], "encoded": tlv(*parts).hex()}


@vector
def paillier_key_id() -> Vector:
    return {"n": str(modulus(3072)), "key_id": paillier.key_id(modulus(3072)).hex()}


@vector
def mask_seed() -> Vector:
    (secrets, public), (first, second) = mask_keys(), HOLDERS[:2]
    digest = context().digest()
    return {
        "holders": [first, second],
        "secret_keys": [secrets[first].hex(), secrets[second].hex()],
        "public_keys": [public[first].hex(), public[second].hex()],
        "context_digest": digest.hex(),
        "seed": masks.shared_seed(secrets[first], public[second], digest, first, second).hex(),
    }


@vector
def mask_expansion() -> Vector:
    seed = bytes(range(32))
    return {"seed": seed.hex(), "n": str(modulus()), "masks": decimal(masks.expand(seed, modulus(), 2))}


@vector
def gate_words() -> Vector:
    """Words of 64 bits that each holder masks, as they are sent, and their sum."""
    (secrets, public), digest = mask_keys(), context(stage=0).digest()
    plain = {holder: [place, 0, 2**64 - 1] for place, holder in enumerate(HOLDERS, 1)}
    peers = {me: {peer: key for peer, key in public.items() if peer != me} for me in HOLDERS}
    sent = {
        me: np.array(plain[me], dtype=np.uint64) + masks.combined_words(me, secrets[me], peers[me], digest, 3)
        for me in HOLDERS
    }
    total = sum(sent.values(), start=np.zeros(3, dtype=np.uint64))
    return {
        "secret_keys": {holder: secrets[holder].hex() for holder in HOLDERS},
        "context_digest": digest.hex(),
        "words": {holder: decimal(plain[holder]) for holder in HOLDERS},
        "masked": {holder: sent[holder].astype("<u8").tobytes().hex() for holder in HOLDERS},
        "sum": decimal(total.tolist()),
    }


@vector
def gate_words_expansion() -> Vector:
    seed = bytes(range(32))
    return {"seed": seed.hex(), "words": decimal(masks.expand_words(seed, 4).tolist())}


@vector
def fit_words() -> Vector:
    """Numbers of 128 bits that each holder masks in a round of a fit, as they are sent, and their sum: of each number
    two words, the lower one first. The context is that of a state; the form of the sums stands for the layout."""
    state = NewtonState(phase="newton", beta=(1, -(2**41)), rows=60)
    form = sha256("ceiba/v1/fit", (2 * 3).to_bytes(4, "big"))
    of_round = context(stage=2, iteration=1, layout_digest=form, iterate_digest=bytes.fromhex(state.digest()))
    (secrets, public), digest = mask_keys(), of_round.digest()
    plain = {holder: [place * 2**40, -(2**100) - place, -1] for place, holder in enumerate(HOLDERS, 1)}
    sent = {}
    for me in HOLDERS:
        peers = {peer: key for peer, key in public.items() if peer != me}
        mask = masks.combined_words(me, secrets[me], peers, digest, 6, add_wide, negate_wide)
        sent[me] = add_wide(to_wide(plain[me]), mask)
    total = np.zeros(6, dtype=np.uint64)
    for words in sent.values():
        total = add_wide(total, words)
    return {
        "state": state.body().decode(),
        "context": context_fields(of_round),
        "context_digest": digest.hex(),
        "secret_keys": {holder: secrets[holder].hex() for holder in HOLDERS},
        "sums": {holder: decimal(plain[holder]) for holder in HOLDERS},
        "masked": {holder: sent[holder].astype("<u8").tobytes().hex() for holder in HOLDERS},
        "sum": decimal(from_wide(total)),
    }


@vector
def fit_words_other_state() -> Vector:
    """The same with one holder at another state: the sum is no number that anybody can use."""
    states = {holder: NewtonState(phase="newton", beta=(int(place == 1),)) for place, holder in enumerate(HOLDERS)}
    (secrets, public), total = mask_keys(), np.zeros(4, dtype=np.uint64)
    for me in HOLDERS:
        digest = context(stage=2, iteration=7, iterate_digest=bytes.fromhex(states[me].digest())).digest()
        peers = {peer: key for peer, key in public.items() if peer != me}
        mask = masks.combined_words(me, secrets[me], peers, digest, 4, add_wide, negate_wide)
        total = add_wide(total, add_wide(to_wide([1, 2]), mask))
    found = from_wide(total)
    assert all(abs(one) > 2**64 for one in found)
    return {"states": {holder: state.body().decode() for holder, state in states.items()}, "sum": decimal(found)}


@vector
def float_slots() -> Vector:
    """Final figures as two integers each: mantissa and exponent, as C's frexp has them, the mantissa times 2^53."""
    values = [0.0, 1.0, -0.1, 2.0**-1074, -(2.0**-1022), 1.7976931348623157e308]
    return {"floats": [value.hex() for value in values], "slots": [list(map(str, to_slots(one))) for one in values]}


@vector
def layout_roundtrip() -> Vector:
    total = masked_total(dict.fromkeys(HOLDERS, context()))
    return {
        "key_bits": LAYOUT.key_bits,
        "header": list(LAYOUT.header),
        "cell": list(LAYOUT.cell),
        "cells": LAYOUT.cells,
        "holders": LAYOUT.holders,
        "digest": LAYOUT.digest().hex(),
        "n": str(modulus()),
        "values": {holder: values_of(holder) for holder in HOLDERS},
        "packed": {holder: decimal(LAYOUT.pack(values_of(holder), share_bounds())) for holder in HOLDERS},
        "masked_total": decimal(total),
        "sums": LAYOUT.unpack(total, modulus()),
    }


@vector
def ciphertext() -> Vector:
    encryptor = paillier.Encryptor.for_count(modulus(), 1, seeded("encryptor"))
    encoded = paillier.encode_ciphertexts([encryptor.encrypt(12345)], modulus())
    return {"n": str(modulus()), "random": "seeded('encryptor')", "plaintext": 12345, "ciphertext": encoded.hex()}


def proof_and_context() -> tuple[bytes, bytes]:
    digest = key_proof.key_context("merchant-one", bytes([5]) * 32, "K1", "long-lived")
    return key_proof.prove_key(keypair(3072)[1], digest), digest


@vector
def proof_valid() -> Vector:
    proof, digest = proof_and_context()
    key_proof.verify_key(modulus(3072), proof, digest)
    return {
        "merchant": "merchant-one",
        "signing_key": (bytes([5]) * 32).hex(),
        "suite": "K1",
        "use": "long-lived",
        "context": digest.hex(),
        "n": str(modulus(3072)),
        "proof": proof.hex(),
    }


# --- ways to fail ----------------------------------------------------------------------------------------------


def refused_proof(n: int, proof: bytes, digest: bytes) -> Vector:
    error = error_of(lambda: key_proof.verify_key(n, proof, digest))
    return {"n": str(n), "proof": proof.hex(), "context": digest.hex(), "error": error}


@vector
def proof_other_context() -> Vector:
    other = key_proof.key_context("merchant-two", bytes([5]) * 32, "K1", "long-lived")
    return refused_proof(modulus(3072), proof_and_context()[0], other)


@vector
def proof_other_key() -> Vector:
    private_key = keypair(3072)[1]
    return refused_proof(int(private_key.p * gmpy2.next_prime(private_key.q)), *proof_and_context())


@vector
def proof_truncated() -> Vector:
    proof, digest = proof_and_context()
    return refused_proof(modulus(3072), proof[:-1], digest)


@vector
def proof_root_zero() -> Vector:
    proof, digest = proof_and_context()
    return refused_proof(modulus(3072), bytes(384) + proof[384:], digest)


@vector
def proof_root_not_reduced() -> Vector:
    proof, digest = proof_and_context()
    return refused_proof(modulus(3072), b"\xff" * 384 + proof[384:], digest)


@vector
def proof_even_modulus() -> Vector:
    return refused_proof(modulus(3072) + 1, *proof_and_context())


@vector
def proof_key_too_short() -> Vector:
    digest = key_proof.key_context("merchant-one", bytes([5]) * 32, "K1", "long-lived")
    return refused_proof(modulus(2048), key_proof.prove_key(keypair(2048)[1], digest), digest)


def refused_total(total: Sequence[int]) -> Vector:
    n = modulus()
    return {"n": str(n), "masked_total": decimal(total), "error": error_of(lambda: LAYOUT.unpack(total, n))}


@vector
def mask_wrong_set() -> Vector:
    views = dict.fromkeys(HOLDERS, context()) | {HOLDERS[2]: context(set_digest=bytes([9]) * 32)}
    return refused_total(masked_total(views))


@vector
def mask_wrong_manifest() -> Vector:
    views = dict.fromkeys(HOLDERS, context()) | {HOLDERS[0]: context(manifest_digest=bytes([9]) * 32)}
    return refused_total(masked_total(views))


@vector
def mask_wrong_round() -> Vector:
    views = dict.fromkeys(HOLDERS, context()) | {HOLDERS[1]: context(iteration=3)}
    return refused_total(masked_total(views))


@vector
def mask_low_order_key() -> Vector:
    secret, public = mask_keys()[0][HOLDERS[0]], bytes(32)
    digest = context().digest()
    return {
        "secret_key": secret.hex(),
        "public_key": public.hex(),
        "error": error_of(lambda: masks.shared_seed(secret, public, digest, HOLDERS[0], HOLDERS[1])),
    }


@vector
def layout_holder_counted_twice() -> Vector:
    packed = LAYOUT.pack([0] * LAYOUT.slots, share_bounds())
    return refused_total([4 * part for part in packed])


@vector
def layout_canary_not_empty() -> Vector:
    total = masked_total(dict.fromkeys(HOLDERS, context()))
    return refused_total([total[0] + (1 << (KEY_BITS - 60)), *total[1:]])


@vector
def layout_sum_beyond_bound() -> Vector:
    total = masked_total(dict.fromkeys(HOLDERS, context()))
    counter_bits = 3
    return refused_total([total[0] + (450 << counter_bits), *total[1:]])


@vector
def layout_value_over_bound_by_one() -> Vector:
    values = [101, *[0] * (LAYOUT.slots - 1)]
    return {"values": values, "error": error_of(lambda: LAYOUT.pack(values, share_bounds()))}


@vector
def layout_slot_too_wide() -> Vector:
    bound = 1 << (KEY_BITS - 67)
    build = error_of(lambda: Layout(key_bits=KEY_BITS, header=(bound,), cell=(), cells=0, holders=3))
    return {"key_bits": KEY_BITS, "header": [str(bound)], "error": build}


def refused_ciphertexts(encoded: bytes) -> Vector:
    error = error_of(lambda: paillier.decode_ciphertexts(encoded, modulus(), "clinic-east"))
    return {"n": str(modulus()), "encoded": encoded.hex(), "error": error}


@vector
def ciphertext_zero() -> Vector:
    return refused_ciphertexts(bytes(256))


@vector
def ciphertext_not_reduced() -> Vector:
    return refused_ciphertexts((modulus() ** 2).to_bytes(256, "big"))


@vector
def ciphertext_not_unit() -> Vector:
    return refused_ciphertexts((1).to_bytes(256, "big") + int(keypair(KEY_BITS)[1].p).to_bytes(256, "big"))


@vector
def ciphertext_truncated() -> Vector:
    return refused_ciphertexts(bytes(255) + b"\x01" + bytes(255))


vector(documents)
vector(receipts.log_checkpoints)
vector(receipts.receipt)
vector(receipts.receipt_too_few_witnesses)
vector(scores.score)


def render(content: Vector) -> str:
    """The text of a vector's file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every vector."""
    for name, make in VECTORS.items():
        (FOLDER / f"{name}.json").write_text(render(make()), encoding="utf-8")


if __name__ == "__main__":
    main()
