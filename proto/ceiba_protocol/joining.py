"""How a member joins a space, and stays in it: keys, certificate and its renewal, and the roster that it pins.

Files are the roles' business: `join` is handed a function that keeps an identity safe. A passphrase is looked for in
the environment, or asked for on a terminal, in one way for every role.
"""

import getpass
import json
import os
import stat
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import grpc

from ceiba_protocol.canonical import Document
from ceiba_protocol.errors import (
    AlreadyJoined,
    BadConfiguration,
    BadIdentity,
    BadJoinToken,
    CertificateExpired,
    MalformedDocument,
    PassphraseNeeded,
    RosterMismatch,
)
from ceiba_protocol.sums.randomness import Random
from ceiba_protocol.trust.certificates import expires_at, is_renewal_due
from ceiba_protocol.trust.identity import (
    Identity,
    JoinToken,
    accept_enrolment,
    accept_renewal,
    enrolment_request,
    new_identity,
    renewal_request,
)
from ceiba_protocol.trust.roster import Duties, Roster, approved_by, check_roster, check_succession
from ceiba_protocol.trust.sealing import find_passphrase, seal, unseal
from ceiba_protocol.trust.signing import D
from ceiba_protocol.trust.words import normalised
from ceiba_protocol.v1.enrolment_pb2 import GetRosterRequest, SignedRoster
from ceiba_protocol.v1.enrolment_pb2_grpc import DirectoryStub, EnrolmentStub
from ceiba_protocol.wire import enrolment_channel, from_rpc_error, secure_channel

IDENTITY_FILE = "identity.json"
ROSTER_FILE = "roster.json"
ENROLMENT_SECONDS = 30.0


# --- keys on disk ----------------------------------------------------------------------------------------------


def ask_passphrase(*, new: bool = False) -> bytes:
    """The passphrase of a member's keys: from the environment, else from whoever sits at the terminal.

    `new`: it is for keys that are being made, so it is typed twice. Raises PassphraseNeeded, BadConfiguration.
    """
    try:
        return find_passphrase(os.environ, _read_private)
    except PassphraseNeeded:
        if not sys.stdin.isatty():
            raise
    typed = getpass.getpass("Passphrase of the keys: ")
    if not typed or (new and getpass.getpass("The same again: ") != typed):
        raise PassphraseNeeded()
    return typed.encode()


def _read_private(path: str) -> bytes:
    """A passphrase file, which nobody else may read."""
    try:
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            raise BadConfiguration(path=path, problem="others may read this passphrase file; make its mode 0600")
        return Path(path).read_bytes()
    except OSError:
        raise BadConfiguration(path=path, problem="this passphrase file cannot be read") from None


def open_keys(content: bytes, passphrase: bytes, kind: type[D], path: object) -> D:
    """Keys from their sealed file's bytes. Raises BadPassphrase, and BadIdentity, which quotes nothing of it."""
    try:
        return kind.parse(unseal(content, passphrase))
    except MalformedDocument:
        raise BadIdentity(path=path, problem="a file of its keys is damaged, or of another version") from None


def close_keys(keys: Document, passphrase: bytes, random: Random) -> bytes:
    """Keys as their file's bytes."""
    return seal(keys.body(), passphrase, random)


# --- joining ---------------------------------------------------------------------------------------------------


def join(
    token: JoinToken,
    begun: Identity | None,
    save: Callable[[Identity], None],
    random: Random,
    duties: Duties | None = None,
) -> Identity:
    """Make keys, exchange the token for a certificate, and save the identity: before the call and after it, so that
    a crash in between loses nothing and the same command goes on. `begun` is what an earlier try has saved; `duties`,
    the public keys of a holder's officer and publisher.

    Raises BadJoinToken, NotReachable, MalformedMessage, AlreadyJoined, and BadIdentity if `begun` is another's.
    """
    if begun is not None and (begun.space, begun.name) != (token.space, token.name):
        raise BadIdentity(path=IDENTITY_FILE, problem=f"it is {begun.name}'s and the token is for {token.name}")
    if begun is not None and begun.certificate:
        raise AlreadyJoined(space=begun.space, name=begun.name)
    identity = begun or new_identity(token, random, duties)
    save(identity)
    with enrolment_channel(token.enrolment, token.authority) as channel:
        try:
            response = EnrolmentStub(channel).Enrol(enrolment_request(identity, token), timeout=ENROLMENT_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, token.enrolment) from None
    joined = accept_enrolment(identity, response)
    save(joined)
    return joined


def renew(identity: Identity, now: datetime, address: str | None = None) -> Identity | None:
    """The identity with a later certificate for the same key; None, and no call, while RENEW_DAYS or more remain.

    To be saved by the caller. The old certificate stays good until it ends, so nothing is lost where this fails.
    `address` is the coordinator's host:port, by default the one in the join token. Raises CertificateExpired,
    NotReachable, MalformedMessage, UnknownMember if the member was removed.
    """
    certificate = identity.certificate.encode()
    if not is_renewal_due(certificate, now):
        return None
    if expires_at(certificate) <= now:
        raise CertificateExpired(member=identity.name, ended=expires_at(certificate).date())
    target = address or identity.coordinator
    with secure_channel(target, identity) as channel:
        try:
            response = DirectoryStub(channel).Renew(renewal_request(identity), timeout=ENROLMENT_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, target) from None
    return accept_renewal(identity, response)


def fetch_roster(identity: Identity) -> SignedRoster:
    """The newest roster as the operator has it: not to be trusted before `check_pin`. Raises NotReachable."""
    with secure_channel(identity.coordinator, identity) as channel:
        try:
            return DirectoryStub(channel).GetRoster(GetRosterRequest(), timeout=ENROLMENT_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, identity.coordinator) from None


def check_pin(identity: Identity, body: bytes, fingerprint: str, pinned: Roster | None) -> Roster:
    """The roster in `body`, fit to be pinned: its fingerprint is the one that the other members confirmed, it lists
    this member's own keys, and it is not older than the one pinned so far.

    Raises RosterMismatch, MalformedDocument, and what `check_roster` does.
    """
    roster = Roster.parse(body)
    if roster.fingerprint != normalised(fingerprint):
        raise RosterMismatch(problem="its words are not the confirmed ones")
    if (roster.space, roster.authority_fingerprint) != (identity.space, identity.authority_fingerprint):
        raise RosterMismatch(problem="it is another space's")
    if pinned is not None and roster.version < pinned.version:
        raise RosterMismatch(problem=f"version {roster.version} is older than the pinned {pinned.version}")
    check_roster(roster, identity.descriptor)
    return roster


def successor(identity: Identity, pinned: Roster, received: SignedRoster) -> Roster | None:
    """The received roster, if this member may take it up without a telephone call; None if it is no newer one, or
    not enough have approved it yet. Raises RosterMismatch and what `check_roster` does for one that is false."""
    roster = Roster.parse(received.roster)
    if roster.version <= pinned.version or len(approved_by(pinned, roster, received.approvals)) < pinned.quorum:
        return None
    check_succession(pinned, roster, list(received.approvals), identity.descriptor)
    return roster


def confirm_pin(identity: Identity, body: bytes, pinned: Roster | None, ask: Callable[[str], str]) -> Roster:
    """As `check_pin`, with the fingerprint from a person: `ask` shows a text and returns what was typed.

    The first question does not show the answer: what stands on the screen would be copied, not compared.
    """
    roster = Roster.parse(body)
    question = "Type the twelve words that another member reads out (Enter shows yours, to read out)"
    typed = ask(f"{describe_members(roster)}\n{question}")
    if not typed:
        typed = ask(f"Yours, for the others to type: {roster.fingerprint}\nType those that another member reads out")
    return check_pin(identity, body, typed, pinned)


def read_token(text: str) -> JoinToken:
    """A token as pasted, or as printed with --json. Raises BadJoinToken."""
    if text.lstrip().startswith("{"):
        try:
            text = str(json.loads(text)["token"])
        except (ValueError, KeyError):
            raise BadJoinToken(problem="it is not one") from None
    return JoinToken.decode(text)


def describe_members(roster: Roster) -> str:
    """A roster's members and tables for people. Not its fingerprint: that is to come from the other members."""
    lines = [f"Roster {roster.version} of the space {roster.space}"]
    lines += [f"  {member.role:8} {member.name} ({member.organisation}), {member.words}" for member in roster.members]
    lines += [f"  revoked  {one.descriptor.name}: {one.reason}" for one in roster.revoked]
    lines += [f"  table    {table.table}: {', '.join(table.holders)}" for table in roster.tables]
    return "\n".join([*lines, f"  signed by {roster.quorum} of: {', '.join(roster.signers)}"])


def describe_roster(roster: Roster) -> str:
    """A roster in words, with the fingerprint that members confirm to each other."""
    return f"{describe_members(roster)}\nFingerprint: {roster.fingerprint}"
