"""What `make mutants` stands on: each of our operators makes its change, and its list speaks of code that is there."""

import tomllib

import pytest

from tests.support.check_mutants import LIST, change, problems
from tests.support.mutant_run import ROOT
from tests.support.mutators import mutants

SAID = tomllib.loads((ROOT / LIST).read_text())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = {K.A: 1, K.B: 2}\n", {"a = {K.A: 1,}", "a = { K.B: 2}", "a = {K.B: 1, K.B: 2}", "a = {K.A: 1, K.A: 2}"}),
        ("a = [b, c]\n", {"a = [b,]", "a = [ c]"}),
        ("a = (b, c)\n", set()),
        ("def a():\n    'Why.'\n    return 'b'\n", {"    return 'bXX'"}),
        ("if a:\n    raise B(c)\n", {"    pass", "if not a:"}),
        ("a = b in c and b not in d\n", {"a = b not in c and b not in d", "a = b in c and b in d"}),
        ("if a <= 8:\n    b()\n", {"if a < 8:", "if a <= 9:", "if a <= 7:", "if not a <= 8:"}),
    ],
)
def test_changes_that_are_made(source: str, expected: set[str]) -> None:
    lines = {line for text in mutants(source) for line in text.splitlines() if line not in source.splitlines()}
    assert expected <= lines
    assert expected or not lines


def test_a_change_is_known_again_after_an_edit_elsewhere() -> None:
    before, after = "a = 1\nif b:\n    c = d < 2\n", "a = 1\nif b:\n    c = d <= 2\n"
    assert change(before, after) == ("c = d < 2", "c = d <= 2") == change("x = 0\n" + before, "x = 0\n" + after)


def test_survivors_and_explanations_must_match() -> None:
    one, other = ("a < b", "a <= b"), ("c", "not c")
    assert problems([one, other], [other, one]) == []
    assert [one[1] in problem and "write one" in problem for problem in problems([one, other], [other])] == [True]
    assert ["take it out" in problem for problem in problems([one], [one, other])] == [True]
    assert len(problems([one, one], [one])) == 1


def test_the_list_speaks_of_what_is_there() -> None:
    for file, tests in SAID["modules"].items():
        assert all((ROOT / name).is_file() for name in [file, *tests])
    for entry in SAID["survivor"]:
        lines = " ".join(line.strip() for line in (ROOT / entry["module"]).read_text().splitlines())
        assert entry["module"] in SAID["modules"]
        assert entry["line"] in lines
        assert len(entry["why"]) > 20
