"""The schema of a GPT's parameters: one row for each leaf, which all who name a leaf read.

Dimension letters: V vocabulary, T context length, L layers, D width of the residual stream, H
heads, G heads of keys and values, K width of a head, F hidden width of the feed-forward network, X
experts, an axis that is left out where there are none;
C = H K, what the heads bring together; E = (H + 2 G) K, queries, keys and values side by side; Q
and M, what the norms of queries and of keys go over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxgpt.config import BlockConfig, ModelConfig
from jaxgpt.errors import ConfigError

BLOCKS = "blocks"
"""The part whose leaves are stacked over the layers, L."""


def _always(_: ModelConfig) -> bool:
    return True


@dataclass(frozen=True)
class Leaf:
    """A row of the schema: one parameter of the model, or of each of its blocks."""

    path: str
    """Where it stands in the nested dict of parameters, with dots between the names."""
    axes: str
    """Its dimension letters, or sizes as digits; a leaf of the blocks has L in front of them."""
    init: Literal["normal", "residual", "zeros", "ones", "identity"]
    """Its start: normal of standard deviation 0.02, or 0.02 / sqrt(2 L) for what writes into the
    residual stream (GPT-2); or constant, for a norm's scale that at which it is 1."""
    split: tuple[tuple[int, int], ...] = ()
    """The way from the key to the leaf's own, as (how many parts, which one) of each split, in a
    block from the layer's key on; without it, the key is folded with the path's checksum."""
    decays: bool = False
    """Whether weight decay acts on it, where it acts on matrices."""
    sharded: str = ""
    """The letter of the axis that lies across the `fsdp` devices."""
    present: Callable[[ModelConfig], bool] = _always
    """Whether a model has it."""
    adapters: tuple[str, ...] = ()
    """The names of the low-rank adapters that change it, one for each section of its columns; of a
    leaf that the standard block does not have, with a dot, such as `attn.gain`."""
    tensor: str = ""
    """The letter of the axis that lies across the `tensor` devices."""

    @property
    def stacked(self) -> bool:
        """Whether it has an axis of layers in front."""
        return self.path.startswith(f"{BLOCKS}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that lead to it in the nested dict."""
        return tuple(self.path.split("."))

    def shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Its shape in a model of `config`, without the axis of layers."""
        sizes = dimensions(config)
        axes = [axis for axis in self.axes.split() if axis != "X" or sizes["X"]]
        return tuple(int(axis) if axis.isdecimal() else sizes[axis] for axis in axes)


def _matrix(
    path: str,
    axes: str,
    split: tuple[tuple[int, int], ...] = (),
    *,
    residual: bool = False,
    present: Callable[[ModelConfig], bool] = _always,
) -> Leaf:
    """The weight of a linear map inside a block, (inputs, outputs), of which D is cut.

    Across the `tensor` devices it is the other axis. Of experts too, each of which then lies on all
    devices: any number of them can be shared.
    """
    name, within = path.split(".")[-2], axes.replace("D", "").split()[-1]
    adapters = ("query", "key", "value") if name == "qkv" else (name,)
    init = "residual" if residual else "normal"
    return Leaf(path, axes, init, split, True, "D", present, adapters, within)


def _bias(
    path: str, axes: str, present: Callable[[ModelConfig], bool], *, tensor: str = ""
) -> Leaf:
    return Leaf(path, axes, "zeros", tensor=tensor, present=present)


Rows = tuple[Leaf, ...]


def _norm(path: str, where: Callable[[ModelConfig], bool] = _always) -> Rows:
    """A norm's scale, and its bias where it is a layer norm."""
    return (
        Leaf(f"{path}.scale", "D", "identity", present=where),
        _bias(f"{path}.bias", "D", lambda config: where(config) and config.norm == "layer"),
    )


def _before(config: ModelConfig) -> bool:
    return config.norm_place != "after"


def _after(config: ModelConfig) -> bool:
    return config.norm_place != "before"


def _qk_norm(config: ModelConfig) -> bool:
    return config.qk_norm != "none"


def _gated(config: ModelConfig) -> bool:
    return config.gate != "none"


def _mixed(config: ModelConfig) -> bool:
    return bool(config.experts.num_experts)


SCHEMA: Rows = (
    Leaf("embed.tokens", "V D", "normal", ((4, 0),), True, "D", tensor="V"),
    Leaf(
        *("embed.positions", "T D", "normal", ((4, 1),), True, "D"),
        present=lambda config: config.positions == "learned",
    ),
    *_norm("blocks.norm1", _before),
    _matrix("blocks.attn.qkv.weight", "D E", ((2, 0), (2, 0))),
    _bias("blocks.attn.qkv.bias", "E", lambda config: config.qkv_bias),
    Leaf("blocks.attn.query_norm.scale", "Q", "identity", present=_qk_norm),
    Leaf("blocks.attn.key_norm.scale", "M", "identity", present=_qk_norm),
    Leaf("blocks.attn.sinks", "H", "zeros", tensor="H", present=lambda config: config.sinks),
    _matrix("blocks.attn.out.weight", "C D", ((2, 0), (2, 1)), residual=True),
    _bias("blocks.attn.out.bias", "D", lambda config: config.out_bias),
    *_norm("blocks.post_norm1", _after),
    *_norm("blocks.norm2", _before),
    Leaf("blocks.mlp.router.weight", "D X", "normal", (), True, "D", _mixed),
    _bias("blocks.mlp.router.bias", "X", lambda c: _mixed(c) and c.experts.router_bias),
    _matrix("blocks.mlp.gate.weight", "X D F", present=_gated),
    _bias("blocks.mlp.gate.bias", "X F", lambda c: _gated(c) and c.mlp_bias, tensor="F"),
    _matrix("blocks.mlp.up.weight", "X D F", ((2, 1), (2, 0))),
    _bias("blocks.mlp.up.bias", "X F", lambda config: config.mlp_bias, tensor="F"),
    _matrix("blocks.mlp.down.weight", "X F D", ((2, 1), (2, 1)), residual=True),
    _bias("blocks.mlp.down.bias", "X D", lambda config: config.mlp_bias),
    *_norm("blocks.post_norm2", _after),
    *_norm("norm"),
    Leaf(
        *("head.weight", "D V", "normal", ((4, 3),), True, "D"),
        tensor="V",
        present=lambda config: not config.tie_head,
        adapters=("head",),
    ),
)


def names_of(path: Sequence[Any]) -> list[str]:
    """The names of nested dicts on the way to a leaf of a JAX tree."""
    return [str(entry.key) for entry in path if hasattr(entry, "key")]


BLOCK_LEAVES: Rows = tuple(leaf for leaf in SCHEMA if leaf.stacked)
"""The rows of the standard block."""


def rows_of(config: ModelConfig) -> Rows:
    """The schema of a model of `config`: where it has a block of its own, with that block's rows.

    Raises ConfigError if of that block only the name is known.
    """
    if not isinstance(config, BlockConfig):
        return SCHEMA
    block: Any = config.block
    if isinstance(block, str):
        raise ConfigError(
            f"the model's block is {block}, no part of jaxgpt; in Python, pass it as block="
        )
    return (*(leaf for leaf in SCHEMA if not leaf.stacked), *block.leaves)


def leaves(config: ModelConfig) -> list[Leaf]:
    """The rows of the leaves that a model of `config` has."""
    return [leaf for leaf in rows_of(config) if leaf.present(config)]


def find(names: Sequence[str], rows: Rows = SCHEMA) -> Leaf | None:
    """The row of the leaf whose path `names` end with, if there is one.

    What stands in front, as in an optimizer's state, does not count.
    """
    by_names = {leaf.names: leaf for leaf in rows}
    ends = (tuple(names[start:]) for start in range(len(names)))
    return next((by_names[end] for end in ends if end in by_names), None)


def decays(names: Sequence[str], rows: Rows = SCHEMA) -> bool:
    """Whether weight decay acts on a leaf; of one without a row, whether it is a `weight`."""
    leaf = find(names, rows)
    return leaf.decays if leaf else tuple(names[-1:]) == ("weight",)


def sharded_axis(names: Sequence[str], rows: Rows = SCHEMA) -> int | None:
    """The axis, from the end, that lies across the `fsdp` devices; None if it is copied to all.

    Of a `weight` without a row it is that of the inputs, the last but one.
    """
    leaf = find(names, rows)
    if leaf is None:
        return -2 if tuple(names[-1:]) == ("weight",) else None
    return _place(leaf, leaf.sharded)


def tensor_axis(
    names: Sequence[str], shape: Sequence[int], devices: int, rows: Rows = SCHEMA
) -> int | None:
    """The axis, from the end, that lies across so many `tensor` devices; None if it is copied.

    That is the axis of `sharded_axis`, too, where the leaf's letter cannot be cut: a vocabulary
    that the devices do not divide; and E, whose parts would not be whole heads.
    """
    leaf = find(names, rows)
    axis = None if leaf is None else _place(leaf, leaf.tensor)
    if leaf is None or axis is None:
        return None
    return sharded_axis(names, rows) if leaf.tensor == "E" or shape[axis] % devices else axis


def _place(leaf: Leaf, letter: str) -> int | None:
    letters = leaf.axes.split()
    return letters.index(letter) - len(letters) if letter else None


def dimensions(config: ModelConfig) -> dict[str, int]:
    """The size that each dimension letter stands for; where the config has 0, by GPT-2's rule."""
    width, heads = config.embed_dim, config.num_heads
    groups, head = config.num_kv_heads or heads, config.head_dim or width // heads
    return {
        "V": config.vocab_size,
        "T": config.context_length,
        "L": config.num_layers,
        "D": width,
        "H": heads,
        "G": groups,
        "K": head,
        "F": config.hidden_dim or 4 * width,
        "C": heads * head,
        "E": (heads + 2 * groups) * head,
        "Q": head if config.qk_norm == "head" else heads * head,
        "X": config.experts.num_experts,
        "M": head if config.qk_norm == "head" else groups * head,
    }


def qkv_sections(columns: int, query_columns: int) -> dict[str, slice]:
    """The columns of queries, of keys and of values, among the E `columns` that `qkv` makes.

    Those of the queries are C.
    """
    ends = query_columns, (columns + query_columns) // 2, columns
    return {
        "query": slice(0, ends[0]),
        "key": slice(ends[0], ends[1]),
        "value": slice(ends[1], ends[2]),
    }
