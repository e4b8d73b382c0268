"""Starts a program that lacks exactly one check: python weakened.py CHECK MODULE ARGUMENTS...

Nothing that is installed can leave a check out; this file replaces one function in the process that it starts.
"""

import dataclasses
import importlib
import secrets
import sys
from collections.abc import Callable
from typing import Any


def replace(place: str, name: str, instead: Any) -> Callable[[], None]:
    """A weakening that puts something else in the place of one function, in every module that has imported it."""

    def weaken() -> None:
        module = importlib.import_module(place)
        original = getattr(module, name)
        for other in list(sys.modules.values()):
            if other is not None and getattr(other, name, None) is original:
                setattr(other, name, instead(original))

    return weaken


def replace_in(place: str, kind: str, name: str, instead: Any) -> Callable[[], None]:
    """Likewise of one method, or one limit, of a class."""

    def weaken() -> None:
        owner = getattr(importlib.import_module(place), kind)
        setattr(owner, name, instead(getattr(owner, name)))

    return weaken


def nothing(original: Any) -> Any:
    """A check that lets everything pass."""
    return lambda *_, **__: None


def answering(value: Any) -> Callable[[Any], Any]:
    """A function that always says the same."""
    return lambda original: lambda *_, **__: value


def believing(original: Any) -> Any:
    """A witness that keeps its own tree and compares nothing with it."""
    return lambda frontier, entries, checkpoint: frontier


def with_any_key(original: Any) -> Any:
    """A member's signature counts under whichever of its keys it was made."""

    def opened(roster: Any, signed: Any, kind: Any, role: Any) -> Any:
        signing, errors = importlib.import_module("ceiba_protocol.trust.signing"), []
        member = roster.member(signed.signer, role)
        duties = member.duties
        for key in [member.signing_key, *([duties.officer, duties.publisher] if duties else [])]:
            try:
                return signing.open_signed(signed, kind, bytes.fromhex(key))
            except importlib.import_module("ceiba_protocol.errors").BadSignature as error:
                errors.append(error)
        raise errors[0]

    return opened


def finds_none(original: Any) -> Any:
    """A search that finds nothing to object to."""
    return lambda *_, **__: []


# --- weakenings that need more than nothing --------------------------------------------------------------------


def believes_any_token(original: Any) -> Any:
    """Reads an abort token without a look at its signature."""
    documents = importlib.import_module("ceiba_protocol.trust.documents")
    return lambda _, signed: documents.AbortToken.parse(signed.body)


def asks_the_new_signers(original: Any) -> Any:
    """Counts the approvals of whoever the proposed roster calls a signer, not of the pinned one's."""
    return lambda _, roster, approvals: original(roster, roster, approvals)


def ignores_organisations(original: Any) -> Any:
    return lambda roster: {what: values for what, values in original(roster).items() if what != "organisation"}


def forgets_the_number(original: Any) -> Any:
    """Notes some number or other, so that neither the rule nor the ledger's constraint finds the real one."""
    return lambda ledger, connection, job: original(
        ledger, connection, dataclasses.replace(job, number=-1 - secrets.randbelow(1 << 60))
    )


def forgets_the_round(original: Any) -> Any:
    """Notes what was sent under some round or other, so that the real one seems never to have been answered."""
    return lambda ledger, payload, *rest: original(
        ledger, dataclasses.replace(payload, iteration=1 + secrets.randbelow(1 << 60)), *rest
    )


CHECKS: dict[str, Callable[[], None]] = {
    "the set is the agreement's": replace("ceiba_protocol.rounds", "check_whole", nothing),
    "the tokens' signatures": replace("ceiba_protocol.rounds", "open_abort", believes_any_token),
    "one payload a round": replace_in("ceiba_node.ledger.jobs", "Jobs", "record_payload", forgets_the_round),
    "sets that nearly coincide, at signing": replace("ceiba_protocol.trust.agreement", "overlaps", finds_none),
    "sets that nearly coincide, when answering": replace("ceiba_node.policy", "_nearby", finds_none),
    "one manifest for all": replace("ceiba_protocol.rounds", "check_same_manifest", nothing),
    "one value has one form in bytes": replace_in(
        "ceiba_protocol.canonical", "Document", "_is_written_as", lambda _: lambda *_: True
    ),
    "the purpose is the agreement's": replace("ceiba_protocol.rounds", "check_purpose", nothing),
    "the plan is covered": replace("ceiba_protocol.trust.agreement", "check_covers", nothing),
    "a number once": replace_in("ceiba_node.ledger.jobs", "Jobs", "_add_job", forgets_the_number),
    "the window": replace("ceiba_protocol.rounds", "check_window", nothing),
    "the size limit": replace_in("ceiba_protocol.canonical", "Document", "MAX_BYTES", lambda _: 1 << 40),
    "only the pinned roster's signers count": replace(
        "ceiba_protocol.trust.roster", "approved_by", asks_the_new_signers
    ),
    "one organisation, one holder": replace("ceiba_protocol.trust.roster", "_must_differ", ignores_organisations),
    "parties have the keys they signed with": replace("ceiba_protocol.trust.agreement", "check_same_keys", nothing),
    "the key's proof": replace("ceiba_protocol.trust.roster", "verify_key", nothing),
    # log.py
    "the root compared": replace("ceiba_protocol.trust.log", "check_root", nothing),
    "what was witnessed before": replace("ceiba_protocol.trust.log", "witness", believing),
    "own entries compared with the ledger": replace("ceiba_protocol.trust.log", "check_own", answering([])),
    "the longest log anybody has seen": replace("ceiba_protocol.trust.log", "check_longest", nothing),
    "enough witnesses": replace("ceiba_protocol.trust.log", "needed_cosignatures", answering(0)),
    # transport.py
    "signatures under the pinned roster": replace(
        "ceiba_protocol.trust.signing", "signature_is_valid", answering(True)
    ),
    "each duty its key": replace_in("ceiba_protocol.trust.roster", "Roster", "open", with_any_key),
    "the member's TLS key": replace("ceiba_coordinator.membership", "has_key", answering(True)),
    "the role": replace("ceiba_coordinator.services.calls", "check_role", nothing),
    "the list of members": replace_in("ceiba_coordinator.membership", "Membership", "is_enrolled", answering(True)),
    "a member's share of calls": replace("ceiba_coordinator.services.calls", "check_calls", nothing),
}
"""Each by the name that attacks and the report call it."""

PROGRAMS = {"ceiba_node": "ceiba_node.cli", "ceiba_coordinator": "ceiba_coordinator.cli", "ceiba": "ceiba.cli"}


def main() -> None:
    check, module = sys.argv[1], sys.argv[2]
    program = importlib.import_module(PROGRAMS[module])
    importlib.import_module(
        f"{module}.{ {'ceiba_node': 'service', 'ceiba_coordinator': 'server', 'ceiba': 'space'}[module] }"
    )
    CHECKS[check]()
    sys.argv = [module, *sys.argv[3:]]
    program.main()


if __name__ == "__main__":
    main()
