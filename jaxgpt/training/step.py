"""One optimizer step, as a pure function of the state and a batch."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.model.layers import Params
from jaxgpt.training.loss import Loss, LossFunction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes; as a tree, it also holds the shapes or shardings of the same."""

    step: Any
    params: Params
    opt_state: Any


class HealthyOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer whose update, where `healthy` is False, leaves its arrays as they are."""


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def gradients(
    loss_fn: LossFunction, params: Params, batch: Any, rng: PRNGKeyArray, micro_batches: int = 1
) -> tuple[Params, Loss]:
    """The gradient of the mean loss over a batch, and the loss as (sum, count).

    `batch` is a tree of arrays with a leading axis of B, cut into `micro_batches` that run one
    after another. Sums are divided once, at the end, so that a micro-batch with fewer targets
    weighs less and every cut gives the gradient of the whole. A batch without targets gives zeros.
    """

    def share(count: Array) -> Array:
        return 1 / jnp.maximum(count, 1).astype(jnp.float32)

    if micro_batches == 1:
        nats, vjp_fn, count = jax.vjp(
            lambda params: loss_of(loss_fn, params, batch, rng), params, has_aux=True
        )
        # Divided at the loss: one number, where the gradient has as many as the model.
        return vjp_fn(share(count))[0], (nats, count)

    def add(sums: Any, turn: tuple[Any, PRNGKeyArray]) -> tuple[Any, None]:
        value_and_grad = jax.value_and_grad(partial(loss_of, loss_fn), has_aux=True)
        (nats, count), grads = value_and_grad(params, *turn)
        return jax.tree.map(jnp.add, sums, (grads, nats, count)), None

    zeros = jax.tree.map(jnp.zeros_like, params), jnp.float32(0), jnp.int32(0)
    turns = micro_batches_of(batch, rng, micro_batches)
    (grads, nats, count), _ = jax.lax.scan(add, zeros, turns)
    return jax.tree.map(lambda leaf: leaf * share(count), grads), (nats, count)


def micro_batches_of(batch: Any, rng: PRNGKeyArray, count: int) -> tuple[Any, Array]:
    """The micro-batches of a batch and their random keys, on a leading axis of `count`."""
    # Every n-th row, not runs of rows: each micro-batch then lies on all devices evenly.
    cut = jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), batch)
    return cut, rng[None] if count == 1 else jax.random.split(rng, count)


def loss_of(loss_fn: LossFunction, params: Params, batch: Any, rng: PRNGKeyArray | None) -> Loss:
    """The loss of a batch as (sum, count); raises ConfigError if `loss_fn` gives anything else."""
    loss: Any = loss_fn(params, batch, rng)
    if not isinstance(loss, tuple) or [jnp.shape(part) for part in loss] != [(), ()]:
        given = jax.tree.map(lambda leaf: f"shape {jnp.shape(leaf)}", loss)
        raise ConfigError(
            f"loss_fn returns {given}; it must return two scalars, the summed loss in nats and the "
            "number of targets that it sums over"
        )
    return jnp.asarray(loss[0], jnp.float32), jnp.asarray(loss[1], jnp.int32)


def train_step(
    state: TrainState,
    batch: Any,
    step: Int[Array, ""],
    *,
    key: PRNGKeyArray,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    micro_batches: int = 1,
    may_skip: Bool[Array, ""] | None = None,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update, and its `loss` (nats per target), `grad_norm` and `targets`.

    Dropout is a function of (key, step). A loss or gradient that is not finite changes nothing, and
    nor does any later step: `step` is then ahead of `state.step`. Where `may_skip`, if given, is
    true, `state.step` goes on nevertheless, and `skipped` among the metrics is true. A batch
    without targets is a step that teaches nothing: parameters and running means stay as they are.
    `optimizer` is any of Optax's; that of `make_optimizer` is told by `healthy` to keep its means,
    which takes no memory, and of others both the old and the new are in memory for a while. Raises
    ConfigError for a loss that is not (sum, count).
    """
    rng = jax.random.fold_in(key, step)
    grads, (nats, count) = gradients(loss_fn, state.params, batch, rng, micro_batches)
    norm = optax.tree.norm(grads)
    metrics = {
        "loss": nats / jnp.maximum(count, 1),
        "grad_norm": norm,
        "targets": count.astype(jnp.float32),
    }

    healthy = jnp.isfinite(nats) & jnp.isfinite(norm) & (state.step == step)
    keep, learns = partial(jnp.where, healthy), healthy & (count > 0)
    with jax.named_scope("optimizer"):
        update = optax.with_extra_args_support(optimizer).update
        changes, opt_state = update(grads, state.opt_state, state.params, healthy=learns)
        params: Any = jax.tree.map(
            partial(jnp.where, learns), optax.apply_updates(state.params, changes), state.params
        )
        if isinstance(optimizer, HealthyOptimizer):  # its counts are held here alone
            opt_state = jax.tree.map(
                lambda new, old: new if new.ndim else keep(new, old), opt_state, state.opt_state
            )
        else:
            opt_state = jax.tree.map(partial(jnp.where, learns), opt_state, state.opt_state)
    if may_skip is None:
        return TrainState(keep(state.step + 1, state.step), params, opt_state), metrics
    skipped = may_skip & ~healthy & (state.step == step)
    taken = jnp.where(healthy | skipped, state.step + 1, state.step)
    return TrainState(taken, params, opt_state), metrics | {"skipped": skipped}


@jax.jit
def all_finite(tree: Any) -> Array:
    """Whether all floating-point numbers in a tree are finite."""
    floats = [x for x in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(x, jnp.inexact)]
    return jnp.array([jnp.isfinite(leaf).all() for leaf in floats]).all()


def eval_step(params: Params, batch: Any, *, loss_fn: LossFunction) -> Loss:
    """The loss of a batch without dropout, as (sum in nats, count)."""
    return loss_of(loss_fn, params, batch, None)
