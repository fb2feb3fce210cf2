"""AdamW, its learning rate over the steps, and which parameters decay."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgpt.config import OptimizerConfig
from jaxgpt.model.layers import Params

_MATRICES = ("weight", "tokens", "positions")


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step (from 0) -> learning rate, over a run of `steps`.

    A straight ascent of `warmup_steps` to the peak, then a half cosine (Loshchilov & Hutter 2017),
    a constant, or a plateau with a straight descent at the end (wsd; Hu et al. 2024).
    """
    peak, final, warmup = config.learning_rate, config.final_learning_rate, config.warmup_steps
    start = config.initial_learning_rate or peak / (warmup + 1)
    ascent = optax.schedules.linear_schedule(start, peak, warmup)
    if config.schedule == "cosine":
        rest = optax.schedules.cosine_decay_schedule(peak, steps - warmup, final / peak)
    elif config.schedule == "constant":
        rest = optax.schedules.constant_schedule(peak)
    else:
        descent = min(max(1, round(config.decay_fraction * steps)), steps - warmup)
        rest = optax.schedules.linear_schedule(peak, final, descent, steps - warmup - descent)
    return optax.schedules.join_schedules([ascent, rest], [warmup]) if warmup else rest


def decay_mask(params: Params) -> Params:
    """True for the matrices (weights and embedding tables), False for biases and layer norms.

    By name, since a stacked bias has two axes like a matrix.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key in _MATRICES, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformationExtraArgs:
    """Clipping by the gradient's global norm, then AdamW (Loshchilov & Hutter 2019).

    The same update as `torch.optim.AdamW`: epsilon is added outside the root, decay is decoupled
    and scaled by the learning rate. Clipping differs from PyTorch's by 1e-6 in the norm, which
    PyTorch adds. An update with `healthy=False` leaves the running means as they are.
    """
    mask = decay_mask if config.weight_decay_on == "matrices" else None
    return optax.chain(
        optax.identity() if config.gradient_clip == "none" else clip_by_norm(config.gradient_clip),
        scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Scale a gradient whose global norm exceeds `limit` down to it (Pascanu et al. 2013).

    One factor for all, which XLA multiplies by where the gradient is used; Optax's own choice,
    element by element, writes a second gradient first, which takes as long as all of AdamW.
    """

    def clip(updates: Any, _: Any) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda leaf: leaf * factor, updates)

    return optax.stateless(clip)


def scale_by_adam(
    beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformationExtraArgs:
    """Optax's `scale_by_adam`, with an update that can be told to change nothing (`healthy`).

    The change is computed from the means that are kept. Chosen after Optax's update, between the
    new means and the old, both would be in memory: two more copies of the model.
    """
    adam = optax.scale_by_adam(beta1, beta2, epsilon)

    def update(
        updates: Any, state: Any, params: Any = None, *, healthy: Any = True, **_: Any
    ) -> tuple[Any, Any]:
        def mean(old: Any, beta: float, order: int) -> Any:
            new = optax.tree.update_moment(updates, old, beta, order)
            return jax.tree.map(partial(jnp.where, healthy), new, old)

        mu, nu = mean(state.mu, beta1, 1), mean(state.nu, beta2, 2)
        count = jnp.where(healthy, optax.safe_increment(state.count), state.count)
        first = optax.tree.bias_correction(mu, beta1, count)
        second = optax.tree.bias_correction(nu, beta2, count)
        changes = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second)
        return changes, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(adam.init, update)
