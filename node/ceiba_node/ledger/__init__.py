"""The holder's own book: what it agreed to, approved, sent and witnessed, on the disk before anything leaves (I2, I9).

What cannot be stored is never sent. Each part of the book is a class of its own over the same file; `Ledger` is all of
them. Mask secrets and audit salts are sealed with the node's storage key, so that a copy of the file alone opens
nothing. Everything else in it is plain: what a person signed or decided must stay readable.

The running node and the commands open the file at the same time: the commands write decisions, stops, signatures and
notices, and the node reads them within a second.
"""

from ceiba_node.ledger.agreements import Agreements
from ceiba_node.ledger.disclosure import Budget, Candidates, Charge, Disclosures, Entry, Settled
from ceiba_node.ledger.documents import Documents
from ceiba_node.ledger.jobs import Answer, Job, Jobs, Left, Payload
from ceiba_node.ledger.people import People, Waiting
from ceiba_node.ledger.scores import KeptAnswer, KeptModel, Scored, Scores
from ceiba_node.ledger.tables import VERSION
from ceiba_node.ledger.witnessing import Fault, Witnessing

__all__ = [
    "VERSION",
    "Answer",
    "Budget",
    "Candidates",
    "Charge",
    "Entry",
    "Fault",
    "Job",
    "KeptAnswer",
    "KeptModel",
    "Ledger",
    "Left",
    "Payload",
    "Scored",
    "Settled",
    "Waiting",
]


class Ledger(Jobs, Agreements, People, Witnessing, Documents, Disclosures, Scores):
    """The ledger file at `path`. Safe for several threads and processes."""
