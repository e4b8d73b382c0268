"""What a mutant may be: Cosmic Ray's operators, and ours for tables, guards and words, which it leaves alone."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Name
from parso.tree import NodeOrLeaf

LEFT_OUT = re.compile(
    "Variable"  # puts in random numbers
    "|Binary.*_(Div|FloorDiv|Mod|Pow|LShift|RShift)$"  # five other operators are enough to tell
    "|Comparison.*(?<!Is)(?<!IsNot)_Is(Not)?$"  # == against `is`: a matter of interning
    "|Comparison.*_Is(Not)?_(?!Is)"  # an order of objects that have none
)


class Ours(Operator):  # type: ignore[misc]
    """An operator with one mutation for each of its `places`."""

    def places(self, node: NodeOrLeaf) -> list[Any]:
        raise NotImplementedError

    def mutation_positions(self, node: NodeOrLeaf) -> Iterator[Any]:
        return ((node.start_pos, node.end_pos) for _ in self.places(node))

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class RemoveEntry(Ours):
    """An entry of a written-out dict, set or list is missing. A tuple is a record, not a table."""

    def places(self, node: NodeOrLeaf) -> list[list[NodeOrLeaf]]:
        if node.type not in ("dictorsetmaker", "testlist_comp") or node.get_previous_leaf().value == "(":
            return []
        if any("comp_for" in child.type for child in node.children):
            return []
        entries: list[list[NodeOrLeaf]] = [[]]
        for child in node.children:
            entries[-1].append(child)
            if child.type == "operator" and child.value == ",":
                entries.append([])
        return [entry for entry in entries if entry]

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        gone = {id(child) for child in self.places(node)[index]}
        node.children = [child for child in node.children if id(child) not in gone]
        return node


class OtherMember(Ours):
    """`State.DONE` is the next member of State that the module names."""

    def places(self, node: NodeOrLeaf) -> list[str]:
        found = re.fullmatch(r"([A-Z]\w*)\.([A-Z_]+)", node.get_code().strip()) if node.type == "atom_expr" else None
        if not found:
            return []
        owner, member = found.groups()
        members = sorted(set(re.findall(rf"\b{owner}\.([A-Z_]+)\b", node.get_root_node().get_code())))
        return [] if len(members) < 2 else [members[(members.index(member) + 1) % len(members)]]

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        (node.children[1].children[1].value,) = self.places(node)
        return node


class ChangeString(Ours):
    """A string that is no docstring says something else."""

    def places(self, node: NodeOrLeaf) -> list[NodeOrLeaf]:
        return [node] if node.type == "string" and node.parent.type != "simple_stmt" else []

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        node.value = re.sub(r"(\"\"\"|'''|\"|')$", r"XX\1", node.value)
        return node


class RaiseNothing(Ours):
    """A check that was to raise lets it pass."""

    def places(self, node: NodeOrLeaf) -> list[NodeOrLeaf]:
        return [node] if node.type == "raise_stmt" else []

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        return Name("pass", node.start_pos, node.get_first_leaf().prefix)


class SwapIn(Ours):
    """`in` is `not in`, and the other way round."""

    def places(self, node: NodeOrLeaf) -> list[int]:
        operators = range(1, len(node.children), 2) if node.type == "comparison" else ()
        return [place for place in operators if node.children[place].get_code().split()[-1] == "in"]

    def mutate(self, node: NodeOrLeaf, index: int) -> NodeOrLeaf:
        place = self.places(node)[index]
        was = node.children[place].get_code().split()
        node.children[place] = parso.parse(" in" if was == ["not", "in"] else " not in")
        return node


def mutants(source: str) -> list[str]:
    """Every source text that differs from `source` by one mutation, once each, in a fixed order."""
    names = (name for name in operator_names() if not LEFT_OUT.search(name))
    operators = [*map(get_operator, names), RemoveEntry, OtherMember, ChangeString, RaiseNothing, SwapIn]
    found: dict[str, None] = {}
    for operator in operators:
        for occurrence in itertools.count():
            mutated = mutate_code(source, operator(), occurrence)
            if mutated is None:
                break
            found[mutated] = None
    found.pop(source, None)
    return list(found)
