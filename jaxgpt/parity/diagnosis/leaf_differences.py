"""Two models' parameters, leaf by leaf: in which they differ, and as what."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from jaxgpt.parity.diagnosis.column_orders import column_orders, turned
from jaxgpt.parity.diagnosis.differences import distance, unit_of
from jaxgpt.parity.recordings.recording import Leaves, Recording, to_leaves

_SAME = 4 * 2.0**-24  # of the largest: a conversion there and back may leave that
_BLOCKS = "blocks."
_ENOUGH = 1024  # numbers of a leaf to know its layer by: each layer is held against every other


def compare_leaves(a: Recording, b: Recording) -> list[str]:
    """What is different in the parameters of `b`, each in words said of it; in order of weight.

    Both recordings have parameters and a config.
    """
    ours, theirs = to_leaves(a.params or {}), to_leaves(b.params or {})
    found = []
    positions = [x["embed.positions"] for x in (ours, theirs) if "embed.positions" in x]
    for leaves in (ours, theirs):  # a longer context is no difference
        if len(positions) == 2:
            leaves["embed.positions"] = leaves["embed.positions"][: min(map(len, positions))]
    if ours.keys() == theirs.keys() and all(_same(ours[path], theirs[path]) for path in ours):
        return []
    order = _order(ours, theirs)
    if order is not None:
        found.append(f"has its layers in the order {', '.join(map(str, order))} of the other's")
        ours = {path: x[order] if path.startswith(_BLOCKS) else x for path, x in ours.items()}
    if dtype := _rounded_to(ours, theirs):
        return [*found, f"has its weights rounded to {dtype}"]
    if dtype := _rounded_to(theirs, ours):
        return [*found, f"has weights that are not rounded to {dtype} as the other's are"]
    found.extend(_head(ours, theirs))
    relations: dict[str, list[str]] = {}
    other: list[tuple[str, float]] = []
    for path in dict.fromkeys((*ours, *theirs)):
        if path == "head.weight":
            continue
        for words, where in _leaf(path, ours, theirs, a.config.num_heads if a.config else 1):
            if words:
                relations.setdefault(words, []).append(where)
            else:
                other.append((where, distance(ours[path], theirs[path])[1]))
    found += [words.format(", ".join(paths)) for words, paths in relations.items()]
    if other:
        path, relative = other[0]
        found.append(
            f"has other weights: {path} is the first of {len(other)} parameters that are neither "
            f"the same nor the same in another form, by {relative:.1e} of its largest element"
        )
    return found


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    return np.array_equal(a, b) or distance(a, b)[1] <= _SAME


def _order(ours: Leaves, theirs: Leaves) -> list[int] | None:
    """For each layer of theirs the one of ours that most leaves say it is, if not in order."""
    paths = [path for path in ours if path.startswith(_BLOCKS) and path in theirs]
    number = len(theirs[paths[0]])
    in_order = list(range(number))
    same = np.zeros((number, number), int)
    for path in paths:
        mine, its = (x[path].reshape(number, -1)[:, :_ENOUGH] for x in (ours, theirs))
        same += [[_same(mine[i], its[j]) for i in in_order] for j in in_order]
    order = [int(i) for i in same.argmax(axis=1)]
    clear = 2 * same[in_order, order].min() > len(paths) and same.max() > np.diag(same).min()
    return order if clear and order != in_order and sorted(order) == in_order else None


def _rounded_to(ours: Leaves, theirs: Leaves) -> str | None:
    """The dtype to which all leaves of theirs are rounded and ours are not, if there is one."""
    if ours.keys() != theirs.keys() or all(_same(ours[path], theirs[path]) for path in ours):
        return None  # the latter after the layers were put in order
    for dtype in ("bfloat16", "float16"):
        near, kind = 4 * unit_of("float32"), jnp.dtype(dtype)
        rounded = ((x.astype(kind).astype(np.float32), theirs[path]) for path, x in ours.items())
        if all(distance(x, y)[1] <= near for x, y in rounded):
            return dtype
    return None


def _head(ours: Leaves, theirs: Leaves) -> Iterator[str]:
    mine, its = ours.get("head.weight"), theirs.get("head.weight")
    if mine is not None and its is not None:
        if not _same(mine, its):
            yield f"has another head, by {distance(mine, its)[1]:.1e} of its largest element"
    elif its is not None:
        numbers = "the same" if _same(its.T, theirs["embed.tokens"]) else "other"
        yield f"has a head of its own, not the token table, with {numbers} numbers"
    elif mine is not None:
        yield "has the token table as its head (tied), not a matrix of its own"


def _leaf(path: str, ours: Leaves, theirs: Leaves, num_heads: int) -> Iterator[tuple[str, str]]:
    """How a leaf is another, as words with a place for the path, and where; no words, if nohow."""
    whole = ours.get(path, theirs.get(path))
    assert whole is not None
    # A bias that is not there is one of zeros; positions that are not there are sines.
    if path.endswith(".positions") and not (path in ours and path in theirs):
        yield f"has {'sinusoidal' if path in ours else 'learned'} positions", path
        return
    mine, its = ours.get(path, np.zeros_like(whole)), theirs.get(path, np.zeros_like(whole))
    if not path.startswith(_BLOCKS):
        if not _same(mine, its):
            yield _relation(path, mine, its, num_heads), path
        return
    found = {
        layer: _relation(path, x, y, num_heads)
        for layer, (x, y) in enumerate(zip(mine, its, strict=True))
        if not _same(x, y)
    }
    for words in dict.fromkeys(found.values()):
        layers = [layer for layer, value in found.items() if value == words]
        some = f"{path} of layer {', '.join(map(str, layers))}"
        yield words, path if len(layers) == len(mine) else some


def _relation(path: str, mine: np.ndarray, its: np.ndarray, num_heads: int) -> str:
    if path.endswith(".bias") and not its.any():
        return "has no {}"
    if path.endswith(".bias") and not mine.any():
        return "has a bias where the other has none, {}"
    if path.endswith(".scale") and (its == 1).all():
        return "has nothing but ones in {}"
    if mine.ndim == 2 and _same(mine.T, its):
        return "has {} transposed"
    if ".qkv." in path:
        for words, change in column_orders(num_heads):
            if _same(np.asarray(change(jnp.asarray(mine))), its):
                return f"has the columns of {{}} in another order: {words}"
        if mine.ndim == 2 and _same(np.asarray(turned(mine)), its):
            return "has the three matrices of {} transposed"
    if path.endswith(".positions") and _same(mine[1:], its[:-1]):
        return "has {} without its first row"
    return ""
