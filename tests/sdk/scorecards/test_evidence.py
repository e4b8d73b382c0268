"""Weight of evidence and information value: published figures, and what holds of all counts."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ceiba.scorecards import BinCounts, Binning, woe
from ceiba_protocol.errors import BadQuestion, NoEvents
from ceiba_protocol.schema import Schema

STATUS = ["Home Owner", "Tenant", "Other"]
SCHEMA = Schema.from_plain({"table": "a.b", "columns": [{"name": "status", "type": "category", "domain": STATUS}]})
CELLS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=9)


def counts_of(cells: list[tuple[int | None, int | None]], name: str = "x") -> BinCounts:
    good, bad = zip(*cells, strict=True)
    return BinCounts(Binning.at(name, range(len(cells) - 2)), good, bad)


def test_a_published_table_is_reproduced() -> None:
    """MathWorks, Financial Toolbox: bininfo of ResStatus in the credit card data of Refaat (2011)."""
    counts = BinCounts(Binning.categories(SCHEMA, "status"), (365, 307, 131, 0), (177, 167, 53, 0))
    found = woe(counts, smoothing=0)["status"]
    assert found.woe == pytest.approx([0.019329, -0.095564, 0.20049, 0], rel=1e-4)
    assert [one.iv for one in found.bins] == pytest.approx([0.0001682, 0.0036638, 0.0059418, 0], rel=1e-4)
    assert found.iv == pytest.approx(0.0097738, rel=1e-4)
    assert found.reading == "useless"
    assert found.bins[0].bad_rate == pytest.approx(177 / 542) and found.bins[0].share == pytest.approx(542 / 1200)


@given(CELLS, st.floats(0.01, 5))
def test_evidence_is_never_negative_and_keeps_its_sign(cells: list[tuple[int, int]], smoothing: float) -> None:
    good, bad = (sum(side) for side in zip(*cells, strict=True))
    assume(good and bad)
    found = woe(counts_of(cells), smoothing=smoothing)["x"]
    assert found.iv >= 0 and all(one.iv >= 0 for one in found.bins)
    for (own_good, own_bad), value in zip(cells, found.woe, strict=True):
        difference = own_good * bad - own_bad * good
        assert np.isfinite(value)
        assert np.sign(value) == np.sign(difference) or (difference == 0 and abs(value) < 1e-12)


@given(CELLS)
def test_smoothing_pulls_towards_nothing_and_swapping_labels_changes_signs(cells: list[tuple[int, int]]) -> None:
    assume(all(sum(side) for side in zip(*cells, strict=True)))
    little, much = woe(counts_of(cells), smoothing=0.1), woe(counts_of(cells), smoothing=10)
    assert much.iv["x"] <= little.iv["x"] + 1e-12
    swapped = woe(counts_of([(bad, good) for good, bad in cells]), smoothing=0.1)
    assert swapped["x"].woe == pytest.approx([-value for value in little["x"].woe], abs=1e-12)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=3, max_size=9))
def test_joining_bins_loses_information(cells: list[tuple[int, int]]) -> None:
    """The log-sum inequality (Cover and Thomas 2006, theorem 2.7.1)."""
    fine = counts_of(cells)
    joined = fine.merged([list(range(len(cells) - 1))[:2], *[[place] for place in range(2, len(cells) - 1)]])
    assert woe(joined, smoothing=0).iv["x"] <= woe(fine, smoothing=0).iv["x"] + 1e-12


def test_a_withheld_bin_is_neutral_and_says_so() -> None:
    found = woe(counts_of([(500, 20), (300, None), (100, 60), (None, 7), (0, 0)]))
    one = found["x"]
    assert (one.woe[1], one.woe[3], one.woe[4]) == (0, 0, 0) and one.bins[1].share is None
    assert one.bins[0].share == pytest.approx(520 / 680)
    assert one.woe[0] == pytest.approx(woe(counts_of([(500, 20), (100, 60), (0, 0)]))["x"].woe[0])
    assert "x: withheld, or too few, in [0, 1); [2, inf)" in found.notes()[-1].replace(">= 2", "[2, inf)")
    assert "withheld" in found.summary() and found.to_dict()["x"][1]["bad"] is None


def test_features_are_ranked() -> None:
    strong, weak = (
        counts_of([(900, 10), (100, 90), (0, 0)], "strong"),
        counts_of([(500, 51), (500, 49), (0, 0)], "weak"),
    )
    found = woe(weak, strong)
    assert found.to_pandas()["feature"].tolist() == ["strong", "weak"]
    assert found["strong"].reading.startswith("very strong") and found["weak"].reading == "useless"
    assert list(found.iv) == ["weak", "strong"]


def test_what_has_no_evidence_is_refused() -> None:
    with pytest.raises(BadQuestion):
        woe()
    with pytest.raises(BadQuestion):
        woe(counts_of([(1, 2), (2, 1)]), counts_of([(1, 2), (2, 1)]))
    with pytest.raises(BadQuestion):
        woe(counts_of([(1, 2), (2, 1)]), smoothing=-1)
    withheld = counts_of([(5, 1), (2, 3)])
    with pytest.raises(BadQuestion, match=r"every count of .* was withheld"):
        woe(BinCounts(withheld.binning, (None,) * len(withheld.good), (None,) * len(withheld.bad)))
    with pytest.raises(NoEvents):
        woe(counts_of([(5, 0), (2, 0)]))
    with pytest.raises(NoEvents):
        woe(counts_of([(5, None), (2, 0)]))
