"""The primitives of a transformer, each a pure function of its parameters, beside its init."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgpt.fields import typed
from jaxgpt.model.narrow import NarrowWeight
from jaxgpt.model.products import multiply

STD = 0.02
"""The standard deviation of random weights (GPT-2)."""

Params = dict[str, Any]
"""Nested dicts of arrays: the parameters of a function, named as its keyword arguments."""

Rate = float | Float[Array, ""]
"""A dropout rate in [0, 1): a number of the program, or an argument of it."""

LINEAR = "linear"
"""Name of what a linear layer gives, for a policy of `jax.checkpoint`."""


def linear(
    x: Float[Array, "*B I"],
    *,
    weight: Float[Array, "I O"] | NarrowWeight,
    bias: Float[Array, " O"] | None = None,
) -> Float[Array, "*B O"]:
    """Linear layer on the last axis, `x @ weight + bias`, in the dtype of the weight.

    The weight is `(in, out)`, as in GPT-2's published files; PyTorch's `nn.Linear` is transposed.
    """
    # A weight gradient that contracts two axes is slow on XLA:CPU; one flat axis halves a step.
    rows = x.reshape(-1, x.shape[-1]).astype(weight.dtype)
    if isinstance(weight, NarrowWeight):
        rows = weight.multiplied(rows)
    else:
        # A single row: XLA:CPU reads a transposed weight at full speed only on the left.
        rows = (weight.T @ rows.T).T if len(rows) == 1 else multiply(rows, weight)
    if bias is not None:
        # XLA:CPU sums a narrow gradient over rows by way of a copy in float32.
        rows = (_widened(rows) + bias).astype(rows.dtype)
    return checkpoint_name(rows, LINEAR).reshape(*x.shape[:-1], weight.shape[-1])


def init_linear(
    key: PRNGKeyArray, inputs: int, outputs: int, *, bias: bool = True, std: float = STD
) -> Params:
    """Linear layer's start: normal weights `(inputs, outputs)`, by `std`, and a zero bias."""
    params = {"weight": std * jax.random.normal(key, (inputs, outputs), jnp.float32)}
    return params | ({"bias": jnp.zeros(outputs, jnp.float32)} if bias else {})


def layer_norm(
    x: Float[Array, "*B D"],
    *,
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float = 1e-5,
) -> Float[Array, "*B D"]:
    """Layer norm: each vector to mean 0 and variance 1, then times `scale` plus `bias`.

    The variance is the biased one, and `epsilon` stands inside the root (Ba et al. 2016; the same
    choices as PyTorch). Computed in float32 and given in the dtype of `scale`.
    """
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    return (normal * scale + bias).astype(scale.dtype)


def rms_norm(
    x: Float[Array, "*B D"],
    *,
    scale: Float[Array, " D"],
    epsilon: float = 1e-6,
    offset: bool = False,
) -> Float[Array, "*B D"]:
    """RMS norm: each vector to a mean square of 1, then times `scale`, or 1 more with `offset`.

    Zhang and Sennrich 2019. Computed in float32 and given in the dtype of `scale`.
    """
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + epsilon)
    return (normal * (scale + 1 if offset else scale)).astype(scale.dtype)


def init_layer_norm(width: int) -> Params:
    """Layer norm's start: scale 1, bias 0, each `(width,)`."""
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}


def dropout(
    x: Float[Array, "*B"], rate: Rate, rng: PRNGKeyArray | None = None
) -> Float[Array, "*B"]:
    """Dropout: zero each element with probability `rate` and divide the rest by `1 - rate`.

    Without `rng`, as in evaluation, `x` is returned (Srivastava et al. 2014).
    """
    if rng is None or never_drops(rate):
        return x
    share = jnp.float32(1 - rate)
    return jnp.where(jax.random.bernoulli(rng, share, x.shape), x / share.astype(x.dtype), 0)


def never_drops(rate: Rate) -> bool:
    """Whether a dropout rate is 0; one that is an argument of the program counts as above it."""
    return isinstance(rate, float | int) and rate == 0


Gelu = Literal["tanh", "erf"]
"""The forms of the Gaussian error linear unit."""


def gelu(x: Float[Array, "*B"], form: Gelu = "tanh") -> Float[Array, "*B"]:
    """Gaussian error linear unit, by GPT-2's tanh or exactly by erf (Hendrycks & Gimpel 2016).

    The tanh form differs from the exact one by up to 5e-4. Computed in float32 where the dtype of
    `x`, which the result keeps, is narrower.
    """
    tanh, wide = typed("gelu", form, Gelu) == "tanh", _widened(x)
    own = tanh and wide.dtype != x.dtype
    return (_gelu(wide) if own else jax.nn.gelu(wide, approximate=tanh)).astype(x.dtype)


@jax.custom_jvp
def _gelu(x: Array) -> Array:
    """GPT-2's, whose derivative shares nothing with it that XLA:CPU would keep in memory."""
    return jax.nn.gelu(x)


def _gelu_derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    root = math.sqrt(8 / math.pi)  # (1 + tanh(u)) / 2 is the sigmoid of 2 u
    share = jax.nn.sigmoid(root * (x + 0.044715 * x * x * x))
    inner = root * (1 + 3 * 0.044715 * x * x)
    return _gelu(x), tangent * (share + x * share * (1 - share) * inner)


_gelu.defjvp(_gelu_derivative)


def _widened(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
