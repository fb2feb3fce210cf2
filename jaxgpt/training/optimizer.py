"""AdamW or Muon, its learning rate over the steps, and which parameters decay."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.model.layers import Params
from jaxgpt.model.schema import SCHEMA, Rows, decays, names_of
from jaxgpt.run_config import OptimizerConfig, check_warmup
from jaxgpt.training.muon import labels, scale_by_muon
from jaxgpt.training.step import HealthyOptimizer


class OptimizerNumbers(NamedTuple):
    """The numbers of an optimizer: Python's, or scalars that a compiled step takes as arguments.

    Reciprocals and complements are among them, since they are of more digits than float32 has.
    """

    warmup: Any
    """Steps of the ascent."""
    per_warmup: Any
    """1 / warmup, where there are any."""
    peak: Any
    rise: Any
    """The first learning rate less the peak."""
    begin: Any
    """The step at which the descent begins."""
    descent: Any
    """Steps of the descent."""
    per_descent: Any
    fall: Any
    """What the descent takes away, in shares of the peak where it is a cosine."""
    floor: Any
    """What it leaves, likewise."""
    beta1: tuple[Any, Any]
    """Decay of the gradient's running mean, and 1 - beta1."""
    beta2: tuple[Any, Any]
    momentum: tuple[Any, Any] | None
    """The same of Muon's mean; None without Muon."""
    epsilon: Any
    weight_decay: Any
    gradient_clip: Any
    """None where nothing is clipped."""


def optimizer_numbers(config: OptimizerConfig, steps: Any) -> OptimizerNumbers:
    """The numbers of `make_optimizer`; computed in float64, or in float32 where one is traced.

    Raises ConfigError if the ascent takes all the steps.
    """
    traced = any(isinstance(value, jax.Array) for value in (*vars(config).values(), steps))
    xp, real, whole = (jnp, jnp.float32, jnp.int32) if traced else (np, float, int)
    peak, warmup = config.learning_rate, config.warmup_steps
    if not traced:
        check_warmup(warmup, steps)
    initial = config.initial_learning_rate
    start = xp.where(initial > 0, initial, peak / (warmup + 1))
    descent, top, floor = steps - warmup, 1.0, config.final_learning_rate / peak
    if config.schedule == "wsd":
        descent = xp.clip(xp.round(config.decay_fraction * steps), 1, descent)
        top, floor = peak, config.final_learning_rate
    clip = config.gradient_clip
    return OptimizerNumbers(
        warmup=whole(warmup),
        per_warmup=real(1 / xp.maximum(warmup, 1)),
        peak=real(peak),
        rise=real(start - peak),
        begin=whole(steps - descent),
        descent=whole(descent),
        per_descent=real(1 / descent),
        fall=real(top - floor),
        floor=real(floor),
        beta1=_both(config.beta1, real),
        beta2=_both(config.beta2, real),
        momentum=_both(config.momentum, real) if config.optimizer == "muon" else None,
        epsilon=real(config.epsilon),
        weight_decay=real(config.weight_decay),
        gradient_clip=None if isinstance(clip, str) else real(clip),
    )


def _both(decay: Any, real: Any) -> tuple[Any, Any]:
    return real(decay), real(1 - decay)


def learning_rate(config: OptimizerConfig, steps: Any) -> optax.Schedule:
    """Step (from 0) -> learning rate, over a run of `steps`.

    A straight ascent of `warmup_steps` to the peak, then a half cosine (Loshchilov & Hutter 2017),
    a constant, or a plateau with a straight descent at the end (wsd; Hu et al. 2024). The numbers
    of `config`, and `steps`, may be traced. Raises as `optimizer_numbers` does.
    """
    return schedule(config.schedule, optimizer_numbers(config, steps))


def schedule(kind: str, numbers: OptimizerNumbers) -> optax.Schedule:
    """`learning_rate` of a kind, cosine, constant or wsd, by its numbers."""

    def rate(step: Any) -> Any:
        # Multiplied by reciprocals, as XLA does itself where it divides by a constant.
        real = jnp.result_type(float)
        risen = jnp.clip(step, 0, numbers.warmup).astype(real) * numbers.per_warmup
        ascent = numbers.rise * (1 - risen) + numbers.peak
        done = jnp.clip(step - numbers.begin, 0, numbers.descent).astype(real)
        if kind == "constant":
            rest = numbers.peak
        elif kind == "wsd":
            rest = numbers.fall * (1 - done * numbers.per_descent) + numbers.floor
        else:
            left = 0.5 * (1 + jnp.cos(done * (real.type(np.pi) * numbers.per_descent)))
            rest = numbers.peak * (numbers.fall * left + numbers.floor)
        return jnp.where(step < numbers.warmup, ascent, rest)

    return rate


def decay_mask(params: Params, rows: Rows = SCHEMA) -> Params:
    """True for the matrices (weights and embedding tables), False for biases and layer norms.

    By `schema.decays`, since a stacked bias has two axes like a matrix.
    """
    return jax.tree.map_with_path(lambda path, _: decays(names_of(path), rows), params)


def make_optimizer(config: OptimizerConfig, steps: Any, rows: Rows = SCHEMA) -> HealthyOptimizer:
    """Clipping by the gradient's global norm, then AdamW (Loshchilov & Hutter 2019) or Muon.

    The same update as `torch.optim.AdamW`: epsilon is added outside the root, decay is decoupled
    and scaled by the learning rate. Muon takes the matrices of the blocks, by the same learning
    rate and decay, and leaves the rest to AdamW (`muon.labels`, `muon.scale_by_muon`). Clipping
    differs from PyTorch's by 1e-6 in the norm, which PyTorch adds. An update with `healthy=False`
    leaves the running means as they are. The numbers of `config`, and `steps`, may be traced. What
    decays and what is a matrix stands in `rows`, the schema (`schema.rows_of` a model's config).
    Raises as `optimizer_numbers` does.
    """
    return optimizer_of(config, optimizer_numbers(config, steps), rows)


def optimizer_of(
    config: OptimizerConfig, numbers: OptimizerNumbers, rows: Rows = SCHEMA
) -> HealthyOptimizer:
    """`make_optimizer` by `numbers`; of `config` it takes what is no number."""
    mask = partial(decay_mask, rows=rows) if config.weight_decay_on == "matrices" else None
    limit = numbers.gradient_clip
    scale = scale_by_adam(numbers.beta1, numbers.beta2, numbers.epsilon)
    if numbers.momentum is not None:
        by_kind: Any = {"muon": scale_by_muon(numbers.momentum), "adamw": scale}
        scale = optax.partition(by_kind, partial(labels, rows=rows))
    chain = optax.chain(
        optax.identity() if limit is None else clip_by_norm(limit),
        scale,
        optax.add_decayed_weights(numbers.weight_decay, mask),
        optax.scale_by_learning_rate(schedule(config.schedule, numbers)),
    )
    return HealthyOptimizer(*chain)


def updates_counted(opt_state: Any) -> Any:
    """The steps that an optimizer of `make_optimizer` has taken, by the count of its schedule.

    That is the number of the step, less those that were skipped.
    """
    kinds = (part for part in opt_state if isinstance(part, optax.ScaleByScheduleState))
    return next(kinds).count


def clip_by_norm(limit: Any) -> optax.GradientTransformation:
    """Scale a gradient whose global norm exceeds `limit` down to it (Pascanu et al. 2013).

    One factor for all, which XLA multiplies by where the gradient is used; Optax's own choice,
    element by element, writes a second gradient first, which takes as long as all of AdamW.
    """

    def clip(updates: Any, _: Any) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda leaf: leaf * factor, updates)

    return optax.stateless(clip)


def scale_by_adam(
    beta1: tuple[Any, Any], beta2: tuple[Any, Any], epsilon: Any
) -> optax.GradientTransformationExtraArgs:
    """Optax's `scale_by_adam`, with an update that can be told to change nothing (`healthy`).

    Each beta comes with 1 - beta. The change is computed from the means that are kept. Chosen after
    Optax's update, between the new means and the old, both would be in memory: two more copies of
    the model.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, healthy: Any = True, **_: Any
    ) -> tuple[Any, Any]:
        def mean(old: Any, beta: tuple[Any, Any], order: int) -> Any:
            kept, added = beta
            return jax.tree.map(
                lambda g, t: jnp.where(healthy, added * g**order + kept * t, t), updates, old
            )

        mu, nu = mean(state.mu, beta1, 1), mean(state.nu, beta2, 2)
        count = jnp.where(healthy, optax.safe_increment(state.count), state.count)
        first = optax.tree.bias_correction(mu, beta1[0], count)
        second = optax.tree.bias_correction(nu, beta2[0], count)
        changes = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second)
        return changes, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam().init, update)
