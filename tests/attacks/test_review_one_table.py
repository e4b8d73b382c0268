"""Attacks on what holders remember of exact joint answers, and on what noise is to cover (ADR 0027, 0029)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ceiba_protocol.expression import Branch, Case, ColumnValue, Comparing, Logic, Number
from ceiba_protocol.linkage import private_join
from ceiba_protocol.linkage.join_terms import JoinTerms
from ceiba_protocol.linkage.masked_fields import FieldShape, MaskedFields
from ceiba_protocol.linkage.private_join import BaseSide, JoinedSide, fresh_noise, merchant_open
from ceiba_protocol.plan import ByBucket, ByCase, ByColumn, LabelBranch, Named, Plan
from ceiba_protocol.program import Comparison
from ceiba_protocol.statistics.sum import Sum
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import NoiseTerms
from tests.support.joins import proven, short_keys, terms_for
from tests.support.joint_nodes import InternalNodes, JointNodes, quick_keys
from tests.support.keys import keypair

WAGES, EMPLOYMENT, SALES = (ColumnValue(name=name) for name in ("wages", "employment", "sales"))
CHEAP = NoiseTerms(rho=10_000)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[JointNodes]:
    with quick_keys():
        made = InternalNodes(tmp_path / "space")
        yield made
        made.close()


def compared(how: Comparison, column: ColumnValue, value: int) -> Comparing:
    return Comparing(comparison=how, left=column, right=Number(value=str(value)))


def above(column: ColumnValue, least: int) -> Comparing:
    return compared(Comparison.GREATER, column, least)


def case(*conditions: Any) -> ByCase:
    branches = tuple(LabelBranch(when=one, label=f"part {place}") for place, one in enumerate(conditions))
    return ByCase(name="part", branches=branches, otherwise="rest")


def buckets(count: int) -> ByBucket:
    return ByBucket(name="staff", value=EMPLOYMENT, low=Number(value="0"), high=Number(value="40"), count=count)


def of_social(nodes: JointNodes, *groups: Any, statistic: Any = None, **parts: Any) -> Plan:
    outputs = {} if statistic is None else {"outputs": (Named(name="x", statistic=statistic),)}
    return nodes.counts("social", groups=groups, **outputs, **parts)


def ask(nodes: JointNodes, *plans: Plan, **more: Any) -> str:
    return nodes.ask(nodes.plan(Mode.HIDDEN, "tax", "social", social=plans), **more)


# --- what a refusal says ---------------------------------------------------------------------------------------


def test_refusals_say_nothing_of_a_single_firm(nodes: JointNodes) -> None:
    """The merchant alone. It knows one firm's wages, and reads its employment from which columns a refusal names: six
    questions that are not charged at the holder that they are about, whose firm may be in common with nobody."""
    social = nodes.world.datasets["social"].frame
    victim = social[social.wages == 3587].iloc[0]
    assert (social.wages == 3587).sum() == 1
    # One honest question: the two divisions that later ones are compared with.
    assert ask(nodes, of_social(nodes, case(above(WAGES, 3000))), of_social(nodes, buckets(4))) == "done"
    house = nodes.houses["social"]
    organisation = nodes.world.roster.by_name["bank-a"].legal_person
    version = house.snapshots.current("insurance.firms").version
    used = house.node._ledger.exact_used("insurance.firms", organisation, version)

    def says_yes(least: int) -> bool:
        """Whether somebody has these wages, and more employees: then neither division refines the other. If nobody
        has, the next pair of divisions is the first that does not fit."""
        aimed = Logic(op="and", terms=(compared(Comparison.EQUAL, WAGES, 3587), above(EMPLOYMENT, least)))
        assert ask(nodes, of_social(nodes, case(aimed)), of_social(nodes, buckets(3))) == "refused"
        assert nodes.reason == ("social", "asked_otherwise")
        return "wages" in nodes.error.public

    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if says_yes(middle) else (low, middle)
    assert house.node._ledger.exact_used("insurance.firms", organisation, version) == used, "nothing was charged"
    assert low != int(victim.employment), "the victim's employment was read from refusals"


def test_a_group_of_one_firm_is_not_told_by_the_name_of_an_error(nodes: JointNodes) -> None:
    """Whether a firm has rows in two groups of the base, of a filter that it passes alone: no smallest cell is asked
    before `duplicate_identifier` is answered, with noise or without."""
    social = nodes.world.datasets["social"].frame
    twice = social[social.uscc.duplicated(keep=False)]
    said = set()
    for column in ("size", "region"):
        by = twice.groupby("uscc")[column].nunique()
        for number in (1, 2):
            firm = by[by == number].index[0]
            own = social[social.uscc == firm].wages.tolist()
            terms = tuple(compared(Comparison.EQUAL, WAGES, wages) for wages in own)
            groups = ByColumn(name=column, column=column)
            base = of_social(nodes, groups, filter=Logic(op="or", terms=terms))
            plan = nodes.plan(Mode.HIDDEN, "social", "tax", social=base)
            assert nodes.ask(plan, noise=NoiseTerms(rho=100)) == "refused"
            said.add(nodes.reason)
    assert len(said) == 1, said


# --- a coarser division ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["one job", "two jobs"])
def test_a_coarser_division_does_not_give_a_small_bin_away(nodes: JointNodes, jobs: str) -> None:
    """Fine bins, then coarser ones that unite them, as ADR 0029 has it. The joined holder has many firms in each bin;
    in common one bin has one. Beside it the fine table withholds a bin of another coarse part: its own part gives it
    away."""
    house = nodes.houses["social"]
    frame = nodes.world.datasets["social"].frame.drop_duplicates("uscc").reset_index(drop=True)
    place = frame.uscc.str.split().str[1].astype(int)  # 10 … 59; the tax office has those below 50
    # Bins of employment, 0–9, 10–19, …: the first has firm 10, in common, and 50 … 55, which are not.
    frame["employment"] = [
        5 if firm == 10 or 50 <= firm <= 55 else 15 if firm < 26 else 25 if firm < 38 else 35 for firm in place
    ]
    victim = 4321
    frame.loc[place == 10, "wages"] = victim
    house.publish(frame)
    fine, coarse = buckets(4), buckets(2)
    wages = Sum(value=WAGES)
    if jobs == "one job":
        assert ask(nodes, of_social(nodes, fine, statistic=wages), of_social(nodes, coarse, statistic=wages)) == "done"
        one, two = nodes.opened()["social"]
    else:
        assert ask(nodes, of_social(nodes, fine, statistic=wages)) == "done"
        (one,) = nodes.opened()["social"]
        assert ask(nodes, of_social(nodes, coarse, statistic=wages)) == "done"
        (two,) = nodes.opened()["social"]
    width = len(one.program.sums)
    read = dict(zip((key[0] for key in one.program.labels()), one.subjects, strict=True))
    assert read[1] is None and list(read.values()).count(None) >= 2, "the firm's bin, and one beside it"
    parts = dict(zip((key[0] for key in two.program.labels()), range(two.program.cells), strict=True))
    known = {label: at for at, (label,) in enumerate(one.program.labels())}
    if read[2] is not None and two.subjects[parts[1]] is not None:
        left = two.totals[parts[1] * width + width - 1] - one.totals[known[2] * width + width - 1]
        count = two.subjects[parts[1]] - read[2]
        assert (count, left) != (1, victim), "the coarse bin less the fine one is one firm's wages"


def test_two_tables_of_one_job_do_not_solve_for_a_small_cell() -> None:
    """The whole, by a bin, and by the bin and another key: were a table with a small cell released in part, another
    could show what it withholds. So the whole alone is shown."""
    common = np.array([[3, 0], [40, 68], [30, 73], [86, 48]])
    tables = common.sum(), common.sum(1), common
    counts = np.concatenate([np.ravel(table) for table in tables])
    terms = terms_for(
        1, *[FieldShape(12)] * len(counts), minimum_subjects=5, base_subjects=400, joined_subjects=1100,
        plans=(1, 4, 8),
    )  # fmt: skip
    assert terms.released([bool(one >= 5) for one in counts]) == [True] + [False] * 12
    assert terms.released([True] * 5 + [bool(one >= 5) for one in counts[5:]]) == [True] * 5 + [False] * 8


# --- conditions within sums -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["groups", "conditions"])
def test_two_jobs_whose_parts_differ_by_one_of_the_holders_own_firms(nodes: JointNodes, way: str) -> None:
    """One part is named by a column, the other by another one, so words say nothing; the holder sees of itself that
    they differ by one firm. It looks at groups, and not at conditions."""
    house = nodes.houses["social"]
    frame = nodes.world.datasets["social"].frame.drop_duplicates("uscc").reset_index(drop=True)
    firm = frame.uscc.str.split().str[1].astype(int)
    frame["employment"], frame["wages"] = firm, 1000 + 7 * firm
    house.publish(frame)
    parts = above(WAGES, 1000 + 7 * 15), above(EMPLOYMENT, 14)  # all but six firms in common, and all but five

    def read(part: Comparing) -> tuple[Any, Any]:
        counted = Sum(value=Case(branches=(Branch(when=part, then=Number(value="1")),)))
        asked = of_social(nodes, case(part)) if way == "groups" else of_social(nodes, statistic=counted)
        assert ask(nodes, asked) == "done"
        (table,) = nodes.opened()["social"]
        return table.subjects[0], table.totals[len(table.program.sums) - 1]

    one, other = map(read, parts)
    if None not in (one[0], other[0]):
        assert other[1] - one[1] != 1, "that firm 15 is in the base's group"


# --- versions --------------------------------------------------------------------------------------------------


def test_a_cell_that_differs_by_one_firm_from_an_earlier_version_is_withheld(nodes: JointNodes) -> None:
    """Six firms go, in honest publishing: five of the small ones, and one large one. The holder sees of itself that the
    cell of the large ones differs by one."""
    frame = nodes.world.datasets["social"].frame.drop_duplicates("uscc").reset_index(drop=True)
    house = nodes.houses["social"]
    frame["size"] = ["large" if int(name.split()[1]) % 2 == 0 else "small" for name in frame.uscc]
    house.publish(frame)

    def large() -> tuple[Any, Any]:
        asked = of_social(nodes, ByColumn(name="size", column="size"), statistic=Sum(value=WAGES))
        assert ask(nodes, asked) == "done"
        (table,) = nodes.opened()["social"]
        place = [label for (label,) in table.program.labels()].index("large")
        width = len(table.program.sums)
        return table.subjects[place], table.totals[place * width + width - 1]

    before = large()
    gone = ["firm 20", *(f"firm {number}" for number in (51, 53, 55, 57, 59))]
    house.publish(frame[~frame.uscc.isin(gone)])
    after = large()
    victim = int(frame[frame.uscc == "firm 20"].wages.iloc[0])
    if after[0] is not None:
        assert (before[0] - after[0], before[1] - after[1]) != (1, victim), "the difference is one firm's wages"


# --- what noise does not cover ---------------------------------------------------------------------------------


class Marking(JoinedSide):
    """A joined holder whose row of one subject is worth a million."""

    def _encrypt_rows(self, progress: Any) -> Any:
        pack, marked = self._exchange.fields.pack_row, self._rows[b"victim"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                MaskedFields, "pack_row", lambda _, row: [(10**6 if row is marked else 1) * n for n in pack(row)]
            )
            return super()._encrypt_rows(progress)


@pytest.mark.parametrize("is_in", [True, False])
def test_known_limit_the_bases_noise_does_not_cover_a_row_that_is_marked(
    is_in: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a joined holder and the merchant: nothing bounds what one encrypted row adds, so the sum says that the victim
    is in the group. What `test_known_limit_noise_does_not_cover_a_base_holder_that_multiplies` is for the base."""
    monkeypatch.setattr(private_join, "_open_cell", lambda terms, cell, mask, share: share[1] - mask[1])
    with short_keys():
        terms = terms_for(1, FieldShape(12, (40,), noise=(400, 10**6)))
        rows: dict[bytes, Any] = {b"%d" % place: [(0, (1000,))] for place in range(15)} | {b"victim": [(0, (1000,))]}
        members = [b"%d" % place for place in range(10)] + [b"victim"] * is_in
        base = BaseSide(terms, [[members]], proven(1024), os.urandom, noise=fresh_noise(terms, os.urandom))
        joined = Marking(terms, rows, keypair(1024)[1], os.urandom, noise=[(0, 0)])
        monkeypatch.setattr(JoinTerms, "released", lambda self, *_: [True] * len(self.shapes))  # it says so itself
        decision, share = joined.decide(base.test(joined.tests(base.mask(joined.rows(base.groups())))))
        read = merchant_open(terms, base.share(decision), share)[0][0]
    assert (read > 10**8) is is_in


# --- two jobs at once ------------------------------------------------------------------------------------------


def test_a_job_that_comes_back_after_a_restart_is_compared_under_the_lock(
    nodes: JointNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was approved, and nothing of it sent. While it is compared again, another one is approved: neither sees the
    other, unless both hold what approvals hold."""
    everybody = nodes.plan(Mode.HIDDEN, "tax", "social", social=of_social(nodes))
    nodes.submit(everybody)
    nodes.work(absent=("tax", "social"))
    for house in nodes.houses.values():
        house.restart()
    tax = nodes.houses["tax"].node.linking
    held = []
    earlier = tax._earlier

    def watching(*arguments: Any) -> Any:
        held.append(tax.house.deciding.locked())
        return earlier(*arguments)

    monkeypatch.setattr(tax, "_earlier", watching)
    assert nodes.go_on() == "done"
    assert held and all(held), "it decides without the lock under which others are approved"
