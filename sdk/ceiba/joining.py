"""Joining tables by name: whose they are, and by which identifier their subjects are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ceiba.agreements import one_holder
from ceiba.joins import Join
from ceiba.joint_jobs import JointRunner
from ceiba.star import JoinSide, Parts
from ceiba_protocol.errors import BadQuestion

if TYPE_CHECKING:
    from ceiba.space import Space


def join(
    space: Space, tables: Sequence[str], on: str | Mapping[str, str], holders: Mapping[str, str],
    versions: Mapping[str, str], *, reveal: bool = False,
) -> Join:  # fmt: skip
    """What `Space.join` says."""
    columns = on if isinstance(on, Mapping) else dict.fromkeys(tables, on)
    _check_names(tables, columns)
    sides = tuple(
        JoinSide(space.entry(table).required_schema(), one_holder(space.roster, table, holders), columns[table])
        for table in tables
    )
    _check_sides(sides)
    return Join(JointRunner(space, versions), Parts(sides, reveals=reveal))


def _check_names(tables: Sequence[str], on: Mapping[str, str]) -> None:
    hint = 'Write, for example, space.join("tax.firms", "insurance.firms", on="uscc").'
    if len({table.replace(".", "_") for table in tables}) != len(tables) or len(tables) < 2:
        raise BadQuestion(problem="a join takes two or more tables of different names", hint=hint)
    if missing := [table for table in tables if table not in on]:
        raise BadQuestion(problem=f"it is not said on what {', '.join(missing)} is joined", hint=hint)


def _check_sides(sides: Sequence[JoinSide]) -> None:
    """Raises NotAnIdentifier, BadQuestion."""
    kinds = {side.table: side.schema.identifier(side.on).kind for side in sides}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{kind} in {table}" for table, kind in kinds.items())
        hint = "Join on identifiers of one kind."
        raise BadQuestion(problem=f"the tables are joined on identifiers of different kinds: {listed}", hint=hint)
    if len({side.holder for side in sides}) != len(sides):
        holders = ", ".join(f"{side.table} of {side.holder}" for side in sides)
        hint = "A holder joins its own tables before it publishes them."
        raise BadQuestion(problem=f"two of the tables are one holder's: {holders}", hint=hint)
