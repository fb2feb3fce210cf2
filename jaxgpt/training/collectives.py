"""What devices send each other in a compiled program, read from its text."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.training.program import Program, sizes

KINDS = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)
"""The kinds of collectives that XLA has."""

_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_NAMED = re.compile(r"replica_groups=mesh\[('[^\]]*)\](?:, device_ids=\(([^{]*)\))? \{('[^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?")  # 'data', or of it the part :(before)size


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program."""

    kind: str
    """One of `KINDS`."""
    group: tuple[int, ...]
    """The devices of its first group, by their places in the program; of a permutation, the first
    two between which it sends."""
    bytes: int
    """Of the whole array on a device, each time: of an all-gather what it gives, of a
    reduce-scatter what it takes."""
    times: int
    """How often a run of the program does it."""


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind between the same devices, together."""

    times: int = 0
    bytes: int = 0


def traffic(hlo: str, mesh: Mapping[str, int] | None = None) -> dict[tuple[str, str], Traffic]:
    """How often, and how many bytes, by kind and by the axes of `mesh` that lie between devices.

    `hlo` is what `as_text` of a compiled program gives, `mesh` the sizes of the axes by name, such
    as `mesh.shape`; axes are joined by `+`. Collectives of one device are left out.
    """
    sums: dict[tuple[str, str], Traffic] = defaultdict(Traffic)
    for each in collectives(hlo):
        if len(each.group) > 1:
            key = each.kind, "+".join(axes_between(each.group, mesh or {}))
            times, moved = sums[key].times + each.times, sums[key].bytes
            sums[key] = Traffic(times, moved + each.times * each.bytes)
    return dict(sums)


def axes_between(group: Iterable[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of `mesh` in whose places the devices of a group differ."""
    places = np.unravel_index(list(group), tuple(mesh.values())) if mesh else ()
    return tuple(name for name, at in zip(mesh, places, strict=True) if len(set(at)) > 1)


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a compiled program, those inside a loop as often as its turns.

    `hlo` is what `as_text` of it gives. A loop whose number of turns XLA does not know counts as
    one turn, and of branches each counts.
    """
    program, found = Program(hlo), []
    devices = int(count[1]) if (count := re.search(r"num_partitions=(\d+)", hlo)) else 1
    for each, times in program.instructions():
        kind = each.kind.removesuffix("-start")
        if kind in KINDS:
            group = _group(each.rest, devices)
            size = _whole(kind, each.kind, each.shape, len(group))
            found.append(Collective(kind, group, size, times))
    return found


def _whole(kind: str, code: str, shape: str, devices: int) -> int:
    arrays = sizes(shape)
    if code.endswith("-start") and kind != "all-reduce":
        # What it was given stands beside what it gives, and counters that are no arrays' bytes.
        arrays = arrays[1:2]
    size = sum(arrays)
    return size * devices if kind == "reduce-scatter" else size


def _group(rest: str, devices: int) -> tuple[int, ...]:
    """The first group, in the three ways in which XLA writes groups; without, all devices."""
    if listed := _LISTED.search(rest):
        return tuple(map(int, filter(None, listed[1].split(","))))
    if iota := _IOTA.search(rest):
        return tuple(_ids(iota[2]).reshape(-1, int(iota[1]))[0].tolist())
    if named := _NAMED.search(rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        ids = _ids(named[2] or f"[{math.prod(sizes.values())}]").reshape(tuple(sizes.values()))
        first: list[Any] = [0] * len(sizes)
        for name, before, size in _AXIS.findall(named[3]):
            step = sizes[name] // (int(before) * int(size)) if size else 1
            place = list(sizes).index(name)
            first[place] = slice(0, step * int(size) if size else None, step)
        return tuple(ids[tuple(first)].ravel().tolist())
    return tuple(range(devices))


def _ids(written: str) -> np.ndarray:
    """Numbers of devices: listed, or those from 0 on in a grid, [2,4], perhaps turned, T(1,0)."""
    if not (grid := re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", written)):
        return np.array([int(n) for n in written.split(",")])
    shape, order = ([int(n) for n in part.split(",")] if part else None for part in grid.groups())
    return np.arange(math.prod(shape or [])).reshape(shape or []).transpose(order)
