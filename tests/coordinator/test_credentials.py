"""The coordinator's own certificate: it changes in service, at a handshake, and mutual TLS stays mutual."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from ceiba_coordinator.credentials import server_credentials
from ceiba_protocol.trust.certificates import (
    LEAF_DAYS,
    RENEW_DAYS,
    SERVER_NAME,
    CertificateName,
    expires_at,
    issue_member,
    make_authority,
    make_request,
    new_key,
)
from ceiba_protocol.wire import CHANNEL_OPTIONS

DAY = 24 * 3600
STARTED = int(time.time()) - 70 * DAY
"""By the server's clock at first; both certificates of these tests are valid by the clients' clock, which is real."""
AUTHORITY = make_authority("s", datetime.fromtimestamp(STARTED, UTC))
MEMBER_KEY = new_key()
MEMBER = issue_member(AUTHORITY, make_request(MEMBER_KEY), CertificateName("s", "holder", "a"), datetime.now(UTC))


class Server:
    """A port with these credentials, a clock that a test sets, and one method, which answers what it was sent."""

    def __init__(self, mutual: bool) -> None:
        self.now = STARTED
        self.port = 0
        self.mutual = mutual

    async def shown_until(self) -> datetime:
        """The end of the certificate that a new handshake meets."""
        trusting = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
        trusting.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting, server_hostname=SERVER_NAME)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return expires_at(ssl.DER_cert_to_PEM_cert(der).encode())

    def channel(self, with_certificate: bool = True) -> grpc.aio.Channel:
        own = (MEMBER_KEY, MEMBER) if with_certificate else ()
        credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, *own)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, CHANNEL_OPTIONS)


async def echo(channel: grpc.aio.Channel) -> bytes:
    answer: bytes = await channel.unary_unary("/Echo/Echo")(b"x", timeout=30)
    return answer


@asynccontextmanager
async def serving(mutual: bool) -> AsyncIterator[Server]:
    serving = Server(mutual)
    credentials = server_credentials(AUTHORITY, "s", lambda: serving.now, mutual=mutual)
    server = grpc.aio.server()

    async def answer(request: bytes, _context: object) -> bytes:
        return request

    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", handlers),))
    serving.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield serving
    finally:
        await server.stop(0)


def run(mutual: bool, test: Callable[[Server], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(mutual) as server:
            await test(server)

    asyncio.run(whole())


def end(issued: int) -> datetime:
    return datetime.fromtimestamp(issued, UTC) + timedelta(days=LEAF_DAYS)


@pytest.mark.parametrize("mutual", [True, False])
def test_a_new_handshake_meets_the_new_certificate_and_old_connections_go_on(mutual: bool) -> None:
    async def test(server: Server) -> None:
        async with server.channel() as old:
            assert await echo(old) == b"x"
            assert await server.shown_until() == end(STARTED)
            server.now = STARTED + (LEAF_DAYS - RENEW_DAYS) * DAY
            assert await server.shown_until() == end(STARTED), "not due yet"
            server.now += 1
            renewed = server.now
            assert await server.shown_until() == end(renewed)
            server.now += 1
            assert await server.shown_until() == end(renewed), "once only"
            async with server.channel() as new:
                assert (await echo(old), await echo(new)) == (b"x", b"x")

    run(mutual, test)


def test_who_shows_no_certificate_is_refused_before_and_after() -> None:
    async def test(server: Server) -> None:
        for server.now in (STARTED, STARTED + 61 * DAY):
            async with server.channel(with_certificate=False) as stranger:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await echo(stranger)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    run(True, test)


def test_each_port_renews_for_itself() -> None:
    async def test(server: Server) -> None:
        async with serving(mutual=False) as other:
            server.now += 61 * DAY
            assert (await server.shown_until(), await other.shown_until()) == (end(server.now), end(STARTED))
            other.now = server.now + 1
            assert await other.shown_until() == end(other.now)

    run(True, test)
