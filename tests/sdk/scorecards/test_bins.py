"""Bins: what holders count by them is what rows of one's own are in, and coarse ones hold what they must."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ceiba
from ceiba.query import Table
from ceiba.scorecards import BinCounts, Binning, PairCounts, Population, coarse, pair_key
from ceiba.terms import col
from ceiba_protocol.errors import BadQuestion, CeibaError, UnboundedColumn, UnknownCategory, UnknownColumn
from ceiba_protocol.schema import Schema
from tests.support.pooled import Pooled
from tests.support.pooled_heart import frame as heart_rows
from tests.support.pooled_heart import gated_heart, heart

SCHEMA = Schema.from_plain(
    {
        "table": "tax.firms",
        "columns": [
            {"name": "debt", "type": "decimal", "resolution": 0.01, "minimum": -5, "maximum": 5},
            {"name": "income", "type": "int", "minimum": 0, "maximum": 100_000},
            {"name": "home", "type": "category", "domain": ["owner", "rent", "missing", "parents"]},
            {"name": "listed", "type": "bool"},
            {"name": "free", "type": "int"},
            {"name": "bad", "type": "bool"},
        ],
    }
)
DEBT = Binning.at("debt", [-1.5, 0, 0.01, 2], table="tax.firms")
HOME = Binning.categories(SCHEMA, "home", [["owner", "parents"], ["rent"], ["missing"]])
LISTED = Binning.categories(SCHEMA, "listed")


def frame_of(seed: int, rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "debt": random.choice([-5, -1.51, -1.5, -0.01, 0, 0.01, 1.99, 2, 5], rows),
            "income": random.integers(0, 100_000, rows),
            "home": random.choice(["owner", "rent", "missing", "parents"], rows),
            "listed": random.random(rows) < 0.4,
            "bad": random.random(rows) < 0.3,
        }
    )
    return frame.astype(object).mask(random.random(frame.shape) < 0.15, None).assign(bad=frame["bad"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(list(combinations([DEBT, HOME, LISTED], 2))))
def test_holders_and_rows_of_ones_own_are_binned_alike(seed: int, pair: tuple[Binning, Binning]) -> None:
    frame, (first, second) = frame_of(seed), pair
    table = Table(SCHEMA, Pooled(SCHEMA, frame))
    counted = table.group_by(first.group_key(), "bad").count().run().to_pandas()
    assert BinCounts.from_frame(first, counted) == BinCounts.of_rows(first, frame, list(frame["bad"]))
    wanted = PairCounts.of_rows(first, second, frame, list(frame["bad"])).cells
    both = table.group_by(first.group_key(), second.group_key(), "bad").agg(n=ceiba.count()).run().to_pandas()
    as_one = table.group_by(pair_key(first, second), "bad").agg(rows=ceiba.count()).run().to_pandas()
    for found in (both, as_one):
        np.testing.assert_array_equal(PairCounts.from_frame(first, second, found, bad="bad").cells, wanted)
    np.testing.assert_array_equal(PairCounts.from_frame(first, second, both).cells, wanted.sum(axis=0, keepdims=True))
    assert BinCounts.from_frame(second, both) == BinCounts.of_rows(second, frame, list(frame["bad"]))
    assert Population.from_frame(first, both) == Population.of_rows(first, frame)


def test_bins_are_named_by_their_ends() -> None:
    assert DEBT.labels == ("< -1.5", "[-1.5, 0)", "[0, 0.01)", "[0.01, 2)", ">= 2", "missing")
    assert HOME.labels == ("owner, parents", "rent", "missing", "(missing)")
    assert (HOME.count, HOME.missing, DEBT.count) == (4, 3, 6)
    assert LISTED.labels == ("false", "true", "missing")
    assert Binning.at("debt", []).labels == ("any", "missing")
    assert DEBT.group_key("d").key.name == "d" and DEBT.group_key().key.name == "debt"


def test_a_computed_feature_has_a_name_and_reads_the_column_that_has_it() -> None:
    ratio = Binning.at((col("debt") / col("income")).round(2), [0.5], name="ratio")
    assert ratio.places(pd.DataFrame({"ratio": [0.49, 0.5, None]})).tolist() == [0, 1, 2]
    with pytest.raises(BadQuestion, match="has no name"):
        Binning.at(col("debt") * 2, [1])


def test_edges_follow_from_declared_bounds() -> None:
    assert Binning.equal(SCHEMA, "debt", 4).edges == ("-2.5", "0", "2.5")
    assert Binning.equal(SCHEMA, "debt", 3).edges == ("-1.67", "1.67")
    assert Binning.equal(SCHEMA, "income", 2, low=10, high=20).edges == ("15",)
    assert Binning.equal(SCHEMA, "free", 2, low=0, high=3).edges == ("2",)
    assert Binning.geometric(SCHEMA, "income", 4, low=10).edges == ("10", "100", "1000", "10000")
    assert Binning.geometric(SCHEMA, "income", 5, low=1, high=4).edges == ("1", "2", "3")
    assert Binning.equal(SCHEMA, "debt", 2).table == "tax.firms"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Binning.at("debt", [1, 1]), BadQuestion),
        (lambda: Binning.at("debt", [2, 1]), BadQuestion),
        (lambda: Binning.at("debt", ["low"]), BadQuestion),
        (lambda: Binning.at("debt", range(100)), BadQuestion),
        (lambda: Binning.equal(SCHEMA, "free", 3), UnboundedColumn),
        (lambda: Binning.equal(SCHEMA, "home", 3), BadQuestion),
        (lambda: Binning.equal(SCHEMA, "debts", 3), UnknownColumn),
        (lambda: Binning.equal(SCHEMA, "debt", 0), BadQuestion),
        (lambda: Binning.equal(SCHEMA, "debt", 3, low=2, high=2), BadQuestion),
        (lambda: Binning.geometric(SCHEMA, "income", 3), BadQuestion),
        (lambda: Binning.categories(SCHEMA, "debt"), BadQuestion),
        (lambda: Binning.categories(SCHEMA, "home", [["owner"], ["rent", "parents"]]), BadQuestion),
        (lambda: Binning.categories(SCHEMA, "home", [["owner", "castle"]]), UnknownCategory),
        (lambda: Binning.categories(SCHEMA, "listed", [["true", "false", "true"]]), BadQuestion),
        (lambda: DEBT.merged([[0, 2], [1], [3, 4]]), BadQuestion),
        (lambda: DEBT.merged([[0, 1], [2, 3]]), BadQuestion),
        (lambda: HOME.places(pd.DataFrame({"home": ["castle"]})), UnknownCategory),
        (lambda: HOME.places(pd.DataFrame({"house": ["rent"]})), BadQuestion),
        (lambda: DEBT.places(pd.DataFrame({"debt": ["much"]})), BadQuestion),
        (lambda: LISTED.places(pd.DataFrame({"listed": ["perhaps"]})), BadQuestion),
    ],
)
def test_bad_bins_are_refused(make: Any, error: type[CeibaError]) -> None:
    with pytest.raises(error):
        make()


# --- counts -----------------------------------------------------------------------------------------------------


def test_withheld_cells_stay_withheld() -> None:
    age = Binning.equal(heart().schema, "age", 6)
    key = (heart().diagnosis > 0).alias("bad")
    found = BinCounts.from_frame(age, gated_heart(30).group_by(age.group_key(), key).count().run().to_pandas())
    full = BinCounts.of_rows(age, heart_rows(), heart_rows()["diagnosis"] > 0)
    assert found.withheld and set(found.withheld) < set(range(age.count))
    for place in range(age.count):
        for shown, true in ((found.good, full.good), (found.bad, full.bad)):
            assert shown[place] == true[place] or (shown[place] is None and (true[place] or 0) < 30)
    merged = found.merged([[0, 1], [2], [3], [4, 5]])
    assert merged.binning.edges == tuple(age.edges[place] for place in (1, 2, 3))
    assert merged.good[0] == sum(one or 0 for one in found.good[:2])


def test_a_label_may_be_a_word_and_be_missing() -> None:
    frame = pd.DataFrame(
        {"listed": ["true", "true", "false", "missing"], "status": ["bad", "good", None, "good"], "n": [4, pd.NA, 9, 2]}
    )
    found = BinCounts.from_frame(LISTED, frame, bad="status", value="bad")
    assert (found.good, found.bad) == ((0, None, 2), (0, 4, 0))
    assert found.n == (0, None, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BinCounts(LISTED, (1, 2), (1, 2)),
        lambda: BinCounts(LISTED, (1, 2, math.inf), (1, 2, 3)),
        lambda: BinCounts(LISTED, (1, 2, "many"), (1, 2, 3)),
        lambda: PairCounts(LISTED, HOME, np.zeros((2, 3, 3))),
        lambda: BinCounts.of_rows(LISTED, pd.DataFrame({"listed": [True]}), [None]),
        lambda: BinCounts.of_rows(LISTED, pd.DataFrame({"listed": [True]}), ["bad"]),
        lambda: BinCounts.from_frame(LISTED, pd.DataFrame({"listed": ["yes"], "bad": [True], "n": [1]})),
        lambda: BinCounts.from_frame(LISTED, pd.DataFrame({"listed": ["true"], "bad": [True], "total": [1]})),
        lambda: BinCounts.from_frame(LISTED, pd.DataFrame({"listed": ["true"], "bad": [1], "n": [1], "rows": [1]})),
        lambda: BinCounts.from_frame(LISTED, pd.DataFrame({"listed": ["true"], "n": [1]})),
    ],
)
def test_bad_counts_are_refused(make: Any) -> None:
    with pytest.raises(BadQuestion):
        make()


# --- coarse bins ------------------------------------------------------------------------------------------------

COUNTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=2, max_size=15)


def rates(counts: BinCounts) -> list[float]:
    return [float(bad / n) for bad, n in zip(counts.bad[:-1], counts.n[:-1], strict=True) if bad is not None and n]


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.booleans(), st.booleans())
def test_coarse_bins_hold_what_they_must(cells: list[tuple[int, int]], monotone: bool, ordered: bool) -> None:
    names = [f"c{place}" for place in range(len(cells))]
    schema = Schema.from_plain({"table": "a.b", "columns": [{"name": "x", "type": "category", "domain": names}]})
    fine = Binning.at("x", range(1, len(cells))) if ordered else Binning.categories(schema, "x")
    good, bad = zip(*cells, (7, 1), strict=True)
    made = coarse(BinCounts(fine, good, bad), min_share=0.1, least=5, max_bins=4, monotone=monotone)
    assert made.good[-1] is None and made.bad[-1] is None  # one of the bad is too few for a bin of its own
    assert sum(one or 0 for one in made.good) == sum(good) - 7
    if made.binning.count > 2:
        assert made.binning.count <= 5
        assert min(one or 0 for one in made.good[:-1]) >= 5 and min(one or 0 for one in made.bad[:-1]) >= 5
        assert min(one or 0 for one in made.n[:-1]) >= 0.1 * (sum(good) + sum(bad))
        turns = np.sign(np.diff(rates(made)))
        assert not monotone or not ordered or len(set(turns)) == 1
    places = [0, *fine.cuts] if ordered else names
    rows = pd.DataFrame({"x": list(map(float, places)) if ordered else places})
    assert (np.diff(made.binning.places(rows)) >= 0).all() or not ordered
    regrouped = [0.0] * made.binning.count
    for place, own in zip(made.binning.places(rows), good, strict=False):
        regrouped[place] += own
    assert regrouped[:-1] == list(made.good[:-1])


def test_neighbours_that_do_not_differ_are_joined_and_others_not() -> None:
    fine = Binning.at("x", [1, 2, 3])
    made = coarse(BinCounts(fine, (900, 890, 500, 510, 80), (100, 110, 500, 490, 20)))
    assert made.binning.edges == ("2",)
    assert (made.good, made.bad) == ((1790, 1010, 80), (210, 990, 20))
    with pytest.raises(BadQuestion):
        coarse(made, max_bins=0)


def test_a_withheld_bin_is_joined_to_its_neighbour() -> None:
    fine = Binning.at("x", [1, 2, 3])
    made = coarse(BinCounts(fine, (900, 300, None, 510, 0), (100, None, 300, 490, 0)))
    assert made.withheld == () and sum(made.good) == 1710 and sum(made.bad) == 890  # type: ignore[arg-type]
