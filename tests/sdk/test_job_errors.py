"""Why a job ended without a result, as the analyst and programs read it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ceiba.cli import app
from ceiba.space import Space
from ceiba_protocol.errors import (
    BadModel,
    BadQuestion,
    CeibaError,
    ClusterTooSmall,
    Collinear,
    ColumnConcentrated,
    ColumnWithheld,
    ConstantColumn,
    EngineFailed,
    Fault,
    ForbiddenByPolicy,
    JobFailed,
    JobRefused,
    NoEvents,
    NotConverged,
    NotFinite,
    Separation,
    TooFewRows,
    TotalRejected,
    WeightsConcentrated,
)
from ceiba_protocol.job import State
from ceiba_protocol.trust.documents import Refusal
from ceiba_protocol.v1.jobs_pb2 import JobStatus
from tests.support.coordinator import Coordinator, merchant_home
from tests.support.members import HOLDERS, NOW, World, signed_by
from tests.support.pooled_heart import heart as pooled_heart

SQL = "SELECT COUNT(*) AS n FROM health.heart"

REASONS: list[CeibaError] = [
    Separation(column="C(sex)[T.Male]"),
    Collinear(column="{age}"),
    ConstantColumn(column="age"),
    TooFewRows(parameters=4, least=40),
    ColumnWithheld(columns="one of stage=b, stage=c"),
    ColumnConcentrated(column="cost"),
    NotConverged(iterations=30),
    WeightsConcentrated(),
    NotFinite(what="a weight"),
    NoEvents(what="these rows"),
    ClusterTooSmall(least=5),
    BadModel(problem="the time can be negative"),
    ForbiddenByPolicy(holder="cleveland", rule="no fits"),
    TotalRejected(problem="hungary summed at another state of the fit"),
    EngineFailed(holder="cleveland"),
]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def coordinator(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    made = Coordinator(world)
    made.add(world.agreement)
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("ceiba.space.secure_channel", lambda address, identity: made.channel())
    monkeypatch.setattr("ceiba.space.connect", lambda **_: Space(merchant_home(world, tmp_path)))
    return made


@pytest.fixture
def space(world: World, coordinator: Coordinator, tmp_path: Path) -> Space:
    return Space(merchant_home(world, tmp_path))


def refuse(coordinator: Coordinator, world: World, reason: CeibaError) -> None:
    """The holder refuses whatever is asked from now on, in the middle of it."""
    submit = coordinator.Jobs_Submit

    def refused(request: Any) -> JobStatus:
        submit(request)
        question = world.read(request.manifest)
        refusal = Refusal(
            job_id=question.manifest.job_id,
            manifest_digest=question.digest,
            holder=HOLDERS[0],
            code=reason.code,
            fields=reason.fields,
        )
        coordinator.status = JobStatus(state=State.FAILED, refusal=signed_by(HOLDERS[0], refusal))
        return coordinator.status

    coordinator.Jobs_Submit = refused  # type: ignore[method-assign]


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.code)
def test_a_holders_reason_reaches_the_analyst_once_with_its_remedy(
    world: World, space: Space, coordinator: Coordinator, reason: CeibaError
) -> None:
    refuse(coordinator, world, reason)
    with pytest.raises(JobFailed if reason.fault is Fault.US else JobRefused) as caught:
        space.sql(SQL).run()
    error = caught.value
    assert str(error).startswith(f"{HOLDERS[0]} refused the job") or isinstance(error, JobFailed)
    assert str(error).count(reason.public) == str(error).count(reason.what_to_do) == 1
    assert error.what_to_do == reason.what_to_do and str(error).endswith(reason.what_to_do)
    assert type(error.reason) is type(reason) and error.reason.fields == reason.fields
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(("reason", "code"), [(Separation(column="age"), 3), (EngineFailed(holder="cleveland"), 4)])
def test_the_command_line_exits_by_whose_part_failed(
    world: World, coordinator: Coordinator, reason: CeibaError, code: int
) -> None:
    refuse(coordinator, world, reason)
    result = CliRunner().invoke(app, ["query", SQL])
    assert isinstance(result.exception, CeibaError) and result.exception.fault.exit_code == code


def test_a_newer_versions_reason_is_named_by_its_code(world: World, space: Space, coordinator: Coordinator) -> None:
    class Unheard(CeibaError):
        code, fault, status = "unheard_of", Fault.CALLER, "ABORTED"
        text, remedy = "What {is_this}?", ""

    refuse(coordinator, world, Unheard(is_this="new"))
    with pytest.raises(JobFailed, match="unheard_of") as caught:
        space.sql(SQL).run()
    assert caught.value.reason is not None and caught.value.reason.code == "internal_error"


def test_more_iterations_can_be_allowed_as_the_remedy_says() -> None:
    heart = pooled_heart()
    with pytest.raises(NotConverged):
        heart.logistic("I(diagnosis > 0) ~ age", max_iterations=1).run()
    with pytest.raises(NotConverged):
        heart.kmeans("age + max_heart_rate", 3, max_iterations=1).run()
    with pytest.raises(NotConverged):
        heart.cox("sex", "age", heart.diagnosis > 0, max_iterations=1).run()
    assert heart.logistic("I(diagnosis > 0) ~ age", max_iterations=100).run().iterations < 30
    for refused in (0, 101):
        with pytest.raises(BadQuestion, match="max_iterations"):
            heart.logistic("I(diagnosis > 0) ~ age", max_iterations=refused)
