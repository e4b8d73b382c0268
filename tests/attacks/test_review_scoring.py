"""What one score says of a subject, whatever the merchant calls its points (PROTOCOL §5.5)."""

import os
from math import prod

import pytest

from ceiba_protocol.errors import ScoreSaysTooMuch
from ceiba_protocol.linkage.score_model import check_bits
from ceiba_protocol.linkage.scoring import run_score
from tests.support.keys import keypair
from tests.support.scorecards import POINTS, SCHEMAS, model

SIZES = [len(row) for row in POINTS]
ROWS = {
    "insurance.firms": {"months": 90, "late": 0},
    "register.firms": {"kind": 2},
    "tax.firms": {"sales": 700},
}
BINS = (3, 0, 2, 2)
"""The subject's, of all agencies' features."""


def score_with(points: list[list[int]]) -> int:
    rows = {table.removesuffix(".firms"): row for table, row in ROWS.items()}
    return run_score(model(), SCHEMAS, points, rows, keypair(1024), os.urandom)


def test_a_score_of_few_bins_would_say_every_one_of_them_so_no_holder_approves_it() -> None:
    """24 bits come out, and here all bins together have nine: one consent would read four columns of three agencies."""
    places = [prod(SIZES[:feature]) for feature in range(len(SIZES))]
    score = score_with([[place * at for at in range(size)] for place, size in zip(places, SIZES, strict=True)])
    assert tuple(score // place % size for place, size in zip(places, SIZES, strict=True)) == BINS
    with pytest.raises(ScoreSaysTooMuch):
        check_bits(model())


@pytest.mark.parametrize("feature", range(4))
def test_known_limit_a_score_can_be_one_feature_alone(feature: int) -> None:
    """Nobody but the merchant sees that it gave no points for the others."""
    points = [[at if one == feature else 0 for at in range(size)] for one, size in enumerate(SIZES)]
    assert score_with(points) == BINS[feature]
