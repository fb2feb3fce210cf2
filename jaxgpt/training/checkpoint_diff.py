"""Two checkpoints side by side: the settings and the arrays in which they differ."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.config_file import differences
from jaxgpt.training.arrays import read_arrays, stored_shapes
from jaxgpt.training.checkpoint import read_config, read_task
from jaxgpt.training.manifest import verify

_GROUPS = ("params", "optimizer")
_FACTS = ("step", "rows", "data", "dtype")


@dataclass(frozen=True)
class LeafDifference:
    """An array of the two, by its path."""

    name: str
    equal: bool
    """Bit for bit."""
    largest: float = 0.0
    """The largest absolute difference of two elements; NaN where one is not finite."""
    relative: float = 0.0
    """The norm of the difference, in shares of the norm of A's."""
    shapes: tuple[str, str] | None = None
    """Dtype and shape in A and in B, where they differ or one has no such array."""


@dataclass(frozen=True)
class CheckpointDifference:
    """What two checkpoints have in common, and what not."""

    settings: tuple[str, ...]
    """Those that differ, each as `name: A -> B`, with step, data and task."""
    leaves: tuple[LeafDifference, ...]
    """Parameters, then the optimizer's state."""

    @property
    def equal(self) -> bool:
        """Whether all arrays are equal bit for bit, whatever the settings are."""
        return all(leaf.equal for leaf in self.leaves)


def diff_checkpoints(a: Path, b: Path) -> CheckpointDifference:
    """The difference of two whole checkpoints' folders, of any kind of model.

    Raises CheckpointError if one is damaged, or cannot be read.
    """
    manifests = [verify(folder) for folder in (a, b)]
    old, new = (read_config(folder / "config.json") for folder in (a, b))
    facts = [{name: manifest.get(name) for name in _FACTS} for manifest in manifests]
    facts = [fact | read_task(folder) for fact, folder in zip(facts, (a, b), strict=True)]
    changed = [name for name in facts[0] | facts[1] if facts[0].get(name) != facts[1].get(name)]
    settings = [f"{name}: {facts[0].get(name)} -> {facts[1].get(name)}" for name in changed]
    leaves: list[LeafDifference] = []
    for group in _GROUPS:
        ours, theirs = (_arrays(folder / group) for folder in (a, b))
        names = dict.fromkeys([*ours, *theirs])
        leaves += [_compare(f"{group}/{name}", ours.get(name), theirs.get(name)) for name in names]
    return CheckpointDifference((*settings, *differences(old, new)), tuple(leaves))


def to_text(found: CheckpointDifference, a: Path, b: Path) -> str:
    """The settings, a table with a line for each array that differs, and the verdict."""
    lines = [f"A  {a}", f"B  {b}"]
    if found.settings:
        lines += ["", "settings", *(f"  {line}" for line in found.settings)]
    odd = [leaf for leaf in found.leaves if not leaf.equal]
    if odd:
        wide = max(len(leaf.name) for leaf in odd)
        lines += ["", f"{'arrays':<{wide}}   largest   relative"]
        lines += [f"{leaf.name:<{wide}}   {_figures(leaf)}" for leaf in odd]
    count = len(found.leaves)
    verdict = f"different: {len(odd)} of {count} arrays" if odd else f"equal: all {count} arrays"
    return "\n".join([*lines, "", f"{verdict}, bit for bit"])


def to_json(found: CheckpointDifference) -> str:
    """The same as JSON; what is not finite, which JSON has no number for, is null."""
    values = asdict(found)
    for leaf in values["leaves"]:
        for name in ("largest", "relative"):
            leaf[name] = leaf[name] if math.isfinite(leaf[name]) else None
    return json.dumps(values, indent=2)


def _figures(leaf: LeafDifference) -> str:
    if leaf.shapes is not None:
        return " -> ".join(leaf.shapes)
    return f"{leaf.largest:<9.2e} {leaf.relative:.2e}"


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays in a folder by their paths; none where a model was written alone."""
    if not folder.is_dir():
        return {}
    tree: Any = read_arrays(folder, stored_shapes(folder))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _compare(name: str, a: np.ndarray | None, b: np.ndarray | None) -> LeafDifference:
    shapes = _shape(a), _shape(b)
    if a is None or b is None or shapes[0] != shapes[1]:
        return LeafDifference(name, False, shapes=shapes)
    if a.tobytes() == b.tobytes():
        return LeafDifference(name, True)
    ours, theirs = (x.astype(np.float64) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = ours - theirs
        relative = np.linalg.norm(gap) / np.linalg.norm(ours)
    return LeafDifference(name, False, float(np.abs(gap).max()), float(relative))


def _shape(leaf: np.ndarray | None) -> str:
    return "none" if leaf is None else f"{leaf.dtype} {leaf.shape}"
