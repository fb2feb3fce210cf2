"""One step of a run taken again, with the largest number of all that it computes on the way."""

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jaxgpt.config import TrainConfig
from jaxgpt.data.corpus import Progress, is_current
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import DataError, NonFiniteError
from jaxgpt.fields import check, check_range
from jaxgpt.model.layers import Params
from jaxgpt.model.nested import flatten
from jaxgpt.run_config import RunOptions
from jaxgpt.training.compiled_step import compile_step
from jaxgpt.training.loss import Loss, LossFunction, head_table, hidden
from jaxgpt.training.mesh import make_mesh, on_mesh
from jaxgpt.training.own_parts import OwnBlock, use_block
from jaxgpt.training.precision import settle_precision
from jaxgpt.training.pretrain import InitialParams, job_opener
from jaxgpt.training.run import Job
from jaxgpt.training.run_contents import TOKENS
from jaxgpt.training.run_folder import holds_run
from jaxgpt.training.run_state import check_attention
from jaxgpt.training.step import gradients, micro_batches_of

_KINDS = ("parameters", "activations", "loss", "gradient")
_STACKED = "blocks."
_STAGES = ("embed", "blocks", "norm", "head")


@dataclass(frozen=True)
class Replay:
    """Step of a run, by the largest absolute value of each array; NaN where one of them is."""

    step: int
    """Its number, from 1."""
    begun: int
    """The step of the checkpoint from which it was reached; 0 is the beginning."""
    seed: int
    loss: float
    """As the run's own step computes it, nats per target."""
    grad_norm: float
    largest: Mapping[str, Mapping[str, float]]
    """`parameters` before the step, `activations` in their order, the `loss`, and the `gradient` in
    the order of the backward pass; of each by name, a layer's apart."""

    @property
    def first(self) -> tuple[str, str] | None:
        """The first that is not finite, as its kind and its name; None if all are finite."""
        return next(
            (
                (kind, name)
                for kind in _KINDS
                for name, value in self.largest[kind].items()
                if not math.isfinite(value)
            ),
            None,
        )


def replay(
    config: TrainConfig,
    run: str | Path,
    step: int,
    options: RunOptions | None = None,
    *,
    initial_params: InitialParams | None = None,
    loss_fn: Callable[..., Loss] | None = None,
    block: OwnBlock = None,
    progress: Progress = lambda what, done, total: None,
) -> Replay:
    """Take step `step`, counted from 1, of a run of `pretrain` again and look at all its numbers.

    The run steps to it from its newest whole checkpoint before, or from its beginning where there
    is none, as where the run came to no checkpoint. Nothing is written into its folder. The other
    arguments are those of `pretrain`. Activations are computed beside the step, with attention by
    the plain function, whose dropout has another mask. Raises a JaxgptError as `pretrain` does, and
    NonFiniteError if a step before that is not finite.
    """
    folder, options = Path(run), options or RunOptions()
    check_range("replay", step, 1, config.steps)
    check(jax.process_count() == 1, "a step is replayed by one process; leave out launch")
    config = settle_precision(config, folder, options)
    config = config if block is None else use_block(config, block)
    mesh = make_mesh(config)
    check_attention(config, mesh)
    with tempfile.TemporaryDirectory(prefix="jaxgpt-") as scratch:
        there = holds_run(folder, config, options)
        kept = there and _is_whole(folder / TOKENS) and is_current(config.data, folder / TOKENS)
        open_job = job_opener(
            *(config, folder if there else Path(scratch), options, loss_fn, initial_params),
            progress=progress,
            tokens=(folder if kept else Path(scratch)) / TOKENS,
            until=step - 1,
        )
        return _retake(open_job(mesh), mesh, step)


def _is_whole(tokens: Path) -> bool:
    try:
        TokenDataset.open(tokens, remade=True)
    except DataError:
        return False
    return True


def _retake(job: Job, mesh: Mesh, step: int) -> Replay:
    config, state = job.config, job.start.state
    step_fn = compile_step(config, mesh, job.template, job.make_loss)

    def batch_at(number: int) -> Any:
        return job.batch(job.start.rows_at(number, config.batch_size))

    for number in range(job.start.step, step - 1):
        state, _ = step_fn(state, batch_at(number), np.int32(number))
    if (before := int(state.step)) < step - 1:
        raise NonFiniteError(
            f"step {before + 1} is not finite, so that the run never comes to step {step}; replay "
            f"{before + 1}",
            before + 1,
        )
    batch, number = batch_at(step - 1), np.int32(step - 1)
    names: list[str] = []
    look = partial(look_at, config, job.make_loss(config), names)
    given = state.params, batch, number, np.uint32(config.seed)
    found = jax.device_get(jax.jit(on_mesh(look, mesh))(*given))
    _, metrics = step_fn(state, batch, number)
    loss, norm = (float(metrics[name]) for name in ("loss", "grad_norm"))
    return Replay(step, job.start.step, config.seed, loss, norm, in_order(found, names))


def look_at(
    config: TrainConfig,
    loss_fn: LossFunction,
    names: list[str],
    params: Params,
    batch: tuple[Array, ...],
    number: Any,
    seed: Any,
) -> dict[str, Any]:
    """The largest absolute values of one step, of leaves by layer and of activations by name.

    `names` gets those of the activations in order, where this is traced.
    """
    rng = jax.random.fold_in(jax.random.split(jax.random.key(seed))[1], number)
    micro_batches = config.gradient_accumulation
    grads, (nats, count) = gradients(loss_fn, params, batch, rng, micro_batches)

    def forward(turn: Any) -> dict[str, Array]:
        (inputs, *_), turn_rng = turn
        found: dict[str, Array] = {}

        def record(name: str, x: Array) -> Array:
            found[name] = _size(x)
            return x

        x = hidden(config.model, params, inputs, config.compute, rng=turn_rng, record=record)
        table = head_table(config.model, params).astype(x.dtype)
        # A row at a time: all logits of a batch may be more than there is room for.
        to_logits = partial(jnp.matmul, table, preferred_element_type=jnp.float32)
        found["logits"] = _size(jax.lax.map(lambda row: _size(to_logits(row.T)), x))
        names[:] = found
        return found

    activations = jax.lax.map(forward, micro_batches_of(batch, rng, micro_batches))
    return {
        "parameters": _by_leaf(params),
        "activations": jax.tree.map(_size, activations),
        "loss": nats / jnp.maximum(count, 1),
        "gradient": _by_leaf(grads),
    }


def _size(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    sizes = jnp.abs(x.astype(jnp.float32))
    # By itself: devices that compare their largest numbers with each other lose a NaN on a CPU.
    odd = jnp.isnan(sizes).any(axis=axes)
    return jnp.where(odd, jnp.nan, jnp.where(jnp.isnan(sizes), 0, sizes).max(axis=axes, initial=0))


def _by_leaf(tree: Params) -> dict[str, Array]:
    """The largest of each leaf by its path, or of each layer in one that is stacked."""
    return {
        name: _size(leaf, tuple(range(name.startswith(_STACKED), leaf.ndim)))
        for name, leaf in flatten(tree).items()
    }


def in_order(found: dict[str, Any], names: list[str]) -> dict[str, dict[str, float]]:
    """What `look_at` gives, each kind in the order in which it is computed, layers apart."""

    def leaves(kind: str) -> dict[str, float]:
        rows: list[tuple[int, int, str, float]] = []
        for path, values in found[kind].items():
            stage, _, inner = path.partition(".")
            for layer, value in enumerate(np.ravel(values).tolist()):
                name = f"{_STACKED}{layer}.{inner}" if stage == "blocks" else path
                rows.append((_STAGES.index(stage), layer, name, value))
        return {name: value for _, _, name, value in sorted(rows, key=lambda row: row[:2])}

    return {
        "parameters": leaves("parameters"),
        "activations": {name: float(found["activations"][name]) for name in names},
        "loss": {"loss": float(found["loss"])},
        "gradient": dict(reversed(leaves("gradient").items())),
    }


def to_text(found: Replay) -> str:
    """A line for each array, then where the first number is that is not finite."""
    largest, first = found.largest, found.first
    began = f"the checkpoint of step {found.begun}" if found.begun else "the beginning"
    lines = [
        f"step {found.step}, reached from {began}; its batch is number {found.step - 1} of seed "
        f"{found.seed}",
        f"loss {found.loss:.6g}, gradient norm {found.grad_norm:.6g}",
    ]
    wide = max(len(name) for kind in _KINDS for name in largest[kind])
    for kind in _KINDS:
        lines += ["", f"{kind:<{wide}}  largest"]
        lines += [
            f"{name:<{wide}}  {value:.2e}" + "   <- first" * (first == (kind, name))
            for name, value in largest[kind].items()
        ]
    return "\n".join([*lines, "", _verdict(found)])


def _verdict(found: Replay) -> str:
    if found.first is None:
        if math.isfinite(found.loss) and math.isfinite(found.grad_norm):
            return f"all numbers of step {found.step} are finite"
        return "all that was looked at is finite, but not what the run's own program computes"
    kind, name = found.first
    value = found.largest[kind][name]
    where = {
        "parameters": f"in the parameter {name}, before the step",
        "activations": f"in the forward pass, in {name}",
        "loss": "in the loss, of activations that are finite",
        "gradient": f"in the backward pass, in the gradient of {name}",
    }
    return f"the first number that is not finite ({value}) is born {where[kind]}"
