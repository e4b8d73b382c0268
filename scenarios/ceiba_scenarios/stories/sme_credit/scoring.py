"""Those who apply now are scored, each with a consent of their own, and nobody without one."""

from __future__ import annotations

import time
from functools import partial

import pandas

from ceiba import scorecards
from ceiba.consents import GivenConsent, new_issuer
from ceiba.scorecards import Scorecard
from ceiba.scoring import Feature, Score
from ceiba_protocol.errors import CeibaError
from ceiba_protocol.linkage.score_receipt import ScoreReceipt, verify
from ceiba_scenarios.report import Captioned, Listing
from ceiba_scenarios.stories.health_research import refusal
from ceiba_scenarios.stories.sme_credit.alone import RATING
from ceiba_scenarios.stories.sme_credit.case import ANALYST, LENDING, Case
from ceiba_scenarios.stories.sme_credit.figures import draw_scores
from ceiba_scenarios.stories.sme_credit.world import PROPRIETORS, code

SECOND = 1 / 3600
"""In hours, as a consent's time is given."""
REFUSALS = ("unknown_consent_issuer", "consent_for_other_subject", "consent_expired", "consent_used")
NOBODY = code(PROPRIETORS, 9_999_999)
"""Whom no agency knows."""


class Scoring:
    """The scorecard at work: agencies add up points that they cannot read, of applicants who have said yes."""

    def __init__(self, case: Case, card: Scorecard, newcomers: pandas.DataFrame) -> None:
        """`newcomers`: without what an agency does not know of them."""
        self.case, self.card = case, card
        self.scored = newcomers.head(case.world.size.scored)
        self.others = newcomers.iloc[len(self.scored) :]
        self.rating = next(one for one in card.features if one.binning.name == RATING.name)
        self.told: list[tuple[str, str]] = []
        """For the report: what was asked, what came of it."""

    def score(self) -> None:
        """Register the model; score many, one, and somebody whom nobody knows; be refused."""
        self.register()
        self.score_many()
        consent, uscc = self.score_one()
        self.score_nobody()
        self.score_in_vain(consent, uscc)
        self.write()

    def register(self) -> None:
        """Points of the agencies' features, encrypted. Those of the bank's own rating stay with the bank."""
        case = self.case
        case.announce("The scorecard goes to the agencies, its points encrypted; each decides on its own bins")
        agencies = [one for one in self.card.features if one is not self.rating]
        features = [Feature(one.binning.table, one.binning.group_key(), one.points) for one in agencies]
        started = time.perf_counter()
        model = case.space.register_model(features, on="uscc", base=self.card.base, purpose=LENDING)
        self.model = model.wait()
        seconds = time.perf_counter() - started
        case.lab.say(f"  {len(features)} features of {len(model.model.holders)} agencies, approved in {seconds:.1f} s")
        self.short = case.consent_of(model, self.others["uscc"].iloc[1], hours=SECOND)
        """A consent for a second, which will be over."""

    def own_points(self, rows: pandas.DataFrame) -> list[int]:
        """What the bank's own rating gives."""
        return [self.rating.points[place] for place in self.rating.binning.places(rows)]

    # --- scores

    def score_many(self) -> None:
        """Each with a consent; the agencies learn whom they were asked about, and no score."""
        rows = self.scored
        self.case.announce(f"{len(rows)} applicants say yes, and are scored in one request")
        wanted = [(self.case.consent_of(self.model, one), one) for one in rows["uscc"]]
        started = time.perf_counter()
        found = self.model.score_all(wanted, deadline=300)
        seconds = time.perf_counter() - started
        scores = [_points(one, own) for one, own in zip(found, self.own_points(rows), strict=True)]
        self.case.lab.check("all private scores are the scorecard's", scores, self.card.score(rows).tolist())
        self.judgement = scorecards.judge([one or 0 for one in scores], list(rows["bad"]))
        low, high = self.judgement.auc_interval or (0.0, 1.0)
        text = (
            f"{len(scores)} scores in {seconds:.1f} s, {1000 * seconds / len(scores):.0f} ms for each; of these scores "
            f"the AUC is {self.judgement.auc:.3f} ({low:.3f} to {high:.3f})"
        )
        self.tell("a batch", text)
        self.points = scores

    def score_one(self) -> tuple[GivenConsent, str]:
        """With the time that it takes from asking to the score."""
        row = self.others.head(1)
        uscc = row["uscc"].iloc[0]
        self.case.announce(f"One applicant alone: {uscc}")
        consent = self.case.consent_of(self.model, uscc)
        started = time.perf_counter()
        score = self.model.score(consent, uscc)
        seconds = time.perf_counter() - started
        points = score.points + self.own_points(row)[0]
        self.case.lab.check("this score is the scorecard's", points, int(self.card.score(row)[0]))
        assert isinstance(score.receipt, ScoreReceipt)
        last = verify(score.receipt, self.case.space.roster)[-1]
        self.case.lab.check("its receipt holds offline, with the roster alone", last.error, None)
        bad = float(self.card.probability_bad([points])[0])
        self.tell("one alone", f"{points} points after {1000 * seconds:.0f} ms: {bad:.1%} of such applicants turn bad")
        return consent, uscc

    def score_nobody(self) -> None:
        """Somebody whom no agency knows has the points of somebody of whom all know nothing."""
        self.case.announce("One whom no agency knows")
        score = self.model.score(self.case.consent_of(self.model, NOBODY), NOBODY)
        nothing = sum(one.points[-1] for one in self.card.features if one is not self.rating)
        self.case.lab.check(
            "it is that of somebody of whom everything is missing", score.points, self.card.base + nothing
        )
        self.tell("whom no agency knows", f"{score.points} points: nobody can tell it from one who gave nothing")

    def score_in_vain(self, used: GivenConsent, uscc: str) -> None:
        """Without a consent, with somebody else's, with one that is over or was used."""
        other = self.others["uscc"].iloc[1]
        own = new_issuer(ANALYST)
        attempts = {
            "the bank attests the consent itself": (self.case.consent_of(self.model, other, issuer=own), other),
            "the consent is somebody else's": (self.case.consent_of(self.model, uscc), other),
            "the consent was for one second": (self.short, other),
            "the consent has been used": (used, uscc),
        }
        self.case.announce("Not answered")
        for (what, (consent, about)), refused in zip(attempts.items(), REFUSALS, strict=True):
            error = refusal(partial(self.model.score, consent, about))
            self.case.lab.check(f"refused: {what}", None if error is None else error.code, refused)
            self.tell(what, "" if error is None else f"refused. {error.public}")

    # --- telling

    def tell(self, what: str, came: str) -> None:
        self.told.append((what, came))
        self.case.lab.say(f"  {what}: {came}")

    def write(self) -> None:
        text = (
            f"The points of {ANALYST}'s scorecard are encrypted under its key. Each agency adds up those of the "
            "applicant's bins without seeing them, and what leaves it is random but for the sum over all agencies. The "
            "chamber of commerce attests that the applicant has said yes, once, for this purpose and this scorecard."
        )
        figure = draw_scores([one or 0 for one in self.points], list(self.scored["bad"]))
        caption = "Private scores of those who apply now, by how their loans turned out."
        self.case.write(
            "Scores with consent", text, Listing(("", "what came of it"), self.told), Captioned(figure, caption)
        )


def _points(score: Score | CeibaError, own: int) -> int | None:
    """None for one that was refused."""
    return score.points + own if isinstance(score, Score) else None
