"""Table of what implementations of one GPT are known to do differently.

By what is different: each in words said of the other implementation, a verb and what follows it,
and as the override that does it too, the arguments of `Variant.changed`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgpt.model.layers import gelu
from jaxgpt.model.schema import SCHEMA
from jaxgpt.parity.diagnosis.column_orders import turned
from jaxgpt.parity.diagnosis.switches import gated
from jaxgpt.parity.overrides import Changes, Points

LINEAR = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
"""The linear maps of a block."""
EPSILONS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-4, 1e-3)
"""Of a layer norm."""
COARSE = ("bfloat16", "float16")
"""Dtypes of fewer bits."""


Rows = Mapping[str, Mapping[str, Any]]
"""Alternatives to each other."""


def round_to(dtype: str, x: Array) -> Array:
    """`x` in its own dtype, each number one that `dtype` has."""
    return x.astype(dtype).astype(x.dtype)


def _without_bias(*paths: str) -> dict[str, Any]:
    return {"leaves": {f"blocks.{path}.bias": jnp.zeros_like for path in paths}}


def _scaled(head: float, model: float = 0.0) -> dict[str, Changes]:
    """The scores times powers of a head's width and of the model's."""

    def scores(points: Points) -> Array:
        config, width = points.variant.config, points.seen["attn.q"].shape[-1]
        factor = width**head * config.embed_dim**model
        if config.attention_scale:
            factor /= config.attention_scale * width**0.5
        return points.seen["attn.scores"] * factor

    return {"at": {"attn.scores": scores}}


def _masked(ahead: int | None) -> dict[str, Changes]:
    """Weights of a query that looks at so many tokens after its own; None is no mask."""

    def weights(points: Points) -> Array:
        scores, own = points.seen["attn.scores"], points.seen["attn.weights"]
        if ahead is not None:
            places = jnp.arange(scores.shape[-1])
            mask = places <= places[:, None] + ahead
            if window := points.form.get("window"):
                mask &= places > places[:, None] - window
            scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(scores, axis=-1).astype(own.dtype)

    return {"at": {"attn.weights": weights}}


def _normed_later(of_sum: bool) -> dict[str, Changes]:
    """Norms of the sums, or of what attention and feed-forward give, not of what enters them.

    `middle` is then what enters the second norm.
    """

    def normed(norm: str, stream: str, given: str, points: Points) -> Array:
        x, part = points.seen[stream], points.seen[given]
        points.seen["middle"] = x + part if of_sum else part
        points.seen[norm] = points.norm(norm, points.seen["middle"])
        return points.seen[norm] if of_sum else x + points.seen[norm]

    at: Changes = {
        "norm1": lambda points: points.seen["in"],
        "middle": partial(normed, "norm1", "in", "attn.out"),
        "norm2": lambda points: points.seen["middle"],
        "out": partial(normed, "norm2", "middle", "mlp.out"),
    }
    return {"at": at}


def _without_shortcut(part: str, point: str, norm: str, given: str) -> Rows:
    none: Changes = {point: lambda points: points.seen[given]}
    other: Changes = {point: lambda points: points.seen[norm] + points.seen[given]}
    return {
        f"has no shortcut (residual connection) around {part}": {"at": none},
        f"adds what {part} gives to the normed stream, not to the stream itself": {"at": other},
    }


OVERRIDES: Mapping[str, Rows] = {
    "positions": {
        f"starts its positions at {first}, not at {{0.position_offset}}": {"position_offset": first}
        for first in (0, 1, 2)
    },
    "epsilon": {
        f"adds {epsilon:g} to {{0.spread}}, not {{0.config.norm_epsilon:g}}": {
            "config": {"norm_epsilon": epsilon}
        }
        for epsilon in EPSILONS
    },
    "norm place": {
        "norms after each sum (post-norm), not before attention and feed-forward (pre-norm)": (
            _normed_later(of_sum=True)
        ),
        "norms what attention and feed-forward give, not what enters them (pre-norm)": (
            _normed_later(of_sum=False)
        ),
    },
    "mask": {
        "lets each token see itself and those before it": _masked(0),
        "has no causal mask": _masked(None),
        "lets each token see the next one: its mask is shifted by one": _masked(1),
        "does not let a token see itself: its mask is shifted by one": _masked(-1),
    },
    "scale": {
        "does not divide the scores by the root of a head's width": _scaled(0.5),
        "divides the scores by the root of the model's width, not of a head's": _scaled(0.5, -0.5),
        "divides the scores by a head's width, not by its root": _scaled(-0.5),
        "divides the scores by the root of a head's width": _scaled(0.0),
    },
    "activation": {
        "computes GELU by tanh, not by erf": gated(partial(gelu, form="tanh")),
        "computes GELU by erf, not by tanh": gated(partial(gelu, form="erf")),
        "has ReLU in GELU's place": gated(jax.nn.relu),
        "has SiLU in GELU's place": gated(jax.nn.silu),
        "computes GELU as x sigmoid(1.702 x)": gated(lambda x: x * jax.nn.sigmoid(1.702 * x)),
    },
    "attention's shortcut": _without_shortcut("attention", "middle", "norm1", "attn.out"),
    "feed-forward's shortcut": _without_shortcut(
        "the feed-forward network", "out", "norm2", "mlp.out"
    ),
    **{
        f"bias of {path}": {
            f"has no bias in {path}": _without_bias(path),
            f"has no bias in {', '.join(LINEAR)}": _without_bias(*LINEAR),
        }
        for path in ("norm1", "norm2", *LINEAR)
    },
    # Square matrices, so that no shape gives it away.
    "transposed": {
        "has attn.out.weight transposed": {"leaves": {"blocks.attn.out.weight": turned}}
    },
    "three transposed": {
        "has the three matrices of attn.qkv.weight transposed": {
            "leaves": {"blocks.attn.qkv.weight": turned}
        }
    },
    # The other way the head's matrix would have to be known.
    "head": {
        "has the token table as its head, not a matrix of its own": {"config": {"tie_head": True}}
    },
    "weights": {
        f"has its weights rounded to {dtype}": {
            "leaves": dict.fromkeys((leaf.path for leaf in SCHEMA), partial(round_to, dtype))
        }
        for dtype in COARSE
    },
}
"""Numbers of the variant that is changed, as `{0.position_offset}`, are filled in."""
