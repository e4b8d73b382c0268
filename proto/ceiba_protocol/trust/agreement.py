"""Agreements: the contracts under which questions are answered, and their states as a table (PROTOCOL §2.6).

Every party signs the same bytes; the coordinator distributes them and can change nothing. The set of holders belongs to
the agreement: every job under it asks all of them. What a party says about an agreement later is a notice, and an
agreement's state follows from its signatures and notices alone, in whatever order they arrive.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ceiba_protocol.canonical import (
    Digest,
    Document,
    FieldName,
    Hex32,
    HexDigest,
    JobId,
    MemberName,
    Seconds,
    TableName,
    Text,
)
from ceiba_protocol.disclosure.grade import Disclosure, disclosure_for
from ceiba_protocol.errors import AgreementMismatch, CeibaError, IllegalNotice, NotAgreed, SetMismatch, TooFewHolders
from ceiba_protocol.expression import seeds_of
from ceiba_protocol.plan import Plan
from ceiba_protocol.schema import Grade, Schema
from ceiba_protocol.statistics import STATISTICS
from ceiba_protocol.trust.roster import Descriptor, Role, Roster
from ceiba_protocol.v1.common_pb2 import Signed

DAY = 24 * 3600
NEARBY_SECONDS = 30 * DAY
"""How long two sets that nearly coincide may not both be answered to the same merchant."""
LONGEST_AGREEMENT = 3 * 366 * DAY
FILTER, GROUP = "filter", "group by"
"""Operations besides the statistics: choosing rows, and one result for each group."""
OPERATIONS = (FILTER, GROUP, *sorted(STATISTICS))
FEWEST_SUMMED = 3
KEPT_SECONDS = 30 * DAY
"""How long a holder keeps at most which of its subjects all the others know, where an agreement lets it."""
JOIN, SCORE = "join", "score"
JOINT_OPERATIONS = (JOIN, SCORE)
"""What only joint agreements can allow: figures of subjects that several holders know, and scores of single ones."""


class Party(Document):
    """A member with the keys that it has now: with other keys it is no party."""

    name: MemberName
    descriptor_digest: HexDigest


class Side(Document):
    """What one holder brings to a joint agreement."""

    holder: MemberName
    table: TableName
    schema_digest: HexDigest
    columns: tuple[FieldName, ...]
    """Those that a question may read, sorted."""


class ConsentIssuer(Document):
    """Who may attest that a subject has consented to be scored."""

    name: Text
    key: Hex32
    """Ed25519 public key."""


class Mode(StrEnum):
    """What becomes known of which subjects two holders have in common (PROTOCOL §5.3)."""

    HIDDEN = "hidden"
    """Nobody learns it; figures of it are released group by group."""
    CARDINALITY = "cardinality"
    """How many they are, and nothing else."""
    REVEALED = "revealed"
    """The holders learn which of their own subjects all the others know."""


class JointTerms(Document):
    """What is agreed on subjects that several holders know different things about (PROTOCOL §5)."""

    others: Annotated[tuple[Side, ...], Field(min_length=1)]
    """Every holder's side but one, sorted by holder: the agreement's own table and columns are the last one's."""
    identifiers: tuple[FieldName, ...]
    """By which column of identifiers each holder's subjects are found, in the order of the agreement's holders."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    """Sorted."""
    smallest_intersection: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Nothing at all is answered about fewer subjects in common, which a base counts with noise in jobs with noise."""
    base_is_trusted: bool
    """Every holder takes the base's word for how many subjects are behind its groups, which nobody can check (§5.4):
    answers may be exact. Otherwise they carry noise."""
    bases: Annotated[tuple[MemberName, ...], Field(min_length=1)]
    """Holders that may be the base, sorted: it is their word that is taken, and they who learn how many subjects of
    each of their groups another knows."""
    consent_issuers: tuple[ConsentIssuer, ...] = ()
    """Sorted by name. Without one nobody is scored."""
    scores_per_day: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Of one subject, whatever the model."""
    jobs_per_linkage: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How many jobs may be about subjects that were linked once, in the mode REVEALED, with the job that linked them.
    One: nothing of a linkage is kept."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.jobs_per_linkage > 1 and Mode.REVEALED not in self.modes:
            raise ValueError("only what is revealed can serve several jobs")
        holders, issuers = [side.holder for side in self.others], [one.name for one in self.consent_issuers]
        for values in (holders, self.modes, self.bases, issuers):
            if list(values) != sorted(set(values)):
                raise ValueError("other sides, modes, bases and issuers of consent are sorted and distinct")
        return self


class Agreement(Document):
    """Who may compute what of whom, for which purpose, how often, until when."""

    suite: Literal["K1"] = "K1"
    space: MemberName
    agreement_id: JobId
    merchant: Party
    holders: tuple[Party, ...]
    """The whole set, sorted by name. Adding or removing one is a new agreement."""
    table: TableName
    schema_digest: HexDigest
    columns: tuple[FieldName, ...]
    """Those that a question may read, sorted."""
    joint: JointTerms | None = None
    """Where the holders have different tables about the same subjects; None where all have the one table."""
    operations: tuple[Text, ...]
    """Of OPERATIONS and, in a joint agreement, JOINT_OPERATIONS; sorted."""
    purpose: Text
    disclosure: Disclosure
    tolerated: Annotated[int, Field(ge=1, le=1000)]
    """t: how many of the holders may collude with the merchant and the coordinator."""
    smallest_set: Annotated[int, Field(ge=2, le=1000)]
    """How many holders must at least answer a job that others have left with an abort token; all, if none may."""
    jobs: Annotated[int, Field(ge=1, le=1_000_000)]
    """How many jobs in all. An aborted or refused one counts."""
    approval: Literal["standing", "each job"]
    """Whether a person at each holder decides on each job."""
    not_before: Seconds
    not_after: Seconds

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.not_before < self.not_after <= self.not_before + LONGEST_AGREEMENT:
            raise ValueError("it must end after it begins, within three years")
        columns = [side.columns for side in self.joint.others] if self.joint else []
        for values in (self.holder_names, self.operations, self.columns, *columns):
            if not values or list(values) != sorted(set(values)):
                raise ValueError("holders, columns and operations are some, sorted and distinct")
        if not set(self.operations) <= {*OPERATIONS, *(JOINT_OPERATIONS if self.joint else ())}:
            raise ValueError("an operation is unknown")
        if self.smallest_set > len(self.holders):
            raise ValueError("the smallest set is larger than the whole")
        if self.joint is not None:
            self._check_joint(self.joint)
        elif self.smallest_set < FEWEST_SUMMED:
            raise ValueError("of two holders each could subtract itself from a sum")
        return self

    def _check_joint(self, joint: JointTerms) -> None:
        others = [side.holder for side in joint.others]
        if len(set(self.holder_names) - set(others)) != 1 or len(others) != len(self.holders) - 1:
            raise ValueError("a joint agreement has one side for each holder")
        if len(joint.identifiers) != len(self.holders):
            raise ValueError("a joint agreement has one identifier for each holder")
        if not set(joint.bases) <= set(self.holder_names):
            raise ValueError("a base is no holder of the agreement")
        if self.smallest_set != len(self.holders):
            raise ValueError("no holder can leave a joint job")

    @property
    def holder_names(self) -> tuple[str, ...]:
        return tuple(party.name for party in self.holders)

    @property
    def parties(self) -> tuple[Party, ...]:
        return (self.merchant, *self.holders)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Each holder's table and columns, sorted by holder."""
        others = {side.holder: side for side in self.joint.others} if self.joint else {}
        return tuple(others.get(name) or self._own_side(name) for name in self.holder_names)

    def _own_side(self, holder: str) -> Side:
        return Side(holder=holder, table=self.table, schema_digest=self.schema_digest, columns=self.columns)

    def side_of(self, holder: str) -> Side:
        """Raises SetMismatch for one who is no party."""
        for side in self.sides:
            if side.holder == holder:
                return side
        raise SetMismatch(problem=f"{holder} is not in the agreement")

    def identifier_of(self, holder: str) -> str | None:
        """By which column its subjects are found; None where only sums are agreed on. Raises SetMismatch."""
        self.side_of(holder)
        return self.joint.identifiers[self.holder_names.index(holder)] if self.joint else None

    @property
    def tables(self) -> str:
        """The tables that it is about, for people."""
        return ", ".join(dict.fromkeys(side.table for side in self.sides))

    @property
    def fewest_in_common(self) -> int:
        """With fewer subjects at all holders nothing is said of them, not even how many they are: whatever is agreed on
        that, never fewer than a released cell has."""
        minimum = self.disclosure.minimum_subjects if self.disclosure.has_gate else 1
        return max(minimum, self.joint.smallest_intersection if self.joint else 1)

    @property
    def minimum_holders(self) -> int:
        """max(3, t+2)."""
        return max(3, self.tolerated + 2)


# --- checks ----------------------------------------------------------------------------------------------------


def check_parties(agreement: Agreement, roster: Roster) -> None:
    """Run by every party before it signs, and again for every job.

    1. It is of this space, and about a table of its roster. 2. Every party is on the roster with exactly these keys,
    and in its role. 3. No smaller set can be asked than the roster's charter and its own t allow; in a joint one, where
    no holder adds to another's figures, two are enough.
    Raises AgreementMismatch, UnknownTable, UnknownMember, TooFewHolders.
    """
    if agreement.space != roster.space:
        raise AgreementMismatch(agreement=agreement.agreement_id, problem="it is another space's")
    for side in agreement.sides:
        if roster.table(side.table).schema_digest != side.schema_digest:
            problem = f"the roster has another schema of {side.table}"
            raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
    for party in agreement.parties:
        role = Role.MERCHANT if party is agreement.merchant else Role.HOLDER
        check_same_keys(agreement, party, roster.member(party.name, role))
    minimum = max(agreement.minimum_holders, roster.minimum_holders)
    fewest = min(len(agreement.holders), agreement.smallest_set)
    if agreement.joint is None and fewest < minimum:
        raise TooFewHolders(table=agreement.table, holders=fewest, minimum=minimum)


def no_party_now(agreement: Agreement, roster: Roster) -> str | None:
    """Why nothing is answered under an agreement that the parties have signed, in words, if a roster is the reason."""
    try:
        check_parties(agreement, roster)
    except CeibaError as error:
        revoked = {one.descriptor.name for one in roster.revoked}
        for party in agreement.parties:
            member = roster.by_name.get(party.name)
            if member is None and party.name in revoked:
                return f"{party.name} was revoked"
            if member is not None and member.digest() != party.descriptor_digest:
                return f"{party.name} has other keys now"
        return error.public.rstrip(".")
    return None


def check_same_keys(agreement: Agreement, party: Party, member: Descriptor) -> None:
    """The member has the keys that the agreement was signed with and for. Raises AgreementMismatch."""
    if member.digest() != party.descriptor_digest:
        raise AgreementMismatch(agreement=agreement.agreement_id, problem=f"{party.name} has other keys now")


def check_terms(agreement: Agreement, schema: Schema) -> None:
    """Run by every party before it signs: columns and identifiers are the schema's, the rules no laxer than the
    columns' grades demand, and what they demand of the set is possible. Important data takes a person at every holder
    for every job.

    Of a joint agreement each holder checks its own side, and whoever has all schemas, every side.
    Raises AgreementMismatch, UnknownColumn, GradeForbids, TooFewHolders.
    """
    sides = [one for one in agreement.sides if (one.table, one.schema_digest) == (schema.table, schema.digest())]
    if not sides:
        raise AgreementMismatch(agreement=agreement.agreement_id, problem="it was made for another schema")
    for side in sides if agreement.joint else ():
        if agreement.identifier_of(side.holder) not in schema.identifier_columns:
            problem = f"{agreement.identifier_of(side.holder)} is no identifier of {schema.table}"
            raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
    if not all(agreement.disclosure.is_at_least(disclosure_for(side.columns, schema)) for side in sides):
        problem = "its disclosure rules are laxer than its columns' grades demand"
        raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
    minimum = max(agreement.disclosure.minimum_set, agreement.disclosure.minimum_holders)
    if agreement.joint is None and agreement.smallest_set < minimum:
        raise TooFewHolders(table=agreement.table, holders=agreement.smallest_set, minimum=minimum)
    if agreement.disclosure.grade is Grade.IMPORTANT and agreement.approval != "each job":
        problem = "important data takes a person's approval of each job"
        raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)


def check_covers(agreement: Agreement, plan: Plan) -> None:
    """What a plan reads and does is agreed on. Raises NotAgreed, which names what is not."""
    if agreement.joint is not None:
        raise NotAgreed(agreement=agreement.agreement_id, what="questions to one table: it is a joint agreement")
    check_side_covers(agreement, agreement.sides[0], plan)


def check_side_covers(agreement: Agreement, side: Side, plan: Plan) -> None:
    """What a plan reads and does of one side's table is agreed on. Raises NotAgreed, which names what is not."""
    used = {
        "the table": {plan.table} - {side.table},
        "columns": plan.columns - set(side.columns),
        "operations": operations_of(plan) - set(agreement.operations),
        "another seed of a split than its purpose:": foreign_seeds(agreement, plan),
    }
    for what, missing in used.items():
        if missing:
            raise NotAgreed(agreement=agreement.agreement_id, what=f"{what} {', '.join(sorted(missing))}")


def foreign_seeds(agreement: Agreement, plan: Plan) -> frozenset[str]:
    """Seeds of splits other than the agreement's purpose, where cells are protected: whoever chose seeds could choose
    ever new sets of people that it knows (ADR 0019)."""
    return seeds_of(plan) - {agreement.purpose} if agreement.disclosure.has_gate else frozenset()


def operations_of(plan: Plan) -> set[str]:
    """The operations that a plan needs, of OPERATIONS."""
    statistics = {output.statistic.name() for output in plan.outputs}
    return statistics | ({FILTER} if plan.filter is not None else set()) | ({GROUP} if plan.groups else set())


# --- what parties say later ------------------------------------------------------------------------------------


class Word(StrEnum):
    """What a party says about an agreement."""

    REFUSE = "refuse"
    """A holder will not sign, or takes its signature back before the others have signed."""
    WITHDRAW = "withdraw"
    """The merchant takes its proposal back."""
    SUSPEND = "suspend"
    RESUME = "resume"
    """Ends the same party's suspension."""
    TERMINATE = "terminate"


class Notice(Document):
    """A party's word on an agreement. Signed by a holder's officer, or by the merchant."""

    agreement_digest: HexDigest
    member: MemberName
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    """One more than in this party's last notice on this agreement, so that an old one cannot be replayed over it."""
    word: Word
    reason: Text
    at: Seconds


class State(StrEnum):
    PROPOSED = "proposed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    TERMINATED = "terminated"


class Event(StrEnum):
    LAST_SIGNATURE = "last_signature"
    """Every party has signed."""
    REFUSAL = "refusal"
    WITHDRAWAL = "withdrawal"
    SUSPENSION = "suspension"
    """At least one party's latest word is to suspend; when each has resumed, this is no event any more."""
    TERMINATION = "termination"
    END = "end"
    """Its time is over."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PROPOSED, Event.LAST_SIGNATURE): State.ACTIVE,
    (State.PROPOSED, Event.REFUSAL): State.REFUSED,
    (State.PROPOSED, Event.WITHDRAWAL): State.WITHDRAWN,
    (State.PROPOSED, Event.SUSPENSION): State.PROPOSED,
    (State.PROPOSED, Event.TERMINATION): State.REFUSED,
    (State.PROPOSED, Event.END): State.EXPIRED,
    (State.ACTIVE, Event.SUSPENSION): State.SUSPENDED,
    (State.ACTIVE, Event.REFUSAL): State.TERMINATED,
    (State.ACTIVE, Event.WITHDRAWAL): State.TERMINATED,
    (State.ACTIVE, Event.TERMINATION): State.TERMINATED,
    (State.ACTIVE, Event.END): State.EXPIRED,
    (State.SUSPENDED, Event.REFUSAL): State.TERMINATED,
    (State.SUSPENDED, Event.WITHDRAWAL): State.TERMINATED,
    (State.SUSPENDED, Event.TERMINATION): State.TERMINATED,
    (State.SUSPENDED, Event.END): State.EXPIRED,
}
"""Applied in the order of Event to whatever has happened; a state that nothing leads out of stays."""

_EVENT_OF = {
    Word.REFUSE: Event.REFUSAL,
    Word.WITHDRAW: Event.WITHDRAWAL,
    Word.TERMINATE: Event.TERMINATION,
}


@dataclass(frozen=True)
class Contract:
    """An agreement with the signatures and notices that one party knows of, all verified. Made by `read_contract`."""

    agreement: Agreement
    signatures: dict[str, Signed]
    """By party; each holds the same bytes."""
    notices: tuple[Notice, ...]

    @cached_property
    def digest(self) -> Digest:
        return self.agreement.digest()

    @property
    def missing(self) -> tuple[str, ...]:
        """The parties that have not signed."""
        return tuple(party.name for party in self.agreement.parties if party.name not in self.signatures)

    def latest_number(self, member: str) -> int:
        return max((notice.number for notice in self.notices if notice.member == member), default=0)

    def suspends(self, member: str) -> bool:
        """Whether its latest word is to suspend. Of two with the same number this counts, whichever arrived first."""
        latest = self.latest_number(member)
        said = {notice.word for notice in self.notices if (notice.member, notice.number) == (member, latest)}
        return Word.SUSPEND in said

    def events(self, now: int) -> set[Event]:
        """What has happened to it."""
        events = {_EVENT_OF[notice.word] for notice in self.notices if notice.word in _EVENT_OF}
        if any(self.suspends(notice.member) for notice in self.notices):
            events.add(Event.SUSPENSION)
        if not self.missing:
            events.add(Event.LAST_SIGNATURE)
        if now > self.agreement.not_after:
            events.add(Event.END)
        return events

    def state(self, now: int) -> State:
        """`now`: seconds since 1970 UTC."""
        state, happened = State.PROPOSED, self.events(now)
        for event in Event:
            if event in happened:
                state = TRANSITIONS.get((state, event), state)
        return state


def read_contract(signatures: Iterable[Signed], notices: Iterable[Signed], roster: Roster) -> Contract:
    """Run by everybody who receives an agreement: every signature is a party's, on the same bytes.

    Raises AgreementMismatch, UnknownMember, BadSignature, MalformedDocument.
    """
    signed = list(signatures)
    if not signed:
        raise AgreementMismatch(agreement="an agreement", problem="nobody has signed it")
    agreement = roster.open_any(signed[0], Agreement)
    names = {party.name for party in agreement.parties}
    for one in signed:
        if one.body != signed[0].body or one.signer not in names:
            problem = f"the signature of {one.signer} is no party's, or on other bytes"
            raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
        roster.open_any(one, Agreement)
    digest = agreement.digest()
    opened = tuple(_read_notice(notice, agreement, digest, roster) for notice in notices)
    return Contract(agreement, {one.signer: one for one in signed}, opened)


def _read_notice(signed: Signed, agreement: Agreement, digest: Digest, roster: Roster) -> Notice:
    notice = roster.open_any(signed, Notice)
    if notice.member != signed.signer or notice.agreement_digest != digest:
        raise AgreementMismatch(
            agreement=agreement.agreement_id, problem="a notice is about another agreement or member"
        )
    allowed = set(Word) - ({Word.WITHDRAW} if signed.signer != agreement.merchant.name else {Word.REFUSE})
    if signed.signer not in {party.name for party in agreement.parties} or notice.word not in allowed:
        raise IllegalNotice(member=signed.signer, word=notice.word, agreement=agreement.agreement_id)
    return notice


def give_notice(contract: Contract, member: str, word: Word, reason: str, now: int) -> Notice:
    """Run by a party that has something to say about an agreement. Raises IllegalNotice where it would change nothing.

    Refusing and withdrawing are for what is not active yet, terminating for what is.
    """
    state = contract.state(now)
    possible = {
        State.PROPOSED: {Word.REFUSE, Word.WITHDRAW},
        State.ACTIVE: {Word.SUSPEND, Word.TERMINATE},
        State.SUSPENDED: {Word.SUSPEND, Word.RESUME, Word.TERMINATE},
    }
    is_party = member in {party.name for party in contract.agreement.parties}
    without = {Word.REFUSE} if member == contract.agreement.merchant.name else {Word.WITHDRAW}
    without.add(Word.SUSPEND if contract.suspends(member) else Word.RESUME)
    if not is_party or word not in possible.get(state, set()) - without:
        raise IllegalNotice(member=member, word=word, agreement=f"{contract.agreement.agreement_id}, which is {state}")
    return Notice(
        agreement_digest=contract.digest,
        member=member,
        number=contract.latest_number(member) + 1,
        word=word,
        reason=reason,
        at=now,
    )


# --- sets that nearly coincide ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Another agreement over the same table whose set differs by so few holders that two totals could show them."""

    other: Agreement
    holders: tuple[str, ...]
    """Those in one set and not in the other."""
    same_merchant: bool


def differ_by_few(one: Iterable[str], other: Iterable[str], minimum: int) -> tuple[str, ...]:
    """The holders in exactly one of two sets, if the sets differ and these are fewer than `minimum`."""
    difference = set(one) ^ set(other)
    return tuple(sorted(difference)) if len(difference) < minimum else ()


def overlaps(agreement: Agreement, others: Sequence[Agreement], roster: Roster, now: int) -> list[Overlap]:
    """Run by a holder before it signs: agreements of the last 30 days that endanger somebody together with this one.

    The same merchant means the same organisation, whatever it calls itself.
    """
    found = []
    for other in others:
        recent = other.not_after > now - NEARBY_SECONDS
        minimum = max(agreement.minimum_holders, other.minimum_holders, roster.minimum_holders)
        holders = differ_by_few(agreement.holder_names, other.holder_names, minimum)
        is_sum = agreement.joint is None and other.joint is None  # the figures of a join are no holder's share of a sum
        if holders and recent and is_sum and other.table == agreement.table:
            same = organisation_of(agreement, roster) == organisation_of(other, roster)
            found.append(Overlap(other, holders, same))
    return found


def organisation_of(agreement: Agreement, roster: Roster) -> str:
    """Also of a merchant that was revoked: under a new name it is the same organisation."""
    known = {one.descriptor.name: one.descriptor for one in roster.revoked} | roster.by_name
    merchant = known.get(agreement.merchant.name)
    return merchant.legal_person if merchant else agreement.merchant.name
