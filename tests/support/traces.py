"""The forms in which a program might write a value that is nobody else's business, to be searched for."""

import base64
import hashlib
import re
from pathlib import Path


def in_base64(content: bytes) -> dict[str, bytes]:
    """The characters that are the same wherever `content` stands in a longer text: one for each alignment."""
    forms = {}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + content).rstrip(b"=")
        whole = encoded if (before + len(content)) % 3 == 0 else encoded[:-1]
        forms[f"base64 at {before}"] = whole[[0, 2, 3][before] :]
    return forms | {f"url-safe {name}": form.translate(bytes.maketrans(b"+/", b"-_")) for name, form in forms.items()}


def forms_of_text(text: str) -> dict[str, bytes]:
    plain = text.encode()
    hashed = {name: hashlib.new(name, plain) for name in ("sha256", "md5", "sha1")}
    return {
        "text": plain,
        "hex": plain.hex().encode(),
        "UTF-16 LE": text.encode("utf-16-le"),
        "UTF-16 BE": text.encode("utf-16-be"),
        **in_base64(plain),
        **{name: one.digest() for name, one in hashed.items()},
        **{f"{name} in hex": one.hexdigest().encode() for name, one in hashed.items()},
    }


def forms_of_number(number: int) -> dict[str, bytes]:
    size = (number.bit_length() + 7) // 8
    big = number.to_bytes(size, "big")
    little, varint, rest = big[::-1], bytearray(), number
    while rest:
        varint.append(rest & 127 | (128 if rest > 127 else 0))
        rest >>= 7
    named = {"big-endian": big, "little-endian": little, "varint": bytes(varint)}
    for name, content in (("big-endian", big), ("little-endian", little)):
        named |= {f"{name} {form}": encoded for form, encoded in in_base64(content).items()}
        named[f"{name} in hex"] = content.hex().encode()
    named |= {f"decimal {name}": form for name, form in forms_of_text(str(number)).items()}
    return named | {"hex": f"{number:x}".encode(), "HEX": f"{number:X}".encode()}


def forms_of_count(count: int) -> dict[str, re.Pattern[bytes]]:
    """Of a number of five digits or so, which single bytes would show everywhere by chance: as a word of 64 bits, and
    as text that is no part of something longer. A word is not looked for beside a run of zeros, such as the free part
    of a database's page: any two bytes there would be one."""
    words = {name: count.to_bytes(8, name) for name in ("big", "little")}
    forms = {
        "word, big-endian": rb"(?<!\x00)" + re.escape(words["big"]),
        "word, little-endian": re.escape(words["little"]) + rb"(?!\x00)",
    }
    for name, word in words.items():
        forms |= {f"word, {name}-endian, {form}": re.escape(text) for form, text in in_base64(word).items()}
        forms[f"word, {name}-endian in hex"] = word.hex().encode()
    text = str(count)
    if count >= 10_000:  # four digits are some size or time in a log, sooner or later
        forms["decimal text"] = rb"(?<![0-9A-Za-z.])" + text.encode() + rb"(?![0-9A-Za-z])"
    for name in ("utf-16-le", "utf-16-be"):
        forms[f"decimal {name}"] = re.escape(text.encode(name))
    return {name: re.compile(form) for name, form in forms.items()}


def everything_in(*places: Path) -> bytes:
    """The bytes of all files in these folders, and of these files."""
    files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    return b"\n".join(path.read_bytes() for path in files if path.is_file())
