"""What a merchant believes of the catalogue: what holders have signed, whatever the coordinator does with it."""

from typing import Any

import pytest

from ceiba.catalogue import CatalogueEntry
from ceiba.space import Space
from ceiba_protocol.canonical import digest
from ceiba_protocol.errors import DatasetUnknown, ManifestMismatch
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.v1.catalogue_pb2 import TableEntry
from tests.support.members import NOW, SCHEMA, World, altered, changed, signed_by

OLD, NEW = digest("old"), digest("new")


@pytest.fixture
def world() -> World:
    return World()


def offer(world: World, holder: str, **changes: Any) -> Offer:
    return changed(next(one for one in world.offers() if one.holder == holder), **changes)


def checked(world: World, *offers: Any, schema: bytes = SCHEMA.body()) -> CatalogueEntry:
    """The entry as a merchant of that world reads it, without a network."""
    space = Space.__new__(Space)
    space.roster, space._schemas = world.roster, {}
    return space._checked(TableEntry(table="health.heart", schema=schema, offers=offers))


def test_another_schema_than_the_rosters_is_refused_unread(world: World) -> None:
    with pytest.raises(ManifestMismatch):
        checked(world, schema=b"{" * 100_000)


def test_offers_that_do_not_verify_are_left_out_and_the_others_stay(world: World) -> None:
    good = signed_by("zurich", offer(world, "zurich"))
    entry = checked(
        world,
        altered(good, b'"row_capacity":"', b'"row_capacity":"9'),
        signed_by("mallory", offer(world, "zurich")),
        signed_by("hungary", offer(world, "zurich")),
        signed_by("zurich", offer(world, "zurich", table="health.lungs")),
        good,
    )
    assert [one.holder for one in entry.published] == ["zurich"]


def test_the_current_version_is_the_newest_that_was_signed_whatever_the_order(world: World) -> None:
    newer = signed_by("zurich", offer(world, "zurich", version=NEW, published_at=NOW + 1))
    older = signed_by("zurich", offer(world, "zurich", version=OLD))
    for order in ((newer, older), (older, newer)):
        assert checked(world, *order).offers({})["zurich"].version == NEW


def test_an_older_version_can_be_asked_for_by_its_beginning(world: World) -> None:
    newer = signed_by("zurich", offer(world, "zurich", version=NEW, published_at=NOW + 1))
    entry = checked(world, signed_by("zurich", offer(world, "zurich", version=OLD)), newer)
    assert entry.offers({"zurich": OLD[:8]})["zurich"].version == OLD
    with pytest.raises(DatasetUnknown):
        entry.offers({"zurich": "feedface"})
