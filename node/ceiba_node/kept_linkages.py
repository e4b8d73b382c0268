"""Linkages that may serve several jobs: which of this holder's subjects all the others know (ADR 0028).

In memory alone, and nothing else of a linkage: no key, no token. Where the agreement says so, a holder keeps it once it
has sent all that the job which linked them asks of it, and counts by itself how many jobs it has served.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from ceiba_protocol.errors import LinkageDiffers, LinkageGone, LinkageUsedUp
from ceiba_protocol.linkage.joint import JointQuestion, check_same_linkage
from ceiba_protocol.trust.agreement import KEPT_SECONDS, Mode

log = structlog.get_logger()

MOST_KEPT = 16
"""Linkages; of more the oldest is dropped."""
MOST_SUBJECTS = 4_000_000
"""Of all linkages together, each of at most 0.1 kB; likewise."""


@dataclass
class KeptLinkage:
    """What a job has linked, for later ones."""

    question: JointQuestion
    """What it asked: of whom, of which data, under which agreement."""
    common: frozenset[bytes] | None = field(repr=False)
    """The own subjects that all holders have. None at a holder that was only linked, and once the last job has them."""
    until: int
    """Seconds since 1970 UTC."""
    jobs: int = 1
    """How many it has served, its own with them."""

    @property
    def most_jobs(self) -> int:
        """How many it may serve."""
        joint = self.question.agreement.joint
        return joint.jobs_per_linkage if joint else 1

    @property
    def is_used_up(self) -> bool:
        """Only that it has served so many is kept of it then."""
        return self.jobs >= self.most_jobs


class KeptLinkages:
    """Those of one holder. Safe for several threads, if whoever serves a job does not do so twice at once."""

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._by_job: dict[str, KeptLinkage] = {}
        self._changing = threading.Lock()

    def keep(self, question: JointQuestion, common: frozenset[bytes] | None, now: int) -> None:
        """What this job has linked, if it was revealed and the agreement lets it serve others."""
        plan, made = question.plan, KeptLinkage(question, common, min(now + KEPT_SECONDS, question.agreement.not_after))
        if made.most_jobs == 1 or plan.mode is not Mode.REVEALED or plan.linkage:
            return
        with self._changing:
            self._by_job[question.manifest.job_id] = made
            log.info("linkage.kept", job=question.manifest.job_id)
            while len(self._by_job) > MOST_KEPT or self._subjects > MOST_SUBJECTS:
                self._drop(next(iter(self._by_job)))

    @property
    def _subjects(self) -> int:
        return sum(len(one.common or ()) for one in self._by_job.values())

    def find(self, question: JointQuestion, now: int) -> KeptLinkage:
        """The linkage that a job names, if it may serve that job here.

        Raises LinkageGone, LinkageDiffers, LinkageUsedUp.
        """
        named, me = question.plan.linkage or "", self._holder
        kept = self._by_job.get(named)
        if kept is None or now > kept.until:
            raise LinkageGone(holder=me, job=named)
        check_same_linkage(kept.question.manifest, question.manifest, me)
        if kept.is_used_up:
            raise LinkageUsedUp(holder=me, job=named, limit=kept.most_jobs)
        if kept.common is None and me not in [side.holder for side in question.plan.linked]:
            problem = "this holder had no part in its figures, and has not learnt which of its subjects all know"
            raise LinkageDiffers(job=named, holder=me, problem=problem)
        return kept

    def serve(self, kept: KeptLinkage) -> frozenset[bytes] | None:
        """The subjects, for one job more; with the last one they are kept no more."""
        common, kept.jobs = kept.common, kept.jobs + 1
        if kept.is_used_up:
            kept.common = None
            log.info("linkage.dropped", job=kept.question.manifest.job_id)
        return common

    def drop(self, is_void: Callable[[KeptLinkage], bool]) -> None:
        """Those for which it says so."""
        with self._changing:
            for job in [job for job, kept in self._by_job.items() if is_void(kept)]:
                self._drop(job)

    def _drop(self, job: str) -> None:
        if not self._by_job.pop(job).is_used_up:
            log.info("linkage.dropped", job=job)
