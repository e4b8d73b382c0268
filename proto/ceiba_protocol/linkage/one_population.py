"""Exact joint answers about the same subjects are all about one population (ADR 0029).

A filter that leaves out a hundred firms, one of which is in common, makes the difference of two answers that one firm's
value; on either side; and no holder can see that it is one. So while an exact answer is remembered, further ones about
what two holders have in common have the same filters, and link the same tables by the same identifiers. What is asked
otherwise is asked with noise. How columns are divided, and what a new version of a dataset changes, each holder
compares on its own rows.
"""

from collections.abc import Iterable

from ceiba_protocol.errors import AskedOtherwise
from ceiba_protocol.expression import Expression, Logic
from ceiba_protocol.linkage.joint import JointManifest
from ceiba_protocol.trust.agreement import Mode


def is_comparable(one: JointManifest, other: JointManifest, me: str) -> bool:
    """Whether the two are about subjects that this holder has in common with the same other one."""
    return not _populations(one, me).keys().isdisjoint(_populations(other, me))


def check_one_population(asked: JointManifest, earlier: Iterable[JointManifest], me: str) -> None:
    """Run by each holder before it approves an exact joint question: it is about the same subjects as every earlier
    one with which it is comparable, and all of its own tables are of the same. Raises AskedOtherwise."""
    for side in asked.plan.sides:
        if len({_terms(plan.filter) for plan in side.plans}) > 1:
            raise AskedOtherwise(what=f"several filters of {side.table} in one question")
    for other in earlier:
        _compare(asked, other, me)


def _compare(asked: JointManifest, earlier: JointManifest, me: str) -> None:
    before = _populations(earlier, me)
    for member, holders in _populations(asked, me).items():
        if member not in before:
            continue
        if before[member] != holders:
            raise AskedOtherwise(what=f"what {', '.join(before[member])} have in common, and not {', '.join(holders)}")
        for name in holders:
            mine, theirs = asked.plan.side_of(name), earlier.plan.side_of(name)
            if (mine.table, mine.on) != (theirs.table, theirs.on):
                raise AskedOtherwise(what=f"{theirs.table}, joined on {theirs.on}")
            if mine.plans[0].schema_digest != theirs.plans[0].schema_digest:
                raise AskedOtherwise(what=f"another schema of {theirs.table}")
            if _terms(mine.plans[0].filter) != _terms(theirs.plans[0].filter):
                raise AskedOtherwise(what=f"another filter of {mine.table}")


def _populations(manifest: JointManifest, me: str) -> dict[str, tuple[str, ...]]:
    """By each other holder, all those whose common subjects figures are about."""
    plan = manifest.plan
    if plan.mode is not Mode.HIDDEN:
        return {other: tuple(plan.holders) for other in plan.holders if other != me}
    pairs = [(plan.base.holder, side.holder) for side in plan.joined]
    return {other: tuple(sorted(pair)) for pair in pairs if me in pair for other in pair if other != me}


def _terms(condition: Expression | None) -> frozenset[str]:
    """Its conjuncts, in words: their order says nothing."""
    if condition is None:
        return frozenset()
    if isinstance(condition, Logic) and condition.op == "and":
        return frozenset().union(*map(_terms, condition.terms))
    return frozenset({repr(condition)})
