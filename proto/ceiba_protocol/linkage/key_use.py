"""Proofs about a holder's key for one linkage: that it knows the key, and that it computed with this key.

A proof is two scalars, challenge ‖ response, 64 bytes. The second kind is that of RFC 9497 §2.2, one proof for a whole
batch. Without it a holder could answer with another key for some identifiers and so decide which of them match.
"""

import hashlib
from collections.abc import Sequence

from ceiba_protocol.canonical import tlv
from ceiba_protocol.errors import BadKeyUse
from ceiba_protocol.linkage.ristretto import (
    SCALAR_BYTES,
    Point,
    Scalar,
    base_multiply,
    hash_to_scalar,
    is_scalar,
    multiply,
    multiply_scalars,
    random_scalar,
    subtract_scalars,
    weighted_sum,
)
from ceiba_protocol.sums.randomness import Random

SUITE = b"OPRFV1-\x01-ristretto255-SHA512"
"""The context string of RFC 9497 §3.1 for the mode VOPRF."""
BASE: Point = base_multiply((1).to_bytes(SCALAR_BYTES, "little"))
PROOF_BYTES = 2 * SCALAR_BYTES
LARGEST_BATCH = 65_535
"""Places in a batch are two bytes in the transcript."""

_KNOWLEDGE_DST = b"ceiba/v1/linkage-key-knowledge"


# --- knowledge of a key ----------------------------------------------------------------------------------------


def prove_knowledge(secret: Scalar, message: bytes, random: Random) -> bytes:
    """Run by the key's owner: a Schnorr signature of `message`, which names the owner and the job."""
    nonce = random_scalar(random)
    challenge = _knowledge_challenge(base_multiply(secret), base_multiply(nonce), message)
    return challenge + subtract_scalars(nonce, multiply_scalars(challenge, secret))


def verify_knowledge(public: Point, message: bytes, proof: bytes, member: str) -> None:
    """Run by every other holder. `public` is a checked point; raises BadKeyUse."""
    challenge, response = _scalars(proof, member)
    commitment = weighted_sum([response, challenge], [BASE, public])
    if _knowledge_challenge(public, commitment, message) != challenge:
        raise BadKeyUse(member=member, problem="it does not show that the key is known")


def _knowledge_challenge(public: Point, commitment: Point, message: bytes) -> Scalar:
    return hash_to_scalar(tlv(public, commitment, message), _KNOWLEDGE_DST)


# --- use of a key: RFC 9497 §2.2 -------------------------------------------------------------------------------


def prove_use(
    secret: Scalar, inputs: Sequence[Point], outputs: Sequence[Point], context: bytes, random: Random
) -> bytes:
    """Run by the evaluator: outputs[i] = secret·inputs[i] for all i, without showing `secret` (GenerateProof).

    1 to LARGEST_BATCH pairs. `context` is RFC 9497's context string, SUITE or what begins with it, up to 200 bytes.
    """
    public = base_multiply(secret)
    # 1. One pair (M, Z) for the whole batch.
    combined_input = weighted_sum(_weights(public, inputs, outputs, context), inputs)
    combined_output = multiply(secret, combined_input)
    # 2. The commitment.
    nonce = random_scalar(random)
    commitments = base_multiply(nonce), multiply(nonce, combined_input)
    # 3. Challenge and response.
    challenge = _use_challenge([public, combined_input, combined_output, *commitments], context)
    return challenge + subtract_scalars(nonce, multiply_scalars(challenge, secret))


def verify_use(
    public: Point, inputs: Sequence[Point], outputs: Sequence[Point], context: bytes, proof: bytes, member: str
) -> None:
    """Run by whoever sent `inputs` and received `outputs`, all checked points (VerifyProof). Raises BadKeyUse."""
    challenge, response = _scalars(proof, member)
    # 1. The same pair (M, Z), without the secret.
    weights = _weights(public, inputs, outputs, context)
    combined_input, combined_output = weighted_sum(weights, inputs), weighted_sum(weights, outputs)
    # 2. What the commitments must have been.
    of_base = weighted_sum([response, challenge], [BASE, public])
    of_input = weighted_sum([response, challenge], [combined_input, combined_output])
    # 3. The challenge is that of these.
    if _use_challenge([public, combined_input, combined_output, of_base, of_input], context) != challenge:
        raise BadKeyUse(member=member, problem="the answers are not those of its key in this linkage")


def _weights(public: Point, inputs: Sequence[Point], outputs: Sequence[Point], context: bytes) -> list[Scalar]:
    """d_i of ComputeComposites: a hash of the key, the pair and its place."""
    seed = hashlib.sha512(_with_lengths(public, b"Seed-" + context)).digest()
    return [
        _hash_to_scalar(_with_lengths(seed) + place.to_bytes(2, "big") + _with_lengths(*pair) + b"Composite", context)
        for place, pair in enumerate(zip(inputs, outputs, strict=True))
    ]


def _use_challenge(points: Sequence[Point], context: bytes) -> Scalar:
    return _hash_to_scalar(_with_lengths(*points) + b"Challenge", context)


def _hash_to_scalar(message: bytes, context: bytes) -> Scalar:
    return hash_to_scalar(message, b"HashToScalar-" + context)


def _with_lengths(*parts: bytes) -> bytes:
    """Each part behind its length in two bytes."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _scalars(proof: bytes, member: str) -> tuple[Scalar, Scalar]:
    challenge, response = proof[:SCALAR_BYTES], proof[SCALAR_BYTES:]
    if not (is_scalar(challenge) and is_scalar(response)):
        raise BadKeyUse(member=member, problem="it is not two scalars")
    return challenge, response
