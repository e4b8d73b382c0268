"""Attacks with another's name or role, at the holders and at the real coordinator's door."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import grpc

from ceiba_coordinator.config import Config
from ceiba_coordinator.server import CONCURRENT_CALLS, open_membership
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.canonical import Document
from ceiba_protocol.rounds import approve, commit_to_set, contribute
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.trust.certificates import CertificateName, issue_member, make_request, new_key
from ceiba_protocol.trust.identity import Duty, Identity
from ceiba_protocol.trust.keys import SigningKey
from ceiba_protocol.trust.roster import Role, Roster
from ceiba_protocol.trust.signing import sign
from ceiba_protocol.v1.catalogue_pb2 import ListRequest
from ceiba_protocol.v1.catalogue_pb2_grpc import CatalogueStub
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.work_pb2 import PullRequest, WorkPart
from ceiba_protocol.v1.work_pb2_grpc import WorkStub
from ceiba_protocol.wire import CHANNEL_OPTIONS, from_rpc_error
from ceiba_scenarios.attack import Outcome, attack
from tests.attacks.live.field import HOLDERS, SECRET, VICTIM, Field, Reply, said
from tests.attacks.live.places import Coordinator, another_agreement, coordinator, unspoilt

D = TypeVar("D", bound=Document)

OTHERS = [holder for holder in HOLDERS if holder != VICTIM]
CALL_SECONDS = 30.0
TRIES = 20


# --- in a hospital's name, towards the others --------------------------------------------------------------------


class Credulous(Roster):
    """The pinned roster in the hands of an attacker, who knows which signatures are forged."""

    def open(self, signed: Signed, kind: type[D], role: Role) -> D:
        return kind.parse(signed.body)


@attack(without="signatures under the pinned roster")
def minted_certificate(field: Field, without: str | None) -> Outcome:
    """The operator, whose CA vouches for whom it likes, answers in a hospital's name with keys of its own."""
    with unspoilt(field, without, *OTHERS):
        whole = field.answer(field.ask())
        assert whole is not None
        signed = field.ask()
        question = field.question(signed)
        forged_key, mask_secret = SigningKey(os.urandom(32)), os.urandom(32)
        forged = approve(question, VICTIM, question.pin_of(VICTIM), mask_secret, os.urandom(16))
        approvals = [*field.approve_all(signed, OTHERS), sign(forged, VICTIM, forged_key)]
        replies = {holder: field.contribute(holder, signed, approvals) for holder in OTHERS}
        if any(reply.submission is None for reply in replies.values()):
            return Outcome(False, said(replies[OTHERS[0]]))
        believed = replace(question, roster=Credulous.model_construct(**dict(field.roster)))
        commitment = commit_to_set(believed, approvals)
        encryptor = Encryptor.for_count(question.modulus, commitment.layout.ciphertexts, os.urandom)
        nothing = [0] * commitment.layout.slots
        made, ciphertexts = contribute(believed, commitment, VICTIM, nothing, mask_secret, encryptor, os.urandom(32))
        submission = sign(made, VICTIM, forged_key)
        replies[VICTIM] = Reply([WorkPart(submission=submission), WorkPart(ciphertexts=ciphertexts)])
        rest = field.total(replies, question)
        assert rest is not None
        difference = whole[-1] - rest[-1]
        return Outcome(difference == SECRET, f"{VICTIM}'s own total, {difference}: the operator sat in its place")


@attack(without="each duty its key")
def wrong_duty(field: Field, without: str | None) -> Outcome:
    """A hospital's database administrator signs an agreement with the publisher's key, in the officer's place."""
    with (
        unspoilt(field, without),
        another_agreement(field, "bank-b", signed_with={VICTIM: Duty.PUBLISHER}, purpose="never agreed on"),
    ):
        signed = field.ask("bank-b")
        for _ in range(TRIES):
            replies = {holder: field.approve(holder, signed) for holder in HOLDERS}
            if all(reply.approval for reply in replies.values()):
                break
        else:
            return Outcome(False, said(replies[VICTIM]))
        total = field.answer(signed)
        return Outcome(total is not None, f"a total under an agreement that no officer of {VICTIM} has signed")


# --- at the coordinator's door -----------------------------------------------------------------------------------


def tables_seen(channel: grpc.Channel) -> tuple[int, str]:
    """How many offers the catalogue shows this caller, or why it shows none."""
    try:
        listed = CatalogueStub(channel).List(ListRequest(), timeout=CALL_SECONDS)
    except grpc.RpcError as error:
        return 0, from_rpc_error(error, "the coordinator").public
    return sum(len(table.offers) for table in listed.tables), "the catalogue"


def first_task(channel: grpc.Channel, pinned: str) -> tuple[str, str]:
    """The kind of the first task that Pull sends this caller, or none and why."""
    call = WorkStub(channel).Pull(PullRequest(roster_digest=bytes.fromhex(pinned)), timeout=CALL_SECONDS)
    try:
        task = next(iter(call))
    except grpc.RpcError as error:
        return "", from_rpc_error(error, "the coordinator").public
    finally:
        call.cancel()
    return task.WhichOneof("kind") or "", "a task"


@attack(without="the member's TLS key")
def minted_certificate_at_the_door(field: Field, without: str | None) -> Outcome:
    """Somebody to whom the CA has given a certificate in a hospital's name collects its tasks."""
    authority, key = field.mallory.authority, new_key()
    name = CertificateName(field.mallory.space, "holder", VICTIM)
    certificate = issue_member(authority, make_request(key), name, datetime.now(UTC))
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, certificate)
    with (
        coordinator(field, without) as real,
        grpc.secure_channel(real.address, credentials, CHANNEL_OPTIONS) as channel,
    ):
        kind, answer = first_task(channel, field.roster.digest())
    return Outcome(bool(kind), f"{VICTIM}'s first task, {kind}" if kind else answer)


@attack(without="the role")
def wrong_role(field: Field, without: str | None) -> Outcome:
    """A merchant asks for the tasks of a holder."""
    with coordinator(field, without) as real, real.channel(field.merchants["bank-a"]) as channel:
        kind, answer = first_task(channel, field.roster.digest())
    return Outcome(bool(kind), f"a holder's first task, {kind}" if kind else answer)


@attack(without="the list of members")
def revoked_member(field: Field, without: str | None) -> Outcome:
    """A merchant that was revoked goes on with its certificate, which is valid for weeks."""

    def revoke(home: Path) -> None:
        config = Config.read(home, field.sandbox.passphrase_file.read_bytes())
        open_membership(config, Store(open_engine(config.database_url))).revoke("bank-b", "it colludes")

    with coordinator(field, without, prepare=revoke) as real, real.channel(field.merchants["bank-b"]) as channel:
        offers, answer = tables_seen(channel)
    return Outcome(offers > 0, f"the catalogue with {offers} offers" if offers else answer)


@attack(without="a member's share of calls")
def slow_client(field: Field, without: str | None) -> Outcome:
    """A hospital opens as many calls as the coordinator serves at all, and never sends anything."""
    slow = field.sandbox.node_home("dresden").identity()
    with (
        coordinator(field, without) as real,
        holding_open(real, slow) as held,
        real.channel(field.merchants["bank-a"]) as channel,
    ):
        offers, answer = tables_seen(channel)
    return Outcome(not offers, f"it holds {held} calls, and bank-a {'is served' if offers else f'is not: {answer}'}")


CONNECTIONS, CALLS_A_CONNECTION = 50, 100
"""Together more than the coordinator serves at all. More at once on one connection, gRPC itself would drop."""
PAUSE_SECONDS = 0.2


@contextmanager
def holding_open(real: Coordinator, member: Identity) -> Iterator[int]:
    """All of the coordinator's calls, as far as it lets one member have them; how many it has."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    channels: list[grpc.aio.Channel] = []

    async def close() -> None:
        await asyncio.gather(*(channel.close() for channel in channels))

    try:
        yield asyncio.run_coroutine_threadsafe(open_calls(real.address, member, channels), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def open_calls(address: str, member: Identity, channels: list[grpc.aio.Channel]) -> int:
    """Begin answers and send nothing, until the coordinator serves no more; how many are open then."""
    files = (member.authority.encode(), member.tls_key.encode(), member.certificate.encode())
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    calls: set[asyncio.Future[grpc.StatusCode]] = set()
    for _ in range(CONNECTIONS):
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*files), options)
        channels.append(channel)
        await channel.channel_ready()
        calls |= {asyncio.ensure_future(WorkStub(channel).Submit().code()) for _ in range(CALLS_A_CONNECTION)}
        _, calls = await asyncio.wait(calls, timeout=PAUSE_SECONDS)
        if len(calls) >= CONCURRENT_CALLS:
            break
    return len(calls)


ATTACKS = [
    minted_certificate,
    wrong_duty,
    minted_certificate_at_the_door,
    wrong_role,
    revoked_member,
    slow_client,
]
