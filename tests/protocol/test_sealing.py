"""Keys on disk: only the right passphrase opens the unchanged file, and nothing that is said tells a secret."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from functools import cache

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given, settings
from hypothesis import strategies as st

from ceiba_protocol.canonical import MAX_BODY_BYTES, canonical_json
from ceiba_protocol.errors import BadPassphrase, CeibaError, Fault, MalformedDocument, PassphraseNeeded
from ceiba_protocol.trust import sealing
from ceiba_protocol.trust.sealing import SealedFile, find_passphrase, is_sealed, seal, unseal
from tests.support.seeded import seeded

PLAIN = b"canary-plain-51c0"
PASSPHRASE = b"canary-passphrase-9d27"
SEALED = seal(PLAIN, PASSPHRASE, seeded("sealing"))

WRITTEN_BY_THE_FIRST_VERSION = (
    b'{"cipher":"AES-256-GCM","ciphertext":"8d72b0be1f432003dc102e626a9613485878ded8abfe685ad6cc59c054547ac2",'
    b'"kdf":"scrypt","n":"32768","nonce":"000102030405060708090a0b","p":"1","r":"8",'
    b'"salt":"000102030405060708090a0b0c0d0e0f","what":"ceiba sealed keys"}'
)


def with_fields(**fields: object) -> bytes:
    return canonical_json({**json.loads(SEALED), **fields})


@pytest.fixture
def one_derivation_per_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of openings in seconds: the same salt, parameters and passphrase derive their key once."""
    monkeypatch.setattr(sealing, "Scrypt", DerivedOnce)


class DerivedOnce:
    def __init__(self, **parameters: object) -> None:
        self.parameters = tuple(sorted(parameters.items()))

    def derive(self, passphrase: bytes) -> bytes:
        return derived(self.parameters, passphrase)


@cache
def derived(parameters: tuple[tuple[str, object], ...], passphrase: bytes) -> bytes:
    return Scrypt(**dict(parameters)).derive(passphrase)  # type: ignore[arg-type]


# --- what it is --------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.binary(max_size=300), st.binary(min_size=1, max_size=100))
def test_the_passphrase_opens_what_it_sealed(plain: bytes, passphrase: bytes) -> None:
    sealed = seal(plain, passphrase, seeded("round trip"))
    assert is_sealed(sealed)
    assert unseal(sealed, passphrase) == plain


def test_a_person_sees_what_the_file_is() -> None:
    fields = json.loads(SEALED)
    assert fields.pop("what") == "ceiba sealed keys"
    assert [len(bytes.fromhex(fields.pop(name))) for name in ("salt", "nonce")] == [16, 12]
    assert len(bytes.fromhex(fields.pop("ciphertext"))) == len(PLAIN) + 16
    assert fields == {"kdf": "scrypt", "n": "32768", "r": "8", "p": "1", "cipher": "AES-256-GCM"}


def test_neither_the_secret_nor_the_passphrase_is_in_the_file() -> None:
    for secret in (PLAIN, PASSPHRASE):
        assert secret not in SEALED and secret.hex().encode() not in SEALED


def test_sealing_twice_shares_neither_salt_nor_nonce() -> None:
    random = seeded("twice")
    first, second = (json.loads(seal(PLAIN, PASSPHRASE, random)) for _ in range(2))
    assert all(first[name] != second[name] for name in ("salt", "nonce", "ciphertext"))


def test_a_file_of_the_first_version_still_opens() -> None:
    assert unseal(WRITTEN_BY_THE_FIRST_VERSION, b"correct horse") == b"four secret keys"


@pytest.mark.parametrize(
    ("passphrase", "salt", "n", "r", "p", "key"),
    [
        (
            b"password",
            b"NaCl",
            1024,
            8,
            16,
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
            "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
        ),
        (
            b"pleaseletmein",
            b"SodiumChloride",
            16384,
            8,
            1,
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
            "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
        ),
    ],
)
def test_key_derivation_gives_the_answers_of_rfc_7914(
    passphrase: bytes, salt: bytes, n: int, r: int, p: int, key: str
) -> None:
    assert Scrypt(salt=salt, length=64, n=n, r=r, p=p).derive(passphrase).hex() == key


def test_the_file_opens_by_the_standards_alone() -> None:
    """scrypt from Python's own library, and GCM from NIST SP 800-38D with nothing but the AES block function."""
    fields = json.loads(SEALED)
    ciphertext, nonce, salt = (bytes.fromhex(fields[name]) for name in ("ciphertext", "nonce", "salt"))
    header = b",".join(part for part in SEALED.split(b",") if not part.startswith(b'"ciphertext"'))
    key = hashlib.scrypt(PASSPHRASE, salt=salt, n=32768, r=8, p=1, maxmem=2**26, dklen=32)
    assert gcm_by_hand(key, nonce, ciphertext[:-16], header) == (PLAIN, ciphertext[-16:])


def gcm_by_hand(key: bytes, nonce: bytes, ciphertext: bytes, header: bytes) -> tuple[bytes, bytes]:
    """The plaintext, and the tag that must be at the end of the file."""

    def block(value: bytes) -> bytes:
        return Cipher(AES(key), ECB()).encryptor().update(value)

    def padded(value: bytes) -> bytes:
        return value + bytes(-len(value) % 16)

    def xor(left: bytes, right: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(left, right, strict=False))

    counters = range(2, 3 + len(ciphertext) // 16)
    plain = xor(ciphertext, b"".join(block(nonce + counter.to_bytes(4, "big")) for counter in counters))
    lengths = (8 * len(header)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    hashed = padded(header) + padded(ciphertext) + lengths
    total, multiplier = 0, int.from_bytes(block(bytes(16)), "big")
    for at in range(0, len(hashed), 16):
        total = times(total ^ int.from_bytes(hashed[at : at + 16], "big"), multiplier)
    return plain, xor(total.to_bytes(16, "big"), block(nonce + (1).to_bytes(4, "big")))


def times(x: int, y: int) -> int:
    """SP 800-38D, algorithm 1: the product in GF(2^128), bits from the left."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


# --- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [b"wrong", PASSPHRASE[:-1], PASSPHRASE + b"\n", PASSPHRASE.upper(), b"\0"])
def test_another_passphrase_opens_nothing(other: bytes) -> None:
    with pytest.raises(BadPassphrase):
        unseal(SEALED, other)


@pytest.mark.usefixtures("one_derivation_per_salt")
def test_every_changed_byte_is_refused() -> None:
    assert unseal(SEALED, PASSPHRASE) == PLAIN
    refused_as = {}
    for at, byte in enumerate(SEALED):
        for other in {byte ^ 0x01, byte ^ 0x20, byte ^ 0x80, another_hexadecimal(byte)} - {byte}:
            with pytest.raises((MalformedDocument, BadPassphrase)) as caught:
                unseal(SEALED[:at] + bytes([other]) + SEALED[at + 1 :], PASSPHRASE)
            refused_as[at, other] = caught.type
    hidden = [at for (at, _), kind in refused_as.items() if kind is BadPassphrase]
    assert len(set(hidden)) == 2 * (16 + 12 + len(PLAIN) + 16), "salt, nonce and ciphertext, and nothing else"


def another_hexadecimal(byte: int) -> int:
    digits = b"0123456789abcdef"
    return digits[digits.index(byte) - 1] if byte in digits else byte


@pytest.mark.usefixtures("one_derivation_per_salt")
def test_header_of_another_file_is_refused() -> None:
    other = json.loads(seal(PLAIN, PASSPHRASE, seeded("another")))
    for name in ("salt", "nonce", "ciphertext"):
        with pytest.raises(BadPassphrase):
            unseal(with_fields(**{name: other[name]}), PASSPHRASE)


@pytest.mark.parametrize(
    "damaged",
    [
        with_fields(n="1048576"),
        with_fields(n="16384"),
        with_fields(n="032768"),
        with_fields(n=32768),
        with_fields(r="1024"),
        with_fields(p="1000000"),
        with_fields(kdf="argon2id"),
        with_fields(kdf="none"),
        with_fields(cipher="AES-256-CTR"),
        with_fields(what="something else"),
        with_fields(salt=""),
        with_fields(salt="00" * 15),
        with_fields(salt="00" * 17),
        with_fields(nonce="00" * 11),
        with_fields(nonce="00" * 13),
        with_fields(ciphertext="00" * 15),
        with_fields(ciphertext=json.loads(SEALED)["ciphertext"].upper()),
        with_fields(more="1"),
        canonical_json({name: value for name, value in json.loads(SEALED).items() if name != "n"}),
        SEALED[:-1],
        SEALED + b"\n",
        SEALED * 2,
        b"",
        PLAIN,
    ],
    ids=lambda body: str(len(body)),
)
def test_other_parameters_and_forms_are_refused_before_a_key_is_derived(
    damaged: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    derivations: list[Mapping[str, object]] = []

    def counted(**parameters: int) -> Scrypt:
        derivations.append(parameters)
        return Scrypt(**parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "Scrypt", counted)
    with pytest.raises(MalformedDocument):
        unseal(damaged, PASSPHRASE)
    assert derivations == []
    unseal(SEALED, PASSPHRASE)
    assert [(made["n"], made["r"], made["p"]) for made in derivations] == [(32768, 8, 1)]


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(MalformedDocument):
        seal(bytes(MAX_BODY_BYTES // 2), PASSPHRASE, seeded("large"))


def test_an_empty_passphrase_seals_and_opens_nothing() -> None:
    with pytest.raises(PassphraseNeeded):
        seal(PLAIN, b"", seeded("empty"))
    with pytest.raises(PassphraseNeeded):
        unseal(SEALED, b"")


def test_no_error_tells_a_secret_or_which_of_the_two_was_wrong() -> None:
    wrong = b"canary-wrong-77aa"
    changed = with_fields(ciphertext="00" * (len(PLAIN) + 16))
    told = [everything_told_by(SEALED, wrong), everything_told_by(changed, PASSPHRASE)]
    assert told[0] == told[1]
    told.append(everything_told_by(PLAIN, PASSPHRASE))
    told.append(everything_told_by(SEALED, b""))
    told.append(repr(SealedFile.parse(SEALED)))
    for secret in (PLAIN, PASSPHRASE, wrong):
        assert not any(secret.decode() in text or secret.hex() in text for text in told)


def everything_told_by(sealed: bytes, passphrase: bytes) -> str:
    with pytest.raises(CeibaError) as caught:
        unseal(sealed, passphrase)
    error = caught.value
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    return f"{error} {error!r} {error.fields} {error.private} {pickle.loads(pickle.dumps(error))!r}"


def test_both_errors_are_the_callers_and_say_what_to_do() -> None:
    assert {BadPassphrase.fault, PassphraseNeeded.fault} == {Fault.CALLER}
    assert (BadPassphrase.code, BadPassphrase.status) == ("bad_passphrase", "UNAUTHENTICATED")
    assert PassphraseNeeded.code == "passphrase_needed"
    for name in (sealing.PASSPHRASE_FILE, sealing.PASSPHRASE):
        assert name in PassphraseNeeded().what_to_do


# --- is it sealed ------------------------------------------------------------------------------------------------


def test_a_damaged_sealed_file_still_counts_as_sealed() -> None:
    assert is_sealed(with_fields(n="1", salt=""))
    assert is_sealed(SEALED + b"\n")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        PLAIN,
        canonical_json({"what": "ceiba"}),
        canonical_json({"organisation": '"what":"ceiba sealed keys"', "what": "an identity"}),
        canonical_json({"organisation": "ceiba sealed keys"}),
    ],
)
def test_other_content_is_not_sealed_even_if_a_text_in_it_says_so(content: bytes) -> None:
    assert not is_sealed(content)


# --- the operator's passphrase -----------------------------------------------------------------------------------

FILES = {
    "/run/plain": b"from the file",
    "/run/newline": b"from the file\n",
    "/run/windows": b"from the file\r\n",
    "/run/two": b" from the file \n\n",
    "/run/empty": b"",
    "/run/blank": b"\n",
    "/run/bytes": b"\xff\x00\xfe",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CEIBA_PASSPHRASE_FILE": "/run/plain"}, b"from the file"),
        ({"CEIBA_PASSPHRASE_FILE": "/run/newline"}, b"from the file"),
        ({"CEIBA_PASSPHRASE_FILE": "/run/windows"}, b"from the file"),
        ({"CEIBA_PASSPHRASE_FILE": "/run/two"}, b" from the file \n"),
        ({"CEIBA_PASSPHRASE_FILE": "/run/bytes"}, b"\xff\x00\xfe"),
        ({"CEIBA_PASSPHRASE": "from the variable"}, b"from the variable"),
        ({"CEIBA_PASSPHRASE": " é "}, b" \xc3\xa9 "),
        ({"CEIBA_PASSPHRASE": "\udcff"}, b"\xff"),
        ({"CEIBA_PASSPHRASE_FILE": "/run/plain", "CEIBA_PASSPHRASE": "from the variable"}, b"from the file"),
        ({"CEIBA_PASSPHRASE_FILE": "", "CEIBA_PASSPHRASE": "from the variable"}, b"from the variable"),
    ],
)
def test_passphrase_is_found(environment: dict[str, str], expected: bytes) -> None:
    assert find_passphrase(environment, FILES.__getitem__) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PASSPHRASE": "another program's"},
        {"CEIBA_PASSPHRASE": ""},
        {"CEIBA_PASSPHRASE_FILE": ""},
        {"CEIBA_PASSPHRASE_FILE": "/run/empty"},
        {"CEIBA_PASSPHRASE_FILE": "/run/blank"},
        {"CEIBA_PASSPHRASE_FILE": "/run/empty", "CEIBA_PASSPHRASE": "never a silent second choice"},
    ],
)
def test_no_passphrase_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(PassphraseNeeded):
        find_passphrase(environment, FILES.__getitem__)


def test_errors_of_reading_the_file_pass_through() -> None:
    with pytest.raises(KeyError):
        find_passphrase({"CEIBA_PASSPHRASE_FILE": "/run/none", "CEIBA_PASSPHRASE": "x"}, FILES.__getitem__)
