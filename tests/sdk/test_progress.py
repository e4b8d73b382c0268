"""What a merchant reads while a job waits."""

import pytest

from ceiba.progress import in_words
from ceiba_protocol.v1.jobs_pb2 import JobStatus

THREE = ["cleveland", "hungary", "zurich"]
FOUR = ["cleveland", "hungary", "utrecht", "zurich"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            JobStatus(holders=THREE, approved=THREE[:2], online=THREE, pending=["zurich"]),
            "2 of 3 holders have approved; waiting for a person at zurich",
        ),
        (
            JobStatus(holders=THREE, approved=THREE, submitted=THREE[:1], online=THREE[:2]),
            "1 of 3 holders have answered; waiting for hungary, zurich (offline)",
        ),
        (
            JobStatus(holders=FOUR, left=["utrecht"], approved=["zurich"], online=FOUR),
            "1 of 3 holders have approved; waiting for cleveland, hungary; utrecht left",
        ),
        (
            JobStatus(holders=FOUR, left=["utrecht"], approved=THREE, submitted=THREE, online=FOUR),
            "3 of 3 holders have answered; utrecht left",
        ),
    ],
)
def test_progress_names_whom_a_job_waits_for(status: JobStatus, words: str) -> None:
    assert in_words(status) == words
