"""When a certificate is due, and which answers a member takes for its next one."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ceiba_protocol.errors import CertificateExpired, MalformedMessage, NotReachable
from ceiba_protocol.joining import renew
from ceiba_protocol.trust.certificates import (
    LEAF_DAYS,
    RENEW_DAYS,
    CertificateName,
    KeyAndCertificate,
    issue_member,
    issue_server,
    make_authority,
    make_request,
    new_key,
)
from ceiba_protocol.trust.identity import (
    Identity,
    JoinToken,
    accept_enrolment,
    accept_renewal,
    new_identity,
    renewal_request,
)
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.enrolment_pb2 import EnrolResponse, RenewResponse
from tests.support.members import duties

JOINED = datetime(2030, 1, 1, tzinfo=UTC)
END = JOINED + timedelta(days=LEAF_DAYS)
DUE = END - timedelta(days=RENEW_DAYS)
SECOND = timedelta(seconds=1)
AUTHORITY = make_authority("s", JOINED)
NAME = CertificateName("s", "holder", "a")


def member() -> Identity:
    token = JoinToken(
        space="s",
        name="a",
        role=Role.HOLDER,
        organisation="a",
        secret="00" * 16,
        coordinator="127.0.0.1:1",  # where nobody listens
        enrolment="127.0.0.1:1",
        authority=AUTHORITY.certificate.decode(),
    )
    identity = new_identity(token, os.urandom, duties(token.name))
    certificate = issue_member(AUTHORITY, make_request(identity.tls_key.encode()), NAME, JOINED)
    return identity.model_copy(update={"certificate": certificate.decode()})


MEMBER = member()
REQUEST = renewal_request(MEMBER).certificate_request


# --- when --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [JOINED, DUE - SECOND, DUE])
def test_while_thirty_days_remain_nobody_is_called(now: datetime) -> None:
    """A call would fail, as the next test shows."""
    assert renew(MEMBER, now) is None


@pytest.mark.parametrize("now", [DUE + SECOND, END - SECOND])
def test_with_fewer_days_left_the_coordinator_is_called(now: datetime) -> None:
    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:1 "):
        renew(MEMBER, now)
    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:2 "):
        renew(MEMBER, now, "127.0.0.1:2")


@pytest.mark.parametrize("now", [END, END + timedelta(days=400)])
def test_an_ended_certificate_says_what_to_do(now: datetime) -> None:
    with pytest.raises(CertificateExpired) as caught:
        renew(MEMBER, now)
    assert "2030-04-01" in caught.value.public
    assert "ceiba-coordinator remove a" in caught.value.what_to_do


# --- what is taken -----------------------------------------------------------------------------------------------


def issued(
    name: CertificateName = NAME,
    request: bytes = REQUEST,
    authority: KeyAndCertificate = AUTHORITY,
    now: datetime = DUE + SECOND,
) -> bytes:
    return issue_member(authority, request, name, now)


def test_the_next_certificate_is_the_only_thing_that_changes() -> None:
    certificate = issued()
    renewed = accept_renewal(MEMBER, RenewResponse(certificate=certificate))
    assert renewed.certificate.encode() == certificate != MEMBER.certificate.encode()
    assert renewed.model_copy(update={"certificate": MEMBER.certificate}) == MEMBER
    assert Identity.parse(renewed.body()) == renewed


WRONG: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "garbage": lambda: b"\xff" * 300,
    "truncated": lambda: issued()[:-60],
    "a request": lambda: REQUEST,
    "the CA": lambda: AUTHORITY.certificate,
    "the server's": lambda: issue_server(AUTHORITY, "s", DUE).certificate,
    "another key": lambda: issued(request=make_request(new_key())),
    "another name": lambda: issued(CertificateName("s", "holder", "b")),
    "another role": lambda: issued(CertificateName("s", "merchant", "a")),
    "another space": lambda: issued(CertificateName("t", "holder", "a")),
    "another CA of the same name": lambda: issued(authority=make_authority("s", JOINED)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_certificate_is_not_taken(kind: str) -> None:
    with pytest.raises(MalformedMessage):
        accept_renewal(MEMBER, RenewResponse(certificate=WRONG[kind]()))
    with pytest.raises(MalformedMessage):
        accept_enrolment(MEMBER, EnrolResponse(certificate=WRONG[kind](), authority=AUTHORITY.certificate))


@pytest.mark.parametrize("now", [JOINED - SECOND, JOINED], ids=["earlier", "the same"])
def test_certificate_that_ends_no_later_is_not_taken(now: datetime) -> None:
    with pytest.raises(MalformedMessage, match="later"):
        accept_renewal(MEMBER, RenewResponse(certificate=issued(now=now)))
