"""A fit that waits for a person: whoever decides reads what is fitted to which rows, and who would see what."""

from ceiba.query import Table
from tests.node.test_commands import House, agree, house, wait_for_a_person

__all__ = ["house"]


def fit_waits(here: House) -> list[str]:
    """What `approvals show` prints."""
    heart = Table(here.world.schema, None)  # type: ignore[arg-type]  # nothing is asked
    rows = heart.filter(heart.age > 40, heart.sex == "male")
    model = rows.glm("age ~ log(chol) + C(sex)", family="poisson", offset="chol", weights="age")
    here.world.plan = model.query.plan()
    agree(here)
    wait_for_a_person(here)
    return here.run("approvals", "show", "0b").splitlines()


def test_who_decides_reads_the_whole_fit(house: House) -> None:
    """The rows, the outcome, the columns, weights and offset."""
    shown = fit_waits(house)
    assert shown[:3] == [
        "Question about health.heart",
        "  where (age > 40 AND sex = 'male')",
        "  fit = glm(family: poisson, response: age, columns: (log(chol), sex = 'male'), offset: chol, weights: age)",
    ]


def test_who_decides_reads_what_each_would_see_and_what_refuses_it(house: House) -> None:
    text = "\n".join(fit_waits(house))
    for told in (
        "the final figures alone, over all 3 holders: coefficients (3) and their covariance",
        "the sums of every round over all 3 holders",
        "how many rounds there are",
        "no fit         if there are fewer than",
        "about 7 rounds of up to",
        "operations     filter, glm",
    ):
        assert told in text
    facts = house.json("approvals", "show", "0b")
    assert facts["explanation"]["fit"]["rounds"] == 7 and facts["columns"] == ["age", "chol", "sex"]
