"""Linkages that are used again: which job's, and under which agreement (ADR 0028)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ceiba.home import Home
from ceiba.joint_pairs import PairTables
from ceiba.joint_queries import JointQuery, JointResult
from ceiba.result import Result
from ceiba.submitted import SubmittedJob
from ceiba.terms import built
from ceiba_protocol.errors import BadQuestion, UnknownJob
from ceiba_protocol.linkage.joint import JointManifest, JointPlan
from ceiba_protocol.trust.agreement import Agreement, Mode

Outcome = TypeVar("Outcome")
Linked = str | Result | JointResult | PairTables | SubmittedJob[Any]
"""A job that has linked subjects: its id, what came of it, or the job itself."""

_HINT = "Name the result of a question to a join with `reveal=True`."


def forms_linked_by(
    query: JointQuery[Outcome], linked: Linked | None, home: Home
) -> tuple[Sequence[JointQuery[Outcome]], str | None]:
    """The forms of a question about the subjects that an earlier job has linked, and the agreement that it was asked
    under if this folder has asked it. Left out: those that link anew. Raises BadQuestion."""
    if linked is None:
        return query.forms, None
    job, agreement = _origin(_job_id(linked), home)
    forms = [form for form in query.forms if form.asked.mode is Mode.REVEALED]
    if not forms:
        raise BadQuestion(problem="only a join with `reveal=True` can use a linkage again", hint=_HINT)
    plans = [built(JointPlan, **{**dict(form.asked), "linkage": job}) for form in forms]
    return [replace(form, asked=plan) for form, plan in zip(forms, plans, strict=True)], agreement


def _job_id(linked: Linked) -> str:
    match linked:
        case str():
            return linked
        case Result() | JointResult():
            return linked.job_id
        case PairTables():
            return linked.job_ids[0]
        case SubmittedJob():
            return linked.id
    raise BadQuestion(problem="`linkage` is no job and no result", hint=_HINT)


def _origin(job_id: str, home: Home) -> tuple[str, str | None]:
    """The job that has linked what a job was about, and its agreement's id if this folder has asked it."""
    with suppress(UnknownJob):
        kept = home.kept_job(job_id)
        plan = JointManifest.parse(kept.manifest.signed().body).plan if kept.join else None
        if plan is None or plan.mode is not Mode.REVEALED:
            raise BadQuestion(problem=f"the job {kept.job_id} has linked nothing that is kept", hint=_HINT)
        return plan.linkage or kept.job_id, Agreement.parse(kept.agreement.encode()).agreement_id
    return job_id, None
