"""Linear attention, whose state does not grow with the text (Katharopoulos et al. 2020).

It swaps attention and what decoding keeps: in place of all earlier keys and values, the running sum
of their products. The softmax's exp(q k) becomes f(q) f(k), with f = elu + 1.

    python examples/linear_attention.py --steps 200
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgpt


def attend(x, *, qkv, out, num_heads, cache=None, segments=None, **_):
    """Causal linear attention, x (B, T, D) -> (B, T, D): the T tokens at once, after the sums."""
    queries, keys, values = jaxgpt.split_heads(jaxgpt.linear(x, **qkv), num_heads)
    queries, keys = (jax.nn.elu(part.astype(jnp.float32)) + 1 for part in (queries, keys))
    ones = jnp.ones_like(values[..., :1])  # which add up to what a mean is divided by
    values = jnp.concatenate([values, ones], axis=-1).astype(jnp.float32)
    seen = jnp.tri(x.shape[-2], dtype=bool)
    if segments is not None:  # several texts in a row; or in decoding, the text and its padding
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
    sums = jnp.where(seen, queries @ keys.mT, 0) @ values
    if cache is not None:
        sums += queries @ cache
        text = (segments == 0)[:, None, :, None]
        cache += jnp.where(text, keys, 0).mT @ values
    contexts = (sums[..., :-1] / sums[..., -1:]).astype(x.dtype)
    return jaxgpt.linear(jaxgpt.join_heads(contexts), **out), cache


def init_cache(config, rows, length, dtype):
    """The sums before the first token, (B, H, K, K + 1), in float32."""
    width = config.embed_dim // config.num_heads
    return jnp.zeros((rows, config.num_heads, width, width + 1))


def linear_attention(x, **arguments):
    """The standard block with that attention."""
    return jaxgpt.block(x, **arguments, attend=attend)


BLOCK = jaxgpt.Block(linear_attention, init_cache=init_cache)


def main(steps=200, out="runs/linear_attention"):
    """Train, or go on where the run was interrupted, and write a line; loss.png is in `out`."""
    Path(out).parent.mkdir(exist_ok=True)
    tiny = jaxgpt.get_preset("tiny")
    optimizer = replace(tiny.optimizer, warmup_steps=min(10, steps - 1))
    jaxgpt.pretrain(replace(tiny, optimizer=optimizer, steps=steps), out, block=BLOCK)
    trained = jaxgpt.load_model(out, block=BLOCK)
    print("".join(jaxgpt.generate_text(trained, "Once upon a time", max_new_tokens=60)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="runs/linear_attention")
    main(**vars(parser.parse_args()))
