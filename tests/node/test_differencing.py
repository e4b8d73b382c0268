"""Differencing: the distance that a holder finds is the least there is, and the sum over all holders tells enough."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from ceiba_node import differencing
from ceiba_node.differencing import Membership, Names, distances, margins, memberships, nearest
from ceiba_protocol.disclosure import support
from ceiba_protocol.disclosure.gate import threshold_of
from ceiba_protocol.disclosure.grade import RULES
from ceiba_protocol.disclosure.support import ROWS
from ceiba_protocol.plan import compile_plan
from ceiba_protocol.schema import Grade
from tests.support.members import SCHEMA, plan_of

OLD, NEW, LOST = "old version", "new version", "a version before the numbers began anew"


@dataclass
class Remembered:
    """What was answered before, in a list."""

    sets: Sequence[Membership]
    released_before: dict[str, frozenset[str]] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> list[int]:
        return sorted({len(one.subjects) for one in self.sets})

    def of_size(self, size: int) -> list[Membership]:
        return [one for one in self.sets if len(one.subjects) == size]

    def released(self, identity: str) -> frozenset[str] | None:
        return self.released_before.get(identity)

    def linked(self, one: str, other: str) -> bool:
        return LOST not in (one, other)


def membership(subjects: Iterable[int], identity: str = "new", version: str = NEW, **changes: object) -> Membership:
    made = Membership(identity, True, frozenset(), version, BitMap(sorted(subjects)))
    return replace(made, **changes)  # type: ignore[arg-type]


def history_of(*sets: Iterable[int], **known: object) -> Remembered:
    return Remembered([membership(one, f"old {place}") for place, one in enumerate(sets)], **known)  # type: ignore[arg-type]


# --- the meaning, in plain sets ------------------------------------------------------------------------------------


def differing(whole: Membership, parts: Sequence[Membership]) -> int:
    """How many subjects do not cancel in the whole minus its parts: one by one, by what they are counted with."""
    everybody = set(whole.subjects).union(*(part.subjects for part in parts))
    found = 0
    for subject in everybody:
        holders = [part for part in parts if subject in part.subjects]
        times = (subject in whole.subjects) - len(holders)
        found += times != 0
    return found


def true_nearest(new: Membership, sets: Sequence[Membership], limit: int) -> int:
    """Over nobody, each earlier set, and each two of them in all three roles."""
    others = [one for one in sets if one.identity != new.identity and one.is_comparable(new)]
    found = [differing(one, [new]) for one in others]
    for one, other in product(others, repeat=2):
        if one.identity != other.identity:
            found += [differing(new, [one, other]), differing(one, [new, other])]
    return min([limit, len(new.subjects), *found])


subjects = st.frozensets(st.integers(0, 14))
kinds = {
    "identity": st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    "chosen": st.booleans(),
    "columns": st.frozensets(st.sampled_from(["age", "chol"])),
    "version": st.sampled_from([OLD, NEW]),
}
parts = st.builds(membership, subjects, **kinds)  # type: ignore[arg-type]


@settings(max_examples=600)
@given(new=parts, sets=st.lists(parts, max_size=6), limit=st.integers(1, 12))
# A group of six, twice counted, in neither whole: N + P − R is twice their sum.
@example(
    new=membership({0, 1, 2, 3, 20, 21, 22, 23, 24, 25}),
    sets=[membership(range(8), "a"), membership({4, 5, 6, 7, 20, 21, 22, 23, 24, 25}, "b")],
    limit=7,
)
# Two parts that are each larger than half of the whole.
@example(
    new=membership(range(10)),
    sets=[membership(range(6), "a"), membership(range(4, 10), "b")],
    limit=4,
)
# A whole that is smaller than its part.
@example(
    new=membership({1, 2, 3, 4, 5, 6, 11, 12, 13, 14}),
    sets=[membership(range(1, 10), "a"), membership({7, 8, 9}, "b")],
    limit=6,
)
def test_what_is_found_is_the_least_there_is(new: Membership, sets: list[Membership], limit: int) -> None:
    found = nearest(new, Remembered(sets), limit)
    assert found == true_nearest(new, sets, limit)


@settings(max_examples=200)
@given(st.data(), st.integers(2, 4), st.integers(1, 4), st.integers(1, 6))
def test_the_sum_over_holders_never_exceeds_how_many_differ_in_truth(
    data: st.DataObject, holders: int, earlier: int, cap: int
) -> None:
    """What the gate decides on: if the sum of the capped numbers reaches the threshold, so does that of every earlier
    answer, and of every two."""
    sets = [[membership(data.draw(subjects), f"old {place}") for place in range(earlier)] for _ in range(holders)]
    new = [membership(data.draw(subjects)) for _ in range(holders)]
    total = sum(nearest(mine, Remembered(theirs), cap) for mine, theirs in zip(new, sets, strict=True))

    def pooled(difference: Callable[[int], int]) -> int:
        return sum(min(cap, difference(holder)) for holder in range(holders))

    for one in range(earlier):
        assert total <= pooled(lambda i, p=one: differing(sets[i][p], [new[i]]))  # type: ignore[misc]
        for two in set(range(earlier)) - {one}:
            assert total <= pooled(lambda i, p=one, q=two: differing(new[i], [sets[i][p], sets[i][q]]))  # type: ignore[misc]
            assert total <= pooled(lambda i, p=one, q=two: differing(sets[i][p], [new[i], sets[i][q]]))  # type: ignore[misc]


# --- known attacks -------------------------------------------------------------------------------------------------


def test_one_person_more_is_one() -> None:
    assert nearest(membership(range(100)), history_of(range(99)), 5) == 1


def test_nobody_here_is_compared_too() -> None:
    """Where one holder has nobody, it adds nothing to a difference with an answer in which it had no part."""
    assert nearest(membership([]), history_of([7, 8]), 5) == 0


def test_a_column_that_is_added_up_only_now_is_compared() -> None:
    """`SUM(CASE WHEN chol IS NOT NULL THEN age END)` is compared with sums of the age alone, and releases the count of
    all rows beside it. `SUM(age)` over all rows is then about two patients more."""
    measured = membership(range(18), "measured", chosen=False, columns=frozenset({"age"}))
    earlier = Remembered([membership(range(20), "all"), measured], released_before={"all": frozenset()})
    for column, expected in (("age", 2), ("chol", 5)):
        assert nearest(membership(range(20), "all", columns=frozenset({column})), earlier, 5) == expected


def test_an_answer_without_this_holder_is_compared_with_as_well() -> None:
    """Three holders answered; then a fourth answers with them, and its only patient is all that is new but for six
    others at two holders: as many as are left when one answer is taken from the other."""
    threshold = threshold_of(RULES[Grade.SENSITIVE])
    three, six = [range(20), range(20), range(20)], [range(25), range(21), range(20)]
    near = [nearest(membership(new), history_of(old), threshold.cap) for old, new in zip(three, six, strict=True)]
    fourth = nearest(membership([0]), history_of(), threshold.cap)
    assert [*near, fourth] == [5, 1, 0, 1] and sum(near) + fourth < threshold.least <= sum(near) + threshold.cap
    assert nearest(membership([]), history_of([]), 5) == 0


def test_the_rest_of_a_whole_is_found() -> None:
    """All, and all without the one person of interest in two parts."""
    assert nearest(membership(range(50, 99)), history_of(range(100), range(50)), 5) == 1


def test_two_parts_that_leave_one_out_are_found() -> None:
    assert nearest(membership(range(100)), history_of(range(50), range(51, 100)), 5) == 1


def test_the_same_people_in_other_words_are_at_distance_0() -> None:
    assert nearest(membership(range(100)), history_of(range(100)), 5) == 0


def test_the_same_words_are_not_compared() -> None:
    same = membership(range(99), identity="new")
    assert nearest(membership(range(100)), Remembered([same]), 5) == 5


def test_what_was_released_in_the_same_words_may_be_released_again() -> None:
    """Also where what came after it is near: that was compared with it."""
    earlier = history_of(range(100), range(99), released_before={"new": frozenset()})
    assert nearest(membership(range(100)), earlier, 5) == 5


def test_values_that_are_merely_missing_are_compared_only_with_sums_of_the_same_column() -> None:
    few_missing = membership(range(98), "old", chosen=False, columns=frozenset({"chol"}))
    for columns, expected in [({"chol"}, 2), ({"age"}, 5), (set(), 5)]:
        new = membership(range(100), chosen=False, columns=frozenset(columns))
        assert nearest(new, Remembered([few_missing]), 5) == expected


# --- versions ------------------------------------------------------------------------------------------------------


def test_corrected_rows_are_the_same_people() -> None:
    """Hundreds may have other rows than yesterday, and in the column that is added up only one of them."""
    earlier = Remembered([membership(range(100), "old", OLD)])
    assert nearest(membership(range(100)), earlier, 5) == 0
    assert nearest(membership(range(101)), earlier, 5) == 1


def test_versions_whose_numbers_are_not_linked_count_as_the_same_people() -> None:
    """Their numbers may stand for others, so only the sizes tell anything."""
    for size, expected in [(95, 5), (96, 0), (104, 0), (105, 5)]:
        earlier = Remembered([membership(range(1000, 1000 + size), "old", LOST)])
        assert nearest(membership(range(100)), earlier, 5) == expected
    parts_of_unknown = [membership(range(1000, 1050), "a", LOST), membership(range(2000, 2050), "b", LOST)]
    assert nearest(membership(range(100)), Remembered(parts_of_unknown), 5) == 0


# --- bounded work --------------------------------------------------------------------------------------------------


def test_too_many_comparisons_withhold(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = history_of(*(range(place, 100 + place) for place in range(1000, 1010)))
    assert nearest(membership(range(100)), earlier, 5) == 5
    monkeypatch.setattr(differencing, "MAX_COMPARED", 9)
    assert nearest(membership(range(100)), earlier, 5) == 0


def test_sizes_alone_exclude_most() -> None:
    """Sets are read only where their size lets them matter."""
    read: list[int] = []

    class Reading(Remembered):
        def of_size(self, size: int) -> list[Membership]:
            read.append(size)
            return super().of_size(size)

    earlier = Reading([membership(range(size), f"of {size}") for size in range(1000, 100_000, 10_000)])
    nearest(membership(range(50_000, 50_500)), earlier, 5)
    assert read == []


# --- names, cells and unions ---------------------------------------------------------------------------------------

VERSIONS = (("cleveland", "aa"), ("zurich", "bb"))
BY_BOTH = """SELECT sex, CASE WHEN age > 60 THEN 'old' ELSE 'young' END AS band, COUNT(*) AS n
    FROM health.heart {} GROUP BY sex, band"""
BY_SEX = "SELECT sex, COUNT(*) AS n FROM health.heart {} GROUP BY sex"
ALL = "SELECT COUNT(*) AS n FROM health.heart {}"


def names_of(sql: str, where: str = "", versions: tuple[tuple[str, str], ...] = VERSIONS) -> Names:
    compiled = compile_plan(plan_of(sql.format(where)), SCHEMA)
    return Names(compiled, support.tests_of(compiled), versions, NEW)


def identities(names: Names) -> list[str]:
    """Of the cells' rows."""
    own = memberships(names, {})
    return [own[cell, ROWS].identity for cell in range(names.program.cells)]


def cells_of(names: Names, members: Mapping[int, Iterable[int]]) -> dict[tuple[int, int], Membership]:
    return memberships(names, {(cell, ROWS): BitMap(who) for cell, who in members.items()})


def test_words_name_the_same_whatever_the_outputs_are_called_and_in_whatever_order() -> None:
    first = names_of("SELECT sex, COUNT(*) AS n FROM health.heart {} GROUP BY sex", "WHERE age > 40 AND age < 90")
    second = names_of(
        "SELECT sex AS s, AVG(chol) AS c, COUNT(*) AS m FROM health.heart {} GROUP BY sex",
        "WHERE age < 90 AND age > 40",
    )
    assert identities(first) == identities(second)
    assert len({*identities(names_of(BY_BOTH)), *identities(first)}) == 6


def test_another_filter_version_or_test_has_another_name() -> None:
    names = names_of("SELECT SUM(age) AS a, SUM(CASE WHEN age > 60 THEN 1 ELSE 0 END) AS n FROM health.heart {}")
    found = {one.identity for one in memberships(names, {}).values()}
    assert len(found) == len(names.tests.audited) == 3
    others = [
        names_of(ALL, "WHERE age > 40"),
        names_of(ALL, "WHERE age >= 40"),
        names_of(ALL, versions=(("cleveland", "aa"), ("zurich", "cc"))),
        names_of(ALL, versions=(("cleveland", "aa"),)),
    ]
    assert len(found | {identities(one)[0] for one in others}) == 7
    assert identities(names_of(ALL))[0] in found


def test_every_cell_and_audited_test_has_a_membership_also_where_nobody_is() -> None:
    own = cells_of(names_of(BY_BOTH), {2: {1, 2}})
    assert sorted(own) == [(cell, ROWS) for cell in range(4)]
    assert [set(one.subjects) for _, one in sorted(own.items())] == [set(), set(), {1, 2}, set()]


def test_cells_that_add_up_to_an_earlier_answer_but_for_one_are_found_in_one_question() -> None:
    """Everybody above 40, then everybody above 41 by sex: neither cell is near the earlier answer, both together are
    it."""
    earlier = Remembered([membership(range(100), "old")])
    found = distances(names_of(BY_SEX), cells_of(names_of(BY_SEX), {0: range(50), 1: range(50, 99)}), earlier, 5)
    assert found == {(0, ROWS): 1, (1, ROWS): 1}


def test_only_the_cells_of_a_near_margin_are_withheld() -> None:
    """Women of all ages are near an earlier answer; men are not."""
    names = names_of(BY_BOTH)
    women, men = {0: range(50), 1: range(50, 99)}, {2: range(200, 250), 3: range(300, 350)}
    found = distances(names, cells_of(names, women | men), Remembered([membership(range(100), "old")]), 5)
    assert found == {(0, ROWS): 1, (1, ROWS): 1, (2, ROWS): 5, (3, ROWS): 5}


def released(names: Names, *cells: int) -> np.ndarray:
    passed = np.zeros((names.program.cells, len(names.tests)), dtype=bool)
    passed[list(cells)] = True
    return passed


def test_margins_of_a_whole_table_have_the_names_of_coarser_questions() -> None:
    names = names_of(BY_BOTH, "WHERE age > 20")
    own = cells_of(names, {0: {1}, 1: {2}, 2: {3}, 3: set()})
    found = {one.identity: set(one.subjects) for one in margins(names, own, released(names, 0, 1, 2, 3), "0b")}
    coarser = names_of(BY_SEX, "WHERE age > 20")
    women, men = identities(coarser)
    (everybody,) = identities(names_of(ALL, "WHERE age > 20"))
    assert found[everybody] == {1, 2, 3} and found[women] == {1, 2} and found[men] == {3}
    assert len(found) == 5  # and by age


def test_margins_with_a_withheld_cell_have_names_of_their_own() -> None:
    """The union of what was released is not the coarser question's answer, even if nobody is in the withheld cell."""
    names = names_of(BY_BOTH)
    own = cells_of(names, {0: {1}, 1: {2}, 2: {3}, 3: set()})
    found = {one.identity: set(one.subjects) for one in margins(names, own, released(names, 0, 1, 2), "0b")}
    again = {one.identity for one in margins(names, own, released(names, 0, 1, 2), "0c")}
    women, men = identities(names_of(BY_SEX))
    assert found[women] == {1, 2}
    assert men not in found and identities(names_of(ALL))[0] not in found
    of_this_job = [who for identity, who in found.items() if identity not in again]  # another's may lack another cell
    assert sorted(map(sorted, of_this_job)) == [[1, 2, 3], [2], [3]]


def test_a_question_without_groups_has_no_margins_and_a_withheld_one_neither() -> None:
    names = names_of(ALL)
    assert margins(names, cells_of(names, {0: {1}}), released(names, 0), "0b") == []
    names = names_of(BY_BOTH)
    assert margins(names, cells_of(names, {0: {1}}), released(names), "0b") == []


def test_asking_coarser_after_finer_is_free() -> None:
    """What follows from an answer may be asked for."""
    finer, coarser = names_of(BY_BOTH), names_of(BY_SEX)
    own = cells_of(finer, {0: range(50), 1: range(50, 100), 2: range(200, 250), 3: range(300, 350)})
    known = margins(finer, own, released(finer, 0, 1, 2, 3), "0b")
    earlier = Remembered(
        [*own.values(), *known], released_before={one.identity: one.columns for one in [*own.values(), *known]}
    )
    found = distances(coarser, cells_of(coarser, {0: range(100), 1: [*range(200, 250), *range(300, 350)]}), earlier, 5)
    assert set(found.values()) == {5}
