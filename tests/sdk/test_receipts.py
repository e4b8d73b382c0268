"""Receipts: through the result's handle, and offline with `ceiba verify`."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ceiba.cli import app
from ceiba.receipts import Receipt
from ceiba.space import Space
from ceiba_protocol.errors import MalformedDocument, NotReachable, ReceiptRejected
from ceiba_protocol.trust import receipt as papers
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Approval, GateShare, Manifest, Submission
from ceiba_protocol.trust.log import Checkpoint, Release
from ceiba_protocol.trust.roster import OPERATOR
from tests.support.coordinator import Coordinator, merchant_home
from tests.support.members import NOW, World, changed, graded, resigned, signed_by

SQL = "SELECT SUM(age) FROM health.heart"
NEW_STEPS = ("signed here", "opened here", "seen here")


@pytest.fixture(scope="module", params=["public", "internal"])
def world(request: pytest.FixtureRequest) -> World:
    """Without and with a gate."""
    return World(schema=graded(request.param))


@pytest.fixture
def coordinator(world: World) -> Coordinator:
    made = Coordinator(world)
    made.add(world.agreement)
    return made


@pytest.fixture
def space(coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.polling.time.sleep", lambda seconds: None)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: coordinator.channel())
    return Space(merchant_home(coordinator.world, tmp_path))


@pytest.fixture
def receipt(space: Space) -> Receipt:
    found = space.sql(SQL).run().receipt
    assert found is not None
    return found


# --- the handle -------------------------------------------------------------------------------------------------


def test_every_step_holds_for_an_honest_result(receipt: Receipt) -> None:
    assert "not fetched yet" in repr(receipt)
    steps = receipt.verify(wait=0)
    assert [step.number for step in steps] == list(range(1, 12)) and all(step.error is None for step in steps)
    assert all(words in steps[place].name for place, words in zip((8, 9, 10), NEW_STEPS, strict=True))
    assert "3 of 3 holders have witnessed it" in repr(receipt) and "11. ok" in repr(receipt)


def test_it_waits_for_witnesses_and_for_nothing_else(
    receipt: Receipt, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = list(coordinator.cosigners)
    coordinator.cosigners = []
    with pytest.raises(ReceiptRejected, match="step 8"):
        receipt.verify(wait=0)
    assert "0 of 3 holders" in repr(receipt)
    monkeypatch.setattr("ceiba.polling.time.sleep", lambda _: coordinator.cosigners.append(late.pop()))
    assert receipt.verify(wait=60) and not late

    fetched: list[Any] = []
    monkeypatch.setattr("ceiba.polling.time.sleep", fetched.append)
    coordinator.parts.release.signature = bytes(64)
    with pytest.raises(ReceiptRejected, match="step 6"):
        receipt.verify(wait=60)
    assert not fetched


def release_of(coordinator: Coordinator, **changes: Any) -> Any:
    return resigned(coordinator.parts.release, Release, **changes)


def test_a_receipt_of_another_total_or_another_job_is_refused(
    receipt: Receipt, coordinator: Coordinator, space: Space
) -> None:
    coordinator.release(release_of(coordinator, total_digest=hashlib.sha256(b"another").hexdigest()))
    with pytest.raises(ReceiptRejected, match="step 10"):
        receipt.verify(wait=0)
    space.sql(SQL).run()  # its receipt replaces the first one's
    with pytest.raises(ReceiptRejected, match="step 9"):
        receipt.verify(wait=0)
    assert "9. FAILED" in repr(receipt)


def test_the_log_must_go_on_from_what_was_seen_before(receipt: Receipt, coordinator: Coordinator, space: Space) -> None:
    receipt.verify(wait=0)
    first = space.home.checkpoint()
    coordinator.append(signed_by("zurich", coordinator.world.agreement))
    receipt.verify(wait=0)
    second = space.home.checkpoint()
    assert first is not None and second is not None and first != second
    sizes = [Checkpoint.parse(signed.body).size for signed in (first, second)]
    assert sizes[1] == sizes[0] + 1 == len(coordinator.entries)

    coordinator.entries[0] = coordinator.entries[0].replace(b'"signer":"bank-a"', b'"signer":"bank-b"')
    with pytest.raises(ReceiptRejected, match="step 11"):
        receipt.verify(wait=0)
    assert space.home.checkpoint() == second
    coordinator.append(signed_by("zurich", coordinator.world.agreement))  # a longer fork is one all the same
    with pytest.raises(ReceiptRejected, match="step 11"):
        receipt.verify(wait=0)


def test_an_older_checkpoint_of_the_same_log_is_accepted_and_the_newer_one_kept(
    receipt: Receipt, coordinator: Coordinator, space: Space
) -> None:
    coordinator.append(signed_by("zurich", coordinator.world.agreement))
    receipt.verify(wait=0)
    newest = space.home.checkpoint()
    last = coordinator.entries.pop()
    older = coordinator.Log_GetReceipt(None)
    coordinator.entries.append(last)
    coordinator.Log_GetReceipt = lambda _: older  # type: ignore[method-assign]
    assert len(receipt.verify(wait=0)) == 11 and space.home.checkpoint() == newest


def test_a_coordinator_that_goes_away_is_not_a_false_receipt(receipt: Receipt, coordinator: Coordinator) -> None:
    receipt.verify(wait=0)
    coordinator.append(signed_by("zurich", coordinator.world.agreement))

    def gone(_: Any) -> Any:
        raise NotReachable(target="coordinator", problem="it is gone")

    coordinator.Log_Consistency = gone  # type: ignore[method-assign]
    with pytest.raises(NotReachable):
        receipt.verify(wait=0)


# --- ceiba verify -----------------------------------------------------------------------------------------------


def verify(folder: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["verify", str(folder / "receipt.json"), *options])


@pytest.fixture
def files(receipt: Receipt, space: Space, tmp_path: Path) -> Path:
    """A folder with a receipt and a roster."""
    receipt.save(tmp_path / "receipt.json")
    return tmp_path


def test_a_good_receipt_holds_offline_with_a_roster_alone(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceiba.home.open_keys", lambda *_: pytest.fail("a key was opened"))
    for options in (["--roster", str(files / "roster.json")], ["--identity", str(files)]):
        shown = verify(files, *options)
        assert shown.exit_code == 0 and "8. ok" in shown.output and "The receipt holds." in shown.output
        assert "3 of 3 holders have witnessed it" in shown.output
    found = json.loads(verify(files, "--roster", str(files / "roster.json"), "--json").output)
    assert found["valid"] is True and [step["number"] for step in found["steps"]] == list(range(1, 9))
    assert {step["problem"] for step in found["steps"]} == {None}


BAD: dict[str, tuple[int, Callable[[Coordinator], object]]] = {
    "a holder did not sign the agreement": (1, lambda c: c.parts.agreement.pop()),
    "another agreement": (
        1,
        lambda c: c.parts.agreement[1].CopyFrom(resigned(c.parts.agreement[1], Agreement, jobs=9)),
    ),
    "manifest of a purpose that was not agreed": (
        2,
        lambda c: c.parts.manifest.CopyFrom(resigned(c.parts.manifest, Manifest, purpose="marketing")),
    ),
    "manifest that the merchant did not sign": (2, lambda c: setattr(c.parts.manifest, "signature", bytes(64))),
    "another schema": (2, lambda c: setattr(c.parts, "schema", c.world.schema.body().replace(b"120", b"121"))),
    "a set with one holder fewer": (3, lambda c: c.parts.approvals.pop()),
    "approval of another manifest": (
        3,
        lambda c: c.parts.approvals[0].CopyFrom(resigned(c.parts.approvals[0], Approval, manifest_digest="0" * 64)),
    ),
    "a submission is missing": (5, lambda c: c.parts.submissions.pop()),
    "submission in another context": (
        5,
        lambda c: c.parts.submissions[0].CopyFrom(
            resigned(c.parts.submissions[0], Submission, context_digest="0" * 64)
        ),
    ),
    "release that the operator did not sign": (6, lambda c: setattr(c.parts.release, "signature", bytes(64))),
    "release of another attempt": (6, lambda c: c.release(release_of(c, attempt=1))),
    "release that is not in the log": (7, lambda c: c.entries.__setitem__(slice(None), c.entries[:1] * len(c.entries))),
    "too few witnesses": (8, lambda c: c.cosigners.__delitem__(slice(1, None))),
    "a false witness": (8, lambda c: c.cosigners.append("bank-a")),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_receipt_says_which_step_fails(files: Path, receipt: Receipt, coordinator: Coordinator, bad: str) -> None:
    step, spoil = BAD[bad]
    fails_at(step, spoil, files, receipt, coordinator)


BAD_GATE: dict[str, Callable[[Coordinator], object]] = {
    "a share is missing": lambda c: c.parts.shares.pop(),
    "a share twice": lambda c: c.parts.shares.append(c.parts.shares[0]),
    "share in another context": lambda c: c.parts.shares[0].CopyFrom(
        resigned(c.parts.shares[0], GateShare, context_digest="0" * 64)
    ),
}


@pytest.mark.parametrize("bad", BAD_GATE)
def test_a_bad_gate_fails_at_the_gate(files: Path, receipt: Receipt, coordinator: Coordinator, bad: str) -> None:
    if not coordinator.parts.shares:
        assert not coordinator.world.agreement.disclosure.has_gate
        return
    fails_at(4, BAD_GATE[bad], files, receipt, coordinator)


def fails_at(
    step: int, spoil: Callable[[Coordinator], object], files: Path, receipt: Receipt, coordinator: Coordinator
) -> None:
    spoil(coordinator)
    receipt._fetch()
    receipt.save(files / "receipt.json")
    shown = verify(files, "--roster", str(files / "roster.json"))
    assert shown.exit_code == 5 and f"The receipt fails at step {step}." in shown.output
    assert f"{step}. FAILED" in shown.output and shown.output.count("ok  ") == step - 1
    found = json.loads(verify(files, "--roster", str(files / "roster.json"), "--json").output)
    assert found["valid"] is False and found["steps"][-1]["number"] == step and found["steps"][-1]["problem"]


def test_under_another_roster_nothing_holds(files: Path, world: World) -> None:
    other = world.roster.model_copy(update={"members": world.roster.members[:-1]})
    (files / "other.json").write_bytes(other.body())
    assert "The receipt fails at step 1." in verify(files, "--roster", str(files / "other.json")).output


def test_an_altered_file_is_refused(files: Path) -> None:
    body = (files / "receipt.json").read_bytes()
    document = papers.Receipt.parse(body)
    for field in ("entry", "schema_text"):
        spoilt = changed(document, **{field: getattr(document, field) + " "})
        (files / "receipt.json").write_bytes(spoilt.body())
        assert verify(files, "--roster", str(files / "roster.json")).exit_code == 5
    (files / "receipt.json").write_bytes(body[:-1])
    assert verify(files, "--roster", str(files / "roster.json")).exit_code != 0


def test_the_checkpoint_is_the_operators_alone(files: Path, receipt: Receipt, coordinator: Coordinator) -> None:
    assert receipt.document.checkpoint.first.signer == OPERATOR
    first = receipt.document.checkpoint.first
    forged = changed(first, signature="00" * 64)
    document = changed(receipt.document, checkpoint=changed(receipt.document.checkpoint, first=forged))
    (files / "receipt.json").write_bytes(document.body())
    assert "fails at step 7" in verify(files, "--roster", str(files / "roster.json")).output


def test_a_receipt_cannot_write_on_the_auditors_terminal(files: Path, receipt: Receipt) -> None:
    first = changed(receipt.document.agreement.first, signer="\x1b[2Jzurich\r7. ok")
    document = changed(receipt.document, agreement=changed(receipt.document.agreement, first=first))
    (files / "receipt.json").write_bytes(document.body())
    shown = verify(files, "--roster", str(files / "roster.json"))
    assert isinstance(shown.exception, MalformedDocument)
    assert not {"\x1b", "\r"} & set(shown.output + str(shown.exception))


def test_a_file_that_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    assert verify(tmp_path, "--roster", str(tmp_path / "roster.json")).exit_code == 2


def test_what_only_joins_need_is_not_loaded_before() -> None:
    """The library of the group, which takes a tenth of the time to begin."""
    program = "import sys, ceiba.space, ceiba.receipts; sys.exit('rbcl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
