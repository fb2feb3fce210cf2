"""jaxgpt's side: the step that `pretrain` jits, fed as `fit` feeds it."""

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

    def run(self, batches: list[Batch]) -> list[float]:
        """Take a step on each batch, wait for the last, and return the losses."""
        losses = []
        for batch in batches:
            arrays = jax.device_put((batch.inputs, batch.targets), self._sharding)
            self._state, metrics = self._step(self._state, arrays, np.int32(self._number))
            self._number += 1
            losses.append(metrics["loss"])
        jax.block_until_ready(self._state)
        return [float(loss) for loss in jax.device_get(losses)]
