"""What every service needs: who is calling, errors as statuses, and one thread for all that touches the state."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import grpc
import structlog

from ceiba_coordinator.membership import Membership
from ceiba_coordinator.store.database import Store
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import CeibaError, InternalError, TooManyCalls, UnknownMember, WrongRole
from ceiba_protocol.trust.certificates import CertificateName, read_member_certificate
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.wire import to_status

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, Any, Context], Awaitable[T]]
Stream = Callable[[Any, Any, Context], AsyncIterator[T]]

CALLS_PER_MEMBER = 64
"""Open at once. A node has about ten; a notebook has one for each job that it watches. All the server's calls
(CONCURRENT_CALLS) are more than sixty members can hold together, so that one that misbehaves slows nobody down."""


class Desk:
    """The one thread in which the state is read and written, and the bells that wake whom a change concerns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work` in the state's thread, as one transaction: it happens whole or not at all."""

        def whole() -> T:
            with self._store.transaction():
                return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, whole)

    def notify(self, names: Iterable[str]) -> None:
        """Wake those who wait for one of `names`: job ids, holders' names, EVERYBODY. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ring, list(names))

    def _ring(self, names: Iterable[str]) -> None:
        for name in names:
            for event in self._waiting.get(name, ()):
                event.set()

    async def changes(self, *names: str) -> AsyncIterator[None]:
        """Now, and after every change that concerns one of `names`; several while the caller is busy count as one."""
        self._loop = asyncio.get_running_loop()
        event = asyncio.Event()
        for name in names:
            self._waiting.setdefault(name, set()).add(event)
        try:
            while True:
                event.clear()
                yield
                await event.wait()
        finally:
            for name in names:
                self._waiting[name].discard(event)
                if not self._waiting[name]:
                    del self._waiting[name]


class Callers:
    """Tells callers apart by their certificates, which TLS has verified, and by the list of members."""

    def __init__(self, desk: Desk, membership: Membership) -> None:
        self._desk = desk
        self._membership = membership
        self._read: dict[bytes, tuple[CertificateName, Digest] | None] = {}
        self._open: Counter[Digest] = Counter()

    async def name(self, context: Context, role: Role | None = None) -> str:
        """The calling member's name; once a call. Raises UnknownMember, TooManyCalls, and WrongRole if it must have a
        role and has another."""
        certificates = context.auth_context().get("x509_pem_cert", ())
        caller, fingerprint = self._certified(next(iter(certificates), b""))
        self._count(caller.name, fingerprint, context)
        if not await self._desk.run(self._membership.is_enrolled, caller.name, caller.role, fingerprint):
            raise UnknownMember(member=caller.name, role=caller.role)
        check_role(caller, role)
        return caller.name

    def _count(self, member: str, fingerprint: Digest, context: Context) -> None:
        """This call is one of that TLS key's until it ends. Before anything is looked up, which is what takes time."""
        check_calls(member, self._open[fingerprint])
        self._open[fingerprint] += 1
        ended: Any = partial(self._end, fingerprint)  # Any: the stubs declare another type than grpc calls
        context.add_done_callback(ended)

    def _end(self, fingerprint: Digest, _: Context) -> None:
        self._open[fingerprint] -= 1
        if not self._open[fingerprint]:
            del self._open[fingerprint]

    def _certified(self, certificate: bytes) -> tuple[CertificateName, Digest]:
        """What a certificate says, with the fingerprint of its key."""
        if certificate not in self._read:
            self._read[certificate] = read_member_certificate(certificate) if certificate else None
        read = self._read[certificate]
        if read is None:
            raise UnknownMember(member="the caller", role="member")
        return read


def check_role(caller: CertificateName, role: Role | None) -> None:
    """Raises WrongRole."""
    if role is not None and caller.role != role:
        raise WrongRole(role=caller.role, method=f"what is for a {role}")


def check_calls(member: str, calls: int) -> None:
    """A member with so many calls open may open another. Raises TooManyCalls."""
    if calls >= CALLS_PER_MEMBER:
        raise TooManyCalls(member=member, limit=CALLS_PER_MEMBER)


def answering(method: Answer[T]) -> Answer[T]:
    """For methods with one response: errors become statuses."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Context) -> T:
        try:
            return await method(self, request, context)
        except Exception as error:
            await _abort(context, method.__qualname__, error)
            raise

    return wrapped


def streaming(method: Stream[T]) -> Stream[T]:
    """For methods that stream responses: errors become statuses."""

    @wraps(method)
    async def wrapped(self: Any, request: Any, context: Context) -> AsyncIterator[T]:
        try:
            async for response in method(self, request, context):
                yield response
        except Exception as error:
            await _abort(context, method.__qualname__, error)
            raise

    return wrapped


async def _abort(context: Context, method: str, error: Exception) -> None:
    """End the call with the error's public part; what only the operator may read goes to the log."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, CeibaError):
        log.warning("call.refused", method=method, code=error.code, private=error.private, fields=error.fields)
    else:
        incident = secrets.token_hex(4)
        log.error("call.failed", method=method, incident=incident, exc_info=error)
        error = InternalError(component="the coordinator", incident=incident)
    status: Any = to_status(error)
    context.set_trailing_metadata(status.trailing_metadata)
    await context.abort(status.code, status.details)
