"""Tokens: the same subject has the same token at all holders, and nobody can make one alone (PROTOCOL §5.2, §5.3).

F(id) = (k_1 + … + k_n)·H(id) in the group of `ristretto`, each holder j with a key k_j of its own for each job; H is
the hash to the group of RFC 9497, mode VOPRF. An owner has its identifiers evaluated by the other holders blinded,
so they learn how many there are and nothing else, and each proves that it used the key that it announced. Whoever
misses the key of one holder, such as the coordinator, cannot try a list of identifiers against the tokens; an owner
can only as part of the number that it announced. When the keys are dropped, the tokens of two jobs have nothing in
common.

Two holders that only want to count need no evaluations: `DiffieHellman`. `run_linkage` at the end is all of it in
order. All state is in memory; what fails is not resumed, and a new attempt has new keys.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import pairwise

from ceiba_protocol.canonical import sha256, tlv
from ceiba_protocol.errors import (
    BadGroupElement,
    BadTokens,
    CountNotKept,
    IntersectionTooSmall,
    LinkageTooLarge,
    MalformedMessage,
    RepeatedIdentifier,
    SetMismatch,
)
from ceiba_protocol.linkage.key_use import (
    PROOF_BYTES,
    SUITE,
    prove_knowledge,
    prove_use,
    verify_knowledge,
    verify_use,
)
from ceiba_protocol.linkage.ristretto import (
    POINT_BYTES,
    Point,
    Scalar,
    add_all,
    base_multiply,
    decode_points,
    encode_points,
    hash_all,
    invert,
    multiply_all,
    random_scalar,
)
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.agreement import Mode

BATCH = 4096
"""Identifiers under one blind, in one message of 128 KiB and with one proof (PROTOCOL §5.2)."""
TOKEN_BYTES = 32
"""Half of a SHA-512: no two subjects share a token by chance, however many are linked."""
ROUNDED_BELOW = 1000
"""A smaller intersection is published to the nearest ten (PROTOCOL §5.3), so that one subject more seldom shows."""

HASH_TO_GROUP_DST = b"HashToGroup-" + SUITE
_SIZE_BYTES = 8


# --- what the holders agree on ---------------------------------------------------------------------------------


class JobKey:
    """A holder's key for one linkage. It is never stored: whoever drops it makes the job's tokens unlinkable.

    `job` is 32 bytes, a digest of the manifest and the attempt.
    """

    def __init__(self, job: bytes, me: str, random: Random) -> None:
        self.secret: Scalar = random_scalar(random)
        self.public: Point = base_multiply(self.secret)
        self._job, self._me, self._random = job, me, random

    def __repr__(self) -> str:
        return f"JobKey({self._me}, public={self.public.hex()})"

    def announce(self, size: int) -> bytes:
        """Step 1, for everybody: the number of own identifiers in 8 bytes, the public key, proof that it is known."""
        proof = prove_knowledge(self.secret, _announced(self._job, self._me, size), self._random)
        return size.to_bytes(_SIZE_BYTES, "big") + self.public + proof


def _announced(job: bytes, member: str, size: int) -> bytes:
    return sha256("ceiba/v1/linkage-announcement", job, member.encode(), size.to_bytes(_SIZE_BYTES, "big"))


@dataclass(frozen=True)
class Linkage:
    """Everything that the holders of one linkage must agree on. Who differs in a bit of it has other tokens."""

    job: bytes
    sizes: Mapping[str, int]
    """By holder, of at least two: how many identifiers it announced."""
    public_keys: Mapping[str, Point]

    @classmethod
    def of(cls, job: bytes, announcements: Mapping[str, bytes], limit: int) -> "Linkage":
        """Run by every holder, and by the coordinator: read the announcements, each signed by its holder.

        `limit` is the local quota of identifiers that one holder may have evaluated. Raises MalformedMessage,
        LinkageTooLarge, BadGroupElement and BadKeyUse.
        """
        if len(announcements) < 2:
            raise SetMismatch(problem="a linkage takes two holders")
        sizes, public_keys = dict[str, int](), dict[str, Point]()
        for member, announcement in announcements.items():
            if len(announcement) != _SIZE_BYTES + POINT_BYTES + PROOF_BYTES:
                raise MalformedMessage(message="announcement", problem="it does not have the length that it must have")
            size = int.from_bytes(announcement[:_SIZE_BYTES], "big")
            if size > limit:
                raise LinkageTooLarge(member=member, announced=size, limit=limit)
            key, proof = announcement[_SIZE_BYTES:-PROOF_BYTES], announcement[-PROOF_BYTES:]
            (public_keys[member],) = decode_points(key, member)
            verify_knowledge(key, _announced(job, member, size), proof, member)
            sizes[member] = size
        return cls(job, sizes, public_keys)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes, in every hash and every proof of the linkage: SHA256(TLV[…]) over the job and all members."""
        members = (
            tlv(member.encode(), size.to_bytes(_SIZE_BYTES, "big"), self.public_keys[member])
            for member, size in sorted(self.sizes.items())
        )
        return sha256("ceiba/v1/linkage", self.job, *members)

    def others(self, me: str) -> list[str]:
        """The holders but one, in the order of their names."""
        return sorted(self.sizes.keys() - {me})

    def batches(self, owner: str) -> range:
        """The numbers of the batches in which the owner's identifiers go out."""
        return range(-(-self.sizes[owner] // BATCH))

    def batch_size(self, owner: str, batch: int) -> int:
        """All are of BATCH identifiers but the last."""
        return min(BATCH, self.sizes[owner] - batch * BATCH)

    def to_group(self, identifiers: Sequence[str]) -> list[Point]:
        """H(id): other points in every linkage."""
        messages = [tlv(b"ceiba/v1/id", self.digest, identifier.encode()) for identifier in identifiers]
        return hash_all(messages, HASH_TO_GROUP_DST)

    def proof_context(self, owner: str, evaluator: str, batch: int) -> bytes:
        """The context string of a proof: RFC 9497's, and what this batch is."""
        names = owner.encode(), evaluator.encode(), batch.to_bytes(4, "big")
        return SUITE + b"-" + sha256("ceiba/v1/linkage-evaluation", self.digest, *names)


def _check_identifiers(linkage: Linkage, me: str, identifiers: Sequence[str]) -> None:
    """What a holder checks of its own: as many as it announced, and none twice, which would multiply its rows."""
    if len(set(identifiers)) != len(identifiers):
        raise RepeatedIdentifier(holder=me)
    if len(identifiers) != linkage.sizes[me]:
        raise CountNotKept(member=me, announced=linkage.sizes[me], problem=f"it has {len(identifiers)}")


# --- evaluation by all holders ---------------------------------------------------------------------------------


class Owner:
    """Run by each holder for its own identifiers, normalised and distinct.

    For each batch: `blind`, one message for all other holders; their answers to `finish`. Then `submission` for the
    coordinator and, in the mode REVEALED, its reply to `matches`.
    """

    def __init__(self, linkage: Linkage, me: str, key: JobKey, identifiers: Sequence[str], random: Random) -> None:
        _check_identifiers(linkage, me, identifiers)
        self._linkage, self._me, self._key, self._random = linkage, me, key, random
        self._identifiers = identifiers
        self._blinded = dict[int, tuple[Scalar, list[Point]]]()
        self._places = dict[bytes, int]()

    def __repr__(self) -> str:
        return f"Owner({self._me}, {len(self._places)} of {len(self._identifiers)} tokens)"

    def blind(self, batch: int) -> bytes:
        """Step 2: r·H(id) for each identifier of the batch, 32 bytes each, under a fresh r."""
        points = self._linkage.to_group(self._of_batch(batch))
        blind = random_scalar(self._random)
        blinded = multiply_all(blind, points)
        self._blinded[batch] = blind, blinded
        return encode_points(blinded)

    def finish(self, batch: int, answers: Mapping[str, bytes]) -> None:
        """Step 4: check what every other holder answered to the batch, and keep the tokens.

        Raises SetMismatch, MalformedMessage, BadGroupElement or BadKeyUse.
        """
        if sorted(answers) != self._linkage.others(self._me):
            raise SetMismatch(problem="not exactly the other holders answered to a batch of the linkage")
        if batch not in self._blinded:
            raise MalformedMessage(message="evaluation", problem=f"batch {batch} was not asked for, or is finished")
        blind, blinded = self._blinded[batch]
        # 1. Each answer is k_j times what was sent.
        shares = [self._checked(batch, blinded, holder, answer) for holder, answer in answers.items()]
        # 2. y = r^{-1}·(Σ β_j + k·α) = (Σ k_j)·H(id).
        total = reduce(add_all, shares, multiply_all(self._key.secret, blinded))
        evaluated = multiply_all(invert(blind), total)
        # 3. The token, and which identifier it belongs to; the blind has done its work.
        first = batch * BATCH
        for place, (identifier, point) in enumerate(zip(self._of_batch(batch), evaluated, strict=True), first):
            self._places[self._token(identifier.encode(), point)] = place
        del self._blinded[batch]

    def submission(self) -> bytes:
        """Step 5, for the coordinator: all tokens in their own order, which is no order of the rows."""
        announced, made = len(self._identifiers), len(self._places)
        if made != announced:
            raise CountNotKept(member=self._me, announced=announced, problem=f"{made} have a token")
        return encode_tokens(self._places)

    def matches(self, revealed: bytes, minimum: int) -> list[int]:
        """Step 7: the places of the own identifiers that are at all holders, in the order of their tokens.

        That order is the same at all holders, so their rows are aligned by it. Raises BadTokens or
        IntersectionTooSmall.
        """
        tokens = decode_tokens(revealed, "the coordinator")
        if len(tokens) < minimum:
            raise IntersectionTooSmall(minimum=minimum)
        if not self._places.keys() >= set(tokens):
            raise BadTokens(member="the coordinator", problem=f"{self._me} did not submit all of them")
        return [self._places[token] for token in tokens]

    def _of_batch(self, batch: int) -> Sequence[str]:
        return self._identifiers[batch * BATCH : (batch + 1) * BATCH]

    def _checked(self, batch: int, blinded: list[Point], holder: str, answer: bytes) -> list[Point]:
        shares, proof = decode_points(answer[:-PROOF_BYTES], holder), answer[-PROOF_BYTES:]
        if len(shares) != len(blinded):
            raise MalformedMessage(message="evaluation", problem=f"{holder} answered with another number of points")
        context = self._linkage.proof_context(self._me, holder, batch)
        verify_use(self._linkage.public_keys[holder], blinded, shares, context, proof, holder)
        return shares

    def _token(self, identifier: bytes, point: Point) -> bytes:
        length = len(identifier).to_bytes(2, "big")
        hashed = hashlib.sha512(b"ceiba/v1/tok" + self._linkage.digest + length + identifier + point)
        return hashed.digest()[:TOKEN_BYTES]


class Evaluator:
    """Run by each holder for every other owner: it multiplies what it cannot read, as much of it as was announced."""

    def __init__(self, linkage: Linkage, me: str, key: JobKey, owner: str, random: Random) -> None:
        self._linkage, self._me, self._key, self._owner, self._random = linkage, me, key, owner, random
        self._unanswered = set(linkage.batches(owner))

    def evaluate(self, batch: int, blinded: bytes) -> bytes:
        """Step 3: k·α for each point of the batch, and one proof for all of them.

        Raises CountNotKept or BadGroupElement. Must follow: the answer is sent to the owner alone.
        """
        if batch not in self._unanswered:
            raise self._not_kept(f"its batch {batch} is one too many, or was answered before")
        points = decode_points(blinded, self._owner)
        expected = self._linkage.batch_size(self._owner, batch)
        if len(points) != expected:
            raise self._not_kept(f"its batch {batch} has {len(points)} of {expected}")
        if len(set(points)) != len(points):
            raise BadGroupElement(member=self._owner, problem=f"one occurs twice in batch {batch}")
        self._unanswered.remove(batch)
        shares = multiply_all(self._key.secret, points)
        context = self._linkage.proof_context(self._owner, self._me, batch)
        return encode_points(shares) + prove_use(self._key.secret, points, shares, context, self._random)

    def check_complete(self) -> None:
        """Run before anything of the linkage is used: the owner sent what it announced, no more and no less."""
        if self._unanswered:
            raise self._not_kept(f"{len(self._unanswered)} batches are missing")

    def _not_kept(self, problem: str) -> CountNotKept:
        return CountNotKept(member=self._owner, announced=self._linkage.sizes[self._owner], problem=problem)


# --- counting between two holders ------------------------------------------------------------------------------


class DiffieHellman:
    """Run by each of exactly two holders that want to count: two multiplications for each identifier, no proofs.

    The tokens of A's identifiers are made by B, from a·H(id), and sent to the coordinator by B; A's by B likewise.
    So nobody learns which subject a token belongs to, not even one holder together with the coordinator.
    """

    def __init__(self, linkage: Linkage, me: str, key: JobKey, identifiers: Sequence[str]) -> None:
        _check_identifiers(linkage, me, identifiers)
        if len(linkage.sizes) != 2:
            raise SetMismatch(problem="counting by Diffie–Hellman takes exactly two holders")
        self._linkage, self._key, self._identifiers = linkage, key, identifiers
        (self._peer,) = linkage.others(me)

    def offer(self) -> bytes:
        """For the peer: k·H(id) for each own identifier, 32 bytes each, in the order of these bytes."""
        return encode_points(sorted(multiply_all(self._key.secret, self._linkage.to_group(self._identifiers))))

    def tokens_of_peer(self, offer: bytes) -> bytes:
        """For the coordinator: the peer's tokens, for its `offer`. Raises BadGroupElement, BadTokens, CountNotKept."""
        points = decode_points(offer, self._peer)
        if len(points) != (announced := self._linkage.sizes[self._peer]):
            raise CountNotKept(member=self._peer, announced=announced, problem=f"it sent {len(points)}")
        _check_order(points, self._peer)
        prefix = b"ceiba/v1/dh-tok" + self._linkage.digest
        shared = multiply_all(self._key.secret, points)
        return encode_tokens(hashlib.sha512(prefix + point).digest()[:TOKEN_BYTES] for point in shared)


# --- the coordinator's part ------------------------------------------------------------------------------------


def encode_tokens(tokens: Iterable[bytes]) -> bytes:
    """Tokens in their own order, one after another. They are pseudo-random, so the order tells nothing about rows."""
    return b"".join(sorted(tokens))


def decode_tokens(blob: bytes, member: str) -> list[bytes]:
    """The tokens that `member` sent: in order, none twice. Raises BadTokens."""
    if len(blob) % TOKEN_BYTES:
        raise BadTokens(member=member, problem=f"{len(blob)} bytes are not a multiple of {TOKEN_BYTES}")
    tokens = [blob[at : at + TOKEN_BYTES] for at in range(0, len(blob), TOKEN_BYTES)]
    _check_order(tokens, member)
    return tokens


def _check_order(values: Sequence[bytes], member: str) -> None:
    """In any other order they could be the rows' order, from which whoever sees them learns."""
    if any(left >= right for left, right in pairwise(values)):
        raise BadTokens(member=member, problem="they are not in their own order, or one occurs twice")


def intersect(sizes: Mapping[str, int], submissions: Mapping[str, bytes], minimum: int) -> list[bytes]:
    """Step 6, run by the coordinator: the tokens at all holders, in order; at least `minimum` of them.

    Both mappings are by the holder whose identifiers they are. Raises SetMismatch, BadTokens, CountNotKept or
    IntersectionTooSmall. The coordinator sees which tokens occur where, and nobody's identifiers; together with an
    owner it would learn which of that owner's subjects are where. In the mode CARDINALITY it passes on
    `published_size` alone.
    """
    if submissions.keys() != sizes.keys():
        raise SetMismatch(problem="not exactly the holders of the linkage sent tokens")
    tokens = {member: decode_tokens(blob, member) for member, blob in submissions.items()}
    for member, sent in tokens.items():
        if len(sent) != sizes[member]:
            raise CountNotKept(member=member, announced=sizes[member], problem=f"it sent {len(sent)} tokens")
    common = set[bytes].intersection(*map(set, tokens.values()))
    if len(common) < minimum:
        raise IntersectionTooSmall(minimum=minimum)
    return sorted(common)


def published_size(size: int) -> int:
    """An intersection's size as it is shown: below ROUNDED_BELOW to the nearest ten, halves up."""
    return size if size >= ROUNDED_BELOW else (size + 5) // 10 * 10


# --- everything in order ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a linkage discloses."""

    size: int
    """How many subjects are at all holders, as `published_size` shows it in the mode CARDINALITY."""
    matches: Mapping[str, list[str]] = field(default_factory=dict)
    """In the mode REVEALED: each holder's own identifiers that are at all holders, aligned: the lists are equal."""


def run_linkage(
    identifiers: Mapping[str, Sequence[str]], mode: Mode, minimum: int, limit: int, random: Random
) -> Found:
    """A whole linkage in the mode CARDINALITY or REVEALED without a network: the first page for a newcomer, and an
    oracle for tests.

    Left out, because they happen elsewhere: normalising identifiers, signatures, and sealing what goes from holder
    to holder through the coordinator (`trust.hpke`).
    """
    job = sha256("example/job")

    # 1. Holders: each makes a key for this job and announces it with the number of its identifiers.
    keys = {holder: JobKey(job, holder, random) for holder in identifiers}
    announcements = {holder: keys[holder].announce(len(own)) for holder, own in identifiers.items()}
    linkage = Linkage.of(job, announcements, limit)
    if mode is Mode.CARDINALITY and len(identifiers) == 2:
        return Found(published_size(len(_run_diffie_hellman(linkage, keys, identifiers, minimum))))

    owners = {holder: Owner(linkage, holder, keys[holder], own, random) for holder, own in identifiers.items()}
    for holder, owner in owners.items():
        evaluators = {other: Evaluator(linkage, other, keys[other], holder, random) for other in linkage.others(holder)}
        for batch in linkage.batches(holder):
            # 2. Owner: blinds. 3. All others: evaluate. 4. Owner: checks, unblinds, makes tokens.
            blinded = owner.blind(batch)
            owner.finish(batch, {other: side.evaluate(batch, blinded) for other, side in evaluators.items()})
        for side in evaluators.values():
            side.check_complete()

    # 5. Holders: submit their tokens. 6. Coordinator: intersects them.
    submissions = {holder: owner.submission() for holder, owner in owners.items()}
    common = intersect(linkage.sizes, submissions, minimum)
    if mode is Mode.CARDINALITY:
        return Found(published_size(len(common)))

    # 7. Holders: find their own rows.
    revealed = encode_tokens(common)
    places = {holder: owner.matches(revealed, minimum) for holder, owner in owners.items()}
    return Found(len(common), {holder: [identifiers[holder][at] for at in own] for holder, own in places.items()})


def _run_diffie_hellman(
    linkage: Linkage, keys: Mapping[str, JobKey], identifiers: Mapping[str, Sequence[str]], minimum: int
) -> list[bytes]:
    sides = {holder: DiffieHellman(linkage, holder, keys[holder], own) for holder, own in identifiers.items()}
    # Holders: offer their identifiers under their keys. Each makes the other's tokens, for the coordinator.
    offers = {holder: side.offer() for holder, side in sides.items()}
    submissions = {
        holder: sides[other].tokens_of_peer(offers[holder]) for holder in sides for other in linkage.others(holder)
    }
    # Coordinator: intersects.
    return intersect(linkage.sizes, submissions, minimum)
