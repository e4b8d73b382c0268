"""Figures: what is drawn are the released numbers, where they are, and a mark for each that is missing."""

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from math import exp, isnan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ceiba import plots
from ceiba.display import cell
from ceiba.plots.style import HATCH, SERIES, WITHHELD_HEIGHT
from ceiba.result import Result
from ceiba.statistics import statistic
from ceiba.terms import date_trunc
from ceiba_protocol.errors import BadQuestion, MissingExtra
from ceiba_protocol.statistics import WITHHELD
from tests.support.questions import answer, table

count, mean, histogram = statistic("count"), statistic("mean"), statistic("histogram")


# --- reading a figure --------------------------------------------------------------------------------------------


def bars_of(axes: Axes) -> list[list[float]]:
    """Heights, series by series."""
    containers = [one for one in axes.containers if isinstance(one, BarContainer)]
    return [[bar.get_height() for bar in container] for container in containers]


def intervals_of(axes: Axes) -> list[tuple[float, float]]:
    """The drawn ends of error bars."""
    found = []
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            segments = container.lines[2][0].get_segments()
            found += [(float(ends[0][1]), float(ends[1][1])) for ends in segments if len(ends)]
    return found


def hatched(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch() == HATCH]


def words_of(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks_of(axes: Axes, axis: str = "x") -> list[str]:
    labels = axes.get_xticklabels() if axis == "x" else axes.get_yticklabels()
    return [label.get_text() for label in labels]


def same(got: list[float], wanted: list[Any]) -> bool:
    """NaN stands for what is no number."""
    return [None if isnan(one) else one for one in got] == [
        one if isinstance(one, int | float) else None for one in wanted
    ]


def drawn(figure: Figure) -> Figure:
    """Rendering finds what building does not: formulas in labels, layouts that collapse."""
    figure.canvas.draw()
    return figure


# --- bars --------------------------------------------------------------------------------------------------------

VALUES = st.one_of(st.integers(-1000, 1000), st.floats(-1e6, 1e6), st.none(), st.just(WITHHELD))


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=8))
def test_bars_have_the_released_heights_and_a_mark_for_what_is_missing(values: list[Any]) -> None:
    axes = plots.bars([f"g{place}" for place in range(len(values))], values, title="T", label="patients").axes[0]
    assert len(bars_of(axes)) == 1 and same(bars_of(axes)[0], values)
    withheld = [place for place, value in enumerate(values) if value is WITHHELD]
    assert [round(patch.get_x() + patch.get_width() / 2, 9) for patch in hatched(axes)] == withheld
    assert {patch.get_height() for patch in hatched(axes)} <= {WITHHELD_HEIGHT}
    assert words_of(axes).count("withheld") == len(withheld) and words_of(axes).count("NULL") == values.count(None)
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == ("T", "patients")


def test_the_mark_of_a_withheld_cell_does_not_depend_on_the_values() -> None:
    heights = set()
    for released in (1, 1_000_000):
        axes = drawn(plots.bars(["a", "b"], [released, WITHHELD])).axes[0]
        box = hatched(axes)[0].get_window_extent()
        heights.add(round(box.height / axes.get_window_extent().height, 6))
    assert heights == {WITHHELD_HEIGHT}


def test_intervals_are_error_bars() -> None:
    axes = plots.bars(["a", "b", "c"], [10, WITHHELD, 30], lower=[8, None, 25], upper=[12, None, 41]).axes[0]
    assert intervals_of(axes) == [(8, 12), (25, 41)]


def test_a_second_key_gives_bars_side_by_side_in_safe_colours() -> None:
    axes = plots.bars(["a", "b"], {"female": [1, 2], "male": [3, WITHHELD]}).axes[0]
    assert same(bars_of(axes)[0], [1, 2]) and same(bars_of(axes)[1], [3, WITHHELD])
    xs = [bar.get_x() for container in axes.containers for bar in container]
    assert xs[0] < xs[2] < xs[1] < xs[3]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["female", "male"]
    colors = [container[0].get_facecolor()[:3] for container in axes.containers]
    assert [tuple(round(part * 255) for part in color) for color in colors] == [
        tuple(bytes.fromhex(color[1:])) for color in SERIES[:2]
    ]


@pytest.mark.parametrize("label", ["$\\frac{", "a$b$c", "<script>", "x\ny", "東京"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_labels_are_words_and_never_formulas(label: str) -> None:
    figure = drawn(plots.bars([label, "b"], [1, WITHHELD], title=label, label=label, axis=label))
    assert ticks_of(figure.axes[0])[0].replace("\\$", "$") == cell(label)
    drawn(plots.forest([label], [1], [1], [1], title=label))
    drawn(plots.heat_map([label], [label], [[1]], title=label, label=label))


def test_long_labels_are_broken_or_slanted() -> None:
    axes = plots.bars([f"a rather long label {n}" for n in range(4)], [1, 2, 3, 4]).axes[0]
    assert "\n" in ticks_of(axes)[0] and axes.get_xticklabels()[0].get_rotation() == 0
    axes = plots.bars([f"averyveryverylonglabel{n}" for n in range(9)], range(9)).axes[0]
    assert axes.get_xticklabels()[0].get_rotation() == 40


# --- lines, histograms, heat maps --------------------------------------------------------------------------------


def test_lines_break_where_a_value_is_missing() -> None:
    times = [date(2024, month, 1) for month in (1, 2, 3, 4)]
    axes = drawn(plots.line(times, [5, WITHHELD, 7, None], lower=[4, None, 6, None], upper=[6, None, 9, None])).axes[0]
    assert same(list(map(float, axes.lines[0].get_ydata())), [5, WITHHELD, 7, None])
    assert len(hatched(axes)) == 1 and words_of(axes) == ["withheld", "NULL"]
    assert intervals_of(axes) == [(4, 6), (6, 9)]


def test_one_of_several_lines_may_end() -> None:
    times = [date(2024, month, 1) for month in (1, 2, 3)]
    axes = drawn(plots.line(times, {"a": [1, 2, None], "b": [3, WITHHELD, 4]})).axes[0]
    assert words_of(axes) == ["withheld"] and len(hatched(axes)) == 1
    axes = drawn(plots.line(times, {"a": [1, 2, None], "b": [3, 4, None]})).axes[0]
    assert words_of(axes) == ["NULL"]


def small_table(*counts: Any) -> list[dict[str, Any]]:
    edges = [None, *(10.0 * k for k in range(len(counts) - 1)), None]
    return [{"from": a, "to": b, "count": n} for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def test_a_histogram_has_its_bins_where_they_are() -> None:
    figure = plots.histogram(small_table(0, 5, WITHHELD, 9, 2), plus_minus=[1, 1, None, 2, 1], axis="age (years)")
    axes = drawn(figure).axes[0]
    assert same(bars_of(axes)[0], [5, WITHHELD, 9, 2])
    places = [(bar.get_x(), bar.get_width()) for bar in axes.containers[0]]
    assert places == [(0, 10), (10, 10), (20, 10), (35, 10)]
    assert (hatched(axes)[0].get_x(), hatched(axes)[0].get_width()) == (10, 10) and len(hatched(axes)) == 1
    assert intervals_of(axes) == [(4, 6), (7, 11), (1, 3)]
    assert "above\n30" in ticks_of(axes) and "below\n0" not in ticks_of(axes) and axes.get_xlabel() == "age (years)"


def test_what_was_withheld_beyond_the_ends_is_drawn() -> None:
    axes = plots.histogram(small_table(WITHHELD, 5, 6, 0)).axes[0]
    assert len(hatched(axes)) == 1 and hatched(axes)[0].get_x() == -15 and "below\n0" in ticks_of(axes)


def test_a_heat_map_prints_its_values() -> None:
    figure = plots.heat_map(
        ["a", "b"], ["x", "y", "z"], [[1234, WITHHELD, None], [0.125, -3, 5]],
        plus_minus=[[12, None, None], [None, None, 1]], label="rows",
    )  # fmt: skip
    axes = drawn(figure).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    wanted = ["1,234\n±\N{NO-BREAK SPACE}12", "withheld", "–", "0.125", "−3", "5\n±\N{NO-BREAK SPACE}1"]
    assert [texts[x + 0.5, y + 0.5] for y in range(2) for x in range(3)] == wanted and "rows" in texts.values()
    assert [(patch.get_x(), patch.get_y()) for patch in hatched(axes)] == [(1, 0)]
    mesh = next(one for one in axes.collections if isinstance(one, QuadMesh))
    cells = mesh.get_array()
    assert cells is not None and cells.mask.tolist() == [[False, True, True], [False, False, False]]
    assert mesh.get_clim() == (-1234, 1234) and mesh.get_cmap().name == "PuOr"


def test_nothing_released_is_drawn_without_a_scale() -> None:
    axes = drawn(plots.bars(["a", "b"], [WITHHELD, WITHHELD])).axes[0]
    assert len(hatched(axes)) == 2 and list(axes.get_yticks()) == []
    assert words_of(drawn(plots.heat_map(["a"], ["x"], [[WITHHELD]])).axes[0]).count("withheld") == 1
    drawn(plots.histogram(small_table(WITHHELD, WITHHELD, WITHHELD)))


# --- curves and estimates ----------------------------------------------------------------------------------------

TIMES = (5, 10, 20)


def curve(name: str = "all", **changed: Any) -> plots.Curve:
    given = {"times": TIMES, "survival": [0.9, 0.6, 0.2], "lower": [0.8, 0.5, 0.1], "upper": [1, 0.7, 0.4]} | changed
    return plots.Curve(name, **given)


def test_survival_starts_at_one_and_steps_after_each_time() -> None:
    axes = drawn(plots.survival([curve(censored=[7, 10])], time="days")).axes[0]
    line, marks = axes.lines
    assert line.get_drawstyle() == "steps-post"
    assert list(line.get_xdata()) == [0, 5, 10, 20] and list(line.get_ydata()) == [1, 0.9, 0.6, 0.2]
    assert list(marks.get_ydata()) == [0.9, 0.6]
    band = axes.collections[0].get_paths()[0].vertices
    assert {0.8, 0.5, 0.1, 0.7, 0.4} <= {round(float(y), 9) for _, y in band}
    assert axes.get_xlabel() == "days"


def test_numbers_at_risk_are_those_just_before_a_tick() -> None:
    one = curve(at_risk=[30, 20, WITHHELD])
    assert [one.risk_at(time) for time in (0, 5, 6, 10, 11, 20, 21)] == [30, 30, 20, 20, WITHHELD, WITHHELD, 0]
    axes = drawn(plots.survival([one, curve("other", at_risk=[9, 8, None])])).axes[0]
    assert {"at risk", "all", "other", "30", "9", "withheld", "–"} <= set(words_of(axes))
    assert "at risk" not in words_of(plots.survival([curve()]).axes[0])


def test_many_curves_differ_in_colour_or_style() -> None:
    curves = [curve(f"c{n}", survival=[exp(-n / 20)] * 3) for n in range(20)]
    lines = plots.survival(curves).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_a_forest_has_points_intervals_and_numbers() -> None:
    figure = plots.forest(["age", "sex", "pain"], [1.02, WITHHELD, None], [0.9, None, None], [1.25, None, None])
    axes = drawn(figure).axes[0]
    reference, interval, point = axes.lines
    assert list(reference.get_xdata()) == [1, 1] and axes.get_xscale() == "log"
    assert list(interval.get_xdata()) == [0.9, 1.25] and list(point.get_xdata()) == [1.02]
    assert words_of(axes) == ["1.02  (0.9 to 1.25)", "withheld", "not estimated"]
    assert ticks_of(axes, "y") == ["age", "sex", "pain"] and axes.get_ylim()[0] > axes.get_ylim()[1]
    assert plots.forest(["d"], [-1], [-2], [0], reference=0, log=False).axes[0].get_xscale() == "linear"


def test_roc_calibration_and_scree() -> None:
    axes = drawn(plots.roc([0, 0.2, 1], [0, 0.7, 1], 0.75)).axes[0]
    assert list(axes.lines[1].get_ydata()) == [0, 0.7, 1] and "score, area 0.750" in axes.lines[1].get_label()
    above, below = drawn(plots.calibration([0.1, 0.5], [0.2, WITHHELD], [40, 9], lower=[0.1, 0], upper=[0.3, 1])).axes
    assert same(list(above.lines[-1].get_ydata()), [0.2, WITHHELD]) and intervals_of(above) == [(0.1, 0.3)]
    assert [float(path.vertices[1][1]) for path in below.collections[0].get_paths()] == [40, 9]
    axes = drawn(plots.scree([3, 1])).axes[0]
    assert list(axes.lines[0].get_ydata()) == [3, 1] and words_of(axes) == ["75%", "100%"]


@pytest.mark.parametrize(
    "use",
    [
        lambda: plots.bars(["a"], [1, 2]),
        lambda: plots.bars([], []),
        lambda: plots.bars(["a"], {}),
        lambda: plots.bars(["a"], ["1"]),
        lambda: plots.bars(["a"], [float("inf")]),
        lambda: plots.bars(["a"], [1], lower=[1, 2], upper=[1]),
        lambda: plots.line([], []),
        lambda: plots.histogram([]),
        lambda: plots.histogram([{"from": None, "to": 1.0, "count": 1}]),
        lambda: plots.heat_map(["a"], ["x"], [[1, 2]]),
        lambda: plots.heat_map(["a"], ["x"], [[1]], plus_minus=[]),
        lambda: plots.survival([]),
        lambda: plots.survival([curve(times=(5, 20, 10))]),
        lambda: plots.survival([curve(lower=[1])]),
        lambda: plots.forest(["a"], [-1], [1], [2]),
        lambda: plots.forest(["a"], [1], [1], []),
        lambda: plots.roc([0], [0, 1], 0.5),
        lambda: plots.calibration([0.1], [0.1], []),
        lambda: plots.scree([0.0]),
        lambda: plots.scree([None]),
    ],
)
def test_what_cannot_be_drawn_is_said(use: Callable[[], Any]) -> None:
    with pytest.raises(BadQuestion):
        use()


# --- Result.plot() -----------------------------------------------------------------------------------------------


def test_one_key_gives_bars_of_the_released_values() -> None:
    result = answer(table().group_by("sex").agg(n=count(), age=mean("age")))
    first, second = drawn(result.plot()).axes
    assert same(bars_of(first)[0], result["n"]) and same(bars_of(second)[0], result["age"])
    assert ticks_of(first) == ["female", "male", "NULL"] and first.get_title(loc="left") == "n by sex"
    assert (first.get_ylabel(), second.get_ylabel(), first.get_xlabel()) == ("rows", "mean of age (years)", "sex")
    (alone,) = result.plot("age", title="How old?").axes
    assert same(bars_of(alone)[0], result["age"]) and alone.get_title(loc="left") == "How old?"


def test_withheld_and_noise_in_a_result() -> None:
    halves = [("f", 3.5), ("m", None), (None, 2)]
    result = Result(("sex", "n"), [("f", 20), ("m", WITHHELD), (None, 7)], groups=("sex",), plus_minus=halves)
    axes = result.plot().axes[0]
    assert same(bars_of(axes)[0], [20, WITHHELD, 7]) and len(hatched(axes)) == 1
    assert intervals_of(axes) == [(16.5, 23.5), (5, 9)]


def test_two_keys_give_a_heat_map() -> None:
    result = answer(table().group_by("sex", "stage").agg(n=count()))
    axes = drawn(result.plot()).axes[0]
    printed = [text for text in words_of(axes) if text not in ("–", "rows")]
    assert sorted(printed) == sorted(f"{n:,}" for n in result["n"])
    assert ticks_of(axes, "y") == ["female", "male", "NULL"] and axes.get_xlabel() == "stage"


def test_dates_give_a_line_and_a_second_key_several() -> None:
    query = table().group_by(date_trunc("month", table().seen).alias("month")).agg(n=count())
    result = answer(query)
    axes = drawn(result.plot()).axes[0]
    rows = sorted((day, n) for day, n in result if day is not None)
    assert list(axes.lines[0].get_ydata()) == [n for _, n in rows]
    assert axes.get_xlabel() == "month; 1 without a date not drawn" and len(rows) == len(result) - 1
    both = answer(table().group_by("sex", date_trunc("month", table().seen).alias("month")).agg(n=count()))
    lines = {line.get_label(): list(line.get_ydata()) for line in both.plot().axes[0].lines}
    for sex in ("female", "male"):
        assert [n for n in lines[sex] if not isnan(n)] == [n for s, day, n in sorted(
            (row for row in both if None not in row), key=lambda row: row[1]) if s == sex]  # fmt: skip


def test_a_histogram_output_gives_histograms() -> None:
    result = answer(table().agg(h=histogram("age", 0, 100, 5)))
    axes = drawn(result.plot()).axes[0]
    assert bars_of(axes)[0] == [e["count"] for e in result.value if e["count"] or None not in e.values()]
    assert axes.get_xlabel() == "age (years)" and axes.get_ylabel() == "rows"
    grouped = answer(table().group_by("sex").agg(h=histogram("age", 0, 100, 5)))
    titles = [axes.get_title(loc="left") for axes in grouped.plot().axes if axes.get_visible()]
    assert titles == ["h, female", "h, male", "h, NULL"]


def test_several_outputs_without_groups_are_bars() -> None:
    result = answer(table().agg(young=count(), age=mean("age")))
    axes = drawn(result.plot()).axes[0]
    assert same(bars_of(axes)[0], list(result[0])) and ticks_of(axes) == ["young", "age"]


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (Result(("n",), [(5,)]), "one single value"),
        (Result(("n",), [(WITHHELD,)]), "one single value"),
        (Result(("sex", "n"), [], groups=("sex",)), "empty"),
        (Result(("sex",), [("f",)], groups=("sex",)), "empty"),
        (Result(("n",), [(5,), (6,)]), "do not say what"),
        (Result(("a", "b", "c", "n"), [(1, 2, 3, 4)], groups=("a", "b", "c")), "3 grouping keys"),
    ],
)
def test_results_without_a_picture_say_why(result: Result, problem: str) -> None:
    with pytest.raises(BadQuestion, match=problem):
        result.plot()


def test_columns_to_draw_are_checked() -> None:
    result = Result(("sex", "n"), [("f", 5)], groups=("sex",))
    with pytest.raises(BadQuestion, match="nearest is n"):
        result.plot("nn")
    with pytest.raises(BadQuestion, match="sex says what a row is about"):
        result.plot("sex")
    wide = Result(("sex", *(f"n{k}" for k in range(30))), [("f", *range(30))], groups=("sex",))
    with pytest.raises(BadQuestion, match="30 panels"):
        wide.plot()


# --- the package --------------------------------------------------------------------------------------------------


def test_plots_are_found_without_an_import_of_their_own() -> None:
    program = "import ceiba; ceiba.plots.bars(['a'], [1]); assert 'plots' in dir(ceiba)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_figure_shows_itself_in_a_notebook() -> None:
    figure: Any = plots.bars(["a"], [1])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_drawing_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ceiba.plots.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ceiba\[plot\]'"):
        Result(("sex", "n"), [("f", 5)], groups=("sex",)).plot()


def test_neither_ceiba_nor_its_plots_load_matplotlib_or_pyplot() -> None:
    program = (
        "import sys, ceiba.result, ceiba.plots.results; assert 'matplotlib' not in sys.modules\n"
        "from ceiba import plots; plots.bars(['a'], [1])._repr_png_(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
