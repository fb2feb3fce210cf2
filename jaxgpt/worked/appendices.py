"""A gradient, a small network and its training (appendix A); the learning rate (appendix D)."""

from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxgpt.model.layers import linear
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.loss import cross_entropy
from jaxgpt.training.optimizer import learning_rate
from jaxgpt.worked.examples import EXAMPLES, Given, count, example, on_device

_X = jnp.array([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
_Y = jnp.array([0, 0, 0, 1, 1])


@example("appA.grads")
def _gradients_of_logistic_loss(given: Given) -> Any:
    def loss(weight: Any, bias: Any) -> jax.Array:
        return -jax.nn.log_sigmoid(1.1 * weight + bias)  # the label is 1

    return jax.grad(loss, argnums=(0, 1))(2.2, 0.0)


def _network(generator: TorchGenerator, inputs: int, outputs: int) -> list[Any]:
    sizes = pairwise([inputs, 30, 20, outputs])
    return [on_device(generator.linear(*size)) for size in sizes]


def _apply(layers: list[Any], x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(linear(x, **layer))
    return linear(x, **layers[-1])


@example("appA.w0")
def _first_weight(given: Given) -> Any:
    weight = _network(TorchGenerator(123), 50, 3)[0]["weight"].T  # as PyTorch prints it
    ends = np.concatenate([weight[:, :3], weight[:, -3:]], axis=1)
    return {"[0]": ends[0], "[1]": ends[1], "[-1]": ends[-1]}


@example("appA.loader_order")
def _orders_of_two_epochs(given: Given) -> Any:
    generator = TorchGenerator(123)
    return [generator.loader_order(5), generator.loader_order(5)[:4]]


@cache
def _trained() -> tuple[jax.Array, list[float]]:
    """The network's outputs after three epochs of plain gradient descent, and each step's loss."""
    generator = TorchGenerator(123)
    layers, losses = _network(generator, 2, 2), []

    def mean_loss(layers: list[Any], rows: Any) -> jax.Array:
        nats, count = cross_entropy(_apply(layers, _X[rows]), _Y[rows])
        return nats / count

    for _ in range(3):
        for rows in generator.loader_order(5)[:4].reshape(2, 2):
            loss, grads = jax.value_and_grad(mean_loss)(layers, rows)
            steps = jax.tree.map(partial(jnp.multiply, -0.5), grads)
            layers: Any = optax.apply_updates(layers, steps)
            losses.append(float(loss))
    return _apply(layers, _X), losses


@example("appD.lr_schedule")
def _learning_rates(given: Given) -> Any:
    ends: Any = {"initial_learning_rate": 1e-5, "final_learning_rate": 1e-5}
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=27, schedule="cosine", **ends)
    with jax.enable_x64(True):  # the fact is a closed form in float64
        rate = learning_rate(config, 135)
        return {step: rate(jnp.asarray(step)) for step in (0, 1, 26, 27, 81, 134)}


EXAMPLES |= {
    "appA.params": lambda given: count(_network(TorchGenerator(123), 50, 3)),
    "appA.params_toy": lambda given: count(_network(TorchGenerator(123), 2, 2)),
    "appA.losses": lambda given: _trained()[1],
    "appA.outputs": lambda given: _trained()[0],
    "appA.probas": lambda given: jax.nn.softmax(_trained()[0]),
}
