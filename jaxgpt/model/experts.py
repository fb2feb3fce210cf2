"""A mixture of experts: feed-forward networks, of which each token goes through a few."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxgpt.config import Experts
from jaxgpt.model.feedforward import feed_forward
from jaxgpt.model.layers import Params, linear
from jaxgpt.model.layout import TENSOR, row_axes, row_devices, tensor_devices
from jaxgpt.model.record import Record, unrecorded

Loads = Float[Array, "2 X"]
"""Of each expert, how many tokens go through it, and the sum over tokens of its softmax."""


def mix_experts(
    x: Float[Array, "*B T D"],
    *,
    router: Params,
    experts: Experts,
    up: Params,
    down: Params,
    gate: Params | None = None,
    counted: Float[Array, "*B T"] | None = None,
    note: Callable[[Loads], object] | None = None,
    record: Record = unrecorded,
    **form: Any,
) -> Float[Array, "*B T D"]:
    """Mixture of experts: what a token's best ones give, by their shares (Shazeer et al. 2017).

    The `router` scores all X experts. The parameters of the experts are those of `feed_forward`
    with an axis of X in front; `form` is the rest of its arguments. No expert has a limit of
    tokens, so that each token is computed as if it were alone. `note` is given the loads, of tokens
    where `counted` is 1, not 0; `record` sees `router`, the scores, and `out`.
    """
    scores = record("router", linear(x, **router).astype(jnp.float32))
    x = x.astype(up["weight"].dtype)
    networks, mesh = {"up": up, "down": down, "gate": gate}, jax.sharding.get_abstract_mesh()
    mix = partial(_mix, experts=experts, form=form)
    if not mesh.empty and x.ndim == 3 and len(x) % row_devices() == 0:
        # XLA would give every device the tokens of all, to sort them.
        rows, cut = PartitionSpec(row_axes(mesh)), tensor_devices() > 1
        mix = jax.shard_map(
            partial(mix, cut=cut),
            in_specs=(rows, rows, _hidden_by_tensor(networks) if cut else PartitionSpec()),
            out_specs=(rows, rows),
            check_vma=False,
        )
    out, chosen = mix(x, scores, networks)
    if note is not None:
        goes = jax.nn.one_hot(chosen, experts.num_experts).sum(axis=-2)
        loads = jnp.stack([goes, jax.nn.softmax(scores)]).reshape(2, -1, experts.num_experts)
        note(loads.sum(axis=1) if counted is None else counted.reshape(-1) @ loads)
    return record("out", out)


def _mix(
    x: Float[Array, "*B T D"],
    scores: Float[Array, "*B T X"],
    networks: Params,
    *,
    experts: Experts,
    form: dict[str, Any],
    cut: bool = False,
) -> tuple[Float[Array, "*B T D"], Int[Array, "*B T N"]]:
    """What the experts give, and which N each token goes through.

    Where they are `cut`, each `tensor` device has its part of the hidden width of all.
    """
    each = experts.experts_per_token
    best, chosen = jax.lax.top_k(scores, each)
    over = best if experts.router_softmax == "chosen" else scores
    shares = jnp.exp(best - jax.nn.logsumexp(over, axis=-1, keepdims=True)).astype(x.dtype)
    owners, tokens = chosen.reshape(-1), x.reshape(-1, x.shape[-1])
    order = jnp.argsort(owners)  # each expert's tokens side by side
    sizes = jnp.bincount(owners, length=experts.num_experts)
    product = partial(_by_owner, owners=owners[order], sizes=sizes)
    down = networks["down"]
    if cut:  # the bias is added once, to the sum
        networks = networks | {"down": {"weight": down["weight"]}}
    made = feed_forward(tokens[order // each], **networks, **form, linear=product)
    made = made[jnp.argsort(order)].reshape(*chosen.shape, -1)
    out = jnp.einsum("...nd,...n->...d", made, shares)
    if cut:
        out = jax.lax.psum(out, TENSOR)
        if "bias" in down:
            out += jnp.einsum("...nd,...n->...d", down["bias"][chosen], shares)
    return out, chosen


def _hidden_by_tensor(networks: Params) -> Params:
    """How the parameters of experts lie where F is cut; their first axis is X."""
    wide = {"weight": PartitionSpec(None, None, TENSOR), "bias": PartitionSpec(None, TENSOR)}
    down = {"weight": PartitionSpec(None, TENSOR), "bias": PartitionSpec()}
    return {
        name: linear and {part: (down if name == "down" else wide)[part] for part in linear}
        for name, linear in networks.items()
    }


def _by_owner(
    x: Float[Array, "R I"],
    *,
    weight: Float[Array, "X I O"],
    bias: Float[Array, "X O"] | None = None,
    owners: Int[Array, " R"],
    sizes: Int[Array, " X"],
) -> Float[Array, "R O"]:
    """Linear layer of each row's own expert; rows of the same one stand side by side."""
    if len(x) <= len(weight):  # as in decoding, where most experts need not be read
        made = jnp.einsum("ri,rio->ro", x, weight[owners])
    else:
        made = jax.lax.ragged_dot(x, weight, sizes)
    return made if bias is None else made + bias[owners]


def imbalance(loads: Loads) -> Float[Array, ""]:
    """How unequally busy experts are: X times the sum of tokens' share times softmax's share.

    At least the experts of a token, where all are equally busy (Fedus et al. 2022, equation 4; as
    transformers computes it, over the layers together).
    """
    tokens = jnp.maximum(jax.lax.stop_gradient(loads[1].sum()), 1)
    return loads.shape[1] * (loads[0] / tokens) @ (loads[1] / tokens)
