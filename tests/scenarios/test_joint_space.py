"""Joint questions through the front door: three agencies that know different things about the same firms, and a bank.

One space for the whole file; its processes are doubles that kill themselves where a test says (support/doubles.py).
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ceiba
from ceiba.agreements import AgreementHandle
from ceiba.cli import app
from ceiba.joint_jobs import JointJob
from ceiba.space import Space
from ceiba_coordinator.config import Config
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_node.cli import app as node_cli
from ceiba_protocol.errors import (
    AskedOtherwise,
    IntersectionTooSmall,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobRefused,
    LinkageLost,
    NoAgreement,
    NotAgreed,
    ReceiptRejected,
)
from ceiba_protocol.linkage.joint import Step, commit_jointly, sealing_info
from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.trust.hpke import open_sealed
from ceiba_scenarios import Sandbox
from tests.support.joint_firms import HOLDERS, INDUSTRIES, SCHEMAS, TABLES, tables
from tests.support.traces import everything_in
from tests.support.waiting import until

pytestmark = pytest.mark.slow

DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
FRAMES = tables()
TAX, INSURANCE, REGISTER = (FRAMES[name].drop(columns="uscc") for name in ("tax", "insurance", "register"))
BY_INDUSTRY = TAX.merge(INSURANCE, on="firm")
IDS = itertools.count()


@dataclass
class World:
    lab: Sandbox
    bank: Space
    agreement: AgreementHandle

    @property
    def two(self) -> Any:
        return self.bank.join("tax.firms", "insurance.firms", on="uscc")

    @property
    def three(self) -> Any:
        return self.bank.join(*TABLES, on="uscc")

    def submit(self, query: Any, **options: Any) -> Any:
        """Under the standing agreement: the newest one would be chosen, and tests make others."""
        return query.submit(**{"agreement": self.agreement} | options)

    def ask(self, query: Any) -> Any:
        return self.submit(query).wait()

    def store(self) -> Any:
        """What the coordinator has stored."""
        engine = open_engine(Config.read(self.lab.coordinator_folder).database_url)
        return contextlib.closing(_Reading(engine))


class _Reading:
    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.rows = Store(engine)

    def close(self) -> None:
        self.engine.dispose()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    launcher = {name: [str(DOUBLES), "ceiba_node"] for name in HOLDERS}
    launcher["coordinator"] = [str(DOUBLES), "ceiba_coordinator"]
    holders = {name: {f"{name}.firms": FRAMES[name].drop(columns="firm")} for name in HOLDERS}
    folder = tmp_path_factory.mktemp("joint")
    with Sandbox(holders, schemas=SCHEMAS, folder=folder, launcher=launcher) as lab:
        bank = lab.merchant("bank-a", agreed=False)
        yield World(lab, bank, lab.agree_jointly(bank, TABLES))


@pytest.fixture(autouse=True)
def _all_alive(world: World) -> Iterator[None]:
    """Whatever fails in between, the next test finds everybody there."""
    yield
    for process in world.lab.processes.values():
        (process.home / "crash.json").unlink(missing_ok=True)
        if not process.is_running():
            process.start()


# --- answers -----------------------------------------------------------------------------------------------------


def by_group(result: Any, keys: int = 1) -> dict[Any, tuple[Any, ...]]:
    return {row[:keys] if keys > 1 else row[0]: row[keys:] for row in result}


def wages_by_industry(world: World) -> Any:
    return world.two.group_by("industry").agg(ceiba.mean("wages"))


def check_wages(result: Any) -> None:
    """The answer to `wages_by_industry`."""
    assert by_group(result) == {one: (mean,) for one, mean in BY_INDUSTRY.groupby("industry").wages.mean().items()}


def test_figures_by_groups_of_another_table_are_pandas_own(world: World) -> None:
    """Subjects are found though each holder writes their codes otherwise; rows of one subject are all counted."""
    asked = world.two.group_by("industry").agg(
        ceiba.mean("wages"), rows=ceiba.count(), firms=ceiba.subjects(), staff=ceiba.sum("employment")
    )
    found = by_group(world.ask(asked))
    groups = BY_INDUSTRY.groupby("industry")
    truth = {
        industry: (rows.wages.mean(), len(rows), rows.firm.nunique(), rows.employment.sum())
        for industry, rows in groups
    }
    assert found == truth


def test_a_table_with_a_small_cell_is_withheld_whole(world: World) -> None:
    """In the finest division some cells are large; a coarser one of the same column is answered."""
    sold = ceiba.width_bucket("sales", 0, 90_000, 30).alias("sold")
    found = by_group(world.ask(world.two.group_by(sold).agg(n=ceiba.subjects())))
    firms = BY_INDUSTRY.drop_duplicates("firm").sales.dropna() // 3_000
    assert firms.value_counts().min() < 5 <= firms.value_counts().max()
    assert set(found.values()) == {(WITHHELD,)}
    coarse = world.two.group_by(ceiba.width_bucket("sales", 0, 90_000, 3).alias("sold")).agg(n=ceiba.subjects())
    assert (WITHHELD,) not in by_group(world.ask(coarse)).values()


def test_the_other_table_may_have_the_groups(world: World) -> None:
    """Values that are missing are no part of a mean, and of a count of them."""
    join = world.bank.join("tax.firms", "register.firms", on="uscc").group_by("form")
    found = by_group(world.ask(join.agg(ceiba.mean("sales"), n=ceiba.count("sales"))))
    for form, rows in TAX.merge(REGISTER, on="firm").groupby("form"):
        mean = Fraction(int(rows.sales.sum()), int(rows.sales.count()))
        assert found[form] == (float(mean), rows.sales.count()) and rows.sales.isna().any()


def test_filters_on_either_side(world: World) -> None:
    """Of one merchant all exact figures are about one population, so it is another one that asks."""
    other = world.lab.merchant("bank-b", agreed=False)
    agreement = world.lab.agree_jointly(other, TABLES)
    join = other.join("tax.firms", "insurance.firms", on="uscc")
    asked = join.filter(join["sales"] > 20_000, join["employment"] <= 40).group_by("industry").agg(ceiba.sum("wages"))
    kept = BY_INDUSTRY[(BY_INDUSTRY.sales > 20_000).fillna(False) & (BY_INDUSTRY.employment <= 40)]
    sums = kept.groupby("industry").wages.sum()
    assert by_group(asked.run(agreement=agreement)) == {industry: (wages,) for industry, wages in sums.items()}
    with pytest.raises(JobRefused, match="another filter of") as caught:
        join.group_by("industry").agg(ceiba.sum("wages")).run(agreement=agreement)
    assert isinstance(caught.value.reason, AskedOtherwise)
    noisy = join.group_by("industry").agg(n=ceiba.subjects()).run(agreement=agreement, noise=ceiba.Noise(rho=0.5))
    firms = BY_INDUSTRY.groupby("industry").firm.nunique()
    for row, industry in enumerate(noisy["industry"]):
        if noisy["n"][row] is not WITHHELD:
            low, high = noisy.interval(row, "n")
            assert low - 20 < firms[industry] < high + 20
    assert noisy.noise is not None and noisy.noise.count_sigma < 8


def test_groups_of_both_tables_make_a_crosstab(world: World) -> None:
    found = by_group(world.ask(world.two.group_by("industry", "size").agg(n=ceiba.subjects())), keys=2)
    sizes = BY_INDUSTRY.groupby(["industry", "size"]).firm.nunique()
    assert found == {cell: (firms,) for cell, firms in sizes.items()}


def test_three_tables_give_many_tables_in_one_linkage(world: World) -> None:
    """Each table is about the firms that it and the base have in common."""
    decades = ceiba.width_bucket("founded", 1980, 2030, 5)
    found = world.ask(world.three.group_by("industry").tabulate("size", "form", founded=decades))
    tax = TAX[["firm", "industry"]]
    decade = REGISTER.assign(founded=(REGISTER.founded - 1980) // 10 + 1)
    for name, other in (("size", INSURANCE), ("form", REGISTER), ("founded", decade)):
        sizes = tax.merge(other, on="firm").groupby(["industry", name]).firm.nunique()
        cells = by_group(found[name], keys=2)
        if min(sizes) < 5:
            assert name == "founded" and set(cells.values()) == {(WITHHELD,)}
        else:
            assert cells == {cell: (firms,) for cell, firms in sizes.items()}
    assert found["size"].receipt is not None and found["size"].receipt.verify()


def test_figures_of_two_tables_stand_side_by_side(world: World) -> None:
    asked = world.three.group_by("industry").agg(ceiba.mean("founded"), ceiba.mean("wages"))
    founded = TAX.merge(REGISTER, on="firm").groupby("industry").founded.mean()
    wages = BY_INDUSTRY.groupby("industry").wages.mean()
    assert by_group(world.ask(asked)) == {one: (founded[one], wages[one]) for one in INDUSTRIES}


# --- what is refused ---------------------------------------------------------------------------------------------


def test_too_few_in_common_is_refused_by_name(world: World) -> None:
    """Not by how many there are: the reason has the minimum alone."""
    strict = world.lab.agree_jointly(world.bank, TABLES, purpose="strict", smallest_intersection=40)
    join = world.two
    asked = join.filter(join["sales"] > 84_000).agg(ceiba.mean("wages"))
    few = BY_INDUSTRY[(BY_INDUSTRY.sales > 84_000).fillna(False)].firm.nunique()
    assert 0 < few < 15
    with pytest.raises((JobRefused, JobFailed)) as caught:
        asked.run(agreement=strict, noise=ceiba.Noise(rho=0.2))
    assert isinstance(caught.value.reason, IntersectionTooSmall)
    assert "40" in str(caught.value) and str(few) not in str(caught.value).replace(caught.value.fields["job"], "")
    assert world.bank.join("tax.firms", "insurance.firms", on="uscc").agg(ceiba.mean("wages")).run(agreement=strict)


def test_without_an_agreement_nothing_is_asked(world: World) -> None:
    with pytest.raises(NoAgreement, match="for this purpose"):
        world.submit(wages_by_industry(world), agreement=None, purpose="another purpose")
    other = world.bank.join("insurance.firms", "register.firms", on="uscc").group_by("size").agg(ceiba.mean("founded"))
    two = world.lab.agree_jointly(world.bank, TABLES[::2], purpose="two agencies")
    with pytest.raises(NotAgreed, match="register"):
        world.submit(other, agreement=two)


def test_nothing_exact_without_the_word_of_every_holder(world: World) -> None:
    careful = world.lab.agree_jointly(world.bank, TABLES, purpose="careful", base_is_trusted=False)
    asked = world.two.group_by("industry").agg(ceiba.mean("wages"))
    with pytest.raises(NotAgreed, match="base"):
        asked.run(agreement=careful, noise=False)
    assert asked.run(agreement=careful).noise is not None


def test_a_base_whose_subjects_could_be_in_two_groups_is_refused_by_name(world: World) -> None:
    """The insurance has two rows of some firms. Whether their groups differ is not looked at: it would tell of them."""
    with pytest.raises(JobRefused, match="two groups") as caught:
        world.ask(world.two.group_by(ceiba.width_bucket("wages", 0, 9000, 3).alias("pay")).agg(ceiba.mean("sales")))
    assert caught.value.fields["holder"] == "insurance"


# --- what is left behind -----------------------------------------------------------------------------------------


def test_a_receipt_verifies_and_a_changed_one_does_not(world: World, tmp_path: Path) -> None:
    result = world.ask(wages_by_industry(world))
    assert all(step.error is None for step in result.receipt.verify())
    result.receipt.save(tmp_path / "receipt.json")
    runner, home = CliRunner(), str(world.lab.merchant_home("bank-a").folder)
    good = runner.invoke(app, ["verify", str(tmp_path / "receipt.json"), "--identity", home])
    assert good.exit_code == 0 and "The receipt holds." in good.output
    content = (tmp_path / "receipt.json").read_text()
    changed = content.replace(r"\"industry\"", r"\"uscc\"") if r"\"industry\"" in content else ""
    assert changed and changed != content
    (tmp_path / "changed.json").write_text(changed)
    bad = runner.invoke(app, ["verify", str(tmp_path / "changed.json"), "--identity", home])
    assert bad.exit_code != 0 and "The receipt holds." not in bad.output
    other = world.ask(wages_by_industry(world))
    other.receipt._total_digest = result.receipt._total_digest
    with pytest.raises(ReceiptRejected, match="another total"):
        other.receipt.verify()


def test_each_holders_ledger_shows_what_it_was_asked(world: World) -> None:
    job = world.submit(wages_by_industry(world))
    job.wait()
    for holder in ("tax", "insurance"):
        ledger = world.lab.ledger(holder)
        (line,) = [line for line in ledger.splitlines() if job.id[:8] in line]
        assert f"{holder}.firms" in line and "bank-a" in line and "exact" in line
        assert f"bank-a has spent ρ 0.205 of 1 on {holder}.firms in the last 365 days; 0.795 is left" in ledger
    assert job.id[:8] not in world.lab.ledger("register")


READ_BY_A_PERSON = (
    "Join of tax.firms with insurance.firms, hidden",
    "base: tax, on uscc",
    "where sales > 20000",
    "group industry = industry",
    "joined: insurance, on uscc",
    "where employment <= 40",
    "mean_wages = mean(wages)",
    "The exact answer rests on tax's word for how many subjects are behind its groups; nobody can check it.",
    "merchant       bank-c",
    'purpose        "reviewed"',
    "insurance.firms.employment, insurance.firms.wages, tax.firms.industry, tax.firms.sales",
)


def test_a_person_reads_what_a_joint_job_means_and_decides(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world.lab.merchant("bank-c", agreed=False)
    reviewed = world.lab.agree_jointly(other, TABLES, purpose="reviewed", approval="each job")
    join = other.join("tax.firms", "insurance.firms", on="uscc")
    asked = join.filter(join["sales"] > 20_000, join["employment"] <= 40).group_by("industry").agg(ceiba.mean("wages"))
    job = asked.submit(agreement=reviewed)
    monkeypatch.setenv("CEIBA_PASSPHRASE", world.lab.passphrase.decode())
    for holder in ("insurance", "tax"):
        home = world.lab.node_home(holder)
        with contextlib.closing(home.ledger()) as ledger:
            until(lambda ledger=ledger: ledger.undecided(0), f"the job to wait at {holder}")
        words = ["approvals", "show", job.id[:8], "--home", str(home.folder)]
        shown = CliRunner().invoke(node_cli, words).output
        assert [line for line in READ_BY_A_PERSON if line not in shown] == []
        world.lab.decide(holder, job.id)
    assert "food" in by_group(job.wait())


# --- what ends half-way ------------------------------------------------------------------------------------------


def plan_crash(world: World, victim: str, step: tuple[str, str, int]) -> None:
    """`step`: the method, before or after it, and after how many calls."""
    method, when, after_calls = step
    file = world.lab.processes[victim].home / "crash.json"
    plan = {"id": f"joint {next(IDS)}", "method": method, "when": when, "after_calls": after_calls}
    file.with_suffix(".new").write_text(json.dumps(plan))
    file.with_suffix(".new").rename(file)


def crashed(world: World, victim: str, *step: Any) -> JointJob[Any]:
    """A job, one of whose holders has died at that step and is not started yet."""
    plan_crash(world, victim, step)
    job = world.submit(wages_by_industry(world))
    process = world.lab.processes[victim]
    until(lambda: not process.is_running(), f"{victim} to die at {step}")
    assert process.wait(1) == -9
    return job


def half_linked(world: World, job: JointJob[Any]) -> dict[str, list[bytes]]:
    """Pieces of every message of a job, as the coordinator has stored it, and opened with its receiver's key."""
    pieces: dict[str, list[bytes]] = {"sealed": [], "opened": []}
    job_id = bytes.fromhex(job.id)
    with world.store() as reading:
        stored = {number: reading.rows.joint_payload(job_id, number) for number in reading.rows.joint_messages(job_id)}
        approvals = [seat.approval for seat in reading.rows.seats(job_id) if seat.approval]
    for number, sealed in stored.items():
        agreed = commit_jointly(job._question, approvals)
        step = agreed.question.steps[number]
        pieces["sealed"] += pieces_of(sealed)
        pieces["opened"] += pieces_of(opened(world, step, sealed, sealing_info(agreed, step)))
    return pieces


def opened(world: World, step: Step, sealed: bytes, info: bytes) -> bytes:
    is_holder = step.receiver in HOLDERS
    home = world.lab.node_home(step.receiver) if is_holder else world.lab.merchant_home(step.receiver)
    return open_sealed(bytes.fromhex(home.identity().sealing_seed), sealed, info, "it")


def pieces_of(content: bytes) -> list[bytes]:
    """Points are 32 bytes, after a header of 32; the last ones of a message are ciphertexts. Zeros are anywhere."""
    places = (*range(32, min(len(content) - 32, 32 * 20), 32), len(content) - 32)
    return [piece for at in places if len(set(piece := content[at : at + 32])) > 8]


def on_any_disk(world: World, pieces: list[bytes]) -> list[bytes]:
    content = everything_in(world.lab.coordinator_folder, *(world.lab.node_home(name).folder for name in HOLDERS))
    return [piece for piece in pieces if piece in content or piece.hex().encode() in content]


def nothing_is_kept(world: World, job: JointJob[Any], pieces: dict[str, list[bytes]]) -> None:
    with world.store() as reading:
        stored = reading.rows.joint_messages(bytes.fromhex(job.id))
        assert stored and not any(reading.rows.joint_payload(bytes.fromhex(job.id), number) for number in stored)
    assert pieces["opened"] and not on_any_disk(world, pieces["opened"])
    assert pieces["sealed"] and not on_any_disk(world, pieces["sealed"])


def can_answer(world: World) -> None:
    check_wages(world.ask(wages_by_industry(world)))


LOST = [
    # who dies, and where: its key, or what it has sent and would have to send again, is gone
    pytest.param(("insurance", "Ledger.record_payload", "after", 1), marks=pytest.mark.long),
    pytest.param(("insurance", "Ledger.record_approval", "after", 0), marks=pytest.mark.long),
    pytest.param(("insurance", "Ledger.record_payload", "before", 0), marks=pytest.mark.long),
    pytest.param(("insurance", "Ledger.record_payload", "after", 3), marks=pytest.mark.long),
    pytest.param(("tax", "Ledger.record_payload", "after", 0), marks=pytest.mark.long),
    pytest.param(("tax", "Ledger.record_payload", "before", 2), marks=pytest.mark.long),
    pytest.param(("tax", "Ledger.record_payload", "after", 3), marks=pytest.mark.long),
    pytest.param(("tax", "Agent._send", "after", 2), marks=pytest.mark.long),
]
GOES_ON = [
    ("tax", "Ledger.record_approval", "after", 0),
    pytest.param(("tax", "Ledger.record_approval", "before", 0), marks=pytest.mark.long),
    pytest.param(("tax", "Ledger.record_payload", "before", 0), marks=pytest.mark.long),
    pytest.param(("insurance", "Ledger.record_approval", "before", 0), marks=pytest.mark.long),
]


@pytest.mark.parametrize("step", LOST, ids=str)
def test_a_holder_that_dies_in_the_middle_has_lost_the_linkage(world: World, step: tuple[Any, ...]) -> None:
    job = crashed(world, *step)
    pieces = half_linked(world, job)
    assert not pieces["sealed"] or on_any_disk(world, pieces["sealed"])
    world.lab.processes[step[0]].start()
    with pytest.raises(JobFailed) as caught:
        job.wait()
    assert isinstance(caught.value.reason, LinkageLost) and caught.value.fields["holder"] == step[0]
    if pieces["sealed"]:
        nothing_is_kept(world, job, pieces)
    can_answer(world)


@pytest.mark.parametrize("step", GOES_ON, ids=str)
def test_a_holder_that_dies_before_it_has_sent_anything_goes_on(world: World, step: tuple[Any, ...]) -> None:
    job = crashed(world, *step)
    world.lab.processes[step[0]].start()
    check_wages(job.wait())


def test_a_job_that_is_cancelled_in_the_middle_leaves_nothing(world: World) -> None:
    job = crashed(world, "insurance", "Ledger.record_payload", "after", 0)
    pieces = half_linked(world, job)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait()
    world.lab.processes["insurance"].start()
    can_answer(world)
    nothing_is_kept(world, job, pieces)


@pytest.mark.long
def test_a_job_whose_time_is_over_in_the_middle_leaves_nothing(world: World) -> None:
    plan_crash(world, "tax", ("Ledger.record_payload", "after", 1))
    job = world.submit(wages_by_industry(world), deadline=20)
    until(lambda: not world.lab.processes["tax"].is_running(), "the tax office to die")
    pieces = half_linked(world, job)
    with pytest.raises(JobExpired) as caught:
        job.wait()
    assert "tax" in caught.value.fields["holders"]
    world.lab.processes["tax"].start()
    can_answer(world)
    nothing_is_kept(world, job, pieces)


@pytest.mark.parametrize("after_calls", [2, pytest.param(5, marks=pytest.mark.long)])
def test_a_coordinator_that_dies_in_the_middle_goes_on(world: World, after_calls: int) -> None:
    """What holders know of the job is in their memory; what they have sent, in its database."""
    plan_crash(world, "coordinator", ("Jobs.take_message", "after", after_calls))
    job = world.submit(wages_by_industry(world))
    until(lambda: not world.lab.coordinator.is_running(), "the coordinator to die")
    world.lab.coordinator.start()
    check_wages(job.wait())
