"""Logits -> loss: the sum over tokens and their number, so that any split of a batch adds up."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.model.agreement import check_ids, check_rank
from jaxgpt.model.experts import Loads, imbalance
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Params
from jaxgpt.model.layout import (
    FSDP,
    TENSOR,
    row_axes,
    row_devices,
    tensor_devices,
    vocabulary_by_tensor,
)
from jaxgpt.model.products import columns_copied, is_widened, multiply_by_columns

_MOST_LOGITS = {"cpu": 1 << 26, "other": 1 << 27}
_MOST_UNROLLED = 24  # layers; their compilation takes about a second each
_TILE = 128  # columns of a product that GPUs, TPUs and matrix units compute at once

AS_IT_IS = Compute()
"""In float32, by the fastest attention that is possible."""

Loss = tuple[Float[Array, ""], Int[Array, ""]]
"""The summed loss in nats, and the number of targets that it sums over."""


LossFunction = Callable[[Params, Any, PRNGKeyArray | None], Loss]
"""A loss of parameters on a batch; dropout is on where a random key is given."""


def cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Loss:
    """Cross-entropy of the targets in nats, summed over (B, T); targets of -100 do not count.

    In float32 whatever the dtype of the logits. -100 is PyTorch's `ignore_index`. Raises DataError
    for another target outside [0, V), unless it is traced.
    """
    _check_targets(targets, logits.shape[-1])
    nats, _ = _token_losses(logits.astype(jnp.float32), targets)
    return nats.sum(), (targets != IGNORE).sum(dtype=jnp.int32)


def _token_losses(
    logits: Array, targets: Array, first: Any = None
) -> tuple[Array, tuple[Array, Array]]:
    """Each token's cross-entropy, and the numerators and the denominator of its softmax.

    Where `first` is given, it is the token of the first column; the rest of the columns are on the
    other `tensor` devices.
    """
    counted = targets != IGNORE
    labels = jnp.where(counted, targets, 0)[..., None]
    if first is None:
        picked = jnp.take_along_axis(logits, labels, axis=-1)[..., 0]
    else:
        places = jnp.arange(logits.shape[-1]) + first
        picked = jax.lax.psum(jnp.where(places == labels, logits, 0).sum(axis=-1), TENSOR)
    largest = jax.lax.stop_gradient(logits.max(axis=-1))
    largest = largest if first is None else jax.lax.pmax(largest, TENSOR)
    powers = jnp.exp(logits - largest[..., None])
    total = powers.sum(axis=-1)
    total = total if first is None else jax.lax.psum(total, TENSOR)
    return jnp.where(counted, jnp.log(total) + largest - picked, 0), (powers, total)


def pretraining_loss(config: TrainConfig) -> LossFunction:
    """`next_token_loss` as a run of `config` has it."""
    return next_token_loss(config.model, config.compute)


def next_token_loss(config: ModelConfig, compute: Compute = AS_IT_IS) -> LossFunction:
    """Next-token loss of pretraining on batches of (inputs, targets), each (B, T).

    A third array numbers the texts of a row, if there are several. The parameters are cast once,
    as in `hidden`; the gradient comes back in their dtype. In training, where there is a random
    key, a mixture of experts adds its `imbalance`, of the tokens up to a row's last target, times
    `router_balance`.
    """
    balance = config.experts.router_balance if config.experts.num_experts else 0.0

    def loss(
        params: Params, batch: tuple[Int[Array, "B T"], ...], rng: PRNGKeyArray | None
    ) -> Loss:
        inputs, targets, *segments = batch
        packed = segments[0] if segments else None
        loads: list[Loads] = []
        options: dict[str, Any] = {"segments": packed, "rng": rng}
        if balance and rng is not None:
            counted = jax.lax.cummax((targets != IGNORE).astype(jnp.float32), axis=1, reverse=True)
            options |= {"counted": counted, "note": loads.append}
        x = hidden(config, params, inputs, compute, **options)
        nats, count = head_loss(x, head_table(config, params), targets)
        return (nats + balance * imbalance(loads[0]) * count if loads else nats), count

    return loss


def row_likelihood(
    config: ModelConfig, compute: Compute = AS_IT_IS
) -> Callable[..., tuple[Float[Array, " B"], Int[Array, " B"]]]:
    """Log-probability of each row's targets, summed, in nats; and how many they are.

    A function of parameters, inputs, targets, each (B, T), with -100 where nothing is to be
    predicted, and a random key for dropout or None. Parameters are cast as in `next_token_loss`.
    """

    def measure(
        params: Params,
        inputs: Int[Array, "B T"],
        targets: Int[Array, "B T"],
        rng: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
        x = hidden(config, params, inputs, compute, rng=rng)
        nats, count = head_losses(x, head_table(config, params), targets)
        return -nats, count

    return measure


def hidden(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    compute: Compute = AS_IT_IS,
    *,
    segments: Int[Array, "B T"] | None = None,
    rng: PRNGKeyArray | None = None,
    **options: Any,
) -> Float[Array, "B T D"]:
    """Hidden vectors by `GPT.hidden`, of parameters cast to the dtype of `compute`.

    Embeddings keep a wider one, in which blocks then add, so that no small change is lost; as in
    PyTorch's autocast.
    """
    dtype = jnp.dtype(compute.dtype)

    def cast(name: str, leaf: Array) -> Array:
        return leaf.astype(jnp.promote_types(leaf.dtype, dtype) if name == "embed" else dtype)

    used = {name: jax.tree.map(partial(cast, name), part) for name, part in params.items()}
    # A CPU gains by it only where it multiplies in bfloat16.
    gains = jax.default_backend() != "cpu" or (dtype != jnp.float32 and not is_widened("a @ b"))
    few = gains and config.num_layers <= _MOST_UNROLLED
    return GPT(config, used).hidden(
        tokens,
        segments=segments,
        rng=rng,
        attention=compute.attention,
        remat=compute.remat,
        unroll=compute.unroll or (config.num_layers if few else 1),
        **options,
    )


def head_table(config: ModelConfig, params: Params) -> Float[Array, "V D"]:
    """Table of the head, (V, D), uncast: the token table if it is tied, or its own."""
    return params["embed"]["tokens"] if config.tie_head else params["head"]["weight"].T


def head_loss(
    x: Float[Array, "B T D"], table: Float[Array, "V D"], targets: Int[Array, "B T"]
) -> Loss:
    """`cross_entropy` of the logits `x @ table.T`, few of which are ever in memory at once.

    The tokens go through the head in chunks, of up to 2^26 logits on a CPU and 2^27 elsewhere.
    Where a gradient is wanted, each chunk makes its share beside its loss, so that no logits are
    kept or computed twice (as in Liger, Hsu et al. 2024). The products are in the dtype of `x`;
    logits and the table's gradient are in float32. Raises as `cross_entropy` does.
    """
    _check_head(x, table, targets)
    return _losses(x, table, targets, False), (targets != IGNORE).sum(dtype=jnp.int32)


def head_losses(
    x: Float[Array, "B T D"], table: Float[Array, "V D"], targets: Int[Array, "B T"]
) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """`head_loss` of each row by itself: its sum in nats, and its number of targets.

    What a row's loss counts for is known in the backward pass alone, which computes the logits
    again.
    """
    _check_head(x, table, targets)
    return _losses(x, table, targets, True), (targets != IGNORE).sum(axis=-1, dtype=jnp.int32)


@contextmanager
def logits_at_once(count: int) -> Iterator[None]:
    """Logits of the head in a chunk, for what is traced meanwhile: which number is fastest?"""
    before = dict(_MOST_LOGITS)
    _MOST_LOGITS.update(dict.fromkeys(before, count))
    try:
        yield
    finally:
        _MOST_LOGITS.update(before)


def _check_head(x: Array, table: Array, targets: Array) -> None:
    check_rank("x", x, "B T D")
    _check_targets(targets, len(table))


def _check_targets(targets: Int[Array, "*B"], size: int) -> None:
    advice = f"; {IGNORE} marks what is not to be predicted"
    check_ids("target", targets, size, advice, ignored=IGNORE)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _losses(x: Array, table: Array, targets: Array, by_row: bool) -> Array:
    return _head(x, table, targets, by_row)[0]


def _forward(x: Array, table: Array, targets: Array, by_row: bool) -> tuple[Array, Any]:
    if by_row:
        return _head(x, table, targets, by_row)[0], (x, table, targets)
    return _head(x, table, targets, by_row, differentiate=True)


def _backward(by_row: bool, kept: tuple[Array, ...], loss_grad: Array) -> tuple[Any, ...]:
    if by_row:
        x, table, targets = kept
        return *_head(x, table, targets, by_row, differentiate=True, weights=loss_grad)[1], None
    return *((loss_grad * grad).astype(grad.dtype) for grad in kept), None


_losses.defvjp(_forward, _backward)


def _head(
    x: Array,
    table: Array,
    targets: Array,
    by_row: bool,
    *,
    differentiate: bool = False,
    weights: Array | None = None,
) -> tuple[Array, Any]:
    """The summed loss, or each row's, and the gradients with respect to `x` and `table`.

    The gradients, if wanted, are of the sum in which each row counts by its weight, (B,), or by 1.
    """
    cut = tensor_devices()
    weight = _padded(table, x.dtype, cut)
    compute = partial(_head_here, len(table), by_row, differentiate)
    if row_devices() * cut == 1 or len(x) % row_devices():
        nats, grads = compute(x, weight, targets, weights)
    else:
        weight = vocabulary_by_tensor(weight)
        nats, grads = _on_mesh(compute, by_row, differentiate)(x, weight, targets, weights)
    if not differentiate:
        return nats, ()
    grad_x, grad_table = grads
    grad_table = grad_table if cut == 1 else grad_table[: len(table)]
    return nats, (grad_x, grad_table.astype(table.dtype))


def _on_mesh(compute: Callable, by_row: bool, differentiate: bool) -> Callable:
    """`compute` by each device, of its rows and its part of the vocabulary.

    Left to XLA, all devices would add up the table's gradient after each chunk.
    """
    mesh, cut = jax.sharding.get_abstract_mesh(), tensor_devices() > 1
    axes = row_axes(mesh)
    others = tuple(name for name in axes if name != FSDP)

    def on_each(x: Array, weight: Array, targets: Array, weights: Array | None) -> Any:
        first = jax.lax.axis_index(TENSOR) * len(weight) if cut else None
        nats, grads = compute(x, weight, targets, weights, first)
        nats = nats if by_row else jax.lax.psum(nats, axes)
        if not differentiate:
            return nats, ()
        grad_x, table = grads
        if FSDP in axes:
            table = jax.lax.psum_scatter(table, FSDP, scatter_dimension=1, tiled=True)
        return nats, (grad_x, jax.lax.psum(table, others))

    rows, columns = PartitionSpec(axes), TENSOR if cut else None
    grads = rows, PartitionSpec(columns, FSDP if FSDP in axes else None)
    return jax.shard_map(
        on_each,
        in_specs=(rows, PartitionSpec(columns), rows, rows),
        out_specs=(rows if by_row else PartitionSpec(), grads if differentiate else ()),
        check_vma=False,
    )


def _head_here(
    vocab_size: int,
    by_row: bool,
    differentiate: bool,
    x: Array,
    weight: Array,
    targets: Array,
    weights: Array | None,
    first: Array | None = None,
) -> tuple[Array, Any]:
    """`_head` on one device; `first` is the token of the first row of `weight` (`_token_losses`).

    The table's gradient is float32, and where `first` is given of all rows, also those of padding.
    """
    rows, length, width = x.shape
    most = _MOST_LOGITS["cpu" if jax.default_backend() == "cpu" else "other"]
    own = vocab_size if first is None else len(weight)
    chunks = math.ceil(length / max(1, min(length, most // (rows * own))))
    span = math.ceil(length / chunks)  # all as long, so that little is padded
    columns = columns_copied(weight)

    def turn(sums: Any, chunk: tuple[Array, Array]) -> tuple[Any, Any]:
        nats, grads = _chunk(*chunk, weight, columns, vocab_size, differentiate, weights, first)
        nats = nats.reshape(rows, span).sum(axis=1) if by_row else nats.sum()
        return jax.tree.map(jnp.add, sums, (nats, *grads[1:])), grads[:1]

    nothing = jnp.zeros(rows if by_row else (), jnp.float32)
    parts = _spans(x, span, 0), _spans(targets, span, IGNORE)
    if not differentiate:
        return jax.lax.scan(turn, (nothing,), parts)[0][0], ()
    zeros = nothing, jnp.zeros((own, width), jnp.float32)
    (nats, grad_table), (grad_x,) = jax.lax.scan(turn, zeros, parts)
    grad_x = grad_x.swapaxes(0, 1).reshape(rows, -1, width)[:, :length]
    return nats, (grad_x, grad_table)


def _chunk(
    x: Array,
    targets: Array,
    weight: Array,
    columns: Array | None,
    vocab_size: int,
    differentiate: bool,
    weights: Array | None,
    first: Array | None,
) -> tuple[Array, tuple[Array, ...]]:
    """The loss of each token in a chunk, flat, and the gradients or nothing."""
    flat, labels = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
    tokens = jnp.arange(len(weight)) if first is None else first + jnp.arange(len(weight))
    with jax.named_scope("head"):
        columns = weight.T if columns is None else columns
        logits = jnp.matmul(flat, columns, preferred_element_type=jnp.float32)
        if first is not None or len(weight) > vocab_size:  # XLA:CPU would copy them to no end
            logits = jnp.where(tokens < vocab_size, logits, -jnp.inf)
    with jax.named_scope("loss"):
        nats, (powers, total) = _token_losses(logits, labels, first)
        if not differentiate:
            return nats, ()
        # The softmax, less 1 at the target; its powers take the memory of the logits.
        softmax, at_target = powers / total[:, None], tokens == labels[:, None]
        surplus = jnp.where(at_target, softmax - 1, softmax)
        if weights is not None:
            surplus *= jnp.repeat(weights, x.shape[1])[:, None]
        grad_logits = jnp.where((labels != IGNORE)[:, None], surplus, 0)
    with jax.named_scope("head"):
        grad_logits = grad_logits.astype(x.dtype)
        grad_x = (grad_logits @ weight).reshape(x.shape)
        grad_x = grad_x if first is None else jax.lax.psum(grad_x, TENSOR)
        grad_table = multiply_by_columns(grad_logits, flat, jnp.float32)
        return nats, (grad_x, grad_table if first is not None else grad_table[:vocab_size])


def _padded(table: Array, dtype: Any, shares: int) -> Array:
    """The table to multiply by, so that `shares` divide it.

    Where its cast makes a copy anyway, it is padded to whole tiles.
    """
    tile = shares * (1 if table.dtype == dtype else _TILE)
    rows = -len(table) % tile
    return jnp.pad(table.astype(dtype), ((0, rows), (0, 0))) if tile > 1 else table


def _spans(rows: Array, span: int, filling: int) -> Array:
    """Cut along positions, not rows, so that each chunk lies on all devices evenly."""
    padding = [(0, 0), (0, -rows.shape[1] % span)] + [(0, 0)] * (rows.ndim - 2)
    padded = jnp.pad(rows, padding, constant_values=filling)
    return padded.reshape(len(rows), -1, span, *rows.shape[2:]).swapaxes(0, 1)
