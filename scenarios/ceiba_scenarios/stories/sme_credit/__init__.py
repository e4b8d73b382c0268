"""A bank and seven agencies: a scorecard from what four of them know, private scores with consent, a health index.

Every agency knows one thing about an applicant, and none hands it over. The bank counts with them, in a few linkages,
how its good and bad borrowers are spread over what they know; makes a scorecard of the counts; and scores applicants
who have said yes with points that no agency can read. Five agencies also sell a health index of listed firms, whose
points they know and have approved.

The data are real (data/README.md); the credit codes, and who is unknown to whom, are made up. Every figure is compared
with the same computation on the pooled rows, which in a real space nobody has. The run's folder keeps report.html.
"""

from ceiba_scenarios.stories.sme_credit.alone import rate
from ceiba_scenarios.stories.sme_credit.case import Case
from ceiba_scenarios.stories.sme_credit.index import Index
from ceiba_scenarios.stories.sme_credit.lending import Lending
from ceiba_scenarios.stories.sme_credit.scoring import Scoring
from ceiba_scenarios.stories.sme_credit.world import Size, World
from ceiba_scenarios.story import Lab

FULL = Size(applicants=2_280, newcomers=600, strangers=110, scored=150)
"""The first applications of the file: a minute and a half on two cores."""
SMALL = Size(applicants=560, newcomers=180, strangers=60, scored=24, firms=False, close=0.1)
"""Enough to see that everything works, and too little to learn much from."""


def run(lab: Lab, size: Size = FULL) -> None:
    """A bank alone, then joined: counts, scorecard, scores with consent and without; an index; a report with plots."""
    world = World(size, lab.seed)
    alone = rate(world)
    lab.say("Starting a coordinator, a bank with its loans, agencies that know its applicants, and bank-analyst ...")
    lab.say("Each `ok` compares with the same computation on all rows pooled, which in a real space nobody has.")
    lab.say(f"The bank alone, by a regression on its own columns: AUC {alone.auc:.3f} of those who apply now.")
    with lab.sandbox(world.holders(lab.folder / "members"), schemas=world.schemas()) as sandbox:
        case = Case(lab, world, sandbox)
        case.agree()
        lending = Lending(case, alone)
        card = lending.make_card()
        Scoring(case, card, lending.as_known(lending.newcomers)).score()
        if size.firms:
            Index(case).ask()
        case.verify_receipts()
        case.look_at_the_coordinator()
        case.say_who_saw_what()
        lab.say(f"\nThe report, with plots: {case.write_report()}")
