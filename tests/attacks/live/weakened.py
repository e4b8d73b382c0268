"""Starts a program that lacks exactly one check: python weakened.py CHECK MODULE ARGUMENTS...

Nothing that is installed can leave a check out; this file replaces one function in the process that it starts.
"""

import importlib
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


def replace_method(place: str, kind: str, name: str, instead: Any) -> Callable[[], None]:
    """A weakening that puts something else in the place of one method."""

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


def without_rule(name: str) -> Callable[[], None]:
    """The policy without one of its rules."""

    def weaken() -> None:
        policy = importlib.import_module("ceiba_node.policy")
        kept = tuple(rule for rule in policy.RULES if rule.__name__ != name)
        assert len(kept) == len(policy.RULES) - 1
        policy.RULES = kept  # type: ignore[attr-defined]

    return weaken


CHECKS: dict[str, Callable[[], None]] = {
    "the set is the agreement's": replace("ceiba_protocol.rounds", "check_whole", nothing),
    "a number once": without_rule("number_is_new"),
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
    "each duty its key": replace_method("ceiba_protocol.trust.roster", "Roster", "open", with_any_key),
    "the member's TLS key": replace("ceiba_coordinator.membership", "has_key", answering(True)),
    "the role": replace("ceiba_coordinator.services.calls", "check_role", nothing),
    "the list of members": replace_method("ceiba_coordinator.membership", "Membership", "is_enrolled", answering(True)),
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
