"""A mixture of experts in the feed-forward, two of four for each token (Shazeer et al. 2017).

It swaps the feed-forward network and its parameters. For clarity every expert is computed for every
token, and a gate of 0 leaves it out; nothing keeps the experts equally busy.

    python examples/mixture_of_experts.py --steps 200
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxgpt

EXPERTS, CHOSEN = 4, 2


def feed(x, *, router, up, down, form="tanh", **_):
    """Mixture of experts, x (B, T, D) -> (B, T, D): the sum of the chosen, by their gates."""
    scores = jaxgpt.linear(x, **router).astype(jnp.float32)
    least = jnp.sort(scores)[..., -CHOSEN, None]  # XLA divides no top_k among devices
    gates = jax.nn.softmax(jnp.where(scores >= least, scores, -jnp.inf)).astype(x.dtype)
    hidden = jnp.einsum("...d,ndf->...nf", x, up["weight"]) + up["bias"]
    made = jnp.einsum("...nf,nfd->...nd", jaxgpt.gelu(hidden, form), down["weight"]) + down["bias"]
    return jnp.einsum("...n,...nd->...d", gates, made)


def experts(x, **arguments):
    """The standard block with that feed-forward network."""
    return jaxgpt.block(x, **arguments, feed=feed)


def row(path, axes, init, **rest):
    """A row of the schema: a parameter of each block."""
    return jaxgpt.Leaf(f"blocks.mlp.{path}", axes, init, **rest)


BLOCK = jaxgpt.Block(
    experts,
    leaves=(
        *(leaf for leaf in jaxgpt.BLOCK_LEAVES if not leaf.path.startswith("blocks.mlp.")),
        row("router.weight", f"D {EXPERTS}", "normal", decays=True, sharded="D"),
        row("up.weight", f"{EXPERTS} D F", "normal", decays=True, sharded="D", adapters=("up",)),
        row("up.bias", f"{EXPERTS} F", "zeros"),
        row("down.weight", f"{EXPERTS} F D", "residual", decays=True, sharded="F",
            adapters=("down",)),
        row("down.bias", f"{EXPERTS} D", "zeros"),
    ),
)  # fmt: skip


def main(steps=200, out="runs/mixture_of_experts"):
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
    parser.add_argument("--out", default="runs/mixture_of_experts")
    main(**vars(parser.parse_args()))
