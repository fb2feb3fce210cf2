"""The GPT model from its parts (chapter 4)."""

import copy
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.settings import SamplingConfig
from jaxgpt.model.activations import intervene
from jaxgpt.model.embedding import embed
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import gelu, layer_norm, linear
from jaxgpt.model.parameters import count_parameters
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.presets import PRESETS
from jaxgpt.worked.examples import EXAMPLES, GPT2_SMALL, Given, example, on_device

_TEXTS = ("Every effort moves you", "Every day holds a")
_BOOK_SIZES = {"small": "gpt2", "medium": "gpt2-medium", "large": "gpt2-large", "xl": "gpt2-xl"}


@example("ch04.batch")
def _two_texts(given: Given) -> Any:
    return np.array([given.tokenizer.encode(text) for text in _TEXTS], np.int32)


def ends(logits: jax.Array) -> jax.Array:
    """The first and the last three columns, which is what is printed of a wide array."""
    return jnp.concatenate([logits[..., :3], logits[..., -3:]], axis=-1)


@example("ch04.dummy.logits")
def _logits_without_blocks(given: Given) -> Any:
    """The model's shell, without blocks or norm, in training mode."""
    generator = TorchGenerator(123)
    tokens, positions = (on_device(generator.embedding(rows, 768)) for rows in (50257, 1024))
    head = on_device(generator.linear(768, 50257, bias=False))
    x = embed(jnp.asarray(_two_texts(given)), tokens_table=tokens, positions_table=positions)
    logits = linear(jnp.asarray(generator.dropout(x, 0.1)), **head)
    return {"cols[0:3],[-3:]": ends(logits)}


@example("ch04.layer25")
def _outputs_of_layer(given: Given) -> Any:
    generator = TorchGenerator(123)
    x = on_device(generator.randn(2, 5))
    return jax.nn.relu(linear(x, **on_device(generator.linear(5, 6))))


@example("ch04.layer25.moments")
def _moments_of_layer(given: Given) -> Any:
    out = _outputs_of_layer(given)
    return {"mean": out.mean(-1), "variance": out.var(-1, ddof=1)}


@example("ch04.layer_norm.moments")
def _moments_after_layer_norm(given: Given) -> Any:
    x = on_device(TorchGenerator(123).randn(2, 5))
    normed = layer_norm(x, scale=jnp.ones(5), bias=jnp.zeros(5))
    return {"mean": normed.mean(-1), "variance": normed.var(-1)}


def _shortcut_gradients(shortcut: bool) -> list[float]:
    """The mean size of each layer's weight gradient in a chain of five, the last one narrow."""
    generator = TorchGenerator(123)
    layers = on_device([generator.linear(*sizes) for sizes in pairwise([3, 3, 3, 3, 3, 1])])

    def loss(layers: list[Any]) -> jax.Array:
        x = jnp.array([[1.0, 0.0, -1.0]])
        for layer in layers:
            out = gelu(linear(x, **layer), "tanh")
            x = x + out if shortcut and x.shape == out.shape else out
        return jnp.square(x).mean()  # the target is 0

    return [float(jnp.abs(layer["weight"]).mean()) for layer in jax.grad(loss)(layers)]


def _sizes(preset: str) -> dict[str, Any]:
    shape = PRESETS[preset].model
    shape = {name: getattr(shape, name) for name in ("num_layers", "num_heads", "embed_dim")}
    tied, untied = (
        count_parameters(ModelConfig(**shape, qkv_bias=False, tie_head=tie))
        for tie in (True, False)
    )
    return {"untied": untied, "tied": tied, "MB_fp32": round(untied * 4 / 2**20, 2)}


for _size, _preset in _BOOK_SIZES.items():
    example(f"ch04.params.{_size}")(lambda given, preset=_preset: _sizes(preset))


@example("ch04.params.block")
def _parameters_of_block(given: Given) -> dict[str, int]:
    one, two = (
        count_parameters(ModelConfig(num_layers=n, qkv_bias=False, tie_head=False)) for n in (1, 2)
    )
    attention, norms = 3 * 768**2 + 768**2 + 768, 4 * 768
    return {"feed_forward": two - one - attention - norms, "attention": attention}


@example("ch04.gpt.logits_train_mode")
def _logits_in_training(given: Given) -> Any:
    tokens = _two_texts(given)
    config, params, generator = given.gpt2()
    # The masks come from the stream that built the model, so it has to be where that left it.
    drop = copy.deepcopy(generator)
    points = ["embed", "*.attn.weights", "*.attn.out", "*.mlp.out"]
    dropped = dict.fromkeys(points, lambda x: jnp.asarray(drop.dropout(x, GPT2_SMALL.dropout)))
    logits = intervene(GPT(config, params), jnp.asarray(tokens), dropped)
    return {"cols[0:3],[-3:]": ends(logits)}


@example("ch04.generate.greedy")
def _greedy_tokens(given: Given) -> Any:
    config, params, _ = given.gpt2()
    prompt = given.tokenizer.encode("Hello, I am")
    greedy = SamplingConfig(temperature=0.0)
    return prompt + generate(config, params, [prompt], max_new_tokens=10, sampling=greedy)[0]


EXAMPLES |= {
    "ch04.shortcut.without": lambda given: _shortcut_gradients(False),
    "ch04.shortcut.with": lambda given: _shortcut_gradients(True),
    "ch04.params.gpt2_qkv_bias": lambda given: count_parameters(ModelConfig(tie_head=False)),
}
