"""Attention in its four steps, on six words in three dimensions (chapter 3)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model.attention import (
    attention_weights,
    causal_attention,
    causal_mask,
    multi_head_attention,
    multi_head_attention_by_heads,
    self_attention,
    simplified_attention,
)
from jaxgpt.model.layers import Params, linear
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.worked.examples import EXAMPLES, Given, count, example, on_device

INPUTS = jnp.array(
    [  # your, journey, starts, with, one, step
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)
BATCH = jnp.stack([INPUTS, INPUTS])
MAPS = ("query", "key", "value")
_ONES = np.ones((6, 6), np.float32)
_QUERY = 1  # the example's query is the second word


@example("ch03.inputs")
def _input_vectors(given: Given) -> Any:
    return [[float(str(number)) for number in row] for row in np.asarray(INPUTS)]


@example("ch03.norm2")
def _normalized_scores_of_query(given: Given) -> Any:
    scores = INPUTS @ INPUTS[_QUERY]
    return scores / scores.sum()


def _from_rand(seed: int) -> Params:
    generator = TorchGenerator(seed)
    return on_device({name: {"weight": generator.rand(3, 2)} for name in MAPS})


def _from_linear(generator: TorchGenerator) -> Params:
    return on_device({name: generator.linear(3, 2, bias=False) for name in MAPS})


def _weights(params: Params, mask: Any = None) -> Any:
    queries, keys = linear(INPUTS, **params["query"]), linear(INPUTS, **params["key"])
    return attention_weights(queries, keys, scale=1 / math.sqrt(2), mask=mask)


def _causal_weights() -> Any:
    return _weights(_from_linear(TorchGenerator(789)), causal_mask(6))


@example("ch03.causal.scores_lower")
def _causal_scores(given: Given) -> Any:
    params = _from_linear(TorchGenerator(789))
    scores = linear(INPUTS, **params["query"]) @ linear(INPUTS, **params["key"]).T
    return [row[: place + 1] for place, row in enumerate(scores)]


@example("ch03.causal_attention")
def _causal_attention_of_batch(given: Given) -> Any:
    params = _from_linear(TorchGenerator(123))
    first, second = causal_attention(BATCH, **params)
    return first if (first == second).all() else None


@example("ch03.mha_wrapper")
def _attention_by_heads(given: Given) -> Any:
    generator = TorchGenerator(123)
    heads = [_from_linear(generator) for _ in range(2)]
    return multi_head_attention_by_heads(BATCH, heads=heads)[0]


def _fused(generator: TorchGenerator, inputs: int, outputs: int) -> Params:
    # Without biases, three maps drawn one after the other are the thirds of a fused one.
    qkv = generator.linear(inputs, 3 * outputs, bias=False)
    return on_device({"qkv": qkv, "out": generator.linear(outputs, outputs)})


@example("ch03.bonus.mha_equiv")
def _heads_at_once_or_one_by_one(given: Given) -> dict[str, Any]:
    """All heads from one product against one head after another, and the shape of a long batch."""

    def equal(inputs: int, outputs: int) -> bool:
        generator = TorchGenerator(123)
        params, x = _fused(generator, inputs, outputs), on_device(generator.randn(2, 8, inputs))
        thirds = jnp.split(params["qkv"]["weight"], 3, axis=1)
        by_head = zip(*(jnp.split(third, 4, axis=1) for third in thirds), strict=True)
        heads = [
            {name: {"weight": weight} for name, weight in zip(MAPS, weights, strict=True)}
            for weights in by_head
        ]
        at_once = multi_head_attention(x, **params, num_heads=4)
        one_by_one = multi_head_attention_by_heads(x, heads=heads, out=params["out"])
        return bool(jnp.abs(at_once - one_by_one).max() < 1e-5)

    shape = jax.eval_shape(
        lambda x, params: multi_head_attention(x, **params, num_heads=12),
        jax.ShapeDtypeStruct((8, 1024, 768), jnp.float32),
        _fused(TorchGenerator(123), 768, 768),
    ).shape
    widths = [(768, 768), (768, 1536), (1024, 512)]
    return {"equal": [equal(*pair) for pair in widths], "shape": list(shape)}


EXAMPLES |= {
    "ch03.scores2": lambda given: INPUTS @ INPUTS[_QUERY],
    "ch03.weights": lambda given: attention_weights(INPUTS, INPUTS),
    "ch03.context2": lambda given: simplified_attention(INPUTS)[_QUERY],
    "ch03.contexts": lambda given: simplified_attention(INPUTS),
    "ch03.trainable.weights2": lambda given: _weights(_from_rand(123))[_QUERY],
    "ch03.trainable.context2": lambda given: self_attention(INPUTS, **_from_rand(123))[_QUERY],
    "ch03.sa_v1": lambda given: self_attention(INPUTS, **_from_rand(123)),
    "ch03.sa_v2": lambda given: self_attention(INPUTS, **_from_linear(TorchGenerator(789))),
    "ch03.sa_v2.weights": lambda given: _weights(_from_linear(TorchGenerator(789))),
    "ch03.ex31": lambda given: self_attention(INPUTS, **_from_linear(TorchGenerator(123))),
    "ch03.dropout.ones": lambda given: TorchGenerator(123).dropout(_ONES, 0.5),
    "ch03.dropout.applied": lambda given: TorchGenerator(123).dropout(_causal_weights(), 0.5),
    "ch03.causal.weights": lambda given: _causal_weights(),
    "ch03.mha": lambda given: multi_head_attention(
        BATCH, **_fused(TorchGenerator(123), 3, 2), num_heads=2
    )[0],
    "ch03.ex33.params": lambda given: count(_fused(TorchGenerator(0), 768, 768)),
}
