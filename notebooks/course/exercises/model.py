"""Exercises of notebook 05: how many numbers a block has, the block, and a norm out of place."""

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxgpt
from course.checks import Trial, choose, compare_calls, exercise, number_in, result
from jaxgpt import ModelConfig, feed_forward, gelu, layer_norm, linear, multi_head_attention
from jaxgpt.model.layers import Params

Answer = Callable[..., Any]
WIDTH = 128


def _leaves(width: int) -> dict[str, int]:
    """The number of parameters of each leaf of a block, by what to call it."""
    config = ModelConfig(1, num_heads=2, embed_dim=width)
    return {
        leaf.path.removeprefix("blocks."): math.prod(leaf.shape(config))
        for leaf in jaxgpt.BLOCK_LEAVES
        if leaf.present(config)
    }


_WITHOUT = {
    frozenset({"weight", "scale"}): "the biases are not counted: each matrix has one, of as many "
    "numbers as it has columns, and so has each norm",
    frozenset({"weight"}): "the matrices alone: biases, scales and norms are parameters too",
}


def _left_out(number: int) -> str | None:
    """What to say of a sum of some of the leaves: which are missing."""
    sizes = _leaves(WIDTH)
    for kept, said in _WITHOUT.items():
        if number == sum(size for name, size in sizes.items() if name.split(".")[-1] in kept):
            return said
    for part, name in (("attn", "attention"), ("mlp", "the feed-forward network")):
        inner = {key: size for key, size in sizes.items() if key.startswith(part)}
        weights = sum(size for key, size in inner.items() if key.endswith("weight"))
        if number in (sum(inner.values()), weights):
            return f"that is {name} alone; a block has attention, feed-forward and two norms"
    missing = sum(sizes.values()) - number
    for count in range(1, len(sizes)):
        for names in combinations(sizes, count):
            if sum(sizes[name] for name in names) == missing:
                return f"something is left out: as many as {' and '.join(names)} are missing"
    return None


@exercise("05.1")
def parameters_of_a_block(answer: Any) -> str | None:
    """The parameters of one block of width 128: 12 D^2 + 13 D."""
    number = number_in(answer)
    if number is None:
        return f"a number is wanted, and this is a {type(answer).__name__}"
    right = sum(_leaves(WIDTH).values())
    if number == right:
        return None
    if number == sum(_leaves(768).values()):
        return "that is a block of GPT-2, of width 768; here D is 128"
    square = WIDTH**2
    for attention in (2, 3):  # squares, without and with the biases that belong to them
        if number in (
            (attention + 8) * square,
            (attention + 8) * square + 13 * WIDTH,
            (attention + 8) * square + 12 * WIDTH,
        ):
            return (
                "attention has four matrices of D times D: queries, keys, values, and the one that "
                "mixes the heads, out"
            )
    if number in (6 * square, 6 * square + 10 * WIDTH):
        return "the feed-forward network is 4 D wide inside: D times 4 D, and back"
    if number in (2 * right, 2 * 4 * square + 8 * square + 13 * WIDTH):
        return "heads are slices of one matrix: two heads have no more parameters than one"
    if 0 < number < right and number.is_integer() and (said := _left_out(int(number))):
        return said
    if 0.9 * right < number < 1.1 * right:
        return (
            "near: every matrix has a bias of as many numbers as columns, every norm 2 D; count "
            "each once, and round nothing"
        )
    if number < right:
        return "too few: four matrices D by D, one D by 4 D, one 4 D by D, their biases, two norms"
    return "too many: no head, no table and no other block belongs to it; biases have one row"


def _params(width: int, heads: int, *, zero: tuple[str, ...] = ()) -> Any:
    """Parameters of a block at random, also those that start at 0 or 1; parts in `zero` are 0."""
    config = ModelConfig(1, num_heads=heads, embed_dim=width)
    draw = np.random.default_rng(width + heads)
    start = jaxgpt.init_block(config, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: (0.3 * draw.standard_normal(leaf.shape) + (leaf == 1)).astype(np.float32),
        start,
    )
    return params | {name: jax.tree.map(np.zeros_like, params[name]) for name in zero}


_STRUCTURE = jax.tree.structure(_params(4, 1))


def _args(x: Any, heads: int, **options: Any) -> tuple[Any, ...]:
    params = _params(x.shape[-1], heads, **options)
    return np.asarray(x, np.float32), np.array(heads), *jax.tree.leaves(params)


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


TRIALS = (
    Trial("two texts of five tokens", _args(_random(2, 5, 8), 2)),
    Trial("one text of six tokens", _args(_random(6, 8), 4)),
    Trial("a text of one token", _args(_random(1, 1, 4), 1)),
    Trial("equal tokens", _args(np.ones((1, 4, 8)), 2)),
    Trial("tokens of zeros", _args(np.zeros((1, 4, 8)), 2)),
    Trial("parts that write nothing", _args(_random(1, 4, 8), 2, zero=("attn", "mlp"))),
    Trial("numbers in the hundreds", _args(300 * _random(2, 4, 8), 2)),
)


def _called(function: Answer) -> Answer:
    """`function` on the arguments of a trial, which are arrays alone."""

    def call(x: Any, heads: Any, *leaves: Any) -> Any:
        params: Mapping[str, Any] = jax.tree.unflatten(_STRUCTURE, leaves)
        found = function(x, **params, num_heads=int(heads))
        if isinstance(found, tuple | list):
            raise TypeError("its result is several things; the stream alone is wanted")
        return found

    return call


def oracle(x: Any, *, num_heads: int, **params: Any) -> Any:
    """The package's block, without its cache."""
    return jaxgpt.block(x, **params, num_heads=num_heads)[0]


def _mistakes(x: Any, params: Any, heads: int) -> list[tuple[Any, str]]:
    """What typical errors make of `x`, and what to say of them."""

    def one(x: Any) -> Any:
        return layer_norm(x, **params["norm1"])

    def two(x: Any) -> Any:
        return layer_norm(x, **params["norm2"])

    def attend(x: Any, heads: int = heads) -> Any:
        return multi_head_attention(x, **params["attn"], num_heads=heads)

    def feed(x: Any) -> Any:
        return feed_forward(x, **params["mlp"])

    def bent(x: Any, bend: Answer) -> Any:
        return linear(bend(linear(x, **params["mlp"]["up"])), **params["mlp"]["down"])

    plain: Params = {"scale": jnp.ones(x.shape[-1]), "bias": jnp.zeros(x.shape[-1])}
    middle = x + attend(one(x))
    right = middle + feed(two(middle))
    first, second, bare = attend(one(x)), feed(x), x + attend(x)
    normed, fed = one(x), x + feed(two(x))
    fed1 = x + feed(one(x))
    after = one(bare)
    inner = x + attend(layer_norm(x, **plain))
    return [
        (two(after + feed(after)), "the norms stand after the sums; they belong before each part"),
        (after + feed(two(after)), "the first norm stands after the sum; it belongs before"),
        (two(middle + feed(middle)), "the second norm stands after the sum; it belongs before"),
        (x + one(attend(x)) + two(feed(x + one(attend(x)))), "a norm is put on what a part gives"),
        (feed(two(first)), "both shortcuts are missing: what goes in is to be added again"),
        (first + feed(two(first)), "the first shortcut is missing: add x to what attention gives"),
        (feed(two(middle)), "the second shortcut is missing: add the stream as it was before"),
        (x + feed(two(middle)), "the second sum adds the first x, and loses what attention wrote"),
        (x + feed(two(first)), "feed-forward reads what attention gave, not the sum with x"),
        (middle + feed(two(first)), "feed-forward reads what attention gave, not the sum with x"),
        (x + first + feed(two(x)), "feed-forward reads the first x, not the sum with attention's"),
        (right + x, "x is added once too often"),
        (normed + attend(normed) + feed(two(normed + attend(normed))), "the shortcut begins before "
         "the norm: x is added as it came in, not normed"),
        (two(middle) + feed(two(middle)), "the second shortcut begins before the norm"),
        (fed + attend(one(fed)), "feed-forward comes first; attention is to"),
        (fed1 + attend(two(fed1)), "feed-forward comes first; attention is to"),
        (x + attend(two(x)) + feed(one(x + attend(two(x)))), "norm1 and norm2 are exchanged"),
        (middle + feed(one(middle)), "norm1 is used twice; norm2 is of feed-forward"),
        (bare + feed(bare), "both norms are missing"),
        (bare + feed(two(bare)), "the norm before attention is missing"),
        (middle + feed(middle), "the norm before feed-forward is missing"),
        (middle, "feed-forward is missing"),
        (x + second, "attention is missing"),
        (fed, "attention is missing"),
        (inner + feed(layer_norm(inner, **plain)), "the norms' own scale and bias are not used"),
        (x + attend(one(x), 1) + feed(two(x + attend(one(x), 1))), "num_heads is not used"),
        (middle + bent(two(middle), jax.nn.relu), "feed-forward bends by ReLU in place of GELU"),
        (middle + bent(two(middle), lambda x: x), "feed-forward has no GELU between its layers"),
        (middle + bent(two(middle), lambda x: gelu(x, "erf")), "that is GELU's exact form; GPT-2 "
         "has the one by tanh"),
    ]  # fmt: skip


def _named(answer: Answer) -> str | None:
    """The name of a typical error, where the answer makes it on a trial and the block does not."""
    args = TRIALS[0].args
    found, right = result(answer, *args), result(_called(oracle), *args)
    if np.allclose(found, right, rtol=1e-4, atol=1e-5):
        return None
    x, heads, *leaves = map(jnp.asarray, args)
    params = jax.tree.unflatten(_STRUCTURE, leaves)
    for wrong, said in _mistakes(x, params, int(heads)):
        if np.allclose(found, wrong, rtol=1e-4, atol=1e-5):
            return said
    return None


def _looks_ahead(answer: Answer) -> str | None:
    x, *rest = TRIALS[1].args
    other = x.copy()
    other[-1] *= -3  # and not moved as a whole, which a norm takes away
    try:
        before, after = (result(answer, tokens, *rest)[:-1] for tokens in (x, other))
    except Exception as error:  # the reader's own, which it did not raise on the trial itself
        return f"on other tokens it raises {type(error).__name__}: {error}".splitlines()[0]
    if np.allclose(before, after, atol=1e-4):
        return None
    return (
        "the last token was changed, and earlier ones with it: attention has no causal mask, or a "
        "norm runs over the tokens"
    )


@exercise("05.2")
def build_block(answer: Any) -> str | None:
    """A block of the package's parts, held against the package's."""
    if not callable(answer):
        return f"a function is wanted, and this is a {type(answer).__name__}"
    return compare_calls(_called(answer), _called(oracle), TRIALS, (_named, _looks_ahead))


def suspect(x: Any, *, norm1: Any, attn: Any, norm2: Any, mlp: Any, num_heads: int) -> Any:
    """A block with one error, to be found."""
    x = layer_norm(x + multi_head_attention(x, **attn, num_heads=num_heads), **norm1)
    return layer_norm(x + feed_forward(x, **mlp), **norm2)


_NOT_SO = {
    "shortcut": "pass `attn` and `mlp` full of zeros: without shortcuts nothing would be left of x",
    "mask": "change the last token of `x`: no other row of the suspect's result changes",
    "gelu": "pass an `mlp` full of zeros: nothing is left to bend, and the curve is as flat",
    "start": "both stacks are given the same parameters, drawn by the package",
}


@exercise("05.3")
def find_the_bug(answer: Any) -> str | None:
    """What `suspect` does wrong: its norms stand after the sums."""
    return choose(answer, "norm", _NOT_SO)
