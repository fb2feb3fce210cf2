"""Causes in the weights: absent biases, turned matrices, exchanged columns, fewer bits."""

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxgpt.parity.diagnosis.cause import Cause, Causes, State, with_leaf
from jaxgpt.parity.diagnosis.column_orders import column_orders, thirds_turned

_LINEAR = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")


def missing_bias(*paths: str) -> Causes:
    """No bias in one linear map or norm of a block, or in any linear map."""

    def causes(state: State) -> Iterator[Cause]:
        for path in paths:
            without = with_leaf(state, f"{path}.bias", jnp.zeros_like)
            yield Cause(f"has no bias in {path}", without)
        without = state
        for path in _LINEAR:
            without = with_leaf(without, f"{path}.bias", jnp.zeros_like)
        yield Cause(f"has no bias in {', '.join(_LINEAR)}", without)

    return causes


def transposed_out(state: State) -> Iterator[Cause]:
    """The one matrix of a block that is square, so that no shape gives it away."""
    turned = with_leaf(state, "attn.out.weight", lambda weight: weight.mT)
    yield Cause("has attn.out.weight transposed", turned)


def transposed_qkv(state: State) -> Iterator[Cause]:
    """Square too, where queries, keys and values have a matrix each."""

    turned = with_leaf(state, "attn.qkv.weight", thirds_turned)
    yield Cause("has the three matrices of attn.qkv.weight transposed", turned)


def stored_orders(state: State) -> Iterator[Cause]:
    """Queries, keys and values in another order in the weights."""
    for words, change in column_orders(state.config.num_heads):
        other = with_leaf(state, "attn.qkv.weight", change)
        other = with_leaf(other, "attn.qkv.bias", change)
        yield Cause(f"has the columns of attn.qkv in another order: {words}", other)


def weight_dtypes(state: State) -> Iterator[Cause]:
    """Weights that were kept in fewer bits, and computed with in as many as here."""
    for dtype in ("bfloat16", "float16"):
        rounded = jax.tree.map(
            lambda leaf, dtype=dtype: leaf.astype(dtype).astype(leaf.dtype), state.params
        )
        yield Cause(f"has its weights rounded to {dtype}", replace(state, params=rounded))
