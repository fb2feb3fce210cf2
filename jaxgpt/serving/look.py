"""A look inside a model as it reads a text: what surprises it, and where each head looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jaxgpt.config import ModelConfig
from jaxgpt.fields import check_range
from jaxgpt.generation.prepared_params import DecodingParams, prepare_params
from jaxgpt.generation.text import LanguageModel
from jaxgpt.model.activations import activations
from jaxgpt.model.gpt import GPT

MOST_TOKENS = 1024
"""Tokens of a text that are looked at, its last ones: attention weights take T^2 of memory."""


@dataclass(frozen=True)
class Look:
    """Look inside a model at the last token of a text of T tokens."""

    tokens: tuple[int, ...]
    """The text, up to the token that is looked from."""
    left_out: int
    """How many tokens stood before these; all is computed without them."""
    surprise: Float32[np.ndarray, " T"]
    """Bits by which each token surprised the model, -log2 of its probability; NaN for the first."""
    attention: Float32[np.ndarray, "L H T"]
    """What share of its attention each head of each layer gave to each token."""


def look_inside(model: LanguageModel, text: Sequence[int]) -> Look:
    """Look inside `model` at the last token of `text`.

    Of a text beyond `MOST_TOKENS`, the end alone is read, as if it began there. One program of one
    shape serves every text. Parameters that were not prepared for decoding are prepared each time
    anew. Raises ConfigError for a text that is empty or longer than the context, or an id that is
    no token.
    """
    config = model.config
    vocab_size = min(model.tokenizer.vocab_size, config.vocab_size)
    check_range("the number of tokens of the text", len(text), 1, config.context_length)
    for token in text:
        check_range("a token's id", token, 0, vocab_size - 1)
    room = min(config.context_length, MOST_TOKENS)
    shown = text[-room:]
    padded = np.zeros(room, np.int32)
    padded[: len(shown)] = shown
    params = prepare_params(model.params).for_rows(config, rows=1)
    last = np.int32(len(shown) - 1)
    found = jax.device_get(_look(params, padded, last, config=config, vocab_size=vocab_size))
    surprise, attention = (array[..., : len(shown)] for array in found)
    return Look(tuple(shown), len(text) - len(shown), surprise, attention)


@partial(jax.jit, static_argnames=("config", "vocab_size"))
def _look(
    params: DecodingParams,
    tokens: Int[Array, " T"],
    last: Int[Array, ""],
    *,
    config: ModelConfig,
    vocab_size: int,
) -> tuple[Float[Array, " T"], Float[Array, "L H T"]]:
    """Surprise of each token in bits, and the attention paid by token `last`."""
    layers = [f"blocks.{i}.attn.weights" for i in range(config.num_layers)]
    model = GPT(config, params.as_params())
    found = activations(model, tokens[None], ["logits", *layers])
    logits = found["logits"][0, :-1, :vocab_size].astype(jnp.float32)
    chances = jax.nn.log_softmax(logits)  # of the tokens that can be written, as answers say it
    bits = -jnp.take_along_axis(chances, tokens[1:, None], axis=1)[:, 0] / jnp.log(2.0)
    attention = jnp.stack([found[name][0, :, last] for name in layers]).astype(jnp.float32)
    return jnp.concatenate([jnp.full(1, jnp.nan), bits]), attention
