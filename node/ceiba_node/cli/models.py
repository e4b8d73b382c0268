"""models: scoring models, and those that a person has to decide on."""

from typing import Annotated, Any

import typer

from ceiba_node.cli.common import DEFAULT_HOME, SHORT, AsJson, Desk, Folder, desk, in_columns, now, show
from ceiba_node.ledger import KeptModel
from ceiba_node.policy import Decision
from ceiba_node.scoring import is_approval
from ceiba_protocol.errors import NotWaiting
from ceiba_protocol.linkage.score_model import ProductWeights, ScoreModel, columns_read, combinations
from ceiba_protocol.trust.rendering import moment, quoted
from ceiba_protocol.wording import key_text

commands = typer.Typer(no_args_is_help=True, help="Show scoring models, and decide on those that wait for a person.")

Which = Annotated[str, typer.Argument(help="The model's digest, or its first digits.")]
Private = Annotated[str, typer.Option(help="Why, for this house alone.")]


@commands.command("list")
def list_models(home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the scoring models that have not ended, oldest first.

    Example: ceiba-node models list
    """
    with desk(home) as here:
        facts = [_facts(here, one) for one in here.ledger.score_models(now())]
    rows = [
        [one["model"][:SHORT], one["merchant"], one["state"], quoted(one["purpose"]), f"until {moment(one['until'])}"]
        for one in facts
    ]
    show({"models": facts}, in_columns(rows) if rows else "There are none.", as_json)


@commands.command("show")
def show_model(model: Which, home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show what a model reads here, in which bins, and with which points if it is a product.

    Example: ceiba-node models show 0b1c
    """
    with desk(home) as here:
        kept = _find(here, model)
        facts = _facts(here, kept)
        lines = _features(here, ScoreModel.parse(kept.model.body))
    told = {
        **{name: facts[name] for name in ("model", "merchant", "state")},
        "purpose": quoted(facts["purpose"]),
        "columns": ", ".join(facts["columns"]),
        "holders": ", ".join(facts["holders"]),
        "kind": _KINDS[facts["kind"]],
        "tells": f"about {facts['bits']} bits of each subject who consents; its bins together say {facts['bins_say']}",
        "until": moment(facts["until"]),
    }
    show(
        facts | {"features": lines},
        "\n".join([f"  {name:10} {value}" for name, value in told.items()] + lines),
        as_json,
    )


@commands.command("approve")
def approve(model: Which, private: Private = "", home: Folder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Let subjects who consent be scored with a model; the running node approves it, unless another rule forbids it.

    Example: ceiba-node models approve 0b1c
    """
    _decide(model, Decision(approved=True, reason=""), private, home, as_json)


@commands.command("refuse")
def refuse(
    model: Which,
    reason: Annotated[str, typer.Option(help="Why, for the merchant.")],
    private: Private = "",
    home: Folder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Refuse a model, with a reason for the merchant and, if need be, another one for this house.

    Example: ceiba-node models refuse 0b1c --reason "Age is not to be scored"
    """
    _decide(model, Decision(approved=False, reason=reason), private, home, as_json)


_KINDS = {
    "private": "private: the merchant's points are encrypted, and nobody here sees them",
    "product": "a product: its points are fixed and known here, and reasons are given",
}


def _decide(model: str, decision: Decision, private: str, home: Any, as_json: bool) -> None:
    with desk(home) as here:
        kept = _find(here, model)
        here.ledger.decide_score_model(kept.digest, decision, private)
    facts = {"model": kept.digest, "approved": decision.approved}
    show(facts, f"{'Approved' if decision.approved else 'Refused'}; a running node tells the merchant.", as_json)


def _find(here: Desk, text: str) -> KeptModel:
    """By the beginning of its digest. Raises NotWaiting, also if that is more than one model's."""
    found = [one for one in here.ledger.score_models(now()) if one.digest.startswith(text)]
    if len(found) != 1:
        raise NotWaiting(job=text)
    return found[0]


def _facts(here: Desk, kept: KeptModel) -> dict[str, Any]:
    model = ScoreModel.parse(kept.model.body)  # verified before it was kept
    return {
        "model": kept.digest,
        "merchant": model.merchant,
        "purpose": model.purpose,
        "state": _state(kept),
        "columns": sorted(columns_read(model, here.name)),
        "holders": list(model.holders),
        "kind": model.weights.kind,
        "bits": model.bits,
        "bins_say": combinations(model.features).bit_length() - 1,
        "until": model.valid_until,
    }


def _state(kept: KeptModel) -> str:
    if kept.word is not None:
        return "approved" if is_approval(kept.word) else "refused"
    return "decided" if kept.decision is not None else "waits for a person"


def _features(here: Desk, model: ScoreModel) -> list[str]:
    """This house's features: the key, and a product's points."""
    lines = []
    for place in model.places_of(here.name):
        feature = model.features[place]
        weights = model.weights
        points = f": {', '.join(map(str, weights.points[place]))}" if isinstance(weights, ProductWeights) else ""
        lines.append(f"  {feature.key.name}, {feature.bins} bins of {key_text(feature.key)}{points}")
    return lines
