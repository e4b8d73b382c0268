"""Attacks by what roster, and with it whose keys, a holder takes up."""

import os
from collections.abc import Callable
from functools import cache

import gmpy2

from ceiba_protocol.canonical import Digest
from ceiba_protocol.sums.key_proof import ROOTS, _challenge, key_context, prove_key
from ceiba_protocol.sums.paillier import encode_modulus, key_id, modulus_bytes
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.roster import (
    SUITE,
    Descriptor,
    Duties,
    EncryptionKey,
    Revocation,
    Role,
    Roster,
)
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.whole_job import describe_member
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import DAYS, HOLDERS, VICTIM, Field, said
from tests.attacks.test_malformed_modulus import (
    holder_without_proof_check,
    hostile_weights,
    read_features,
    trapdoor,
)
from tests.support.clock import seconds_now
from tests.support.keys import keypair

CORRUPT = [holder for holder in HOLDERS if holder != VICTIM]
"""Three of four signers: a quorum."""
PRIMES = 14
SMALL = 3


@attack(without="only the pinned roster's signers count")
def sybil_roster(field: Field, without: str | None) -> Outcome:
    """The operator lists four holders of its own, who approve the roster that lists them."""
    field.begin(without, VICTIM)
    own = [_holder(f"ghost-{number}") for number in range(4)]
    members = (*field.roster.members, *(one for one, _ in own))
    roster = _next(field, members=members)
    refused = field.offer_roster(VICTIM, roster, [(one.name, key) for one, key in own])
    return _taken_up(refused, "the operator's own holders on it")


@attack(without="one organisation, one holder")
def duplicate_organisation(field: Field, without: str | None) -> Outcome:
    """A corrupt quorum lets one organisation in twice, so that two of a set's holders are one."""
    field.begin(without, VICTIM)
    double, _ = _holder("dresden-two", organisation=field.roster.by_name["dresden"].organisation)
    refused = field.offer_roster(VICTIM, _next(field, members=(*field.roster.members, double)), _quorum(field))
    return _taken_up(refused, "dresden twice on it")


@attack(without="parties have the keys they signed with")
def substituted_merchant_key(field: Field, without: str | None) -> Outcome:
    """Operator and a corrupt quorum give a bank's name to keys of the operator, who asks under the bank's agreement."""
    field.begin(without)
    honest = field.roster.by_name["bank-a"]
    key, (public_key, private_key) = SigningKey(os.urandom(32)), keypair(3072)
    proof = prove_key(private_key, key_context(honest.name, key.public, SUITE, "long-lived"))
    encryption = EncryptionKey(modulus=encode_modulus(public_key.n).hex(), proof=proof.hex())
    false = describe_member(honest.name, Role.MERCHANT, key, encryption).model_copy(
        update={"organisation": honest.organisation}
    )
    members = tuple(false if member == honest else member for member in field.roster.members)
    revocation = Revocation(descriptor=honest, revoked_at=seconds_now(), reason="a key was lost")
    roster = _next(field, members=members, revoked=(revocation,))
    for holder in HOLDERS:
        assert field.offer_roster(holder, roster, _quorum(field)) is None
    manifest = field.manifest().model_copy(update={"key_id": Digest(key_id(public_key.n).hex())})
    signed = sign(manifest, honest.name, key)
    first = field.approve(VICTIM, signed)
    if first.approval is None:
        return Outcome(False, said(first))
    approvals = [first.approval, *field.approve_all(signed, CORRUPT)]
    replies = {holder: field.contribute(holder, signed, approvals) for holder in HOLDERS}
    total = field.total(replies, field.question(field.ask()), private_key)
    if total is None:
        return Outcome(False, said(replies[VICTIM]))
    wanted = sum(map(sum, DAYS.values()))
    return Outcome(total[-1] == wanted, f"a total that the bank alone may open, {total[-1]}")


def _taken_up(refused: str | None, what: str) -> Outcome:
    if refused is None:
        return Outcome(True, f"{VICTIM} has pinned a roster with {what}")
    return Outcome(False, f"{VICTIM} keeps its roster: {refused}")


def _next(field: Field, **changes: object) -> Roster:
    """The roster after the pinned one, with these changes."""
    return field.roster.model_copy(update={"version": field.roster.version + 1} | changes)


def _quorum(field: Field) -> list[tuple[str, SigningKey]]:
    """The keys of corrupt holders, who approve whatever they are asked to."""
    return [(holder, field.holder(holder).signing_key) for holder in CORRUPT]


def _holder(name: str, organisation: str = "") -> tuple[Descriptor, SigningKey]:
    """A holder that nobody has invited, and its key."""
    own, officer, publisher = (SigningKey(os.urandom(32)) for _ in range(3))
    duties = Duties(officer=officer.public.hex(), publisher=publisher.public.hex())
    made = describe_member(name, Role.HOLDER, own, duties=duties)
    return made.model_copy(update={"organisation": organisation or name}), own


# --- the key's proof -------------------------------------------------------------------------------------------


@attack(without="the key's proof")
def malformed_modulus(field: Field, without: str | None) -> Outcome:
    """A merchant joins with a modulus that is not one: of seven kinds, among them the one that reads every row."""
    field.begin(without, VICTIM)
    refusals: dict[str, str | None] = {}
    roster = field.roster
    for kind, make in KINDS.items():
        key = SigningKey(os.urandom(32))
        n, proof = make(key_context("bank-c", key.public, SUITE, "long-lived"))
        encryption = EncryptionKey(modulus=encode_modulus(n).hex(), proof=proof.hex())
        merchant = describe_member("bank-c", Role.MERCHANT, key, encryption)
        offered = roster.model_copy(
            update={"version": roster.version + 1, "members": (*field.roster.members, merchant)}
        )
        refusals[kind] = field.offer_roster(VICTIM, offered, _quorum(field))
        roster = offered
    if any(refusals.values()):
        taken = [kind for kind, refusal in refusals.items() if refusal is None]
        sayings = "; ".join(f"{kind}: {refusal}" for kind, refusal in refusals.items() if refusal)
        return Outcome(bool(taken), sayings)
    rows = DAYS[VICTIM]
    trap = trapdoor(PRIMES)
    answer = holder_without_proof_check(trap.n, hostile_weights(trap, len(rows)), rows, os.urandom)
    read = read_features(trap, answer, len(rows))
    saw = f"all {len(refusals)} keys pinned; a sum under the one of {PRIMES} primes shows every row: {read}"
    return Outcome(read == rows, saw)


def _roots(n: int, context: bytes, totient: int) -> bytes:
    """The best proof that somebody who knows the factors can write: roots where there are some."""
    challenges = [_challenge(n, context, index) for index in range(ROOTS)]
    if gmpy2.gcd(n, totient) == 1:
        exponent = gmpy2.invert(n, totient)
        challenges = [gmpy2.powmod(challenge, exponent, n) for challenge in challenges]
    return b"".join(int(root).to_bytes(modulus_bytes(n), "big") for root in challenges)


def _known(n: int, totient: int) -> Callable[[bytes], tuple[int, bytes]]:
    return lambda context: (n, _roots(n, context, totient))


def _fourteen_primes(context: bytes) -> tuple[int, bytes]:
    trap = trapdoor(PRIMES)
    return int(trap.n), _roots(int(trap.n), context, int(trap.p) - 1)


def _even(context: bytes) -> tuple[int, bytes]:
    return _known(2 * _prime(), _prime() - 1)(context)


def _a_prime(context: bytes) -> tuple[int, bytes]:
    return _known(_prime(), _prime() - 1)(context)


def _a_square(context: bytes) -> tuple[int, bytes]:
    p = int(keypair(3072)[1].p)
    return _known(p * p, p * (p - 1))(context)


def _small_factor(context: bytes) -> tuple[int, bytes]:
    return _known(SMALL * _prime(), (SMALL - 1) * (_prime() - 1))(context)


def _too_short(context: bytes) -> tuple[int, bytes]:
    public_key, private_key = keypair(2048)
    return public_key.n, prove_key(private_key, context)


def _anothers_proof(context: bytes) -> tuple[int, bytes]:
    public_key, private_key = keypair(3072)
    return public_key.n, prove_key(private_key, key_context("bank-a", bytes(32), SUITE, "long-lived"))


KINDS = {
    f"{PRIMES} small primes": _fourteen_primes,
    "an even number": _even,
    "a prime": _a_prime,
    "a square": _a_square,
    "a small factor": _small_factor,
    "too short": _too_short,
    "another's proof": _anothers_proof,
}
"""Each makes a modulus and the best proof for this context."""


@cache
def _prime() -> int:
    """Of 3072 bits, and 2 modulo 3, so that 3 times it has roots."""
    candidate = gmpy2.next_prime(gmpy2.mpz(3) << 3070)
    while candidate % SMALL != SMALL - 1:
        candidate = gmpy2.next_prime(candidate)
    return int(candidate)


ATTACKS = [sybil_roster, duplicate_organisation, substituted_merchant_key, malformed_modulus]
