"""What a merchant reads while a job waits."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ceiba.progress import in_words, share_done, show, show_nothing, shown_by_default, unanswered
from ceiba_protocol.job import State
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
            JobStatus(holders=THREE, approved=THREE, shared=THREE[:1], online=THREE, state=State.WAITING_FOR_SHARES),
            "1 of 3 holders have counted for the gate; waiting for hungary, zurich",
        ),
        (
            JobStatus(holders=THREE, approved=THREE, online=THREE, state=State.WAITING_FOR_ITERATIONS),
            "round 1 of the fit among 3 holders",
        ),
        (
            JobStatus(
                holders=FOUR,
                left=["utrecht"],
                approved=THREE,
                shared=THREE,
                online=THREE[1:],
                iterations=3,
                state=State.WAITING_FOR_ITERATIONS,
            ),
            "round 4 of the fit among 3 holders; waiting for cleveland (offline); utrecht left",
        ),
        (
            JobStatus(
                holders=THREE,
                approved=THREE,
                shared=THREE,
                submitted=THREE[1:],
                online=THREE,
                iterations=9,
                state=State.WAITING_FOR_ITERATIONS,
            ),
            "2 of 3 holders have answered; waiting for cleveland",
        ),
        (
            JobStatus(holders=FOUR, left=["utrecht"], approved=THREE, submitted=THREE, online=FOUR),
            "3 of 3 holders have answered; utrecht left",
        ),
        (
            JobStatus(holders=THREE, approved=THREE[:1], online=THREE, messages_in_all=16),
            "1 of 3 holders have approved; waiting for hungary, zurich",
        ),
        (
            JobStatus(holders=THREE, approved=THREE, online=THREE, messages=5, messages_in_all=16),
            "5 of 16 messages of the join",
        ),
        (
            JobStatus(holders=THREE, approved=THREE, online=THREE[:2], messages=5, messages_in_all=16),
            "5 of 16 messages of the join; waiting for zurich (offline)",
        ),
    ],
)
def test_progress_names_whom_a_job_waits_for(status: JobStatus, words: str) -> None:
    assert in_words(status) == words


@pytest.mark.parametrize("shared", [[], THREE])
def test_a_bar_only_grows_and_is_full_once_the_job_has_ended(shared: list[str]) -> None:
    def at(state: State, **done: Any) -> float:
        return share_done(JobStatus(holders=THREE, state=state, **done))

    shares = [at(State.WAITING_FOR_APPROVALS, approved=THREE[:n]) for n in range(3)]
    if shared:
        shares = [at(State.WAITING_FOR_SHARES, approved=THREE, shared=shared[:n]) for n in range(4)]
    approved: dict[str, Any] = {"approved": THREE, "shared": shared}
    shares += [at(State.WAITING_FOR_ITERATIONS, **approved, iterations=n) for n in range(1, 40)]
    shares += [at(State.WAITING_FOR_ITERATIONS, **approved, iterations=39, submitted=THREE[:n]) for n in (1, 2)]
    assert shares == sorted(set(shares)) and shares[0] >= 0 and shares[-1] < 1
    assert at(State.DONE, **approved, submitted=THREE) == at(State.FAILED) == 1


def test_the_bar_of_a_join_grows_with_its_messages() -> None:
    waiting = [JobStatus(holders=THREE, approved=THREE[:n], messages_in_all=16) for n in range(4)]
    waiting += [JobStatus(holders=THREE, approved=THREE, messages=n, messages_in_all=16) for n in range(1, 16)]
    shares = [share_done(status) for status in waiting]
    assert shares == sorted(set(shares)) and shares[0] == 0 and shares[-1] < 1


def test_an_expired_fit_names_who_was_away() -> None:
    """Or everybody, because who has sent a share of the round is not told."""
    expired = JobStatus(holders=THREE, approved=THREE, shared=THREE, iterations=2, state=State.EXPIRED)
    assert unanswered(expired) == THREE
    expired.online.extend(THREE[:2])
    assert unanswered(expired) == ["zurich"]
    before_the_gate = JobStatus(holders=THREE, approved=THREE, shared=["hungary"], online=THREE, state=State.EXPIRED)
    assert unanswered(before_the_gate) == ["cleveland", "zurich"]


ROUND = JobStatus(holders=THREE, approved=THREE, online=THREE, iterations=3, state=State.WAITING_FOR_ITERATIONS)


def test_a_terminal_shows_the_round(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with show()() as report:
        report(ROUND)
    assert "round 4 of the fit among 3 holders" in capsys.readouterr().err


def test_a_notebook_shows_the_round_below_the_cell_and_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython's own display, in a kernel that only writes down what it is shown."""
    shown: list[str] = []
    handle = SimpleNamespace(update=lambda html: shown.append(html.data))

    def display(html: Any, display_id: bool) -> Any:
        shown.append(html.data)
        return handle

    shell = SimpleNamespace(kernel=object())
    made = SimpleNamespace(HTML=lambda text: SimpleNamespace(data=text), display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", made)
    with shown_by_default()() as report:
        report(ROUND)
    assert len(shown) == 3 and "round 4 of the fit" in shown[1] and "<progress" in shown[1] and shown[2] == ""


def test_a_script_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not sys.stderr.isatty() and shown_by_default() is show_nothing
