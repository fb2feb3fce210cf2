"""New special tokens for a trained model, whose old logits stay what they were."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgpt.data.tokenizer import BPETokenizer
from jaxgpt.errors import DataError
from jaxgpt.training.checkpoint import LoadedModel

_SPREAD = 0.1


def grow_vocabulary(model: LoadedModel, names: Sequence[str], *, seed: int = 0) -> LoadedModel:
    """The model with a special token for each of `names`; those that it has already are kept.

    The new ids follow the tokenizer's, and first take rows of the tables that were padding; only
    then do the tables grow. A new row is the mean of the old ones, so that a new token is about as
    likely as the average one (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"), and a tenth of a deviation as theirs, so that no two are alike.

    Old rows are copied, so old logits are the same sums of the same terms. Where no table grows,
    they are bit for bit what they were. Where one does, XLA may add the terms up in another order,
    which it chooses by the shape; the last bits can then differ. A model that is to grow can be
    trained with a few rows to spare, by a `vocab_size` above the tokenizer's.

    Raises:
        DataError: a name for a tokenizer that cannot grow; see `BPETokenizer.with_special_tokens`.
    """
    if not names:
        return model
    if not isinstance(model.tokenizer, BPETokenizer):
        raise DataError(
            f"tokenizer {model.tokenizer.name} cannot take the special token {names[0]}; only "
            "byte-pair vocabularies grow: pretrain with gpt2 or bpe:N, or choose a template "
            "without special tokens, such as alpaca"
        )
    tokenizer = model.tokenizer.with_special_tokens(names)
    config = replace(model.config, vocab_size=max(model.config.vocab_size, tokenizer.vocab_size))
    fill = partial(_fill, begin=model.tokenizer.vocab_size, end=tokenizer.vocab_size)
    embed_key, head_key = jax.random.split(jax.random.key(seed))
    embed = model.params["embed"]
    params = model.params | {"embed": embed | {"tokens": fill(embed["tokens"], key=embed_key)}}
    if not config.tie_head:
        params["head"] = {"weight": fill(params["head"]["weight"].T, key=head_key).T}
    return replace(
        model,
        config=config,
        params=params,
        tokenizer=tokenizer,
        train_config=replace(model.train_config, model=config),
    )


def _fill(table: Float[Array, "V D"], *, begin: int, end: int, key: PRNGKeyArray) -> Array:
    """The table with new rows from `begin` to `end`, made from those before."""
    old = table[:begin].astype(jnp.float32)
    mean = old.mean(axis=0)
    noise = jax.random.normal(key, (end - begin, begin)) / math.sqrt(begin)
    new = mean + _SPREAD * noise @ (old - mean)
    return jnp.concatenate([table[:begin], new.astype(table.dtype), table[end:]])
