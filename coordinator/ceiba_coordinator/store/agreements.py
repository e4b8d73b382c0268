"""Agreements: their signatures and notices."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, insert, or_, select, true

from ceiba_coordinator.store import tables
from ceiba_coordinator.store.rows import Rows
from ceiba_protocol.v1.common_pb2 import Signed


@dataclass(frozen=True)
class StoredAgreement:
    """Where an agreement belongs, and every document about it, in the order in which they came."""

    digest: str
    merchant: str
    signatures: tuple[Signed, ...]
    notices: tuple[Signed, ...]

    @property
    def documents(self) -> int:
        """How many. None is ever removed, so an equal number means nothing new."""
        return len(self.signatures) + len(self.notices)


class AgreementRows(Rows):
    def add_agreement(self, *, digest: str, agreement_id: str, merchant: str, about: Iterable[str]) -> None:
        """Without its signatures. `about`: names of tables."""
        columns = {"agreement_id": agreement_id, "merchant": merchant}
        rows = [{"digest": digest, "table_name": table} for table in sorted(set(about))]
        with self.transaction() as connection:
            connection.execute(insert(tables.agreements).values(digest=digest, **columns))
            connection.execute(insert(tables.agreement_tables), rows)

    def add_agreement_document(self, digest: str, signer: str, notice: int, document: Signed) -> None:
        """`notice`: the notice's number, 0 for a signature."""
        with self.transaction() as connection:
            connection.execute(
                insert(tables.agreement_documents).values(
                    digest=digest, signer=signer, notice=notice, document=document.SerializeToString()
                )
            )

    def has_agreement_id(self, agreement_id: str) -> bool:
        query = select(tables.agreements.c.digest).where(tables.agreements.c.agreement_id == agreement_id)
        with self.transaction() as connection:
            return connection.scalar(query) is not None

    def agreement(self, digest: str) -> StoredAgreement | None:
        found = self._agreements(tables.agreements.c.digest == digest)
        return found[0] if found else None

    def agreements(self) -> list[StoredAgreement]:
        """All, oldest first."""
        return self._agreements(true())

    def agreements_of(self, merchant: str) -> list[StoredAgreement]:
        """That merchant's, oldest first."""
        return self._agreements(tables.agreements.c.merchant == merchant)

    def agreements_with(self, tables_held: Iterable[str], signer: str) -> list[StoredAgreement]:
        """Those about one of these tables, or with a document by that member; oldest first."""
        documents = tables.agreement_documents
        signed = select(documents.c.digest).where(documents.c.signer == signer)
        column = tables.agreement_tables.c
        about = select(column.digest).where(column.table_name.in_(list(tables_held)))
        digest = tables.agreements.c.digest
        return self._agreements(or_(digest.in_(about), digest.in_(signed)))

    def _agreements(self, condition: ColumnElement[bool]) -> list[StoredAgreement]:
        table, documents = tables.agreements, tables.agreement_documents
        chosen = select(table).where(condition).order_by(table.c.number)
        joined = select(documents).join(table, table.c.digest == documents.c.digest).where(condition)
        with self.transaction() as connection:
            rows = connection.execute(chosen).all()
            found: dict[str, tuple[list[Signed], list[Signed]]] = {row.digest: ([], []) for row in rows}
            for row in connection.execute(joined.order_by(documents.c.number)):
                found[row.digest][1 if row.notice else 0].append(Signed.FromString(row.document))
        return [StoredAgreement(row.digest, row.merchant, *map(tuple, found[row.digest])) for row in rows]
