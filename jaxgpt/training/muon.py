"""Muon (Jordan et al. 2024): momentum, made orthogonal, as the update of a matrix."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgpt.model.layers import Params
from jaxgpt.model.schema import SCHEMA, Rows, find, names_of

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPSILON = 1e-7
_ADAMW_RMS = 0.2


def labels(params: Params, rows: Rows = SCHEMA) -> Params:
    """`muon` for the matrices of the blocks, `adamw` for every other leaf.

    By the schema: embeddings, head, norms and biases are AdamW's, and so is what the schema does
    not name, such as adapters or a classifier's head.
    """

    def label(path: Any, _: Any) -> str:
        leaf = find(names_of(path), rows)
        return "muon" if leaf is not None and leaf.stacked and leaf.decays else "adamw"

    return jax.tree.map_with_path(label, params)


def orthogonalize(matrices: Float[Array, "*L I O"]) -> Float[Array, "*L I O"]:
    """Newton-Schulz iteration: the singular values of each (I, O) matrix become about 1.

    Five steps of the quintic that rises most steeply at 0, which takes them to 0.7 to 1.2, not to
    1; those below a thousandth of the Frobenius norm stay smaller. In the matrices' own precision,
    where PyTorch rounds to bfloat16.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] >= matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the smaller of the two Gram matrices
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(-2, -1), keepdims=True), _EPSILON)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def scale_by_muon(momentum: tuple[Any, Any]) -> optax.GradientTransformationExtraArgs:
    """Nesterov momentum, orthogonalised, times 0.2 sqrt(max(I, O)).

    The factor gives an update the root mean square that AdamW's has, so that AdamW's learning rate
    and decay serve both (Liu et al. 2025; PyTorch's `adjust_lr_fn="match_rms_adamw"`); it is the
    same for a matrix and its transpose. `momentum` is the decay of the gradient's running mean, and
    1 - momentum. An update with `healthy=False` leaves the mean as it is.
    """
    kept, added = momentum

    def init(params: Any) -> optax.TraceState:
        return optax.TraceState(jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: Any, state: Any, params: Any = None, *, healthy: Any = True, **_: Any
    ) -> tuple[Any, optax.TraceState]:
        def blend(gradient: Any, mean: Any) -> Any:
            return added * gradient + kept * mean

        def change(gradient: Any, mean: Any) -> Any:
            rms = _ADAMW_RMS * max(gradient.shape[-2:]) ** 0.5
            return rms * orthogonalize(blend(gradient, mean))

        means = jax.tree.map(
            lambda g, mean: jnp.where(healthy, blend(g, mean), mean), updates, state.trace
        )
        return jax.tree.map(change, updates, means), optax.TraceState(means)

    return optax.GradientTransformationExtraArgs(init, update)
