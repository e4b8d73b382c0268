"""How many cells the gate is likely to withhold, from public facts alone (PROTOCOL §3.2).

The model: a holder's rows fall into cells independently, in proportion to each cell's share of them, so that the number
in one cell is Poisson distributed. A share is the product of its keys' published shares (`Column.shares`), and where
none are declared, all values of a key are alike.

What it does not know: which rows the filter keeps (it counts all of them, so with a filter more cells are withheld than
it says), that values go together, how many rows belong to one subject, which measures are rarely present, how far
holders differ, dominance, and earlier answers that lie too near.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from ceiba_protocol.disclosure.gate import GateForm, Threshold
from ceiba_protocol.plan import Key, Program
from ceiba_protocol.program import Load, Node, children, evaluate
from ceiba_protocol.schema import Column, Schema

LARGEST_CONVOLVED = 40
"""The largest threshold whose distribution is computed term by term; above, a sum over holders is taken as normal."""
MANTISSA_STEPS = 2048
"""Shares are rounded to one part in so many, so that cells which are nearly alike are computed once."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is likely to be withheld from one answer."""

    chances: Numbers
    """[cells]: the probability that a cell's rows fail the gate; in the order of the layout."""

    @property
    def expected(self) -> float:
        """How many cells are withheld on average; at most `chances.size`."""
        return float(self.chances.sum())


def forecast(
    program: Program, schema: Schema, capacities: Sequence[int], gate: GateForm, variance: int = 0
) -> Forecast:
    """Run by anybody: which cells of an answer are likely to be withheld by this gate.

    `capacities`: each holder's published one, a power of two with at least half as many rows. `variance`: of the noise
    on a count's total; needed where the gate is noisy, and unused elsewhere.
    """
    shares, place = np.unique(_rounded(cell_shares(program, schema)), return_inverse=True)
    rows = np.array([rows_of(capacity) for capacity in capacities])
    if gate.noisy:
        chances = noisy_chances(rows.sum() * shares, gate.threshold.least, variance)
    else:
        chances = exact_chances(np.outer(rows, shares), gate.threshold, gate.hides_zeros)
    return Forecast(chances[place])


def rows_of(capacity: int) -> float:
    """A holder's rows, as far as its capacity tells: the middle between that and half of it; 1 is exact."""
    return 0.75 * capacity if capacity > 1 else 1.0


# --- shares ----------------------------------------------------------------------------------------------------


def cell_shares(program: Program, schema: Schema) -> Numbers:
    """[cells]: each cell's part of the rows, in the order of the layout; they add up to 1."""
    shares = np.ones(1)
    for key in program.keys:
        shares = np.multiply.outer(shares, key_shares(key, schema)).reshape(-1)
    return shares


def key_shares(key: Key, schema: Schema) -> Numbers:
    """[values of the key]: from the published shares of the one column that it reads; without them, all alike.

    NULL has no published share, and is taken to be as frequent as the column's rarest value.
    """
    column = _published(key, schema)
    if column is None:
        return np.full(len(key.values), 1 / len(key.values))
    places = {value: place for place, value in enumerate(key.values)}
    found = np.zeros(len(key.values))
    for code, share in _value_shares(column):
        value = code if isinstance(key.node, Load) else evaluate(key.node, {column.name: code})
        found[places[value]] += share
    return np.asarray(found / found.sum())


def keys_without_shares(program: Program, schema: Schema) -> list[str]:
    """The names of the keys whose values are all taken for equally frequent."""
    return [key.name for key in program.keys if _published(key, schema) is None]


def _published(key: Key, schema: Schema) -> Column | None:
    """The column that the key is made of, if it is one and its shares are published."""
    names = _columns_read(key.node)
    column = schema.column(next(iter(names))) if len(names) == 1 else None
    return None if column is None or column.shares is None else column


def _value_shares(column: Column) -> list[tuple[int | None, float]]:
    assert column.codes is not None and column.shares is not None  # the schema checks it
    shares = [float(share) for share in column.shares]
    known: list[tuple[int | None, float]] = list(zip(column.codes, shares, strict=True))
    return [*known, (None, min(shares))] if column.nullable else known


def _columns_read(node: Node) -> frozenset[str]:
    if isinstance(node, Load):
        return frozenset({node.name})
    return frozenset().union(*map(_columns_read, children(node)))


def _rounded(values: Numbers) -> Numbers:
    mantissas, exponents = np.frexp(values)
    return np.ldexp(np.round(mantissas * MANTISSA_STEPS) / MANTISSA_STEPS, exponents)


# --- chances ---------------------------------------------------------------------------------------------------


def exact_chances(means: Numbers, threshold: Threshold, hides_zeros: bool) -> Numbers:
    """[points]: P(Σ_i min(N_i, cap) < least) for N_i ~ Poisson(means[i]); `means` [holders, points].

    Without the cell that nobody is in, unless zeros are hidden: it is released as empty.
    """
    if threshold.least > LARGEST_CONVOLVED:
        below = _normal_below(means, threshold)
    else:
        below = _convolved_below(means, threshold)
    return below if hides_zeros else np.maximum(below - np.exp(-means.sum(axis=0)), 0)


def noisy_chances(means: Numbers, least: int, variance: int) -> Numbers:
    """[points]: P(N + noise < least) for N ~ Poisson(means), normal noise of this variance, and so a nearly normal
    sum; `means` [points] of all holders together."""
    return _normal_cdf((least - 0.5 - means) / np.sqrt(means + max(variance, 1e-9)))


def _convolved_below(means: Numbers, threshold: Threshold) -> Numbers:
    """Holder after holder, the distribution of the sum so far below `least`; what reaches it never comes back."""
    sums = np.zeros((threshold.least, means.shape[1]))
    sums[0] = 1
    for own in means:
        counts = _capped_poisson(own, threshold.cap)
        before, sums = sums, np.zeros_like(sums)
        for count in range(min(threshold.cap + 1, threshold.least)):
            sums[count:] += before[: threshold.least - count] * counts[count]
    return np.asarray(sums.sum(axis=0))


def _capped_poisson(means: Numbers, cap: int) -> Numbers:
    """[cap + 1, points]: P(min(N, cap) = j)."""
    found = np.empty((cap + 1, len(means)))
    found[0] = np.exp(-means)
    for count in range(1, cap):
        found[count] = found[count - 1] * means / count
    found[cap] = np.maximum(1 - found[:cap].sum(axis=0), 0)
    return found


def _normal_below(means: Numbers, threshold: Threshold) -> Numbers:
    """The same with N_i ~ Normal(mean, mean), and the sum normal with the moments of the capped parts.

    For z = (cap − μ)/σ: E min = μΦ(z) − σφ(z) + cap·(1 − Φ(z)), E min² = (μ² + σ²)Φ(z) − σ(μ + cap)φ(z) +
    cap²·(1 − Φ(z)).
    """
    cap, deviations = threshold.cap, np.sqrt(np.maximum(means, 1e-12))
    z = (cap - means) / deviations
    below, density = _normal_cdf(z), np.exp(-z * z / 2) / sqrt(2 * np.pi)
    first = means * below - deviations * density + cap * (1 - below)
    second = (means**2 + deviations**2) * below - deviations * (means + cap) * density + cap**2 * (1 - below)
    variance = np.maximum((second - first**2).sum(axis=0), 1e-12)
    return _normal_cdf((threshold.least - 0.5 - first.sum(axis=0)) / np.sqrt(variance))


def _normal_cdf(z: Numbers) -> Numbers:
    flat = [(1 + erf(value / sqrt(2))) / 2 for value in z.reshape(-1).tolist()]
    return np.array(flat).reshape(z.shape)
