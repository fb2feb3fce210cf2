"""What implementations of today's models are known to do differently, by the model's switches.

Each function gives alternatives: words said of the other implementation, and the override that does
it too, the arguments of `Variant.changed`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgpt.model.attention import norm_heads, split_heads
from jaxgpt.model.layers import gelu
from jaxgpt.model.rope import turn
from jaxgpt.parity.overrides import Change, Changes, Points, Variant

Rows = Iterator[tuple[str, dict[str, Any]]]
Switch = Callable[[Variant], Rows]
"""Of the variant that is changed."""


def windows(variant: Variant) -> Rows:
    """Windows of another size, or none."""
    size = variant.config.window
    for other in (size + 1, size - 1) if size else ():
        words = f"has a window of {other} tokens, not {size}: it is off by one"
        yield words, {"config": {"window": other}}
    if size:
        yield "ignores the window", {"config": {"window": variant.config.context_length}}


def offsets(variant: Variant) -> Rows:
    """Gemma's norms, or those of others."""
    if variant.config.norm == "rms":
        own, other = "a norm's scale", "1 more than a norm's scale"
        own, other = (other, own) if variant.config.norm_offset else (own, other)
        words = f"multiplies by {other}, not by {own}"
        yield words, {"config": {"norm_offset": not variant.config.norm_offset}}


def embedding_scales(variant: Variant) -> Rows:
    """Gemma's embedding, or that of others."""
    if variant.config.positions == "rope":
        does = "does not multiply" if variant.config.scale_embedding else "multiplies"
        words = f"{does} token vectors by the root of the width"
        yield words, {"config": {"scale_embedding": not variant.config.scale_embedding}}


def rotations(variant: Variant) -> Rows:
    """Rotary positions with other pairs or frequencies."""
    config, rope = variant.config, variant.config.rope
    if config.positions != "rope":
        return

    def other(**settings: Any) -> dict[str, Any]:
        return {"config": {"rope": replace(rope, **settings)}}

    yield "turns neighbours as pairs (rotary positions), not halves", _heads_by(_norm, _pair, _turn)
    yield "does not turn queries and keys by their positions", _heads_by(_norm)
    if rope.rope_local_base:
        yield "turns layers with a window as those without", other(rope_local_base=0.0)
    if rope.rope_scaling == "none":
        return
    yield f"does not scale rotary positions ({rope.rope_scaling})", other(rope_scaling="none")
    if config.window:
        where = "only in layers without a window" if rope.rope_scale_local else "in all layers"
        words = f"scales rotary positions {where}"
        yield words, other(rope_scale_local=not rope.rope_scale_local)
    if rope.rope_scaling == "yarn":
        words = "does not multiply queries and keys by YaRN's attention factor"
        yield words, other(rope_attention_factor=1.0)
        does = "does not round" if rope.rope_truncate else "rounds"
        words = f"{does} the pairs at which YaRN begins and ends (truncate)"
        yield words, other(rope_truncate=not rope.rope_truncate)


def late_norms(variant: Variant) -> Rows:
    """Norms of queries and keys after rotary positions."""
    if variant.config.positions == "rope" and variant.config.qk_norm != "none":
        words = "norms queries and keys after they are turned (rotary positions), not before"
        yield words, _heads_by(_turn, _norm, points=("attn.{}_norm", "attn.{:.1}"))


def shared_heads(variant: Variant) -> Rows:
    """Keys and values that each serve every so many heads, not neighbours."""
    heads, groups = variant.config.num_heads, variant.config.num_kv_heads or 1
    if 1 < groups < heads:
        order = jnp.arange(heads).reshape(-1, groups).T.reshape(-1)
        back, taken = jnp.argsort(order), partial(jnp.take, axis=1)
        words = "shares keys and values among the heads in turn (tile), not neighbours (repeat)"
        context: Changes = {"attn.context": lambda points: taken(points.seen["attn.context"], back)}
        yield words, {"after": {"attn.q": lambda x: taken(x, order)}, "at": context}


def activations(variant: Variant) -> Rows:
    """Another activation of a gate, or the gate and what it opens exchanged."""
    gate, form = variant.config.gate, variant.config.gelu
    if gate == "none":
        return
    own = jax.nn.silu if gate == "silu" else partial(gelu, form=form)
    words = "exchanges gate and up: the activation function is of the latter"
    yield words, gated(own, "mlp.up", "mlp.gate")
    others: dict[str, Change] = {
        "GELU by tanh": gelu,
        "GELU by erf": partial(gelu, form="erf"),
        "ReLU": jax.nn.relu,
        "sigmoid": jax.nn.sigmoid,
    }
    for name, function in others.items() if gate == "silu" else ():
        yield f"has {name} in SiLU's place", gated(function)


def sinks(variant: Variant) -> Rows:
    """Attention that always attends to something."""
    if variant.config.sinks:
        absent = partial(jnp.full_like, fill_value=-1e30)
        yield "ignores the sinks", {"leaves": {"blocks.attn.sinks": absent}}


def experts(variant: Variant) -> Rows:
    """Experts that are chosen, shared or opened otherwise."""
    config, own = variant.config, variant.config.experts
    if not own.num_experts:
        return
    chosen = own.router_softmax == "chosen"
    over = ("all experts", "the chosen ones")[:: 1 if chosen else -1]
    words = f"takes the softmax over {over[0]}, not over {over[1]}"
    other = replace(own, router_softmax="all" if chosen else "chosen")
    yield words, {"config": {"experts": other}}
    if config.gate == "clamped":
        yield "does not clamp gate and up", {"config": {"gate_limit": 1e9}}
    gate, up = (variant.params["blocks"]["mlp"][name] for name in ("gate", "up"))
    halved, exchanged = {}, {}
    for name in gate:
        both = jnp.stack([gate[name], up[name]], axis=-1)
        halves = jnp.split(both.reshape(*both.shape[:-2], -1), 2, axis=-1)
        for part, half, opposite in zip(("gate", "up"), halves, (up, gate), strict=True):
            halved[f"blocks.mlp.{part}.{name}"] = lambda _, half=half: half
            exchanged[f"blocks.mlp.{part}.{name}"] = lambda _, leaf=opposite[name]: leaf
    yield "takes gate and up as halves of their product, not in turn", {"leaves": halved}
    yield "exchanges gate and up", {"leaves": exchanged}


def gated(function: Change, gate: str = "mlp.gate", opened: str = "mlp.up") -> dict[str, Changes]:
    """An activation function of the gate, times what it opens; without a gate, of that."""

    def hidden(points: Points) -> Array:
        if "mlp.gate" not in points.seen:
            return function(points.seen[opened])
        return function(points.seen[gate]) * points.seen[opened]

    return {"at": {"mlp.hidden": hidden}}


def _heads_by(
    *steps: Callable[[Points, str, Array], Array], points: tuple[str, ...] = ("attn.{:.1}",)
) -> dict[str, Changes]:
    """Queries and keys by other steps from their product on, seen at `points`."""

    def made(points: Points, name: str) -> Array:
        config = points.variant.config
        heads = split_heads(points.seen["attn.qkv"], config.num_heads, config.num_kv_heads)
        x = heads[0 if name == "query" else 1]
        for step in steps:
            x = step(points, name, x)
        return x

    places = ((point.format(name), name) for name in ("query", "key") for point in points)
    return {"at": {place: lambda points, name=name: made(points, name) for place, name in places}}


def _norm(points: Points, name: str, x: Array) -> Array:
    norm, attn = points.form.get("norm"), points.params["attn"]
    return x if norm is None else norm_heads(x, norm, attn[f"{name}_norm"])


def _turn(points: Points, _: str, x: Array) -> Array:
    return turn(x, points.form["turns"])


def _pair(_: Points, name: str, x: Array) -> Array:
    """Neighbours in the places of pairs; to put them back changes no product of two heads."""
    return jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
