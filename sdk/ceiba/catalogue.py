"""The catalogue: which tables there are, who holds them, and which versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ceiba.display import Listing
from ceiba_protocol.errors import DatasetMissing, DatasetUnknown
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.roster import RosterTable


@dataclass(frozen=True)
class CatalogueEntry:
    """One table: what the roster says of it, and its holders' verified offers."""

    pinned: RosterTable
    schema: Schema | None
    published: Sequence[Offer]
    online: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.pinned.table

    def required_schema(self) -> Schema:
        """Raises DatasetMissing while no holder has announced the table."""
        if self.schema is None:
            raise DatasetMissing(holders=", ".join(self.pinned.holders), table=self.name)
        return self.schema

    def offers(self, versions: Mapping[str, str]) -> dict[str, Offer]:
        """Each holder's newest offer, or the one whose version begins as `versions` says. Raises DatasetUnknown.

        Newest by the time that the holder signed: the coordinator's order decides nothing but a tie.
        """
        chosen: dict[str, Offer] = {}
        for offer in sorted(self.published, key=lambda offer: offer.published_at):
            if offer.version.startswith(versions.get(offer.holder, "")):
                chosen[offer.holder] = offer
        for holder, version in versions.items():
            if holder not in chosen:
                raise DatasetUnknown(holder=holder, version=version, table=self.name)
        return chosen

    def facts(self) -> dict[str, Any]:
        """The entry as the catalogue shows it."""
        current = self.offers({})
        grades = {str(column.grade) for column in self.schema.columns} if self.schema else set()
        newest = max((offer.published_at for offer in current.values()), default=None)
        return {
            "table": self.name,
            "title": self.schema.title if self.schema else "",
            "columns": len(self.schema.columns) if self.schema else None,
            "holders": ", ".join(self.pinned.holders),
            "published": len(current),
            "online": len(self.online),
            "rows_at_most": sum(offer.row_capacity for offer in current.values()),
            "grades": ", ".join(sorted(grades)),
            "newest": None if newest is None else datetime.fromtimestamp(newest, UTC).isoformat(),
        }


class Catalogue(Listing[CatalogueEntry]):
    """All tables of the space; shows itself as a table."""

    noun = "tables"

    def facts(self, entry: CatalogueEntry) -> dict[str, Any]:
        return entry.facts()
