"""What implementations of one GPT are known to do differently, by the operation where it shows.

Whether one is the cause at hand is for `diagnosis` to try.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgpt.model.layers import layer_norm
from jaxgpt.model.schema import dimensions
from jaxgpt.parity.diagnosis import switches
from jaxgpt.parity.diagnosis.column_orders import column_orders
from jaxgpt.parity.diagnosis.table import COARSE, EPSILONS, LINEAR, OVERRIDES, round_to
from jaxgpt.parity.overrides import Change, Norm, Variant, no_norm, rms_norm, unbiased_norm

_RMS_EPSILONS = (1e-5, 1e-6, 1e-8, 2.0**-23)  # the last is PyTorch's default
_WHERE = {
    "norm1": "the first norm of a block",
    "post_norm1": "the norm of what attention gives",
    "norm2": "the second norm of a block",
    "post_norm2": "the norm of what the feed-forward network gives",
    "norm": "the last norm",
}
_FACTORS = (
    *("norm1", "attn.q", "attn.k", "attn.v", "attn.weights", "attn.context"),
    *("norm2", "mlp.hidden", "norm"),
)
_PRODUCTS = ("attn.qkv", "attn.out", "mlp.gate", "mlp.up", "mlp.out")


@dataclass(frozen=True)
class Cause:
    """One difference: what the other implementation does, and the variant that does it too."""

    words: str
    """Said of the other implementation: a verb, and what follows it."""
    variant: Variant
    """Changed in all layers."""
    rounds_to: str = ""
    """Of a cause that is a coarser rounding, the dtype rounded to: what it explains cannot be met
    exactly, for a last bit decides which way a number is rounded."""


Causes = Callable[[Variant], Iterator[Cause]]
"""The causes of one kind, which are alternatives to each other."""


@dataclass(frozen=True)
class Operation:
    """What leads to one activation."""

    words: str
    """What it is made of, for when no known cause fits."""
    causes: tuple[Causes, ...]


def tabled(rows: str | switches.Switch) -> Causes:
    """The rows of a name in `OVERRIDES`, or those that a function of `switches` gives."""

    def causes(variant: Variant) -> Iterator[Cause]:
        found = OVERRIDES[rows].items() if isinstance(rows, str) else rows(variant)
        for words, changes in found:
            yield Cause(words.format(variant), variant.changed(**changes))

    return causes


def _epsilons_of(norm: str) -> Causes:
    """What one norm of a block alone, or the last, adds to the variance."""

    def causes(variant: Variant) -> Iterator[Cause]:
        own = variant.norm(norm)
        for epsilon in EPSILONS:
            spread = variant.spread.rpartition(" in ")[0]
            words = f"adds {epsilon:g} to {spread} in {_WHERE[norm]} alone, not {own.epsilon:g}"
            yield Cause(words, variant.changed(norms={norm: own._replace(epsilon=epsilon)}))

    return causes


def _other_norm(norm: str) -> Causes:
    """RMSNorm in one norm of a block, or the last; or nothing in its place."""

    def causes(variant: Variant) -> Iterator[Cause]:
        if variant.config.norm == "layer":
            yield from _rms(variant, (norm,), f"{_WHERE[norm]} alone")
        without = variant.changed(norms={norm: Norm(no_norm)})
        yield Cause(f"leaves out {_WHERE[norm]}", without)

    return causes


def _rms_norms(variant: Variant) -> Iterator[Cause]:
    if variant.config.norm == "layer":
        yield from _rms(variant, tuple(_WHERE), "every layer norm")


def _rms(variant: Variant, norms: Sequence[str], where: str) -> Iterator[Cause]:
    for epsilon in dict.fromkeys((variant.norm(norms[0]).epsilon, *_RMS_EPSILONS)):
        words = f"has RMSNorm in place of {where}, with epsilon {epsilon:.3g}"
        yield Cause(words, variant.changed(norms=dict.fromkeys(norms, Norm(rms_norm, epsilon))))


def _variances(variant: Variant) -> Iterator[Cause]:
    """Bessel's correction, PyTorch's default for `var`."""
    if variant.config.norm == "rms":
        return
    norms = {name: variant.norms.get(name, Norm()) for name in _WHERE}
    unbiased = all(norm.compute is not unbiased_norm for norm in norms.values())
    old, new = (layer_norm, unbiased_norm) if unbiased else (unbiased_norm, layer_norm)
    by, not_by = ("D - 1 (unbiased)", "D") if unbiased else ("D", "D - 1")
    changed = {name: x._replace(compute=new) for name, x in norms.items() if x.compute is old}
    words = f"divides a layer norm's variance by {by}, not by {not_by}"
    yield Cause(words, variant.changed(norms=changed))


def _stored_orders(variant: Variant) -> Iterator[Cause]:
    """Queries, keys and values in another order in the weights."""
    for words, change in column_orders(variant.config.num_heads):
        leaves = {f"blocks.attn.qkv.{name}": change for name in ("weight", "bias")}
        words = f"has the columns of attn.qkv in another order: {words}"
        yield Cause(words, variant.changed(leaves=leaves))


def _read_orders(variant: Variant) -> Iterator[Cause]:
    """Queries, keys and values told apart in another order."""
    before = variant.after.get("attn.qkv", lambda x: x)
    for words, change in column_orders(variant.config.num_heads):
        after = {"attn.qkv": lambda x, change=change: change(before(x))}
        words = f"takes the columns of attn.qkv in another order: {words}"
        yield Cause(words, variant.changed(after=after))


def _heads(variant: Variant) -> Iterator[Cause]:
    """Another number of heads, which no shape shows."""
    config = variant.config
    width, old, groups = (dimensions(config)[letter] for letter in "CHG")
    even = 2 if config.positions == "rope" else 1
    for number in range(1, width + 1) if config.qk_norm != "head" else ():
        if width % (even * number) == 0 and number != old and groups * number % old == 0:
            heads = {
                "num_heads": number,
                "num_kv_heads": config.num_kv_heads and groups * number // old,
                "head_dim": config.head_dim and width // number,
            }
            yield Cause(f"has {number} heads, not {old}", variant.changed(heads))


def _layer_orders(earlier: Sequence[int]) -> Causes:
    """All layers turned round, or two of them exchanged, the earlier of which is in `earlier`."""

    def causes(variant: Variant) -> Iterator[Cause]:
        before = variant.order or tuple(range(variant.config.num_layers))
        yield Cause("has its layers in reverse", variant.changed(order=before[::-1]))
        for i in earlier:
            for j in range(i + 1, len(before)):
                after = list(before)
                after[i], after[j] = after[j], after[i]
                exchanged = variant.changed(order=tuple(after))
                yield Cause(f"has layers {i} and {j} exchanged", exchanged)

    return causes


def precisions(variant: Variant) -> Iterator[Cause]:
    """Fewer bits, in everything or only in what enters a matrix product."""
    if variant.params["embed"]["tokens"].dtype != jnp.float32:
        return
    for dtype in COARSE:
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), variant.params)
        words = f"computes in {dtype} throughout"
        yield Cause(words, replace(variant, params=cast), rounds_to=dtype)
    for dtype in COARSE:
        at = {name: lambda x, d=dtype, n=name: round_to(d, x.seen[n]) for name in _PRODUCTS}
        rounded = _with_factors(variant, partial(round_to, dtype)).changed(at=at)
        words = f"computes matrix products in {dtype}, as autocast does"
        yield Cause(words, rounded, rounds_to=dtype)
    for name, dtype, change in (
        ("TF32", "float16", _to_tf32),  # which have the same bits after the point
        *((dtype, dtype, partial(round_to, dtype)) for dtype in COARSE),
    ):
        words = f"rounds what enters matrix products to {name}; set their precision to highest"
        yield Cause(words, _with_factors(variant, change), rounds_to=dtype)


def _with_factors(variant: Variant, change: Change) -> Variant:
    """The variant with both factors of every matrix product changed."""
    if variant.config.tie_head:
        head = {"weight": variant.params["embed"]["tokens"].T}
        variant = replace(variant, params=variant.params | {"head": head})
    weights = ("head.weight", *(f"blocks.{path}.weight" for path in (*LINEAR, "mlp.gate")))
    leaves, after = (dict.fromkeys(names, change) for names in (weights, _FACTORS))
    return variant.changed({"tie_head": False}, leaves, after=after)


def _to_tf32(x: Array) -> Array:
    """Rounded to 10 bits after the point, ties to even, as NVIDIA's tensor cores take float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = bits + jnp.uint32(0xFFF) + (bits >> 13 & 1)
    return jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFFE000), jnp.float32)


epsilons = tabled("epsilon")
"""What a layer norm adds to the variance."""
_offsets, _late_norms = tabled(switches.offsets), tabled(switches.late_norms)


def _of_norm(name: str, words: str, *more: Causes) -> Operation:
    causes = epsilons, _offsets, _epsilons_of(name), _variances, *more, _other_norm(name)
    return Operation(words, causes)


def _of_head_norm(words: str) -> Operation:
    return Operation(words, (epsilons, _offsets, _late_norms))


OPERATIONS = {
    "embed": Operation(
        "a lookup in the token table and one in the position table",
        (tabled("positions"), tabled(switches.embedding_scales)),
    ),
    "norm1": _of_norm(
        *("norm1", "the first layer norm"),
        *(tabled("bias of norm1"), tabled("norm place"), _rms_norms),
    ),
    "attn.qkv": Operation(
        "one product and its bias",
        (tabled("bias of attn.qkv"), _stored_orders, tabled("three transposed")),
    ),
    "attn.query_norm": _of_head_norm("the norm of queries"),
    "attn.key_norm": _of_head_norm("the norm of keys"),
    "attn.context": Operation(
        "the split into heads, the scores, their scale and mask, a softmax, and means of values",
        (
            *(tabled(switches.windows), tabled(switches.sinks), tabled("mask")),
            tabled("scale"),
            *(tabled(switches.shared_heads), tabled(switches.rotations), _late_norms),
            *(_heads, _read_orders),
        ),
    ),
    "attn.out": Operation(
        "one product and its bias", (tabled("bias of attn.out"), tabled("transposed"))
    ),
    "post_norm1": _of_norm("post_norm1", "the norm of what attention gives"),
    "middle": Operation(
        "the sum with the stream that enters the block", (tabled("attention's shortcut"),)
    ),
    "norm2": _of_norm("norm2", "the second layer norm", tabled("bias of norm2")),
    "mlp.router": Operation("one product and its bias", ()),
    "mlp.gate": Operation("one product and its bias", ()),
    "mlp.up": Operation("one product and its bias", (tabled("bias of mlp.up"),)),
    "mlp.gelu": Operation(
        "the activation function", (tabled(switches.activations), tabled("activation"))
    ),
    "mlp.down": Operation(
        "one product and its bias", (tabled("bias of mlp.down"), tabled(switches.experts))
    ),
    "post_norm2": _of_norm("post_norm2", "the norm of what the feed-forward network gives"),
    "block": Operation(
        "the sum with the stream that enters the feed-forward network",
        (tabled("feed-forward's shortcut"),),
    ),
    "norm": _of_norm("norm", "the last layer norm"),
    "logits": Operation("the product with the head or the token table", (tabled("head"),)),
}
"""In the order of the forward pass."""


def anywhere(layers: Sequence[int]) -> tuple[Causes, ...]:
    """The causes that may show first at any operation, of which it is known to be in `layers`."""
    return _layer_orders(layers), tabled("weights")


def operation_of(activation: str) -> Operation:
    """The operation that an activation of `activation_names` comes from."""
    parts = activation.split(".")
    name = activation if parts[0] != "blocks" else ".".join(parts[2:]) or "block"
    return OPERATIONS[name]
