"""Asking joint questions: choosing the agreement, sending the manifest, and opening what the holders answered."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from ceiba.agreements import AgreementHandle
from ceiba.choosing import lacking_identifier, uncovered
from ceiba.home import AskedJob, KeptJob, KeptJoin
from ceiba.joint_explanation import JointExplanation, explain_jointly
from ceiba.joint_pairs import JointPairs
from ceiba.joint_queries import JointAggregate, JointCount, JointQuery, JointTables, Opened
from ceiba.linkages import Linked, forms_linked_by
from ceiba.noise import Wanted, terms_for
from ceiba.progress import wanted_progress
from ceiba.receipts import Receipt
from ceiba.submitted import SubmittedJob
from ceiba_protocol.disclosure.noise import versions_digest
from ceiba_protocol.errors import (
    AgreementNotActive,
    AnswerRejected,
    MalformedMessage,
    MessageTooLarge,
    NoAgreement,
    NotAgreed,
)
from ceiba_protocol.linkage.joint import (
    TO_MERCHANT,
    JoinedTable,
    JointManifest,
    JointMessage,
    JointPlan,
    JointQuestion,
    JointSet,
    Kind,
    Step,
    check_joint_covers,
    check_message,
    commit_jointly,
    make_joint_manifest,
    read_joint_manifest,
    sealing_info,
    shapes_of,
    tables_of,
    total_digest,
)
from ceiba_protocol.linkage.private_join import merchant_open
from ceiba_protocol.linkage.token_steps import read_size
from ceiba_protocol.plan import Program
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import JOIN, Agreement, Mode, foreign_seeds, operations_of
from ceiba_protocol.trust.documents import NoiseTerms, Offer
from ceiba_protocol.trust.hpke import open_sealed
from ceiba_protocol.trust.receipt import SignedText
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import ResultPart

if TYPE_CHECKING:
    from ceiba.space import Space

DEADLINE_SECONDS = 3600
"""A linkage of 100,000 subjects takes minutes."""
Outcome = TypeVar("Outcome")


# --- which agreement -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointWish:
    """A joint question that is to be asked, as `choosing.AnyWish` says."""

    plan: JointPlan
    now: int
    until: int
    purpose: str | None = None
    noise: Wanted = None

    def terms(self, agreement: Agreement) -> NoiseTerms | None:
        """What it is asked with under this agreement. Unless exact figures are asked for by name, with noise where the
        base is not trusted; but never to count the whole intersection, which is rounded."""
        if self.plan.mode is Mode.CARDINALITY:
            return None
        is_trusted = agreement.joint is not None and agreement.joint.base_is_trusted
        wanted = self.noise if is_trusted or self.noise is not None else True
        return terms_for(wanted, agreement.disclosure)

    @property
    def tables(self) -> str:
        return ", ".join(side.table for side in self.plan.sides)

    def is_about(self, agreement: Agreement) -> bool:
        wanted = {(side.holder, side.table) for side in self.plan.sides}
        return agreement.joint is not None and wanted <= {(side.holder, side.table) for side in agreement.sides}

    def lacks(self, agreement: Agreement) -> list[str]:
        joint = agreement.joint
        found = uncovered("operation", [JOIN], agreement.operations)
        found += uncovered("mode", [self.plan.mode], joint.modes if joint else ())
        if self.plan.linkage and (joint is None or joint.jobs_per_linkage == 1):
            found.append("lets no linkage serve several jobs")
        if joint is not None and not joint.base_is_trusted and self.terms(agreement) is None:
            found.append("allows no exact answers, because it does not trust the base")
        if joint is not None and self.plan.base.holder not in joint.bases:
            tables = ", ".join(agreement.side_of(one).table for one in joint.bases)
            found.append(
                f"does not let {self.plan.base.holder} be the base: group by columns of {tables}, or, without groups, "
                "name that table first in the join and ask for no statistics of it"
            )
        for side in self.plan.sides:
            found += lacking_identifier(agreement, side.holder, side.on)
            agreed = agreement.side_of(side.holder).columns
            for plan in side.plans:
                found += [f"{one} of {side.table}" for one in uncovered("column", plan.columns, agreed)]
                found += uncovered("operation", operations_of(plan), agreement.operations)
                seeds = sorted(foreign_seeds(agreement, plan))
                found += [f"has another purpose than the split's seed, {seed}" for seed in seeds]
        return list(dict.fromkeys(found))

    def check(self, agreement: Agreement) -> None:
        check_joint_covers(agreement, self.plan, self.terms(agreement))


# --- asking ----------------------------------------------------------------------------------------------------

Wishes = Sequence[tuple[JointQuery[Outcome], JointWish]]
"""The forms of a question, in the order in which they are preferred."""


class JointRunner:
    """Asks a space joint questions; a join carries one. Options are those of `submit`."""

    def __init__(self, space: Space, versions: Mapping[str, str]) -> None:
        """`versions`: by holder, the version of its dataset to use, or the beginning of it; else the newest."""
        self._space = space
        self._versions = dict(versions)

    def run(self, query: JointQuery[Outcome], *, progress: bool | None = None, **options: Any) -> Outcome:
        """Ask and wait. `progress`: True, False, or None for a terminal or notebook."""
        return self.submit(query, **options).wait(wanted_progress(progress))

    def submit(
        self,
        query: JointQuery[Outcome],
        *,
        agreement: AgreementHandle | str | None = None,
        deadline: float | timedelta = DEADLINE_SECONDS,
        noise: Wanted = None,
        purpose: str | None = None,
        linkage: Linked | None = None,
    ) -> JointJob[Outcome]:
        """As `Space.submit`, under a joint agreement. Raises the same errors.

        `linkage`: the result of a job, the job or its id, that has linked the same tables with `reveal=True`. The
        question is about the subjects that it found, and nobody is linked anew.
        """
        started = time.time()
        seconds = max(1, int(deadline.total_seconds() if isinstance(deadline, timedelta) else deadline))
        forms, linked_under = forms_linked_by(query, linkage, self._space.home)
        wishes = _wishes(forms, seconds, purpose, noise)
        named = agreement or linked_under
        form, signed, agreed = self._space.with_newest_roster(lambda: self._manifest(wishes, named))
        job = JointJob(self._space, form, signed, agreed, started)
        self._space.home.keep_job(keep_joint(form, job.manifest, signed, agreed))
        try:
            job.send()
        except KeyboardInterrupt:
            job.abandon()
            raise
        return job

    def explain(
        self,
        query: JointQuery[Any],
        *,
        agreement: AgreementHandle | str | None = None,
        noise: Wanted = None,
        purpose: str | None = None,
        linkage: Linked | None = None,
    ) -> JointExplanation:
        """Who would see what, under which agreement, and what refuses it. Asks nothing."""
        forms, linked_under = forms_linked_by(query, linkage, self._space.home)
        wishes = _wishes(forms, DEADLINE_SECONDS, purpose, noise)
        return self._space.with_newest_roster(lambda: self._explain(wishes, agreement or linked_under))

    def _explain(self, wishes: Wishes[Any], named: AgreementHandle | str | None) -> JointExplanation:
        try:
            form, wish, agreement = self._choose(wishes, named)
        except (NoAgreement, NotAgreed, AgreementNotActive) as error:
            return explain_jointly(wishes[-1][0], error, 0, None)
        return explain_jointly(form, agreement, self._space.home.jobs_asked(agreement), wish.terms(agreement))

    def _choose(
        self, wishes: Wishes[Outcome], named: AgreementHandle | str | None
    ) -> tuple[JointQuery[Outcome], JointWish, Agreement]:
        """The first form of a question that an agreement covers. Raises what is wrong with the last one."""
        *preferred, (last, wish) = wishes
        for form, wanted in preferred:
            with suppress(NoAgreement, NotAgreed):
                return form, wanted, self._space.agreements.choose(wanted, named).agreement
        return last, wish, self._space.agreements.choose(wish, named).agreement

    def _manifest(
        self, wishes: Wishes[Outcome], named: AgreementHandle | str | None
    ) -> tuple[JointQuery[Outcome], Signed, Agreement]:
        """What is asked, the signed manifest, and the agreement that it cites."""
        space = self._space
        form, wish, agreement = self._choose(wishes, named)
        manifest = make_joint_manifest(
            job_id=secrets.token_hex(16),
            number=1,
            agreement=agreement,
            merchant=space.identity.name,
            plan=wish.plan,
            offers=self._offers(wish.plan),
            now=wish.now,
            seconds=wish.until - wish.now,
            noise=wish.terms(agreement),
        )
        # The number comes last, so that what cannot be asked uses up none.
        numbered = manifest.model_copy(update={"number": space.home.next_number(agreement)})
        for asked in _asked_jobs(numbered):
            space.home.note_asked(asked)
        return form, sign(numbered, space.identity.name, space.identity.signing_key), agreement

    def _offers(self, plan: JointPlan) -> dict[str, Offer]:
        """By holder, the dataset that is asked. Raises DatasetUnknown."""
        found: dict[str, Offer] = {}
        for side in plan.sides:
            version = {side.holder: self._versions[side.holder]} if side.holder in self._versions else {}
            offers = self._space.entry(side.table).offers(version)
            found |= {side.holder: offers[side.holder]} if side.holder in offers else {}
        return found


def _wishes(forms: Iterable[JointQuery[Outcome]], seconds: int, purpose: str | None, noise: Wanted) -> Wishes[Outcome]:
    """The forms that can be asked so: with noise, none that has none."""
    now = int(time.time())
    made = [(form, JointWish(form.plan(), now, now + seconds, purpose, noise)) for form in forms]
    return [one for one in made if not noise or one[1].plan.mode is not Mode.CARDINALITY] or made


def _asked_jobs(manifest: JointManifest) -> list[AskedJob]:
    """One answer of each table."""
    return [
        AskedJob(
            at=manifest.not_before,
            agreement=manifest.agreement_digest,
            table=manifest.plan.side_of(pin.holder).table,
            versions=versions_digest({pin.holder: pin.version}).hex(),
            rho=manifest.noise.rho if manifest.noise else None,
        )
        for pin in manifest.datasets
    ]


# --- one job ---------------------------------------------------------------------------------------------------


class JointJob(SubmittedJob[Outcome]):
    """A joint question that has been asked. `wait` gives the answer, however long ago it was asked."""

    def __init__(
        self, space: Space, query: JointQuery[Outcome], signed: Signed, agreement: Agreement, started: float
    ) -> None:
        """`started`: when it was asked, in seconds since 1970."""
        # The window was checked when it was asked; who takes it up later may read what was answered in time.
        now = JointManifest.parse(signed.body).not_before
        self._question = read_joint_manifest(signed, agreement, space.roster, query.schemas, now)
        super().__init__(space, self._question, signed, agreement, started)
        self.query = query

    @property
    def manifest(self) -> JointManifest:
        """What the holders are asked."""
        return self._question.manifest

    def _answer(self) -> Outcome:
        answer = JointAnswer()
        for attempt in self._tries():
            with attempt:
                answer = _collect(self._jobs.Result(self._reference), self._question, self.query.programs)
        sealing_key = bytes.fromhex(self._space.identity.sealing_seed)
        messages = [JointMessage.parse(signed.body) for signed, _ in answer.messages]
        receipt = Receipt(self._space, self._signed, total_digest(self._question, messages))
        return self.query.outcome(
            open_answer(self._question, self.query.programs, answer, sealing_key),
            job_id=self.id,
            holders=tuple(self._question.holders),
            wire_bytes=answer.wire_bytes,
            seconds=max(0.0, time.time() - self._started),
            receipt=receipt,
            is_joined=True,
        )


@dataclass
class JointAnswer:
    """What the merchant receives for a joint job that is done."""

    approvals: list[Signed] = field(default_factory=list)
    messages: list[tuple[Signed, bytearray]] = field(default_factory=list)
    """With their sealed payloads."""

    @property
    def wire_bytes(self) -> int:
        """What came from the holders to the merchant; what they sent one another is more."""
        documents = [*self.approvals, *(signed for signed, _ in self.messages)]
        return sum(signed.ByteSize() for signed in documents) + sum(len(payload) for _, payload in self.messages)


Programs = Mapping[str, Sequence[Program]]
"""By holder, those of its plans."""
_SPARE_BYTES = 32
"""More than the masks and roundings of one cell's two fields take."""


def _largest_payload(question: JointQuestion, programs: Programs) -> int:
    """Bytes that no payload to the merchant exceeds."""
    groups = sum(one.cells for one in programs[question.plan.base.holder])
    sizes = [0]
    for side in question.plan.joined if question.plan.mode is not Mode.CARDINALITY else ():
        capacity = question.pin_of(side.holder).row_capacity
        for_cells = [
            shape.cells * (1 + len(shape.guards)) * (_SPARE_BYTES + (capacity.bit_length() + sum(shape.widths)) // 8)
            for shape in shapes_of(question, side.holder, programs[side.holder])
        ]
        sizes.append(groups * sum(for_cells))
    return 1024 + max(sizes)


def _collect(parts: Iterable[ResultPart], question: JointQuestion, programs: Programs) -> JointAnswer:
    """The parts of an answer, their sizes checked and nothing else yet. Raises MessageTooLarge, MalformedMessage."""
    answer, limit = JointAnswer(), _largest_payload(question, programs)
    messages = sum(step.kind in TO_MERCHANT for step in question.steps)
    for part in parts:
        match part.WhichOneof("part"):
            case "approval" if not answer.messages:
                answer.approvals.append(part.approval)
            case "joint_message":
                answer.messages.append((part.joint_message, bytearray()))
            case "payload" if answer.messages:
                answer.messages[-1][1].extend(part.payload)
            case _:
                raise MalformedMessage(message="ResultPart", problem="it is out of order")
        if len(answer.approvals) > len(question.holders) or len(answer.messages) > messages:
            raise MessageTooLarge(message="Result", limit=limit)
        if answer.messages and len(answer.messages[-1][1]) > limit:
            raise MessageTooLarge(message="Result", limit=limit)
    return answer


# --- jobs that another process may wait for ---------------------------------------------------------------------


def keep_joint(query: JointQuery[Any], manifest: JointManifest, signed: Signed, agreement: Agreement) -> KeptJob:
    """All that is needed to open the answer, and to show it as the query would."""
    bodies = [query.schemas[side.table].body().decode() for side in query.asked.sides]
    return KeptJob(
        job_id=manifest.job_id,
        at=manifest.not_before,
        until=manifest.not_after,
        manifest=SignedText.of(signed),
        agreement=agreement.body().decode(),
        join=KeptJoin(schemas=tuple(bodies), names=query.names, shown_as=_shown_as(query)),
    )


_SHOWN: dict[Literal["figures", "tables", "pairs"], type[JointQuery[Any]]] = {
    "figures": JointAggregate,
    "tables": JointTables,
    "pairs": JointPairs,
}


def _shown_as(query: JointQuery[Any]) -> Literal["figures", "tables", "pairs"]:
    return next((name for name, kind in _SHOWN.items() if isinstance(query, kind)), "figures")


def taken_up_jointly(space: Space, kept: KeptJob, join: KeptJoin) -> JointJob[Any]:
    """The job that `keep_joint` was given."""
    signed = kept.manifest.signed()
    plan = JointManifest.parse(signed.body).plan
    schemas = {}
    for side, body in zip(plan.sides, join.schemas, strict=True):
        schemas[side.table] = Schema.parse_pinned(body.encode(), side.plans[0].schema_digest)
    made = schemas, JointRunner(space, {}), plan, join.names
    query: JointQuery[Any]
    if plan.mode is Mode.CARDINALITY:
        query = JointCount(*made, None)
    else:
        query = _SHOWN[join.shown_as](*made)
    return JointJob(space, query, signed, Agreement.parse(kept.agreement.encode()), kept.at)


# --- opening ---------------------------------------------------------------------------------------------------


def open_answer(question: JointQuestion, programs: Programs, answer: JointAnswer, sealing_key: bytes) -> Opened:
    """Run by the merchant (PROTOCOL §5.4 step 8): the released totals of every table, after every check; in the mode
    CARDINALITY, one number.

    1. Each holder has approved this job, on its pinned dataset. 2. The cells that it announced are those of the
    question. 3. There is one message for each step to the merchant, signed by its sender, and sealed for that step.
    4. The shares of a pair fit each other. Raises SetMismatch, UnknownMember, BadSignature, MalformedDocument,
    MalformedMessage, AnswerRejected and TotalRejected.
    """
    agreed = commit_jointly(question, answer.approvals)
    _check_shapes(agreed, programs)
    payloads = _payloads(agreed, answer, sealing_key)
    base = question.plan.base
    if question.plan.mode is Mode.CARDINALITY:
        (payload,) = payloads.values()
        return {base.holder: [_one_number(base.holder, programs[base.holder][0], read_size(agreed, payload))]}
    opened = {}
    for side in question.plan.joined:
        shares = [payloads[side.holder, kind] for kind in (Kind.BASE_SHARE, Kind.JOINED_SHARE)]
        cells = merchant_open(agreed.terms(side.holder), *shares)
        about = agreed.approvals[side.holder], programs[side.holder]
        opened[side.holder] = tables_of(programs[base.holder], *about, cells, question.manifest.noise)
    return opened


def _one_number(holder: str, program: Program, size: int) -> JoinedTable:
    """Where only the size of the intersection is asked: a table of one cell, which has so many subjects."""
    sent = np.ones((1, len(program.sums)), dtype=bool)
    return JoinedTable(holder, program, [size] * len(program.sums), sent, [size])


def _check_shapes(agreed: JointSet, programs: Programs) -> None:
    """Every holder computes what this merchant understands. Raises AnswerRejected."""
    for holder, approval in agreed.approvals.items():
        if approval.shapes != shapes_of(agreed.question, holder, programs[holder]):
            raise AnswerRejected(problem=f"{holder} announced other cells or sums than the question has")


def _payloads(agreed: JointSet, answer: JointAnswer, sealing_key: bytes) -> dict[tuple[str, Kind], bytes]:
    """By pair and kind, what was sealed to the merchant."""
    wanted = {step.number: step for step in agreed.question.steps if step.kind in TO_MERCHANT}
    opened = {}
    for signed, sealed in answer.messages:
        step = wanted.pop(JointMessage.parse(signed.body).step, None)
        if step is None:
            raise AnswerRejected(problem="it has a message that is not the merchant's, or one twice")
        check_message(agreed, step, signed, bytes(sealed))
        opened[step.pair, step.kind] = _unsealed(agreed, step, bytes(sealed), sealing_key)
    if wanted:
        missing = ", ".join(sorted({step.sender for step in wanted.values()}))
        raise AnswerRejected(problem=f"the share of {missing} is missing")
    return opened


def _unsealed(agreed: JointSet, step: Step, sealed: bytes, sealing_key: bytes) -> bytes:
    try:
        return open_sealed(sealing_key, sealed, sealing_info(agreed, step), "JointMessage")
    except MalformedMessage:
        problem = f"what {step.sender} sealed cannot be opened with this merchant's key"
        raise AnswerRejected(problem=problem) from None
