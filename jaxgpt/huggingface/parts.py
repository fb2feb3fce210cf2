"""Which parts of a family's tensors make up which parts of jaxgpt's leaves."""

import re
from dataclasses import dataclass
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.families.family import Family
from jaxgpt.model.schema import Leaf, dimensions, leaves, qkv_sections

_EVERY = re.compile(r"\[(\d+)::(\d+)\]$")


@dataclass(frozen=True)
class Part:
    """A tensor of a file, or some of its columns, that is a part of a leaf."""

    name: str
    """Without what stands before all names."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    columns: tuple[Any, ...]
    """Those that are the leaf's, as an index of the tensor."""
    turned: bool
    """Whether it lies there as (out, in)."""
    index: tuple[Any, ...]
    """Where in the leaf."""


def parts_of(family: Family, config: ModelConfig) -> dict[Leaf, list[Part]]:
    """The parts of each leaf of a model of the family."""
    return {leaf: _parts(family, config, leaf) for leaf in leaves(config)}


def _parts(family: Family, config: ModelConfig, leaf: Leaf) -> list[Part]:
    names, shape, found = family.names[leaf.path], leaf.shape(config), []
    linear = leaf.path == "head.weight" or (
        family.turned and leaf.stacked and leaf.path.endswith(".weight")
    )
    sections = [slice(None)]
    if isinstance(names, str):
        names = (names,)
    else:
        sections = list(qkv_sections(shape[-1], dimensions(config)["C"]).values())
    for layer in range(config.num_layers) if leaf.stacked else [None]:
        for name, section in zip(names, sections, strict=True):
            for expert in range(shape[0]) if "{expert}" in name else [None]:
                numbers = [number for number in (layer, expert) if number is not None]
                # Of the names that the family gives, blocks' stand after that of their layer.
                full = name if layer is None else family.layers + name
                found.append(
                    _part(
                        full.format(layer=layer, expert=expert),
                        shape if expert is None else shape[1:],
                        (*numbers, ..., section),
                        turned=linear and len(shape) - (expert is not None) == 2,
                    )
                )
    return found


def _part(name: str, shape: tuple[int, ...], index: tuple[Any, ...], *, turned: bool) -> Part:
    """A part that fills `index` of a leaf of `shape`, but for its layer and expert."""
    width = len(range(shape[-1])[index[-1]])
    shape = (*shape[:-1], width)[:: -1 if turned else 1]
    every = _EVERY.search(name)
    if every is None:
        return Part(name, shape, (...,), turned, index)
    start, step = map(int, every.groups())
    whole = (*shape[:-1], shape[-1] * step)
    return Part(_EVERY.sub("", name), whole, (..., slice(start, None, step)), turned, index)
