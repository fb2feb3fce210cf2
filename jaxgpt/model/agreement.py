"""Agreement of config, parameters and tokens, checked where JAX would go on with other numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.model.narrow import is_narrow

Shapes = dict[str, tuple[int, ...]]
"""Path of a leaf, such as `blocks.attn.qkv.weight` -> its shape."""

_SIZES = {
    "vocab_size": ("embed.tokens", 0, "rows of the token table"),
    "embed_dim": ("embed.tokens", 1, "columns of the token table"),
    "context_length": ("embed.positions", 0, "rows of the position table"),
    "num_layers": ("blocks.attn.out.weight", 0, "blocks"),
}
_SWITCHES = {
    "positions": ("embed.positions", ("learned",), ("sinusoidal", "rope", "none")),
    "qkv_bias": ("blocks.attn.qkv.bias", (True,), (False,)),
    "tie_head": ("head.weight", (False,), (True,)),
}
_MOST = 5  # leaves that a message names


def leaf_shapes(tree: Any) -> Shapes:
    """The shape of each leaf of nested dicts."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(np.shape(leaf))
        for path, leaf in jax.tree.leaves_with_path(tree, is_leaf=is_narrow)
    }


def check_params(config: ModelConfig, params: Any, due: Shapes) -> None:
    """Raise ConfigError unless `params` have the leaves and shapes `due` to `config`.

    The blocks may be stacked in one part or several; and a classifier's head, which has a bias, may
    stand in place of the model's own.
    """
    if not isinstance(params, Mapping) or "blocks" not in params:
        kind = f"a {type(params).__name__}" if not isinstance(params, Mapping) else "a dict"
        raise ConfigError(f"params is {kind} without blocks; take what init_params makes")
    found = _shapes(params)
    if "head.bias" in found:
        own = {path: shape for path, shape in due.items() if path == "head.weight"}
        found = {path: x for path, x in found.items() if not path.startswith("head.")} | own
    if wrong := next(_disagreements(config, found), None):
        raise ConfigError(f"{wrong}; give the config that the parameters were made with")
    if found != due:
        lines = [f"{path} is missing" for path in due.keys() - found.keys()]
        lines += [f"{path} has no place" for path in found.keys() - due.keys()]
        lines += [
            f"{path} is {found[path]}, not {due[path]}"
            for path in due.keys() & found.keys()
            if due[path] != found[path]
        ]
        named = ", ".join(sorted(lines)[:_MOST]) + (", ..." if len(lines) > _MOST else "")
        raise ConfigError(f"the parameters do not fit the config: {named}; see init_params")


def _shapes(params: Mapping[str, Any]) -> Shapes:
    """`leaf_shapes`, with the blocks as if they were stacked in one part."""
    blocks, rest = params["blocks"], {k: v for k, v in params.items() if k != "blocks"}
    parts = [leaf_shapes(part) for part in (blocks if isinstance(blocks, tuple) else [blocks])]
    found = leaf_shapes(rest)
    for path in dict.fromkeys(path for part in parts for path in part):
        shapes = [part.get(path, ()) for part in parts]
        layers = sum(shape[0] for shape in shapes if shape)
        odd = next((shape for shape in shapes if shape[1:] != shapes[0][1:]), shapes[0])
        found[f"blocks.{path}"] = (layers, *odd[1:])
    return found


def _disagreements(config: ModelConfig, found: Shapes) -> Iterator[str]:
    """What a setting says and the parameters do not, if it can be said of a setting."""
    if not {"embed.tokens", "blocks.attn.qkv.weight"} <= found.keys():
        return
    for name, (path, present, absent) in _SWITCHES.items():
        asked, possible = getattr(config, name), present if path in found else absent
        if asked not in possible:
            has, must = "have" if path in found else "have no", " or ".join(map(str, possible))
            yield f"{name} is {asked}, but the parameters {has} {path}; it must be {must}"
    for name, (path, axis, what) in _SIZES.items():
        asked, shape = getattr(config, name), found.get(path, ())
        if len(shape) > axis and shape[axis] != asked:
            yield f"{name} is {asked}, but the parameters have {shape[axis]} {what}"


def check_rank(name: str, x: Array | np.ndarray, dims: str) -> None:
    """Raise ConfigError, with the shape that is wanted, unless `x` has as many axes as `dims`."""
    if x.ndim != len(dims.split()):
        wanted = ", ".join(dims.split())
        raise ConfigError(f"{name} has shape {x.shape}; it must be ({wanted})")


def check_ids(
    name: str,
    ids: Int[Array, "*B"] | Int[np.ndarray, "*B"],
    size: int,
    advice: str,
    *,
    ignored: int | None = None,
) -> None:
    """Raise DataError for an id outside [0, size), but for `ignored`, which a lookup would misread.

    What is traced, as under jit, is not looked at. Raises ConfigError if they are no integers.
    """
    dtype = getattr(ids, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer):
        kind = type(ids).__name__ if dtype is None else dtype
        raise ConfigError(f"{name}s are {kind}; they must be an array of integers")
    if isinstance(ids, Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    values = np.asarray(ids)
    bad = values[((values < 0) | (values >= size)) & (values != ignored)]
    if bad.size:
        raise DataError(f"{name} {bad[0]} is outside [0, {size}){advice}")
