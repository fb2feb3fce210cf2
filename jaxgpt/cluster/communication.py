"""What a step sends between devices, by a formula: from the schema's letters and the config.

Tests hold it to what XLA compiles for eight devices. It leaves out scalars, such as the gradient's
norm, and the ids of tokens on their way to the table; a router's few numbers, along `tensor`; and
where `tensor` does not divide the vocabulary, a detour of XLA's of the embedding's gradients, twice
B T D, where there is `fsdp`, too.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import jax.numpy as jnp

from jaxgpt.axes import Axes
from jaxgpt.config import TrainConfig
from jaxgpt.model.schema import Leaf, dimensions, leaves
from jaxgpt.training.collectives import Traffic
from jaxgpt.training.plan import MOST_LOGITS

_FLOAT = 4


@dataclass(frozen=True)
class Message:
    """A collective of a step, or several that go together."""

    kind: str
    """One of `collectives.KINDS`."""
    axes: tuple[str, ...]
    """The axes of the mesh that lie between its devices."""
    bytes: int
    """Of the whole arrays on a device, each time, as of a `Collective`."""
    times: int = 1


def communication(
    config: TrainConfig, axes: Axes, *, scatters: bool = True
) -> dict[tuple[str, str], Traffic]:
    """How often, and how many bytes, by kind and axes, as `collectives.traffic` has them."""
    sums: dict[tuple[str, str], Traffic] = defaultdict(Traffic)
    for each in messages(config, axes, scatters=scatters):
        before = sums[key := (each.kind, "+".join(each.axes))]
        sums[key] = Traffic(before.times + each.times, before.bytes + each.times * each.bytes)
    return dict(sums)


def messages(config: TrainConfig, axes: Axes, *, scatters: bool = True) -> list[Message]:
    """The collectives of a step on a mesh, but for those of single devices.

    Gradients of what `fsdp` devices share are scattered as they are summed, as XLA does on GPUs and
    TPUs; without `scatters` summed on all, as it does on a CPU. Of a block or a loss of the
    caller's own it is what a standard one with such leaves would send.
    """
    needs, turns = _Needs(config, axes, scatters), config.gradient_accumulation
    layer = [*needs.weights(), *_together(needs.block_gradients(), axes), *needs.activations()]
    tables = [*needs.embedding(), *needs.head(), *_together(needs.table_gradients(), axes)]
    counted = (layer, turns * config.model.num_layers), (tables, turns), (needs.table(), 1)
    return [
        replace(each, axes=along, times=each.times * times)
        for some, times in counted
        for each in some
        if (along := _between(each.axes, axes))
    ]


def _between(names: tuple[str, ...], axes: Axes) -> tuple[str, ...]:
    return tuple(name for name in names if getattr(axes, name) > 1)


class _Needs:
    """What a micro-batch sends in one layer, and before and after all."""

    def __init__(self, config: TrainConfig, axes: Axes, scatters: bool):
        self.config, self.axes, self.scatters = config, axes, scatters
        self.model, self.sizes = config.model, dimensions(config.model)
        self.width = jnp.dtype(config.compute_dtype).itemsize
        devices = axes.data * axes.fsdp * config.gradient_accumulation
        self.rows = config.batch_size // devices
        self.tokens = self.rows * self.model.context_length
        self.stream = self.width * self.tokens * self.sizes["D"]
        self.odd = self.sizes["V"] % axes.tensor > 0
        self.columns = -(-self.sizes["V"] // axes.tensor)
        self.head_size = self.columns * self.sizes["D"]
        self.block = [leaf for leaf in leaves(self.model) if leaf.stacked]

    def weights(self) -> Iterator[Message]:
        """Those of a layer, gathered before its forward and its backward pass."""
        for leaf in self.block:
            if leaf.sharded:
                yield Message("all-gather", ("fsdp",), self._bytes(leaf), 2)
            if self._by_heads(leaf):
                # From how it is kept to whole heads, in both passes, and its gradient back.
                if leaf.sharded:
                    yield Message("all-to-all", ("tensor",), self._bytes(leaf) // self.axes.fsdp, 3)
                else:
                    yield Message("all-gather", ("tensor",), self._bytes(leaf) * self.axes.tensor)

    def block_gradients(self) -> Iterator[Message]:
        """Those of a layer's parameters."""
        for leaf in self.block:
            # Experts have a mesh of their own, outside which XLA moves what they give.
            mixed = leaf.axes.startswith("X ") and self.sizes["X"] > 0
            yield from self._gradient(self._bytes(leaf), bool(leaf.sharded) and not mixed)

    def activations(self) -> Iterator[Message]:
        """What heads and hidden width bring together, forward and backward."""
        gated, mixed = self.model.gate != "none", self.model.experts.num_experts > 0
        yield Message("all-reduce", ("tensor",), self.stream, 3 + self.config.remat + 2 * mixed)
        if not mixed:  # the gradients from up and gate go together
            yield Message("all-reduce", ("tensor",), self.stream * (1 + gated))

    def embedding(self) -> Iterator[Message]:
        """Vectors from the table, to the devices of their rows; and their gradients back."""
        vectors = _FLOAT * self.tokens * self.sizes["D"]
        yield Message("all-to-all", ("fsdp",), vectors, 2)
        # Of a vocabulary that is not cut, a tensor device has columns.
        yield Message("all-gather" if self.odd else "all-reduce", ("tensor",), vectors)

    def table(self) -> Iterator[Message]:
        """The head's, gathered once for all micro-batches."""
        if self.odd:  # padded and cut for the head alone
            yield Message("all-to-all", ("tensor",), self.width * self.head_size // self.axes.fsdp)
        yield Message("all-gather", ("fsdp",), self.width * self.head_size)

    def head(self) -> Iterator[Message]:
        """The table's gradient, and by chunk what parts of the vocabulary bring together."""
        if self.odd:
            yield Message("all-to-all", ("tensor",), _FLOAT * self.head_size // self.axes.fsdp)
        yield Message("reduce-scatter", ("fsdp",), _FLOAT * self.head_size)
        chunks = math.ceil(self.tokens * self.columns / MOST_LOGITS)
        tokens = self.tokens // chunks
        yield Message("all-reduce", ("tensor",), _FLOAT * tokens, 3 * chunks)
        yield Message("all-reduce", ("tensor",), self.width * tokens * self.sizes["D"], chunks)

    def table_gradients(self) -> Iterator[Message]:
        """Those of the tables, of which an `fsdp` device has its columns, and of the last norm."""
        yield Message("all-reduce", ("data",), _FLOAT * self.head_size // self.axes.fsdp)
        for leaf in leaves(self.model):
            if leaf.path.startswith("embed."):
                yield Message("all-reduce", ("data",), self._bytes(leaf) // self.axes.fsdp)
            elif leaf.path.startswith("norm."):
                yield from self._gradient(self._bytes(leaf), False)

    def _gradient(self, size: int, shared: bool) -> Iterator[Message]:
        if not shared or self.axes.fsdp == 1:
            yield Message("all-reduce", ("data", "fsdp"), size)
            return
        yield Message("reduce-scatter" if self.scatters else "all-reduce", ("fsdp",), size)
        yield Message("all-reduce", ("data",), size // self.axes.fsdp)

    def _bytes(self, leaf: Leaf) -> int:
        """Of a leaf, or its gradient, on a device that has its whole D."""
        letters = [axis for axis in leaf.axes.split() if axis != "X" or self.sizes["X"]]
        shape = dict(zip(letters, leaf.shape(self.model), strict=True))
        for letter in {leaf.tensor, "E"} & shape.keys():
            shape[letter] = -(-shape[letter] // self.axes.tensor)
        return self.width * math.prod(shape.values())

    def _by_heads(self, leaf: Leaf) -> bool:
        return "E" in leaf.axes.split() and self.axes.tensor > 1


def _together(found: Iterator[Message], axes: Axes) -> list[Message]:
    """Collectives of one kind between the same devices as one: XLA combines them."""
    sums: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for each in found:
        sums[each.kind, _between(each.axes, axes)] += each.bytes
    return [Message(kind, along, size) for (kind, along), size in sums.items()]
