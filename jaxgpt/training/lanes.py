"""The lanes of a sweep in training: one by itself, or several in one program."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.training.compiled_step import CompiledStep, make_step, numbered_step, step_numbers
from jaxgpt.training.device_tokens import batch_source
from jaxgpt.training.loop import Step
from jaxgpt.training.loss import pretraining_loss
from jaxgpt.training.pretrain import initial_state
from jaxgpt.training.run_state import state_template
from jaxgpt.training.step import TrainState


@dataclass(frozen=True)
class Lane:
    """One run of a sweep; where it did not stay finite, its losses are NaN and its steps fewer."""

    seed: int
    learning_rate: float
    steps: int
    """Updates that were made."""
    loss: float
    """Training loss of the last step, nats per token."""
    validation_loss: float
    """After the last step, nats per token."""
    validation_bits_per_byte: float
    seconds: float
    """Of its steps but the first, which compiles; or its share of those taken together."""
    losses: tuple[float, ...] = field(repr=False)
    """Training loss of each step."""


@dataclass
class Training:
    """Lanes in training: one by itself, or several stacked."""

    runs: Sequence[TrainConfig]
    state: Any
    step: Step
    batch_at: Callable[[int], Any]
    states: Callable[[Any], list[TrainState]] = lambda state: [state]
    """The state -> that of each lane."""
    losses: list[Any] = field(default_factory=list)
    seconds: float = 0.0

    def advance(self, last: int, tell: Callable[[int, int], object] = lambda *_: None) -> float:
        """Step until `last` steps are done; the seconds that it took after the very first."""
        began = time.perf_counter()
        for number in range(len(self.losses), last):
            batch = self.batch_at(number * self.runs[0].batch_size)
            self.state, metrics = self.step(self.state, batch, np.int32(number))
            if self.losses:  # fetched a step late, so that the device never waits
                self.losses[-1] = jax.device_get(self.losses[-1])
            self.losses.append(metrics["loss"])
            tell(number + 1, last)
            if not number:  # the first step compiles
                jax.block_until_ready(self.state)
                began = time.perf_counter()
        jax.block_until_ready(self.state)
        took = time.perf_counter() - began
        self.seconds += took
        return took

    def lanes(self, evaluate: Callable[[TrainState], dict[str, float]]) -> Iterator[Lane]:
        """What became of each lane."""
        losses = np.reshape(jax.device_get(self.losses), (len(self.losses), -1)).T.tolist()
        for run, state, own in zip(self.runs, self.states(self.state), losses, strict=True):
            steps = int(state.step)
            finite = steps == run.steps  # from the first that is not, no update is made
            measured = evaluate(state) if finite else {}
            names = ("validation_loss", "validation_bits_per_byte")
            yield Lane(
                run.seed,
                run.optimizer.learning_rate,
                steps,
                own[-1] if finite else math.nan,
                **{name: measured.get(name, math.nan) for name in names},
                seconds=self.seconds / len(self.runs),
                losses=tuple(own[: steps + 1]),
            )


def alone(
    config: TrainConfig, windows: SlidingWindows, mesh: Mesh
) -> Callable[[TrainConfig], Training]:
    """A run -> a lane by itself, by the program of `pretrain`, which is the same for all runs."""
    template = state_template(parameter_shapes(config.model), config, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    draw = jax.jit(partial(initial_state, config), out_shardings=shardings)
    program, everywhere = make_step(config, mesh), NamedSharding(mesh, PartitionSpec())

    def begin(run: TrainConfig) -> Training:
        step = replace(program, numbers=jax.device_put(step_numbers(run), everywhere))
        batches = batch_source(windows, run.batch_size, run.seed, mesh)
        return Training([run], draw(np.uint32(run.seed)), step, batches)

    return begin


def together(runs: Sequence[TrainConfig], windows: SlidingWindows, shardings: Any) -> Training:
    """All lanes in one program, in even parts on as many devices as there can be.

    In the end, each lies where `shardings` have the state of one.
    """
    count = shares(len(runs))
    mesh = jax.make_mesh((count,), ("lanes",), (AxisType.Auto,), devices=jax.devices()[:count])
    across, size = NamedSharding(mesh, PartitionSpec("lanes")), runs[0].batch_size

    def stack(trees: Sequence[Any]) -> Any:
        return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *trees), across)

    def batch_at(row: int) -> Any:
        batches = {seed: windows.batch(row, size, seed=seed) for seed in {x.seed for x in runs}}
        return stack([tuple(batches[run.seed]) for run in runs])

    def states(stacked: TrainState) -> list[TrainState]:
        lanes = (jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(runs)))
        return [jax.device_put(lane, shardings) for lane in lanes]

    draw = jax.jit(jax.vmap(partial(initial_state, runs[0])), out_shardings=across)
    seeds = np.array([run.seed for run in runs], np.uint32)
    step = jax.vmap(numbered_step(runs[0], pretraining_loss), in_axes=(0, 0, None, 0))
    program = jax.jit(step, donate_argnums=0, out_shardings=across)
    step_fn = CompiledStep(program, stack([step_numbers(run) for run in runs]))
    return Training(runs, draw(seeds), step_fn, batch_at, states)


def shares(count: int) -> int:
    """The most devices among which `count` lanes can be shared evenly."""
    return max(n for n in range(1, jax.device_count() + 1) if count % n == 0)
