"""Dominance: no released total may be so much one subject's that it tells that subject's value (PROTOCOL §3.4).

The (n, K) rule: the n largest contributions are at most K percent of the total, for n = 1 and n = 2. Nobody knows the
largest contributions of all holders, so each holder makes sure of more than its share, and says nothing but yes or no.
"""

from ceiba_protocol.disclosure.grade import Disclosure
from ceiba_protocol.program import Node


def dominates(largest: int, total: int, rules: Disclosure) -> bool:
    """Run by a holder on the magnitudes |x| of its own subjects in one cell: whether its largest contribution is too
    much of its own total.

    If it is at most min(K1, K2 / 2) percent at every holder, the largest contribution of all is at most K1 percent of
    the whole total, and the two largest together at most K2 percent. Sufficient, not necessary.
    """
    return 200 * largest > _limit(rules) * total


def cannot_dominate(node: Node, rules: Disclosure) -> bool:
    """Whether the declared bounds exclude dominance by a subject that has one row: every other one of at least
    `minimum_subjects` adds no less than the lower bound."""
    low, high = sorted((abs(node.low), abs(node.high)))
    if node.low <= 0 <= node.high:
        return False
    return 200 * high <= _limit(rules) * (high + (rules.minimum_subjects - 1) * low)


def _limit(rules: Disclosure) -> int:
    """In half percents."""
    return min(2 * rules.dominance_one, rules.dominance_two)
