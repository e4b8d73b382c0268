"""An agreement as text: what a merchant proposes and what an officer reads before signing (PROTOCOL §2.6).

Every fact that the parties sign stands in it, one to a line. What a party wrote itself is quoted so that it cannot pass
for a line of ours: what would be invisible, or could move text about, is shown as an escape.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from ceiba_protocol.disclosure.grade import Disclosure, NoiseRule, as_rho
from ceiba_protocol.trust.agreement import (
    DAY,
    KEPT_SECONDS,
    Agreement,
    Contract,
    JointTerms,
    Mode,
    Overlap,
    Party,
    State,
    no_party_now,
)
from ceiba_protocol.trust.roster import Roster
from ceiba_protocol.trust.words import MEMBER_WORDS, words_of

_LABEL_WIDTH = 14
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that Unicode calls ignorable: they print nothing (DerivedCoreProperties.txt)."""
_VARIATIONS = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Variation selectors, first and last."""


def render(
    contract: Contract, roster: Roster, now: int, overlaps: Sequence[Overlap] = (), today: Roster | None = None
) -> list[str]:
    """Lines of text for a person who decides on an agreement. `now`: seconds since 1970 UTC.

    `roster`: for the members' organisations, with those that were revoked since; `today`: the roster in force, if it is
    another one, by which the parties are judged. `overlaps`: as `agreement.overlaps` finds them; the merchant has none.
    """
    agreement = contract.agreement
    return [
        f"Agreement {agreement.agreement_id}",
        *_facts(agreement, roster),
        _line("digest", contract.digest),
        _line("state", _state(contract, now)),
        *([_line("not answered", because)] if (because := no_party_now(agreement, today or roster)) else []),
        *_notices(contract),
        *map(_overlap, overlaps),
    ]


def rules_of(rules: Disclosure, *, is_joint: bool = False) -> list[tuple[str, str]]:
    """What is agreed on released cells: a label and a sentence for each rule."""
    if is_joint:
        return _joint_rules(rules)
    many = f"at least {rules.minimum_subjects} subjects and {rules.minimum_holders} holders in every released cell"
    if not rules.has_gate:
        return [("small cells", "grade public: every cell is released as it is")]
    dominance = (
        f"the largest contribution is at most {rules.dominance_one} % of a total, the two largest together at most "
        f"{rules.dominance_two} %"
    )
    return [
        (
            "small cells",
            f"grade {rules.grade}: {many}; an empty one {'looks the same' if rules.hides_zeros else 'shows'}",
        ),
        ("dominance", dominance),
        ("differencing", "no answer differs by fewer subjects or holders than that from an earlier one"),
        ("exact answers", _exact_answers(rules)),
        ("noise", f"{rules.noise}; at most ρ {as_rho(rules.rho_per_year)} in any 365 days"),
    ]


def _exact_answers(rules: Disclosure) -> str:
    if rules.exact_jobs == 0:
        return "none"
    many = f"at most {rules.exact_jobs} for each version of a dataset"
    is_rare = rules.noise is NoiseRule.MANDATORY
    return f"{many}, each with a person's approval at every holder" if is_rare else many


def _joint_rules(rules: Disclosure) -> list[tuple[str, str]]:
    """Likewise where nobody knows which subjects are behind a cell."""
    shows = "looks the same" if rules.hides_zeros else "shows"
    few = f"at least {rules.minimum_subjects} subjects in every released cell; an empty one {shows}"
    return [
        ("small cells", f"grade {rules.grade}: {few}"),
        ("dominance", "NOT LOOKED AT: nobody sees whose values a joined figure adds up"),
        (
            "differencing",
            "a merchant's exact answers have one filter for each table, and divide it in ways that refine one another; "
            "with one small cell all of them are withheld. NOT LOOKED AT: by how many in common two of them differ",
        ),
        ("exact answers", _exact_answers(rules)),
        (
            "noise",
            f"{rules.noise}; of both holders of a pair, drawn anew for each job; at most ρ "
            f"{as_rho(rules.rho_per_year)} in any 365 days",
        ),
    ]


def quoted(text: str) -> str:
    """A text that somebody else wrote, in double quotes; no two texts give the same.

    Escaped, as in Python: quotes and backslashes, what prints nothing or turns the writing around, every space but the
    ordinary one, and an ordinary one after another, with which a line could be filled up to look like two.
    """
    shown = [
        f"\\U{ord(sign):08x}" if _is_hidden(sign, before) else f"\\{sign}" if sign in '\\"' else sign
        for before, sign in zip(" " + text, text, strict=False)
    ]
    return f'"{"".join(shown)}"'


def printable(text: str) -> str:
    """A line from elsewhere without what would move a cursor or hide the rest."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def moment(seconds: int) -> str:
    """A time in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


# --- parts -----------------------------------------------------------------------------------------------------


def _facts(agreement: Agreement, roster: Roster) -> list[str]:
    """Every field of an agreement."""
    count = len(agreement.holders)
    return [
        _line("space", agreement.space),
        _line("merchant", _party(agreement.merchant, roster)),
        *(_line(f"holder {place} of {count}", _party(one, roster)) for place, one in enumerate(agreement.holders, 1)),
        _line("purpose", quoted(agreement.purpose)),
        *_data(agreement),
        _line("operations", ", ".join(agreement.operations)),
        _line("jobs", f"{agreement.jobs} at most; {_APPROVAL[agreement.approval]}"),
        _line("from", moment(agreement.not_before)),
        _line("until", moment(agreement.not_after)),
        _line("who answers", _smallest(agreement)),
        _line("tolerated", f"{agreement.tolerated} of the holders may collude with the merchant and the coordinator"),
        *(_line(label, text) for label, text in rules_of(agreement.disclosure, is_joint=agreement.joint is not None)),
        *(_line(label, text) for label, text in (_joint(agreement.joint) if agreement.joint else ())),
        _line("schema", _schemas(agreement)),
        _line("suite", agreement.suite),
    ]


def _data(agreement: Agreement) -> list[str]:
    """Which columns of which tables."""
    if agreement.joint is None:
        return [_line("table", agreement.table), _line("columns", ", ".join(agreement.columns))]
    return [
        _line(
            "table",
            f"{side.table} of {side.holder}, subjects found by {agreement.identifier_of(side.holder)}, columns "
            f"{', '.join(side.columns)}",
        )
        for side in agreement.sides
    ]


def _schemas(agreement: Agreement) -> str:
    """What the columns mean."""
    if agreement.joint is None:
        return agreement.schema_digest
    return ", ".join(
        f"{table} {digest}" for table, digest in {s.table: s.schema_digest for s in agreement.sides}.items()
    )


def _joint(joint: JointTerms) -> list[tuple[str, str]]:
    """What is agreed on subjects that several holders know: a label and a sentence for each term."""
    exact = "may be exact: every holder takes the base's word for how many subjects are behind its groups"
    issuers = ", ".join(f"{quoted(one.name)} with the key {one.key}" for one in joint.consent_issuers)
    return [
        ("who is linked", "; ".join(_MODES[mode] for mode in joint.modes)),
        ("in common", f"at least {joint.smallest_intersection} subjects, or nothing is answered"),
        ("joined figures", exact if joint.base_is_trusted else "carry noise"),
        ("base", f"may be {', '.join(joint.bases)}: it says which subjects belong together, and nobody else does"),
        ("consent", f"attested by {issuers}" if issuers else "nobody can attest it, so nobody is scored"),
        ("scores", f"at most {joint.scores_per_day} of one subject in a day"),
        ("one linkage", _kept(joint.jobs_per_linkage)),
    ]


def _kept(jobs: int) -> str:
    """What becomes of a linkage after its job."""
    if jobs == 1:
        return "serves one job; nothing of it is kept"
    days = KEPT_SECONDS // DAY
    return (
        f"serves {jobs} jobs at most: UNTIL THEN, FOR AT MOST {days} DAYS, EACH HOLDER KEEPS IN MEMORY WHICH OF ITS "
        "OWN SUBJECTS ALL THE OTHERS KNOW"
    )


_MODES = {
    Mode.HIDDEN: "nobody learns which subjects the holders have in common",
    Mode.CARDINALITY: "the merchant and a holder may learn how many subjects two holders have in common; of more, the "
    "merchant how many all have, and the operator, WHOSE WORD IS TAKEN FOR THAT, which pseudonyms of one job are at "
    "which holders",
    Mode.REVEALED: "THE HOLDERS MAY LEARN WHICH OF THEIR OWN SUBJECTS ALL THE OTHERS KNOW, and the operator, WHOSE "
    "WORD IS TAKEN FOR THAT, which pseudonyms of one job are at which holders",
}

_APPROVAL = {
    "standing": "standing approval: no person decides on a single job",
    "each job": "a person at each holder decides on each job",
}


def _smallest(agreement: Agreement) -> str:
    count, smallest = len(agreement.holders), agreement.smallest_set
    if smallest == count:
        return f"all {count} holders, or nobody"
    return f"all {count} holders; at least {smallest} of them when the others have signed that they leave a job"


def _party(party: Party, roster: Roster) -> str:
    member = roster.by_name.get(party.name)
    is_known = member is not None and member.digest() == party.descriptor_digest
    known = quoted(member.organisation) if member and is_known else "NOT ON THE ROSTER WITH THESE KEYS"
    return f"{party.name}, {known}, keys {words_of(party.descriptor_digest, MEMBER_WORDS)}"


def _state(contract: Contract, now: int) -> str:
    state = contract.state(now)
    if not contract.missing:
        return f"{state}; every party has signed"
    asked = "not signed yet by" if state is State.PROPOSED else "never signed by"
    return f"{state}; {asked} {', '.join(contract.missing)}"


def _notices(contract: Contract) -> list[str]:
    ordered = sorted(contract.notices, key=lambda notice: (notice.at, notice.member, notice.number))
    return [
        _line(notice.word, f"{notice.member}, {moment(notice.at)}, notice {notice.number}: {quoted(notice.reason)}")
        for notice in ordered
    ]


def _overlap(overlap: Overlap) -> str:
    other, whose = overlap.other, "the same merchant" if overlap.same_merchant else "another merchant"
    return _line(
        "WARNING",
        f"{whose} ({other.merchant.name}) has the agreement {other.agreement_id} on {other.table} with a set that "
        f"differs only by {', '.join(overlap.holders)}: the difference of two totals would show their figures",
    )


def _line(label: str, text: str) -> str:
    return f"  {label:{_LABEL_WIDTH}} {text}"


def _is_hidden(sign: str, before: str) -> bool:
    ignorable = sign in _INVISIBLE or _within(ord(sign), _VARIATIONS)
    return ignorable or not sign.isprintable() or sign == before == " "


def _within(code: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= code <= last for first, last in ranges)
