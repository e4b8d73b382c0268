"""A joint plan in words: what the merchant means and what each holder reads before it decides."""

from ceiba_protocol.linkage.joint import JointPlan, SidePlan
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.wording import describe


def describe_joint(plan: JointPlan) -> list[str]:
    """The whole of a joint plan in words, a line for each of its parts."""
    tables = " with ".join(side.table for side in plan.sides)
    return [
        f"Join of {tables}, {plan.mode}",
        *([f"  linkage: of the job {plan.linkage}, used again"] if plan.linkage else []),
        *_side_lines("base", plan.base),
        *(line for side in plan.joined for line in _side_lines("joined", side)),
        *(line for side in plan.linked for line in _side_lines("linked", side)[:1]),
    ]


def _side_lines(role: str, side: SidePlan) -> list[str]:
    lines = [f"  {role}: {side.holder}, on {side.on}"]
    return lines + [f"    {line}" for plan in side.plans for line in describe(plan)]


def rests_on(plan: JointPlan) -> str:
    """Whose word an exact answer rests on, for a person who decides on it."""
    base = f"{plan.base.holder}'s word for how many subjects are behind its groups"
    operator = "the operator's word for which subjects all holders have in common"
    if plan.mode is Mode.CARDINALITY:
        words = operator if len(plan.sides) > 2 else f"{plan.base.holder}'s word for how many subjects match"
    else:
        words = f"{base}, and on {operator}" if plan.mode is Mode.REVEALED else base
    return f"The exact answer rests on {words}; nobody can check it."
