"""Canary values in rows and in each holder's sums, searched in all that the others received, stored or logged.

The coordinator is a double that writes down every message (support/doubles.py). Questions are answered, refused,
cancelled, and fail; then everything is searched for every canary in every form that a program might write it in.
"""

import base64
import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ceiba.space import Space
from ceiba_protocol.errors import CeibaError, JobCancelled, JobExpired, JobFailed, JobRefused, NoDomain, UnknownColumn
from ceiba_protocol.schema import Schema
from ceiba_protocol.v1.work_pb2 import Task
from ceiba_scenarios import Sandbox
from tests.support.seeded import seeded
from tests.support.waiting import until

pytestmark = pytest.mark.slow

HOLDERS = ("cleveland", "hungary", "zurich")
TABLE = "bank.accounts"
DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
SCHEMA = Schema.from_plain(
    {
        "table": TABLE,
        "subject_key": "person",
        "columns": [
            {"name": "kind", "type": "category", "domain": ["private", "firm"], "nullable": False},
            {"name": "amount", "type": "int", "minimum": 0, "maximum": str(2**60)},
        ],
    }
)
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
    return found


def texts() -> list[str]:
    return [row[key] for rows in FIRST_DATABASE.values() for row in rows for key in ("person", "name")]


# --- forms -------------------------------------------------------------------------------------------------------


def in_base64(content: bytes) -> dict[str, bytes]:
    """The characters that are the same wherever `content` stands in a longer text: one for each alignment."""
    forms = {}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + content).rstrip(b"=")
        whole = encoded if (before + len(content)) % 3 == 0 else encoded[:-1]
        forms[f"base64 at {before}"] = whole[[0, 2, 3][before] :]
    return forms | {f"url-safe {name}": form.translate(bytes.maketrans(b"+/", b"-_")) for name, form in forms.items()}


def forms_of_text(text: str) -> dict[str, bytes]:
    plain = text.encode()
    hashed = {name: hashlib.new(name, plain) for name in ("sha256", "md5", "sha1")}
    return {
        "text": plain,
        "hex": plain.hex().encode(),
        "UTF-16 LE": text.encode("utf-16-le"),
        "UTF-16 BE": text.encode("utf-16-be"),
        **in_base64(plain),
        **{name: one.digest() for name, one in hashed.items()},
        **{f"{name} in hex": one.hexdigest().encode() for name, one in hashed.items()},
    }


def forms_of_number(number: int) -> dict[str, bytes]:
    size = (number.bit_length() + 7) // 8
    big = number.to_bytes(size, "big")
    little, varint, rest = big[::-1], bytearray(), number
    while rest:
        varint.append(rest & 127 | (128 if rest > 127 else 0))
        rest >>= 7
    named = {"big-endian": big, "little-endian": little, "varint": bytes(varint)}
    for name, content in (("big-endian", big), ("little-endian", little)):
        named |= {f"{name} {form}": encoded for form, encoded in in_base64(content).items()}
        named[f"{name} in hex"] = content.hex().encode()
    named |= {f"decimal {name}": form for name, form in forms_of_text(str(number)).items()}
    return named | {"hex": f"{number:x}".encode(), "HEX": f"{number:X}".encode()}


def needles() -> dict[str, bytes]:
    forms = {what: forms_of_number(number) for what, number in numbers().items()}
    forms |= {text: forms_of_text(text) for text in texts()}
    return {f"{what}, {form}": content for what, named in forms.items() for form, content in named.items()}


NEEDLES = needles()


def everything_in(*places: Path) -> bytes:
    """The bytes of all files in these folders, and of these files."""
    files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return b"\n".join(path.read_bytes() for path in files if path.is_file())


def found_in(content: bytes) -> list[str]:
    return [what for what, needle in NEEDLES.items() if needle in content]


# --- the space ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("leaks")
    sources = tmp_path_factory.mktemp("sources")
    files = {holder: {TABLE: write(rows, sources / f"{holder}.csv")} for holder, rows in FIRST_DATABASE.items()}
    (folder / "coordinator" / "record").mkdir(parents=True)
    launcher = {"coordinator": [str(DOUBLES), "ceiba_coordinator"]}
    with Sandbox(files, schemas={TABLE: SCHEMA}, folder=folder, launcher=launcher) as sandbox:
        sandbox.merchant("bank-a")
        ask_everything(sandbox, sandbox.merchant("bank-a"))
        yield sandbox


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
    number, text = numbers()["row 2 of hungary"], FIRST_DATABASE["hungary"][2]["person"]
    forms = forms_of_number(number) | forms_of_text(text)
    for before in range(3):
        planted = b"x" * before + text.encode()
        forms[f"planted in base64 after {before}"] = base64.b64encode(planted)
    for form, content in forms.items():
        assert found_in(b"before" + content + b"after"), form
    file = recorded(lab) / "planted"
    file.write_bytes(number.to_bytes(16, "little"))
    assert found_in(everything_in(lab.coordinator_folder)) == ["row 2 of hungary, little-endian"]
    file.unlink()


def test_search_finds_the_values_where_they_belong(lab: Sandbox) -> None:
    sources = [lab._holders[holder][TABLE] for holder in HOLDERS]
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
    homes = [lab.node_home(holder).folder for holder in HOLDERS]
    content = everything_in(*(path for home in homes for path in (home / "log.jsonl", *home.glob("ledger*"))))
    assert b"job.approved" in content and b"job.refused" in content
    assert found_in(content) == []


def test_totals_are_known_to_nobody_but_the_merchant(lab: Sandbox) -> None:
    holders = [lab.node_home(holder).folder for holder in HOLDERS]
    content = everything_in(lab.coordinator_folder, *holders)
    for kind in ("private", "firm"):
        assert [form for form, needle in forms_of_number(total(kind)).items() if needle in content] == []


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


def sizes_of_one_question(lab: Sandbox, space: Space) -> Counter[tuple[str, str, int]]:
    """Direction, method and size of every message of one job, from asking to the answer."""
    before = {file.name for file in recorded(lab).iterdir()}
    space.sql(SQL).run()
    sizes: Counter[tuple[str, str, int]] = Counter()
    for file in recorded(lab).iterdir():
        if file.name not in before:
            direction, method = file.name.split("-", 2)[1:]
            if method in ("Jobs.Submit", "Jobs.Result", "Work.Submit") or is_of_the_job(method, file.read_bytes()):
                sizes[direction, method, file.stat().st_size] += 1
    return sizes


def is_of_the_job(method: str, content: bytes) -> bool:
    """Tasks, but not those to witness the log, whose number depends on how long everything takes."""
    return method == "Work.Pull" and Task.FromString(content).WhichOneof("kind") in ("approve", "contribute")


def test_sizes_of_messages_do_not_depend_on_the_rows(lab: Sandbox, tmp_path: Path) -> None:
    """Another database of the same capacity: other values, other counts, and one group that is empty."""
    space = lab.merchant("bank-a")
    wait_for_versions(lab, space)
    first = sizes_of_one_question(lab, space)
    for holder, rows in SECOND_DATABASE.items():
        firms = [{**row, "kind": "firm", "amount": row["amount"] >> 50} for row in rows]
        lab.publish(holder, TABLE, write(firms, tmp_path / f"{holder}.csv"))
    wait_for_versions(lab, space)
    assert sizes_of_one_question(lab, space) == first
    assert sum(first.values()) > 15


def wait_for_versions(lab: Sandbox, space: Space) -> None:
    """Until everybody's newest version is the one on offer."""

    def offered() -> bool:
        (entry,) = space.catalogue()
        offers = entry.offers({})
        return all(offers[holder].version == lab.reports[holder, TABLE].version for holder in HOLDERS)

    until(offered, "the newest versions to be offered")
