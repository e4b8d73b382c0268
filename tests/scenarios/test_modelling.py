"""Models on a running space: judged out of sample under the holders' rules, and repeated on the versions of then."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_squared_error

from ceiba.models import FittedModel
from ceiba.space import Space
from ceiba_protocol.errors import BadQuestion, NoAgreement
from ceiba_protocol.expression import split_key
from ceiba_protocol.program import part_of, subject_digest
from ceiba_scenarios import Sandbox
from ceiba_scenarios.stories.health_sharing import TABLE, split_by_hospital
from tests.support.fitting import by_institution, heart, lung, lung_rows
from tests.support.waiting import until

LUNG = "research.lung"
PURPOSE = "models of heart disease"
EVENT = "I(diagnosis > 0) ~ age + C(sex)"
pytestmark = pytest.mark.slow


def trial_of(place: int) -> pd.DataFrame:
    """The patients of about a quarter of the institutions."""
    return by_institution(lung_rows(), holders=4)[f"inst-{place}"].drop(columns="inst")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Heart disease of grade internal, the lung trial of grade public, each at four hospitals."""
    files = split_by_hospital(tmp_path_factory.mktemp("models") / "hospitals")
    holders = {name: {TABLE: file, LUNG: trial_of(place)} for place, (name, file) in enumerate(sorted(files.items()))}
    with Sandbox(holders, schemas={TABLE: heart("internal"), LUNG: lung()}) as made:
        yield made


@pytest.fixture(scope="module")
def space(sandbox: Sandbox) -> Space:
    made = sandbox.merchant("bank-a", agreed=False)
    for table in (TABLE, LUNG):
        sandbox.agree(made, table, purpose=PURPOSE)
    return made


@pytest.mark.long
def test_an_event_is_cross_validated_after_a_fit_on_everybody_and_before_one(space: Space) -> None:
    """No answer is withheld as nearly the same as an earlier one, in either order; a mean comes too late then."""
    patients = space.table(TABLE)
    fitted = patients.logistic(EVENT).run()
    found = patients.cross_validate(EVENT, "binomial", seed=PURPOSE, edges=(0.45, 0.65)).run()
    assert found.roc is not None and found.roc.auc is not None and 0.65 < found.roc.auc < 0.85
    assert sum((one.events or 0) + (one.others or 0) for one in found.bins) == fitted.rows == 920
    assert all(one.observed is not None and one.low - 0.1 < one.observed < one.high + 0.1 for one in found.bins)
    assert patients.logistic(EVENT).run().coefficients == fitted.coefficients
    with pytest.raises(BadQuestion, match=r"question \d of 10 .* an earlier answer is too near"):
        patients.cross_validate("age ~ C(sex)", seed=PURPOSE).run()
    with pytest.raises(NoAgreement, match="another purpose than the split's seed, tuned"):
        patients.cross_validate(EVENT, "binomial", seed="tuned").run()


def test_a_mean_of_public_data_is_cross_validated_with_any_seed(space: Space) -> None:
    found = space.table(LUNG).cross_validate("ph_karno ~ age + C(sex)", seed="any", folds=2).run()
    rows = lung_rows().dropna(subset=["ph_karno"])
    part = rows.patient_id.map(lambda who: part_of(split_key("any"), subject_digest(str(who)), 2))
    total = 0.0
    for number, fit in enumerate(found.fits):
        held_out = rows[part == number]
        total += len(held_out) * mean_squared_error(held_out.ph_karno, fit.predict(held_out))
    assert found.loss == pytest.approx(total / len(rows), rel=1e-6)


def test_a_fit_is_repeated_on_the_versions_that_it_was_made_of(sandbox: Sandbox, space: Space, tmp_path: Path) -> None:
    trial = space.table(LUNG)
    cox = trial.cox("age + sex", time="time", event="status").run()
    np.testing.assert_allclose(cox.coefficients, [0.017045, -0.513219], atol=5e-7)
    assert set(cox.versions) == set(space.roster.table(LUNG).holders)
    path = tmp_path / "model.json"
    path.write_text(cox.model.to_json())

    holder = min(cox.versions)
    sandbox.publish(holder, LUNG, trial_of(0).iloc[:-10])

    def is_offered() -> bool:
        (entry,) = (one for one in space.catalogue() if one.name == LUNG)
        return entry.offers({})[holder].version != cox.versions[holder]

    until(is_offered, "the new version")
    now = space.table(LUNG).cox("age + sex", time="time", event="status").run()
    assert now.rows == 218 and now.coefficients != cox.coefficients
    assert {name for name in cox.versions if cox.versions[name] != now.versions[name]} == {holder}

    kept = FittedModel.from_json(path.read_text())
    again = space.table(LUNG, version=kept.origin.versions).cox("age + sex", time="time", event="status").run()
    assert again.model.values == kept.values and again.versions == cox.versions
