"""Jobs that this folder has asked, kept so that another process can wait for them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ceiba.display import Listing
from ceiba.home import KeptJob
from ceiba.presentation import Presentation
from ceiba.query import Query, Runner
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Manifest
from ceiba_protocol.trust.receipt import SignedText
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.wording import describe

if TYPE_CHECKING:
    from ceiba.space import Space


@cache
def _presentations() -> TypeAdapter[Presentation]:
    return TypeAdapter(Presentation)


def keep(query: Query, manifest: Manifest, signed: Signed, agreement: Agreement) -> KeptJob:
    """All that is needed to open the answer, and to show it as the query would."""
    return KeptJob(
        job_id=manifest.job_id,
        at=manifest.not_before,
        until=manifest.not_after,
        manifest=SignedText.of(signed),
        agreement=agreement.body().decode(),
        table_schema=query.schema.body().decode(),
        presentation=_presentations().dump_json(query.presentation).decode(),
        analysis=query.analysis,
    )


def asked(kept: KeptJob, runner: Runner) -> tuple[Query, Signed, Agreement]:
    """What `keep` was given."""
    signed = kept.manifest.signed()
    plan = Manifest.parse(signed.body).plan
    schema = Schema.parse_pinned(kept.table_schema.encode(), plan.schema_digest)
    presentation = _presentations().validate_json(kept.presentation)
    return Query(schema, runner, plan, presentation, kept.analysis), signed, Agreement.parse(kept.agreement.encode())


class JobList(Listing[KeptJob]):
    """Jobs of a folder, newest first; each one's state is asked for when the list is shown."""

    noun = "jobs"

    def __init__(self, space: Space, entries: list[KeptJob], older: int) -> None:
        super().__init__(entries, [f"Older ones, not shown: {older}"] if older else [])
        self._space = space

    def facts(self, entry: KeptJob) -> dict[str, Any]:
        return {
            "job": entry.job_id,
            "asked": _moment(entry.at),
            "until": _moment(entry.until),
            "state": self._state(entry),
            "question": "; ".join(line.strip() for line in _described(entry)).removeprefix("Question about "),
        }

    def _state(self, entry: KeptJob) -> str:
        """The job's state, or the code of the error that keeps it from being known."""
        try:
            return str(self._space.plain_job(entry.job_id).status().state)
        except CeibaError as error:
            return error.code


def _described(entry: KeptJob) -> list[str]:
    """The question in words."""
    body = entry.manifest.signed().body
    if entry.join is None:
        return describe(Manifest.parse(body).plan)
    from ceiba_protocol.linkage.joint import JointManifest
    from ceiba_protocol.linkage.joint_wording import describe_joint

    return describe_joint(JointManifest.parse(body).plan)


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
