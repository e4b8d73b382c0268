"""Noise as a merchant asks for it and sees it: what it costs, and how sure each number is."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import ceiba
from ceiba.noise import NORMAL_95, Noise, half_width, report_of, terms_for
from ceiba.query import Query
from ceiba.released import Released
from ceiba.result import Result
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.errors import BadQuestion
from ceiba_protocol.plan import grouped_sums
from ceiba_protocol.schema import Grade
from ceiba_protocol.statistics import WITHHELD, Total
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.members import changed
from tests.support.questions import query_of, rows

TERMS = NoiseTerms(rho=5_000)

# --- asking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "millionths"),
    [
        (0.005, 5_000),
        ("0.005", 5_000),
        (Decimal("0.000001"), 1),
        (10, 10_000_000),
        ("1e-3", 1_000),
        (0.1 + 0.2, None),  # 0.30000000000000004
        (0, None),
        (-0.005, None),
        ("0.0000001", None),
        ("0.0000015", None),
        (10.000001, None),
        ("a little", None),
        ("", None),
        (float("nan"), None),
        (float("inf"), None),
        ("-Infinity", None),
        (None, None),
    ],
)
def test_rho_is_counted_in_millionths_and_nothing_is_rounded(rho: Any, millionths: int | None) -> None:
    if millionths is not None:
        assert Noise(rho).terms() == NoiseTerms(rho=millionths, cells_per_subject=1)
    else:
        with pytest.raises(BadQuestion, match="rho"):
            Noise(rho).terms()


@pytest.mark.parametrize(
    ("cells", "fits"), [(1, True), (1000, True), (0, False), (1001, False), (1.5, False), ("3", False)]
)
def test_cells_per_subject_is_a_whole_number_up_to_a_thousand(cells: Any, fits: bool) -> None:
    if fits:
        assert Noise(cells_per_subject=cells).terms().cells_per_subject == cells
    else:
        with pytest.raises(BadQuestion, match="cells_per_subject"):
            Noise(cells_per_subject=cells).terms()


def test_without_a_wish_the_agreement_decides() -> None:
    public, internal, sensitive, important = (RULES[grade] for grade in RULES)
    assert [terms_for(None, rules) for rules in (public, internal)] == [None, None]
    assert [terms_for(None, rules) for rules in (sensitive, important)] == [TERMS, TERMS]
    assert terms_for(True, internal) == TERMS
    assert terms_for(False, sensitive) is None  # few, and with people's approval; refused where there are none
    assert terms_for(Noise(0.01, 3), public) == NoiseTerms(rho=10_000, cells_per_subject=3)


def test_the_default_costs_no_more_than_a_year_may() -> None:
    poor = changed(RULES[Grade.SENSITIVE], rho_per_year=1_200)
    assert terms_for(None, poor) == terms_for(True, poor) == NoiseTerms(rho=1_200)


def test_both_names_are_at_the_top() -> None:
    assert ceiba.Noise is Noise and ceiba.WITHHELD is WITHHELD
    assert (repr(ceiba.WITHHELD), str(ceiba.WITHHELD)) == ("WITHHELD", "withheld")


# --- how sure a number is ----------------------------------------------------------------------------------------

SQL = (
    "SELECT COUNT(*) AS n, SUM(age) AS total, AVG(age) AS mean, VAR_SAMP(age) AS variance, STDDEV_POP(chol) AS sd, "
    "COVAR_SAMP(age, chol) AS covariance, CORR(age, chol) AS correlation FROM health.heart"
)


def query() -> Query:
    return query_of(SQL)


def many(of: Query) -> list[int]:
    """Totals of a large cell, for which one standard deviation of the noise is small."""
    return [400 * one for one in grouped_sums(of.program, rows())]


def variances_of(of: Query) -> list[int]:
    """Of noise that is about a hundredth of what the largest row could add to a thousand others."""
    return [(20 * one.row_bound) ** 2 for one in of.program.sums]


def test_half_widths_are_those_of_a_monte_carlo() -> None:
    """20,000 answers with normal noise on the same totals: 95 % of them are within the half width."""
    asked = query()
    program, totals = asked.program, many(asked)
    variances, random = variances_of(asked), np.random.default_rng(17)
    sums = [Total(n, one.step) for n, one in zip(totals, program.sums, strict=True)]
    draws = np.rint(random.normal(0, np.sqrt(variances), size=(20_000, len(totals)))).astype(np.int64)
    for use in program.uses:
        half = half_width(use, sums, variances)
        true = use.statistic.finish(*(sums[place] for place in use.sums))
        found = [
            use.statistic.finish(
                *(Total(totals[place] + int(noise[place]), program.sums[place].step) for place in use.sums)
            )
            for noise in draws
        ]
        within = np.mean([abs(one - true) <= half for one in found])  # type: ignore[operator, arg-type]
        assert 0.94 < within < 0.96, use.statistic.statistic


def test_half_of_a_counts_interval_is_that_of_its_noise() -> None:
    asked = query_of("SELECT COUNT(*) AS n, SUM(chol) AS c FROM health.heart")
    sums = [Total(1000, one.step) for one in asked.program.sums]
    n, c = (half_width(use, sums, [100, 400, 10_000]) for use in asked.program.uses)
    assert n == pytest.approx(NORMAL_95 * 10)
    assert c == pytest.approx(NORMAL_95 * 100 * 0.1)  # in the column's resolution


def test_without_noise_in_a_sum_it_has_no_width() -> None:
    asked = query_of("SELECT COUNT(*) AS n FROM health.heart")
    (use,) = asked.program.uses
    assert half_width(use, [Total(7, Fraction(1))], [0]) == 0


def test_there_is_no_width_where_there_is_no_number() -> None:
    asked = query()
    empty = [Total(0, one.step) for one in asked.program.sums]
    widths = {use.statistic.statistic: half_width(use, empty, variances_of(asked)) for use in asked.program.uses}
    assert widths["count"] > 0
    assert {name: width for name, width in widths.items() if name not in ("count", "sum")} == {
        "mean": None, "variance": None, "standard_deviation": None, "covariance": None, "correlation": None,
    }  # fmt: skip


def test_a_histogram_has_a_width_for_each_bin() -> None:
    asked = query_of("SELECT HISTOGRAM(age, 0, 120, 3) AS h FROM health.heart")
    (use,) = asked.program.uses
    sums = [Total(50, one.step) for one in asked.program.sums]
    variances = [0, *(100 * place for place in range(1, len(sums)))]
    assert half_width(use, sums, variances) == pytest.approx([NORMAL_95 * 10 * math.sqrt(k) for k in range(1, 6)])


def test_a_report_speaks_in_the_sums_own_units() -> None:
    report = report_of(NoiseTerms(rho=5_000, cells_per_subject=2), [144, 10_000], [Fraction(1), Fraction(1, 10)])
    assert (report.rho, report.cells_per_subject, report.delta) == (0.005, 2, 1e-6)
    assert report.sigmas == (12, 10) and report.count_sigma == 12
    assert report.epsilon == pytest.approx(0.43, abs=0.005)  # PROTOCOL §3.6
    assert "ρ 0.005, which is ε 0.43 at δ 1e-06; σ of a count is 12.0" in str(report)


# --- results -----------------------------------------------------------------------------------------------------


def grouped() -> Query:
    return query_of("SELECT sex, COUNT(*) AS n, AVG(age) AS mean FROM health.heart GROUP BY sex")


def noisy(asked: Query, *, withheld: tuple[int, ...] = ()) -> Result:
    """With noise; those cells are below the threshold."""
    cells, width = asked.program.cells, len(asked.program.sums)
    sent = np.ones((cells, width), dtype=np.bool_)
    sent[list(withheld)] = False
    totals = (np.array(many(asked)).reshape(cells, width) * sent).reshape(-1).tolist()
    return asked.result(Released(totals, sent, TERMS, [144] * width))


def test_a_result_with_noise_says_how_sure_each_number_is() -> None:
    result = noisy(grouped(), withheld=(1,))
    assert result.columns == ("sex", "n", "mean") and result.groups == ("sex",)
    low, high = result.interval(0, "n") or (0, 0)
    assert (low + high) / 2 == result["n"][0] and high - low == pytest.approx(2 * NORMAL_95 * 12)
    assert result.interval(1, "n") is None and result.interval(0, "sex") is None
    with pytest.raises(BadQuestion, match="nearest is mean"):
        result.interval(0, "meen")


def test_intervals_and_withheld_of_a_data_frame() -> None:
    frame = noisy(grouped(), withheld=(1,)).to_pandas()
    assert list(frame.columns) == ["sex", "n", "n_plus_minus", "mean", "mean_plus_minus"]
    assert (frame["n"].dtype, frame["n_plus_minus"].dtype) == ("Int64", "float64")
    assert frame["n"].isna().tolist() == frame["mean_plus_minus"].isna().tolist() == [False, True, False]
    assert frame["n_plus_minus"][0] == pytest.approx(NORMAL_95 * 12)


def test_intervals_follow_their_rows() -> None:
    """HAVING, ORDER BY and LIMIT move a number and its interval together."""
    asked = grouped().order_by("n", descending=True).limit(2)
    result = noisy(asked)
    whole = noisy(grouped())
    assert len(result) == len(result.plus_minus) == 2
    for row, halves in zip(result, result.plus_minus, strict=True):
        assert halves == whole.plus_minus[whole.rows.index(row)]


def test_its_text_shows_the_halves_and_the_noise() -> None:
    text = repr(noisy(grouped(), withheld=(1,)))
    assert "± 24" in text and "male    withheld" in text
    assert "With noise: ρ 0.005" in text and "Withheld in 1 row: the noisy count is below" in text
    assert "±" in noisy(grouped())._repr_html_()


def test_groups_that_are_numbers_have_no_interval() -> None:
    asked = query_of(
        "SELECT width_bucket(dose, 0, 9, 3) AS b, stage, COUNT(*) AS n FROM health.heart GROUP BY b, stage"
    )
    result = noisy(asked)
    lines = repr(result).split("\n")[2:-2]
    assert all(line.count("±") == 1 for line in lines if "..." not in line)
    assert all(result.interval(0, name) is None for name in ("b", "stage"))
    assert list(result.to_pandas().columns) == ["b", "stage", "n", "n_plus_minus"]


def test_groups_of_large_numbers_have_no_interval_either() -> None:
    """Labels are equal, not the same objects."""
    result = Result(("year", "n"), [(int("20240101"), 700)], plus_minus=[(int("20240101"), 3.0)], groups=("year",))
    assert "20240101  700 ± 3" in repr(result)


@pytest.mark.parametrize(
    ("value", "half", "shown"),
    [
        (1_234_567, 23.6, "1234567 ± 24"),
        (12, 13.4, "12 ± 13"),
        (58.06718, 0.0293, "58.067 ± 0.029"),
        (123_456.789, 1_234.5, "123457 ± 1234"),
        (-0.25, 1.5, "-0.2 ± 1.5"),
        (1e-7, 2.5e-9, "0.0000001000 ± 0.0000000025"),
    ],
)
def test_a_number_has_the_digits_that_its_half_leaves_it(value: float, half: float, shown: str) -> None:
    assert shown in repr(Result(("x",), [(value,)], plus_minus=[(half,)]))
