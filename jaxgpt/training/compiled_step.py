"""The step as a compiled program, which other rates, seeds and numbers of steps leave as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import TrainConfig
from jaxgpt.fields import unchecked
from jaxgpt.model.layers import never_drops
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.schema import rows_of
from jaxgpt.training.loss import LossFunction, pretraining_loss
from jaxgpt.training.mesh import on_mesh
from jaxgpt.training.optimizer import (
    optimizer_numbers,
    optimizer_of,
    schedule,
    updates_counted,
)
from jaxgpt.training.placing import computed, place
from jaxgpt.training.run_state import state_template
from jaxgpt.training.step import TrainState, train_step


@dataclass(frozen=True)
class CompiledStep:
    """A jitted step, and the numbers of its run that it takes as arguments: a `loop.Step`."""

    program: Any
    """Takes the state, a batch, the step's number, `numbers`, and what else a call is given."""
    numbers: Any

    def __call__(self, state: Any, batch: Any, number: Any, *rest: Any) -> Any:
        """The next state, and the metrics."""
        return computed(self.program(state, batch, number, self.numbers, *rest))

    def lower(self, state: Any, batch: Any, number: Any, *rest: Any) -> Any:
        """As of what `jax.jit` gives."""
        return self.program.lower(state, batch, number, self.numbers, *rest)


def make_step(
    config: TrainConfig, mesh: Mesh, make_loss: Callable[..., LossFunction] = pretraining_loss
) -> CompiledStep:
    """The jitted step of pretraining on `mesh`; see `compile_step`."""
    template = state_template(parameter_shapes(config.model), config, mesh)
    return compile_step(config, mesh, template, make_loss)


def compile_step(
    config: TrainConfig, mesh: Mesh, template: TrainState, make_loss: Callable[..., LossFunction]
) -> CompiledStep:
    """The jitted `numbered_step` on `mesh`, which gives up the state it is given."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    options: Any = {"donate_argnums": 0, "out_shardings": (shardings, None)}
    if config.compute_dtype == "bfloat16" and jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_cpu_prefer_vector_width": 512}  # XLA's own is 256
    numbers = place(step_numbers(config), NamedSharding(mesh, PartitionSpec()))
    program = jax.jit(on_mesh(numbered_step(config, make_loss), mesh), **options)
    return CompiledStep(program, numbers)


def numbered_step(config: TrainConfig, make_loss: Callable[..., LossFunction]) -> Callable:
    """The pure step: state, batch, its number, `step_numbers` -> state, and metrics with the rate.

    `make_loss` is called with `config`, whose dropout rate may be traced, and with what a call of
    the step takes after that, such as frozen parameters: neither is to be written into the program.
    """

    def step_and_rate(
        state: TrainState, batch: Any, number: Any, numbers: dict[str, Any], *frozen: Any
    ) -> tuple[TrainState, dict]:
        _, dropout_key = jax.random.split(jax.random.key(numbers["seed"]))
        rate, dropping = numbers["dropout"], config
        if rate is not None:
            dropping = unchecked(config, model=unchecked(config.model, dropout=rate))
        skip, updates = {}, number
        if config.skip_bad_steps:  # in the program, which is otherwise the same as ever
            updates = updates_counted(state.opt_state)
            skip["may_skip"] = state.step - updates < config.skip_bad_steps
        state, metrics = train_step(
            state,
            batch,
            number,
            key=dropout_key,
            loss_fn=make_loss(dropping, *frozen),
            optimizer=optimizer_of(config.optimizer, numbers["optimizer"], rows_of(config.model)),
            micro_batches=config.gradient_accumulation,
            **skip,
        )
        # Computed with the step: outside it, the host would wait for the device to report it.
        rate = schedule(config.optimizer.schedule, numbers["optimizer"])(updates)
        return state, metrics | {"learning_rate": rate}

    return step_and_rate


def step_numbers(config: TrainConfig) -> dict[str, Any]:
    """What may be another number in the same program: the seed, the optimizer's, the dropout."""
    rate = config.model.dropout
    return {
        "seed": np.uint32(config.seed),
        "optimizer": jax.tree.map(
            lambda number: np.float32(number) if isinstance(number, float) else np.int32(number),
            optimizer_numbers(config.optimizer, config.steps),
        ),
        # So that 1 - rate is as exact in float32 as from Python's number, where it is up to 1/2.
        "dropout": None if never_drops(rate) else np.float32(1 - np.float32(1 - rate)),
    }
