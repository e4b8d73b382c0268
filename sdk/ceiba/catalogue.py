"""The catalogue: which tables there are, who holds them, and which versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ceiba.display import html_table, text_table
from ceiba_protocol.errors import DatasetMissing, DatasetUnknown
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.roster import RosterTable

if TYPE_CHECKING:
    import pandas


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


class Catalogue:
    """All tables of the space; shows itself as a table."""

    def __init__(self, entries: Sequence[CatalogueEntry]) -> None:
        self.entries = list(entries)

    def __iter__(self) -> Iterator[CatalogueEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def to_dicts(self) -> list[dict[str, Any]]:
        return [entry.facts() for entry in self.entries]

    def to_pandas(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(self.to_dicts())

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]], list[str]]:
        facts = self.to_dicts()
        columns = tuple(facts[0]) if facts else ("table",)
        return columns, [tuple(row.values()) for row in facts], [f"tables: {len(facts)}"]

    def __repr__(self) -> str:
        return text_table(*self._cells())

    def _repr_html_(self) -> str:
        return html_table(*self._cells())
