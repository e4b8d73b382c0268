"""Canonical bytes: the one way in which a document, a digest input or a name becomes bytes.

Every signed document is RFC 8785 JSON, UTF-8, NFC, without floats; every digest is SHA-256 over
length-prefixed parts behind a domain string (PROTOCOL §1, §2.5).
"""

import hashlib
import json
import re
import struct
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, NewType, Self

import rfc8785
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from ceiba_protocol.errors import MalformedDocument

MAX_BODY_BYTES = 256 * 1024
"""PROTOCOL §6.5: no signed document is larger."""
MAX_DEPTH = 64
"""Nesting of JSON values; deeper documents are refused before they are walked recursively."""

Digest = NewType("Digest", str)
"""SHA-256 as 64 lower-case hexadecimal digits."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,4095}")
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_MEMBER_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}(?:\.[a-z][a-z0-9_]{0,62})*")


def tlv(*parts: bytes) -> bytes:
    """Join `parts` so that no two lists of parts give the same bytes: 4-byte big-endian length, then bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def sha256(domain: str, *parts: bytes) -> bytes:
    """SHA-256 over TLV[domain, *parts]; 32 bytes. `domain` keeps digests of different kinds apart."""
    return hashlib.sha256(tlv(domain.encode(), *parts)).digest()


def digest(domain: str, *parts: bytes) -> Digest:
    """`sha256` as lower-case hexadecimal, the form that documents and logs carry."""
    return Digest(sha256(domain, *parts).hex())


def digest_of(kind: "type[Document]", body: bytes) -> Digest:
    """The digest of a document of that kind with this body, also where the body itself was refused."""
    return digest(f"ceiba/v1/{kind.__name__}", body)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a value made of objects, arrays, strings, booleans, nulls and integers below 2^53."""
    return rfc8785.dumps(value)


def _depth_of(body: bytes) -> int:
    deepest = depth = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


class Document(BaseModel):
    """A message body that two parties must read alike: frozen, closed, and one value has one form in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    MAX_BYTES: ClassVar[int] = MAX_BODY_BYTES

    def body(self) -> bytes:
        """The canonical bytes that are signed, sent and hashed."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> Digest:
        """SHA-256 of the body, separated by the document's type name."""
        return self._digest

    @cached_property
    def _digest(self) -> Digest:
        return digest_of(type(self), self.body())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values; what the original has computed and kept, its digest above all, is not copied."""
        copied = super().model_copy(update=update, deep=deep)
        for kept in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[kept]
        return copied

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read canonical bytes; anything that does not re-serialise to the same bytes is refused.

        That one comparison refuses unknown and duplicate fields, floats, non-NFC text, leading zeros,
        other key orders and white space (I11). Raises MalformedDocument, which never quotes the body.
        """
        name = cls.__name__
        if len(body) > cls.MAX_BYTES:
            raise MalformedDocument(document=name, problem=f"it is larger than {cls.MAX_BYTES} bytes")
        if _depth_of(body) > MAX_DEPTH:
            raise MalformedDocument(document=name, problem=f"it is nested deeper than {MAX_DEPTH} levels")
        try:
            document = cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            where = _UNSAFE.sub("?", ".".join(str(step) for step in first["loc"]))  # it may name an unknown field
            raise MalformedDocument(document=name, problem=f"{where or 'body'}: {first['type']}") from None
        if not document._is_written_as(body):
            raise MalformedDocument(document=name, problem="its bytes are not in canonical form")
        return document

    def _is_written_as(self, body: bytes) -> bool:
        try:
            return self.body() == body
        except rfc8785.CanonicalizationError:
            return False


def to_plain(document: BaseModel) -> Any:
    """A document as plain JSON values, for programs that print it."""
    return json.loads(document.model_dump_json())


def _read_integer(value: object) -> object:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    return value


_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which a terminal obeys; changes of writing direction, which hide text; lone surrogates."""


def _safe_text(value: str) -> str:
    if not unicodedata.is_normalized("NFC", value) or _UNSAFE.search(value):
        raise ValueError("text must be Unicode in NFC without control characters")
    return value


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"not {what}")
        return value

    return AfterValidator(check)


BigInt = Annotated[int, BeforeValidator(_read_integer), PlainSerializer(str, return_type=str)]
"""An integer of any size, in JSON a decimal string, because RFC 8785 numbers end at 2^53."""
Text = Annotated[str, AfterValidator(_safe_text)]
Hex = Annotated[str, _matching(_HEX, "lower-case hexadecimal")]
Hex32 = Annotated[str, _matching(_DIGEST, "32 bytes in hexadecimal")]
"""A key of 32 bytes."""
HexDigest = Annotated[Digest, _matching(_DIGEST, "a SHA-256 in hexadecimal")]
MemberName = Annotated[str, _matching(_MEMBER_NAME, "a member name: lower-case letters, digits, single hyphens")]
"""Names are lower case by definition, so that no two members differ in case alone (PROTOCOL P8)."""
FieldName = Annotated[str, _matching(_FIELD_NAME, "a column or output name: ASCII letters, digits, underscore")]
TableName = Annotated[str, _matching(_TABLE_NAME, "a table name such as health.heart")]
Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]
"""Since 1970-01-01 UTC; until the end of the year 9999, where calendars in software end."""
JobId = Annotated[Hex, Field(min_length=32, max_length=32)]
"""16 random bytes, drawn by the merchant."""
