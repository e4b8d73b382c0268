"""The rounds of a fit among simulated holders: what each sends, round after round, once."""

from collections.abc import Iterable, Sequence
from functools import cache
from random import Random

from ceiba_protocol.design import DesignColumn, Factor
from ceiba_protocol.expression import ColumnValue
from ceiba_protocol.fit_rounds import FitRound, final_values, first_round, next_round, share_fit
from ceiba_protocol.plan import GroupKey, Named, Plan, fit_rows
from ceiba_protocol.program import Row
from ceiba_protocol.rounds import Commitment, Question, contribute, open_gate
from ceiba_protocol.schema import Schema
from ceiba_protocol.statistics import Statistic
from ceiba_protocol.statistics.glm import GLM, Family
from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.whole_job import sealing_secret
from tests.support.members import HOLDERS, World, graded, signed_by

INTERNAL = graded("internal")


def column(name: str) -> DesignColumn:
    return DesignColumn(name=name, factors=(Factor(value=ColumnValue(name=name)),))


MODEL = GLM(family=Family.GAUSSIAN, response=column("age"), columns=(column("chol"),))
"""Three rounds: the scaling, a step, and the step that changes nothing more."""
ROUNDS = 3


def fit_plan(statistic: Statistic = MODEL, schema: Schema = INTERNAL, groups: tuple[GroupKey, ...] = ()) -> Plan:
    outputs = (Named(name="fit", statistic=statistic),)
    return Plan(table=schema.table, schema_digest=schema.digest(), groups=groups, outputs=outputs)


@cache
def patients(holder: str, count: int = 20) -> tuple[Row, ...]:
    """Of both sexes and all ages; nobody's cholesterol is 0 or unknown."""
    draw = Random(holder)
    return tuple({"sex": at % 2, "age": draw.randrange(20, 90), "chol": draw.randrange(1, 500)} for at in range(count))


def fit_world(names: Iterable[str] = HOLDERS, plan: Plan | None = None, schema: Schema = INTERNAL) -> World:
    return World({name: patients(name) for name in names}, plan or fit_plan(schema=schema), schema=schema)


class FitRounds:
    """Each holder's place in a fit, from after the gate on."""

    def __init__(
        self, world: World, names: Iterable[str], question: Question, commitment: Commitment,
        shares: Sequence[tuple[Signed, bytes]] = (),
    ) -> None:  # fmt: skip
        """`shares`: everybody's of the gate, where there is one."""
        self._world = world
        self.rounds: dict[str, FitRound] = {}
        self.prepared = {}
        self._sent: dict[tuple[int, str], tuple[Signed, bytes]] = {}
        self._submitted: dict[str, tuple[Signed, bytes]] = {}
        for name in names:
            released = open_gate(question, commitment, shares, name, sealing_secret(name)) if shares else None
            self.released = released
            past = commitment.after_gate([signed for signed, _ in shares]) if shares else commitment
            self.rounds[name] = one = first_round(question, past, released)
            self.prepared[name] = one.fit.prepare(fit_rows(question.program, world.rows[name]), one.frame)

    @property
    def is_final(self) -> bool:
        return all(one.state.is_final for one in self.rounds.values())

    @property
    def iteration(self) -> int:
        (found,) = {one.iteration for one in self.rounds.values()}
        return found

    def share(self, name: str) -> tuple[Signed, bytes]:
        """The holder's honest share of the round that it is at, the same whenever it is asked for."""
        this = self.rounds[name]
        if (this.iteration, name) not in self._sent:
            sums = this.fit.measure(this.state, self.prepared[name], this.frame)
            share, blob = share_fit(this, name, sums, self._world.mask_secrets[name], self._world.random)
            self._sent[this.iteration, name] = signed_by(name, share), blob
        return self._sent[this.iteration, name]

    def sent(self, iteration: int) -> list[tuple[Signed, bytes]]:
        return [share for (at, _), share in self._sent.items() if at == iteration]

    def go_on(self, shares: Sequence[tuple[Signed, bytes]] = ()) -> None:
        """Everybody derives the next state, from everybody's shares unless others are given."""
        wanted = shares or [self.share(name) for name in self.rounds]
        for name, this in self.rounds.items():
            self.rounds[name] = next_round(this, wanted, name, sealing_secret(name))

    def submission(self, name: str) -> tuple[Signed, bytes]:
        """The holder's final figures, encrypted; the same whenever it is asked for."""
        if name not in self._submitted:
            this, question = self.rounds[name], self.rounds[name].question
            values = [0] * len(question.program.clipped_columns) + final_values(this)
            made = contribute(
                question, this.commitment, name, values, self._world.mask_secrets[name],
                Encryptor.for_count(question.modulus, 1, self._world.random), bytes(32), self.released,
                this.state.digest(),
            )  # fmt: skip
            self._submitted[name] = signed_by(name, made[0]), made[1]
        return self._submitted[name]
