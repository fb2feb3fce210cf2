"""The validation loss of pretraining, by the loss that is trained on."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.training.evaluation import total_loss
from jaxgpt.training.loss import LossFunction, pretraining_loss
from jaxgpt.training.mesh import batch_sharding, on_mesh
from jaxgpt.training.run_card import entropy_per_byte
from jaxgpt.training.step import TrainState, eval_step


def validation(
    config: TrainConfig,
    dataset: TokenDataset,
    windows: SlidingWindows,
    mesh: Mesh,
    make_loss: Callable[[TrainConfig], LossFunction] = pretraining_loss,
) -> Callable[[TrainState], dict[str, float]]:
    """Validation loss in nats per target, and in bits per byte beside the entropy where known.

    The bits are those of the next token, whatever the loss that `make_loss` gives.
    """
    tokens_per_byte = dataset.split("validation").tokens_per_byte
    sharding, floor = batch_sharding(mesh), entropy_per_byte(dataset)

    def mean_loss(make_loss: Callable[[TrainConfig], LossFunction]) -> Callable[..., float]:
        measure = jax.jit(on_mesh(partial(eval_step, loss_fn=make_loss(config)), mesh))

        def mean(state: TrainState) -> float:
            batches = windows.in_order(config.batch_size // config.gradient_accumulation)
            some = itertools.islice(batches, config.evaluation_batches or None)
            nats, count = total_loss(measure, state.params, some, sharding)
            return nats / count

        return mean

    own = mean_loss(make_loss)
    standard = None if make_loss is pretraining_loss else mean_loss(pretraining_loss)

    def evaluate(state: TrainState) -> dict[str, float]:
        loss = own(state)
        bits = (standard(state) if standard else loss) / math.log(2) * tokens_per_byte
        measured = {"validation_loss": loss, "validation_bits_per_byte": bits}
        return measured if floor is None else measured | {"entropy_bits_per_byte": floor}

    return evaluate
