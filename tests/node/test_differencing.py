"""The differencing audit against its definition, written with Python's sets: every earlier answer, and every two."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from ceiba_node import differencing
from ceiba_node.differencing import Membership, Names, distances, margins, memberships, nearest, unions
from ceiba_protocol.disclosure import support
from ceiba_protocol.disclosure.gate import threshold_of
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.disclosure.support import ROWS
from ceiba_protocol.plan import compile_plan
from ceiba_protocol.schema import Grade, Schema
from tests.support.members import HOLDERS, SCHEMA, plan_of

LIMIT = 5
VERSIONS = tuple((name, f"version of {name}") for name in HOLDERS)


def part(
    subjects: Iterable[int], identity: str = "", chosen: bool = True, columns: str = "", version: str = "a"
) -> Membership:
    """Who is behind a part; without an identity of its own it has that of its subjects."""
    numbers = BitMap(subjects)
    return Membership(identity or repr(sorted(numbers)), chosen, frozenset(columns), version, numbers)


@dataclass
class Memory:
    """What was answered before; `pending` are identities that were never released, `links` the versions in which a
    number means the same subject."""

    parts: Sequence[Membership] = ()
    pending: frozenset[str] = frozenset()
    links: frozenset[frozenset[str]] = frozenset()

    @property
    def sizes(self) -> list[int]:
        return sorted({len(one.subjects) for one in self.parts})

    def of_size(self, size: int) -> list[Membership]:
        return [one for one in self.parts if len(one.subjects) == size]

    def released(self, identity: str) -> frozenset[str] | None:
        found = [one.columns for one in self.parts if one.identity == identity and identity not in self.pending]
        return frozenset().union(*found) if found else None

    def linked(self, one: str, other: str) -> bool:
        return frozenset({one, other}) in self.links


def names_of(sql: str, schema: Schema = SCHEMA, versions: tuple[tuple[str, str], ...] = VERSIONS) -> Names:
    program = compile_plan(plan_of(sql, schema), schema)
    return Names(program, support.tests_of(program), versions, "a")


# --- the definition ----------------------------------------------------------------------------------------------


def gap(whole: Membership, parts: Sequence[Membership]) -> int:
    """Subjects that are left in whole − part − part, once or several times."""
    everybody = set(whole.subjects).union(*(one.subjects for one in parts))
    return sum((who in whole.subjects) != sum(who in one.subjects for one in parts) for who in everybody)


def model(new: Membership, memory: Memory, limit: int, beside: Sequence[Membership] = ()) -> int:
    """`nearest`, with everything compared. What was answered where this holder had nobody is an empty set."""
    known = memory.released(new.identity)

    def comparable(old: Membership) -> bool:
        if known is not None:  # all but what it adds up now was compared when it was released
            return bool((new.columns - known) & old.columns)
        return (new.chosen and old.chosen) or bool(new.columns & old.columns)

    if known is not None and new.columns <= known:
        return limit
    earlier = [one for one in memory.parts if one.identity != new.identity and comparable(one)]
    own = [one for one in beside if one.identity != new.identity and comparable(one)]
    found = [limit, len(new.subjects), *(gap(one, [new]) for one in earlier)]
    places = [(one, True) for one in earlier] + [(one, False) for one in own]
    for (one, one_is_old), (other, other_is_old) in permutations(places, 2):
        if one.identity != other.identity and (one_is_old or other_is_old):
            found += [gap(one, [new, other]), gap(new, [one, other])]
    return min(found)


SUBJECTS = range(16)


@st.composite
def parts(draw: st.DrawFn, count: int) -> list[Membership]:
    """Parts of which some lie in others, some nearly, with a few of the same words."""
    sets = draw(st.lists(st.frozensets(st.sampled_from(SUBJECTS)), min_size=1, max_size=count))
    made = []
    for number, own in enumerate(sets):
        other = draw(st.sampled_from(sets))
        subjects = draw(st.sampled_from([own, own | other, own - other, frozenset(SUBJECTS) - own]))
        version = draw(st.sampled_from("aab"))
        chosen, columns = draw(st.booleans()), draw(st.sampled_from(["", "x", "y", "xy"]))
        made.append(part(subjects, f"number {number}", chosen, columns, version))
        if draw(st.integers(0, 5)) == 0:  # the same words again, adding up something else
            made.append(part(subjects, f"number {number}", chosen, draw(st.sampled_from(["", "x", "y"])), version))
    return made


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_nearest_is_the_least_of_all_comparisons(data: st.DataObject) -> None:
    earlier = data.draw(parts(7))
    new, *beside = data.draw(parts(3))
    if data.draw(st.booleans()):
        again = data.draw(st.sampled_from(earlier))
        new = part(again.subjects, again.identity, again.chosen, "x", again.version)
    pending = data.draw(st.frozensets(st.sampled_from([one.identity for one in earlier])))
    memory = Memory(earlier, pending, frozenset({frozenset("ab")}))
    limit = data.draw(st.integers(1, 8))
    beside = [own for own in beside if own.identity != new.identity]
    assert nearest(new, memory, limit, beside) == model(new, memory, limit, beside)


FEW, MANY = st.sampled_from([0, 0, 0, 0, 1, 2]), st.integers(0, 12)


@settings(max_examples=250, deadline=None)
@given(st.tuples(FEW, FEW, MANY, FEW, MANY, FEW, FEW), st.integers(1, 6))
def test_sizes_exclude_no_whole_that_two_parts_nearly_make(counts: Sequence[int], limit: int) -> None:
    """Three sets, whichever of them is the new one: how many are in each alone, in the first and one other (those are
    many), in the other two, and in all three."""
    regions = [{0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}, {0, 1, 2}]
    sets: list[list[int]] = [[], [], []]
    for place, (region, count) in enumerate(zip(regions, counts, strict=True)):
        for one in region:
            sets[one] += range(100 * place, 100 * place + count)
    for number, subjects in enumerate(sets):
        new = part(subjects, "new")
        memory = Memory([part(other, f"set {at}") for at, other in enumerate(sets) if at != number])
        assert nearest(new, memory, limit) == model(new, memory, limit)


# --- the smallest cases ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "earlier", "limit", "left"),
    [
        pytest.param([1, 2, 3, 4, 5], [[1, 2, 6, 7], [6, 7]], 4, 3, id="the whole is smaller than the part"),
        pytest.param([*range(12)], [[*range(2, 22)], [0, 1, *range(12, 22)]], 4, 2, id="two are in both parts"),
        pytest.param([*range(10)], [[*range(6)], [*range(5, 11)]], 5, 2, id="both parts are more than half"),
    ],
)
def test_sizes_exclude_nothing_that_differs_by_little(
    new: list[int], earlier: list[list[int]], limit: int, left: int
) -> None:
    """Who is in both parts and not in the whole is one subject, of whom the difference of the sums has twice the
    value."""
    memory = Memory([part(one) for one in earlier])
    assert nearest(part(new), memory, limit) == model(part(new), memory, limit) == left


def test_an_answer_without_this_holder_is_compared_with_as_well() -> None:
    """Three holders answered; then a fourth answers with them, and its only patient is all that is new but for six
    others at two holders: as many as are left when one answer is taken from the other."""
    threshold = threshold_of(RULES[Grade.SENSITIVE])
    three, six = [range(20), range(20), range(20)], [range(25), range(21), range(20)]
    near = [
        nearest(part(new, "later"), Memory([part(old, "earlier")]), threshold.cap)
        for old, new in zip(three, six, strict=True)
    ]
    fourth = nearest(part([0], "later"), Memory(), threshold.cap)
    assert [*near, fourth] == [5, 1, 0, 1] and sum(near) + fourth < threshold.least <= sum(near) + threshold.cap


def test_a_column_that_is_added_up_only_now_is_compared() -> None:
    """`CORR(age, chol)` adds up the ages of those whose cholesterol is known. `SUM(age)`, of all, is then about the two
    others, however often all were counted before."""
    columns = [one.model_copy(update={"nullable": one.name == "chol"}) for one in SCHEMA.columns]
    schema = SCHEMA.model_copy(update={"columns": tuple(columns)})
    everybody, measured = range(20), range(18)
    first, then = (
        names_of(f"SELECT {what} AS x FROM health.heart", schema) for what in ("CORR(age, chol)", "SUM(age)")
    )
    answered = memberships(first, {(0, test): BitMap(measured if test else everybody) for test in first.tests.audited})
    new = memberships(then, {(0, test): BitMap(everybody) for test in then.tests.audited})
    assert len({one.identity for one in new.values()}) == 1 and new[0, ROWS].identity == answered[0, ROWS].identity
    found = distances(then, new, Memory(list(answered.values())), 5)
    assert {test: near for (_, test), near in found.items()} == {ROWS: 5, 1: 2}


def test_two_cells_of_one_answer_are_compared_with_an_earlier_one() -> None:
    """`WHERE age < 40`, then a table by bands of age with 0 to 19 and 20 to 38: two who are 39 are left. Each cell by
    itself is far from what was answered, and so is the whole table."""
    young = part(range(40), "age < 40")
    cells = [part(range(20), "0-19"), part(range(20, 38), "20-38"), part(range(38, 100), "39-")]
    found = [nearest(cell, Memory([young]), 5, cells) for cell in cells]
    assert found == [model(cell, Memory([young]), 5, cells) for cell in cells] == [2, 2, 5]


# --- versions ----------------------------------------------------------------------------------------------------


def test_corrected_rows_are_of_the_same_subjects() -> None:
    """How many have another value in the column that is added up is not known: it may be one."""
    older, newer = part(range(20), "older", version="a"), part(range(20), "newer", version="b")
    memory = Memory([older], links=frozenset({frozenset("ab")}))
    assert nearest(newer, memory, 5) == 0
    assert nearest(part(range(19), "newer", version="b"), memory, 5) == 1


def test_nothing_is_far_from_a_version_that_is_not_known_any_more() -> None:
    """Not even where the numbers look far: they may stand for others since. Sizes count still."""
    memory = Memory([part(range(20), version="a")])
    assert nearest(part(range(100, 120), version="b"), memory, 5) == 0
    assert nearest(part(range(100, 124), version="b"), memory, 5) == 0
    assert nearest(part(range(100, 125), version="b"), memory, 5) == 5


@pytest.mark.parametrize("earlier", [[range(50), range(30)], [range(12), range(10, 18)]])
def test_nor_are_two_together(earlier: list[range]) -> None:
    memory = Memory([part(one, version="a") for one in earlier])
    assert nearest(part(range(100, 120), version="b"), memory, 5) == 0


# --- whole answers -----------------------------------------------------------------------------------------------

BANDS = "CASE WHEN age >= 50 THEN 'old' WHEN age >= 30 THEN 'middle' ELSE 'young' END"
LEVELS = "CASE WHEN chol > 20 THEN 'high' ELSE 'low' END"


def table(keys: str, outputs: str = "COUNT(*) AS n", where: str = "", **changes: Any) -> Names:
    known = {"sex": "sex", "band": f"{BANDS} AS band", "level": f"{LEVELS} AS level"}
    groups = [known[key] for key in keys.split()]
    by = f" GROUP BY {', '.join(keys.split())}" if keys else ""
    condition = f" WHERE {where}" if where else ""
    sql = f"SELECT {', '.join([*groups, outputs])} FROM health.heart{condition}{by}"
    return names_of(sql, **changes)


def answered(names: Names, sizes: Sequence[int], first: int = 0) -> dict[tuple[int, int], Membership]:
    """Disjoint cells of those sizes, the same subjects behind every test."""
    found, start = {}, first
    for cell, size in enumerate(sizes):
        found |= {(cell, test): BitMap(range(start, start + size)) for test in names.tests.audited}
        start += size
    return memberships(names, found)


def history(*answers: Iterable[Membership]) -> Memory:
    return Memory([one for answer in answers for one in answer])


def released_but(names: Names, *withheld: int) -> npt.NDArray[np.bool_]:
    passed = np.ones((names.program.cells, len(names.tests)), np.bool_)
    passed[list(withheld)] = False
    return passed


def identities(names: Names) -> list[str]:
    return [one.identity for one in answered(names, [0] * names.program.cells).values()]


def test_the_same_words_have_one_identity() -> None:
    plain = table("sex", where="age > 40 AND chol > 1")
    for same in (
        table("sex", where="chol > 1 AND age > 40"),
        table("sex", "COUNT(*) AS patients", where="age > 40 AND chol > 1"),
        table("sex", "SUM(age) AS years", where="age > 40 AND chol > 1"),
    ):
        assert identities(same)[0] == identities(plain)[0]
    two, turned = (
        table("sex band"),
        names_of(f"SELECT {BANDS} AS b, sex, COUNT(*) AS n FROM health.heart GROUP BY b, sex"),
    )
    assert set(identities(turned)) == set(identities(two)) and identities(turned) != identities(two)


@pytest.mark.parametrize(
    "other",
    [
        table("sex", where="age > 41"),
        table("sex", where="age > 40 AND chol > 1"),
        table("sex"),
        table("", where="age > 40"),
        table("sex", where="age > 40", versions=(*VERSIONS[:2], (HOLDERS[2], "another version"))),
        table("sex", where="age > 40", versions=VERSIONS[:2]),
    ],
    ids=["literal", "one term more", "one term less", "no groups", "a version elsewhere", "a holder less"],
)
def test_other_words_versions_or_holders_have_another(other: Names) -> None:
    assert set(identities(other)).isdisjoint(identities(table("sex", where="age > 40")))


def test_cells_and_tests_of_one_answer_have_identities_of_their_own() -> None:
    found = identities(table("sex band", "COUNT(*) AS n, SUM(CASE WHEN chol > 20 THEN 1 ELSE 0 END) AS high"))
    assert len(set(found)) == len(found) > 6


def test_nobody_is_behind_a_cell_that_the_engine_left_out() -> None:
    names = table("sex")
    found = memberships(names, {(1, ROWS): BitMap([7])})
    assert {cell: list(one.subjects) for (cell, _), one in found.items()} == {0: [], 1: [7]}
    assert {(one.version, one.chosen) for one in found.values()} == {("a", True)}


def test_cells_add_up_to_every_table_with_fewer_keys() -> None:
    whole = identities(table(""))[0]
    names = table("sex band level")
    own = answered(names, range(1, 13))
    found = {union.whole.identity: union for union in unions(names, own)}
    coarser = [
        table("sex"),
        table("sex band"),
        names_of(f"SELECT {BANDS} AS b, COUNT(*) AS n FROM health.heart GROUP BY b"),
    ]
    expected = {whole, *(one for coarse in coarser for one in identities(coarse))}
    assert expected < set(found) and len(found) == 1 + (2 + 3 + 2) + (6 + 4 + 6)
    assert len(found[whole].whole.subjects) == sum(range(1, 13)) and len(found[whole].places) == 12
    female = found[identities(table("sex"))[0]]
    assert [cell for cell, _ in female.places] == [*range(6)] and list(female.whole.subjects) == [*range(21)]
    assert unions(table(""), answered(table(""), [4])) == []


def test_what_follows_from_a_released_table_has_the_words_of_the_coarser_question() -> None:
    names, total = table("sex"), table("")
    own = answered(names, [20, 30])
    (margin,) = margins(names, own, released_but(names), "job")
    assert margin == answered(total, [50])[0, ROWS]
    memory = history(own.values(), [margin])
    assert distances(total, answered(total, [50]), memory, LIMIT) == {(0, ROWS): LIMIT}


def test_where_a_cell_was_withheld_the_rest_has_another_name_and_the_total_is_too_near() -> None:
    names, total = table("band"), table("")
    own = answered(names, [20, 3, 30])
    (margin,) = margins(names, own, released_but(names, 1), "job")
    assert [*margin.subjects] == [*range(20), *range(23, 53)]
    assert margin.identity not in identities(total)
    memory = history([own[0, ROWS], own[2, ROWS], margin])
    assert distances(total, answered(total, [53]), memory, LIMIT) == {(0, ROWS): 3}
    assert margins(names, own, released_but(names, 0, 1, 2), "job") == []


def test_the_same_table_again_gets_what_it_got() -> None:
    """With a cell withheld then and now, the whole is near what the others add up to; that says nothing new."""
    names = table("band")
    own = answered(names, [20, 3, 30])
    memory = history([own[0, ROWS], own[2, ROWS]], margins(names, own, released_but(names, 1), "job"))
    assert distances(names, own, memory, LIMIT) == {(0, ROWS): LIMIT, (1, ROWS): 3, (2, ROWS): LIMIT}


def test_a_union_that_is_too_near_withholds_its_cells() -> None:
    """The total of two more patients is known; and one key's margins, of a table with two."""
    names, earlier = table("sex"), table("", where="age >= 0")
    memory = history(answered(earlier, [52]).values())
    assert set(distances(names, answered(names, [20, 30]), memory, LIMIT).values()) == {2}
    names, earlier = table("sex band"), table("", where="sex = 'female'")
    memory = history(answered(earlier, [62]).values())
    found = distances(names, answered(names, [20] * 6), memory, LIMIT)
    assert [found[cell, ROWS] for cell in range(6)] == [2, 2, 2, LIMIT, LIMIT, LIMIT]


def test_a_cell_that_is_left_of_a_known_total_is_not_given_away_by_the_others() -> None:
    """The total first, then a table of three whose second cell is too small to be released."""
    names, total = table("band"), table("")
    found = distances(names, answered(names, [20, 3, 30]), history(answered(total, [53]).values()), LIMIT)
    assert found == {(0, ROWS): 3, (1, ROWS): 3, (2, ROWS): 3}


def test_too_many_comparisons_withhold_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole of 40, and pairs of 20 that all are halves of it."""
    halves = [part(range(20), f"half {number}") for number in range(4)]
    new, memory = part(range(40), "whole"), Memory(halves)
    assert nearest(new, memory, LIMIT) == LIMIT
    monkeypatch.setattr(differencing, "MAX_COMPARED", 12)
    assert nearest(new, memory, LIMIT) == LIMIT
    monkeypatch.setattr(differencing, "MAX_COMPARED", 11)
    assert nearest(new, memory, LIMIT) == 0


# --- several holders ---------------------------------------------------------------------------------------------

EVERYBODY = range(8)
"""At each holder."""


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[dict[int, Membership]], int]:
    """Earlier answers and a new one, each by holder; not all holders had a part in each. All about different people, or
    nearly the same, or what one leaves of another."""
    holders = draw(st.integers(3, 4))
    made: list[dict[int, Membership]] = []
    for number in range(draw(st.integers(2, 5))):
        there = draw(st.sets(st.integers(0, holders - 1), min_size=holders - 1))
        first, second = [draw(st.sampled_from(made)) if made else {} for _ in range(2)]
        answer = {}
        for holder in sorted(there):
            one, other = (set(old[holder].subjects) if holder in old else set() for old in (first, second))
            base = draw(st.sampled_from([set(EVERYBODY), one, one | other, one - other, one ^ other]))
            tweak = draw(st.sets(st.sampled_from(EVERYBODY), max_size=4))
            answer[holder] = part(base ^ tweak, f"answer {number}")
        made.append(answer)
    return made, holders


@settings(max_examples=250, deadline=None)
@given(answers(), st.sampled_from([(3, 2), (3, 3), (4, 3), (5, 3)]))
def test_what_passes_differs_by_enough_subjects_at_enough_holders(
    given_answers: tuple[list[dict[int, Membership]], int], rule: tuple[int, int]
) -> None:
    """Whatever the holders' own comparisons are, if their sum reaches the threshold, then no earlier answer, and no
    combination of two, leaves fewer than k subjects, or fewer than h holders."""
    (*earlier, new), holders = given_answers
    k, h = rule
    rules = RULES[Grade.INTERNAL].model_copy(update={"minimum_subjects": k, "minimum_holders": h})
    threshold = threshold_of(rules)
    memories = [Memory([answer[holder] for answer in earlier if holder in answer]) for holder in range(holders)]
    near = [nearest(new[holder], memories[holder], threshold.cap) for holder in new]
    if sum(near) < threshold.least:
        return
    nobody = part([])

    def left(whole: dict[int, Membership], *others: dict[int, Membership]) -> list[int]:
        """What is left at each holder."""
        at = range(holders)
        found = [gap(whole.get(one, nobody), [other.get(one, nobody) for other in others]) for one in at]
        return [one for one in found if one]

    for old in earlier:
        assert sum(left(old, new)) >= k and len(left(old, new)) >= h
    for one, other in permutations(earlier, 2):
        for rest in (left(one, new, other), left(new, one, other)):
            assert sum(rest) >= k and len(rest) >= h
