"""Jobs, and what each of their holders has answered."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows, read_signed
from ceiba_protocol.job import ENDED, State
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class StoredJob:
    """A job as stored."""

    job_id: bytes
    merchant: str
    manifest: Signed
    agreement_digest: str
    number: int
    """Which of the agreement's jobs it is."""
    state: State
    attempt: int
    deadline: int
    """Seconds since 1970 UTC."""
    iteration: int = 0
    """Of a fit: how many rounds are complete."""
    refusal: Signed | None = None
    """The one that ended it."""
    ended_because: str | None = None
    """Code of the error that ended it without a refusal."""
    release: Signed | None = None
    release_index: int | None = None
    """Of the release's entry in the log."""


@dataclass(frozen=True)
class Seat:
    """What one holder has answered to one job; approval, share and submission are for the job's attempt."""

    holder: str
    approval: Signed | None
    share: Signed | None
    submission: Signed | None
    refusal: Signed | None
    abort: Signed | None
    """Its abort token, if it has left."""
    has_submitted: bool
    """A share or a submission, in whatever attempt."""
    pending: bool
    """Whether a person there has to decide."""


_WITHOUT_TOTAL = [column for column in tables.jobs.c if column.name != "total"]
_WITHOUT_CIPHERTEXTS = [column for column in tables.seats.c if column.name not in ("job_id", "words", "ciphertexts")]


class JobRows(Rows):
    def job(self, job_id: bytes) -> StoredJob | None:
        with self.transaction() as connection:
            row = connection.execute(select(*_WITHOUT_TOTAL).where(_is(tables.jobs, job_id))).one_or_none()
        return None if row is None else _stored_job(row)

    def open_jobs(self) -> list[StoredJob]:
        """Jobs that have not ended."""
        with self.transaction() as connection:
            query = select(*_WITHOUT_TOTAL).where(tables.jobs.c.state.not_in(sorted(ENDED)))
            return [_stored_job(row) for row in connection.execute(query)]

    def has_job_number(self, agreement_digest: str, number: int) -> bool:
        """Whether that number of the agreement's jobs has been used."""
        table = tables.jobs
        query = select(func.count()).where(table.c.agreement_digest == agreement_digest, table.c.number == number)
        with self.transaction() as connection:
            return bool(connection.scalar(query))

    def add_job(self, job: StoredJob, holders: list[str]) -> None:
        with self.transaction() as connection:
            connection.execute(
                insert(tables.jobs).values(
                    job_id=job.job_id,
                    merchant=job.merchant,
                    manifest=job.manifest.SerializeToString(),
                    agreement_digest=job.agreement_digest,
                    number=job.number,
                    state=job.state,
                    attempt=job.attempt,
                    deadline=job.deadline,
                )
            )
            connection.execute(insert(tables.seats), [{"job_id": job.job_id, "holder": holder} for holder in holders])

    def set_state(self, job_id: bytes, state: State, **columns: object) -> None:
        """The job's new state, with what goes with it: its total and release, or what ended it, or its attempt."""
        with self.transaction() as connection:
            connection.execute(update(tables.jobs).where(_is(tables.jobs, job_id)).values(state=state, **columns))

    def total(self, job_id: bytes) -> bytes:
        with self.transaction() as connection:
            return bytes(connection.execute(select(tables.jobs.c.total).where(_is(tables.jobs, job_id))).scalar_one())

    # --- seats

    def seats(self, job_id: bytes) -> list[Seat]:
        """Sorted by holder; without ciphertexts."""
        table = tables.seats
        query = select(*_WITHOUT_CIPHERTEXTS).where(_is(table, job_id)).order_by(table.c.holder)
        with self.transaction() as connection:
            return [_seat(row) for row in connection.execute(query)]

    def fill_seat(self, job_id: bytes, holder: str, **columns: object) -> None:
        """Store what a holder has answered."""
        table = tables.seats
        with self.transaction() as connection:
            statement = update(table).where(_is(table, job_id), table.c.holder == holder)
            connection.execute(statement.values(**columns))

    def clear_attempt(self, job_id: bytes) -> None:
        """Forget the approvals and submissions of a job's attempt, because it begins another one."""
        answers = ("approval", "share", "words", "submission", "ciphertexts")
        nothing = {**dict.fromkeys(answers), "pending": False}
        with self.transaction() as connection:
            connection.execute(update(tables.seats).where(_is(tables.seats, job_id)).values(**nothing))

    def ciphertexts(self, job_id: bytes, *holders: str) -> dict[str, bytes]:
        """The ciphertexts of these holders, or of all."""
        table = tables.seats
        query = select(table.c.holder, table.c.ciphertexts).where(_is(table, job_id))
        with self.transaction() as connection:
            rows = connection.execute(query.where(table.c.holder.in_(holders)) if holders else query)
            return {row.holder: row.ciphertexts for row in rows if row.ciphertexts is not None}

    # --- rounds of a fit

    def add_fit_share(self, job_id: bytes, iteration: int, holder: str, share: Signed, words: bytes) -> None:
        with self.transaction() as connection:
            row = {"job_id": job_id, "iteration": iteration, "holder": holder, "words": words}
            connection.execute(insert(tables.fit_shares).values(share=share.SerializeToString(), **row))

    def fit_shares(self, job_id: bytes, iteration: int) -> dict[str, Signed]:
        """By holder: what was sent to that round, without its words."""
        table = tables.fit_shares
        query = select(table.c.holder, table.c.share).where(_is(table, job_id), table.c.iteration == iteration)
        with self.transaction() as connection:
            rows = connection.execute(query.order_by(table.c.holder))
            return {row.holder: Signed.FromString(row.share) for row in rows}

    def fit_words(self, job_id: bytes, iteration: int, holder: str) -> bytes:
        """Empty if nothing was sent."""
        table = tables.fit_shares
        query = select(table.c.words).where(_is(table, job_id), table.c.iteration == iteration)
        with self.transaction() as connection:
            return bytes(connection.execute(query.where(table.c.holder == holder)).scalar() or b"")

    def forget_fit(self, job_id: bytes) -> None:
        """The rounds of a job that has ended are of no more use; the log keeps their digests."""
        with self.transaction() as connection:
            connection.execute(delete(tables.fit_shares).where(_is(tables.fit_shares, job_id)))

    # --- messages of a joint job

    def add_joint_message(self, job_id: bytes, step: int, message: Signed, payload: bytes) -> None:
        with self.transaction() as connection:
            row = {"job_id": job_id, "step": step, "message": message.SerializeToString(), "payload": payload}
            connection.execute(insert(tables.joint_messages).values(**row))

    def joint_messages(self, job_id: bytes) -> dict[int, Signed]:
        """By step, without payloads."""
        table = tables.joint_messages
        query = select(table.c.step, table.c.message).where(_is(table, job_id)).order_by(table.c.step)
        with self.transaction() as connection:
            return {row.step: Signed.FromString(row.message) for row in connection.execute(query)}

    def joint_payload(self, job_id: bytes, step: int) -> bytes:
        """Empty if there is none, or none any more."""
        table = tables.joint_messages
        query = select(table.c.payload).where(_is(table, job_id), table.c.step == step)
        with self.transaction() as connection:
            return bytes(connection.execute(query).scalar() or b"")

    def forget_joint_payloads(self, job_id: bytes, steps: Iterable[int]) -> None:
        """Their documents stay; of the payloads no byte is left in the file."""
        table = tables.joint_messages
        with self.transaction() as connection:
            statement = update(table).where(_is(table, job_id), table.c.step.in_(list(steps)))
            connection.execute(statement.values(payload=None))
            self._has_erased = True

    # --- the gate's words

    def words(self, job_id: bytes, holder: str) -> bytes:
        """What a holder has sent to the gate; empty if nothing."""
        table = tables.seats
        query = select(table.c.words).where(_is(table, job_id), table.c.holder == holder)
        with self.transaction() as connection:
            return bytes(connection.execute(query).scalar_one() or b"")


def _is(table: Any, job_id: bytes) -> Any:
    return table.c.job_id == job_id


def _stored_job(row: Row[Any]) -> StoredJob:
    return StoredJob(
        row.job_id,
        row.merchant,
        Signed.FromString(row.manifest),
        row.agreement_digest,
        row.number,
        State(row.state),
        row.attempt,
        row.deadline,
        row.iteration,
        read_signed(row.refusal),
        row.ended_because,
        read_signed(row.release),
        row.release_index,
    )


def _seat(row: Row[Any]) -> Seat:
    return Seat(
        row.holder,
        read_signed(row.approval),
        read_signed(row.share),
        read_signed(row.submission),
        read_signed(row.refusal),
        read_signed(row.abort),
        row.has_submitted,
        row.pending,
    )
