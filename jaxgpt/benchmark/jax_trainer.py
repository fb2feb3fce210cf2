"""jaxgpt's side: the step that `pretrain` jits, fed as `fit` feeds it."""

import time
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax.sharding import AxisType

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import Batch
from jaxgpt.model.layers import Params
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import batch_sharding, state_shardings
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.plan import peak_of
from jaxgpt.training.program import Program
from jaxgpt.training.step import init_state


class JaxTrainer:
    """Trains on the first device."""

    def __init__(self, config: TrainConfig, params: Params):
        axes, automatic = ("data", "fsdp"), (AxisType.Auto, AxisType.Auto)
        mesh = jax.make_mesh((1, 1), axes, automatic, devices=jax.devices()[:1])
        begin = partial(init_state, optimizer=make_optimizer(config.optimizer, config.steps))
        shardings = state_shardings(jax.eval_shape(begin, params), mesh)
        params = jax.device_put(params, shardings.params)
        self._state = jax.jit(begin, out_shardings=shardings)(params)
        self._step = make_step(config, mesh)
        self._sharding = batch_sharding(mesh)
        self._number = 0

    def compile(self, batch: Batch) -> tuple[float, int]:
        """Compile the step before it runs: seconds that took, and a device's most bytes in it."""
        began = time.perf_counter()
        program = self._lower(batch).compile()
        seconds = time.perf_counter() - began
        self._step = replace(self._step, program=program)
        return seconds, peak_of(program)

    @property
    def state_bytes(self) -> int:
        """Of parameters and optimizer."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._state))

    def bytes_moved(self, batch: Batch) -> int:
        """Bytes that a step reads and writes in memory, by the text of its compiled program."""
        program = Program(self._lower(batch).compile().as_text() or "")
        return sum(count for _, count in program.moves())

    def instructions(self, batch: Batch) -> int:
        """Lines of the step's program, before it is compiled."""
        return len(self._lower(batch).as_text().splitlines())

    def run(self, batches: list[Batch]) -> list[float]:
        """Take a step on each batch, wait for the last, and return the losses."""
        losses = []
        for batch in batches:
            arrays = self._put(batch)
            self._state, metrics = self._step(self._state, arrays, np.int32(self._number))
            self._number += 1
            losses.append(metrics["loss"])
        jax.block_until_ready(self._state)
        return [float(loss) for loss in jax.device_get(losses)]

    def _put(self, batch: Batch) -> tuple[jax.Array, ...]:
        return jax.device_put((batch.inputs, batch.targets), self._sharding)

    def _lower(self, batch: Batch) -> jax.stages.Lowered:
        return self._step.lower(self._state, self._put(batch), np.int32(0))
