"""The node's renewal by the clock: how often it looks, and that a failure leaves everything as it was."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ceiba_node import service
from ceiba_node.config import Home
from ceiba_node.service import RENEWAL_SECONDS, Renewal
from ceiba_protocol.joining import IDENTITY_FILE
from ceiba_protocol.trust.certificates import CertificateName, expires_at, issue_member, make_authority, make_request
from ceiba_protocol.trust.identity import Identity, JoinToken, new_identity
from ceiba_protocol.trust.roster import Duties, Role

DAY = 24 * 3600
JOINED = 1_900_000_000
DUTIES = Duties(officer="0a" * 32, publisher="0b" * 32)
AUTHORITY = make_authority("s", datetime.fromtimestamp(JOINED, UTC))


def with_certificate(identity: Identity, issued_at: int) -> Identity:
    request = make_request(identity.tls_key.encode())
    now = datetime.fromtimestamp(issued_at, UTC)
    certificate = issue_member(AUTHORITY, request, CertificateName("s", "holder", "a"), now)
    return identity.model_copy(update={"certificate": certificate.decode()})


class Node:
    """A folder whose coordinator does not answer, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.now = JOINED
        self.home = Home.make(folder, passphrase=b"a passphrase")
        token = JoinToken(
            space="s",
            name="a",
            role=Role.HOLDER,
            organisation="a",
            secret="00" * 16,
            coordinator="127.0.0.1:1",
            enrolment="127.0.0.1:1",
            authority=AUTHORITY.certificate.decode(),
        )
        self.home.save_identity(with_certificate(new_identity(token, os.urandom, DUTIES), JOINED))
        self.renewal = Renewal(self.home, lambda: self.now)

    def look(self) -> tuple[bool, list[Any]]:
        """Whether it has renewed, and what it logged."""
        with capture_logs() as lines:
            renewed = self.renewal.has_renewed()
        return renewed, lines


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def code(lines: list[Any]) -> list[str]:
    assert all(line["event"] == "certificate.renewal_failed" for line in lines)
    return [line.get("code") or line["exception"] for line in lines]


def test_nothing_is_due_at_first(node: Node) -> None:
    assert node.look() == (False, [])


def test_a_failure_is_logged_and_tried_again_an_hour_later(node: Node) -> None:
    before = (node.home.folder / IDENTITY_FILE).read_bytes()
    node.now += 61 * DAY
    tries = []
    for _ in range(3 * RENEWAL_SECONDS // 600):  # three hours
        renewed, lines = node.look()
        assert not renewed
        tries += code(lines)
        node.now += 600
    assert tries == ["not_reachable"] * 3
    assert (node.home.folder / IDENTITY_FILE).read_bytes() == before


def test_an_ended_certificate_is_named_and_the_node_goes_on(node: Node) -> None:
    node.now += 91 * DAY
    renewed, lines = node.look()
    assert not renewed and code(lines) == ["certificate_expired"]
    assert lines[0]["fields"] == {"member": "a", "ended": str(expires_at_of(node).date())}


def expires_at_of(node: Node) -> datetime:
    return expires_at(node.home.identity().certificate.encode())


def test_a_new_certificate_is_saved_and_told_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "renew", lambda identity, now: with_certificate(identity, int(now.timestamp())))
    node.now += 61 * DAY
    renewed, lines = node.look()
    assert renewed and [line["event"] for line in lines] == ["certificate.renewed"]
    assert expires_at_of(node) == datetime.fromtimestamp(node.now, UTC) + timedelta(days=90)
    assert node.look() == (False, [])


@pytest.mark.parametrize("failing", ["renew", "save_identity"])
def test_what_nobody_expected_is_logged_too(node: Node, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    before = (node.home.folder / IDENTITY_FILE).read_bytes()
    monkeypatch.setattr(service, "renew", lambda identity, now: identity)
    monkeypatch.setattr(service if failing == "renew" else node.home, failing, fail)
    renewed, lines = node.look()
    assert not renewed and code(lines) == ["OSError"]
    assert (node.home.folder / IDENTITY_FILE).read_bytes() == before
