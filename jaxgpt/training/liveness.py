"""The most memory that a traced function holds at once, told without compiling it.

A walk over its operations in their order: an array is in memory from the operation that writes it
to the last one that reads it. What XLA would fuse into its readers is never written, and keeps in
memory what it is computed from instead. XLA may order and share otherwise, so that this is close,
not exact.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import Literal

_VIEWS = {"reshape", "squeeze", "expand_dims", "stop_gradient", "optimization_barrier", "copy"}
# XLA computes these again in each operation that reads them,
_CHEAP = {"convert_element_type", "broadcast_in_dim", "iota", "pad", "rev", "transpose", "name"}
_CHEAP |= {"slice", "dynamic_slice", "split", "unstack", "select_n", "clamp", "max", "min"}
_CHEAP |= {"add", "add_any", "sub", "mul", "neg", "abs", "sign", "square", "integer_pow"}
_CHEAP |= {"and", "or", "not", "xor", "eq", "ne", "lt", "le", "gt", "ge", "is_finite"}
_CHEAP |= {"shift_left", "shift_right_arithmetic", "shift_right_logical", "reduce_precision"}
# and these where there is but one.
_COSTLY = {"exp", "exp2", "expm1", "log", "log1p", "div", "sqrt", "rsqrt", "pow"}
_COSTLY |= {"tanh", "logistic", "erf", "erf_inv", "sin", "cos"}
_REDUCTIONS = {"argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_sum"}
_FUSED = _VIEWS | _CHEAP | _COSTLY | _REDUCTIONS
_IN_PLACE = {"dynamic_update_slice", "scatter", "scatter-add"}  # written over what they change

Size = Callable[[Any], int]
"""Bytes of an array, from anything with its shape and dtype."""


def nbytes(array: Any) -> int:
    """Bytes of an array, or of one with this shape and dtype."""
    return math.prod(array.shape) * array.dtype.itemsize


def peak_bytes(jaxpr: Any, donated: Sequence[bool] = (), size: Size = nbytes) -> int:
    """The most bytes in memory at once in a traced function, with its arguments and results.

    `donated` tells of each argument whether its memory may be given to a result.
    """
    program = _Program(jaxpr, size)
    given_up = itertools.chain(donated, itertools.repeat(False))
    for array, given in zip(program.arguments, given_up, strict=False):
        array.buffers = {_Buffer(array.size, donated=given)}
    return program.peak()


@dataclass(eq=False)
class _Buffer:
    size: int
    last: int = -1  # the operation that reads it last
    donated: bool = False


@dataclass(eq=False)
class _Array:
    """A value of the program: in a buffer of its own, or computed from others where it is read."""

    size: int
    buffers: set[_Buffer] = field(default_factory=set)
    readers: list[str] = field(default_factory=list)
    costly: bool = False


@dataclass(frozen=True)
class _Operation:
    name: str
    reads: list[_Array]
    writes: list[_Array]
    bodies: Sequence[Any] = ()  # of a loop or a condition
    carried: int = 0  # arguments of a loop's body that it hands on to the next turn
    sliced: int = 0  # and those after them, of which each turn takes a slice


class _Program:
    """A function as a row of operations; what is called by these stands among them."""

    def __init__(self, jaxpr: Any, size: Size, sliced: int = 0):
        """`sliced` arguments, the last, are stacks of which XLA cuts out a slice where needed."""
        jaxpr, self.size = _open(jaxpr), size
        self.operations: list[_Operation] = []
        arrays = {
            variable: _Array(size(variable.aval), {_Buffer(0)})  # counted by whoever calls
            for variable in (*jaxpr.constvars, *jaxpr.invars)
        }
        self.arguments = [arrays[variable] for variable in jaxpr.invars]
        for variable in jaxpr.invars[len(jaxpr.invars) - sliced :]:
            part = _Array(size(variable.aval))
            self.operations.append(_Operation("slice", [arrays[variable]], [part]))
            arrays[variable] = part
        self.results = self._flatten(jaxpr, arrays)
        self._drop_unread()

    def _flatten(self, jaxpr: Any, arrays: dict[Any, _Array]) -> list[_Array]:
        """Append the operations of `jaxpr`, and of all that it calls; return its results."""

        def read(variables: Iterable[Any]) -> list[_Array]:
            return [_Array(0) if isinstance(v, Literal) else arrays[v] for v in variables]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            called = params.get("jaxpr", params.get("call_jaxpr"))
            if called is not None and name not in ("scan", "pallas_call"):
                called = _open(called)
                inside = {variable: _Array(0) for variable in called.constvars}
                inside |= zip(called.invars, read(equation.invars), strict=True)
                writes = self._flatten(called, inside)
            else:
                writes = [_Array(self.size(variable.aval)) for variable in equation.outvars]
                bodies, counts = params.get("branches", ()), (0, 0)
                if name == "scan":
                    bodies, counts = [called], _carried_and_sliced(equation, _open(called))
                reads = read(equation.invars)
                self.operations.append(_Operation(name, reads, writes, bodies, *counts))
            arrays |= zip(equation.outvars, writes, strict=True)
        return read(jaxpr.outvars)

    def _drop_unread(self) -> None:
        needed, kept = set(map(id, self.results)), []
        for operation in reversed(self.operations):
            if any(id(array) in needed for array in operation.writes):
                kept.append(operation)
                needed |= set(map(id, operation.reads))
                for array in operation.reads:
                    array.readers.append(operation.name)
        self.operations = kept[::-1]

    def peak(self) -> int:
        """The most bytes at once, of those arguments and results that have a size."""
        written = self._place()
        arguments = set().union(*(array.buffers for array in self.arguments))
        dying: dict[int, set[_Buffer]] = defaultdict(set)
        for buffer in itertools.chain(*written, (own for own in arguments if own.donated)):
            dying[buffer.last].add(buffer)
        drawn = [op.writes[0].size for op in self.operations if op.name == "random_bits"]
        # Random numbers are drawn all at once, by Threefry, which turns pairs of words into others.
        most = live = _sum(arguments) + 3 * sum(drawn)
        for number, operation in enumerate(self.operations):
            new = _sum(written[number]) + self._inside(operation)
            most = max(most, live + new - _reused(operation, dying[number]))
            live += _sum(written[number]) - _sum(dying[number])
        return most

    def _place(self) -> list[list[_Buffer]]:
        """Give each array its buffers; returns those that each operation writes."""
        results, written = set(map(id, self.results)), []
        for number, operation in enumerate(self.operations):
            sources = set().union(*(array.buffers for array in operation.reads))
            for buffer in sources:
                buffer.last = number
            written.append([])
            costly = operation.name in _COSTLY or any(array.costly for array in operation.reads)
            for array in operation.writes:
                fused = all(reader in _FUSED for reader in array.readers)
                again = operation.name in _CHEAP | _COSTLY and (
                    not costly or len(array.readers) == 1
                )
                if operation.name in _VIEWS:
                    array.buffers = operation.reads[0].buffers
                elif fused and again and id(array) not in results:
                    array.buffers, array.costly = sources, costly
                else:
                    array.buffers = {_Buffer(array.size, number)}
                    written[-1] += array.buffers
        for buffer in itertools.chain(*(array.buffers for array in self.results)):
            buffer.last = len(self.operations)
        return written

    def _inside(self, operation: _Operation) -> int:
        """The most bytes within a loop or a condition, beside its arguments and results."""
        programs = [_Program(body, self.size, operation.sliced) for body in operation.bodies]
        # A loop hands on in place; its other results are copied to their stack.
        written = operation.carried if operation.name == "scan" else None
        for program in programs:
            for array in program.results[:written]:
                array.size = 0
        return max((program.peak() for program in programs), default=0)


def _reused(operation: _Operation, dying: set[_Buffer]) -> int:
    """Bytes of what an operation writes that take the place of what it is the last to read."""
    if operation.name in _IN_PLACE:
        return _sum(dying & operation.reads[0].buffers)
    if operation.name == "cond" or operation.name in _FUSED:
        return _sum(buffer for buffer in dying if buffer.donated)
    if operation.name == "scan":
        end = len(operation.reads) - operation.sliced
        carry = operation.reads[end - operation.carried : end]
        return _sum(dying & set().union(*(array.buffers for array in carry)))
    return 0


def _carried_and_sliced(equation: Any, body: Any) -> tuple[int, int]:
    # By their axes, for releases of JAX name the counts otherwise: a stack has one more.
    def same(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(len(one.aval.shape) == len(other.aval.shape) for one, other in pairs)

    sliced = len(body.invars) - same(equation.invars, body.invars)
    return same(equation.outvars, body.outvars), sliced


def _sum(buffers: Iterable[_Buffer]) -> int:
    return sum(buffer.size for buffer in buffers)


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)
