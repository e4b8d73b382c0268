"""How outcomes show themselves, and that programs get every digit all the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ceiba.analysis import Outcome
from ceiba.result import Result
from ceiba.summary import SHOWN_ROWS, TablePart, entry_text, number_text, p_text
from ceiba_protocol.statistics import WITHHELD

RESULT = Result(("n",), [(7,)])


@dataclass(frozen=True, repr=False)
class Fitted(Outcome):
    title = "A <fit>"

    def parts(self) -> Sequence[TablePart]:
        rows = [("age", 2.17776352634, 0.0004, 1234567), ("東京", -31.5, None, 3), ("rare", WITHHELD, 0.5, WITHHELD)]
        facts = [("response", "cost"), ("n", 12345678), ("p (F)", 3e-9), ("R²", 0.039119314), ("F", None)]
        return [TablePart("Coefficients", ("", "coef", "P>|t|", "rows"), rows), TablePart.of_facts("Fit", facts)]

    def notes(self) -> list[str]:
        return ["Mind the <gap>."]


SUMMARY = """\
A <fit>
==================================
response      cost    R²  0.039119
n         12345678    F          -
p (F)       <0.001

Coefficients
          coef    P>|t|      rows
----  --------  -------  --------
age     2.1778  <0.001    1234567
東京  -31.5           -         3
rare  withheld   0.5000  withheld

Mind the <gap>."""


def test_a_summary_has_its_facts_in_two_columns_then_its_tables_and_notes() -> None:
    """Numbers stand at their points; wide letters keep the columns in line."""
    assert Fitted(RESULT).summary() == SUMMARY


def test_programs_have_every_digit() -> None:
    outcome = Fitted(RESULT)
    assert outcome.to_dict()["Coefficients"][0]["coef"] == outcome.to_pandas()["coef"][0] == 2.17776352634
    assert outcome.to_dict()["Fit"][2] == {"": "p (F)", "value": 3e-9}


@given(st.floats(-1e300, 1e300))
@example(99999.7)
@example(1e9 - 0.5)
@example(0.00099999951)
@example(5e-324)
def test_a_shown_number_is_right_to_five_digits(value: float) -> None:
    text = number_text(value)
    assert float(text) == pytest.approx(value, rel=5.1e-5)
    assert len(text) <= 12 and (value != int(value) or abs(value) >= 1e9 or "." not in text)


@given(st.floats(0, 1))
def test_a_shown_p_value_never_flatters(p: float) -> None:
    text = p_text(p)
    assert (text == "<0.001") == (p < 0.001) and (text == "<0.001" or float(text) == pytest.approx(p, abs=5.1e-5))


@pytest.mark.parametrize(
    ("value", "title", "text"),
    [
        (True, "standardised", "true"),
        (0.04, "p", "0.0400"),
        (0.04, "P>|z|", "0.0400"),
        (0.04, "price", "0.04"),
        (math.nan, "t", "nan"),
        (math.inf, "high", "inf"),
        (2, "df", "2"),
        (250000.0, "n", "250000"),
    ],
)
def test_entries(value: object, title: str, text: str) -> None:
    assert entry_text(value, title) == text


def test_a_long_table_says_what_it_leaves_out() -> None:
    part = TablePart("Bins", ("from", "n"), [(place, 1) for place in range(SHOWN_ROWS + 7)])
    assert part.lines()[-1] == "... and 7 more rows: to_dict() has them" and "7 more rows" in part.html()
    assert TablePart("Nothing", ("a", "b"), []).lines() == ["a  b", "-  -"]
    assert TablePart.of_facts("Nothing", []).lines() == []


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)


def test_a_notebook_gets_a_heading_tables_and_notes_as_a_list() -> None:
    html = Fitted(RESULT)._repr_html_()
    tags = _Tags()
    tags.feed(html)
    assert tags.seen[0] == "h4" and tags.seen.count("table") == 2 and tags.seen.count("li") == 1
    assert html.index("<caption>Fit") < html.index("<caption>Coefficients")
    assert "Mind the &lt;gap&gt;." in html and "A &lt;fit&gt;" in html and "<gap>" not in html
