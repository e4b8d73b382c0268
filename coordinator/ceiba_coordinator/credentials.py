"""The coordinator's own certificate, which it makes itself: at its start, and again in service before it ends."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import structlog

from ceiba_protocol.trust.certificates import KeyAndCertificate, is_renewal_due, issue_server

log = structlog.get_logger()


def server_credentials(
    authority: KeyAndCertificate, space: str, clock: Callable[[], int], *, mutual: bool
) -> grpc.ServerCredentials:
    """For one port; `mutual` if callers must show a certificate of the space's CA. `clock`: seconds since 1970 UTC.

    New handshakes meet the newest certificate; connections that stand keep theirs and are not disturbed.
    """
    own = _ServerCertificate(authority, space, clock, mutual=mutual)
    fetch: Any = own.next  # the stubs do not say that None means unchanged
    return grpc.dynamic_ssl_server_credentials(own.make(), fetch, require_client_authentication=mutual)


class _ServerCertificate:
    """gRPC calls `next` from threads of its own, one handshake of the port at a time."""

    def __init__(self, authority: KeyAndCertificate, space: str, clock: Callable[[], int], *, mutual: bool) -> None:
        self._authority = authority
        self._space = space
        self._clock = clock
        self._roots = authority.certificate if mutual else None
        self._certificate = b""

    def make(self) -> grpc.ServerCertificateConfiguration:
        """A new key and certificate."""
        server = issue_server(self._authority, self._space, self._now())
        self._certificate = server.certificate
        chain = server.certificate + self._authority.certificate
        return grpc.ssl_server_certificate_configuration([(server.key, chain)], self._roots)

    def next(self) -> grpc.ServerCertificateConfiguration | None:
        """What this handshake and those after it use; None for what the last one used."""
        if not is_renewal_due(self._certificate, self._now()):
            return None
        made = self.make()
        log.info("certificate.renewed", member="coordinator")
        return made

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
