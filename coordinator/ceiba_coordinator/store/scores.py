"""Scoring models, what their holders have said, and which requests the log has."""

from dataclasses import dataclass

from sqlalchemy import func, insert, select, update

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows, read_signed
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class StoredModel:
    """A scoring model as stored, without its weights."""

    digest: str
    merchant: str
    model: Signed
    words: dict[str, Signed | None]
    """By holder: its ModelApproval or ModelRefusal."""
    pending: tuple[str, ...]


class ScoreRows(Rows):
    def add_score_model(
        self, digest: str, merchant: str, model: Signed, weights: bytes, valid_until: int, holders: tuple[str, ...]
    ) -> None:
        with self.transaction() as connection:
            row = {"digest": digest, "merchant": merchant, "model": model.SerializeToString(), "weights": weights}
            connection.execute(insert(tables.score_models).values(valid_until=valid_until, **row))
            connection.execute(insert(tables.score_words), [{"digest": digest, "holder": one} for one in holders])

    def score_model(self, digest: str) -> StoredModel | None:
        models, words = tables.score_models.c, tables.score_words.c
        with self.transaction() as connection:
            row = connection.execute(select(models.merchant, models.model).where(models.digest == digest)).one_or_none()
            if row is None:
                return None
            said = connection.execute(select(tables.score_words).where(words.digest == digest).order_by(words.holder))
            rows = list(said)
        return StoredModel(
            digest,
            row.merchant,
            Signed.FromString(row.model),
            {one.holder: read_signed(one.word) for one in rows},
            tuple(one.holder for one in rows if one.pending and one.word is None),
        )

    def score_weights(self, digest: str) -> bytes:
        """The model's ciphertexts; empty if it is not known."""
        models = tables.score_models.c
        with self.transaction() as connection:
            return bytes(connection.scalar(select(models.weights).where(models.digest == digest)) or b"")

    def count_score_models(self, merchant: str, now: int) -> int:
        """How many of the merchant's have not ended."""
        models = tables.score_models.c
        query = select(func.count()).where(models.merchant == merchant, models.valid_until >= now)
        with self.transaction() as connection:
            return int(connection.scalar(query) or 0)

    def undecided_score_models(self, holder: str, now: int) -> list[tuple[str, Signed]]:
        """The models that have not ended and on which the holder has not said its word, with their digests."""
        models, words = tables.score_models.c, tables.score_words.c
        query = select(models.digest, models.model).join_from(tables.score_models, tables.score_words)
        query = query.where(words.holder == holder, words.word.is_(None), models.valid_until >= now)
        with self.transaction() as connection:
            return [(row.digest, Signed.FromString(row.model)) for row in connection.execute(query)]

    def put_score_word(self, digest: str, holder: str, word: Signed | None) -> None:
        """A holder's word; None if a person there has to decide."""
        table = tables.score_words
        said = {"pending": True} if word is None else {"word": word.SerializeToString(), "pending": False}
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.digest == digest, table.c.holder == holder).values(**said))

    # --- requests

    def score_request(self, request_id: str) -> tuple[str, bool] | None:
        """Its digest, and whether it was answered; None if it is new."""
        column = tables.score_requests.c
        with self.transaction() as connection:
            row = connection.execute(
                select(column.digest, column.answered).where(column.request_id == request_id)
            ).one_or_none()
        return None if row is None else (row.digest, row.answered)

    def add_score_request(self, request_id: str, digest: str) -> None:
        with self.transaction() as connection:
            connection.execute(insert(tables.score_requests).values(request_id=request_id, digest=digest))

    def mark_score_answered(self, request_id: str) -> None:
        table = tables.score_requests
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.request_id == request_id).values(answered=True))
