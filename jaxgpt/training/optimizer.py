"""AdamW, its learning rate over the steps, and which parameters decay."""

import jax
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


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by the gradient's global norm, then AdamW (Loshchilov & Hutter 2019).

    The same update as `torch.optim.AdamW`: epsilon is added outside the root, decay is decoupled
    and scaled by the learning rate. Clipping differs from PyTorch's by 1e-6 in the norm, which
    PyTorch adds and Optax does not.
    """
    clip = config.gradient_clip
    return optax.chain(
        optax.identity() if clip == "none" else optax.clip_by_global_norm(clip),
        optax.adamw(
            learning_rate(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            eps_root=0.0,
            weight_decay=config.weight_decay,
            mask=decay_mask if config.weight_decay_on == "matrices" else None,
        ),
    )
