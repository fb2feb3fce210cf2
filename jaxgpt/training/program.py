"""Text of a compiled program, read: its computations, how often each runs, the bytes it moves."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.-]+)")
_ORIGIN = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')

HOLLOW = {"while", "conditional", "call"}
"""Kinds of instructions whose work is that of the computations they name."""
_NOTHING = HOLLOW | {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
_UPDATE = "dynamic-update-slice"  # in place
_PARTS = {"dynamic-slice", "slice", "gather"}  # these read no more than they give


@dataclass(frozen=True)
class Instruction:
    """An instruction of a compiled program."""

    name: str
    shape: str
    """What it gives, as XLA writes it, such as `f32[3,384]{1,0}`, or a tuple of those."""
    kind: str
    rest: str
    """All that stands behind the kind, operands first."""

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return _NAME.findall(self.rest[: _closing(self.rest)])

    @property
    def origin(self) -> str:
        """Where in the code it is from, as its `op_name` says."""
        found = _ORIGIN.search(self.rest)
        return found[1] if found else ""

    @property
    def turns(self) -> int:
        """How often it runs what it calls: of a loop as far as XLA knows, else once."""
        known = _TURNS.search(self.rest) if self.kind == "while" else None
        return int(known[1]) if known else 1

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        names, branches = _CALLED.findall(self.rest), _BRANCHES.search(self.rest)
        return names + re.findall(r"%?([\w.-]+)", branches[1]) if branches else names


class Program:
    """A compiled program, of what its `as_text` gives."""

    def __init__(self, hlo: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = defaultdict(dict)
        self.entry = name = ""
        for line in hlo.splitlines():
            if head := _COMPUTATION.match(line):
                name = head[2]
                self.entry = name if head[1] else self.entry
            elif operation := _OPERATION.match(line):
                self.computations[name][operation[1]] = Instruction(*operation.groups())

    def instructions(self, *, fused: bool = True) -> Iterator[tuple[Instruction, int]]:
        """Each instruction, and how often a run of the program does it; 0 is left out.

        Those in a loop whose number of turns XLA does not know count as in one turn, and of
        branches each counts. Without `fused`, a fusion or a sum is one instruction.
        """
        times: Counter[str] = Counter()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for each in list(self.computations[name].values()):
                for called in each.called if fused or each.kind in HOLLOW else ():
                    visit(called, count * each.turns)

        visit(self.entry, 1)
        for name, count in times.items():
            for each in self.computations[name].values():
                yield each, count

    def moves(self) -> Iterator[tuple[Instruction, int]]:
        """Each instruction that reads or writes memory, and the bytes of a run of the program.

        They are of what it takes and of what it gives. What a fusion has on the way is not in
        memory; of a slice, or of what is updated in a part, the part alone counts.
        """
        shapes = {
            name: each.shape
            for inside in self.computations.values()
            for name, each in inside.items()
        }
        for each, times in self.instructions(fused=False):
            if each.kind not in _NOTHING:
                yield each, times * self._moved(each, shapes)

    def _moved(self, each: Instruction, shapes: Mapping[str, str]) -> int:
        if each.kind == "fusion" and each.called:
            return _moved_by_fusion(self.computations[each.called[0]])
        taken = [sum(sizes(shapes.get(name, ""))) for name in each.operands]
        given = sum(sizes(each.shape))
        if each.kind in _PARTS:
            return 2 * given
        return 2 * taken[1] if each.kind == _UPDATE and len(taken) > 1 else given + sum(taken)


def _moved_by_fusion(inside: Mapping[str, Instruction]) -> int:
    """Bytes that a fusion reads and writes, by its instructions, in their order."""
    last, needed = list(inside.values())[-1], _needed(inside)
    read = 0
    for each in inside.values():
        if each.kind == "parameter" and (elements := _elements(each)):
            read += sum(sizes(each.shape)) * needed[each.name] // elements
    return read + _written(last, inside)


def _written(each: Instruction, inside: Mapping[str, Instruction]) -> int:
    """Bytes that a fusion writes whose last instruction this is."""
    if each.kind == "tuple":
        return sum(_written(inside[name], inside) for name in each.operands)
    while each.kind == "bitcast":
        each = inside[each.operands[0]]
    return sum(sizes(inside[each.operands[1]].shape if each.kind == _UPDATE else each.shape))


def _needed(inside: Mapping[str, Instruction]) -> Counter[str]:
    """Elements of each result in a fusion that those after it take; of the last, all."""
    users = list(inside.values())[::-1]
    needed = Counter({users[0].name: _elements(users[0])})
    for user in users:
        for name in dict.fromkeys(user.operands):
            whole, first = _elements(inside[name]), user.operands[0] == name
            taken = whole
            if first and user.kind == _UPDATE:
                taken = 0
            elif (first and user.kind in _PARTS) or _elements(user) == whole:
                taken = needed[user.name]
            needed[name] = min(whole, needed[name] + taken)
    return needed


def _elements(each: Instruction) -> int:
    return sum(_product(axes) for *_, axes in _ARRAY.findall(each.shape))


def sizes(shape: str) -> list[int]:
    """Bytes of each array in a shape, which may be a tuple's."""
    return [_product(axes) * (int(bits or 8) + 7 >> 3) for _, bits, axes in _ARRAY.findall(shape)]


def _product(axes: str) -> int:
    return math.prod(map(int, filter(None, axes.split(","))))


def _closing(text: str) -> int:
    """Place of the bracket that closes one before `text`."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    return len(text)
