"""How many calls a member may have open, and how long it may keep one waiting for its parts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ceiba_coordinator.services import work
from ceiba_coordinator.services.calls import CALLS_PER_MEMBER, Callers, Desk
from ceiba_coordinator.store.database import Store, open_engine
from ceiba_protocol.errors import TooManyCalls, TooSlow, WrongRole
from ceiba_protocol.trust.certificates import CertificateName, issue_member, make_authority, make_request, new_key
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1.work_pb2 import WorkPart

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITY = make_authority("test-space", NOW)


def certificate_of(name: str) -> bytes:
    return issue_member(AUTHORITY, make_request(new_key()), CertificateName("test-space", "holder", name), NOW)


class Call:
    """What the adapters need of a server's context."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self._callbacks: list[Callable[[Any], None]] = []

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate]}

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self) -> None:
        for callback in self._callbacks:
            callback(self)


def callers(tmp_path: Path) -> Callers:
    store = Store(open_engine(f"sqlite:///{tmp_path / 'db'}"))
    everybody: Any = SimpleNamespace(is_enrolled=lambda *_: True)
    return Callers(Desk(store), everybody)


def test_a_member_has_its_share_of_calls_and_no_more(tmp_path: Path) -> None:
    async def run() -> None:
        desk, mine, other = callers(tmp_path), certificate_of("ana"), certificate_of("ben")
        calls: list[Any] = [Call(mine) for _ in range(CALLS_PER_MEMBER)]
        for call in calls:
            assert await desk.name(call) == "ana"
        refused: Any = Call(mine)
        with pytest.raises(TooManyCalls) as caught:
            await desk.name(refused)
        assert caught.value.fields == {"member": "ana", "limit": str(CALLS_PER_MEMBER)}
        anothers: Any = Call(other)
        assert await desk.name(anothers) == "ben"
        refused.end()  # a call that was not admitted gives no place back
        with pytest.raises(TooManyCalls):
            await desk.name(refused)
        calls[0].end()
        again: Any = Call(mine)
        assert await desk.name(again) == "ana"
        with pytest.raises(TooManyCalls):
            await desk.name(refused)

    asyncio.run(run())


def test_calls_count_for_the_key_and_not_for_the_name(tmp_path: Path) -> None:
    """Somebody with another key and a certificate in a member's name does not use up the member's share."""

    async def run() -> None:
        desk, mine, forged = callers(tmp_path), certificate_of("ana"), certificate_of("ana")
        for _ in range(CALLS_PER_MEMBER):
            call: Any = Call(forged)
            with pytest.raises(WrongRole):
                await desk.name(call, Role.MERCHANT)
        another: Any = Call(forged)
        with pytest.raises(TooManyCalls):
            await desk.name(another)
        first: Any = Call(mine)
        assert await desk.name(first, Role.HOLDER) == "ana"

    asyncio.run(run())


def test_an_answer_whose_parts_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PART_SECONDS", 0.01)

    async def stalling() -> AsyncIterator[WorkPart]:
        yield WorkPart(ciphertexts=b"1")
        await asyncio.Event().wait()

    async def run() -> list[WorkPart]:
        came: list[WorkPart] = []
        with pytest.raises(TooSlow):
            async for part in work.in_time(stalling()):
                came.append(part)
        return came

    assert asyncio.run(run()) == [WorkPart(ciphertexts=b"1")]


def test_an_answer_whose_parts_come() -> None:
    async def all_at_once() -> AsyncIterator[WorkPart]:
        for place in range(3):
            yield WorkPart(ciphertexts=b"%d" % place)

    async def run() -> list[bytes]:
        return [part.ciphertexts async for part in work.in_time(all_at_once())]

    assert asyncio.run(run()) == [b"0", b"1", b"2"]
