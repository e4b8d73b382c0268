"""Renewal through real gRPC and mutual TLS: who gets a later certificate, who does not, and nothing stops for it."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

import ceiba
from ceiba.home import Home as MerchantHome
from ceiba_coordinator.server import open_membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_node.config import Home as NodeHome
from ceiba_protocol.errors import CeibaError, CertificateExpired, NotReachable, UnknownMember
from ceiba_protocol.joining import fetch_roster, join, renew
from ceiba_protocol.trust.certificates import (
    CertificateName,
    certificate_fingerprint,
    expires_at,
    issue_member,
    make_request,
    new_key,
    read_member_certificate,
)
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.enrolment_pb2 import RenewRequest
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub
from ceiba_protocol.wire import from_rpc_error, secure_channel
from ceiba_scenarios import Sandbox
from tests.support.members import HOLDERS, SCHEMA, changed, duties, frames
from tests.support.waiting import until

pytestmark = pytest.mark.slow

DOUBLES = Path(__file__).parents[1] / "support" / "doubles.py"
FIRST, SECOND, THIRD = HOLDERS
SQL, TRUTH = "SELECT COUNT(*) AS n, SUM(age) AS years FROM health.heart", (6, 301)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("renewal")
    (folder / "coordinator" / "callers").mkdir(parents=True)
    launcher = {"coordinator": [str(DOUBLES), "ceiba_coordinator"]}
    with Sandbox(frames(), schemas={"health.heart": SCHEMA}, folder=folder, launcher=launcher) as sandbox:
        sandbox.merchant("bank-a")
        yield sandbox


def aged(lab: Sandbox, identity: Identity, days: int = 80) -> Identity:
    """The identity with its certificate as if it had been issued some days ago."""
    authority = lab.config.read_authority()
    name = CertificateName(identity.space, identity.descriptor.role, identity.name)
    request = make_request(identity.tls_key.encode())
    certificate = issue_member(authority, request, name, datetime.now(UTC) - timedelta(days=days))
    return changed(identity, certificate=certificate.decode())


def ends(identity: Identity) -> datetime:
    return expires_at(identity.certificate.encode())


def refused(identity: Identity, request: bytes) -> CeibaError:
    with secure_channel(identity.coordinator, identity) as channel, pytest.raises(grpc.RpcError) as caught:
        DirectoryStub(channel).Renew(RenewRequest(certificate_request=request), timeout=30)
    return from_rpc_error(caught.value, "there")


# --- who gets one ------------------------------------------------------------------------------------------------


def test_later_certificate_of_the_same_key_opens_calls(lab: Sandbox) -> None:
    own = lab.node_home(FIRST).identity()
    old = aged(lab, own)
    renewed = renew(old, datetime.now(UTC))
    assert renewed is not None and ends(renewed) > ends(old) + timedelta(days=79)
    assert read_member_certificate(renewed.certificate.encode()) == read_member_certificate(own.certificate.encode())
    assert fetch_roster(renewed) == fetch_roster(old)


def test_request_for_another_key_is_refused(lab: Sandbox) -> None:
    own, other = lab.node_home(FIRST).identity(), lab.node_home(SECOND).identity()
    assert refused(own, make_request(new_key())).code == "bad_certificate_request"
    assert refused(own, make_request(other.tls_key.encode())).code == "bad_certificate_request"
    assert refused(own, b"\xff" * 300).code == "bad_certificate_request"


def test_minted_certificate_renews_for_nobody(lab: Sandbox) -> None:
    """A member's name with another key, by the space's CA: what an operator can mint."""
    minted = aged(lab, changed(lab.node_home(FIRST).identity(), tls_key=new_key().decode()))
    assert refused(minted, make_request(minted.tls_key.encode())).code == "unknown_member"


def test_removed_member_cannot_renew(lab: Sandbox, tmp_path: Path) -> None:
    config = lab.config
    membership = open_membership(config, Store(open_engine(config.database_url)))
    settings = config.settings
    token = membership.invite(
        "leaving", Role.HOLDER, "x", address=lab.address, enrolment=settings.enrolment_address, random=os.urandom
    )
    leaving = aged(
        lab, join(token, None, NodeHome.make(tmp_path, lab.passphrase).save_identity, os.urandom, duties("leaving"))
    )
    assert renew(leaving, datetime.now(UTC)) is not None
    membership.remove("leaving")
    with pytest.raises(UnknownMember):
        renew(leaving, datetime.now(UTC))


# --- while work goes on ------------------------------------------------------------------------------------------


def test_a_node_renews_while_it_answers_and_its_process_goes_on(lab: Sandbox) -> None:
    """A job is open meanwhile: the renewing holder is asked at about the same time, and answers it in the end."""
    space, home, process = lab.merchant("bank-a"), lab.node_home(THIRD), lab.processes[THIRD]
    for name in (SECOND, THIRD):
        lab.processes[name].stop()
    old = aged(lab, home.identity())
    home.save_identity(old)
    job = space.sql(SQL).submit()
    process.start()
    pid = process.pid
    until(lambda: ends(home.identity()) > ends(old), "the new certificate in the node's folder")
    renewed = home.identity()
    shown = f"{THIRD}-{certificate_fingerprint(renewed.certificate.encode())}"
    until((lab.coordinator_folder / "callers" / shown).exists, "a call with the new certificate")
    lab.processes[SECOND].start()
    assert job.wait()[0] == TRUTH
    assert space.sql(SQL).run()[0] == TRUTH
    assert (process.is_running(), process.pid) == (True, pid)
    assert changed(renewed, certificate=old.certificate) == old
    assert process.log_path.read_text().count("certificate.renewed") == 1


# --- a merchant --------------------------------------------------------------------------------------------------


@pytest.fixture
def bank(lab: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[MerchantHome]:
    """A merchant's folder whose certificate is about to end."""
    monkeypatch.setenv("CEIBA_PASSPHRASE_FILE", str(lab.passphrase_file))
    home = lab.merchant_home("bank-a")
    fresh = home.identity()
    home.save_identity(aged(lab, fresh))
    yield home
    home.save_identity(fresh)


def test_connecting_renews_and_saves(bank: MerchantHome) -> None:
    old = bank.identity()
    with ceiba.connect(identity=bank.folder) as space:
        assert space.sql(SQL).run()[0] == TRUTH
        assert ends(space.identity) > ends(old)
        assert MerchantHome(bank.folder).identity() == space.identity
    with ceiba.connect(identity=bank.folder) as again:
        assert again.identity.certificate == space.identity.certificate, "not due a second time"


def test_connecting_goes_on_if_renewing_fails(bank: MerchantHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise NotReachable(target="there", problem="no answer in time")

    monkeypatch.setattr("ceiba.space.renew", fail)
    old = bank.identity()
    with pytest.warns(UserWarning, match="could not be renewed"), ceiba.connect(identity=bank.folder) as space:
        assert space.catalogue()
    assert MerchantHome(bank.folder).identity() == old


def test_connecting_with_an_ended_certificate_says_what_to_do(lab: Sandbox, bank: MerchantHome) -> None:
    bank.save_identity(aged(lab, bank.identity(), days=91))
    with pytest.raises(CertificateExpired, match="ceiba-coordinator revoke bank-a"):
        ceiba.connect(identity=bank.folder)
