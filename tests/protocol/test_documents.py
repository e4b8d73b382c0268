"""One value has one form in bytes, and every other form is refused in words that quote nothing of it (I11)."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.canonical import MAX_BODY_BYTES, MAX_DEPTH, Document, canonical_json, tlv
from ceiba_protocol.errors import CeibaError, MalformedDocument
from ceiba_protocol.plan import Plan
from ceiba_protocol.schema import Schema
from ceiba_protocol.trust.documents import Approval, Manifest, Offer, Refusal
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.trust.signing import open_signed
from tests.support.members import holder, signed_by
from tests.vectors.documents import samples
from tests.vectors.rebuild import FOLDER

SAMPLES = {type(document).__name__: document for document in samples()}
VECTORS = json.loads((FOLDER / "documents.json").read_text(encoding="utf-8"))
KINDS = sorted(SAMPLES)

each_kind = pytest.mark.parametrize("kind", KINDS)


def refused(kind: type[Document], body: bytes) -> str:
    with pytest.raises(MalformedDocument) as caught:
        kind.parse(body)
    return str(caught.value)


def test_an_unknown_fields_name_cannot_command_a_terminal() -> None:
    plain = json.loads(SAMPLES["Offer"].body()) | {"\x1b[2Jfine\u202e": 1}
    says = refused(Offer, canonical_json(plain))
    assert "?[2Jfine?: extra_forbidden" in says


# --- the one form ------------------------------------------------------------------------------------------------


@each_kind
def test_frozen_bytes_and_digest(kind: str) -> None:
    document = SAMPLES[kind]
    assert document.body().decode() == VECTORS[kind]["body"]
    assert document.digest() == VECTORS[kind]["digest"]
    assert signed_by("cleveland", document).signature.hex() == VECTORS[kind]["signature"]


def test_vectors_cover_every_type_that_is_signed_or_pinned() -> None:
    assert sorted(VECTORS) == KINDS
    assert {"Manifest", "Approval", "Refusal", "Submission", "Offer", "Roster", "Descriptor", "Schema"} <= set(KINDS)


@each_kind
def test_reading_what_was_written_gives_the_same(kind: str) -> None:
    document = SAMPLES[kind]
    read = type(document).parse(document.body())
    assert (read, read.digest()) == (document, document.digest())


@each_kind
def test_signature_opens(kind: str) -> None:
    document = SAMPLES[kind]
    assert (
        open_signed(signed_by("zurich", document), type(document), holder("zurich").key_for(type(document))) == document
    )


def test_digest_follows_the_content_of_a_copy() -> None:
    offer = SAMPLES["Offer"]
    before = offer.digest()
    copy = offer.model_copy(update={"row_capacity": 2})
    assert copy.digest() == Offer.parse(copy.body()).digest() != before


def test_two_types_with_the_same_bytes_have_different_digests() -> None:
    bodies = {document.digest() for document in SAMPLES.values()}
    assert len(bodies) == len(SAMPLES)


def test_parts_of_a_digest_cannot_be_moved_between_fields() -> None:
    assert len({tlv(b"ab", b"c"), tlv(b"a", b"bc"), tlv(b"abc"), tlv(b"abc", b""), tlv(b"", b"abc")}) == 5


# --- other forms -------------------------------------------------------------------------------------------------


def with_unknown_field(body: bytes) -> bytes:
    return canonical_json({**json.loads(body), "zzz": 1})


def with_field_missing(body: bytes) -> bytes:
    return canonical_json({name: value for name, value in json.loads(body).items() if name != first_field(body)})


def with_duplicate_key(body: bytes) -> bytes:
    name = first_field(body)
    return b"{" + json.dumps(name).encode() + b":" + canonical_json(json.loads(body)[name]) + b"," + body[1:]


def with_keys_reordered(body: bytes) -> bytes:
    backwards = dict(reversed(json.loads(body).items()))
    return json.dumps(backwards, separators=(",", ":"), ensure_ascii=False).encode()


def with_whitespace(body: bytes) -> bytes:
    return b"{ " + body[1:]


def with_trailing_newline(body: bytes) -> bytes:
    return body + b"\n"


def with_byte_order_mark(body: bytes) -> bytes:
    return b"\xef\xbb\xbf" + body


def with_escaped_letter(body: bytes) -> bytes:
    at = body.index(b'"') + 1
    return body[:at] + b"\\u%04x" % body[at] + body[at + 1 :]


def truncated(body: bytes) -> bytes:
    return body[:-1]


def followed_by_another(body: bytes) -> bytes:
    return body + body


def in_utf_16(body: bytes) -> bytes:
    return body.decode().encode("utf-16")


def first_field(body: bytes) -> str:
    return str(next(iter(json.loads(body))))


OTHER_FORMS: list[Callable[[bytes], bytes]] = [
    with_unknown_field,
    with_field_missing,
    with_duplicate_key,
    with_keys_reordered,
    with_whitespace,
    with_trailing_newline,
    with_byte_order_mark,
    with_escaped_letter,
    truncated,
    followed_by_another,
    in_utf_16,
]


@each_kind
@pytest.mark.parametrize("other", OTHER_FORMS, ids=lambda other: other.__name__)
def test_other_form_is_refused(kind: str, other: Callable[[bytes], bytes]) -> None:
    document = SAMPLES[kind]
    changed = other(document.body())
    assert changed != document.body()
    refused(type(document), changed)


def manifest_with(old: bytes, new: bytes) -> bytes:
    body = SAMPLES["Manifest"].body()
    assert body.count(old) >= 1
    return body.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"not_before":1800000000', b'"not_before":1800000000.0'),
        (b'"not_before":1800000000', b'"not_before":1.8e9'),
        (b'"not_before":1800000000', b'"not_before":01800000000'),
        (b'"not_before":1800000000', b'"not_before":"1800000000"'),
        (b'"not_before":1800000000', b'"not_before":-0'),
        (b'"not_before":1800000000', b'"not_before":-1'),
        (b'"not_before":1800000000', b'"not_before":true'),
        (b'"not_before":1800000000', b'"not_before":null'),
        (b'"not_before":1800000000', b'"not_before":NaN'),
        (b'"row_capacity":"4"', b'"row_capacity":"04"'),
        (b'"row_capacity":"4"', b'"row_capacity":"+4"'),
        (b'"row_capacity":"4"', b'"row_capacity":" 4"'),
        (b'"row_capacity":"4"', b'"row_capacity":"4.0"'),
        (b'"row_capacity":"4"', b'"row_capacity":"0"'),
        (b'"row_capacity":"4"', b'"row_capacity":4'),
        (b'"row_capacity":"4"', b'"row_capacity":"' + "٤".encode() + b'"'),
        (b'"suite":"K1"', b'"suite":"K2"'),
        (b'"suite":"K1"', b'"suite":"k1"'),
        (b'"merchant":"bank-a"', b'"merchant":"Bank-a"'),
        (b'"merchant":"bank-a"', '"merchant":"b\u0430nk-a"'.encode()),  # a Cyrillic letter
        (b'"merchant":"bank-a"', b'"merchant":"bank-a "'),
        (b'"merchant":"bank-a"', b'"merchant":""'),
        (b'"op":"column"', b'"op":"python"'),
        (b'"purpose":"research"', '"purpose":"e\u0301"'.encode()),  # not NFC: e and a combining accent
        (b'"purpose":"research"', b'"purpose":"\\ud800"'),
        (b'"purpose":"research"', b'"purpose":"\xff"'),
        (b'"purpose":"research"', b'"purpose":["research"]'),
    ],
    ids=lambda part: ascii(part.decode(errors="replace"))[:40],
)
def test_other_value_in_a_manifest_is_refused(old: bytes, new: bytes) -> None:
    refused(Manifest, manifest_with(old, new))


@pytest.mark.parametrize("digits", ["AB" * 32, "ab" * 31, "ab" * 33, "0x" + "ab" * 31, "zz" * 32, ""])
def test_digest_has_one_form(digits: str) -> None:
    body = SAMPLES["Approval"].body()
    old = SAMPLES["Approval"].manifest_digest
    refused(Approval, body.replace(old.encode(), digits.encode()))


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (Manifest, b'"not_after":1800000060', b'"not_after":9007199254740992'),
        (Roster, b'"version":1', b'"version":9007199254740992'),
        (Schema, b'"version":1', b'"version":-9007199254740992'),
    ],
    ids=["seconds", "roster version", "schema version"],
)
def test_integer_beyond_canonical_json_is_refused(kind: type[Document], old: bytes, new: bytes) -> None:
    body = SAMPLES[kind.__name__].body()
    assert old in body
    refused(kind, body[::-1].replace(old[::-1], new[::-1], 1)[::-1])


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused_before_it_is_walked(depth: int) -> None:
    nested = b'{"term":' * depth + b"1" + b"}" * depth
    refused(Plan, nested)
    refused(Plan, b"[" * depth)


def test_brackets_in_text_are_not_nesting() -> None:
    refusal = Refusal.model_validate({**dict(SAMPLES["Refusal"]), "fields": {"a": '["\\' * 200}})
    assert Refusal.parse(refusal.body()) == refusal


def test_oversize_is_refused_unread() -> None:
    assert "larger" in refused(Manifest, b" " * (MAX_BODY_BYTES + 1))


def test_refusal_quotes_nothing_of_the_body() -> None:
    secret = "canary-7f3a"
    for body in (
        canonical_json({"job_id": secret}),
        canonical_json({secret: 1}),
        manifest_with(b'"purpose":"research"', b'"purpose":"%s",' % secret.encode()),
        secret.encode(),
    ):
        assert secret not in refused(Manifest, body)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_refusal(kind: str, body: bytes) -> None:
    try:
        type(SAMPLES[kind]).parse(body)
    except CeibaError as error:
        assert isinstance(error, MalformedDocument)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_any_change_of_one_byte_gives_other_content_or_a_refusal(kind: str, data: st.DataObject) -> None:
    document = SAMPLES[kind]
    body = bytearray(document.body())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[at]))
    try:
        read = type(document).parse(bytes(body))
    except MalformedDocument:
        return
    assert read != document and read.digest() != document.digest() and read.body() == bytes(body)
