"""Agreements as a merchant proposes, follows and ends them: `space.agreements`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import grpc

from ceiba.choosing import AnyWish, choose, require_fit
from ceiba.display import Listing
from ceiba.polling import backing_off
from ceiba.terms import built
from ceiba_protocol.disclosure.grade import ORDER, Disclosure, disclosure_for
from ceiba_protocol.errors import (
    AgreementNotActive,
    BadQuestion,
    CeibaError,
    DatasetMissing,
    SeveralHolders,
    UnknownAgreement,
)
from ceiba_protocol.schema import Grade, Schema, nearest
from ceiba_protocol.statistics.count import Count
from ceiba_protocol.trust.agreement import (
    DAY,
    JOIN,
    JOINT_OPERATIONS,
    OPERATIONS,
    SCORE,
    Agreement,
    ConsentIssuer,
    Contract,
    JointTerms,
    Mode,
    Notice,
    Party,
    Side,
    State,
    Word,
    check_parties,
    check_terms,
    give_notice,
    no_party_now,
    read_contract,
)
from ceiba_protocol.trust.rendering import moment, render
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.agreements_pb2 import AgreementEvidence, ListAgreementsRequest, SubmitAgreementRequest
from ceiba_protocol.v1.agreements_pb2_grpc import AgreementsStub
from ceiba_protocol.wire import from_rpc_error

if TYPE_CHECKING:
    from ceiba.space import Space

CALL_SECONDS = 30.0
JOBS, DAYS = 100, 90
SMALLEST_INTERSECTION, SCORES_PER_DAY = 20, 3
"""What is proposed if the merchant says nothing."""
ID_SHOWN = 12
"""Digits of an agreement's id in a table; any first digits that fit one agreement name it."""


class AgreementHandle:
    """One agreement of this merchant, as it was last seen; `state`, `wait` and `refresh` ask again."""

    def __init__(self, agreements: Agreements, contract: Contract) -> None:
        self._agreements = agreements
        self.contract = contract

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.contract.agreement.agreement_id

    @property
    def text(self) -> str:
        """What the holders read before they sign, with the state that was last seen."""
        roster = self._agreements.space.roster
        return "\n".join(render(self.contract, roster.as_of(0), _now(), today=roster))

    def __repr__(self) -> str:
        return self.text

    def refresh(self) -> AgreementHandle:
        """Ask the coordinator for signatures and notices. Raises UnknownAgreement, NotReachable."""
        self.contract = self._agreements.contract(self.id)
        return self

    def state(self) -> State:
        """What it is now, from what the parties have signed."""
        return self.refresh().contract.state(_now())

    def wait(self, deadline: float = 600) -> AgreementHandle:
        """Until every party has signed; `deadline` in seconds.

        Raises AgreementNotActive if it is refused, withdrawn, ended, or still proposed at the deadline.
        """
        state = State.PROPOSED
        for _ in backing_off(deadline):
            state = self.state()
            if state is not State.PROPOSED:
                break
        if state is not State.ACTIVE:
            raise AgreementNotActive(agreement=self.id, state=state)
        return self

    def withdraw(self, reason: str = "") -> None:
        """Take back a proposal that not everybody has signed. Raises IllegalNotice."""
        self._say(Word.WITHDRAW, reason)

    def suspend(self, reason: str = "") -> None:
        """Nothing is answered under it until this merchant resumes it. Raises IllegalNotice."""
        self._say(Word.SUSPEND, reason)

    def resume(self, reason: str = "") -> None:
        """End this merchant's own suspension. Raises IllegalNotice."""
        self._say(Word.RESUME, reason)

    def terminate(self, reason: str = "") -> None:
        """End it for good. Raises IllegalNotice."""
        self._say(Word.TERMINATE, reason)

    def _say(self, word: Word, reason: str) -> None:
        me = self._agreements.space.identity.name
        notice = built(give_notice, contract=self.refresh().contract, member=me, word=word, reason=reason, now=_now())
        self.contract = self._agreements.submit(notice)


class AgreementList(Listing[AgreementHandle]):
    """Agreements, oldest first; shows itself as a table."""

    noun = "agreements"

    def facts(self, entry: AgreementHandle) -> dict[str, Any]:
        return entry._agreements.facts(entry.contract)


class Agreements:
    """This merchant's agreements: call it for all, `space.agreements()`, or take one, `space.agreements["3f2a"]`."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._stub = AgreementsStub(space.channel)

    def __call__(self) -> AgreementList:
        """Raises NotReachable."""
        return self.space.with_newest_roster(self._list)

    def _list(self) -> AgreementList:
        contracts, unread = self._contracts()
        notes = [f"Left out, because they do not verify under the pinned roster: {unread}"] if unread else []
        return AgreementList([AgreementHandle(self, contract) for contract in contracts], notes)

    def __getitem__(self, beginning: str) -> AgreementHandle:
        """The agreement whose id begins so. Raises UnknownAgreement unless it is exactly one."""
        return AgreementHandle(self, self.contract(beginning))

    # --- proposing

    def propose(
        self,
        table: str,
        *,
        purpose: str,
        columns: Sequence[str] | None = None,
        operations: Sequence[str] | None = None,
        holders: Sequence[str] | None = None,
        jobs: int = JOBS,
        days: int = DAYS,
        approval: Literal["standing", "each job"] = "standing",
        tolerated: int | None = None,
        smallest_set: int | None = None,
        rules: Mapping[str, Any] | None = None,
    ) -> AgreementHandle:
        """Sign an agreement and ask the holders to sign it; `wait` for them.

        >>> space.agreements.propose("health.heart", purpose="premium study", columns=["age", "sex"], jobs=20).wait()

        Left out: every column that may be asked about at all, every operation, all the table's holders, the roster's
        number of tolerated colluders, and a smallest set of all of them. Asking for less is granted sooner.
        `rules`: disclosure rules that are stricter than the columns' grades demand, such as {"minimum_subjects": 20}.
        `approval`: whether a person at each holder decides on each job. Raises UnknownTable, UnknownColumn,
        UnknownMember, DatasetMissing, BadQuestion, GradeForbids, TooFewHolders, NotReachable.
        """
        schema = self.space.table(table).schema
        names = sorted(set(self._holders(table) if holders is None else holders))
        asked = sorted(set(_may_be_asked(schema) if columns is None else columns))
        agreement = self._drafted(
            names,
            table=table,
            schema_digest=schema.digest(),
            columns=tuple(asked),
            operations=tuple(sorted(_operations(operations, OPERATIONS))),
            purpose=purpose,
            disclosure=built(Disclosure, **{**dict(disclosure_for(asked, schema)), **(rules or {})}),
            tolerated=self.space.roster.charter.tolerated if tolerated is None else tolerated,
            smallest_set=len(names) if smallest_set is None else smallest_set,
            jobs=jobs,
            approval=approval,
            days=days,
        )
        if strangers := sorted(set(names) - set(self._holders(table))):
            raise DatasetMissing(holders=", ".join(strangers), table=table)
        return self._proposed(agreement, [schema])

    def propose_joint(
        self,
        tables: Sequence[str] | Mapping[str, Sequence[str] | None],
        *,
        purpose: str,
        on: str | Mapping[str, str] | None = None,
        holder: Mapping[str, str] | None = None,
        operations: Sequence[str] | None = None,
        modes: Sequence[Mode | str] = (Mode.HIDDEN,),
        smallest_intersection: int = SMALLEST_INTERSECTION,
        base_is_trusted: bool = False,
        bases: Sequence[str] | None = None,
        consent_issuers: Sequence[ConsentIssuer] = (),
        scores_per_day: int = SCORES_PER_DAY,
        jobs_per_linkage: int = 1,
        jobs: int = JOBS,
        days: int = DAYS,
        approval: Literal["standing", "each job"] = "standing",
        rules: Mapping[str, Any] | None = None,
    ) -> AgreementHandle:
        """As `propose`, for tables about the same subjects that different holders have; what `space.join` asks under.

        >>> tables = {"tax.firms": ["industry", "sales"], "insurance.firms": ["employment", "wages"]}
        >>> space.agreements.propose_joint(tables, purpose="credit study", base_is_trusted=True).wait()

        `tables`: with the columns of each, or without: then every one that may be asked about. `on`: by which
        identifier subjects are found, in all tables or by table; left out, by the only one. `holder`: whose table is
        meant where several have one. `modes`: what becomes known of which subjects they have in common, "hidden",
        "cardinality" or "revealed". Nothing is answered about fewer than `smallest_intersection` of them.
        `base_is_trusted`: every holder signs that it takes another's word for how many subjects are behind its groups,
        which it cannot check; without that there are no exact figures. `bases`: the holders whose word that is, which
        may group the others' figures; all if left out. `consent_issuers`: who may attest that a subject has agreed to
        be scored, at most `scores_per_day` times. `jobs_per_linkage`: how many jobs may be about subjects that were
        linked once, "revealed"; with more than one, holders keep in memory which of their subjects all others know. The
        rules are those of the strictest table.
        Counting and joining are always agreed, unless "score" is all that is asked for.

        Raises what `propose` does, SeveralHolders and NotAnIdentifier.
        """
        sides = self._sides(tables, holder or {})
        schemas = {table: self.space.table(table).schema for table in tables}
        names = sorted(side.holder for side in sides)
        if len(set(names)) != len(names) or len(names) < 2:
            problem = f"a joint agreement is between holders of different tables, and these are {', '.join(names)}"
            raise BadQuestion(problem=problem, hint="Name tables of two holders or more.")
        least = max((disclosure_for(side.columns, schemas[side.table]) for side in sides), key=_strictness)
        *others, last = sorted(sides, key=lambda side: side.holder)
        agreement = self._drafted(
            names,
            table=last.table,
            schema_digest=last.schema_digest,
            columns=last.columns,
            joint=built(
                JointTerms,
                others=tuple(others),
                identifiers=tuple(_identifier(schemas[side.table], on) for side in (*others, last)),
                modes=tuple(sorted(map(_mode, modes))),
                smallest_intersection=smallest_intersection,
                base_is_trusted=base_is_trusted,
                bases=tuple(sorted(set(names if bases is None else bases))),
                consent_issuers=tuple(sorted(consent_issuers, key=lambda issuer: issuer.name)),
                scores_per_day=scores_per_day,
                jobs_per_linkage=jobs_per_linkage,
            ),
            operations=tuple(sorted(_joint_operations(operations, scores=bool(consent_issuers)))),
            purpose=purpose,
            disclosure=built(Disclosure, **{**dict(least), **(rules or {})}),
            tolerated=1,
            smallest_set=len(names),
            jobs=jobs,
            approval=approval,
            days=days,
        )
        return self._proposed(agreement, schemas.values())

    def _sides(
        self, tables: Sequence[str] | Mapping[str, Sequence[str] | None], chosen: Mapping[str, str]
    ) -> list[Side]:
        """What each holder brings."""
        columns = tables if isinstance(tables, Mapping) else dict.fromkeys(tables)
        sides = []
        for table, wanted in columns.items():
            schema = self.space.table(table).schema
            asked = _may_be_asked(schema) if wanted is None else wanted
            sides.append(
                built(
                    Side,
                    holder=one_holder(self.space.roster, table, chosen),
                    table=table,
                    schema_digest=schema.digest(),
                    columns=tuple(sorted(set(asked))),
                )
            )
        return sides

    def _drafted(self, holders: Sequence[str], *, days: int, **terms: Any) -> Agreement:
        """An agreement from now on between this merchant and these holders."""
        now = _now()
        return built(
            Agreement,
            space=self.space.roster.space,
            agreement_id=secrets.token_hex(16),
            merchant=self._party(self.space.identity.name, Role.MERCHANT),
            holders=tuple(self._party(name, Role.HOLDER) for name in holders),
            not_before=now,
            not_after=now + days * DAY,
            **terms,
        )

    def _proposed(self, agreement: Agreement, schemas: Iterable[Schema]) -> AgreementHandle:
        """Signed and sent, if every party could sign it."""
        check_parties(agreement, self.space.roster)
        for schema in schemas:
            check_terms(agreement, schema)
        return AgreementHandle(self, self.submit(agreement))

    def _holders(self, table: str) -> tuple[str, ...]:
        return self.space.roster.table(table).holders

    def _party(self, name: str, role: Role) -> Party:
        return Party(name=name, descriptor_digest=self.space.roster.member(name, role).digest())

    # --- what `Space.submit` and `explain` need

    def choose(self, wish: AnyWish, named: AgreementHandle | str | None = None) -> Contract:
        """The agreement to ask under. Raises NoAgreement; for a named one also NotAgreed, AgreementNotActive."""
        asked, roster = self.space.home.jobs_asked, self.space.roster
        if named is None:
            return choose(self._contracts()[0], wish, roster, asked)
        contract = self.contract(named if isinstance(named, str) else named.id)
        return require_fit(contract, wish, roster, asked(contract.agreement))

    # --- asking the coordinator

    def contract(self, beginning: str) -> Contract:
        """The one whose id begins so, as it is now. Raises UnknownAgreement."""
        found = [one for one in self._contracts()[0] if one.agreement.agreement_id.startswith(beginning.lower())]
        if len(found) != 1 or not beginning:
            raise UnknownAgreement(agreement=beginning)
        return found[0]

    def submit(self, document: Agreement | Notice) -> Contract:
        """Sign it and have it stored; the agreement as it is afterwards."""
        signed = sign(document, self.space.identity.name, self.space.identity.signing_key)
        try:
            evidence = self._stub.Submit(SubmitAgreementRequest(document=signed), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.space.address) from None
        return self._read(evidence)

    def facts(self, contract: Contract) -> dict[str, Any]:
        """A row of the table; jobs are those that this folder has asked, of those agreed on."""
        agreement = contract.agreement
        because = no_party_now(agreement, self.space.roster)
        return {
            "id": agreement.agreement_id[:ID_SHOWN],
            "table": agreement.tables,
            "state": f"{contract.state(_now())}{f'; not answered: {because}' if because else ''}",
            "purpose": agreement.purpose,
            "holders": ", ".join(agreement.holder_names),
            "not_signed": ", ".join(contract.missing),
            "jobs": f"{self.space.home.jobs_asked(agreement)} of {agreement.jobs}",
            "until": moment(agreement.not_after),
        }

    def _contracts(self) -> tuple[list[Contract], int]:
        """This merchant's agreements that verify, and how many do not."""
        try:
            listed = self._stub.List(ListAgreementsRequest(), timeout=CALL_SECONDS).agreements
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.space.address) from None
        read = [self._read_or_none(evidence) for evidence in listed]
        own = [one for one in read if one is not None and one.agreement.merchant.name == self.space.identity.name]
        return own, read.count(None)

    def _read_or_none(self, evidence: AgreementEvidence) -> Contract | None:
        try:
            return self._read(evidence)
        except CeibaError:
            return None

    def _read(self, evidence: AgreementEvidence) -> Contract:
        return read_contract(evidence.signatures, evidence.notices, self.space.roster.as_of(0))


def _may_be_asked(schema: Schema) -> list[str]:
    """Columns up to grade sensitive; all of them if there is none. Important ones take rules that most questions do not
    need, so they are asked for by name."""
    allowed = [column.name for column in schema.columns if column.grade not in (Grade.IMPORTANT, Grade.CORE)]
    return allowed or list(schema.by_name)


def _operations(wanted: Sequence[str] | None, known: Sequence[str]) -> set[str]:
    """Those that are wanted, or all. Raises BadQuestion for one that is unknown."""
    for name in wanted or ():
        if name not in known:
            problem = f"there is no operation {name}; the nearest is {nearest(name, known)}"
            raise BadQuestion(problem=problem, hint=f"Operations are {', '.join(known)}.")
    return set(known if wanted is None else wanted)


def _joint_operations(wanted: Sequence[str] | None, *, scores: bool) -> set[str]:
    """Left out: everything, scores only where somebody can consent to them."""
    operations = _operations(wanted, (*OPERATIONS, *JOINT_OPERATIONS))
    if wanted is None and not scores:
        operations.remove(SCORE)
    # Every join counts the subjects of its base.
    return operations if operations == {SCORE} else operations | {JOIN, Count.name()}


def _mode(name: str) -> Mode:
    if name not in list(Mode):
        problem = f"there is no mode {name}; the nearest is {nearest(name, Mode)}"
        raise BadQuestion(problem=problem, hint=f"Modes are {', '.join(Mode)}.")
    return Mode(name)


def _identifier(schema: Schema, on: str | Mapping[str, str] | None) -> str:
    """By which column a table's subjects are found. Raises NotAnIdentifier, BadQuestion."""
    named = on if isinstance(on, str) else (on or {}).get(schema.table)
    if named is None and len(schema.identifiers) != 1:
        has = ", ".join(schema.identifier_columns) or "none"
        problem = f"it is not said by which identifier subjects of {schema.table} are found; it has {has}"
        raise BadQuestion(problem=problem, hint='Name one: on={"tax.firms": "uscc", ...}.')
    return schema.identifier(named or schema.identifier_columns[0]).column


def _strictness(rules: Disclosure) -> int:
    """Larger for a higher grade, all of whose rules are at least as strict."""
    return ORDER.index(rules.grade)


def one_holder(roster: Roster, table: str, chosen: Mapping[str, str]) -> str:
    """The holder of a table, or the one that was chosen for it. Raises UnknownTable, SeveralHolders, DatasetMissing."""
    holders = roster.table(table).holders
    if table not in chosen and len(holders) > 1:
        raise SeveralHolders(table=table, holders=", ".join(holders), first=holders[0])
    holder = chosen.get(table, holders[0])
    if holder not in holders:
        raise DatasetMissing(holders=holder, table=table)
    return holder


def _now() -> int:
    return int(time.time())
