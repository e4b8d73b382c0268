"""The secure sum, every role's step side by side (PROTOCOL §2.5, MSum). `run_sum` at the end is all of it in order.

The merchant learns the sums over all holders and nothing about one of them, even together with the coordinator and
up to all but two holders; the coordinator learns nothing (PROTOCOL §2.7). That holds as long as every holder answers
one set once: a second set under the same key would isolate whoever left it (I2, I3), which the caller sees to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import phe
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.errors import BadCiphertext, ManifestMismatch, SetMismatch, TotalRejected
from ceiba_protocol.sums.layout import Layout
from ceiba_protocol.sums.masks import combined_mask
from ceiba_protocol.sums.paillier import (
    Encryptor,
    ciphertext_bytes,
    decode_ciphertexts,
    decrypt,
    encode_ciphertexts,
    key_id,
    multiply,
)
from ceiba_protocol.sums.randomness import Random

NO_DIGEST = bytes(32)
"""Stands for the gate transcript or the iterate of a round that has none."""


@dataclass(frozen=True)
class RoundContext:
    """Everything that the holders of one round must agree on. Each digest is 32 bytes, each integer below 2^32.

    Whoever differs in one bit of it has other mask seeds, and the total is refused (I4).
    """

    suite: str
    agreement_digest: bytes
    manifest_digest: bytes
    attempt: int
    stage: int
    iteration: int
    set_digest: bytes
    key_id: bytes
    layout_digest: bytes
    gate_transcript_digest: bytes = NO_DIGEST
    iterate_digest: bytes = NO_DIGEST

    def digest(self) -> bytes:
        """32 bytes: SHA256(TLV["ceiba/v1/ctx", …]) over the fields in their order, integers as 4 bytes big-endian."""
        return sha256(
            "ceiba/v1/ctx",
            self.suite.encode(),
            self.agreement_digest,
            self.manifest_digest,
            *(number.to_bytes(4, "big") for number in (self.attempt, self.stage, self.iteration)),
            self.set_digest,
            self.key_id,
            self.layout_digest,
            self.gate_transcript_digest,
            self.iterate_digest,
        )


def set_digest(members: Mapping[str, tuple[bytes, bytes]]) -> bytes:
    """32 bytes for the set of one round: SHA256(TLV of TLV[holder id, descriptor digest, mask key], sorted by id)."""
    return sha256(
        "ceiba/v1/set",
        *(tlv(holder.encode(), descriptor, mask_key) for holder, (descriptor, mask_key) in sorted(members.items())),
    )


def holder_contribute(
    context: RoundContext,
    layout: Layout,
    values: Sequence[int],
    share_bounds: Sequence[int],
    me: str,
    mask_secret: bytes,
    peers: Mapping[str, bytes],
    encryptor: Encryptor,
) -> bytes:
    """Run by the holder `me`: its sums, packed, masked and encrypted; layout.ciphertexts × ⌈2·bits(n)/8⌉ bytes.

    Must hold before: the merchant's key proof is verified; `context.set_digest` is over `me` and exactly `peers`, every
    mask key of them signed by a member of the pinned roster; `mask_secret` was made for this attempt; values and
    bounds have `layout.slots` entries. Must follow: store the bytes durably before they are sent, and send only
    them again.
    """
    # 1. The context, the layout, the key and the set are of one job.
    n = encryptor.n
    if context.key_id != key_id(n) or context.layout_digest != layout.digest() or layout.key_bits != n.bit_length():
        raise ManifestMismatch(problem="its context, layout and encryption key do not belong together")
    if len(peers) + 1 != layout.holders:
        raise SetMismatch(problem=f"it has {len(peers) + 1} members and the layout is for {layout.holders}")
    # 2. Pack: P in Z.
    packed = layout.pack(values, share_bounds)
    # 3. Mask: P + mask in Z_n, uniform to everyone who misses one honest peer.
    masks = combined_mask(me, mask_secret, peers, context.digest(), n, layout.ciphertexts)
    # 4. Encrypt, in Z_{n²}. Short exponents are enough: the key's owner finds only what the mask hides.
    ciphertexts = [encryptor.encrypt(int((p + mask) % n)) for p, mask in zip(packed, masks, strict=True)]
    return encode_ciphertexts(ciphertexts, n)


def coordinator_multiply(contributions: Mapping[str, bytes], layout: Layout, n: int) -> bytes:
    """Run by the coordinator, and again by whoever wants to check it: the encrypted total, which needs no key.

    Must hold before: each contribution's signature is verified. Every ciphertext is checked: count, range, unit.
    """
    if not contributions:
        raise TotalRejected(problem="nobody contributed")
    for holder, contribution in contributions.items():
        if len(contribution) != layout.ciphertexts * ciphertext_bytes(n):
            raise BadCiphertext(member=holder, problem=f"they are not {layout.ciphertexts} ciphertexts")
    vectors = [decode_ciphertexts(contribution, n, holder) for holder, contribution in contributions.items()]
    return encode_ciphertexts(multiply(vectors, n), n)


def merchant_open(
    total: bytes, contributions: Mapping[str, bytes], layout: Layout, private_key: phe.PaillierPrivateKey
) -> list[int]:
    """Run by the merchant: the sums over all holders, in the order of the layout's slots.

    Must hold before: each contribution's signature is verified, and their members are the agreement's.
    """
    # 1. The total is the product of what the holders signed.
    n = private_key.public_key.n
    if coordinator_multiply(contributions, layout, n) != total:
        raise TotalRejected(problem="it is not the product of the holders' contributions")
    # 2. Decrypt: the masks have cancelled, Σ P in Z_n.
    residues = decrypt(private_key, decode_ciphertexts(total, n, "the coordinator"))
    # 3. Unpack; canary, counter and bounds are checked.
    return layout.unpack(residues, n)


def run_sum(
    values_by_holder: Mapping[str, Sequence[int]],
    layout: Layout,
    random: Random,
    keypair: tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey],
) -> list[int]:
    """The whole secure sum without a network: the first page for a newcomer, and an oracle for tests.

    Left out, because they happen once and elsewhere: the key proof (`key_proof`), signatures and the roster
    (`trust`), the gate (`disclosure`). Values are bounded by the layout alone.
    """
    public_key, private_key = keypair

    # Holders: each makes a fresh X25519 key for this attempt and signs its public half in its approval.
    secrets = {holder: X25519PrivateKey.from_private_bytes(random(32)) for holder in values_by_holder}
    mask_keys = {holder: secret.public_key().public_bytes_raw() for holder, secret in secrets.items()}

    # Coordinator: hands all approvals to all holders. Each holder: derives the context from what it verified itself.
    members = {holder: (sha256("example/descriptor", holder.encode()), key) for holder, key in mask_keys.items()}
    context = RoundContext(
        suite="K1",
        agreement_digest=sha256("example/agreement"),
        manifest_digest=sha256("example/manifest"),
        attempt=0,
        stage=0,
        iteration=0,
        set_digest=set_digest(members),
        key_id=key_id(public_key.n),
        layout_digest=layout.digest(),
    )

    # Holders: pack, mask, encrypt.
    bounds = [*layout.header, *layout.cell * layout.cells]
    contributions = {
        holder: holder_contribute(
            context,
            layout,
            values,
            bounds,
            holder,
            secrets[holder].private_bytes_raw(),
            {peer: key for peer, key in mask_keys.items() if peer != holder},
            Encryptor.for_count(public_key.n, layout.ciphertexts, random),
        )
        for holder, values in values_by_holder.items()
    }

    # Coordinator: multiplies what it cannot read.
    total = coordinator_multiply(contributions, layout, public_key.n)

    # Merchant: checks the product, decrypts it and reads the sums.
    return merchant_open(total, contributions, layout, private_key)
