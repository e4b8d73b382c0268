"""init, key, pin: becoming a member."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from ceiba_node.cli.common import DEFAULT_HOME, AsJson, Folder, now, show
from ceiba_node.config import Home, read_duty_key, write_duty_key
from ceiba_node.operator import Operator
from ceiba_protocol.errors import BadConfiguration, NotReachable
from ceiba_protocol.joining import (
    ask_passphrase,
    check_pin,
    confirm_pin,
    fetch_roster,
    join,
    read_token,
    successor,
)
from ceiba_protocol.trust.identity import Duty, Identity, new_duty_key
from ceiba_protocol.trust.roster import Duties, Roster, approval_of
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.enrolment_pb2 import SignedRoster
from ceiba_protocol.wire import secure_channel


def init(
    join_token: Annotated[str, typer.Option("--join", help="The token from `ceiba-coordinator invite`.")],
    officer_key: Annotated[
        str, typer.Option(help="The officer's public key, if `ceiba-node key officer` made it elsewhere.")
    ] = "",
    publisher_key: Annotated[
        str, typer.Option(help="The publisher's public key, if `ceiba-node key publisher` made it elsewhere.")
    ] = "",
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make this node's keys and join a space. The keys never leave the folder, and are sealed under a passphrase.

    Example: ceiba-node init --join ceiba-join-eyJhdXRob3JpdHki... --home /srv/ceiba-node
    """
    place = Home.make(home)
    begun = place.begun_identity()
    duties = begun.descriptor.duties if begun else make_duties(place, officer_key, publisher_key)
    identity = join(read_token(join_token), begun, place.save_identity, os.urandom, duties)
    facts = {"space": identity.space, "name": identity.name, "words": identity.descriptor.words}
    text = (
        f"Joined {identity.space} as {identity.name}. The words of your keys, to be read out when others ask:\n"
        f"  {identity.descriptor.words}\n"
        f"Next, when all have joined: ceiba-node pin --home {home}"
    )
    show(facts, text, as_json)


def make_duties(place: Home, officer_key: str = "", publisher_key: str = "") -> Duties:
    """The public keys of the officer and the publisher: as given, otherwise of keys in the folder, which are made if
    they are not there yet. Raises BadConfiguration."""
    public = {
        Duty.OFFICER: officer_key or _key_in_folder(place, Duty.OFFICER),
        Duty.PUBLISHER: publisher_key or _key_in_folder(place, Duty.PUBLISHER),
    }
    try:
        return Duties(officer=public[Duty.OFFICER], publisher=public[Duty.PUBLISHER])
    except ValidationError:
        problem = "a public key is 64 hexadecimal digits, as `ceiba-node key` prints it"
        raise BadConfiguration(path="--officer-key or --publisher-key", problem=problem) from None


def _key_in_folder(place: Home, duty: Duty) -> str:
    path = place.duty_path(duty)
    if not path.exists():
        write_duty_key(path, new_duty_key(duty, os.urandom), place.passphrase)
    return read_duty_key(path, place.passphrase).signing_key.public.hex()


def key(
    duty: Annotated[Duty, typer.Argument(help="Whose key: the officer's or the publisher's.")],
    out: Annotated[Path, typer.Option(help="The key's file, which must not exist.")],
    as_json: AsJson = False,
) -> None:
    """Make the key of one person, who keeps it; `init` takes the public key that this prints.

    Example: ceiba-node key officer --out /media/usb/officer.key
    """
    made = new_duty_key(duty, os.urandom)
    write_duty_key(out, made, ask_passphrase(new=True))
    public = made.signing_key.public.hex()
    text = f"{public}\nGive this to whoever runs: ceiba-node init --{duty}-key {public}"
    show({"duty": duty.value, "public": public, "file": str(out)}, text, as_json)


def pin(
    fingerprint: Annotated[str, typer.Option(help="The twelve words that the other members confirmed.")] = "",
    file: Annotated[Path | None, typer.Option(help="The roster's file; otherwise the coordinator is asked.")] = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Use it now, also before a quorum of the others has approved it.")
    ] = False,
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Confirm the space's roster, after its twelve words were compared with the other members by telephone.

    The first one is pinned. A later one is approved, if this node is one of those who must, and pinned once a quorum
    has approved it: until then the node goes on with the old one.

    Example: ceiba-node pin --fingerprint "zebra anchor ... violin"
    """
    place = Home(home)
    identity, pinned = place.identity(), place.pinned_roster()
    received = fetch_roster(identity) if file is None else SignedRoster(roster=_read(file))
    if fingerprint:
        roster = check_pin(identity, received.roster, fingerprint, pinned)
    else:
        ask = lambda text: typer.prompt(text, default="", show_default=False)  # noqa: E731
        roster = confirm_pin(identity, received.roster, pinned, ask)
    taken = take_confirmed(place, received, roster, at_once=at_once)
    facts = {"version": roster.version, "pinned": taken.pinned, "signs": taken.signs, "sent": taken.sent}
    show(facts, _told(roster, taken), as_json)


@dataclass(frozen=True)
class Taken:
    """What became of a roster that a person has confirmed."""

    pinned: bool
    signs: bool
    """Whether this member is one of those who approve it."""
    sent: bool
    """Whether its approval has reached the coordinator."""


def take_confirmed(place: Home, received: SignedRoster, roster: Roster, *, at_once: bool = False) -> Taken:
    """Pin a roster whose words were confirmed, if it is the first one or in force, and approve it if that is asked of
    this member. Raises what `successor` does."""
    identity, pinned = place.identity(), place.pinned_roster()
    signs = identity.name in {*roster.signers, *(pinned.signers if pinned else ())}
    approval = sign(approval_of(roster, identity.name), identity.name, identity.signing_key)
    if signs:
        received.approvals.append(approval)
    takes_it = (
        pinned is None
        or at_once
        or roster.version == pinned.version
        or successor(identity, pinned, received) is not None
    )
    if takes_it:
        place.pin(roster)
    return Taken(takes_it, signs, _approve(place, identity, approval) if signs else False)


def _approve(place: Home, identity: Identity, approval: Signed) -> bool:
    """Write the approval down, then send it; whether it was sent. What is not sent now, the running node sends."""
    ledger = place.ledger()
    try:
        ledger.record_signed(approval, now(), to_upload=True)
        with secure_channel(identity.coordinator, identity) as channel:
            Operator(channel, identity.coordinator).upload(approval)
        ledger.mark_uploaded(approval)
    except NotReachable:
        return False
    finally:
        ledger.close()
    return True


def _told(roster: Roster, taken: Taken) -> str:
    lines = []
    if taken.pinned:
        lines.append(f"Pinned roster {roster.version}. A running node takes it up by itself.")
    if taken.signs:
        when = "" if taken.sent else " The coordinator does not answer now; a running node sends the approval later."
        lines.append(f"Approved roster {roster.version}.{when}")
    if not taken.pinned:
        lines.append(
            f"Roster {roster.version} is not in force yet. The node goes on with the old one, and takes up the new one "
            "by itself when enough of those who must have approved it."
        )
    return "\n".join(lines)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise BadConfiguration(path=path, problem="this roster file cannot be read") from None
