"""A joint plan in words: what the merchant means and what each holder reads before it decides."""

from ceiba_protocol.disclosure.grade import as_rho
from ceiba_protocol.linkage.joint import JointPlan, SidePlan
from ceiba_protocol.trust.agreement import Mode
from ceiba_protocol.trust.documents import NoiseTerms
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


def rests_on(plan: JointPlan, noise: NoiseTerms | None) -> str:
    """What covers an answer, for a person who decides on it: noise, or whose word it is."""
    base = f"{plan.base.holder}'s word for how many subjects are behind its groups"
    operator = "the operator's word for which subjects all holders have in common"
    if plan.mode is Mode.CARDINALITY:
        words = operator if len(plan.sides) > 2 else f"{plan.base.holder}'s word for how many subjects match"
    else:
        words = f"{base}, and on {operator}" if plan.mode is Mode.REVEALED else base
    if noise is not None:
        also = f", and rests on {operator}" if plan.mode is Mode.REVEALED else ""
        return f"The answer carries noise of both holders of each pair, ρ {as_rho(noise.rho)} in all{also}."
    return f"The exact answer rests on {words}; nobody can check it."
