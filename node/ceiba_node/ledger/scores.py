"""Scoring: models that were decided on, consents that were used, and what was sent for each request."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ceiba_node.ledger.file import LedgerFile, note_signed
from ceiba_node.policy import Decision
from ceiba_protocol.errors import ConsentUsed, NotWaiting
from ceiba_protocol.v1.common_pb2 import Signed

KEEP_ANSWERS_SECONDS = 2 * 24 * 3600
"""How long a request can be asked for again: its consents have ended by then."""
_COLUMNS = "digest, merchant, model, since, valid_until, word, mask_secret, approved, reason"


@dataclass(frozen=True)
class KeptModel:
    """A scoring model without its weights, and what this house has said to it."""

    digest: str
    merchant: str
    model: Signed
    since: int
    valid_until: int
    word: Signed | None = None
    """ModelApproval or ModelRefusal; None while a person has to decide."""
    mask_secret: bytes | None = field(default=None, repr=False)
    decision: Decision | None = None


@dataclass(frozen=True)
class KeptAnswer:
    """What was sent for a request."""

    request_digest: str
    answer: Signed
    ciphertexts: bytes = field(repr=False)


@dataclass(frozen=True)
class Scored:
    """A consent that is answered now."""

    jti: str
    subject: bytes
    """HMAC-SHA256 of the identifier, or of the subject's number, under this house's own key."""


class Scores(LedgerFile):
    # --- models

    def score_model(self, digest: str) -> KeptModel | None:
        row = self._one(f"SELECT {_COLUMNS} FROM score_models WHERE digest = ?", digest)  # noqa: S608
        return None if row is None else self._kept_model(row)

    def score_models(self, now: int) -> list[KeptModel]:
        """Those that have not ended, oldest first."""
        query = f"SELECT {_COLUMNS} FROM score_models WHERE valid_until >= ? ORDER BY since, digest"  # noqa: S608
        return [self._kept_model(row) for row in self._all(query, now)]

    def undecided_score_models(self, now: int) -> list[KeptModel]:
        """Those that a person can still decide on."""
        return [kept for kept in self.score_models(now) if kept.word is None and kept.decision is None]

    def _kept_model(self, row: tuple[Any, ...]) -> KeptModel:
        digest, merchant, model, since, valid_until, word, secret, approved, reason = row
        return KeptModel(
            digest,
            merchant,
            Signed.FromString(model),
            since,
            valid_until,
            None if word is None else Signed.FromString(word),
            None if secret is None else self._opened(secret, digest.encode()),
            None if approved is None else Decision(bool(approved), reason),
        )

    def score_weights(self, digest: str) -> bytes:
        """Of a model that is kept: its ciphertexts; empty for a product."""
        row = self._one("SELECT weights FROM score_models WHERE digest = ?", digest)
        return bytes(row[0]) if row else b""

    def add_score_model(self, kept: KeptModel, weights: bytes) -> None:
        """A model on which a person has to decide; one that is there stays as it is."""
        with self._transaction() as connection:
            _add_model(connection, kept, weights)

    def record_score_word(
        self, kept: KeptModel, weights: bytes, word: Signed, mask_secret: bytes | None, now: int
    ) -> None:
        """What this house says to a model, with the secret of an approval. On return it is on the disk."""
        sealed = None if mask_secret is None else self._sealed(mask_secret, kept.digest.encode())
        with self._transaction() as connection:
            _add_model(connection, kept, weights)
            values = (word.SerializeToString(), sealed, kept.digest)
            connection.execute("UPDATE score_models SET word = ?, mask_secret = ? WHERE digest = ?", values)
            note_signed(connection, word, now, to_upload=False)

    def decide_score_model(self, digest: str, decision: Decision, private_reason: str) -> None:
        """What a person decided, once for all. Raises NotWaiting."""
        values = (int(decision.approved), decision.reason, private_reason, digest)
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE score_models SET approved = ?, reason = ?, private_reason = ?"
                " WHERE digest = ? AND approved IS NULL AND word IS NULL",
                values,
            )
            if changed.rowcount != 1:
                raise NotWaiting(job=digest)

    # --- scores

    def score_answer(self, request_id: str) -> KeptAnswer | None:
        query = "SELECT request_digest, answer, ciphertexts FROM score_answers WHERE request_id = ?"
        row = self._one(query, request_id)
        return None if row is None else KeptAnswer(row[0], Signed.FromString(row[1]), row[2])

    def has_scored(self, jti: str) -> bool:
        """Whether a consent was answered."""
        return self._one("SELECT 1 FROM scores WHERE jti = ?", jti) is not None

    def count_scores(self, subject: bytes, organisation: str, since: int) -> int:
        """How many scores of a subject an organisation's merchants were given."""
        query = "SELECT COUNT(*) FROM scores WHERE subject = ? AND organisation = ? AND at >= ?"
        row = self._one(query, subject, organisation, since)
        return int(row[0]) if row else 0

    def count_all_scores(self, organisation: str, since: int) -> int:
        """Likewise, of all subjects together."""
        row = self._one("SELECT COUNT(*) FROM scores WHERE organisation = ? AND at >= ?", organisation, since)
        return int(row[0]) if row else 0

    def record_scores(
        self, request_id: str, kept: KeptAnswer, scored: Sequence[Scored], organisation: str, now: int
    ) -> None:
        """Store an answer, and that its consents are used. On return it is on the disk, and may be sent. Raises
        ConsentUsed if one was answered meanwhile; then nothing is stored."""
        with self._transaction() as connection:
            rows = [(one.jti, one.subject, organisation, now) for one in scored]
            try:
                connection.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", rows)
            except sqlite3.IntegrityError:
                raise ConsentUsed from None
            answer = (request_id, kept.request_digest, kept.answer.SerializeToString(), kept.ciphertexts, now)
            connection.execute("INSERT INTO score_answers VALUES (?, ?, ?, ?, ?)", answer)
            note_signed(connection, kept.answer, now, to_upload=False)

    def forget_scores(self, now: int) -> None:
        """Erase the mask secrets of models that have ended, what nobody can ask for again, and who was scored."""
        old = (now - KEEP_ANSWERS_SECONDS,)
        with self._transaction() as connection:
            erased = connection.execute(
                "UPDATE score_models SET mask_secret = NULL WHERE valid_until < ? AND mask_secret IS NOT NULL", (now,)
            ).rowcount
            erased += connection.execute("DELETE FROM score_answers WHERE at < ?", old).rowcount
            erased += connection.execute(
                "UPDATE scores SET subject = x'' WHERE at < ? AND subject <> x''", old
            ).rowcount
        if erased:
            self._truncate_log()


def _add_model(connection: sqlite3.Connection, kept: KeptModel, weights: bytes) -> None:
    row = (
        kept.digest,
        kept.merchant,
        kept.model.SerializeToString(),
        weights,
        kept.since,
        kept.valid_until,
    )
    connection.execute("INSERT OR IGNORE INTO score_models VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, '', '')", row)
