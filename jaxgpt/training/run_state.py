"""What a run steps from, and the compiled step, whatever it is that the run trains."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.config import FolderOptions, TrainConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.model.attention_kernels import choose_attention
from jaxgpt.terminal import note
from jaxgpt.training.checkpoint import restore_latest
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.mesh import on_mesh, state_shardings
from jaxgpt.training.optimizer import learning_rate, make_optimizer
from jaxgpt.training.step import TrainState, init_state, train_step


def check_attention(config: TrainConfig, mesh: Mesh) -> None:
    """Raise ConfigError if the attention of `config` cannot work here."""
    model, rows = config.model, config.batch_size // config.gradient_accumulation
    shape = rows, model.num_heads, model.context_length, model.head_dim
    choose = partial(choose_attention, dropout_rate=model.dropout)
    on_mesh(choose, mesh)(config.attention, shape, config.compute_dtype)


def state_template(params: Any, config: TrainConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state that trains `params`, which may be shapes alone."""
    shapes = jax.eval_shape(
        partial(init_state, optimizer=make_optimizer(config.optimizer, config.steps)), params
    )
    return with_shardings(shapes, mesh)


def with_shardings(shapes: Any, mesh: Mesh) -> Any:
    """The shapes of a tree, each with where on the mesh it lies."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def begin(params: Any, config: TrainConfig, template: TrainState) -> TrainState:
    """The state before the first step that trains `params`, laid out as `template` says."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    start = partial(init_state, optimizer=make_optimizer(config.optimizer, config.steps))
    return jax.jit(start, out_shardings=shardings)(jax.device_put(params, shardings.params))


def resume(
    run: Path,
    template: TrainState,
    data: str,
    options: FolderOptions,
    *,
    subject: str = "the data is",
) -> TrainState | None:
    """The state of the newest whole checkpoint, or None if the run begins; says so on stderr.

    `subject` names what `data` is the fingerprint of.

    Raises CheckpointError as `restore_latest` does, and if `data` is not the fingerprint of what
    the checkpoint was trained on, unless that is allowed.
    """
    restored = restore_latest(run, template)
    if restored is None:
        return None
    state, manifest = restored
    if manifest["data"] != data and not options.allow_data_change:
        raise CheckpointError(
            f"{subject} not what {run} was trained on until step {manifest['step']}; bring it "
            "back, name another --out, or set --allow-data-change"
        )
    note(f"resuming {run} at step {manifest['step']}")
    return state


def compile_step(
    config: TrainConfig, mesh: Mesh, template: TrainState, make_loss: Callable[..., LossFunction]
) -> Any:
    """The jitted step on `mesh`, which gives up the state it is given: see `loop.Step`.

    After the step's number it takes what `make_loss` makes the loss of, such as frozen parameters,
    which are not to be written into the program.
    """
    rate = learning_rate(config.optimizer, config.steps)
    step = partial(
        train_step,
        optimizer=make_optimizer(config.optimizer, config.steps),
        micro_batches=config.gradient_accumulation,
    )

    def step_and_rate(
        state: TrainState, batch: Any, number: Any, *frozen: Any
    ) -> tuple[TrainState, dict]:
        _, dropout_key = jax.random.split(jax.random.key(config.seed))
        # Computed with the step: outside it, the host would wait for the device to report it.
        loss_fn = make_loss(*frozen)
        state, metrics = step(state, batch, number, key=dropout_key, loss_fn=loss_fn)
        return state, metrics | {"learning_rate": rate(number)}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    return jax.jit(on_mesh(step_and_rate, mesh), donate_argnums=0, out_shardings=(shardings, None))
