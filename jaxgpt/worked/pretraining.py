"""Losses of an untrained model, and how a token is drawn from logits (chapter 5)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.generation.sampling import SamplingConfig, filter_logits
from jaxgpt.model.gpt import GPT
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.tokenization.tokenizer import BPETokenizer
from jaxgpt.training.evaluation import total_loss
from jaxgpt.training.loss import cross_entropy, next_token_loss
from jaxgpt.training.step import eval_step
from jaxgpt.worked.examples import EXAMPLES, Given, example

_INPUTS = np.array([[16833, 3626, 6100], [40, 1107, 588]])
_TARGETS = np.array([[3626, 6100, 345], [1107, 588, 11311]])
# closer every effort forward inches moves pizza toward you
_TOY_LOGITS = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]


def _logits(given: Given) -> jax.Array:
    def compute() -> jax.Array:
        config, params, _ = given.gpt2(context_length=256)
        return GPT(config, params)(jnp.asarray(_INPUTS))

    return given.once("logits", compute)


def _target_log_probabilities(given: Given) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(_logits(given))
    return jnp.take_along_axis(log_probabilities, _TARGETS[..., None], axis=-1)[..., 0]


@example("ch05.loss")
def _loss_of_batch(given: Given) -> Any:
    nats, count = cross_entropy(_logits(given), jnp.asarray(_TARGETS))
    return nats / count


def _splits(given: Given) -> tuple[np.ndarray, np.ndarray]:
    cut = int(0.9 * len(given.story))
    train, validation = map(given.tokenizer.encode, (given.story[:cut], given.story[cut:]))
    return np.array(train, np.int32), np.array(validation, np.int32)


@example("ch05.split_tokens")
def _tokens_by_split(given: Given) -> Any:
    train, validation = (SlidingWindows(split, 256) for split in _splits(given))
    return {"train": len(train) // 2 * 2 * 256, "validation": len(validation) * 256}


@example("ch05.initial_losses")
def _losses_before_training(given: Given) -> Any:
    """The mean loss of each split; windows of one length, so that no order changes it."""
    config, params, _ = given.gpt2(context_length=256)
    measure = jax.jit(partial(eval_step, loss_fn=next_token_loss(config)))

    def loss(split: np.ndarray) -> float:
        windows = SlidingWindows(split, 256)
        pairs = (windows.window(np.arange(i, i + 2)) for i in range(0, len(windows), 2))
        nats, count = total_loss(measure, params, pairs)
        return nats / count

    train, validation = _splits(given)
    return {"train": loss(train), "validation": loss(validation)}


@example("ch05.topk3")
def _top_three(given: Given) -> Any:
    logits = jnp.array([_TOY_LOGITS])
    config = SamplingConfig(temperature=1.0, top_k=3)
    kept = filter_logits(logits, config, jnp.zeros_like(logits, dtype=bool))[0]
    values, positions = jax.lax.top_k(kept, 3)
    return {"values": values, "positions": positions, "probas": jax.nn.softmax(kept)}


@example("ch05.multinomial")
def _draws_by_temperature(given: Given) -> Any:
    def histogram(temperature: float) -> Any:
        generator = TorchGenerator(123)
        chances = np.asarray(jax.nn.softmax(jnp.array(_TOY_LOGITS) / temperature))
        draws = [int(generator.multinomial(chances)[0]) for _ in range(1000)]
        return np.bincount(draws, minlength=len(chances))

    return {name: histogram(float(name)) for name in ("1", "0.1", "5")}


@example("ch05.extend_tokenizer")
def _tokenizer_with_new_tokens(given: Given) -> Any:
    base: Any = given.tokenizer
    added = {"MyNewToken_1": base.vocab_size, "MyNewToken_2": base.vocab_size + 1}
    specials = base.special_tokens | added
    extended = BPETokenizer("gpt2-extended", base.pattern, base.ranks, specials)
    text = "Hello, MyNewToken_1 is a new token. <|endoftext|>"
    sample = "Sample text with MyNewToken_1 and MyNewToken_2. <|endoftext|>"
    return {
        "base": base.encode(text, allow_special=True),
        "extended_example": extended.encode(sample, allow_special=True),
        "emb_rows": extended.vocab_size,
    }


EXAMPLES |= {
    "ch05.argmax": lambda given: _logits(given).argmax(-1),
    "ch05.probas": lambda given: jnp.exp(_target_log_probabilities(given)),
    "ch05.log_probas": lambda given: _target_log_probabilities(given).ravel(),
    "ch05.perplexity": lambda given: jnp.exp(_loss_of_batch(given)),
    "ch05.toy_logits": lambda given: _TOY_LOGITS,
}
