"""The differencing audit against its definition, written with Python's sets: every earlier answer, and every two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from ceiba_node.differencing import Membership, nearest
from ceiba_protocol.disclosure.gate import threshold_of
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.schema import Grade


def part(
    subjects: Iterable[int], identity: str = "", chosen: bool = True, columns: str = "", version: str = "a"
) -> Membership:
    """Who is behind a part; without an identity of its own it has that of its subjects."""
    numbers = BitMap(subjects)
    return Membership(identity or repr(sorted(numbers)), chosen, frozenset(columns), version, numbers)


@dataclass
class Memory:
    """What was answered before; `pending` are identities that were never released, `steps` the subjects that changed
    between two versions."""

    parts: Sequence[Membership] = ()
    pending: frozenset[str] = frozenset()
    steps: Mapping[frozenset[str], frozenset[int]] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        return sorted({len(one.subjects) for one in self.parts})

    def of_size(self, size: int) -> list[Membership]:
        return [one for one in self.parts if len(one.subjects) == size]

    def released(self, identity: str) -> frozenset[str] | None:
        found = [one.columns for one in self.parts if one.identity == identity and identity not in self.pending]
        return frozenset().union(*found) if found else None

    def changed(self, older: str, newer: str) -> BitMap | None:
        step = self.steps.get(frozenset({older, newer}))
        return None if step is None else BitMap(step)


# --- the definition ----------------------------------------------------------------------------------------------


def gap(whole: Membership, parts: Sequence[Membership], memory: Memory) -> int:
    """Subjects that are left in whole − part − part, once or several times; 0 if it is not known who changed."""
    steps: set[int] = set()
    for one in parts:
        if one.version != whole.version:
            between = memory.changed(one.version, whole.version)
            if between is None:
                return 0
            steps |= set(between) & (set(whole.subjects) | set(one.subjects))
    everybody = set(whole.subjects).union(*(one.subjects for one in parts))
    left = {who for who in everybody if (who in whole.subjects) != sum(who in one.subjects for one in parts)}
    return len(left | steps)


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
    found = [limit, len(new.subjects), *(gap(one, [new], memory) for one in earlier)]
    places = [(one, True) for one in earlier] + [(one, False) for one in own]
    for (one, one_is_old), (other, other_is_old) in permutations(places, 2):
        if one.identity != other.identity and (one_is_old or other_is_old):
            found += [gap(one, [new, other], memory), gap(new, [one, other], memory)]
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


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_nearest_is_the_least_of_all_comparisons(data: st.DataObject) -> None:
    earlier = data.draw(parts(7))
    new, *beside = data.draw(parts(3))
    if data.draw(st.booleans()):
        again = data.draw(st.sampled_from(earlier))
        new = part(again.subjects, again.identity, again.chosen, "x", again.version)
    pending = data.draw(st.frozensets(st.sampled_from([one.identity for one in earlier])))
    changed = data.draw(st.frozensets(st.sampled_from(SUBJECTS), max_size=2))
    memory = Memory(earlier, pending, {frozenset("ab"): changed})
    limit = data.draw(st.integers(1, 8))
    beside = [own for own in beside if own.identity != new.identity]
    assert nearest(new, memory, limit, beside) == model(new, memory, limit, beside)


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
    """`SUM(CASE WHEN chol IS NOT NULL THEN age END)` is compared with sums of the age alone, and releases the count of
    all rows beside it. `SUM(age)` over all rows is then about 2 patients more."""
    everybody, measured = part(range(20), "all"), part(range(18), "measured", chosen=False, columns="a")
    memory = Memory([everybody, measured])
    assert nearest(part(range(20), "all"), memory, 5) == 5
    for columns, left in (("a", 2), ("b", 5)):
        new = part(range(20), "all", columns=columns)
        assert nearest(new, memory, 5) == model(new, memory, 5) == left


def test_two_cells_of_one_answer_are_compared_with_an_earlier_one() -> None:
    """`WHERE age < 40`, then a table by bands of age with 0 to 19 and 20 to 38: two who are 39 are left. Each cell by
    itself is far from what was answered, and so is the whole table."""
    young = part(range(40), "age < 40")
    cells = [part(range(20), "0-19"), part(range(20, 38), "20-38"), part(range(38, 100), "39-")]
    found = [nearest(cell, Memory([young]), 5, cells) for cell in cells]
    assert found == [model(cell, Memory([young]), 5, cells) for cell in cells] == [2, 2, 5]


# --- versions ----------------------------------------------------------------------------------------------------


def test_whose_rows_changed_between_versions_count_as_different() -> None:
    older, newer = part(range(20), "older", version="a"), part(range(20), "newer", version="b")
    memory = Memory([older], steps={frozenset("ab"): frozenset([3, 4, 99])})
    assert nearest(newer, memory, 5) == 2  # 99 is in neither
    assert nearest(part(range(19), "newer", version="b"), memory, 5) == 3


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
