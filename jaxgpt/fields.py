"""A config's fields, held against their annotations and ranges. Standard library only."""

import copy
import dataclasses
import os
import sys
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxgpt.errors import ConfigError, brief
from jaxgpt.ranges import as_float32, check_float

MAX_SIZE = 2**31 - 1
"""The largest size or count: JAX numbers what it holds with 32 bits."""
_UNFIT = object()


def check_types(config: Any) -> None:
    """Type check of a frozen dataclass's fields, for its `__post_init__`.

    Each value becomes one of its annotation, as by `typed`; JAX's arrays stay as they are. Raises
    ConfigError for a value that the annotation does not allow.
    """
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        if not hasattr(value, "aval"):
            object.__setattr__(config, name, typed(name, value, hint))


def check_fields(config: Any, **most: int) -> None:
    """`check_types`, and that a device can count and compute with the numbers.

    Raises ConfigError also for a float that is another number in float32, or an integer beyond 32
    bits. `most` names the integers with another maximum than the largest index of JAX.
    """
    check_types(config)
    for item in dataclasses.fields(config):
        name, value = item.name, getattr(config, item.name)
        if isinstance(value, float):
            check_float(name, value)
        elif isinstance(value, int):
            largest = most.get(name, MAX_SIZE)
            check(value <= largest, f"{name} is {brief(value)}; it must be at most {largest}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the type `hint`: a Literal, a class, a tuple of one class, or a union of these.

    Whole numbers pass as floats, lists as tuples, paths as text, and NumPy's scalars as Python's.
    Raises ConfigError, with what is allowed, for a value of another type.
    """
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        value = value.item()
    union = get_origin(hint) in (Union, types.UnionType)
    options = get_args(hint) if union else (hint,)
    for option in options:
        fitted = _fitted(value, option)
        if fitted is not _UNFIT:
            return fitted
    if get_origin(hint) is tuple:
        raise ConfigError(f"{name} must be a list of strings, got {brief(value)}")
    wanted = " or ".join(_words(option) for option in options)
    raise ConfigError(f"{name} is {brief(value)}; it must be {wanted}")


def _fitted(value: Any, option: Any) -> Any:
    """The value as one type that is no union, or `_UNFIT`."""
    kind, args = get_origin(option) or option, get_args(option)
    if kind is Literal:
        same = [item for item in args if type(item) is type(value) and item == value]
        return same[0] if same else _UNFIT
    if kind is tuple and isinstance(value, list | tuple):
        items = tuple(_fitted(item, args[0]) for item in value)
        return _UNFIT if _UNFIT in items else items
    if kind is float and type(value) is int and abs(value) < 2**64:
        return float(value)
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in (bool, int, float):
        return value if type(value) is kind else _UNFIT
    return value if kind is Any or isinstance(value, kind) else _UNFIT


def _words(option: Any) -> str:
    if get_origin(option) is Literal:
        return " or ".join(str(item) or '""' for item in get_args(option))
    name = "None" if option is type(None) else option.__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def check(holds: bool, message: str) -> None:
    """Raise ConfigError with the message unless it holds."""
    if not holds:
        raise ConfigError(message)


def check_field(config: Any, name: str, holds: bool, allowed: str) -> None:
    """Raise ConfigError, naming what is allowed, unless it holds of a field."""
    check(holds, f"{name} is {brief(getattr(config, name))}; it must be {allowed}")


def check_range(name: str, value: int | float, least: int | float, most: int | float) -> None:
    """Raise ConfigError, naming the range, unless `least <= value <= most`."""
    check(
        least <= value <= most, f"{name} is {brief(value)}; it must be from {least:,} to {most:,}"
    )


def check_at_least(config: Any, minimum: int, *names: str) -> None:
    """Raise ConfigError for a field that is below `minimum`."""
    for name in names:
        check_field(config, name, getattr(config, name) >= minimum, f"{minimum} or more")


def check_fraction(config: Any, name: str) -> None:
    """Raise ConfigError for a field outside (0, 1)."""
    check_field(config, name, 0 < getattr(config, name) < 1, "between 0 and 1")


def check_share(config: Any, name: str) -> None:
    """Raise ConfigError for a field outside [0, 1), in float32."""
    value = getattr(config, name)
    check(
        value >= 0 and as_float32(value) < 1,
        f"{name} is {value}; it must be in [0, 1), at most 0.99999994 (in float32)",
    )


def traced(config: Any) -> bool:
    """Whether JAX traces a number of a config, whose value then cannot be checked."""
    jax = sys.modules.get("jax")  # imported by whoever traces
    return jax is not None and any(
        isinstance(value, jax.core.Tracer) for value in vars(config).values()
    )


def unchecked(config: Any, **changes: Any) -> Any:
    """Copy of a config with traced numbers, which are neither checked nor of their fields' types.

    Where nothing enforces annotations, `dataclasses.replace` does it too.
    """
    changed = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed
