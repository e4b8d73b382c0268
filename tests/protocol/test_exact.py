"""Linear algebra that gives the same bits everywhere: against fractions, and against numpy."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from gmpy2 import mpfr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ceiba_protocol.errors import CeibaError, TotalRejected
from ceiba_protocol.statistics.fits.base import FLOAT_SLOTS, float_values, read_floats
from ceiba_protocol.statistics.fits.exact import (
    Matrix,
    Singular,
    exactly,
    factorise,
    from_grid,
    from_slots,
    on_grid,
    symmetric,
    to_slots,
    triangle,
)
from ceiba_protocol.statistics.fits.scaling import Scaling, unscale

SIZES = st.integers(1, 6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def gram(seed: int, size: int) -> list[list[Fraction]]:
    """XᵀX of more rows than columns, of integers."""
    x = np.random.default_rng(seed).integers(-9, 10, (size + 4, size)).tolist()
    return [[Fraction(sum(row[i] * row[j] for row in x)) for j in range(size)] for i in range(size)]


def solved(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """By elimination in fractions; None where there is no one solution."""
    size = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for j in range(size):
        pivot = next((i for i in range(j, size) if rows[i][j]), None)
        if pivot is None:
            return None
        rows[j], rows[pivot] = rows[pivot], rows[j]
        rows[j] = [value / rows[j][j] for value in rows[j]]
        for i in range(size):
            if i != j:
                rows[i] = [a - rows[i][j] * b for a, b in zip(rows[i], rows[j], strict=True)]
    return [row[-1] for row in rows]


def as_matrix(of: list[list[Fraction]]) -> Matrix:
    return [[mpfr(value) for value in row] for row in of]


@settings(deadline=None)
@given(st.integers(0, 10**6), SIZES)
def test_solutions_and_inverses_are_those_of_fractions(seed: int, size: int) -> None:
    matrix = gram(seed, size)
    right = [Fraction(value) for value in np.random.default_rng(seed + 1).integers(-99, 99, size).tolist()]
    wanted = solved(matrix, right)
    assume(wanted is not None)
    assert wanted is not None
    with exactly():
        factors = factorise(as_matrix(matrix))
        found = factors.solve([mpfr(value) for value in right])
        inverse = factors.inverse()
    for one, other in zip(found, wanted, strict=True):
        assert abs(Fraction(*one.as_integer_ratio()) - other) <= abs(other) * Fraction(1, 2**200) + Fraction(1, 2**220)
    for j in range(size):
        unit = solved(matrix, [Fraction(int(i == j)) for i in range(size)])
        assert unit is not None
        for one, other in zip(inverse[j], unit, strict=True):
            assert abs(Fraction(*one.as_integer_ratio()) - other) <= Fraction(1, 2**180)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.data())
def test_a_column_that_follows_from_those_before_it_is_named(seed: int, size: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, size - 1))
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(size + 20, size))
    x[:, place] = x[:, :place] @ draw.integers(1, 5, place)
    with exactly(), pytest.raises(Singular) as caught:
        factorise([[mpfr(float(value)) for value in row] for row in (x.T @ x).tolist()])
    assert caught.value.place == place


def test_an_empty_column_and_one_that_is_no_number_are_singular() -> None:
    for bad in (0.0, -1.0, math.nan):
        with exactly(), pytest.raises(Singular) as caught:
            factorise([[mpfr(1), mpfr(0)], [mpfr(0), mpfr(bad)]])
        assert caught.value.place == 1


@given(SIZES)
def test_triangles_are_read_as_they_are_written(size: int) -> None:
    pairs = triangle(size)
    with exactly():
        matrix = symmetric([mpfr(10 * i + j) for i, j in pairs], size)
    assert pairs == list(zip(*np.triu_indices(size), strict=True))
    assert all(matrix[i][j] == matrix[j][i] == 10 * min(i, j) + max(i, j) for i in range(size) for j in range(size))


# --- numbers as integers -----------------------------------------------------------------------------------------


@given(FINITE)
def test_every_finite_float_comes_back_from_its_slots(value: float) -> None:
    slots = to_slots(value)
    assert all(abs(one) <= bound for one, bound in zip(slots, FLOAT_SLOTS, strict=True))
    assert from_slots(*slots) == value


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1 / 3],
)
def test_the_ends_of_floats_come_back_from_their_slots(value: float) -> None:
    assert read_floats(float_values([value, -value])) == [value, -value]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_is_not_sent(value: float) -> None:
    with pytest.raises(CeibaError):
        float_values([1.0, value])


@given(st.integers(-(2**53), 2**53), st.integers(-1100, 1100))
def test_slots_that_a_holder_made_up_are_a_named_error_or_a_number(mantissa: int, exponent: int) -> None:
    """The merchant divides a total by the number of holders, so one that lies can give it any integers."""
    try:
        value = from_slots(mantissa, exponent)
    except TotalRejected:
        return
    assert to_slots(value) == (mantissa, exponent)


@given(st.integers(-(2**120), 2**120), st.integers(0, 60))
def test_the_grid_is_exact(units: int, bits: int) -> None:
    with exactly():
        assert on_grid(from_grid(units, bits), bits) == units


@given(st.floats(-1e9, 1e9), st.integers(1, 60))
def test_on_the_grid_means_nearest(value: float, bits: int) -> None:
    assert abs(Fraction(value) * 2**bits - on_grid(value, bits)) <= Fraction(1, 2)


# --- scaled columns ----------------------------------------------------------------------------------------------


def hexed(values: npt.NDArray[np.float64]) -> tuple[str, ...]:
    return tuple(value.hex() for value in values.tolist())


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_unscaled_coefficients_are_those_of_the_columns_as_they_are(seed: int, size: int, intercept: bool) -> None:
    """Least squares on scaled columns, taken back, is least squares on the columns; and so is its covariance."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(40, size)) * draw.uniform(0.1, 50, size) + draw.uniform(-5, 5, size)
    y = draw.normal(size=40)
    shift = x.mean(axis=0) if intercept else np.zeros(size)
    spread = x.std(axis=0)

    def design(columns: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack([np.ones(len(columns)), columns]) if intercept else columns

    scaling = Scaling(shift=hexed(shift), spread=hexed(spread))
    scaled = design(scaling.apply(x))
    np.testing.assert_allclose(scaling.apply(x), (x - shift) / spread)
    covariance = np.linalg.inv(scaled.T @ scaled)
    with exactly():
        raw, wide = unscale(
            [mpfr(one) for one in (covariance @ scaled.T @ y).tolist()],
            [[mpfr(value) for value in row] for row in covariance.tolist()],
            scaling,
            intercept=intercept,
        )
    wanted = np.linalg.inv(design(x).T @ design(x))
    np.testing.assert_allclose([float(one) for one in raw], wanted @ design(x).T @ y, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose([[float(one) for one in row] for row in wide], wanted, rtol=1e-7, atol=1e-10)
