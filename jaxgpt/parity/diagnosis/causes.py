"""What implementations of one GPT are known to do differently, by the operation where it shows.

Whether one is the cause at hand is for `diagnosis` to try.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxgpt.parity.diagnosis import computing, weights
from jaxgpt.parity.diagnosis.cause import Causes


@dataclass(frozen=True)
class Operation:
    """What leads to one activation."""

    words: str
    """What it is made of, for when no known cause fits."""
    causes: tuple[Causes, ...] = ()


def _of_norm(name: str, words: str) -> Operation:
    causes: list[Causes] = [computing.epsilons, computing.epsilons_of(name), computing.variances]
    causes += [] if name == "norm" else [weights.missing_bias(name)]
    causes += [computing.norm_places, computing.rms_norms] if name == "norm1" else []
    return Operation(words, (*causes, computing.other_norm(name)))


OPERATIONS = {
    "embed": Operation(
        "a lookup in the token table and one in the position table", (computing.offsets,)
    ),
    "norm1": _of_norm("norm1", "the first layer norm"),
    "attn.qkv": Operation(
        "one product and its bias",
        (weights.missing_bias("attn.qkv"), weights.stored_orders, weights.transposed_qkv),
    ),
    "attn.context": Operation(
        "the split into heads, the scores, their scale and mask, a softmax, and means of values",
        (computing.masks, computing.scales, computing.heads, computing.read_orders),
    ),
    "attn.out": Operation(
        "one product and its bias", (weights.missing_bias("attn.out"), weights.transposed_out)
    ),
    "middle": Operation(
        "the sum with the stream that enters the block", (computing.missing_shortcut("attn"),)
    ),
    "norm2": _of_norm("norm2", "the second layer norm"),
    "mlp.up": Operation("one product and its bias", (weights.missing_bias("mlp.up"),)),
    "mlp.gelu": Operation("the activation function", (computing.activations,)),
    "mlp.down": Operation("one product and its bias", (weights.missing_bias("mlp.down"),)),
    "block": Operation(
        "the sum with the stream that enters the feed-forward network",
        (computing.missing_shortcut("mlp"),),
    ),
    "norm": _of_norm("norm", "the last layer norm"),
    "logits": Operation("the product with the head or the token table", (computing.ties,)),
}
"""In the order of the forward pass."""


def anywhere(layers: Sequence[int]) -> tuple[Causes, ...]:
    """The causes that may show first at any operation, of which it is known to be in `layers`."""
    return computing.layer_orders(layers), weights.weight_dtypes


def operation_of(activation: str) -> Operation:
    """The operation that an activation of `activation_names` comes from."""
    parts = activation.split(".")
    name = activation if parts[0] != "blocks" else ".".join(parts[2:]) or "block"
    return OPERATIONS[name]
