"""Starts a program that lacks exactly one check: python weakened.py CHECK MODULE ARGUMENTS...

Nothing that is installed can leave a check out; this file replaces one function in the process that it starts.
"""

import dataclasses
import importlib
import json
import secrets
import sys
import threading
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


def keeps_the_limit(original: Any) -> Any:
    """Nothing that was answered is ever near."""
    return lambda new, history, limit, *beside: limit


def compares_with_the_same_merchant(original: Any) -> Any:
    """Of what was answered, reads only what was answered to the merchant who asks now."""

    def sets_of_size(ledger: Any, table: str, job_id: bytes, size: int) -> Any:
        merchant = ledger.answer(job_id).merchant
        query = "SELECT identity FROM answered_sets JOIN jobs USING (job_id) WHERE merchant = ?"
        own = {identity for (identity,) in ledger._all(query, merchant)}
        return [one for one in original(ledger, table, job_id, size) if one.identity in own]

    return sets_of_size


def compares_one_by_one(original: Any) -> Any:
    """Whatever two answers make together is far from the third."""
    return lambda whole, parts, linked: original(whole, parts, linked) if len(parts) == 1 else len(whole.subjects)


def tests_the_rows_alone(original: Any) -> Any:
    """Whatever a sum adds up, the rows of the cell are what has to be many."""

    def tests_of(compiled: Any) -> Any:
        found = original(compiled)
        return dataclasses.replace(found, tests=found.tests[:1], needs=((0,),) * len(found.needs), together=())

    return tests_of


def threshold_of(least: Callable[[Any], int]) -> Callable[[Any], Any]:
    """So many subjects, wherever they are."""

    def instead(original: Any) -> Any:
        threshold = importlib.import_module("ceiba_protocol.disclosure.gate").Threshold
        return lambda rules, *_: threshold(least(rules), least(rules))

    return instead


def any_domain(original: Any) -> Any:
    """Groups by whatever integers a column may have."""

    def compile_column_key(group: Any, column: Any) -> Any:
        program = importlib.import_module("ceiba_protocol.program")
        plan = importlib.import_module("ceiba_protocol.plan")
        if column.codes is not None:
            return original(group, column)
        low, high = column.range
        values = tuple(range(low, high + 1))
        return plan.Key(group.name, program.load(column.name, low, high, column.nullable), values, values)

    return compile_column_key


def with_fresh_noise(original: Any) -> Any:
    return lambda noise_key, **question: original(secrets.token_bytes(32), **question)


def budget_of_a_version(original: Any) -> Any:
    """Each version of a table begins with a whole budget."""
    return lambda connection, one, budget: original(
        connection, dataclasses.replace(one, dataset=f"{one.dataset} {one.version}"), budget
    )


def reads_the_sum_before() -> None:
    """What was spent is read when a job comes, and believed when it is paid for. Waits until two jobs have come."""
    disclosure = importlib.import_module("ceiba_node.ledger.disclosure")
    answering = importlib.import_module("ceiba_node.answering").Answering
    spent, approve, seen, both = disclosure._spent, answering.approve, threading.local(), threading.Barrier(2)

    def spent_then(*arguments: Any) -> Any:
        return seen.sums if hasattr(seen, "sums") else spent(*arguments)

    def approve_later(self: Any, job_id: bytes, manifest: Any, attempt: int = 0) -> Any:
        asked = json.loads(manifest.body)
        organisation = self._roster.by_name[asked["merchant"]].legal_person
        seen.sums = self._ledger.spent(asked["plan"]["table"], organisation, asked["not_before"])
        both.wait(timeout=30)
        return approve(self, job_id, manifest, attempt)

    disclosure._spent = spent_then
    answering.approve = approve_later


def believes_any_words(original: Any) -> Any:
    numpy = importlib.import_module("numpy")
    return lambda share, blob: numpy.frombuffer(blob, dtype="<u8")


def not_bound(original: Any) -> Any:
    """The release's masks are the same whatever was sent to the gate."""
    return lambda commitment, released, iterate="": dataclasses.replace(
        commitment.context, gate_transcript_digest=bytes(32)
    )


def bound_to_the_shares(original: Any) -> Any:
    """The release's masks are the same whatever the gate decided on these shares."""
    return lambda commitment, released, iterate="": commitment.context


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
    # disclosure.py
    "earlier answers compared": replace("ceiba_node.differencing", "nearest", keeps_the_limit),
    "other merchants' answers compared": replace_in(
        "ceiba_node.ledger.disclosure", "Disclosures", "sets_of_size", compares_with_the_same_merchant
    ),
    "what two answers make together": replace("ceiba_node.differencing", "distance", compares_one_by_one),
    "what released cells add up to": replace("ceiba_node.differencing", "margins", finds_none),
    "known totals": replace("ceiba_node.differencing", "released_margins", finds_none),
    "k subjects": replace("ceiba_protocol.disclosure.gate", "threshold_of", threshold_of(lambda _: 1)),
    "h holders": replace(
        "ceiba_protocol.disclosure.gate", "threshold_of", threshold_of(lambda rules: rules.minimum_subjects)
    ),
    "tests of conditions": replace("ceiba_protocol.disclosure.support", "tests_of", tests_the_rows_alone),
    "tests of what two sums do not share": replace_in(
        "ceiba_protocol.disclosure.support", "_Builder", "add_differences", answering({})
    ),
    "nobody dominates": replace("ceiba_protocol.disclosure.dominance", "dominates", answering(False)),
    "groups have a declared domain": replace("ceiba_protocol.plan", "_compile_column_key", any_domain),
    "noise sticks to the question": replace("ceiba_protocol.disclosure.noise", "noise_vector", with_fresh_noise),
    "answers with noise are paid for": replace("ceiba_node.ledger.disclosure", "charge", nothing),
    "the budget is a table's": replace("ceiba_node.ledger.disclosure", "charge", budget_of_a_version),
    "noise is new for each version": replace(
        "ceiba_protocol.disclosure.noise", "versions_digest", answering(bytes(32))
    ),
    "the sum is read in the transaction": reads_the_sum_before,
    # gate.py
    "the words are the signed ones": replace("ceiba_protocol.rounds", "check_words", believes_any_words),
    "the release is bound to the gate": replace_in("ceiba_protocol.rounds", "Commitment", "release_context", not_bound),
    "the release is bound to the gate's decision": replace_in(
        "ceiba_protocol.rounds", "Commitment", "release_context", bound_to_the_shares
    ),
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
