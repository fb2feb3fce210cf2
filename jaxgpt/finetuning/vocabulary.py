"""New special tokens for a trained model, whose old logits stay what they were."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgpt.errors import DataError
from jaxgpt.finetuning.templates import PromptTemplate
from jaxgpt.tokenization.deferred_tokenizer import DeferredGPT2
from jaxgpt.tokenization.json_tokenizer import JsonTokenizer
from jaxgpt.tokenization.tokenizer import BPETokenizer, Tokenizer
from jaxgpt.training.checkpoint import LoadedModel


def has_special_markers(template: PromptTemplate, tokenizer: Tokenizer) -> bool:
    """Whether each of the template's markers holds a token that no user's text is encoded to."""
    names = template.special_tokens
    return bool(names) and set(names) <= set(getattr(tokenizer, "special_tokens", ()))


_SPREAD = 0.1
_UNIT = 64


def grow_vocabulary(model: LoadedModel, names: Sequence[str], *, seed: int = 0) -> LoadedModel:
    """The model with a special token for each of `names`; those that it has already are kept.

    The new ids follow the tokenizer's, and first take rows of the tables that were padding; only
    then do the tables grow. A new row is the mean of the old ones, so that a new token is about as
    likely as the average one (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"), and a tenth of a deviation as theirs, so that no two are alike.

    Old rows are copied. Where no table grows, old logits are bit for bit what they were. Where the
    tied table grows, they are so on a CPU: XLA orders the terms of that product's sums by its width
    modulo 64, so tables grow by 64 rows at a time, those without a token being padding. With a head
    of its own, and on other devices, the last bits may then differ; such a model can be pretrained
    with rows to spare, by a `vocab_size` above the tokenizer's. Raises DataError for a tokenizer
    that cannot grow, and as `BPETokenizer.with_special_tokens` does.
    """
    if not names:
        return model
    if not isinstance(model.tokenizer, BPETokenizer | JsonTokenizer | DeferredGPT2):
        raise DataError(
            f"tokenizer {model.tokenizer.name} cannot take the special token {names[0]}; only "
            "byte-pair vocabularies grow: pretrain with gpt2 or bpe:N, or choose a template "
            "without special tokens, such as alpaca"
        )
    tokenizer = model.tokenizer.with_special_tokens(names)
    size = model.config.vocab_size
    size += -(-max(tokenizer.vocab_size - size, 0) // _UNIT) * _UNIT
    config = replace(model.config, vocab_size=size)
    end = tokenizer.vocab_size if size == model.config.vocab_size else size
    fill = partial(_fill, begin=model.tokenizer.vocab_size, end=end)
    embed_key, head_key = jax.random.split(jax.random.key(seed))
    embed = model.params["embed"]
    params = model.params | {"embed": embed | {"tokens": fill(embed["tokens"], key=embed_key)}}
    if not config.tie_head:
        params["head"] = {"weight": fill(params["head"]["weight"].T, key=head_key).T}
    train = replace(model.train_config, model=config)
    return replace(model, config=config, params=params, tokenizer=tokenizer, train_config=train)


def _fill(table: Float[Array, "V D"], *, begin: int, end: int, key: PRNGKeyArray) -> Array:
    """The table with new rows from `begin` to `end`, made from those before."""
    old = table[:begin].astype(jnp.float32)
    mean = old.mean(axis=0)
    noise = jax.random.normal(key, (end - begin, begin), jnp.float32) / math.sqrt(begin)
    new = mean + _SPREAD * noise @ (old - mean)
    return jnp.concatenate([table[:begin], new.astype(table.dtype), table[end:]])
