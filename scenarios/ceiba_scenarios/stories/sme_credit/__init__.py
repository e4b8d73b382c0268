"""A bank and seven agencies: a scorecard of what four of them know, private scores with consent, a health index.

draft
"""

from ceiba_scenarios.stories.sme_credit.alone import rate
from ceiba_scenarios.stories.sme_credit.case import Case
from ceiba_scenarios.stories.sme_credit.index import Index
from ceiba_scenarios.stories.sme_credit.lending import Lending
from ceiba_scenarios.stories.sme_credit.scoring import Scoring
from ceiba_scenarios.stories.sme_credit.world import Size, World, schemas
from ceiba_scenarios.story import Lab

FULL = Size(applicants=3_000, newcomers=900, strangers=200, scored=192)
SMALL = Size(applicants=700, newcomers=230, strangers=100, scored=40, close=0.05)
"""Enough to see that everything works, and too little to learn much from."""


def run(lab: Lab, size: Size = FULL) -> None:
    world = World(size, lab.seed)
    alone = rate(world)
    with lab.sandbox(world.holders(lab.folder / "members"), schemas=schemas()) as sandbox:
        case = Case(lab, world, sandbox)
        case.agree()
        Index(case).ask()
        lending = Lending(case, alone)
        card = lending.make_card()
        Scoring(case, card, lending.as_known(lending.newcomers)).score()
        case.say_who_saw_what()
        case.write_report()
