"""Products of matrices that XLA:CPU leaves in bfloat16, for a processor's matrix unit to compute.

Where an operand is transposed, as one is in every gradient, XLA:CPU may write both to memory in
float32 and multiply those. What would be transposed is then copied, in bfloat16.
"""

import math
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgpt.model.layout import row_devices, tensor_devices

Form = Literal["a @ b", "a @ b.mT", "a.mT @ b"]
"""How the operands of a product lie."""

_STRIP = 16  # rows that a transposed copy reads side by side


def multiply(a: Float[Array, "*B N I"], b: Float[Array, "*B I O"]) -> Float[Array, "*B N O"]:
    """Matrix product `a @ b`; on a CPU in bfloat16, its gradients may be of copies.

    As with every `jax.custom_vjp`, there is then no forward-mode derivative.
    """
    return _flat(a, b, False) if _may_copy(a, b) else a @ b


def multiply_by_rows(
    a: Float[Array, "*B N I"], b: Float[Array, "*B O I"]
) -> Float[Array, "*B N O"]:
    """Matrix product `a @ b.mT`; on a CPU in bfloat16, it and its gradients may be of copies."""
    return _flat(a, b, True) if _may_copy(a, b) else a @ b.mT


def multiply_by_columns(
    a: Float[Array, "*B N M"], b: Float[Array, "*B N K"], dtype: Any = None
) -> Float[Array, "*B M K"]:
    """Matrix product `a.mT @ b`, in `dtype` or theirs; on a CPU in bfloat16, maybe of copies."""
    multiplied = partial(jnp.matmul, preferred_element_type=dtype)
    if not (_may_copy(a, b) and is_widened("a.mT @ b")):
        return multiplied(a.mT, b)
    (length, width), result = a.shape[-2:], a.shape[-1] * b.shape[-1]
    if length * width <= length * b.shape[-1] + result:
        return multiplied(transposed(a), b)
    return transposed(multiplied(transposed(b), a))


def columns_copied(b: Float[Array, "*B O I"]) -> Float[Array, "*B I O"] | None:
    """Copy of `b.mT`, for many `a @ b.mT`, where these are of copies; else nothing."""
    return transposed(b) if _may_copy(b, b) and is_widened("a @ b.mT") else None


def _columns(b: Array) -> Array:
    copied = columns_copied(b)
    return b.mT if copied is None else copied


def transposed(x: Float[Array, "*B N M"]) -> Float[Array, "*B M N"]:
    """Transpose of the last two axes, as a copy that XLA makes no operand's order of again."""
    *batch, length, width = x.shape
    strip, front = math.gcd(length, _STRIP), len(batch)
    strips = jax.lax.optimization_barrier(x).reshape(*batch, length // strip, strip, width)
    turned = strips.transpose(*range(front), front + 2, front, front + 1)
    return jax.lax.optimization_barrier(turned.reshape(*batch, width, length))


@lru_cache
def is_widened(form: Form) -> bool:
    """Whether XLA computes a product of this form in float32 if asked for bfloat16; compiles it."""

    def multiplied(a: Array, b: Array) -> Array:
        return (a.mT if form == "a.mT @ b" else a) @ (b.mT if form == "a @ b.mT" else b)

    matrix = jax.ShapeDtypeStruct((64, 64), jnp.bfloat16)
    return "f32[" in (jax.jit(multiplied).lower(matrix, matrix).compile().as_text() or "f32[")


def _may_copy(a: Array, b: Array) -> bool:
    narrow = a.dtype == b.dtype == jnp.bfloat16 and a.shape[:-2] == b.shape[:-2]
    # Few rows, as in decoding, are no work for that unit. A copy could move what lies on others.
    alone = a.shape[-2] >= _STRIP and row_devices() * tensor_devices() == 1
    return narrow and alone and jax.default_backend() == "cpu" and not is_widened("a @ b")


def _flat(a: Array, b: Array, by_rows: bool) -> Array:
    """The product with one axis for all in front: on several, XLA:CPU lets operands lie askew."""
    if a.ndim < 4:
        return _multiply(a, b, by_rows)
    flat = (x.reshape(-1, *x.shape[-2:]) for x in (a, b))
    return _multiply(*flat, by_rows).reshape(*a.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _multiply(a: Array, b: Array, by_rows: bool) -> Array:
    return _forward(a, b, by_rows)[0]


def _forward(a: Array, b: Array, by_rows: bool) -> tuple[Array, tuple[Array, Array]]:
    # No call of `_multiply`: `jax.checkpoint` would not know it for a product, and multiply again.
    return a @ (_columns(b) if by_rows else b), (a, b)


def _backward(by_rows: bool, operands: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    a, b = operands
    if by_rows:
        return grad @ b, multiply_by_columns(grad, a)
    return grad @ _columns(b), multiply_by_columns(a, grad)


_multiply.defvjp(_forward, _backward)
