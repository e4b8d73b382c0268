"""Consents on their way: files that a merchant, an issuer and a subject pass on, and the commands that write them."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ceiba.cli import app
from ceiba.consents import ConsentRequest, IssuerKey, give, new_issuer, read_consent, read_request
from ceiba_protocol.canonical import Digest
from ceiba_protocol.errors import BadCommand, BadIdentifier, BadPassphrase, BadQuestion, CeibaError, NoKeyFile
from ceiba_protocol.identifiers import IdentifierKind
from ceiba_protocol.linkage.consent import check_consent

CODE = "91110000802100433B"
REQUEST = ConsentRequest(
    merchant="bank",
    holders=("insurance", "tax"),
    purpose="credit decision",
    model_digest=Digest("6d" * 32),
    kind=IdentifierKind.USCC,
)


def run(*words: object) -> str:
    """What a command prints. A CeibaError passes through."""
    result = CliRunner().invoke(app, ["consent", *map(str, words)])
    if isinstance(result.exception, CeibaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CEIBA_PASSPHRASE", "correct horse")
    (tmp_path / "request.json").write_bytes(REQUEST.body() + b"\n")
    return tmp_path


def test_a_key_is_made_and_a_consent_given_and_shown(folder: Path) -> None:
    made = json.loads(run("key", "--name", "chamber of commerce", "--out", folder / "issuer.key", "--json"))
    key, out = folder / "issuer.key", folder / "consent.json"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and b"chamber" not in key.read_bytes()
    run("give", folder / "request.json", "--subject", f" {CODE.lower()} ", "--key", key, "--hours", 2, "--out", out)
    given = read_consent(out.read_bytes())
    subject = REQUEST.subject(CODE, bytes.fromhex(given.salt))
    issuers = {"chamber of commerce": bytes.fromhex(made["key"])}
    now = given.consent.not_before
    consent = check_consent(given.signed, REQUEST.terms, issuers, subject, now, lambda _: False)
    assert consent.not_after - consent.not_before == 7200
    assert CODE.encode() not in out.read_bytes() and CODE not in repr(given) and given.salt not in repr(given)
    shown = run("show", out)
    assert "credit decision" in shown and "insurance, tax" in shown


def test_what_is_there_is_not_replaced(folder: Path) -> None:
    run("key", "--name", "x", "--out", folder / "issuer.key")
    with pytest.raises(BadCommand):
        run("key", "--name", "x", "--out", folder / "issuer.key")


def test_another_passphrase_opens_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("key", "--name", "x", "--out", folder / "issuer.key")
    monkeypatch.setenv("CEIBA_PASSPHRASE", "battery staple")
    with pytest.raises(BadPassphrase):
        run("give", folder / "request.json", "--subject", CODE, "--key", folder / "issuer.key")
    with pytest.raises(NoKeyFile):
        run("give", folder / "request.json", "--subject", CODE, "--key", folder / "none.key")


@pytest.mark.parametrize("hours", [0, -1, 24.1])
def test_a_consent_lasts_up_to_a_day(hours: float) -> None:
    with pytest.raises(BadQuestion, match="hours"):
        give(REQUEST, CODE, new_issuer("x"), hours)


def test_a_wrong_check_digit_is_found_before_anything_is_signed() -> None:
    with pytest.raises(BadIdentifier):
        give(REQUEST, CODE[:-1] + "C", new_issuer("x"))


@pytest.mark.parametrize("read", [read_request, read_consent])
@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff", REQUEST.body() + b"x"])
def test_files_that_are_something_else_are_refused(read: Any, content: bytes) -> None:
    with pytest.raises(BadQuestion):
        read(content)


def test_a_consent_whose_text_is_none_is_refused() -> None:
    given = give(REQUEST, CODE, new_issuer("x")).model_copy(update={"text": "{}"})
    with pytest.raises(BadQuestion):
        read_consent(given.body())


def test_an_issuers_key_does_not_print() -> None:
    issuer = new_issuer("x")
    assert issuer.seed not in repr(issuer) and IssuerKey.parse(issuer.body()) == issuer
