"""Keys on disk, encrypted under a passphrase: scrypt (RFC 7914) and AES-256-GCM (NIST SP 800-38D).

Reading and writing files is the roles' business; here a sealed file is bytes in and bytes out. It is a document like
any other, so that a person who opens it sees what it is.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field

from ceiba_protocol.canonical import Document, Hex, canonical_json
from ceiba_protocol.errors import BadPassphrase, PassphraseNeeded
from ceiba_protocol.sums.randomness import Random

PASSPHRASE_FILE = "CEIBA_PASSPHRASE_FILE"  # noqa: S105 - a variable's name, not a secret
PASSPHRASE = "CEIBA_PASSPHRASE"  # noqa: S105 - likewise

SALT_BYTES = 16
NONCE_BYTES = 12
TAG_BYTES = 16

_MARK = b'"what":"ceiba sealed keys"'


class SealedFile(Document):
    """Secret bytes, encrypted under a passphrase. All fields but `ciphertext` are the header, which is authenticated.

    The cost of guessing is a constant of the format, not a setting: each field of it has one permitted value, so that
    a file can neither ask for gigabytes of memory nor weaken the next file written.
    """

    what: Literal["ceiba sealed keys"] = "ceiba sealed keys"
    kdf: Literal["scrypt"] = "scrypt"
    n: Literal["32768"] = "32768"
    """Cost; with `r` = 8 one guess needs 128·n·r bytes = 32 MiB and about a tenth of a second."""
    r: Literal["8"] = "8"
    p: Literal["1"] = "1"
    salt: Annotated[Hex, Field(min_length=2 * SALT_BYTES, max_length=2 * SALT_BYTES)]
    """16 random bytes, new for every file, as is the nonce."""
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    nonce: Annotated[Hex, Field(min_length=2 * NONCE_BYTES, max_length=2 * NONCE_BYTES)]
    ciphertext: Annotated[Hex, Field(min_length=2 * TAG_BYTES)]
    """As long as the secret bytes, then the tag of 16 bytes."""

    def header(self) -> bytes:
        """The canonical bytes of everything but the ciphertext: AES-GCM's associated data."""
        return canonical_json(self.model_dump(mode="json", exclude={"ciphertext"}))

    def cipher_under(self, passphrase: bytes) -> AESGCM:
        """The slow step: one derivation of the key."""
        kdf = Scrypt(salt=bytes.fromhex(self.salt), length=32, n=int(self.n), r=int(self.r), p=int(self.p))
        return AESGCM(kdf.derive(passphrase))


def seal(plain: bytes, passphrase: bytes, random: Random) -> bytes:
    """`plain`, at most about 128 KB, as the bytes of a SealedFile under a passphrase that is not empty.

    Raises PassphraseNeeded if it is empty, and MalformedDocument rather than write what could not be read back.
    """
    if not passphrase:
        raise PassphraseNeeded
    empty = SealedFile(salt=random(SALT_BYTES).hex(), nonce=random(NONCE_BYTES).hex(), ciphertext="00" * TAG_BYTES)
    ciphertext = empty.cipher_under(passphrase).encrypt(bytes.fromhex(empty.nonce), plain, empty.header())
    sealed = empty.model_copy(update={"ciphertext": ciphertext.hex()}).body()
    SealedFile.parse(sealed)
    return sealed


def unseal(sealed: bytes, passphrase: bytes) -> bytes:
    """What was sealed. Raises MalformedDocument if `sealed` is not a SealedFile, known before any key is derived,
    PassphraseNeeded if the passphrase is empty, and BadPassphrase if it does not open the file."""
    file = SealedFile.parse(sealed)
    if not passphrase:
        raise PassphraseNeeded
    cipher = file.cipher_under(passphrase)
    try:
        return cipher.decrypt(bytes.fromhex(file.nonce), bytes.fromhex(file.ciphertext), file.header())
    except InvalidTag:
        raise BadPassphrase from None


def is_sealed(content: bytes) -> bool:
    """Whether `content` says that it is a SealedFile; a damaged one that still says so is for `unseal` to refuse.

    The mark cannot occur inside a text of another JSON document, where its quotes would be escaped. It proves nothing:
    whoever can replace the file can also put keys of their own there, unsealed.
    """
    return _MARK in content


def find_passphrase(environment: Mapping[str, str], read: Callable[[str], bytes]) -> bytes:
    """The operator's passphrase: the content of the file that CEIBA_PASSPHRASE_FILE names, without the newline at its
    end, else the value of CEIBA_PASSPHRASE as UTF-8. If both are set, the file wins, also when it is empty.

    `read` gives a file's content, and refuses one that others can read; its errors pass through. Raises
    PassphraseNeeded if there is no passphrase, or an empty one.
    """
    if path := environment.get(PASSPHRASE_FILE):
        passphrase = read(path).removesuffix(b"\n").removesuffix(b"\r")
    else:
        # Bytes that are not UTF-8 reach Python's environment as surrogates, and leave it as the same bytes.
        passphrase = environment.get(PASSPHRASE, "").encode("utf-8", "surrogateescape")
    if not passphrase:
        raise PassphraseNeeded
    return passphrase
