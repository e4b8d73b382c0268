"""ceiba-node models: what a person sees of a scoring model, and decides."""

from contextlib import closing

import pytest

from ceiba_node.ledger import KeptModel
from ceiba_protocol.errors import NotWaiting
from ceiba_protocol.linkage.score_model import ScoreSide, feature_of
from tests.node.test_commands import House, house
from tests.support.members import HOLDERS, MERCHANT, NOW, signed_by
from tests.support.scorecards import LATE, POINTS, SALES, SCHEMAS, SENIORITY, product

__all__ = ["house"]

ME = HOLDERS[0]
SCHEMA = SCHEMAS["registry.firms"]


def waiting_model(house: House) -> str:
    """The digest of a product of whose features this house has all."""
    side = ScoreSide(holder=ME, table=SCHEMA.table, schema_digest=SCHEMA.digest(), on="uscc")
    features = tuple(feature_of(ME, key, SCHEMA) for key in (SENIORITY, LATE, SALES))
    points = (POINTS[0], POINTS[1], POINTS[3])
    made = product(points, features=features, sides=(side,), merchant=MERCHANT, valid_until=2 * NOW)
    kept = KeptModel(made.digest(), MERCHANT, signed_by(MERCHANT, made), NOW, made.valid_until)
    with closing(house.home.ledger()) as ledger:
        ledger.add_score_model(kept, b"")
    return made.digest()


def test_a_model_is_read_and_decided(house: House) -> None:
    assert house.run("models", "list").strip() == "There are none."
    digest = waiting_model(house)
    (listed,) = house.json("models", "list")["models"]
    assert (listed["model"], listed["state"], listed["kind"]) == (digest, "waits for a person", "product")
    assert listed["columns"] == ["late", "months", "sales"]
    assert house.json("status")["waiting"] == 1
    shown = house.run("models", "show", digest[:6])
    assert "width_bucket(months, 12, 120, 3): -9, 0, 4, 11, 25, -30" in shown
    assert "about 24 bits of each subject who consents; its bins together say 6" in shown
    assert house.json("models", "approve", digest[:6]) == {"model": digest, "approved": True}
    assert house.json("models", "list")["models"][0]["state"] == "decided"
    with pytest.raises(NotWaiting):
        house.run("models", "refuse", digest, "--reason", "too late")
    with closing(house.home.ledger()) as ledger:
        kept = ledger.score_model(digest)
    assert kept is not None and kept.decision is not None and kept.decision.approved


def test_a_model_that_is_not_there_is_said_to_be(house: House) -> None:
    waiting_model(house)
    for which in ("0000", "zz"):
        with pytest.raises(NotWaiting):
            house.run("models", "show", which)
