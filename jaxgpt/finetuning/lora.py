"""Low-rank adapters: a frozen matrix W acts as W + alpha / rank A B (Hu et al. 2021, "LoRA").

Only A and B are trained. They lie beside the base's parameters as `{target: {"A": (L, I, R),
"B": (L, R, O)}}`, R being the rank; those of the head have no L. Query, key and value have adapters
of their own, though they are sections of one matrix here.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.files import sha256
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import SCHEMA, Rows, qkv_sections
from jaxgpt.training.loss import Loss, LossFunction

Adapters = dict[str, Params]
"""Target -> its A and B."""


def init_adapters(
    params: Params, config: LoraConfig, key: PRNGKeyArray, rows: Rows = SCHEMA
) -> Adapters:
    """Adapters of `params` that change nothing yet: A is normal with variance 1 / I, B is zero.

    Raises ConfigError if there is no such matrix in `rows`, the schema, or in `params`, as the head
    of a model that ties it.
    """
    adapters, rank = {}, config.rank
    keys = jax.random.split(key, len(config.targets))
    for target, target_key in zip(config.targets, keys, strict=True):
        names = _names(target, rows)
        try:
            *layers, inputs, columns = _at(params, names).shape
        except KeyError:
            what = f"the model has no {target} of its own to adapt; leave out {target}"
            raise ConfigError(what) from None
        outputs = len(range(columns)[_section(params, target)])
        a = jax.random.normal(target_key, (*layers, inputs, rank), jnp.float32)
        b = jnp.zeros((*layers, rank, outputs), jnp.float32)
        adapters[target] = {"A": a / math.sqrt(inputs), "B": b}
    return adapters


def whole_blocks(params: Params, config: LoraConfig, rows: Rows = SCHEMA) -> LoraConfig:
    """`config` with the gate, where the model has one and all other matrices are adapted."""
    gated = any("gate" in leaf.adapters for leaf in rows) and "gate" in params["blocks"].get(
        "mlp", {}
    )
    if not gated or not {*LORA_TARGETS[:-1]} <= {*config.targets} or "gate" in config.targets:
        return config
    return replace(config, targets=(*config.targets, "gate"))


def merge(params: Params, adapters: Adapters, config: LoraConfig, rows: Rows = SCHEMA) -> Params:
    """The parameters of one model that computes what the base and its adapters do together.

    To train through, to generate from, and to export. The weights keep their dtype.
    """
    for target, adapter in adapters.items():
        change = config.scale * adapter["A"] @ adapter["B"]
        names = _names(target, rows)
        before, end, _ = _section(params, target).indices(columns := _at(params, names).shape[-1])
        if (before, end) != (0, columns):
            padding = [(0, 0)] * (change.ndim - 1) + [(before, columns - end)]
            change = jnp.pad(change, padding)
        params = _add(params, names, change)
    return params


def _names(target: str, rows: Rows) -> tuple[str, ...]:
    """The keys that lead to the matrix of a target."""
    found = {name: leaf.names for leaf in rows for name in leaf.adapters}
    if target not in found:
        raise ConfigError(f"targets has {target}; it must be some of {', '.join(found)}")
    return found[target]


def _at(params: Params, names: tuple[str, ...]) -> Any:  # an array, or its shape alone
    return functools.reduce(lambda node, name: node[name], names, params)


def _section(params: Params, target: str) -> slice:
    """The columns of its matrix that an adapter changes."""
    if target not in ("query", "key", "value"):
        return slice(None)
    attn = params["blocks"]["attn"]
    return qkv_sections(attn["qkv"]["weight"].shape[-1], attn["out"]["weight"].shape[-2])[target]


def _add(tree: Params, path: tuple[str, ...], change: Array) -> Params:
    """The tree with `change` added to the leaf at `path`; all other leaves are shared."""
    name, *rest = path
    if rest:
        return tree | {name: _add(tree[name], tuple(rest), change)}
    return tree | {name: (tree[name] + change).astype(tree[name].dtype)}


def lora_loss(
    loss_fn: LossFunction, base: Params, config: LoraConfig, rows: Rows = SCHEMA
) -> LossFunction:
    """`loss_fn` as a loss of the adapters alone; of `base` holds what `frozen_loss` says."""

    def loss(adapters: Adapters, batch: Any, rng: PRNGKeyArray | None) -> Loss:
        return loss_fn(merge(base, adapters, config, rows), batch, rng)

    return loss


def fingerprint(params: Params) -> str:
    """The sha256, in hex, of the names, types, shapes and numbers of all parameters."""

    def parts() -> Iterator[bytes | memoryview]:
        for path, leaf in jax.tree.leaves_with_path(params):
            array = np.asarray(leaf)
            yield f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode()
            # As bytes: bfloat16 is no type that a buffer can name.
            yield np.ascontiguousarray(array).view(np.uint8).data

    return sha256(parts())
