"""Record points of the forward pass: where an activation can be read or changed, by name."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

Record = Callable[[str, Array], Array]
"""A function of an activation's name and value, which gives the value to go on with."""


def unrecorded(name: str, x: Array) -> Array:
    """Record that changes nothing and keeps nothing, which costs nothing under jit."""
    return x


def within(record: Record, prefix: str) -> Record:
    """`record` for what lies inside a part, with the part's name in front of the names."""
    if record is unrecorded:
        return record
    return lambda name, x: record(f"{prefix}.{name}", x)


def shaped(record: Record, shape: tuple[int, ...]) -> Record:
    """`record` for arrays that it is to see in another shape than they have."""
    if record is unrecorded:
        return record
    return lambda name, x: record(name, x.reshape(shape)).reshape(x.shape)


def recorded(record: Record) -> dict[str, Any]:
    """Keyword argument `record`, where there is something to record.

    Without it, a function that was put in another's place need not take it.
    """
    return {} if record is unrecorded else {"record": record}
