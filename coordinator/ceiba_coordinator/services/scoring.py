"""Scoring (scoring.proto)."""

import asyncio
from collections.abc import AsyncIterator

from ceiba_coordinator.scores import OpenRequest, Scores, models_bell, request_bell
from ceiba_coordinator.services.calls import Callers, Context, Desk, answering, streaming
from ceiba_coordinator.services.work import PART_SECONDS
from ceiba_protocol.errors import MalformedMessage, MessageTooLarge, TooSlow
from ceiba_protocol.linkage.score_model import MOST_MODEL_BINS
from ceiba_protocol.sums.paillier import MAXIMUM_KEY_BITS
from ceiba_protocol.trust.roster import Role
from ceiba_protocol.v1 import scoring_pb2 as pb
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.scoring_pb2_grpc import ScoringServicer
from ceiba_protocol.wire import chunks

SCORE_SECONDS = 20.0
"""How long a request waits for its holders. An honest node takes milliseconds; one that connects again, seconds."""
MOST_WEIGHTS = MOST_MODEL_BINS * MAXIMUM_KEY_BITS // 4
"""Bytes of a model's ciphertexts."""


class Scoring(ScoringServicer):
    def __init__(self, desk: Desk, callers: Callers, scores: Scores) -> None:
        self._desk = desk
        self._callers = callers
        self._scores = scores

    # --- for merchants

    @answering
    async def Register(self, request: AsyncIterator[pb.ModelPart], context: Context) -> pb.ModelStatus:
        merchant = await self._callers.name(context, Role.MERCHANT)
        model, weights = await _collected(request)
        return await self._desk.run(self._scores.register, model, weights, merchant)

    @answering
    async def Status(self, request: pb.ModelReference, context: Context) -> pb.ModelStatus:
        member = await self._callers.name(context)
        return await self._desk.run(self._scores.status, request.model_digest.hex(), member)

    @answering
    async def Score(self, request: pb.ScoreCall, context: Context) -> pb.ScoreOutcome:
        merchant = await self._callers.name(context, Role.MERCHANT)
        opened = await self._desk.run(self._scores.begin, request, merchant)
        try:
            return await asyncio.wait_for(self._outcome(opened), SCORE_SECONDS)
        except TimeoutError:
            raise await self._desk.run(self._scores.give_up, opened) from None

    async def _outcome(self, opened: OpenRequest) -> pb.ScoreOutcome:
        async for _ in self._desk.changes(request_bell(opened.request.request_id)):
            if opened.outcome is not None:
                return opened.outcome
        raise AssertionError("bells do not end")

    # --- for holders

    @streaming
    async def Pull(self, request: pb.ScorePullRequest, context: Context) -> AsyncIterator[pb.ScoreTask]:
        holder = await self._callers.name(context, Role.HOLDER)
        sent = set[str]()
        async for _ in self._desk.changes(models_bell(holder)):
            tasks = await self._desk.run(lambda: dict(self._scores.tasks(holder)))
            sent &= tasks.keys()
            for name, task in tasks.items():
                if name not in sent:
                    sent.add(name)
                    yield task

    @streaming
    async def Weights(self, request: pb.ModelReference, context: Context) -> AsyncIterator[pb.WeightsPart]:
        holder = await self._callers.name(context, Role.HOLDER)
        for part in chunks(await self._desk.run(self._scores.weights, request.model_digest.hex(), holder)):
            yield pb.WeightsPart(weights=part)

    @answering
    async def Approve(self, request: pb.ModelWord, context: Context) -> pb.ModelWordTaken:
        holder = await self._callers.name(context, Role.HOLDER)
        match request.WhichOneof("word"):
            case "approval":
                await self._desk.run(self._scores.take_word, request.approval, holder)
            case "refusal":
                await self._desk.run(self._scores.take_word, request.refusal, holder)
            case "pending":
                await self._desk.run(self._scores.wait_for_person, request.pending.hex(), holder)
            case _:
                raise MalformedMessage(message="ModelWord", problem="it says nothing")
        return pb.ModelWordTaken()

    @answering
    async def Answer(self, request: pb.HolderAnswer, context: Context) -> pb.AnswerTaken:
        holder = await self._callers.name(context, Role.HOLDER)
        await self._desk.run(self._scores.answer, request.answer, request.ciphertexts, holder)
        return pb.AnswerTaken()


async def _collected(parts: AsyncIterator[pb.ModelPart]) -> tuple[Signed, bytes]:
    """A model and its weights. Raises MalformedMessage, MessageTooLarge, TooSlow."""
    model, weights = None, bytearray()
    while (part := await _next(parts)) is not None:
        if (part.WhichOneof("part") == "model") is not (model is None):
            raise MalformedMessage(message="ModelPart", problem="a model comes first, and once")
        model = model or part.model
        weights += part.weights
        if len(weights) > MOST_WEIGHTS:
            raise MessageTooLarge(message="ModelPart", limit=MOST_WEIGHTS)
    if model is None:
        raise MalformedMessage(message="ModelPart", problem="there is no model in it")
    return model, bytes(weights)


async def _next(parts: AsyncIterator[pb.ModelPart]) -> pb.ModelPart | None:
    try:
        return await asyncio.wait_for(anext(parts, None), PART_SECONDS)
    except TimeoutError:
        raise TooSlow(message="a model", seconds=f"{PART_SECONDS:.0f}") from None
