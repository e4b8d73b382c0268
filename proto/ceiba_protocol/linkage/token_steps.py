"""Linking all holders of a joint job by tokens, step by step: whole messages in, whole messages out (PROTOCOL §5.3).

`oprf` computes; here is what one holder, or the coordinator, sends in each step of `joint.steps_of`.

| mode | step | message | from → to |
|---|---|---|---|
| CARDINALITY, two holders | OFFER | a·H(id) for each subject of A, sorted | A → B |
| | REPLY | b·H(id) for each subject of B, sorted; tokens of A's subjects, made of the offer, sorted | B → A |
| | SIZE | how many tokens both have | A → merchant |
| CARDINALITY, more; REVEALED | BLINDED | r·H(id) for each subject of an owner | owner → each other |
| | EVALUATED | k·r·H(id), and a proof for each batch | each other → owner |
| | TOKENS | of all its subjects, sorted | owner → coordinator |
| CARDINALITY, more | SIZE | how many tokens all have | coordinator → merchant |
| REVEALED | COMMON | the tokens that all have, sorted, filled up | coordinator → base, each joined |

**Who learns what.** Everybody: the number of subjects that each holder announced, to which its list is filled up with
identifiers that nobody else can have, so that nobody learns how many pass a filter. The lengths of messages, which the
merchant has in its receipt, follow from these numbers alone; COMMON has room for the smallest of them. CARDINALITY
between two: A learns the size as it is, the merchant rounded. Between more: holders learn nothing, the coordinator
which tokens are at which holders, and so the size of every overlap; not whose they are, unless an owner tells it which
tokens are its subjects'. REVEALED: the coordinator learns the same; the base, and each joined holder, which of its own
subjects all others know, whatever is asked of them: filters are no part of it. A holder that is only linked learns
nothing.

**What is taken on trust.** An owner can announce whom it likes: one subject, and for the rest some that it knows to be
at the others, or nobody's. Then the size tells whether the others know that one. The smallest intersection and the
rounding make it dearer; quotas, and signatures on who announced how many, are what is left.
"""

from collections.abc import Collection, Mapping

from ceiba_protocol.errors import AnswerRejected, BadTokens, CountNotKept, MalformedMessage, SetMismatch
from ceiba_protocol.linkage.join_messages import filled
from ceiba_protocol.linkage.joint import MOST_PAYLOAD, JointSet, Kind, Step
from ceiba_protocol.linkage.key_use import PROOF_BYTES
from ceiba_protocol.linkage.oprf import (
    BATCH,
    TOKEN_BYTES,
    DiffieHellman,
    Evaluator,
    JobKey,
    Linkage,
    Owner,
    decode_tokens,
    encode_tokens,
    intersect,
    published_size,
)
from ceiba_protocol.linkage.ristretto import POINT_BYTES
from ceiba_protocol.sums.randomness import Random, random_order
from ceiba_protocol.trust.agreement import Mode

_SIZE_BYTES = 8
MOST_LINKED = MOST_PAYLOAD // POINT_BYTES
"""Subjects of one holder: each is a point in a message."""


def linkage_of(agreed: JointSet) -> Linkage:
    """By whose keys subjects are linked. Raises MalformedMessage, BadGroupElement, BadKeyUse, LinkageTooLarge, and
    SetMismatch for one that announced different numbers."""
    keys = {name: bytes.fromhex(one.token_key or "") for name, one in agreed.approvals.items()}
    linkage = Linkage.of(bytes.fromhex(agreed.question.digest), keys, MOST_LINKED)
    for name, one in agreed.approvals.items():
        if linkage.sizes[name] != one.subjects:
            raise SetMismatch(problem=f"{name} announced two different numbers of subjects")
    return linkage


class TokenSide:
    """One holder's part: `send` takes its steps, which are the methods of their names.

    `key` is the one that its approval announces. `identifiers`: whom it links, normalised and distinct, at most as many
    as it announced. Whoever holds it drops it when the linkage is done, or has failed. Raises what `linkage_of`
    does, CountNotKept.
    """

    def __init__(
        self, agreed: JointSet, me: str, key: JobKey, identifiers: Collection[bytes], random: Random
    ) -> None:  # fmt: skip
        self._linkage, self._fewest, self._me = linkage_of(agreed), agreed.question.fewest_in_common, me
        linkage = self._linkage
        # 1. Fill up to the announced number: nobody else has these, and nobody can tell them from others.
        nobody = [f"nobody {random(32).hex()}" for _ in range(linkage.sizes[me] - len(identifiers))]
        everybody = [*(identifier.decode() for identifier in identifiers), *nobody]
        # 2. In no order of the rows.
        self._identifiers = [everybody[place] for place in random_order(random, len(everybody))]
        # 3. Which of the two ways it goes follows from the steps; either is dropped with the rest.
        self._owner = Owner(linkage, me, key, self._identifiers, random)
        self._evaluators = {owner: Evaluator(linkage, me, key, owner, random) for owner in linkage.others(me)}
        self._key = key
        self._blinded = b""

    def __repr__(self) -> str:
        return f"TokenSide({self._me})"

    def send(self, step: Step, before: Mapping[Step, bytes]) -> bytes:
        """What this holder sends in a step; `before`: what it received in those that the step needs. Raises what the
        steps do, SetMismatch for one that is not of a holder's."""
        received = next(iter(before.values()), b"")
        match step.kind:
            case Kind.OFFER:
                return self.offer()
            case Kind.REPLY:
                return self.reply(received)
            case Kind.SIZE:
                return self.size(received)
            case Kind.BLINDED:
                return self.blinded()
            case Kind.EVALUATED:
                return self.evaluated(step.receiver, received)
            case Kind.TOKENS:
                return self.tokens({one.sender: payload for one, payload in before.items()})
        raise SetMismatch(problem=f"step {step.number} is no holder's of a linkage")

    # --- two holders that count

    def offer(self) -> bytes:
        """OFFER, to the joined holder: 32 bytes for each subject."""
        return self._pair.offer()

    def reply(self, offer: bytes) -> bytes:
        """REPLY, to the base: 32 bytes for each own subject, then 32 for each of the base's. Raises BadGroupElement,
        BadTokens, CountNotKept."""
        return self._pair.offer() + self._pair.tokens_of_peer(offer)

    def size(self, reply: bytes) -> bytes:
        """SIZE, to the merchant: `write_size`. Raises what `reply` does, MalformedMessage, IntersectionTooSmall."""
        (peer,) = self._linkage.others(self._me)
        end = POINT_BYTES * self._linkage.sizes[peer]
        offer, tokens = reply[:end], reply[end:]
        if len(decode_tokens(tokens, peer)) != self._linkage.sizes[self._me]:
            raise MalformedMessage(message=f"reply of {peer}", problem="it has not one token for each subject")
        submissions = {peer: self._pair.tokens_of_peer(offer), self._me: tokens}
        return write_size(len(intersect(self._linkage.sizes, submissions, self._fewest)))

    @property
    def _pair(self) -> DiffieHellman:
        return DiffieHellman(self._linkage, self._me, self._key, self._identifiers)

    # --- tokens under the keys of all

    def blinded(self) -> bytes:
        """BLINDED, to each other holder: 32 bytes for each subject; to all the same, under the same blinds."""
        if not self._blinded:
            self._blinded = b"".join(map(self._owner.blind, self._linkage.batches(self._me)))
        return self._blinded

    def evaluated(self, owner: str, blinded: bytes) -> bytes:
        """EVALUATED, to an owner, for all that it sent: batch by batch 32 bytes for each subject, and a proof of 64.

        Once for each owner. Raises CountNotKept, BadGroupElement.
        """
        announced, sent = self._linkage.sizes[owner], len(blinded) // POINT_BYTES
        if sent != announced or len(blinded) % POINT_BYTES:
            raise CountNotKept(member=owner, announced=announced, problem=f"it sent {sent} points")
        step = BATCH * POINT_BYTES
        batches = self._linkage.batches(owner)
        return b"".join(
            self._evaluators[owner].evaluate(batch, blinded[batch * step : (batch + 1) * step]) for batch in batches
        )

    def tokens(self, answers: Mapping[str, bytes]) -> bytes:
        """TOKENS, to the coordinator: 32 bytes for each subject. `answers`: by evaluator. Must hold before: `blinded`.

        Raises MalformedMessage, BadGroupElement, BadKeyUse.
        """
        start = 0
        for batch in self._linkage.batches(self._me):
            end = start + POINT_BYTES * self._linkage.batch_size(self._me, batch) + PROOF_BYTES
            self._owner.finish(batch, {holder: answer[start:end] for holder, answer in answers.items()})
            start = end
        for holder, answer in answers.items():
            if len(answer) != start:
                raise MalformedMessage(message=f"evaluation of {holder}", problem="it is longer than what was asked")
        return self._owner.submission()

    def common(self, revealed: bytes) -> frozenset[bytes]:
        """Of COMMON: which of the own identifiers all others have. Raises BadTokens, IntersectionTooSmall."""
        if len(revealed) != (room := _room(self._linkage)):
            raise BadTokens(member="the coordinator", problem=f"{len(revealed)} bytes instead of {room}")
        # A token may end in a zero byte, but is none of zero bytes alone.
        end = -(-len(revealed.rstrip(b"\0")) // TOKEN_BYTES) * TOKEN_BYTES
        places = self._owner.matches(revealed[:end], self._fewest)
        return frozenset(self._identifiers[place].encode() for place in places)


# --- the coordinator -------------------------------------------------------------------------------------------


def coordinator_link(agreed: JointSet, submissions: Mapping[str, bytes]) -> bytes:
    """COMMON, the same to each holder, or SIZE; `submissions`: by holder, its TOKENS.

    1 s for each million tokens. Raises BadTokens, CountNotKept, IntersectionTooSmall, and what `linkage_of` does.
    """
    question, linkage = agreed.question, linkage_of(agreed)
    common = intersect(linkage.sizes, submissions, question.fewest_in_common)
    if question.plan.mode is not Mode.REVEALED:
        return write_size(len(common))
    return filled(encode_tokens(common), _room(linkage))


def _room(linkage: Linkage) -> int:
    """Bytes of COMMON: of as many tokens as all can have, with zero bytes after those that they have."""
    return TOKEN_BYTES * min(linkage.sizes.values())


# --- the merchant ----------------------------------------------------------------------------------------------


def write_size(size: int) -> bytes:
    """What the merchant is told of it: 8 bytes, as `published_size` rounds it."""
    return published_size(size).to_bytes(_SIZE_BYTES, "big")


def read_size(agreed: JointSet, payload: bytes) -> int:
    """Of SIZE: how many subjects all have, rounded. Raises AnswerRejected for a number that nobody may publish."""
    size, most = int.from_bytes(payload, "big"), min(one.subjects for one in agreed.approvals.values())
    least = agreed.question.fewest_in_common
    may_be = published_size(least) <= size <= published_size(most) and size == published_size(size)
    if len(payload) != _SIZE_BYTES or not may_be:
        raise AnswerRejected(problem="the number of subjects is not rounded, too small, or larger than announced")
    return size
