"""What a question means before it is asked: who sees what, how large it is, and about how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ceiba.query import Query
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.rounds import layout_of
from ceiba_protocol.sums.paillier import ciphertext_bytes
from ceiba_protocol.trust.agreement import Agreement
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.rendering import moment, quoted, rules_of
from ceiba_protocol.trust.roster import Descriptor

SECONDS_FIXED = 0.1
"""Messages and durable writes of one job on a local network."""
SECONDS_PER_ROW_AND_SUM = 4e-9
SECONDS_PER_DECRYPTION = 0.01
"""Rough unit costs on two 2.5 GHz cores at 3072 bits; `make bench` measures them."""


@dataclass(frozen=True)
class Terms:
    """The agreement that a question would be asked under."""

    agreement: Agreement
    asked: int
    """How many of its jobs were asked."""

    def lines(self) -> list[str]:
        agreement = self.agreement
        left = agreement.jobs - self.asked
        decides = "a person at each holder decides" if agreement.approval == "each job" else "no person has to decide"
        return [
            f"Agreement: {agreement.agreement_id[:12]}, for {quoted(agreement.purpose)}, until "
            f"{moment(agreement.not_after)}; {left} of {agreement.jobs} jobs are left; {decides}",
            f"Small cells: {rules_of(agreement.disclosure)}",
        ]


@dataclass(frozen=True)
class NoTerms:
    """Why there is no agreement that it could be asked under."""

    error: CeibaError

    def lines(self) -> list[str]:
        return [f"Agreement: none. {self.error}"]


@dataclass(frozen=True)
class Explanation:
    """The facts behind `query.explain()`; all of them public, none asked of a holder's data."""

    question: str
    holders: tuple[str, ...]
    cells: int
    sums: int
    ciphertexts: int
    bytes_per_holder: int
    seconds: float
    terms: Terms | NoTerms

    def parties(self) -> dict[str, str]:
        """Each party, and what it sees."""
        return {
            "merchant": f"the totals over all {len(self.holders)} holders (cells: {self.cells}, sums in each: "
            f"{self.sums}); no holder's own figures",
            "each holder": "the question; no other holder's figures, and not the totals",
            "coordinator": "the question, who answers and when, and ciphertexts that it cannot open",
        }

    def __str__(self) -> str:
        lines = [self.question, "", "Who sees what:"]
        lines += [f"  {party:12} {sees}" for party, sees in self.parties().items()]
        lines += [
            "",
            *self.terms.lines(),
            f"Holders: {', '.join(self.holders)} ({self._who()})",
            f"Size: {self.bytes_per_holder:,} bytes from each holder (ciphertexts: {self.ciphertexts})",
            f"Time: about {self.seconds:.1f} s",
            "Not protected: small cells are released as they are; no disclosure rule is enforced yet.",
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _who(self) -> str:
        smallest = self.terms.agreement.smallest_set if isinstance(self.terms, Terms) else len(self.holders)
        fewer = f"; at least {smallest} when the others have left the job"
        return "all of them, or no answer" if smallest >= len(self.holders) else f"all of them{fewer}"


def explain(query: Query, offers: Mapping[str, Offer], merchant: Descriptor, terms: Terms | NoTerms) -> Explanation:
    """Everything follows from the plan, the schema, the agreement and the published capacities, as every party
    computes them; without an agreement, for all holders of the table."""
    assert merchant.encryption_key is not None
    program, modulus = query.program, merchant.encryption_key.n
    holders = terms.agreement.holder_names if isinstance(terms, Terms) else tuple(sorted(offers))
    capacities = [offers[holder].row_capacity for holder in holders if holder in offers]
    layout = layout_of(program, capacities, modulus.bit_length())
    rows = max(capacities, default=0)
    scan = SECONDS_PER_ROW_AND_SUM * rows * len(program.sums)
    return Explanation(
        question=repr(query),
        holders=holders,
        cells=program.cells,
        sums=len(program.sums),
        ciphertexts=layout.ciphertexts,
        bytes_per_holder=layout.ciphertexts * ciphertext_bytes(modulus),
        seconds=SECONDS_FIXED + scan + SECONDS_PER_DECRYPTION * layout.ciphertexts,
        terms=terms,
    )
