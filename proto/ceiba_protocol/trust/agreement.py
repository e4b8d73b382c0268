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

from ceiba_protocol.canonical import Digest, Document, FieldName, HexDigest, JobId, MemberName, Seconds, TableName, Text
from ceiba_protocol.disclosure.grade import Disclosure, disclosure_for
from ceiba_protocol.errors import AgreementMismatch, CeibaError, IllegalNotice, NotAgreed, TooFewHolders
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


class Party(Document):
    """A member with the keys that it has now: with other keys it is no party."""

    name: MemberName
    descriptor_digest: HexDigest


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
    operations: tuple[Text, ...]
    """Of OPERATIONS, sorted."""
    purpose: Text
    disclosure: Disclosure
    tolerated: Annotated[int, Field(ge=1, le=1000)]
    """t: how many of the holders may collude with the merchant and the coordinator."""
    smallest_set: Annotated[int, Field(ge=3, le=1000)]
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
        for values in (self.holder_names, self.columns, self.operations):
            if not values or list(values) != sorted(set(values)):
                raise ValueError("holders, columns and operations are some, sorted and distinct")
        if not set(self.operations) <= set(OPERATIONS):
            raise ValueError("an operation is unknown")
        if self.smallest_set > len(self.holders):
            raise ValueError("the smallest set is larger than the whole")
        return self

    @property
    def holder_names(self) -> tuple[str, ...]:
        return tuple(party.name for party in self.holders)

    @property
    def parties(self) -> tuple[Party, ...]:
        return (self.merchant, *self.holders)

    @property
    def minimum_holders(self) -> int:
        """max(3, t+2)."""
        return max(3, self.tolerated + 2)


# --- checks ----------------------------------------------------------------------------------------------------


def check_parties(agreement: Agreement, roster: Roster) -> None:
    """Run by every party before it signs, and again for every job.

    1. It is of this space, and about a table of its roster. 2. Every party is on the roster with exactly these keys,
    and in its role. 3. No smaller set can be asked than the roster's charter and its own t allow.
    Raises AgreementMismatch, UnknownTable, UnknownMember, TooFewHolders.
    """
    if agreement.space != roster.space:
        raise AgreementMismatch(agreement=agreement.agreement_id, problem="it is another space's")
    if roster.table(agreement.table).schema_digest != agreement.schema_digest:
        raise AgreementMismatch(agreement=agreement.agreement_id, problem="the roster has another schema of its table")
    for party in agreement.parties:
        role = Role.MERCHANT if party is agreement.merchant else Role.HOLDER
        check_same_keys(agreement, party, roster.member(party.name, role))
    minimum = max(agreement.minimum_holders, roster.minimum_holders)
    fewest = min(len(agreement.holders), agreement.smallest_set)
    if fewest < minimum:
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
    """Run by every party before it signs: the columns are the schema's, the rules no laxer than their grades demand,
    and what they demand of the set is possible. Important data takes a person at every holder for every job.

    Raises AgreementMismatch, UnknownColumn, GradeForbids, TooFewHolders.
    """
    if (agreement.table, agreement.schema_digest) != (schema.table, schema.digest()):
        raise AgreementMismatch(agreement=agreement.agreement_id, problem="it was made for another schema")
    if not agreement.disclosure.is_at_least(disclosure_for(agreement.columns, schema)):
        problem = "its disclosure rules are laxer than its columns' grades demand"
        raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)
    minimum = max(agreement.disclosure.minimum_set, agreement.disclosure.minimum_holders)
    if agreement.smallest_set < minimum:
        raise TooFewHolders(table=agreement.table, holders=agreement.smallest_set, minimum=minimum)
    if agreement.disclosure.grade is Grade.IMPORTANT and agreement.approval != "each job":
        problem = "important data takes a person's approval of each job"
        raise AgreementMismatch(agreement=agreement.agreement_id, problem=problem)


def check_covers(agreement: Agreement, plan: Plan) -> None:
    """What a plan reads and does is agreed on. Raises NotAgreed, which names what is not."""
    used = {
        "the table": {plan.table} - {agreement.table},
        "columns": plan.columns - set(agreement.columns),
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
        if holders and recent and other.table == agreement.table:
            same = organisation_of(agreement, roster) == organisation_of(other, roster)
            found.append(Overlap(other, holders, same))
    return found


def organisation_of(agreement: Agreement, roster: Roster) -> str:
    """Also of a merchant that was revoked: under a new name it is the same organisation."""
    known = {one.descriptor.name: one.descriptor for one in roster.revoked} | roster.by_name
    merchant = known.get(agreement.merchant.name)
    return merchant.legal_person if merchant else agreement.merchant.name
