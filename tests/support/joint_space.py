"""Holders of different tables about the same firms, and a coordinator in memory that lets them answer joint jobs.

The holders do their part in the clear, by the reference engine: what a merchant receives is the same, two shares of
each released cell. How they make them without seeing each other's rows is tested in tests/protocol/linkage.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas

from ceiba.home import Home
from ceiba.space import Space
from ceiba_node.engines.joined_rows import Bounds, Entry
from ceiba_protocol.canonical import digest
from ceiba_protocol.linkage.join_messages import write_share
from ceiba_protocol.linkage.joint import (
    JointApproval,
    JointManifest,
    JointMessage,
    JointQuestion,
    JointSet,
    Kind,
    SidePlan,
    Step,
    announced,
    commit_jointly,
    guards_of,
    message_of,
    programs_of,
    read_joint_manifest,
    sealing_info,
    shapes_of,
    total_digest,
)
from ceiba_protocol.linkage.oprf import JobKey
from ceiba_protocol.linkage.private_join import fresh_noise
from ceiba_protocol.linkage.token_steps import write_size
from ceiba_protocol.plan import ROW_COUNT, Program, SumOf, grouped_sums
from ceiba_protocol.program import SUBJECT, Row
from ceiba_protocol.schema import ColumnType, Schema
from ceiba_protocol.trust.agreement import JOIN, OPERATIONS, Agreement, JointTerms, Mode, Side
from ceiba_protocol.trust.documents import Offer
from ceiba_protocol.trust.hpke import seal_to
from ceiba_protocol.trust.log import Release
from ceiba_protocol.trust.roster import OPERATOR, RosterTable
from ceiba_protocol.v1.catalogue_pb2 import ListResponse, TableEntry
from ceiba_protocol.v1.common_pb2 import Signed
from ceiba_protocol.v1.jobs_pb2 import JobStatus, ResultPart, SubmitRequest
from ceiba_protocol.v1.log_pb2 import ReceiptParts
from ceiba_protocol.whole_job import sealing_secret
from tests.support.coordinator import Coordinator, merchant_home
from tests.support.members import FAST_BITS, MERCHANT, NOW, World, capacity, encryption_key, signed_by
from tests.support.seeded import seeded

REGIONS = ["east", "north", "west"]


def _schema(table: str, *columns: dict[str, Any], key: str = "uscc", kind: str = "text") -> Schema:
    identifiers = [{"column": key, "kind": kind}]
    plain = {"table": table, "subject_key": key, "identifiers": identifiers, "columns": columns}
    return Schema.from_plain(plain)


def number(name: str, high: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "int", "minimum": 0, "maximum": high, "grade": "public", **more}


def category(name: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "type": "category", "domain": list(values), "grade": "public"}


TAX = _schema(
    "tax.firms", category("industry", ["food", "steel", "toys"]), number("sales", 1000), category("region", REGIONS)
)
SOCIAL = _schema(
    "insurance.firms",
    number("employment", 500),
    number("wages", 100_000),
    category("size", ["large", "small"]),
    category("region", REGIONS),
)
PATENTS = _schema("patents.firms", number("patents", 50), category("field", ["bio", "mech"]))


def firms() -> dict[str, pandas.DataFrame]:
    """By holder. Of each firm one row, but the insurance has two of every fifth one."""
    names = [f"firm {number}" for number in range(60)]
    tax = pandas.DataFrame({"uscc": names[:50]})
    tax["industry"] = [["food", "steel"][place % 3 == 0] for place in range(50)]
    tax["sales"] = [(place * 37) % 1000 for place in range(50)]
    tax["region"] = [REGIONS[place % 2] for place in range(50)]
    known = [*names[10:60], *names[10:60:5]]
    social = pandas.DataFrame({"uscc": known})
    social["employment"] = [(place * 7) % 40 for place in range(len(known))]
    social["wages"] = [(place * 211) % 9000 for place in range(len(known))]
    social["size"] = [["small", "large"][place % 4 == 1] for place in range(len(known))]
    social["region"] = [REGIONS[place % 3] for place in range(len(known))]
    patents = pandas.DataFrame({"uscc": names[::2]})
    patents["patents"] = [place % 9 for place in range(30)]
    patents["field"] = [["bio", "mech"][place % 2] for place in range(30)]
    return {"tax": tax, "social": social, "patents": patents}


@dataclass(frozen=True)
class Dataset:
    """One holder's table, as people write it."""

    schema: Schema
    frame: pandas.DataFrame

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """By subject, its rows in the schema's integers."""
        found: dict[str, list[Row]] = {}
        subjects = {name: place for place, name in enumerate(dict.fromkeys(self.frame.uscc))}
        for row in self.frame.to_dict("records"):
            units = {column.name: self._unit(column.name, row[column.name]) for column in self.schema.columns}
            found.setdefault(row["uscc"], []).append({**units, SUBJECT: subjects[row["uscc"]]})
        return found

    def _unit(self, name: str, value: Any) -> int | None:
        if pandas.isna(value):
            return None
        column = self.schema.column(name)
        return column.encode(value) if column.type is ColumnType.CATEGORY else int(value)


class JointWorld(World):
    """A space whose holders have different tables."""

    def __init__(self, datasets: Mapping[str, Dataset] | None = None) -> None:
        frames = firms()
        self.datasets = datasets or {
            "tax": Dataset(TAX, frames["tax"]),
            "social": Dataset(SOCIAL, frames["social"]),
            "patents": Dataset(PATENTS, frames["patents"]),
        }
        self.schemas = {one.schema.table: one.schema for one in self.datasets.values()}
        super().__init__(dict.fromkeys(self.datasets, ()))
        holders = {
            table: [n for n, one in self.datasets.items() if one.schema.table == table] for table in self.schemas
        }
        self.roster = self.make_roster(
            tables=tuple(
                RosterTable(table=table, schema_digest=self.schemas[table].digest(), holders=tuple(sorted(names)))
                for table, names in sorted(holders.items())
            )
        )

    def joint_offers(self) -> list[Offer]:
        return [
            Offer(
                table=one.schema.table,
                schema_digest=one.schema.digest(),
                holder=name,
                version=digest("version", name.encode()),
                row_capacity=capacity(len(one.frame)),
                published_at=NOW,
            )
            for name, one in self.datasets.items()
        ]

    def joint_agreement(self, **terms: Any) -> Agreement:
        """Between all holders, on everything that is no score. `terms`: of its JointTerms."""
        sides = [
            Side(
                holder=name,
                table=one.schema.table,
                schema_digest=one.schema.digest(),
                columns=tuple(sorted(one.schema.by_name)),
            )
            for name, one in sorted(self.datasets.items())
        ]
        *others, last = sides
        fixed: dict[str, Any] = {
            "modes": tuple(sorted(Mode)),
            "smallest_intersection": 3,
            "base_is_trusted": True,
            "bases": tuple(sorted(self.datasets)),
        }
        joint = JointTerms(others=tuple(others), **(fixed | {"identifiers": ("uscc",) * len(sides)} | terms))
        changes = {"table": last.table, "schema_digest": last.schema_digest, "columns": last.columns, "joint": joint}
        return self.make_agreement(operations=tuple(sorted((*OPERATIONS, JOIN))), **changes)

    # --- what holders send

    def joint_question(self, signed: Signed, agreement: Agreement) -> JointQuestion:
        return read_joint_manifest(signed, agreement, self.roster, self.schemas, NOW)

    def programs(self, question: JointQuestion, name: str) -> tuple[Program, ...]:
        side = question.plan.side_of(name)
        return programs_of(side, self.schemas[side.table])

    def joint_approval(self, name: str, question: JointQuestion, **changes: Any) -> Signed:
        encrypts, pin = question.plan.encrypts(name), question.pin_of(name)
        made = JointApproval(
            job_id=question.manifest.job_id,
            manifest_digest=question.digest,
            holder=name,
            dataset_version=pin.version,
            subjects=announced(self.datasets[name].frame.uscc.nunique()),
            shapes=shapes_of(question, name, self.programs(question, name)),
            encryption_key=encryption_key(name, FAST_BITS) if encrypts else None,
            token_key=self.token_key(name, question) if question.plan.has_tokens else None,
            nonce="0c" * 16,
            log_size=0,
        )
        return signed_by(name, made.model_copy(update=changes))

    def token_key(self, name: str, question: JointQuestion) -> str:
        key = JobKey(bytes.fromhex(question.digest), name, seeded(f"token key of {name}"))
        return key.announce(announced(self.datasets[name].frame.uscc.nunique())).hex()

    def common(self, question: JointQuestion) -> set[str]:
        """The subjects that all holders have; where they are only counted, those with rows that pass everywhere."""
        known = []
        for name in question.holders:
            rows, (program, *_) = self.datasets[name].rows, self.programs(question, name)
            counted = question.plan.mode is Mode.CARDINALITY
            known.append({one for one, own in rows.items() if not counted or _cells(program, own)})
        return set.intersection(*known)

    def to_merchant(self, agreed: JointSet, step: Step) -> bytes:
        """What the holders, or the operator, say to the merchant in a step."""
        if step.kind is Kind.SIZE:
            return write_size(len(self.common(agreed.question)))
        return self.shares(agreed, agreed.question.plan.side_of(step.pair))[step.kind]

    def shares(self, agreed: JointSet, side: SidePlan) -> dict[Kind, bytes]:
        """The two shares of a pair, in which only cells with enough subjects have figures."""
        terms, base = agreed.terms(side.holder), agreed.question.plan.base
        width = len(terms.cells)
        counts = [0] * len(terms.shapes)
        sums = [[0] * len(shape.value_widths) for shape in terms.shapes]
        groupings = self.programs(agreed.question, base.holder)
        theirs, everybody = self.datasets[side.holder].rows, self.datasets[base.holder].rows
        linked = everybody if agreed.question.plan.mode is Mode.HIDDEN else self.common(agreed.question)
        for subject, rows in ((one, rows) for one, rows in everybody.items() if one in linked):
            for group in _groups(groupings, rows):
                first, first_guard = group * width, group * width + terms.released_cells
                for program in self.programs(agreed.question, side.holder):
                    guards = guards_of(program, agreed.question)
                    flags = tuple(SumOf(guard.support, Fraction(1)) for guard in guards)
                    tested = replace(program, sums=(*program.sums, *flags))
                    entries: Iterable[Entry] = _cells(tested, theirs.get(subject, [])).items()
                    if (noise := agreed.question.manifest.noise) is not None:
                        entries = Bounds(tested, noise.cells_per_subject, b"order").apply(subject.encode(), entries)
                    for cell, values in entries:
                        place, met = first + cell, values[len(program.sums) :]
                        counts[place] += 1
                        added = values[ROW_COUNT + 1 :] if terms.noisy else values
                        sums[place] = [one + value for one, value in zip(sums[place], added, strict=False)]
                        for guard, times in enumerate(met, first_guard + cell * len(guards)):
                            counts[guard] += times > 0
                    first += program.cells
                    first_guard += program.cells * len(guards)
        random = seeded(f"noise of {base.holder} and {side.holder}")
        for _ in range(2 if terms.noisy else 0):
            for place, (count, *others) in enumerate(fresh_noise(terms, random)):
                counts[place] += count
                sums[place] = [one + more for one, more in zip(sums[place], others, strict=True)]
        large = [count not in terms.forbidden(shape) for count, shape in zip(counts, terms.shapes, strict=True)]
        released = terms.released(large)
        fields = [
            (count, shape.values_field(values)) for count, values, shape in zip(counts, sums, terms.shapes, strict=True)
        ]
        masks = [(1000 + place, 77 * place if shape.value_widths else 0) for place, shape in enumerate(terms.shapes)]
        masked = [(count + one, value + two) for (count, value), (one, two) in zip(fields, masks, strict=True)]
        return {
            Kind.BASE_SHARE: write_share(terms, base.holder, released, masks),
            Kind.JOINED_SHARE: write_share(terms, side.holder, released, masked),
        }


def _groups(groupings: Sequence[Program], rows: Sequence[Row]) -> Iterator[int]:
    """Those that one subject of the base is in, of all of its plans."""
    first = 0
    for program in groupings:
        yield from (first + cell for cell in _cells(program, rows))
        first += program.cells


def _cells(program: Program, rows: Sequence[Row]) -> dict[int, list[int]]:
    """What one subject adds to each cell that it is in."""
    totals, width = grouped_sums(program, rows), len(program.sums)
    cells = {cell: totals[cell * width : (cell + 1) * width] for cell in range(program.cells)}
    return {cell: sums for cell, sums in cells.items() if sums[0]}


class JointCoordinator(Coordinator):
    """Its holders answer a joint job as soon as it is asked. A test may change `parts_sent` before they are fetched."""

    world: JointWorld

    def Catalogue_List(self, _request: Any) -> ListResponse:
        offers = self.world.joint_offers()
        return ListResponse(
            tables=[
                TableEntry(
                    table=table,
                    schema=schema.body(),
                    offers=[signed_by(one.holder, one) for one in offers if one.table == table],
                )
                for table, schema in self.world.schemas.items()
            ]
        )

    def Jobs_Submit(self, request: SubmitRequest) -> JobStatus:
        self.submitted = request.manifest
        self.results = list(self.answer(request.manifest))
        self._log_all(request.manifest)
        return self.status

    def question_of(self, manifest: Signed) -> JointQuestion:
        cited = JointManifest.parse(manifest.body).agreement_digest
        agreement = Agreement.parse(self.agreements[cited].signatures[0].body)
        return self.world.joint_question(manifest, agreement)

    def answer(self, manifest: Signed) -> Iterator[ResultPart]:
        """What the merchant gets."""
        question = self.question_of(manifest)
        approvals = [self.world.joint_approval(name, question) for name in question.holders]
        agreed = commit_jointly(question, approvals)
        yield from (ResultPart(approval=one) for one in approvals)
        for step in question.steps:
            if step.receiver == MERCHANT:
                yield from self.sent(agreed, step.number, self.world.to_merchant(agreed, step))

    def sent(self, agreed: JointSet, number: int, payload: bytes, to: str = MERCHANT) -> list[ResultPart]:
        """A signed message of a step with its payload, sealed."""
        step = agreed.question.steps[number]
        key = self.world.roster.by_name[to].sealing_key
        sealed = seal_to(bytes.fromhex(key), payload, sealing_info(agreed, step))
        signed = signed_by(step.sender, message_of(agreed, step, sealed))
        return [ResultPart(joint_message=signed), ResultPart(payload=sealed)]

    def _log_all(self, manifest: Signed) -> None:
        """Everything that the receipt is made of. Nothing is in the messages between holders."""
        question = self.question_of(manifest)
        approvals = [part.approval for part in self.results if part.HasField("approval")]
        mine = iter([part.joint_message for part in self.results if part.HasField("joint_message")])
        agreed = commit_jointly(question, approvals)
        messages = [
            next(mine) if step.receiver == MERCHANT else signed_by(step.sender, message_of(agreed, step, b""))
            for step in question.steps
        ]
        first, *others = (self.world.schemas[side.table].body() for side in question.plan.sides)
        self.parts = ReceiptParts(
            agreement=self.agreements[question.manifest.agreement_digest].signatures,
            manifest=manifest,
            approvals=approvals,
            submissions=messages,
            schema=first,
            other_schemas=others,
        )
        for one in (manifest, *approvals, *messages):
            self.append(one)
        release = Release(
            job_id=question.manifest.job_id,
            manifest_digest=question.digest,
            agreement_digest=question.manifest.agreement_digest,
            attempt=0,
            total_digest=total_digest(question, [JointMessage.parse(one.body) for one in messages]),
            at=NOW,
        )
        self.release(signed_by(OPERATOR, release))


def joint_home(world: World, folder: Path) -> Home:
    """As `merchant_home`, with the key to what is sealed to the merchant."""
    home = merchant_home(world, folder)
    assert home._opened is not None
    home._opened = home._opened.model_copy(update={"sealing_seed": sealing_secret(MERCHANT).hex()})
    return home


def agree(space: Space, coordinator: JointCoordinator, tables: Any, **terms: Any) -> Agreement:
    """A joint agreement that every holder has signed."""
    fixed: dict[str, Any] = {"purpose": "credit", "base_is_trusted": True, "smallest_intersection": 1}
    proposal = space.agreements.propose_joint(tables, **(fixed | terms))
    agreement = proposal.contract.agreement
    coordinator.add(agreement)
    return agreement
