"""Canary values in rows and in each holder's sums, searched in all that the others received, stored or logged.

The coordinator is a double that writes down every message (support/doubles.py). Questions are answered, refused,
cancelled, and fail; then everything is searched for every canary in every form that a program might write it in.
"""

import base64
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ceiba
from ceiba.space import Space
from ceiba_protocol.errors import CeibaError, JobCancelled, JobExpired, JobFailed, JobRefused, NoDomain, UnknownColumn
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import WITHHELD
from ceiba_protocol.v1.work_pb2 import Task
from ceiba_scenarios import Sandbox
from tests.support.seeded import seeded
from tests.support.traces import everything_in, forms_of_count, forms_of_number, forms_of_text
from tests.support.waiting import until

pytestmark = pytest.mark.slow

HOLDERS = ("berlin", "geneva", "zurich")
"""Names of one length: any of them may draw the gate's key, and its share of the gate is longer."""
TABLE = "bank.accounts"
DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
SCHEMA = Schema.from_plain(
    {
        "table": TABLE,
        "subject_key": "person",
        "columns": [
            {
                "name": "kind", "type": "category", "domain": ["private", "firm"], "nullable": False,
                "grade": "public",
            },
            {"name": "amount", "type": "int", "minimum": 0, "maximum": str(2**60), "grade": "public"},
        ],
    }
)  # fmt: skip
"""Of grade public: there is no gate. `CLAIMS` has one."""
SQL = f"SELECT kind, COUNT(*) AS n, SUM(amount) AS total FROM {TABLE} GROUP BY kind"


# --- rows --------------------------------------------------------------------------------------------------------


def rows_of(holder: str, label: str, count: int) -> list[dict[str, Any]]:
    """Rows whose amounts are unique 60-bit numbers and whose persons are unique texts."""
    draw = seeded(f"{label} of {holder}")
    return [
        {
            "person": f"canary-{draw(6).hex()}",
            "name": f"Zebulon {draw(5).hex()}",
            "kind": ["private", "firm"][place % 2],
            "amount": int.from_bytes(draw(8), "big") >> 4 | 1 << 59,
        }
        for place in range(count)
    ]


FIRST_DATABASE = {holder: rows_of(holder, "first", 5 + place) for place, holder in enumerate(HOLDERS)}
SECOND_DATABASE = {holder: rows_of(holder, "second", 8 - place) for place, holder in enumerate(HOLDERS)}
"""Other rows and other counts, the same capacity of eight."""


# --- rows behind a gate ------------------------------------------------------------------------------------------

CLAIMS = "bank.claims"
CLAIMS_SCHEMA = Schema.from_plain(
    {
        "table": CLAIMS,
        "subject_key": "person",
        "columns": [
            {"name": "kind", "type": "category", "domain": ["fire", "theft"], "nullable": False},
            {"name": "amount", "type": "int", "minimum": 0, "maximum": str(2**60)},
        ],
    }
)
RULES = {"minimum_subjects": 30_000}
"""So large, because counts must be long enough to be searched for; each holder's are capped at 14,999."""
FIRES, THEFTS = (16_411, 15_901, 17_203), (5_003, 4_999, 7_001)
"""By holder. The fires are released, the thefts withheld."""
CAPPED_FIRES, ALL_THEFTS = 3 * 14_999, sum(THEFTS)
"""What the gate opens for the holders: the second is no other number, because no holder reaches the cap."""
BY_KIND = f"SELECT kind, COUNT(*) AS n, SUM(amount) AS total FROM {CLAIMS} GROUP BY kind"
WITH_NOISE = f"SELECT COUNT(*) AS n, SUM(amount) AS total FROM {CLAIMS}"
CANARIES = 4
"""Of each kind at each holder: that many rows are searched for."""


def claims_of(holder: str, label: str, fires: int, thefts: int) -> list[dict[str, Any]]:
    """Canaries as in `rows_of` in every row; the first ones are those that are looked for."""
    draw = seeded(f"{label} claims of {holder}")
    amounts, names = draw(8 * (fires + thefts)), draw(6 * (fires + thefts))
    return [
        {
            "person": f"claimant-{names[6 * place : 6 * place + 6].hex()}",
            "kind": "fire" if place < fires else "theft",
            "amount": int.from_bytes(amounts[8 * place : 8 * place + 8], "big") >> 4 | 1 << 59,
        }
        for place in range(fires + thefts)
    ]


FIRST_CLAIMS = {
    holder: claims_of(holder, "first", *counts) for holder, *counts in zip(HOLDERS, FIRES, THEFTS, strict=True)
}


def canaries_of(holder: str) -> list[dict[str, Any]]:
    kinds = [[row for row in FIRST_CLAIMS[holder] if row["kind"] == kind][:CANARIES] for kind in ("fire", "theft")]
    return [row for rows in kinds for row in rows]


def claimed(kind: str, *holders: str) -> int:
    return sum(row["amount"] for holder in holders for row in FIRST_CLAIMS[holder] if row["kind"] == kind)


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    with path.open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def total(kind: str) -> int:
    return sum(row["amount"] for rows in FIRST_DATABASE.values() for row in rows if row["kind"] == kind)


def numbers() -> dict[str, int]:
    """Every amount, and what each holder's own sums are for the questions asked here."""
    found = {}
    for holder, rows in FIRST_DATABASE.items():
        for place, row in enumerate(rows):
            found[f"row {place} of {holder}"] = row["amount"]
        for kind in ("private", "firm"):
            found[f"{kind} of {holder}"] = sum(row["amount"] for row in rows if row["kind"] == kind)
        found[f"all of {holder}"] = sum(row["amount"] for row in rows)
    for holder in HOLDERS:
        for place, row in enumerate(canaries_of(holder)):
            found[f"claim {place} of {holder}"] = row["amount"]
        for kind in ("fire", "theft"):
            found[f"{kind} of {holder}"] = claimed(kind, holder)
        found[f"all claims of {holder}"] = claimed("fire", holder) + claimed("theft", holder)
    found["the withheld total"] = claimed("theft", *HOLDERS)
    found["the total that was blurred"] = claimed("fire", *HOLDERS) + claimed("theft", *HOLDERS)
    return found


def counts() -> dict[str, int]:
    """What the gate hides from everybody but the holder, or the holders."""
    own = {
        f"{kind} of {holder}": n
        for kind, ns in (("fires", FIRES), ("thefts", THEFTS))
        for holder, n in zip(HOLDERS, ns, strict=True)
    }
    return own | {"the withheld count": ALL_THEFTS, "the capped total": CAPPED_FIRES}


def texts() -> list[str]:
    names = [row[key] for rows in FIRST_DATABASE.values() for row in rows for key in ("person", "name")]
    return names + [row["person"] for holder in HOLDERS for row in canaries_of(holder)]


# --- needles -----------------------------------------------------------------------------------------------------


def needles() -> dict[str, bytes]:
    forms = {what: forms_of_number(number) for what, number in numbers().items()}
    forms |= {text: forms_of_text(text) for text in texts()}
    return {f"{what}, {form}": content for what, named in forms.items() for form, content in named.items()}


NEEDLES = needles()


COUNTS = {f"{what}, {form}": one for what, n in counts().items() for form, one in forms_of_count(n).items()}


def found_in(content: bytes) -> list[str]:
    return [what for what, needle in NEEDLES.items() if needle in content]


def counts_in(content: bytes) -> list[str]:
    return [what for what, form in COUNTS.items() if form.search(content)]


# --- the space ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("leaks")
    sources = tmp_path_factory.mktemp("sources")
    files = {
        holder: {
            TABLE: write(rows, sources / f"{holder}.csv"),
            CLAIMS: write(FIRST_CLAIMS[holder], sources / f"claims of {holder}.csv"),
        }
        for holder, rows in FIRST_DATABASE.items()
    }
    (folder / "coordinator" / "record").mkdir(parents=True)
    launcher = {"coordinator": [str(DOUBLES), "ceiba_coordinator"]}
    schemas = {TABLE: SCHEMA, CLAIMS: CLAIMS_SCHEMA}
    with Sandbox(files, schemas=schemas, folder=folder, launcher=launcher) as sandbox:
        ask_everything(sandbox, sandbox.merchant("bank-a"))
        ask_past_the_gate(sandbox, sandbox.merchant("bank-a"))
        yield sandbox


def ask_past_the_gate(lab: Sandbox, space: Space) -> None:
    """An exact question, one of whose cells is withheld; one with noise; and one that costs more than there is."""
    strict = lab.agree(space, CLAIMS, rules=RULES, purpose="claims")
    job = space.sql(BY_KIND).submit(agreement=strict)
    result = job.wait()
    assert tuple(result[0]) == ("fire", sum(FIRES), claimed("fire", *HOLDERS))
    assert result[1][0] == "theft" and WITHHELD in result[1][1:] and result[1][1] is result[1][2]
    sums = job._open(job._fetch()).sums  # all that the merchant can decrypt
    assert not any(sums[len(sums) // 2 :]) and all(sums[: len(sums) // 2])
    noisy = space.sql(WITH_NOISE).run(agreement=strict, noise=ceiba.Noise(rho=0.5))[0]
    assert noisy[0] != sum(FIRES) + ALL_THEFTS and found_in(repr(noisy).encode()) == []
    with pytest.raises(JobRefused, match="is left") as caught:
        space.sql(f"{WITH_NOISE} WHERE amount > 3").run(agreement=strict, noise=ceiba.Noise(rho=0.6))
    assert found_in(str(caught.value).encode()) == [] and counts_in(str(caught.value).encode()) == []


def ask_everything(lab: Sandbox, space: Space) -> None:
    """Questions that are answered, and one for each way in which a question ends without an answer."""
    assert {row[0]: row[2] for row in space.sql(SQL).run()} == {kind: total(kind) for kind in ("private", "firm")}
    assert space.sql(f"SELECT COUNT(*) AS n, SUM(amount) AS s FROM {TABLE}").run()[0][0] == 18
    one = FIRST_DATABASE["zurich"][0]["amount"]
    space.sql(f"SELECT AVG(amount) AS a, VAR_SAMP(amount / 1000000000) AS v FROM {TABLE} WHERE amount > 5").run()
    for wrong, error in (
        (f"SELECT SUM(amuont) FROM {TABLE}", UnknownColumn),
        (f"SELECT amount, COUNT(*) FROM {TABLE} GROUP BY amount", NoDomain),
        (f"SELECT person FROM {TABLE}", CeibaError),
    ):
        with pytest.raises(error) as caught:
            space.sql(wrong)
        assert str(one) not in str(caught.value)
    lab.processes["zurich"].stop()
    job = space.sql(SQL).submit(deadline=1)
    cancelled = space.sql(SQL).submit()
    cancelled.cancel()
    with pytest.raises(JobCancelled):
        cancelled.wait()
    with pytest.raises(JobExpired):
        job.wait()
    damage_snapshot(lab, "zurich")
    lab.processes["zurich"].start()
    with pytest.raises((JobRefused, JobFailed), match="zurich") as caught:
        space.sql(SQL).run()
    assert found_in(str(caught.value).encode()) == []
    lab.publish("zurich", TABLE)


def damage_snapshot(lab: Sandbox, holder: str) -> None:
    rows = lab.node_home(holder).snapshots().current(TABLE).path
    rows.write_bytes(rows.read_bytes()[:5000])


def recorded(lab: Sandbox) -> Path:
    return lab.coordinator_folder / "record"


# --- the search itself -------------------------------------------------------------------------------------------


def test_search_finds_every_form_of_what_is_planted(lab: Sandbox) -> None:
    """Every form, base64 at every alignment; and once beside the recorded messages, then taken away again."""
    number, text = numbers()["row 2 of geneva"], FIRST_DATABASE["geneva"][2]["person"]
    forms = forms_of_number(number) | forms_of_text(text)
    for before in range(3):
        planted = b"x" * before + text.encode()
        forms[f"planted in base64 after {before}"] = base64.b64encode(planted)
    for form, content in forms.items():
        assert found_in(b"before" + content + b"after"), form
    file = recorded(lab) / "planted"
    file.write_bytes(number.to_bytes(16, "little"))
    assert found_in(everything_in(lab.coordinator_folder)) == ["row 2 of geneva, little-endian"]
    file.unlink()


def test_search_finds_the_values_where_they_belong(lab: Sandbox) -> None:
    sources = [lab._holders[holder][table] for holder in HOLDERS for table in (TABLE, CLAIMS)]
    found = found_in(everything_in(*sources))
    for holder, rows in FIRST_DATABASE.items():
        assert {f"row {place} of {holder}, decimal text" for place in range(len(rows))} <= set(found)
        assert {f"{row['person']}, text" for row in rows} <= set(found)


def test_every_message_was_recorded(lab: Sandbox) -> None:
    methods = Counter(file.name.split("-", 2)[1:][-1] for file in recorded(lab).iterdir())
    assert methods["Work.Submit"] > 20 and methods["Jobs.Result"] > 20 and methods["Jobs.Submit"] >= 7
    assert methods["Catalogue.Announce"] >= 6 and methods["Work.Pull"] > 20 and methods["Enrolment.Enrol"] >= 8


# --- what nobody else has ----------------------------------------------------------------------------------------


def test_coordinator_received_and_stored_no_value(lab: Sandbox) -> None:
    content = everything_in(lab.coordinator_folder)
    assert len(content) > 100_000 and b"SQLite format 3" in content and b'"event"' in content
    assert found_in(content) == []


def test_merchants_folder_has_no_value(lab: Sandbox) -> None:
    content = everything_in(lab.merchant_home("bank-a").folder)
    assert b"ceiba sealed keys" in content
    assert found_in(content) == []


def test_logs_and_ledgers_of_holders_have_no_value(lab: Sandbox) -> None:
    """Where else a node writes: its logs, its ledger, and what DuckDB spills. The ledger has numbers of subjects."""
    homes = [lab.node_home(holder).folder for holder in HOLDERS]
    content = everything_in(*(path for home in homes for path in home.iterdir() if path.name != "snapshots"))
    assert b"job.approved" in content and b"job.refused" in content and b"job.shared" in content
    assert found_in(content) == []


def test_counts_are_known_to_their_holder_alone(lab: Sandbox) -> None:
    """The withheld count, the capped ones, and each holder's own: not with the coordinator, nor the merchant, nor in a
    log; what the merchant can decrypt was looked at when it asked."""
    logs = [lab.node_home(holder).folder / "log.jsonl" for holder in HOLDERS]
    content = everything_in(lab.coordinator_folder, lab.merchant_home("bank-a").folder, *logs)
    assert b"GateShare" in content
    assert counts_in(content) == []


def test_search_finds_every_form_of_a_count(lab: Sandbox) -> None:
    forms = {
        "word": ALL_THEFTS.to_bytes(8, "little"),
        "other word": ALL_THEFTS.to_bytes(8, "big"),
        "array": np.array([7, ALL_THEFTS, 9], dtype="<u8").tobytes(),
        "array in base64": base64.b64encode(np.array([7, ALL_THEFTS, 9], dtype="<u8").tobytes()),
        "text": f'{{"n": {ALL_THEFTS}}}'.encode(),
        "UTF-16": str(ALL_THEFTS).encode("utf-16-le"),
        "hex": ALL_THEFTS.to_bytes(8, "big").hex().encode(),
    }
    for form, content in forms.items():
        assert any("the withheld count" in what for what in counts_in(b"\xff\xee" + content + b"\xff")), form
    file = recorded(lab) / "planted"
    file.write_bytes(forms["array"])
    assert counts_in(everything_in(lab.coordinator_folder)) == ["the withheld count, word, little-endian"]
    file.unlink()


def test_totals_are_known_to_nobody_but_the_merchant(lab: Sandbox) -> None:
    holders = [lab.node_home(holder).folder for holder in HOLDERS]
    content = everything_in(lab.coordinator_folder, *holders)
    for known in (total("private"), total("firm"), claimed("fire", *HOLDERS)):
        assert [form for form, needle in forms_of_number(known).items() if needle in content] == []


def test_coordinator_has_no_members_secret(lab: Sandbox) -> None:
    database = everything_in(*lab.coordinator_folder.glob("coordinator.sqlite3*"), recorded(lab))
    assert b"BEGIN CERTIFICATE" in database and b"PRIVATE KEY" not in database
    identities = [lab.node_home(holder).identity() for holder in HOLDERS]
    identities.append(lab.merchant_home("bank-a").identity())
    for identity in identities:
        assert bytes.fromhex(identity.descriptor.signing_key).hex().encode() in database  # the search works
        for secret in (identity.signing_seed, identity.storage_key):
            assert secret.encode() not in database
            assert bytes.fromhex(secret) not in database
        lines = [line for line in identity.tls_key.splitlines() if "-" not in line]
        assert not [line for line in lines if line.encode() in database]
    secret = identities[-1].encryption
    assert secret is not None
    for prime in (secret.p, secret.q):
        assert not [form for form, needle in forms_of_number(prime).items() if needle in database]


# --- sizes -------------------------------------------------------------------------------------------------------


def sizes_of_one_question(lab: Sandbox, space: Space, sql: str = SQL, **options: Any) -> Counter[tuple[str, str, int]]:
    """Direction, method and size of every message of one job, from asking to the answer."""
    before = {file.name for file in recorded(lab).iterdir()}
    space.sql(sql).run(**options)
    sizes: Counter[tuple[str, str, int]] = Counter()
    for file in recorded(lab).iterdir():
        if file.name not in before:
            direction, method = file.name.split("-", 2)[1:]
            if method in OF_A_JOB or is_of_the_job(method, file.read_bytes()):
                sizes[direction, method, file.stat().st_size] += 1
    return sizes


OF_A_JOB = ("Jobs.Submit", "Jobs.Result", "Work.Submit", "Work.Shares")


def is_of_the_job(method: str, content: bytes) -> bool:
    """Tasks, but not those to witness the log, whose number depends on how long everything takes."""
    return method == "Work.Pull" and Task.FromString(content).WhichOneof("kind") in ("approve", "gate", "contribute")


def test_sizes_of_messages_do_not_depend_on_the_rows(lab: Sandbox, tmp_path: Path) -> None:
    """Another database of the same capacity: other values, other counts, and one group that is empty."""
    space = lab.merchant("bank-a")
    wait_for_versions(lab, space, TABLE)
    first = sizes_of_one_question(lab, space)
    for holder, rows in SECOND_DATABASE.items():
        firms = [{**row, "kind": "firm", "amount": row["amount"] >> 50} for row in rows]
        lab.publish(holder, TABLE, write(firms, tmp_path / f"{holder}.csv"))
    wait_for_versions(lab, space, TABLE)
    assert sizes_of_one_question(lab, space) == first
    assert sum(first.values()) > 15


def test_sizes_of_messages_past_the_gate_do_not_depend_on_the_rows(lab: Sandbox, tmp_path: Path) -> None:
    """Another database of the same capacity, in which the other cell is withheld; exact, and with noise."""
    space = lab.merchant("bank-a")
    wait_for_versions(lab, space, CLAIMS)
    questions: list[tuple[str, dict[str, Any]]] = [(BY_KIND, {}), (WITH_NOISE, {"noise": ceiba.Noise(rho="0.01")})]
    strict = lab.agree(space, CLAIMS, rules=RULES, purpose="sizes")
    for _ in range(5):  # the log's size is in every approval: all that follows is between its 100th and 1,000th entry
        space.sql(WITH_NOISE).run(agreement=strict, noise=ceiba.Noise(rho="0.01"))
    first = [sizes_of_one_question(lab, space, sql, agreement=strict, **noise) for sql, noise in questions]
    for holder, fires, thefts in zip(HOLDERS, THEFTS, FIRES, strict=True):
        rows = claims_of(holder, "second", fires - 3, thefts + 2)
        lab.publish(holder, CLAIMS, write(rows, tmp_path / f"{holder}.csv"))
    wait_for_versions(lab, space, CLAIMS)
    second = [sizes_of_one_question(lab, space, sql, agreement=strict, **noise) for sql, noise in questions]
    differing = [[one - other, other - one] for one, other in zip(first, second, strict=True)]
    assert differing == [[Counter()] * 2] * 2
    assert all(sum(sizes.values()) > 25 for sizes in first)
    assert {method for _, method, _ in first[0]} >= set(OF_A_JOB)


def wait_for_versions(lab: Sandbox, space: Space, table: str) -> None:
    """Until everybody's newest version is the one on offer."""

    def offered() -> bool:
        (entry,) = (entry for entry in space.catalogue() if entry.name == table)
        offers = entry.offers({})
        return all(offers[holder].version == lab.reports[holder, table].version for holder in HOLDERS)

    until(offered, "the newest versions to be offered")
