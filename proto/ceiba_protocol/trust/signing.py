"""Signed documents: DSSE's pre-authentication encoding under Ed25519 (PROTOCOL §1)."""

from typing import TypeVar

from ceiba_protocol.canonical import Digest, Document, digest
from ceiba_protocol.errors import BadSignature, MalformedMessage
from ceiba_protocol.trust.keys import SigningKey, signature_is_valid
from ceiba_protocol.v1.common_pb2 import Signed

D = TypeVar("D", bound=Document)


def type_of(kind: type[Document]) -> str:
    """The `type` field of a signed document: what the signer meant it to be."""
    return f"ceiba.v1.{kind.__name__}"


def document_digest(signed: Signed) -> Digest:
    """The digest of a signed document of whatever type, also where its body would be refused."""
    return digest(f"ceiba/v1/{signed.type.removeprefix('ceiba.v1.')}", signed.body)


def pre_authentication_encoding(kind: str, body: bytes) -> bytes:
    """What is signed: DSSEv1, the type and the body, each with its length in decimal."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(body), body)


def sign(document: Document, signer: str, key: SigningKey) -> Signed:
    """Run by the document's author; `signer` is the author's name on the roster."""
    kind, body = type_of(type(document)), document.body()
    signature = key.sign(pre_authentication_encoding(kind, body))
    return Signed(type=kind, body=body, signer=signer, signature=signature)


def open_signed(signed: Signed, kind: type[D], public_key: bytes) -> D:
    """The document, once the signature on the received bytes verifies. Raises BadSignature, MalformedDocument."""
    expected = type_of(kind)
    if signed.type != expected:
        raise MalformedMessage(message="Signed", problem=f"it holds another document than {expected}")
    message = pre_authentication_encoding(signed.type, signed.body)
    if not signature_is_valid(public_key, signed.signature, message):
        raise BadSignature(document=kind.__name__, signer=signed.signer)
    return kind.parse(signed.body)
