"""Canary firms and figures in three agencies' tables, searched in all that others received, stored or logged.

The coordinator is a double that writes down every message (support/doubles.py). The agencies' firms are joined in every
mode, counted, scored with consent, and refused; then everything is searched for every canary in every form that a
program might write it in, for hashes of the firms' codes, and for their points under every context that is public.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ceiba
from ceiba.consents import IssuerKey, give, new_issuer
from ceiba.scoring import Feature, RegisteredModel
from ceiba_coordinator.config import Config
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.errors import ConsentUsed, IntersectionTooSmall, JobCancelled, JobFailed, JobRefused
from ceiba_protocol.identifiers import uscc_check_digit
from ceiba_protocol.linkage.joint import JointManifest, JointSet, Kind, commit_jointly, read_joint_manifest
from ceiba_protocol.linkage.ristretto import encode_points, hash_all
from ceiba_protocol.linkage.token_steps import linkage_of
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.agreement import Agreement, ConsentIssuer, Mode
from ceiba_protocol.v1.scoring_pb2 import ScoreTask
from ceiba_protocol.v1.work_pb2 import Task
from ceiba_scenarios import Sandbox
from tests.support.joint_firms import SIZES, full_width, in_groups
from tests.support.seeded import seeded
from tests.support.traces import everything_in, forms_of_number, forms_of_text
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
]  # half a minute: tests/scenarios/test_joint_space.py searches the disks in every run

HOLDERS = ("insurance", "register", "tax")
TABLES = [f"{holder}.firms" for holder in HOLDERS]
BANKS = ("bank-a", "bank-b", "bank-c", "bank-d")
DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
INDUSTRIES, FORMS = ("food", "steel", "mining"), ("listed", "sole")
MOST = 2**60


def schema(holder: str, figure: str, **categories: tuple[str, ...]) -> Schema:
    columns: list[dict[str, Any]] = [{"name": figure, "type": "int", "minimum": 0, "maximum": str(MOST)}]
    columns += [{"name": name, "type": "category", "domain": list(domain)} for name, domain in categories.items()]
    identifiers = [{"column": "uscc", "kind": "uscc"}]
    plain = {"table": f"{holder}.firms", "subject_key": "uscc", "identifiers": identifiers, "columns": columns}
    return Schema.from_plain(plain)


SCHEMAS = {
    "insurance.firms": schema("insurance", "wages", size=SIZES),
    "register.firms": schema("register", "capital", form=FORMS),
    "tax.firms": schema("tax", "sales", industry=INDUSTRIES, region=("east", "west")),
}
FIGURES = {"insurance": "wages", "register": "capital", "tax": "sales"}


# --- rows --------------------------------------------------------------------------------------------------------

ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def codes(label: str, count: int) -> list[str]:
    """Unified social credit codes that nobody has: 17 letters and digits at random, and the check digit."""
    draw = seeded(f"codes of {label}")
    found = []
    for _ in range(count):
        letters = [ALPHABET[byte % len(ALPHABET)] for byte in draw(12)]
        body = "".join([*letters[:2], *(str(byte % 10) for byte in draw(6)), *letters[3:]])
        found.append(body + uscc_check_digit(body))
    return found


def figures(label: str, count: int) -> list[int]:
    draw = seeded(f"figures of {label}")
    return [int.from_bytes(draw(8), "big") >> 4 | 1 << 59 for _ in range(count)]


class Database:
    """Who knows which firms, and what of them. `shares`: firms that the tax office knows alone, it and the insurance,
    all three, the insurance and the register, the register alone; then food, steel and mining among those of the tax
    office, and of each how many are in the east."""

    def __init__(self, label: str, shares: Sequence[int], industries: Sequence[int], east: Sequence[int]) -> None:
        starts = [sum(shares[:place]) for place in range(6)]
        self.codes = codes(label, starts[5])
        known = {"tax": self.codes[: starts[3]], "insurance": self.codes[starts[1] : starts[4]]}
        known["register"] = self.codes[starts[2] :]
        self.frames = {}
        for holder, firms in known.items():
            own = {"uscc": firms, FIGURES[holder]: figures(f"{label} {holder}", len(firms))}
            self.frames[holder] = pd.DataFrame(own)
        kinds = [
            (name, "east" if place < first else "west")
            for name, n, first in zip(INDUSTRIES, industries, east, strict=True)
            for place in range(n)
        ]
        # In no order of who knows whom, so that each industry has firms that the insurance knows.
        kinds = [kinds[place * 7 % len(kinds)] for place in range(len(kinds))]
        self.frames["tax"][["industry", "region"]] = kinds
        self.frames["insurance"]["size"] = [SIZES[place % 3 > 0] for place in range(len(known["insurance"]))]
        self.frames["register"]["form"] = [FORMS[place % 4 == 0] for place in range(len(known["register"]))]

    def written(self, holder: str) -> pd.DataFrame:
        """As the holder writes it: everybody in another way."""
        write = {"tax": str, "insurance": in_groups, "register": full_width}[holder]
        return self.frames[holder].assign(uscc=self.frames[holder].uscc.map(write))


FIRST = Database("first", (20, 20, 20, 20, 20), (30, 26, 4), (20, 16, 0))
SECOND = Database("second", (30, 12, 15, 31, 13), (33, 17, 7), (14, 10, 1))
"""Other firms, figures, overlaps and groups, also when padded, of the same announced sizes: 60 firms each."""


# --- needles -----------------------------------------------------------------------------------------------------

CANARIES = [FIRST.codes[place] for place in (0, 1, 25, 45, 46, 70, 90, 91)]
"""Some of each share."""
STRANGER = codes("strangers", 1)[0]
"""Nobody knows it; it is scored."""
Needles = dict[str, bytes]


def needles_of_code(code: str) -> Needles:
    """In the normal form and as each holder writes it."""
    written = {"normal": code, "in groups": in_groups(code), "full width": full_width(code), "small": code.lower()}
    return {f"{code} {how}, {form}": one for how, text in written.items() for form, one in forms_of_text(text).items()}


def numbers(holder: str) -> dict[str, int]:
    """Some of a holder's figures, and its sums over the groups that were asked about."""
    frame, figure = FIRST.frames[holder], FIGURES[holder]
    found = {f"row {place} of {holder}": int(frame[figure][place]) for place in (0, 1, 21, 22, 45, 58)}
    by_firm = frame.set_index("uscc")[figure].to_dict()
    for industry, rows in FIRST.frames["tax"].groupby("industry"):
        found[f"{industry} of {holder}"] = sum(int(by_firm.get(code, 0)) for code in rows.uscc)
    return found


def needles_of_figures(*holders: str) -> Needles:
    every = {what: number for holder in holders for what, number in numbers(holder).items()}
    return {f"{what}, {form}": one for what, n in every.items() for form, one in forms_of_number(n).items()}


def found_in(content: bytes, *needles: Needles) -> list[str]:
    return [what for one in needles for what, needle in one.items() if needle in content]


def codes_but(*known: str) -> Needles:
    """Of all canaries but those that these know themselves, as they write them or not."""
    own = {code for holder in known for code in FIRST.frames[holder].uscc}
    unknown = [code for code in (*CANARIES, STRANGER) if code not in own]
    return {what: one for code in unknown for what, one in needles_of_code(code).items()}


# --- the space ---------------------------------------------------------------------------------------------------


class World:
    """Of one merchant all exact figures are about one population, so there is another one for each."""

    def __init__(self, lab: Sandbox) -> None:
        self.lab = lab
        self.banks = [lab.merchant(name, agreed=False) for name in BANKS]
        self.bank = self.banks[0]
        self.issuer: IssuerKey = new_issuer("chamber of commerce")
        issuers = [ConsentIssuer(name=self.issuer.name, key=self.issuer.key.public.hex())]  # type: ignore[arg-type]
        terms: dict[str, Any] = {"modes": list(Mode), "consent_issuers": issuers, "scores_per_day": 9}
        self.agreement, *_ = self.agreements = [lab.agree_jointly(bank, TABLES, **terms) for bank in self.banks]
        self.asked: list[str] = []

    def join(self, bank: int, *tables: str, **options: Any) -> Any:
        return self.banks[bank].join(*tables, on="uscc", **options)

    @property
    def by_industry(self) -> Any:
        join = self.join(0, "tax.firms", "insurance.firms")
        return join.filter(join["region"] == "east", join["size"] == "small").group_by("industry")

    def questions(self) -> list[Any]:
        """Everything of which messages have the same sizes, whatever is in the tables."""
        return [
            self.by_industry.agg(ceiba.sum("wages"), n=ceiba.count()),
            self.join(1, *TABLES).group_by("industry").tabulate("size", "form"),
            self.join(1, "tax.firms", "insurance.firms").count(),
            self.join(2, *TABLES).count(),
        ]

    def ask(self, query: Any) -> Any:
        job = query.submit()
        self.asked.append(job.id)
        return job.wait()

    def recorded(self) -> Path:
        return self.lab.coordinator_folder / "record"

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        engine = open_engine(Config.read(self.lab.coordinator_folder).database_url)
        try:
            yield Store(engine)
        finally:
            engine.dispose()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, sources = tmp_path_factory.mktemp("leaks"), tmp_path_factory.mktemp("sources")
    holders = {}
    for holder in HOLDERS:
        FIRST.written(holder).to_csv(sources / f"{holder}.csv", index=False)
        holders[holder] = {f"{holder}.firms": sources / f"{holder}.csv"}
    (folder / "coordinator" / "record").mkdir(parents=True)
    launcher = {"coordinator": [str(DOUBLES), "ceiba_coordinator"]}
    with Sandbox(holders, schemas=SCHEMAS, folder=folder, launcher=launcher) as lab:
        made = World(lab)
        ask_everything(made)
        score_somebody(made)
        yield made


def ask_everything(world: World) -> None:
    """In every mode; then what is refused, and what is cancelled half-way."""
    sums = {row[0]: row[1] for row in world.ask(world.questions()[0])}
    tax, insurance = FIRST.frames["tax"], FIRST.frames["insurance"]
    rows = tax[tax.region == "east"].merge(insurance[insurance["size"] == "small"], on="uscc")
    food = rows[rows.industry == "food"]
    assert len(food) >= 5 and sums["food"] == sum(map(int, food.wages))
    for query in world.questions()[1:]:
        world.ask(query)
    revealed = world.join(2, *TABLES, reveal=True)
    world.ask(revealed.group_by("industry").agg(ceiba.sum("wages"), ceiba.sum("capital")))
    with pytest.raises((JobFailed, JobRefused)) as caught:
        join = world.join(3, "tax.firms", "insurance.firms")
        world.ask(join.filter(join["industry"] == "mining", join["region"] == "west").count())
    assert isinstance(caught.value.reason, IntersectionTooSmall)
    world.lab.processes["insurance"].stop()
    job = world.questions()[0].submit()
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait()
    world.lab.processes["insurance"].start()


def model_of(world: World) -> RegisteredModel:
    """Three bins each: a private score has 2 bits."""
    features = [
        Feature("insurance.firms", "size", (-1, 0, 0)),
        Feature("register.firms", "form", (0, 1, 0)),
        Feature("tax.firms", "region", (-1, 0, 0)),
    ]
    return world.bank.register_model(features, on="uscc", agreement=world.agreement).wait(60)


def score_somebody(world: World) -> None:
    """A firm that all know, one that only the tax office knows, one that nobody knows; and with a used consent."""
    model = world.model = model_of(world)  # type: ignore[attr-defined]
    for code in (CANARIES[3], CANARIES[0], STRANGER):
        consent = give(model.consent_request(), code, world.issuer)
        assert model.score(consent, code).points in range(-100, 200)
        with pytest.raises(ConsentUsed):
            model.score(consent, code)


# --- the search itself -------------------------------------------------------------------------------------------


def test_search_finds_every_form_of_what_is_planted(world: World) -> None:
    """Once beside the recorded messages and once in a holder's folder, then taken away again."""
    what = needles_of_code(CANARIES[0]) | needles_of_figures("tax")
    for form, content in what.items():
        assert form in found_in(b"before" + content + b"after", what)
    for folder in (world.recorded(), world.lab.node_home("register").folder):
        file = folder / "planted"
        file.write_bytes(in_groups(CANARIES[0]).encode())
        assert f"{CANARIES[0]} in groups, text" in found_in(everything_in(file.parent), codes_but("register"))
        file.unlink()


def test_search_finds_the_canaries_where_they_belong(world: World) -> None:
    for holder in HOLDERS:
        content = world.lab._holders[holder][f"{holder}.firms"].read_bytes()
        own = {code for code in CANARIES if code in set(FIRST.frames[holder].uscc)}
        found = found_in(content, needles_of_figures(holder), *map(needles_of_code, own))
        assert {f"row {place} of {holder}, decimal text" for place in (0, 58)} <= set(found)
        assert len(own) > 2 and own == {what.split(" ")[0] for what in found if what.split(" ")[0] in own}


def test_every_message_was_recorded(world: World) -> None:
    methods = Counter(file.name.split("-", 2)[-1] for file in world.recorded().iterdir())
    assert methods["Work.Submit"] > 60 and methods["Work.Received"] > 40 and methods["Jobs.Result"] > 10
    assert methods["Scoring.Answer"] >= 9


# --- what nobody else has ----------------------------------------------------------------------------------------


def test_coordinator_received_and_stored_no_firm_and_no_figure(world: World) -> None:
    content = everything_in(world.lab.coordinator_folder)
    assert len(content) > 1_000_000 and b"SQLite format 3" in content and b'"event"' in content
    assert found_in(content, codes_but(), needles_of_figures(*HOLDERS)) == []


def test_merchants_folder_has_no_firm_and_no_figure(world: World) -> None:
    for bank in BANKS:
        content = everything_in(world.lab.merchant_home(bank).folder)
        assert b"ceiba sealed keys" in content
        assert found_in(content, codes_but(), needles_of_figures(*HOLDERS)) == []


@pytest.mark.parametrize("holder", HOLDERS)
def test_no_holder_has_what_another_one_knows(world: World, holder: str) -> None:
    """Neither on the disk nor in a log: also not of firms that were linked, counted or scored with its help."""
    others = [one for one in HOLDERS if one != holder]
    content = everything_in(world.lab.node_home(holder).folder)
    assert b"job.linked" in content and b"SQLite format 3" in content
    assert found_in(content, codes_but(holder), needles_of_figures(*others)) == []


@pytest.mark.parametrize("holder", HOLDERS)
def test_outside_its_snapshots_a_holder_writes_down_nobody(world: World, holder: str) -> None:
    """Who is linked or scored is in no log and in no ledger, not even where it is known."""
    home = world.lab.node_home(holder).folder
    content = everything_in(*(path for path in home.iterdir() if path.name != "snapshots"))
    assert b"job.linked" in content and b"SQLite format 3" in content
    assert found_in(content, codes_but(), needles_of_figures(*HOLDERS)) == []


# --- a dictionary ------------------------------------------------------------------------------------------------


def sets_of(world: World) -> list[JointSet]:
    """Of every joint job that all have approved, from what the coordinator has."""
    found, agreements = [], [one.contract.agreement for one in world.agreements]
    with world.store() as store:
        for job_id in map(bytes.fromhex, world.asked):
            job = store.job(job_id)
            assert job is not None
            manifest = JointManifest.parse(job.manifest.body)
            (agreement,) = (one for one in agreements if one.digest() == manifest.agreement_digest)
            question = read_joint_manifest(
                job.manifest, Agreement.parse(agreement.body()), world.banks[-1].roster, SCHEMAS, manifest.not_before
            )
            approvals = [seat.approval for seat in store.seats(job_id) if seat.approval]
            found.append(commit_jointly(question, approvals))
    return found


def dictionary(agreed: JointSet, everybody: Sequence[str]) -> Needles:
    """Each firm's point under the contexts of a job, which are public, before anybody has blinded it."""
    found: Needles = {}
    plan = agreed.question.plan
    if plan.mode is not Mode.HIDDEN:
        found |= points(linkage_of(agreed).to_group(everybody), everybody, "in tokens")
    for side in plan.joined if plan.mode is not Mode.CARDINALITY else ():
        hashed = hash_all([code.encode() for code in everybody], agreed.terms(side.holder).hash_domain())
        found |= points(hashed, everybody, f"in the join with {side.holder}")
    return found


def points(hashed: Any, everybody: Sequence[str], where: str) -> Needles:
    encoded = encode_points(hashed)
    return {f"{code} {where}": encoded[32 * at : 32 * at + 32] for at, code in enumerate(everybody)}


def test_a_dictionary_of_all_firms_finds_nobody(world: World) -> None:
    """Who has the list of all firms, as everybody has, hashes it under every public context."""
    content = everything_in(world.lab.coordinator_folder)
    sets = sets_of(world)
    assert {one.question.plan.mode for one in sets} == set(Mode) and len(sets) >= 6
    for agreed in sets:
        assert found_in(content, dictionary(agreed, FIRST.codes)) == []
    needles = dictionary(sets[0], FIRST.codes)
    code, planted = next(iter(needles.items()))
    assert found_in(content + b"x" + planted + b"x", needles) == [code], "the search finds nothing at all"


@pytest.mark.long
def test_a_dictionary_of_a_million_finds_nobody(world: World) -> None:
    """Also not in the tokens, which the coordinator reads: 70 s on two cores."""
    everybody = [*FIRST.codes, *codes("everybody", 1_000_000)]
    (agreed, *_) = (one for one in sets_of(world) if Kind.TOKENS in [step.kind for step in one.question.steps])
    hashed = np.frombuffer(encode_points(linkage_of(agreed).to_group(everybody)), dtype="<u8").reshape(-1, 4)[:, 0]
    content = everything_in(world.lab.coordinator_folder)
    assert not np.isin(hashed, words_of(content)).any()
    planted = content + b"x" + hashed[70].tobytes()
    assert np.flatnonzero(np.isin(hashed, words_of(planted))).tolist() == [70]


def words_of(content: bytes) -> Any:
    """Every eight bytes that follow one another, as a number."""
    end = len(content) // 8 * 8
    return np.unique(np.concatenate([np.frombuffer((content + bytes(8))[at : at + end], "<u8") for at in range(8)]))


# --- sizes -------------------------------------------------------------------------------------------------------

OF_A_JOB = ("Jobs.Submit", "Jobs.Result", "Work.Submit", "Work.Received")
OF_A_SCORE = ("Scoring.Score", "Scoring.Answer")


def sizes(world: World, run: Any) -> Counter[tuple[str, str, int]]:
    """Direction, method and size of every message, from asking to the answer; but of empty ones, which may be late."""
    before = {file.name for file in world.recorded().iterdir()}
    run()
    found: Counter[tuple[str, str, int]] = Counter()
    for file in world.recorded().iterdir():
        (direction, method), size = file.name.split("-", 2)[1:], file.stat().st_size
        if file.name in before or not size:
            continue
        if method in (*OF_A_JOB, *OF_A_SCORE) or is_of_a_job(method, file):
            found[direction, method, size] += 1
    return found


def is_of_a_job(method: str, file: Path) -> bool:
    """Tasks, but not those to witness the log, whose number depends on how long everything takes."""
    if method == "Scoring.Pull":
        return ScoreTask.FromString(file.read_bytes()).WhichOneof("kind") == "request"
    return method == "Work.Pull" and Task.FromString(file.read_bytes()).WhichOneof("kind") in ("approve", "joint")


def test_sizes_of_scores_do_not_say_who_is_known(world: World) -> None:
    model: RegisteredModel = world.model  # type: ignore[attr-defined]
    found = []
    for code in (CANARIES[4], CANARIES[1], STRANGER):
        consent = give(model.consent_request(), code, world.issuer)
        found.append(sizes(world, lambda code=code, consent=consent: model.score(consent, code)))
    assert found[0] == found[1] == found[2] and sum(found[0].values()) >= 8


@pytest.mark.long
def test_sizes_of_messages_do_not_depend_on_the_rows(world: World, tmp_path: Path) -> None:
    """Another database of the same announced sizes: other firms in common, other groups, another table withheld."""
    assert log_size(world) >= 100  # its digits are in approvals
    first = [sizes(world, lambda query=query: world.ask(query)) for query in world.questions()]
    for holder in HOLDERS:
        SECOND.written(holder).to_csv(tmp_path / f"{holder}.csv", index=False)
        world.lab.publish(holder, f"{holder}.firms", tmp_path / f"{holder}.csv")
    wait_for_versions(world)
    second = [sizes(world, lambda query=query: world.ask(query)) for query in world.questions()]
    differing = [[one - other, other - one] for one, other in zip(first, second, strict=True)]
    assert differing == [[Counter()] * 2] * 4
    assert all(sum(one.values()) > 15 for one in first) and log_size(world) < 1000
    assert {method for _, method, _ in first[0]} == {*OF_A_JOB, "Work.Pull"}


def log_size(world: World) -> int:
    with world.store() as store:
        return store.log_size()


def wait_for_versions(world: World) -> None:
    def offered() -> bool:
        newest = {entry.name: entry.offers({}) for entry in world.bank.catalogue()}
        return all(
            newest[f"{holder}.firms"][holder].version == world.lab.reports[holder, f"{holder}.firms"].version
            for holder in HOLDERS
        )

    until(offered, "the newest versions to be offered")
