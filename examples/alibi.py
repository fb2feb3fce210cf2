"""ALiBi in place of learned positions: attention that weighs near tokens more (Press et al. 2022).

It swaps attention, and the model has no vectors of positions: each score loses the distance from
query to key times a slope, which each head has its own of.

    python examples/alibi.py --steps 200
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgpt


def attend(x, *, qkv, out, num_heads, cache=None, start=None, segments=None, dropout_rate=0.0,
           rng=None, **_):  # fmt: skip
    """Causal attention, x (B, T, D) -> (B, T, D), whose scores fall with the distance."""
    queries, keys, values = jaxgpt.split_heads(jaxgpt.linear(x, **qkv), num_heads)
    if cache is None:
        start = jnp.zeros(len(queries), int)
    else:
        keys, values = cache = jaxgpt.update_cache(cache, keys, values, start)
    places = start[:, None] + jnp.arange(queries.shape[2])
    distance = places[:, None, :, None] - jnp.arange(keys.shape[2])  # (B, 1, T, S)
    seen = distance >= 0
    if segments is not None and cache is None:  # several texts in a row
        seen &= segments[:, None, :, None] == segments[:, None, None, :]
    slopes = 2.0 ** (-8 * jnp.arange(1, num_heads + 1) / num_heads)
    scores = (queries @ keys.mT).astype(jnp.float32) / math.sqrt(queries.shape[-1])
    scores = jnp.where(seen, scores - slopes[:, None, None] * distance, -jnp.inf)
    weights = jaxgpt.dropout(jax.nn.softmax(scores).astype(values.dtype), dropout_rate, rng)
    return jaxgpt.linear(jaxgpt.join_heads(weights @ values), **out), cache


def alibi(x, **arguments):
    """The standard block with that attention."""
    return jaxgpt.block(x, **arguments, attend=attend)


def main(steps=200, out="runs/alibi"):
    """Train, or go on where the run was interrupted, and write a line; loss.png is in `out`."""
    Path(out).parent.mkdir(exist_ok=True)
    tiny = jaxgpt.get_preset("tiny")
    optimizer = replace(tiny.optimizer, warmup_steps=min(10, steps - 1))
    model = replace(tiny.model, positions="none")
    config = replace(tiny, model=model, optimizer=optimizer, steps=steps)
    jaxgpt.pretrain(config, out, block=alibi)
    trained = jaxgpt.load_model(out, block=alibi)
    print("".join(jaxgpt.generate_text(trained, "Once upon a time", max_new_tokens=60)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="runs/alibi")
    main(**vars(parser.parse_args()))
