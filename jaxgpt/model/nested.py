"""Nested dicts of parameters, and the same by path: the names on the way to a leaf, with dots."""

from collections.abc import Mapping
from typing import Any


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by path."""
    leaves: dict[str, Any] = {}
    for name, value in params.items():
        inner = isinstance(value, Mapping)
        leaves |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return leaves


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of leaves by path."""
    params: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return params
