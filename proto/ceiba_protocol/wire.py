"""How errors, long byte strings and limits cross gRPC: the same rules on both ends."""

from collections.abc import Iterator

import grpc
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from ceiba_protocol.errors import CeibaError, NotReachable, error_from
from ceiba_protocol.trust.certificates import SERVER_NAME
from ceiba_protocol.trust.identity import Identity
from ceiba_protocol.v1.common_pb2 import ErrorDetail

CHUNK_BYTES = 1024 * 1024
"""Largest part of a stream; gRPC's own cap of 4 MiB stays as it is."""

CHANNEL_OPTIONS = [
    ("grpc.ssl_target_name_override", SERVER_NAME),
    ("grpc.keepalive_time_ms", 30_000),  # a hospital's firewall forgets an idle connection
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one try may take: a busy machine's handshake needs it
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


def secure_channel(address: str, identity: Identity) -> grpc.Channel:
    """A member's mTLS channel to the coordinator. HTTP proxies are taken from the usual environment variables."""
    credentials = grpc.ssl_channel_credentials(
        identity.authority.encode(), identity.tls_key.encode(), identity.certificate.encode()
    )
    return grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)


def enrolment_channel(address: str, authority: str) -> grpc.Channel:
    """A channel without a client certificate, to the server that the join token's CA vouches for."""
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.encode()), CHANNEL_OPTIONS)


def to_status(error: CeibaError) -> grpc.Status:
    """Run by a server: an error's public part as a gRPC status."""
    detail = any_pb2.Any()
    detail.Pack(ErrorDetail(code=error.code, fields=error.fields))
    code = getattr(grpc.StatusCode, error.status).value[0]
    status: grpc.Status = rpc_status.to_status(status_pb2.Status(code=code, message=error.public, details=[detail]))
    return status


def from_rpc_error(error: grpc.RpcError, target: str) -> CeibaError:
    """Run by a client: the error that the server meant; NotReachable where there was no server to mean anything."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        detail = ErrorDetail()
        if packed.Unpack(detail):
            return error_from(detail.code, dict(detail.fields))
    return NotReachable(target=target, problem=_PROBLEMS.get(error.code(), "the connection failed"))


_PROBLEMS = {
    grpc.StatusCode.UNAVAILABLE: "nothing answers there, or one side refuses the other's certificate",
    grpc.StatusCode.UNAUTHENTICATED: "the certificate is not accepted",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    grpc.StatusCode.UNIMPLEMENTED: "another kind of server answers there",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the other side has too many calls, or takes no message so large",
}


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in parts of at most CHUNK_BYTES."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
