"""Answers to the exercises of notebook 05: the right ones, and wrong ones with their hints."""

import jax
import jax.numpy as jnp

from jaxgpt import feed_forward, gelu, layer_norm, linear, multi_head_attention


def solution(x, norm1, attn, norm2, mlp, num_heads):
    """Pre-norm block: attention, then feed-forward, each added to what went in."""
    attended = multi_head_attention(layer_norm(x, **norm1), **attn, num_heads=num_heads)
    x = x + attended
    return x + feed_forward(layer_norm(x, **norm2), **mlp)


def _attend(x, attn, num_heads):
    return multi_head_attention(x, **attn, num_heads=num_heads)


def _after(x, norm1, attn, norm2, mlp, num_heads):
    x = layer_norm(x + _attend(x, attn, num_heads), **norm1)
    return layer_norm(x + feed_forward(x, **mlp), **norm2)


def _no_shortcuts(x, norm1, attn, norm2, mlp, num_heads):
    x = _attend(layer_norm(x, **norm1), attn, num_heads)
    return feed_forward(layer_norm(x, **norm2), **mlp)


def _no_second(x, norm1, attn, norm2, mlp, num_heads):
    x = x + _attend(layer_norm(x, **norm1), attn, num_heads)
    return feed_forward(layer_norm(x, **norm2), **mlp)


def _from_normed(x, norm1, attn, norm2, mlp, num_heads):
    x = layer_norm(x, **norm1)
    return _no_norm1(x, None, attn, norm2, mlp, num_heads)


def _no_norm1(x, norm1, attn, norm2, mlp, num_heads):
    x = x + _attend(x, attn, num_heads)
    return x + feed_forward(layer_norm(x, **norm2), **mlp)


def _no_norms(x, norm1, attn, norm2, mlp, num_heads):
    x = x + _attend(x, attn, num_heads)
    return x + feed_forward(x, **mlp)


def _side_by_side(x, norm1, attn, norm2, mlp, num_heads):
    attended = _attend(layer_norm(x, **norm1), attn, num_heads)
    return x + attended + feed_forward(layer_norm(x, **norm2), **mlp)


def _feed_first(x, norm1, attn, norm2, mlp, num_heads):
    x = x + feed_forward(layer_norm(x, **norm2), **mlp)
    return x + _attend(layer_norm(x, **norm1), attn, num_heads)


def _first_x(x, norm1, attn, norm2, mlp, num_heads):
    return x + _no_second(x, norm1, attn, norm2, mlp, num_heads)


def _bent(bend):
    def block(x, norm1, attn, norm2, mlp, num_heads):
        x = x + _attend(layer_norm(x, **norm1), attn, num_heads)
        hidden = bend(linear(layer_norm(x, **norm2), **mlp["up"]))
        return x + linear(hidden, **mlp["down"])

    return block


def _plain(x, norm1, attn, norm2, mlp, num_heads):
    plain = {"scale": jnp.ones(x.shape[-1]), "bias": jnp.zeros(x.shape[-1])}
    return solution(x, plain, attn, plain, mlp, num_heads)


def _unmasked(x, norm1, attn, norm2, mlp, num_heads):
    def parts(x):
        qkv = linear(x, **attn["qkv"])
        return (jnp.stack(jnp.split(part, num_heads, -1), -3) for part in jnp.split(qkv, 3, -1))

    query, key, value = parts(layer_norm(x, **norm1))
    weights = jax.nn.softmax(query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5)
    x = x + linear(jnp.concatenate([*jnp.moveaxis(weights @ value, -3, 0)], -1), **attn["out"])
    return x + feed_forward(layer_norm(x, **norm2), **mlp)


def _normed_over_tokens(x, norm1, attn, norm2, mlp, num_heads):
    def norm(x, scale, bias):
        return (x - x.mean(-2, keepdims=True)) / (x.std(-2, keepdims=True) + 1e-3) * scale + bias

    x = x + _attend(norm(x, **norm1), attn, num_heads)
    return x + feed_forward(norm(x, **norm2), **mlp)


def _only_on_few(x, norm1, attn, norm2, mlp, num_heads):
    return solution(x / jnp.maximum(1, abs(x).max() / 100), norm1, attn, norm2, mlp, num_heads)


RIGHT = {"05.1": 198_272, "05.2": solution, "05.3": "norm"}

WRONG = {
    "05.1": [
        (12 * 128**2, "the matrices alone"),
        (12 * 128**2 + 2 * 128, "biases are not counted"),
        (12 * 128**2 + 9 * 128, "something is left out"),
        (12 * 128**2 + 11 * 128, "something is left out"),
        (11 * 128**2 + 13 * 128, "four matrices"),
        (11 * 128**2, "four matrices"),
        (4 * 128**2 + 4 * 128, "attention alone"),
        (8 * 128**2 + 5 * 128, "the feed-forward network alone"),
        (6 * 128**2 + 10 * 128, "4 D wide inside"),
        (12 * 768**2 + 13 * 768, "width 768"),
        (16 * 128**2 + 13 * 128, "heads are slices"),
        (198_000, "near"),
        (0, "too few"),
        (10**9, "too many"),
        (float("nan"), "too many"),
        ("12 D^2 + 13 D", "a number is wanted"),
        (None, "a number is wanted"),
    ],
    "05.2": [
        (_after, "after the sums"),
        (_no_shortcuts, "both shortcuts are missing"),
        (_no_second, "the second shortcut is missing"),
        (_from_normed, "not normed"),
        (_no_norm1, "the norm before attention is missing"),
        (_no_norms, "both norms are missing"),
        (_side_by_side, "feed-forward reads the first x"),
        (_feed_first, "feed-forward comes first"),
        (_first_x, "loses what attention wrote"),
        (lambda x, norm1, norm2, **rest: solution(x, norm1=norm2, norm2=norm1, **rest),
         "exchanged"),
        (lambda x, norm2, **rest: solution(x, norm2=rest["norm1"], **rest), "norm1 is used twice"),
        (lambda x, num_heads, **rest: solution(x, num_heads=1, **rest), "num_heads is not used"),
        (_plain, "own scale and bias"),
        (_bent(jax.nn.relu), "ReLU"),
        (_bent(lambda x: x), "no GELU"),
        (_bent(lambda x: gelu(x, "erf")), "exact form"),
        (_unmasked, "no causal mask"),
        (_normed_over_tokens, "a norm runs over the tokens"),
        (_only_on_few, "numbers in the hundreds"),
        (lambda x, **params: (solution(x, **params), None), "several things"),
        (lambda x, **params: None, "returns nothing"),
        (lambda x, **params: "x", "has shape ()"),
        (lambda x: x, "raises TypeError"),
        (lambda x, **params: solution(x, **params)[..., :1], "has shape"),
        ("block", "a function is wanted"),
        (None, "a function is wanted"),
    ],
    "05.3": [
        ("shortcut", "full of zeros"),
        ("mask", "change the last token"),
        ("gelu", "nothing is left to bend"),
        ("start", "the same parameters"),
        ("place", "one of these words"),
        (["norm"], "one of these words"),
        (3, "one of these words"),
    ],
}  # fmt: skip
